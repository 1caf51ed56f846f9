use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Extra, Message, Names};

/// The body of `POST /v1/chat/completions`.
///
/// Members that have no field here (`min_p`, `chat_template_kwargs`, ...) travel in `extra` and
/// reach the model's server unchanged. Whether an answer is streamed is set by whoever sends the
/// request.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The model's name.
    pub model: String,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Whether the answer comes in chunks. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// What a streamed answer carries besides the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// The longest answer in tokens, by its older name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The longest answer in tokens, reasoning included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u32>,
    /// How freely tokens are drawn: 0 always takes the likeliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The share of probability from which tokens are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Texts at which the answer ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Makes drawing repeatable, where the server can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// How many answers are wanted. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Tools that the model may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Value>>,
    /// Which tool the model must or must not call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// The form that the answer must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ChatRequest {
    /// Makes a request with the server's defaults.
    pub fn new(model: impl Into<String>, messages: Vec<Message>) -> Self {
        Self { model: model.into(), messages, ..Self::default() }
    }

    /// Returns the longest answer that the caller allows, in tokens, by either name.
    pub fn max_answer_tokens(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }
}

impl fmt::Debug for ChatRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatRequest")
            .field("model", &self.model)
            .field("messages", &self.messages.len())
            .field("stream", &self.stream)
            .field("max_answer_tokens", &self.max_answer_tokens())
            .field("tools", &self.tools.as_ref().map_or(0, Vec::len))
            .field("extra", &Names(&self.extra))
            .finish_non_exhaustive()
    }
}

/// What a streamed answer carries besides the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamOptions {
    /// Whether one last chunk without choices tells the tokens used. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_usage: Option<bool>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Texts at which an answer ends; they are not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stop {
    /// One text.
    One(String),
    /// Several texts, whichever comes first.
    Many(Vec<String>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{Content, Role};

    #[test]
    fn nulls_unknown_members_parts_and_roles_are_read_and_kept() {
        let json = r#"{"model":"m","messages":[
            {"role":"developer","content":[{"type":"text","text":"be "},{"type":"text","text":"brief"}]},
            {"role":"critic","content":null,"tool_calls":null,"mood":1}],
            "stream":null,"stop":["a"],"tools":null,"min_p":0.1,"max_completion_tokens":9}"#;
        let request: ChatRequest = serde_json::from_str(json).unwrap();
        assert_eq!(request.messages[0].content.as_ref().map(Content::to_text).unwrap(), "be brief");
        assert_eq!(request.messages[1].role, Role::Other("critic".to_owned()));
        assert_eq!(request.max_answer_tokens(), Some(9));

        let written = serde_json::to_value(&request).unwrap();
        assert_eq!(written["min_p"], 0.1);
        assert_eq!(written["messages"][1]["mood"], 1);
        assert!(written.get("stream").is_none());
    }

    #[test]
    fn prompts_do_not_appear_in_debug() {
        let request = ChatRequest::new("m", vec![Message::user("the secret plan")]);
        assert!(!format!("{request:?} {:?}", request.messages).contains("secret"));
    }
}
