//! The OpenAI-compatible API's requests, answers and errors, as clients and the coordinator read
//! and write them.
//!
//! Reading is tolerant: a null stands for an absent value, and unknown members are kept in
//! `extra`, so what this version has never heard of still passes through. Writing is exact: the
//! members that OpenAI's own client libraries demand are always there. Texts of prompts and
//! answers do not appear in `Debug`.
//!
//! Whoever stands between caller and node, the coordinator or a local proxy, reads of a request
//! what [`Asked`] holds and writes the answer with [`Heading`] and [`EventWriter`], so that both
//! refuse the same requests in the same words and their answers look alike.

mod answer;
mod asked;
mod envelope;
mod error;
mod json;
mod judge;
mod message;
mod model;
mod preferences;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod properties;
mod refused;
mod repeatable;
mod request;
mod scores;
mod stream;
mod text;
mod unnamed;
mod usage;
mod values;

pub use answer::{AssistantMessage, ChatCompletion, Choice};
pub use asked::{Asked, DATASET, Turns, check_object};
pub use envelope::{EventWriter, Heading, InvalidChunk, write_error, write_keep_alive};
pub use error::{ErrorBody, ErrorDetail};
pub use judge::{judge_request, judged};
pub use message::{Content, FunctionCall, Message, Role, ToolCall};
pub use model::{Model, ModelList};
pub use preferences::{PREFERENCES, Preferences};
pub use refused::{Refused, RequestError, Retry};
pub use repeatable::{NotRepeatable, RepeatableChat, score_request};
pub use request::{ChatRequest, Stop, StreamOptions};
pub use scores::{AnswerToken, PromptScores, ScoresError, read_logprobs};
pub use stream::{ChatCompletionChunk, ChunkChoice, Delta, FunctionCallDelta, ToolCallDelta};
pub use text::{Completion, CompletionChoice};
pub use unnamed::{last_words, with_model};
pub use usage::{CompletionTokensDetails, PromptTokensDetails, Usage};
pub use values::count_values;

use std::fmt;

use serde::{Deserialize, Deserializer};

/// Members of a JSON object that have no field of their own.
pub type Extra = serde_json::Map<String, serde_json::Value>;

/// Reads null as the type's default.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Prints how long a text is, never the text.
struct Hidden<'a>(&'a str);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Prints the names of members, never their values.
struct Names<'a>(&'a Extra);

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
