//! Both ends of a connection, played against each other and against peers that break the rules.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;
mod pair;
mod resume;
mod rules;
