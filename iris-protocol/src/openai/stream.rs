use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Extra, Hidden, Names, Role, Usage, null_as_default};

/// One event of a streamed answer of `POST /v1/chat/completions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletionChunk {
    /// Names the answer; the same in all its chunks.
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    /// Always `chat.completion.chunk`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub object: String,
    /// When the answer was begun, in seconds since the Unix epoch.
    #[serde(default, deserialize_with = "null_as_default")]
    pub created: u64,
    /// The model, by the name that the request used.
    #[serde(default, deserialize_with = "null_as_default")]
    pub model: String,
    /// What each choice continues with; empty in the chunk that tells the usage.
    #[serde(default, deserialize_with = "null_as_default")]
    pub choices: Vec<ChunkChoice>,
    /// Tokens used, in the last chunk, where the request asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ChatCompletionChunk {
    /// Makes a chunk with `choices`.
    pub fn new(
        id: impl Into<String>,
        created: u64,
        model: impl Into<String>,
        choices: Vec<ChunkChoice>,
    ) -> Self {
        Self {
            id: id.into(),
            object: "chat.completion.chunk".to_owned(),
            created,
            model: model.into(),
            choices,
            usage: None,
            extra: Extra::new(),
        }
    }

    /// Returns the text that the first choice continues with; empty when it has none.
    pub fn text(&self) -> &str {
        let first = self.choices.iter().find(|choice| choice.index == 0);
        first.and_then(|choice| choice.delta.content.as_deref()).unwrap_or("")
    }

    /// Returns why the first choice ended, in the chunk that ends it.
    pub fn finish_reason(&self) -> Option<&str> {
        let first = self.choices.iter().find(|choice| choice.index == 0);
        first.and_then(|choice| choice.finish_reason.as_deref())
    }
}

/// What one choice continues with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    /// Which choice.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: u32,
    /// What is added.
    #[serde(default, deserialize_with = "null_as_default")]
    pub delta: Delta,
    /// Log probabilities, where asked for.
    #[serde(default)]
    pub logprobs: Option<Value>,
    /// Why the choice ended; null until its last chunk.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What is added to a message.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Who speaks, in the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of why the model would not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// More of the calls of tools.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
    /// Everything else, such as `reasoning_content`.
    #[serde(flatten)]
    pub extra: Extra,
}

impl fmt::Debug for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delta")
            .field("role", &self.role)
            .field("content", &self.content.as_deref().map(Hidden))
            .field("tool_calls", &self.tool_calls.len())
            .field("extra", &Names(&self.extra))
            .finish_non_exhaustive()
    }
}

/// More of one call of a tool: its first piece has id and name, later ones only arguments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which call.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: u32,
    /// Names the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, as far as is known.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// More of what is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionCallDelta>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// More of a function's name and arguments.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCallDelta {
    /// The function's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments' JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

impl fmt::Debug for FunctionCallDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionCallDelta")
            .field("name", &self.name)
            .field("arguments", &self.arguments.as_deref().map(Hidden))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finish_reason_is_written_as_null_until_the_last_chunk() {
        let delta = Delta { content: Some("a".to_owned()), ..Default::default() };
        let choice = ChunkChoice { delta, ..Default::default() };
        let chunk = ChatCompletionChunk::new("chatcmpl-1", 7, "m", vec![choice]);
        assert_eq!(
            serde_json::to_string(&chunk).unwrap(),
            concat!(
                r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m","#,
                r#""choices":[{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}]}"#
            )
        );
    }

    #[test]
    fn chunks_of_tools_usage_and_nulls_are_read() {
        let json = r#"{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":null,
            "tool_calls":[{"index":1,"function":{"arguments":"{\"a"}}]}}],"usage":null}"#;
        let chunk: ChatCompletionChunk = serde_json::from_str(json).unwrap();
        assert_eq!((chunk.text(), chunk.finish_reason()), ("", None));
        assert_eq!(chunk.choices[0].delta.tool_calls[0].index, 1);
        let last =
            r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
        let last: ChatCompletionChunk = serde_json::from_str(last).unwrap();
        assert_eq!(last.usage.unwrap().total_tokens, 2);
    }
}
