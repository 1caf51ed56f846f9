//! Running models: the trait, its inputs and outputs.
//!
//! A request travels as the JSON body its caller wrote, so that tools, schemas and parameters
//! this crate has never heard of reach the model's server unchanged. An answer travels as chunks
//! that hold only what differs from one chunk to the next; whoever faces the caller writes the
//! envelope around them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::model::{ModelName, ModelOffer};

mod scripted;

pub use scripted::{Counts, Gate, Script, ScriptedBackend, Step};

/// Turns prompts into tokens with the models of one server.
///
/// One backend serves several requests at once, from any task. Dropping a stream cancels its
/// generation; the model's server must be free again within a second.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Lists the models that would answer now without being loaded first.
    ///
    /// Called when the agent starts and every few seconds after that; must not load a model.
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>>;

    /// Returns whether a request may make the server load a model that it listed, since some
    /// servers list what they could load. Such a model is not tried out before it is asked for.
    /// Called after [`models`](Self::models). Default: no.
    fn may_load(&self) -> bool {
        false
    }

    /// Starts one generation and yields its chunks in order.
    ///
    /// The model is not contacted before the first poll. The stream ends after
    /// [`Chunk::Finished`] or after the first error, and stays ended when polled again; chunks
    /// already yielded stay valid.
    fn generate(&self, request: GenerateRequest)
    -> BoxStream<'static, Result<Chunk, BackendError>>;
}

/// Which OpenAI operation a request's body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completion,
    /// `POST /v1/embeddings`: the answer is one [`Chunk::Whole`] with `data`, never a stream. Only
    /// ever asked of a model that is offered with [`Abilities::EMBEDDINGS`].
    ///
    /// [`Abilities::EMBEDDINGS`]: crate::model::Abilities::EMBEDDINGS
    Embedding,
}

/// One generation that a backend is asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct GenerateRequest {
    /// What the body is.
    pub operation: Operation,
    /// The model to run; the same as the body's.
    pub model: ModelName,
    /// The caller's JSON body, a single object, unchanged.
    pub body: Bytes,
    /// Whether chunks are wanted as they come; otherwise one [`Chunk::Whole`].
    pub stream: bool,
    /// Time left for the whole generation.
    pub time_left: Duration,
    /// The beginning of the answer, which another backend wrote; only ever set for a streamed
    /// request and a model that is offered with [`Abilities::CONTINUE`].
    ///
    /// [`Abilities::CONTINUE`]: crate::model::Abilities::CONTINUE
    pub begun: Option<Begun>,
    /// Whether nothing of the request may be kept for others, such as a prompt cache: what is left
    /// of one caller's prompt shows in the times of another's.
    pub isolated: bool,
}

/// The beginning of an answer that its caller has already.
///
/// A backend that goes on from it yields what follows and nothing of the beginning, as if it had
/// written all of it: limits of length count the whole answer, and so does [`Finish::usage`].
/// What it cannot go on from it refuses with [`BackendError::Rejected`].
#[derive(Clone, PartialEq, Eq)]
pub struct Begun {
    /// The text of the first choice so far; never empty.
    pub text: String,
    /// How many tokens that is at least: the pieces in which it came.
    pub tokens: u32,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Answers never reach logs.
        f.debug_struct("Begun")
            .field("text", &format_args!("{} bytes", self.text.len()))
            .field("tokens", &self.tokens)
            .finish()
    }
}

impl fmt::Debug for GenerateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Prompts never reach logs.
        f.debug_struct("GenerateRequest")
            .field("operation", &self.operation)
            .field("model", &self.model)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("stream", &self.stream)
            .field("time_left", &self.time_left)
            .field("begun", &self.begun)
            .field("isolated", &self.isolated)
            .finish()
    }
}

/// One piece of an answer.
#[derive(Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Text that the first choice continues with; UTF-8, never empty.
    Text(String),
    /// Any other step of a streamed answer: a JSON object whose members (`choices`, and what the
    /// server adds beside it) belong into the caller's chunk as they are, without `id`,
    /// `object`, `created`, `model` and `usage`.
    Json(Bytes),
    /// A whole answer that was not streamed: a JSON object as the server wrote it, without `id`,
    /// `object`, `created` and `model`.
    Whole(Bytes),
    /// The end of a complete answer; always the last chunk.
    Finished(Finish),
}

