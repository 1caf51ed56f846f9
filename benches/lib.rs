//! What the small measurements and the table of the network measure alike.
#![forbid(unsafe_code)]

pub mod chart;
pub mod choice;
pub mod rows;
