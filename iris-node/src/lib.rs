//! The node: wraps a model server that its owner runs anyway and offers it to a network.
//!
//! An [`Agent`](agent::Agent) connects [backends](backend) to a coordinator. Features bring the
//! backends in: `openai` forwards to a model server, `engine` runs models in this process, and any
//! other implementation of [`Backend`](iris_core::backend::Backend) serves as well. `llama-cpp` lets
//! llama.cpp run what the engine's own layers do not know; it needs cmake and clang. `sandbox` starts
//! model servers and looks after them, `cache` downloads model files, `history` keeps what the node has
//! done, `cli` is what the `iris-node` command needs, and `status` what its view in a terminal does.

pub mod agent;
pub mod backend;
mod backoff;
#[cfg(feature = "cache")]
pub mod cache;
pub mod datasets;
#[cfg(feature = "history")]
pub mod history;
pub mod limits;
pub mod probe;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod slots;
pub mod speed;