impl Chunk {
    /// Returns how many bytes of an answer it holds.
    pub const fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Json(json) | Self::Whole(json) => json.len(),
            Self::Finished(_) => 0,
        }
    }

    /// Returns whether it holds nothing of an answer.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Answers never reach logs.
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Json(json) => write!(f, "Json({} bytes)", json.len()),
            Self::Whole(json) => write!(f, "Whole({} bytes)", json.len()),
            Self::Finished(finish) => f.debug_tuple("Finished").field(finish).finish(),
        }
    }
}

/// How a complete answer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// Why the first choice ended: `stop`, `length`, `tool_calls` or `content_filter`, or what
    /// else the server says.
    pub reason: String,
    /// Tokens read and written; zero where the server does not count. Of an answer that went on
    /// from a [`Begun`] one, the beginning counts as written.
    pub usage: Usage,
}

/// Tokens that one generation read and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
}

impl Usage {
    /// Returns the sum of both.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_add(other.completion_tokens),
        }
    }

    /// Tokens that a prompt may have beyond its bytes: what a model's template says of itself.
    pub const TEMPLATE: u32 = 256;
    /// Tokens that an answer may have beyond its bytes: those that end it, and that usages of sealed
    /// answers are rounded up to multiples of 64.
    pub const UNSEEN: u32 = 64;

    /// Returns what of it can be true of an exchange of so many bytes, whose answer was to have at
    /// most `max_tokens`; zero where nobody said how many.
    ///
    /// A node says itself how much it read and wrote. No token is less than a byte of what was
    /// sent, so what goes beyond the bytes, and a little for what models add, is left out. Tokens
    /// that were written but not sent, such as thoughts that a server keeps to itself, count no
    /// further than that. Sealed answers are padded, so their bytes bound little; what they were to
    /// have at most is told in the clear beside them, and bounds more.
    pub fn carried_by(self, prompt_bytes: u64, answer_bytes: u64, max_tokens: u32) -> Self {
        let most = |bytes: u64, more: u32| {
            u32::try_from(bytes.saturating_add(more.into())).unwrap_or(u32::MAX)
        };
        let asked = if max_tokens == 0 { u64::MAX } else { max_tokens.into() };
        let written = most(answer_bytes.min(asked), Self::UNSEEN);
        Self {
            prompt_tokens: self.prompt_tokens.min(most(prompt_bytes, Self::TEMPLATE)),
            completion_tokens: self.completion_tokens.min(written),
        }
    }

    /// Returns the tokens read and written together.
    pub const fn total(self) -> u32 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// Why a generation failed, and by whose fault.
///
/// The texts reach the caller, so they name neither addresses nor keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackendError {
    /// The server refused the request itself; another node would refuse it too.
    #[error("{message}")]
    Rejected {
        /// HTTP status, 400 to 499.
        status: u16,
        /// OpenAI's `code`, such as `context_length_exceeded`.
        code: Option<String>,
        /// OpenAI's `param`: which part of the request is meant.
        param: Option<String>,
        /// What is wrong, in the server's words.
        message: String,
    },
    /// The server does not have the model, or no longer.
    #[error("the model server does not offer this model")]
    ModelNotFound,
    /// The server cannot take another request now.
    #[error("the model server is busy")]
    Busy,
    /// The server cannot be reached, or refuses the agent's key.
    #[error("the model server cannot be reached")]
    Unavailable,
    /// The server failed while it worked.
    #[error("the model server failed")]
    Failed,
    /// The server answered something that is not an answer.
    #[error("the model server answered in a form that cannot be read")]
    Malformed,
    /// The time ran out before the answer was complete.
    #[error("the model server did not finish in time")]
    Timeout,
}

impl BackendError {
    /// Returns whether the request itself is at fault, so that no node could do better.
    pub const fn is_callers_fault(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_bounded_by_what_was_sent_and_by_what_was_asked_for() {
        let said = Usage { prompt_tokens: 1_000_000, completion_tokens: 1_000_000 };
        let bounded = |bytes, max_tokens| said.carried_by(100, bytes, max_tokens);
        assert_eq!(bounded(500, 0), Usage { prompt_tokens: 356, completion_tokens: 564 });
        assert_eq!(bounded(500, 10).completion_tokens, 74, "padding is no answer");
        assert_eq!(bounded(5, 10).completion_tokens, 69);
        assert_eq!(bounded(u64::MAX, u32::MAX).completion_tokens, 1_000_000);
        let honest = Usage { prompt_tokens: 20, completion_tokens: 64 };
        assert_eq!(honest.carried_by(100, 4096, 10), honest, "rounded up, as sealed usages are");
    }
}
