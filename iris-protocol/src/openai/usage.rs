use serde::{Deserialize, Serialize};

use super::null_as_default;

/// Tokens that a request read and wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(deserialize_with = "null_as_default")]
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    #[serde(deserialize_with = "null_as_default")]
    pub completion_tokens: u64,
    /// Both together.
    #[serde(deserialize_with = "null_as_default")]
    pub total_tokens: u64,
    /// What part of the prompt was cheap, where the server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// What part of the answer is not shown, where the server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

impl From<iris_core::backend::Usage> for Usage {
    fn from(usage: iris_core::backend::Usage) -> Self {
        let (prompt_tokens, completion_tokens) =
            (u64::from(usage.prompt_tokens), u64::from(usage.completion_tokens));
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            ..Self::default()
        }
    }
}

/// Splits the tokens of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptTokensDetails {
    /// Tokens found in the server's cache.
    #[serde(deserialize_with = "null_as_default")]
    pub cached_tokens: u64,
}

/// Splits the tokens of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompletionTokensDetails {
    /// Tokens spent on reasoning.
    #[serde(deserialize_with = "null_as_default")]
    pub reasoning_tokens: u64,
}
