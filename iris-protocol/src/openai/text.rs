use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Extra, Hidden, Usage, null_as_default};

/// An answer of `POST /v1/completions`, whole or, in a stream, one piece of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Names the answer, such as `cmpl-...`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    /// Always `text_completion`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub object: String,
    /// When the answer was begun, in seconds since the Unix epoch.
    #[serde(default, deserialize_with = "null_as_default")]
    pub created: u64,
    /// The model, by the name that the request used.
    #[serde(default, deserialize_with = "null_as_default")]
    pub model: String,
    /// The texts, one unless more were asked for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub choices: Vec<CompletionChoice>,
    /// Tokens used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Completion {
    /// Makes an answer with `choices`.
    pub fn new(
        id: impl Into<String>,
        created: u64,
        model: impl Into<String>,
        choices: Vec<CompletionChoice>,
    ) -> Self {
        Self {
            id: id.into(),
            object: "text_completion".to_owned(),
            created,
            model: model.into(),
            choices,
            usage: None,
            extra: Extra::new(),
        }
    }
}

/// One of the texts that continue a prompt.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// The text.
    #[serde(default, deserialize_with = "null_as_default")]
    pub text: String,
    /// Its place among the choices.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: u32,
    /// Log probabilities, where asked for.
    #[serde(default)]
    pub logprobs: Option<Value>,
    /// Why the text ended: `stop` or `length`; null before its last piece.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl fmt::Debug for CompletionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionChoice")
            .field("text", &Hidden(&self.text))
            .field("index", &self.index)
            .field("finish_reason", &self.finish_reason)
            .finish_non_exhaustive()
    }
}
