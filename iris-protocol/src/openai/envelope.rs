//! Writes what OpenAI's clients expect around what a node sent.
//!
//! Everything that is the same in all events of a stream is prepared once. What comes from a node
//! is checked before it is passed on: a line break in it would begin an event of the node's own
//! making, and a member that occurs twice is read differently by different clients.

use std::io::Write as _;

use bytes::{BufMut, BytesMut};
use iris_core::TaskId;
use iris_core::backend::{Chunk, Finish, Operation, Usage};

use super::ErrorBody;
use super::json::{Kind, Reader, escape_into};

/// A node sent something that is not part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not part of an answer")]
pub struct InvalidChunk;

/// What all answers to one request have in common.
#[derive(Clone, Copy, Debug)]
pub struct Heading<'a> {
    /// What was asked for.
    pub operation: Operation,
    /// Names the answer.
    pub task: TaskId,
    /// When the request came, in seconds since the Unix epoch.
    pub created: u64,
    /// The model by the name that was asked for.
    pub model: &'a str,
}

impl Heading<'_> {
    /// Appends the members that every object of the answer begins with, up to and with the last
    /// comma.
    fn write(&self, streamed: bool, out: &mut Vec<u8>) {
        let (prefix, object) = match (self.operation, streamed) {
            (Operation::Embedding, _) => ("embd", "list"),
            (Operation::Chat, false) => ("chatcmpl", "chat.completion"),
            (Operation::Chat, true) => ("chatcmpl", "chat.completion.chunk"),
            (Operation::Completion, _) => ("cmpl", "text_completion"),
        };
        let (task, created) = (self.task, self.created);
        write!(
            out,
            r#"{{"id":"{prefix}-{task}","object":"{object}","created":{created},"model":""#
        )
        .expect("a vector takes everything");
        escape_into(self.model, out);
        out.extend_from_slice(b"\",");
    }

    /// Makes the body of an answer that was not streamed of a node's `whole`.
    pub fn whole(&self, whole: &[u8]) -> Result<Vec<u8>, InvalidChunk> {
        let list = if self.operation == Operation::Embedding { "data" } else { "choices" };
        let members = members(whole, list, &["id", "object", "created", "model", "error"])?;
        let mut body = Vec::with_capacity(192 + self.model.len() + members.len());
        self.write(false, &mut body);
        body.extend_from_slice(members);
        body.push(b'}');
        Ok(body)
    }
}

/// Writes the events of one stream.
#[derive(Debug)]
pub struct EventWriter {
    /// `data: {"id":...,"model":"m",` and what precedes the text of a delta.
    before_text: Box<[u8]>,
    /// How much of `before_text` precedes any other members.
    heading: usize,
    operation: Operation,
    include_usage: bool,
}

impl EventWriter {
    /// Prepares the events of an answer; with `include_usage` all have that member.
    pub fn new(heading: Heading<'_>, include_usage: bool) -> Self {
        let mut before_text = Vec::with_capacity(224 + heading.model.len());
        before_text.extend_from_slice(b"data: ");
        heading.write(true, &mut before_text);
        let length = before_text.len();
        before_text.extend_from_slice(match heading.operation {
            Operation::Chat => br#""choices":[{"index":0,"delta":{"content":""#.as_slice(),
            // Embeddings have no streams.
            Operation::Completion | Operation::Embedding => br#""choices":[{"index":0,"text":""#,
        });
        Self {
            before_text: before_text.into(),
            heading: length,
            operation: heading.operation,
            include_usage,
        }
    }

    /// Begins the stream: a chat's first delta says who speaks.
    pub fn begin(&self, out: &mut BytesMut) {
        if self.operation == Operation::Chat {
            let delta = br#""choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#;
            self.event(delta, out);
        }
    }

