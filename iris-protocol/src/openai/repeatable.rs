//! Chats that every machine with the same model answers alike, and what asks for the scores of
//! such an answer.

use std::fmt;

use iris_core::ModelName;
use serde_json::{Map, Value, json};

/// Members of a request whose values do not change which tokens are likeliest.
const HARMLESS: [&str; 10] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "top_p",
    "seed",
    "user",
    "store",
];

/// A question of text whose answer is the likeliest token each time, by nothing but model and messages.
#[derive(Clone)]
pub struct RepeatableChat {
    messages: Vec<Value>,
}

/// Why two machines with the same model may rightly answer a chat differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotRepeatable {
    /// It is not JSON, or its messages are no list.
    #[error("it is no chat")]
    Malformed,
    /// Tokens are drawn.
    #[error("tokens are drawn, unless its 'temperature' is 0")]
    Drawn,
    /// More than one answer is wanted.
    #[error("it asks for several answers; 'n' must be 1")]
    Several,
    /// A member may change which tokens are likeliest.
    #[error("its member {0:?} may change which tokens are likeliest")]
    Member(String),
    /// A message is of a tool, or has more than a text.
    #[error("one of its messages is not a text of the system, the user or the assistant")]
    NotText,
    /// The last message is not the user's: a node goes on with one of the assistant's.
    #[error("its last message is not the user's")]
    NotAsked,
}

impl fmt::Debug for RepeatableChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepeatableChat").field("messages", &self.messages.len()).finish()
    }
}

impl RepeatableChat {
    /// Reads the body of a request.
    pub fn read(body: &[u8]) -> Result<Self, NotRepeatable> {
        let asked: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
        let mut asked = asked.ok_or(NotRepeatable::Malformed)?;
        if asked.remove("temperature").and_then(|value| value.as_f64()) != Some(0.0) {
            return Err(NotRepeatable::Drawn);
        }
        if asked.remove("n").is_some_and(|n| n != 1) {
            return Err(NotRepeatable::Several);
        }
        if let Some(name) = asked.keys().find(|name| !HARMLESS.contains(&name.as_str())) {
            return Err(NotRepeatable::Member(name.clone()));
        }
        let Some(Value::Array(messages)) = asked.remove("messages") else {
            return Err(NotRepeatable::Malformed);
        };
        if messages.iter().any(|message| is_text(message) != Some(true)) {
            return Err(NotRepeatable::NotText);
        }
        if messages.last().is_none_or(|message| message["role"] != "user") {
            return Err(NotRepeatable::NotAsked);
        }
        Ok(Self { messages })
    }

    /// Returns the messages, for [`score_request`].
    pub fn into_messages(self) -> Vec<Value> {
        self.messages
    }
}

/// Returns whether a message is text and nothing else; `None` where it is no message.
fn is_text(message: &Value) -> Option<bool> {
    let message = message.as_object()?;
    let (role, content) = (message.get("role")?.as_str()?, message.get("content")?.as_str()?);
    let is_known = matches!(role, "system" | "user" | "assistant");
    Some(is_known && !content.is_empty() && message.len() == 2)
}

/// Returns the request that has `answer` to `messages` scored, in vLLM's words; what comes is read
/// by [`PromptScores`](super::PromptScores).
pub fn score_request(model: &ModelName, mut messages: Vec<Value>, answer: &str) -> Value {
    messages.push(json!({ "role": "assistant", "content": answer }));
    json!({
        "model": model,
        "messages": messages,
        "add_generation_prompt": false,
        "continue_final_message": true,
        "max_tokens": 1,
        "prompt_logprobs": 1,
        "temperature": 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut Value)) -> Result<(), NotRepeatable> {
        let mut body = json!({
            "model": "m", "temperature": 0.0, "max_tokens": 9, "stream": true,
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        });
        change(&mut body);
        RepeatableChat::read(body.to_string().as_bytes()).map(drop)
    }

    #[test]
    fn plain_chats_at_temperature_zero_are_repeatable_and_nothing_else() {
        assert_eq!(read(|_| ()), Ok(()));
        assert_eq!(read(|body| body["n"] = 1.into()), Ok(()));
        assert_eq!(read(|body| body["n"] = 2.into()), Err(NotRepeatable::Several));
        assert_eq!(read(|body| body["temperature"] = 0.1.into()), Err(NotRepeatable::Drawn));
        assert_eq!(read(|body| body["temperature"] = Value::Null), Err(NotRepeatable::Drawn));
        for name in ["frequency_penalty", "tools", "stop", "response_format"] {
            let unlike = Err(NotRepeatable::Member(name.to_owned()));
            assert_eq!(read(|body| body[name] = 1.into()), unlike);
        }
        assert_eq!(read(|body| body["messages"] = json!("u")), Err(NotRepeatable::Malformed));
        let not_text = Err(NotRepeatable::NotText);
        assert_eq!(read(|body| body["messages"][0]["role"] = "tool".into()), not_text);
        assert_eq!(read(|body| body["messages"] = json!([])), Err(NotRepeatable::NotAsked));
        let begun = json!({"role": "assistant", "content": "a"});
        let go_on = |body: &mut Value| body["messages"].as_array_mut().unwrap().push(begun);
        assert_eq!(read(go_on), Err(NotRepeatable::NotAsked));
        let parts = json!([{"type": "text"}]);
        assert_eq!(read(|body| body["messages"][1]["content"] = parts), not_text);
        assert_eq!(read(|body| body["messages"][1]["name"] = "x".into()), not_text);
        assert_eq!(RepeatableChat::read(b"[]").map(drop), Err(NotRepeatable::Malformed));
    }
}
