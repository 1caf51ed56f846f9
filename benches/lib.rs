//! What the small measurements and the table of the network measure alike.

pub mod chart;
pub mod choice;
pub mod rows;