    /// Passes on a chunk of a streamed answer. An invalid one leaves `out` as it was.
    pub fn chunk(&self, chunk: &Chunk, out: &mut BytesMut) -> Result<(), InvalidChunk> {
        match chunk {
            Chunk::Text(text) => self.text(text, out),
            Chunk::Json(json) => {
                let lines = json.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
                let forbidden = ["id", "object", "created", "model", "usage", "error"];
                let members = members(json, "choices", &forbidden)?;
                if lines || members.is_empty() {
                    return Err(InvalidChunk);
                }
                self.event(members, out);
            }
            Chunk::Whole(_) | Chunk::Finished(_) => return Err(InvalidChunk),
        }
        Ok(())
    }

    /// Ends the stream of a complete answer.
    pub fn finish(&self, finish: &Finish, out: &mut BytesMut) {
        let mut choice = Vec::with_capacity(96);
        choice.extend_from_slice(match self.operation {
            Operation::Chat => {
                br#""choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":""#.as_slice()
            }
            Operation::Completion | Operation::Embedding => {
                br#""choices":[{"index":0,"text":"","logprobs":null,"finish_reason":""#
            }
        });
        escape_into(&finish.reason, &mut choice);
        choice.extend_from_slice(b"\"}]");
        self.event(&choice, out);
        if self.include_usage {
            out.put_slice(&self.before_text[..self.heading]);
            out.put_slice(br#""choices":[],"usage":"#);
            write_usage(finish.usage, out);
            out.put_slice(b"}\n\n");
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    /// Appends one event of prepared or checked members.
    fn event(&self, members: &[u8], out: &mut BytesMut) {
        out.reserve(self.heading + members.len() + 24);
        out.put_slice(&self.before_text[..self.heading]);
        out.put_slice(members);
        self.end_event(out);
    }

    fn text(&self, text: &str, out: &mut BytesMut) {
        out.reserve(self.before_text.len() + text.len() + 72);
        out.put_slice(&self.before_text);
        escape_into(text, out);
        out.put_slice(match self.operation {
            Operation::Chat => br#""},"logprobs":null,"finish_reason":null}]"#.as_slice(),
            Operation::Completion | Operation::Embedding => {
                br#"","logprobs":null,"finish_reason":null}]"#
            }
        });
        self.end_event(out);
    }

    fn end_event(&self, out: &mut BytesMut) {
        // Who asked for usage finds the member in every event, filled in in the last one only.
        let end: &[u8] = if self.include_usage { b",\"usage\":null}\n\n" } else { b"}\n\n" };
        out.put_slice(end);
    }
}

/// Ends a stream that failed after it had begun. Without `[DONE]`, nobody takes it for complete.
pub fn write_error(error: &ErrorBody, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(&error.to_json());
    out.put_slice(b"\n\n");
}

/// Keeps a silent stream from being cut by whatever lies in between.
pub fn write_keep_alive(out: &mut BytesMut) {
    out.put_slice(b": keep-alive\n\n");
}

fn write_usage(usage: Usage, out: &mut BytesMut) {
    let (prompt, completion) = (usage.prompt_tokens, usage.completion_tokens);
    let total = u64::from(prompt) + u64::from(completion);
    let text = format!(
        r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total}}}"#
    );
    out.put_slice(text.as_bytes());
}

