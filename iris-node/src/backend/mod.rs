//! Implementations of [`Backend`](iris_core::backend::Backend).

#[cfg(feature = "engine")]
pub mod engine;
pub mod on_demand;
#[cfg(feature = "openai")]
pub mod openai;
pub mod together;
