use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Content, Extra, Hidden, Message, Names, Role, ToolCall, Usage, null_as_default};

/// A whole answer of `POST /v1/chat/completions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// Names the answer, such as `chatcmpl-...`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    /// Always `chat.completion`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub object: String,
    /// When the answer was begun, in seconds since the Unix epoch.
    #[serde(default, deserialize_with = "null_as_default")]
    pub created: u64,
    /// The model, by the name that the request used.
    #[serde(default, deserialize_with = "null_as_default")]
    pub model: String,
    /// The answers, one unless more were asked for.
    pub choices: Vec<Choice>,
    /// Tokens used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Everything else, such as `system_fingerprint`.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ChatCompletion {
    /// Makes an answer with `choices`.
    pub fn new(
        id: impl Into<String>,
        created: u64,
        model: impl Into<String>,
        choices: Vec<Choice>,
    ) -> Self {
        Self {
            id: id.into(),
            object: "chat.completion".to_owned(),
            created,
            model: model.into(),
            choices,
            usage: None,
            extra: Extra::new(),
        }
    }

    /// Returns the first choice's text; empty when it has none.
    pub fn text(&self) -> &str {
        self.choices.first().and_then(|choice| choice.message.content.as_deref()).unwrap_or("")
    }
}

/// One of the answers to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Its place among the choices.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: u32,
    /// What the model said.
    pub message: AssistantMessage,
    /// Log probabilities, where asked for.
    #[serde(default)]
    pub logprobs: Option<Value>,
    /// Why the answer ended: `stop`, `length`, `tool_calls` or `content_filter`.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Choice {
    /// Makes the first choice of an answer that says `text`.
    pub fn text(text: impl Into<String>, finish_reason: impl Into<String>) -> Self {
        Self {
            index: 0,
            message: AssistantMessage { content: Some(text.into()), ..Default::default() },
            logprobs: None,
            finish_reason: Some(finish_reason.into()),
            extra: Extra::new(),
        }
    }
}

/// What the model said. `content` and `refusal` are always written, absent ones as null.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct AssistantMessage {
    /// Always `assistant`.
    #[serde(default = "assistant")]
    pub role: Role,
    /// The text; null when the model only called tools.
    #[serde(default)]
    pub content: Option<String>,
    /// Why the model would not answer.
    #[serde(default)]
    pub refusal: Option<String>,
    /// The tools that the model called.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Everything else, such as `reasoning_content`.
    #[serde(flatten)]
    pub extra: Extra,
}

fn assistant() -> Role {
    Role::Assistant
}

impl Default for AssistantMessage {
    fn default() -> Self {
        Self {
            role: Role::Assistant,
            content: None,
            refusal: None,
            tool_calls: Vec::new(),
            extra: Extra::new(),
        }
    }
}

impl fmt::Debug for AssistantMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssistantMessage")
            .field("role", &self.role)
            .field("content", &self.content.as_deref().map(Hidden))
            .field("refusal", &self.refusal.as_deref().map(Hidden))
            .field("tool_calls", &self.tool_calls)
            .field("extra", &Names(&self.extra))
            .finish()
    }
}

impl From<AssistantMessage> for Message {
    /// Turns an answer into the next request's history; reasoning is left behind.
    fn from(answer: AssistantMessage) -> Self {
        Self {
            role: answer.role,
            content: answer.content.map(Content::Text),
            name: None,
            tool_calls: answer.tool_calls,
            tool_call_id: None,
            extra: Extra::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_client_libraries_demand_are_written() {
        let answer = ChatCompletion::new("chatcmpl-1", 7, "m", vec![Choice::text("hi", "stop")]);
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            concat!(
                r#"{"id":"chatcmpl-1","object":"chat.completion","created":7,"model":"m","#,
                r#""choices":[{"index":0,"message":{"role":"assistant","content":"hi","refusal":null},"#,
                r#""logprobs":null,"finish_reason":"stop"}]}"#
            )
        );
    }

    #[test]
    fn tool_calls_and_reasoning_are_read() {
        let json = r#"{"choices":[{"message":{"content":null,"reasoning_content":"hm","tool_calls":[
            {"id":"c1","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}],
            "usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,
                "prompt_tokens_details":null,"completion_tokens_details":{"reasoning_tokens":2}}}"#;
        let answer: ChatCompletion = serde_json::from_str(json).unwrap();
        let message = &answer.choices[0].message;
        assert_eq!(message.tool_calls[0].kind, "function");
        assert_eq!(message.extra["reasoning_content"], "hm");
        assert_eq!(answer.text(), "");
        assert_eq!(Message::from(message.clone()).tool_calls, message.tool_calls);
    }
}
