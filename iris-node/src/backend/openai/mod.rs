//! Forwards to a model server that speaks the OpenAI API.
//!
//! LM Studio, Ollama, llama.cpp and vLLM are known by name; of any other server the plain model
//! list is read. Requests pass through unchanged but for what `request` removes, answers are
//! read by `reader`, failures by `failure`.
//!
//! # Answers that were begun elsewhere
//!
//! A chat gets the beginning as a last message by the assistant, a completion as the end of its
//! prompt. What is not one plain text is refused: several answers, schemas and grammars.
//!
//! | server | goes on | how it is asked |
//! |---|---|---|
//! | llama.cpp | from build 5300 on; measured | `continue_final_message`, `add_generation_prompt` |
//! | vLLM | by its documentation; not measured | the same |
//! | LM Studio, Ollama | not relied on: what a last message by the assistant does there depends on the model | |
//! | others | only when the backend was built with [`Abilities::CONTINUE`] | by the last message alone |
//!
//! Measured with `llama-server` 0.5.0-dev and the bundled model at temperature 0: 100 chats were
//! cut after each of their chunks, 1573 places in all. 1572 times the text that followed was what
//! the uncut answer says there; once, cut inside of a word, the word was spelt on in another way.
//! Without `continue_final_message` this server repeats the last message in its stream before it
//! goes on, all 188 times of 188; so whoever repeats a beginning is found out and refused.
//!
//! # Texts that are to be scored
//!
//! vLLM is offered with [`Abilities::SCORE`] by its documentation, since it knows `prompt_logprobs`;
//! the others are only when the backend was built with it. `prompt_logprobs` and what comes of it
//! pass as they are, so a server that does not know it answers without scores.
//!
//! [`Abilities::CONTINUE`]: iris_core::model::Abilities::CONTINUE
//! [`Abilities::SCORE`]: iris_core::model::Abilities::SCORE

use std::sync::{Arc, PoisonError};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest};
use iris_core::model::ModelOffer;

mod begun;
mod event;
mod failure;
mod generation;
mod http;
mod loading;
mod object;
mod probe;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod properties;
mod reader;
mod request;
mod server;
mod sse;

pub use loading::OpenAiLoader;
pub use server::{OpenAiBackendBuilder, OpenAiSetupError};

use server::Server;

/// A [`Backend`] that asks an OpenAI-compatible server.
///
/// Dropping an answer closes its connection, by which all known servers stop generating. Clones
/// share connections.
#[derive(Clone, Debug)]
pub struct OpenAiBackend {
    server: Arc<Server>,
}

impl OpenAiBackend {
    /// Starts building a backend for the server at `base_url`, with or without a trailing `/v1`:
    /// `http://localhost:1234` for LM Studio, `:11434` for Ollama, `:8080` for llama.cpp, `:8000`
    /// for vLLM.
    pub fn builder(base_url: impl Into<String>) -> OpenAiBackendBuilder {
        OpenAiBackendBuilder::new(base_url.into())
    }

    /// Returns how many requests the server works on at a time, if it said so when its models were
    /// last listed.
    pub fn slots(&self) -> Option<u32> {
        self.server.seen.lock().unwrap_or_else(PoisonError::into_inner).slots
    }
}

impl Backend for OpenAiBackend {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        probe::models(&self.server).boxed()
    }

    fn may_load(&self) -> bool {
        self.server.seen.lock().unwrap_or_else(PoisonError::into_inner).may_load()
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        generation::generate(Arc::clone(&self.server), request)
    }
}
