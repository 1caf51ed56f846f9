//! What of a streamed answer was passed on, for the node that may have to go on from there.

use bytes::Bytes;
use iris_core::backend::{Begun, Chunk, Operation};
use iris_core::task::Passed;
use iris_protocol::openai::count_values;
use serde_json::Value;

/// Longest text that is kept, in bytes; a longer answer ends with its node.
const MAX_TEXT: usize = 1 << 20;
/// Bytes and values of a step that is looked into; one that says a piece of text is far smaller.
const MAX_STEP: usize = 64 << 10;
const MAX_VALUES: usize = 1024;

/// The text that was passed on so far, as long as there is nothing else to it.
#[derive(Debug, Default)]
pub(super) struct PassedOn {
    text: String,
    tokens: u32,
    /// Chunks that no other node could be told of.
    others: u64,
    /// An answer in one piece, if it was that.
    whole: Option<Bytes>,
    last: Last,
}

/// What the last chunk added.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    bytes: usize,
    tokens: u32,
    others: u64,
}

impl PassedOn {
    /// Takes a chunk in.
    pub(super) fn add(&mut self, operation: Operation, chunk: &Chunk) -> Passed {
        if self.others > 0 {
            // Nobody will ask for the text any more.
            self.text = String::new();
        }
        if let Chunk::Whole(whole) = chunk {
            self.whole = Some(whole.clone());
        }
        let before = self.text.len();
        let plain = self.others == 0 && self.extend(operation, chunk);
        let passed = match self.text.len() - before {
            _ if !plain => Passed::Other,
            0 => Passed::Nothing,
            _ => Passed::Text,
        };
        self.last = Last {
            bytes: self.text.len() - before,
            tokens: u32::from(passed == Passed::Text),
            others: u64::from(passed == Passed::Other),
        };
        self.tokens = self.tokens.saturating_add(self.last.tokens);
        self.others += self.last.others;
        passed
    }

    /// Takes the last chunk out, which turned out to be none.
    pub(super) fn remove_last(&mut self) {
        let Last { bytes, tokens, others } = std::mem::take(&mut self.last);
        self.text.truncate(self.text.len() - bytes);
        self.tokens -= tokens;
        self.others -= others;
        self.whole = None;
    }

    /// Returns what the caller has.
    pub(super) fn begun(&self) -> Begun {
        Begun { text: self.text.clone(), tokens: self.tokens }
    }

    /// Returns the answer, where it is text and nothing else.
    pub(super) fn answer(&self) -> Option<String> {
        match &self.whole {
            Some(whole) => whole_text(whole),
            None => (self.others == 0).then(|| self.text.clone()),
        }
    }

    /// Adds what a chunk says; false when it is more than text.
    fn extend(&mut self, operation: Operation, chunk: &Chunk) -> bool {
        let said = match chunk {
            Chunk::Text(text) => return self.push(text),
            Chunk::Json(json) => said(operation, json),
            Chunk::Whole(_) | Chunk::Finished(_) => None,
        };
        said.is_some_and(|text| self.push(&text))
    }

    fn push(&mut self, text: &str) -> bool {
        let fits = self.text.len() + text.len() <= MAX_TEXT;
        if fits {
            self.text.push_str(text);
        }
        fits
    }
}

/// Returns the text of a step that says nothing else; `None` if it does.
///
/// Servers name their build beside the first piece of text, which is no part of the answer.
fn said(operation: Operation, json: &[u8]) -> Option<String> {
    if json.len() > MAX_STEP || count_values(json) > MAX_VALUES {
        return None;
    }
    let step: Value = serde_json::from_slice(json).ok()?;
    let choice = match step.get("choices")?.as_array()?.as_slice() {
        [] => return Some(String::new()),
        [choice] => choice.as_object()?,
        _ => return None,
    };
    let mut said = String::new();
    for (name, value) in choice {
        match (operation, name.as_str()) {
            (_, "index") if *value == 0 => {}
            (Operation::Chat, "delta") => said = content(value)?,
            (Operation::Completion, "text") => said = text(value)?,
            _ if is_blank(value) => {}
            _ => return None,
        }
    }
    Some(said)
}

