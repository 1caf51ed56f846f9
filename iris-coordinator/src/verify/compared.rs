//! Tasks that a second node is given too.
//!
//! Only what any node might have been asked, by somebody whom the coordinator can read, and where the
//! operator allows it. Of such a task nothing is kept but what lies here until it was compared.

use std::time::Duration;

use bytes::Bytes;
use iris_core::verify::{Audit, AuditId, AuditResult};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::asking::Question;
use super::{PATIENCE, Verification};
use crate::accounts::NETWORK;
use crate::dispatch::Exchange;

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

/// A chat at temperature zero, and what its node answered.
pub(super) struct Compared {
    body: Bytes,
    messages: Vec<Value>,
    answer: String,
}

impl Compared {
    /// Reads what was asked and answered; `None` where another node may rightly answer another
    /// thing, or the answer is not all text.
    pub(super) fn read(exchange: Exchange) -> Option<Self> {
        let Exchange { body, answer } = exchange;
        let mut asked: Map<String, Value> = serde_json::from_slice(&body).ok()?;
        let is_greedy = asked.remove("temperature").and_then(|value| value.as_f64()) == Some(0.0);
        let is_one = asked.remove("n").is_none_or(|n| n == 1);
        let is_plain = asked.keys().all(|name| HARMLESS.contains(&name.as_str()));
        let Some(Value::Array(messages)) = asked.remove("messages") else { return None };
        let is_text = messages.iter().all(|message| is_text(message) == Some(true));
        let is_comparable = is_greedy && is_one && is_plain && is_text && !answer.is_empty();
        is_comparable.then_some(Self { body, messages, answer })
    }
}

/// Returns whether a message is text and nothing else; `None` where it is no message.
fn is_text(message: &Value) -> Option<bool> {
    let message = message.as_object()?;
    let (role, content) = (message.get("role")?.as_str()?, message.get("content")?.as_str()?);
    let is_known = matches!(role, "system" | "user" | "assistant");
    Some(is_known && !content.is_empty() && message.len() == 2)
}

impl Verification {
    /// Gives what a node has answered to one of another owner too, and has the answer scored where
    /// that one answers another thing.
    pub(super) async fn compare(&self, audit: &Audit, compared: &Compared) -> AuditResult {
        let AuditId { node, model, .. } = &audit.id;
        let others = self.dispatch.offers_of_others(node, model);
        let place = usize::try_from(self.draw(0..others.len() as u64)).unwrap_or_default();
        if let Some(other) = others.get(place) {
            let until = Instant::now() + Duration::from_millis(self.draw(PATIENCE));
            let body = compared.body.clone();
            let question = Question { body, model, node: *other, name: NETWORK, until };
            let again = self.ask_open(&question).await;
            if again.is_ok_and(|again| again.trim() == compared.answer.trim()) {
                return AuditResult::Agreed;
            }
        }
        let messages = compared.messages.clone();
        self.scored(messages, model, &compared.answer, audit.reference.node).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_comparable(change: impl FnOnce(&mut Value)) -> bool {
        let mut body = json!({
            "model": "m", "temperature": 0.0, "max_tokens": 9, "stream": true,
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        });
        change(&mut body);
        let exchange = Exchange { body: body.to_string().into(), answer: "a".to_owned() };
        Compared::read(exchange).is_some()
    }

    #[test]
    fn plain_chats_at_temperature_zero_are_compared_and_nothing_else() {
        assert!(is_comparable(|_| ()));
        assert!(is_comparable(|body| body["n"] = 1.into()));
        assert!(!is_comparable(|body| body["n"] = 2.into()));
        assert!(!is_comparable(|body| body["temperature"] = 0.1.into()));
        assert!(!is_comparable(|body| body["temperature"] = Value::Null));
        assert!(!is_comparable(|body| body["frequency_penalty"] = 1.into()));
        assert!(!is_comparable(|body| body["tools"] = json!([])));
        assert!(!is_comparable(|body| body["messages"] = json!("u")));
        assert!(!is_comparable(|body| body["messages"][0]["role"] = "tool".into()));
        assert!(!is_comparable(|body| body["messages"][1]["content"] = json!([{"type": "text"}])));
        assert!(!is_comparable(|body| body["messages"][1]["name"] = "x".into()));
        let broken = Exchange { body: Bytes::from_static(b"[]"), answer: "a".to_owned() };
        assert!(Compared::read(broken).is_none());
    }
}