/// Returns the members of a node's JSON object, without the braces around them; `list` must be one
/// of them and hold something.
fn members<'a>(json: &'a [u8], list: &str, forbidden: &[&str]) -> Result<&'a [u8], InvalidChunk> {
    let text = std::str::from_utf8(json).map_err(|_| InvalidChunk)?;
    let mut reader = Reader::new(text);
    let mut seen: [&str; 8] = [""; 8];
    let mut count = 0;
    let (mut clean, mut is_full) = (true, false);
    let read = reader.object(|reader, name| {
        // An unknown member may occur twice; those that clients read may not.
        let known = ["choices", "data", "usage", "system_fingerprint", "service_tier"];
        if let Some(known) = known.into_iter().find(|known| *known == name) {
            clean &= !seen[..count].contains(&known);
            seen[count] = known;
            count += 1;
            count %= seen.len();
        }
        clean &= !forbidden.contains(&name.as_ref());
        if name == list && reader.kind()? == Kind::Array {
            return reader.array(|reader| {
                is_full = true;
                reader.skip().map(drop)
            });
        }
        reader.skip().map(drop)
    });
    if read.is_err() || reader.end().is_err() || !clean || !is_full {
        return Err(InvalidChunk);
    }
    let trimmed = json.trim_ascii();
    Ok(trimmed[1..trimmed.len() - 1].trim_ascii())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn heading(operation: Operation) -> Heading<'static> {
        Heading { operation, task: TaskId::from_bytes([1; 16]), created: 7, model: "org/\"m\"" }
    }

    fn events(out: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(out).unwrap();
        let lines = text.strip_suffix("\n\n").unwrap().split("\n\n");
        let data = lines.map(|line| {
            assert!(!line.contains(['\n', '\r']), "{line}");
            line.strip_prefix("data: ").unwrap()
        });
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
    }

    fn stream(operation: Operation, include_usage: bool, chunks: &[Chunk]) -> Vec<Value> {
        let writer = EventWriter::new(heading(operation), include_usage);
        let mut out = BytesMut::new();
        writer.begin(&mut out);
        for chunk in chunks {
            writer.chunk(chunk, &mut out).unwrap();
        }
        let usage = Usage { prompt_tokens: 3, completion_tokens: 4 };
        writer.finish(&Finish { reason: "stop".to_owned(), usage }, &mut out);
        events(&out)
    }

    fn json_chunk(json: &str) -> Result<Vec<Value>, InvalidChunk> {
        let mut out = BytesMut::new();
        let writer = EventWriter::new(heading(Operation::Chat), false);
        let chunk = Chunk::Json(json.to_owned().into());
        writer.chunk(&chunk, &mut out).map(|()| events(&out))
    }

    #[test]
    fn chat_stream_has_role_deltas_finish_and_done() {
        let tool = r#"{"choices":[{"index":0,"delta":{"tool_calls":[]},"finish_reason":null}]}"#;
        let chunks = [Chunk::Text("a\n".to_owned()), Chunk::Json(tool.into())];
        let events = stream(Operation::Chat, false, &chunks);
        let deltas: Vec<_> = events[..4].iter().map(|e| &e["choices"][0]["delta"]).collect();
        assert_eq!(*deltas[0], json!({"role": "assistant", "content": ""}));
        assert_eq!(*deltas[1], json!({"content": "a\n"}));
        assert_eq!(*deltas[2], json!({"tool_calls": []}));
        assert_eq!(*deltas[3], json!({}));
        assert_eq!(events[3]["choices"][0]["finish_reason"], "stop");
        assert_eq!(events[4..], [json!("[DONE]")]);
        for event in &events[..4] {
            assert_eq!(event["id"], format!("chatcmpl-{}", TaskId::from_bytes([1; 16])));
            assert_eq!(event["object"], "chat.completion.chunk");
            assert_eq!((&event["created"], &event["model"]), (&json!(7), &json!("org/\"m\"")));
            assert!(event.get("usage").is_none());
        }
    }

    #[test]
    fn usage_is_null_until_the_last_event() {
        let events = stream(Operation::Chat, true, &[Chunk::Text("a".to_owned())]);
        assert_eq!(events.len(), 5);
        for event in &events[..3] {
            assert_eq!(event["usage"], Value::Null);
            assert!(event.as_object().unwrap().contains_key("usage"));
        }
        assert_eq!(events[3]["choices"], json!([]));
        assert_eq!(
            events[3]["usage"],
            json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})
        );
    }

    #[test]
    fn completion_stream_carries_text_and_no_role() {
        let events = stream(Operation::Completion, false, &[Chunk::Text("a".to_owned())]);
        assert_eq!(events[0]["object"], "text_completion");
        assert_eq!(events[0]["choices"][0]["text"], "a");
        assert_eq!(events[1]["choices"][0]["finish_reason"], "stop");
    }

    #[test]
    fn chunks_that_would_forge_an_event_are_invalid() {
        assert!(json_chunk(r#"{"choices":[{}]}"#).is_ok());
        for bad in [
            r#"{"choices":[]}"#,
            r#"{"choices":[{}],"error":{}}"#,
            "",
            "{}",
            "[]",
            "7",
            r#"{"choices":[{}]"#,
            r#"{"choices":[{}]}}"#,
            r#"{"choices":[{}]} {"#,
            "{\"choices\":\n[{}]}",
            "{\"choices\":[{}]}\n\ndata: [DONE]\n\n",
            r#"{"choices":[{}],"id":"x"}"#,
            r#"{"choices":[{}],"\u0069d":"x"}"#,
            r#"{"choices":[{}],"model":"x"}"#,
            r#"{"choices":[{}],"usage":{}}"#,
            r#"{"choices":[{}],"choices":[{}]}"#,
        ] {
            assert_eq!(json_chunk(bad), Err(InvalidChunk), "{bad}");
        }
        let writer = EventWriter::new(heading(Operation::Chat), false);
        let whole = Chunk::Whole("{}".into());
        assert_eq!(writer.chunk(&whole, &mut BytesMut::new()), Err(InvalidChunk));
    }

    #[test]
    fn vectors_get_the_heading_of_a_list() {
        let whole = br#"{"data":[{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":1}}"#;
        let body = heading(Operation::Embedding).whole(whole).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("org/\"m\"")));
        assert_eq!(body["data"][0]["embedding"], json!([1]));
        for bad in [r#"{"data":[]}"#, r#"{"choices":[{}]}"#, r#"{"data":[1],"data":[2]}"#] {
            let answer = heading(Operation::Embedding).whole(bad.as_bytes());
            assert_eq!(answer, Err(InvalidChunk), "{bad}");
        }
    }

    #[test]
    fn whole_answer_gets_its_envelope() {
        let body = heading(Operation::Chat).whole(b" {\"choices\":[{}], \"usage\":{}}\n").unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let id = format!("chatcmpl-{}", TaskId::from_bytes([1; 16]));
        assert_eq!(
            body,
            json!({"id": id, "object": "chat.completion", "created": 7, "model": "org/\"m\"",
                "choices": [{}], "usage": {}})
        );
        let text = heading(Operation::Completion).whole(br#"{"choices":[{}]}"#).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap()["object"], "text_completion");
        for bad in [
            "",
            "[]",
            "{",
            "{}{}",
            "{}",
            r#"{"choices":[]}"#,
            r#"{"error":{}}"#,
            r#"{"model":"x"}"#,
            "\u{feff}{}",
        ] {
            assert_eq!(heading(Operation::Chat).whole(bad.as_bytes()), Err(InvalidChunk), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_stays_in_its_event(text in any::<String>()) {
            prop_assume!(!text.is_empty());
            let events = stream(Operation::Chat, false, &[Chunk::Text(text.clone())]);
            prop_assert_eq!(events.len(), 4);
            prop_assert_eq!(&events[1]["choices"][0]["delta"]["content"], &json!(text));
        }

        #[test]
        fn bytes_from_a_node_are_refused_or_become_one_event(
            json in prop_oneof!["\\PC*".prop_map(String::into_bytes), any::<Vec<u8>>()]
        ) {
            let mut out = BytesMut::new();
            let writer = EventWriter::new(heading(Operation::Chat), false);
            if writer.chunk(&Chunk::Json(json.into()), &mut out).is_ok() {
                prop_assert_eq!(events(&out).len(), 1);
            }
        }
    }
}
