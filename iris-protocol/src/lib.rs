//! How nodes and coordinators talk.

pub mod connection;
pub mod frame;
pub mod limits;
pub mod message;
pub mod openai;
pub mod rest;
pub mod text;
pub mod transport;
pub mod version;

pub use frame::Frame;
