//! From the events of a streamed answer to chunks.

use bytes::Bytes;
use iris_core::backend::{BackendError, Chunk, Finish, Operation, Usage};
use serde_json::value::RawValue;

use super::event::{Event, is_envelope};
use super::failure;
use super::object::{Members, ObjectWriter, passed_on};

/// Reads one streamed answer, event by event.
#[derive(Debug)]
pub(super) struct EventReader {
    operation: Operation,
    reason: Option<String>,
    usage: Usage,
    has_other_choices: bool,
    has_told_server: bool,
}

/// What an event means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A piece of the answer.
    Chunk(Chunk),
    /// Nothing for the caller.
    Skip,
    /// The server has said everything.
    Done,
}

impl EventReader {
    pub(super) const fn new(operation: Operation) -> Self {
        Self {
            operation,
            reason: None,
            usage: Usage { prompt_tokens: 0, completion_tokens: 0 },
            has_other_choices: false,
            has_told_server: false,
        }
    }

    /// Says nothing of the server's build or service: another one has named its own already.
    pub(super) const fn leave_out_server(&mut self) {
        self.has_told_server = true;
    }

    /// Reads the data of one event.
    pub(super) fn read(&mut self, data: &[u8]) -> Result<Step, BackendError> {
        if data.trim_ascii() == b"[DONE]" {
            return Ok(Step::Done);
        }
        let event: Event<'_> = serde_json::from_slice(data).map_err(|_| BackendError::Malformed)?;
        if event.is_error {
            return Err(failure::of_event(data));
        }
        if let Some(usage) = event.usage {
            self.usage = usage;
        }
        self.has_other_choices |= event.choices.has_others;
        let tells_server = event.names_server && !self.has_told_server;
        self.has_told_server |= event.names_server;
        let mut is_plain = !(event.has_extras || tells_server || event.choices.has_others);
        let mut text = None;
        if let Some(choice) = event.choices.first {
            match choice.reason.as_deref() {
                Some("error") => return Err(BackendError::Failed),
                Some(reason) => self.reason = Some(failure::bounded(reason, 64)),
                None => {}
            }
            is_plain &= !choice.has_extras;
            text = choice.text;
        }
        match text {
            _ if !is_plain => Ok(Step::Chunk(Chunk::Json(self.rewrite(data)?))),
            Some(text) => Ok(Step::Chunk(Chunk::Text(text.into_owned()))),
            None => Ok(Step::Skip),
        }
    }

    /// Returns how the answer ended, or `None` if it was cut off.
    ///
    /// An answer is complete when its first choice has given its reason; some servers mark the
    /// end of a stream that they broke off themselves. `said_done` tells whether the server marked
    /// the end; without the mark, further choices may be missing something.
    pub(super) fn finish(&self, said_done: bool) -> Option<Finish> {
        let reason = self.reason.clone()?;
        let is_complete = said_done || !self.has_other_choices;
        is_complete.then_some(Finish { reason, usage: self.usage })
    }

    /// Leaves out of an event what the gateway writes itself: the envelope, and the role and the
    /// end of the first choice.
    fn rewrite(&self, data: &[u8]) -> Result<Bytes, BackendError> {
        let event = Members::parse(data).map_err(|_| BackendError::Malformed)?;
        let mut json = ObjectWriter::with_capacity(data.len());
        let choices = event.get("choices").map_or("null", RawValue::get);
        json.member("choices", &self.rewrite_choices(choices)?);
        for (name, value) in event.iter() {
            if !is_envelope(name) && name != "choices" {
                json.member(name, value.get().as_bytes());
            }
        }
        passed_on(json.finish()).ok_or(BackendError::Malformed)
    }

    fn rewrite_choices(&self, choices: &str) -> Result<Vec<u8>, BackendError> {
        let choices: Option<Vec<Members<'_>>> =
            serde_json::from_str(choices).map_err(|_| BackendError::Malformed)?;
        let choices = choices.unwrap_or_default();
        if choices.is_empty() {
            // Programs read the first choice of every chunk unasked.
            return Ok(match self.operation {
                Operation::Chat => br#"[{"index":0,"delta":{},"finish_reason":null}]"#.to_vec(),
                Operation::Completion | Operation::Embedding => {
                    br#"[{"index":0,"text":"","finish_reason":null}]"#.to_vec()
                }
            });
        }
        let mut json = vec![b'['];
        for choice in &choices {
            if json.len() > 1 {
                json.push(b',');
            }
            json.extend(rewrite_choice(choice)?);
        }
        json.push(b']');
        Ok(json)
    }
}

