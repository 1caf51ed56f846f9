//! Contracts of the traits, as functions (async where the trait waits) that an implementer runs
//! in their own tests.
//!
//! Each function panics with the clause that was broken.

pub mod backend;
pub mod reputation;
pub mod scheduler;
pub mod store;
