//! TBD

pub mod openai;
pub mod rest;
