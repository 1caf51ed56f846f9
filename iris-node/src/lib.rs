//! The node: wraps a model server that its owner runs anyway and offers it to a network.

pub mod agent;
pub mod backend;
pub mod slots;
pub mod speed;