fn content(delta: &Value) -> Option<String> {
    let mut said = String::new();
    for (name, value) in delta.as_object()? {
        match name.as_str() {
            "content" => said = text(value)?,
            "role" => {}
            _ if is_blank(value) => {}
            _ => return None,
        }
    }
    Some(said)
}

/// Returns the text of a whole answer to a chat that says nothing else.
fn whole_text(json: &[u8]) -> Option<String> {
    if json.len() > MAX_STEP || count_values(json) > MAX_VALUES {
        return None;
    }
    let answer: Value = serde_json::from_slice(json).ok()?;
    let [choice] = answer.get("choices")?.as_array()?.as_slice() else { return None };
    let message = choice.get("message")?.as_object()?;
    let others = message.iter().filter(|(name, _)| !matches!(name.as_str(), "role" | "content"));
    let is_plain = others.map(|(_, value)| value).all(is_blank);
    if is_plain { message.get("content")?.as_str().map(str::to_owned) } else { None }
}

fn text(value: &Value) -> Option<String> {
    if value.is_null() { Some(String::new()) } else { value.as_str().map(str::to_owned) }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(json: &str) -> Chunk {
        Chunk::Json(json.to_owned().into())
    }

    fn words(text: &str) -> Chunk {
        Chunk::Text(text.to_owned())
    }

    #[test]
    fn steps_that_only_speak_are_text() {
        let mut passed = PassedOn::default();
        let mut add = |chunk: Chunk| passed.add(Operation::Chat, &chunk);
        for blank in [
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}],"system_fingerprint":"b1"}"#,
            r#"{"choices":[{"delta":{"content":"","tool_calls":[]},"logprobs":null}]}"#,
            r#"{"choices":[]}"#,
        ] {
            assert_eq!(add(json(blank)), Passed::Nothing, "{blank}");
        }
        assert_eq!(add(json(r#"{"choices":[{"delta":{"content":"a"}}]}"#)), Passed::Text);
        assert_eq!(add(words("b")), Passed::Text);
        assert_eq!(passed.begun(), Begun { text: "ab".to_owned(), tokens: 2 });
        let mut passed = PassedOn::default();
        let step = json(r#"{"choices":[{"index":0,"text":"c","logprobs":null}]}"#);
        assert_eq!(passed.add(Operation::Completion, &step), Passed::Text);
        assert_eq!(passed.begun().text, "c");
    }

    #[test]
    fn steps_that_do_more_are_not() {
        for more in [
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
            r#"{"choices":[{"delta":{"content":"","reasoning_content":"hm"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[]}}]}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}},{"index":1,"delta":{}}]}"#,
            r#"{"choices":[{"delta":{"content":["a"]}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#,
            r#"{"choices":{}}"#,
            "{",
        ] {
            let mut passed = PassedOn::default();
            assert_eq!(passed.add(Operation::Chat, &json(more)), Passed::Other, "{more}");
            assert_eq!(passed.add(Operation::Chat, &words("b")), Passed::Other, "for good");
        }
    }

    #[test]
    fn what_turned_out_to_be_no_chunk_leaves_nothing_behind() {
        let mut passed = PassedOn::default();
        passed.add(Operation::Chat, &words("a"));
        passed.add(Operation::Chat, &words("bc"));
        passed.remove_last();
        assert_eq!(passed.begun(), Begun { text: "a".to_owned(), tokens: 1 });
        passed.add(Operation::Chat, &json("{"));
        passed.remove_last();
        assert_eq!(passed.add(Operation::Chat, &words("d")), Passed::Text);
        assert_eq!(passed.begun().text, "ad");
    }

    #[test]
    fn longest_text_is_kept_and_none_beyond() {
        let mut passed = PassedOn::default();
        assert_eq!(passed.add(Operation::Chat, &words(&"x".repeat(MAX_TEXT))), Passed::Text);
        assert_eq!(passed.add(Operation::Chat, &words("x")), Passed::Other);
        passed.add(Operation::Chat, &words("x"));
        assert_eq!(passed.text.capacity(), 0);
    }
}