fn rewrite_choice(choice: &Members<'_>) -> Result<Vec<u8>, BackendError> {
    let is_first = choice.get("index").is_none_or(|index| index.get() == "0");
    let mut json = ObjectWriter::with_capacity(128);
    for (name, value) in choice.iter() {
        match name {
            "finish_reason" if is_first => json.member(name, b"null"),
            "delta" if is_first && value.get() != "null" => {
                let delta = Members::parse(value.get().as_bytes());
                let mut kept = ObjectWriter::with_capacity(value.get().len());
                for (name, value) in delta.map_err(|_| BackendError::Malformed)?.iter() {
                    if name != "role" {
                        kept.member(name, value.get().as_bytes());
                    }
                }
                json.member(name, &kept.finish());
            }
            _ => json.member(name, value.get().as_bytes()),
        }
    }
    Ok(json.finish())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader() -> EventReader {
        EventReader::new(Operation::Chat)
    }

    fn chat(choice: &str, rest: &str) -> String {
        let envelope = r#""id":"c","object":"chat.completion.chunk","created":1,"model":"m""#;
        format!(r#"{{{envelope},"choices":[{choice}]{rest}}}"#)
    }

    fn json(reader: &mut EventReader, data: &str) -> String {
        match reader.read(data.as_bytes()) {
            Ok(Step::Chunk(Chunk::Json(json))) => String::from_utf8(json.to_vec()).unwrap(),
            other => panic!("{data} gave {other:?}"),
        }
    }

    #[test]
    fn plain_delta_is_text() {
        for choice in [
            r#"{"index":0,"delta":{"content":"\u20ac\n"},"finish_reason":null}"#,
            r#"{"delta":{"role":"assistant","content":"€\n","tool_calls":[],"refusal":null}}"#,
            r#"{"index":0,"delta":{"content":"€\n","reasoning_content":""},"logprobs":null}"#,
        ] {
            let step = reader().read(chat(choice, r#","usage":null"#).as_bytes()).unwrap();
            assert_eq!(step, Step::Chunk(Chunk::Text("€\n".to_owned())), "{choice}");
        }
    }

    #[test]
    fn role_alone_and_end_alone_are_left_to_the_gateway() {
        let mut reader = reader();
        for (choice, rest) in [
            (r#"{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}"#, ""),
            (r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}"#, ""),
            ("", r#","usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}"#),
        ] {
            assert_eq!(reader.read(chat(choice, rest).as_bytes()), Ok(Step::Skip));
        }
        assert_eq!(reader.read(b"[DONE]"), Ok(Step::Done));
        let usage = Usage { prompt_tokens: 3, completion_tokens: 5 };
        assert_eq!(reader.finish(true), Some(Finish { reason: "length".to_owned(), usage }));
    }

    #[test]
    fn other_deltas_are_passed_on_without_envelope_role_and_end() {
        let mut reader = reader();
        let call = r#"{"index":0,"id":"t","function":{"name":"f","arguments":""}}"#;
        let choice = format!(
            r#"{{"index":0,"delta":{{"role":"assistant","tool_calls":[{call}]}},"finish_reason":"tool_calls"}}"#
        );
        assert_eq!(
            json(&mut reader, &chat(&choice, r#","usage":null"#)),
            format!(
                r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{call}]}},"finish_reason":null}}]}}"#
            )
        );
        assert_eq!(reader.finish(false).unwrap().reason, "tool_calls");
    }

    #[test]
    fn reasoning_logprobs_and_further_choices_are_json() {
        for choice in [
            r#"{"index":0,"delta":{"reasoning_content":"hm"},"finish_reason":null}"#,
            r#"{"index":0,"delta":{"content":"a"},"logprobs":{"content":[]},"finish_reason":null}"#,
            r#"{"index":1,"delta":{"role":"assistant","content":"a"},"finish_reason":"stop"}"#,
            r#"{"index":0,"delta":{"content":[{"type":"text"}]},"finish_reason":null}"#,
        ] {
            assert_eq!(
                json(&mut reader(), &chat(choice, "")),
                format!(r#"{{"choices":[{choice}]}}"#)
            );
        }
    }

    #[test]
    fn servers_build_is_told_once() {
        let mut reader = reader();
        let choice = r#"{"index":0,"delta":{"content":"a"},"finish_reason":null}"#;
        let event = chat(choice, r#","system_fingerprint":"b1""#);
        assert_eq!(
            json(&mut reader, &event),
            format!(r#"{{"choices":[{choice}],"system_fingerprint":"b1"}}"#)
        );
        assert_eq!(reader.read(event.as_bytes()), Ok(Step::Chunk(Chunk::Text("a".to_owned()))));
    }

    #[test]
    fn extras_without_a_choice_get_one() {
        let event = chat(
            "",
            r#","usage":{"prompt_tokens":1},"timings":{"a":[1,
            2]}"#,
        );
        let choice = r#"{"index":0,"delta":{},"finish_reason":null}"#;
        assert_eq!(
            json(&mut reader(), &event),
            format!(r#"{{"choices":[{choice}],"timings":{{"a":[1,2]}}}}"#)
        );
    }

    #[test]
    fn completion_text_is_text() {
        let mut reader = EventReader::new(Operation::Completion);
        let event =
            br#"{"choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":"stop"}]}"#;
        assert_eq!(reader.read(event), Ok(Step::Chunk(Chunk::Text("a".to_owned()))));
        assert_eq!(reader.finish(false).unwrap().reason, "stop");
    }

    #[test]
    fn cut_answer_is_not_finished() {
        let mut cut = reader();
        assert_eq!(cut.finish(true), None);
        cut.read(chat(r#"{"index":0,"delta":{"content":"a"}}"#, "").as_bytes()).unwrap();
        assert_eq!(cut.finish(false), None);
        assert_eq!(cut.finish(true), None, "servers also say so when they break off");

        let mut several = reader();
        several.read(chat(r#"{"index":1,"delta":{"content":"a"}}"#, "").as_bytes()).unwrap();
        several.read(chat(r#"{"index":0,"finish_reason":"stop"}"#, "").as_bytes()).unwrap();
        assert_eq!(several.finish(false), None);
        assert!(several.finish(true).is_some());
    }

    #[test]
    fn errors_in_the_stream_are_errors() {
        for (event, expected) in [
            (r#"{"error":{"message":"x","code":503}}"#, BackendError::Busy),
            (r#"{"object":"error","message":"x","code":500}"#, BackendError::Failed),
            (r#"{"choices":[{"delta":{},"finish_reason":"error"}]}"#, BackendError::Failed),
            (r#"{"choices":[{"delta":"#, BackendError::Malformed),
            ("[]", BackendError::Malformed),
        ] {
            assert_eq!(reader().read(event.as_bytes()), Err(expected), "{event}");
        }
    }

    #[test]
    fn odd_usage_counts_as_nothing() {
        let mut reader = reader();
        let usage = r#","usage":{"prompt_tokens":-1,"completion_tokens":99999999999}"#;
        reader.read(chat("", usage).as_bytes()).unwrap();
        assert_eq!(reader.usage, Usage { prompt_tokens: 0, completion_tokens: u32::MAX });
    }

    fn event_like() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "null",
            "0",
            "1",
            "-1.5e9",
            "true",
            r#""""#,
            r#""a""#,
            r#""choices""#,
            r#""delta""#,
            r#""content""#,
            r#""index""#,
            r#""usage""#,
            r#""error""#,
            r#""finish_reason""#,
            r#""object""#,
            r#"{"choices":[{"delta":{"content":"a"}}]"#,
            "\n",
            r#"{"choices":[{"index":0,"delta":{"#,
            r#""tool_calls":[1]"#,
            "}}]}",
            r#","x":1}"#,
        ]);
        prop::collection::vec(word, 0..14).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn whatever_is_passed_on_keeps_its_form(event in event_like()) {
            match reader().read(event.as_bytes()) {
                Ok(Step::Chunk(Chunk::Text(text))) => prop_assert!(!text.is_empty()),
                Ok(Step::Chunk(Chunk::Json(json))) => {
                    prop_assert!(!json.contains(&b'\n'));
                    let object: serde_json::Map<String, serde_json::Value> =
                        serde_json::from_slice(&json).unwrap();
                    prop_assert!(object["choices"].is_array());
                    prop_assert!(!object.keys().any(|name| is_envelope(name)));
                }
                Ok(Step::Chunk(other)) => prop_assert!(false, "{:?}", other),
                Ok(Step::Skip | Step::Done) | Err(_) => {}
            }
        }
    }
}
