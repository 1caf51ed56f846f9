//! Implementations of [`Backend`](iris_core::backend::Backend).

#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "openai")]
pub mod openai;
