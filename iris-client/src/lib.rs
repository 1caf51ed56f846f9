//! A client of an Iris network.
//!
//! An Iris network answers prompts with models that run on machines of its members. This crate
//! asks it from Rust; the `iris` command (feature `cli`, on by default) asks it from a terminal.
//! Any other OpenAI-compatible program can do so too, at the coordinator's `/v1`.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let client = iris_client::Client::builder("https://iris.example")
//!     .with_api_key("iris_...")
//!     .build()?;
//! println!("{}", client.ask("some-model", "Why is the sky blue?").await?);
//! # Ok(())
//! # }
//! ```
//!
//! Streaming, and why an answer can be half there, is told by [`ChatStream`]; tasks that survive a
//! crash of the coordinator by [`Tasks`]; what can go wrong by [`ClientError`].
//!
//! # Retries
//!
//! Requests that may be repeated safely (lists, states and submissions of tasks, which carry an
//! idempotency key) are sent up to three times when the coordinator cannot be reached or answers
//! 408, 429 or 5xx without advising against it. Between them the client waits as long as the coordinator's `Retry-After` says,
//! else a fraction of a second, and never beyond its timeout. Chats, streams and new accounts and
//! keys are sent once: the coordinator itself tries other nodes before it refuses.

mod accounts;
mod answer;
mod builder;
mod chat;
#[cfg(feature = "cli")]
pub mod cli;
mod client;
mod error;
mod head;
mod log;
mod policy;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod properties;
#[cfg(feature = "proxy")]
pub mod proxy;
mod retry;
mod sealed;
#[cfg(feature = "cli")]
mod settings;
mod sse;
mod stream;
mod tasks;
pub mod trust;

pub use accounts::Accounts;
pub use answer::Answer;
pub use builder::{BuildError, ClientBuilder};
pub use chat::Ask;
pub use client::Client;
pub use error::{ClientError, Cut, Partial, Refusal};
pub use head::Head;
pub use log::Log;
pub use policy::{Policy, Privacy};
pub use sealed::{NoReceipt, PendingReceipt};
pub use sse::{EventTooLong, SseParser};
pub use stream::ChatStream;
pub use tasks::Tasks;

pub use iris_crypto::seal::{AnswerError, Shape, SignedReceipt};
pub use iris_protocol::{openai, rest};
