//! Contracts of the traits, as async functions that an implementer runs in their own tests.
//!
//! Each function panics with the clause that was broken.

pub mod backend;
pub mod store;
