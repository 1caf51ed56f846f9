//! What holds for anything that callers ask and nodes answer; shared by the tests and the fuzz
//! targets.

use bytes::{Bytes, BytesMut};
use iris_core::TaskId;
use iris_core::backend::{Chunk, Finish, Operation, Usage};
use iris_core::routing::ANY;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::asked::{Asked, check_object};
use super::envelope::{EventWriter, Heading};
use super::json::{JsonError, Reader};
use super::scores::{PromptScores, read_logprobs};
use super::unnamed::{last_words, with_model};

const OPERATIONS: [Operation; 2] = [Operation::Chat, Operation::Completion];
const MODEL: &str = "org/\"m\"";

/// A body is refused, or is read as every other reader of it reads it.
pub fn request(body: &[u8]) {
    if let Ok(text) = std::str::from_utf8(body) {
        agrees_on_json(text);
    }
    let is_json = serde_json::from_slice::<IgnoredAny>(body).is_ok();
    let value: Option<Value> = serde_json::from_slice(body).ok();
    assert!(check_object(body).is_err() || is_json);
    for operation in OPERATIONS {
        let Ok(asked) = Asked::read(operation, body) else { continue };
        assert!(is_json);
        // Numbers beyond all bounds are well-formed, but no value holds them.
        let Some(value) = &value else { continue };
        assert_eq!(value["model"].as_str().unwrap_or(ANY), asked.model.as_str());
        names_only_the_model(operation, body, value);
        assert_eq!(value["stream"] == true, asked.stream);
        let most = [&value["max_tokens"], &value["max_completion_tokens"]];
        let most = most.into_iter().filter_map(Value::as_u64).max().unwrap_or(0);
        assert_eq!(most, u64::from(asked.max_tokens));
    }
}

/// The model that is chosen is all that changes in a body, and its last words can be read.
fn names_only_the_model(operation: Operation, body: &[u8], value: &Value) {
    let model = MODEL.parse().expect("it is a name");
    let named = with_model(body, &model).expect("the body was read before");
    let mut expected = value.clone();
    expected["model"] = MODEL.into();
    let named: Value = serde_json::from_slice(&named).expect("it is JSON still");
    assert_eq!(named, expected);
    assert!(last_words(operation, body).is_ok());
}

/// What a server says of tokens is refused, or is what a model can find.
pub fn scores(answer: &[u8]) {
    let is_json = serde_json::from_slice::<IgnoredAny>(answer).is_ok();
    if let Ok(tokens) = read_logprobs(answer) {
        assert!(is_json && tokens.iter().all(|token| token.logprob.micros() <= 0));
    }
    let Ok(scores) = PromptScores::read(answer) else { return };
    assert!(is_json);
    for score in scores.all() {
        assert!(score.rank > 0 && score.gap() >= 0);
        assert!(score.rank > 1 || score.gap() == 0);
    }
    // Whatever the text is, at most all of it is the answer.
    for text in ["a", "\u{e9}a", " a ", &String::from_utf8_lossy(answer)] {
        assert!(scores.of_answer(text).map_or(0, |of| of.len()) <= scores.all().len());
    }
}

/// What a node answers is refused, or becomes one event or one object under our name.
pub fn answer(bytes: &[u8]) {
    for operation in OPERATIONS {
        let task = TaskId::from_bytes([1; 16]);
        let heading = Heading { operation, task, created: 7, model: MODEL };
        if let Ok(body) = heading.whole(bytes) {
            is_ours(&body);
        }
        for include_usage in [false, true] {
            let writer = EventWriter::new(heading, include_usage);
            let mut out = BytesMut::new();
            match writer.chunk(&Chunk::Json(Bytes::copy_from_slice(bytes)), &mut out) {
                Ok(()) => is_ours(only_event(&out)),
                Err(_) => assert!(out.is_empty()),
            }
            if let Ok(text) = std::str::from_utf8(bytes) {
                carries_text(&writer, operation, text);
            }
        }
    }
}

fn carries_text(writer: &EventWriter, operation: Operation, text: &str) {
    let mut out = BytesMut::new();
    writer.chunk(&Chunk::Text(text.to_owned()), &mut out).expect("any text is an answer");
    let event: Value = serde_json::from_slice(only_event(&out)).expect("our own events are JSON");
    let choice = &event["choices"][0];
    let said = match operation {
        Operation::Chat => &choice["delta"]["content"],
        Operation::Completion | Operation::Embedding => &choice["text"],
    };
    assert_eq!(said, text);
    let usage = Usage { prompt_tokens: 1, completion_tokens: 2 };
    let mut out = BytesMut::new();
    writer.finish(&Finish { reason: text.to_owned(), usage }, &mut out);
    let end = out.strip_suffix(b"data: [DONE]\n\n").expect("a stream ends with its mark");
    for event in end.strip_suffix(b"\n\n").expect("events end").split_inclusive(|b| *b == b'\n') {
        assert!(event == b"\n" || event.starts_with(b"data: {"), "{event:?}");
    }
}

/// Returns the data of the one event in `out`, which is one line.
fn only_event(out: &[u8]) -> &[u8] {
    let data = out.strip_prefix(b"data: ").and_then(|rest| rest.strip_suffix(b"\n\n"));
    let data = data.expect("an event has its form");
    assert!(!data.iter().any(|byte| matches!(byte, b'\n' | b'\r')));
    data
}

fn is_ours(object: &[u8]) {
    serde_json::from_slice::<IgnoredAny>(object).expect("what is passed on is JSON");
    if let Ok(value) = serde_json::from_slice::<Value>(object) {
        assert!(value["id"].as_str().is_some_and(|id| id.ends_with(&"01".repeat(16))));
        assert_eq!((&value["model"], &value["created"]), (&MODEL.into(), &7.into()));
        assert!(value.get("error").is_none() && value["choices"].is_array());
    }
}

fn agrees_on_json(text: &str) {
    let mut reader = Reader::new(text);
    match reader.skip().and_then(|_| reader.end()) {
        Ok(()) => drop(serde_json::from_str::<IgnoredAny>(text).expect("it is JSON")),
        Err(JsonError::Invalid) => assert!(serde_json::from_str::<IgnoredAny>(text).is_err()),
        Err(JsonError::TooDeep) => {}
    }
    if let (Ok(ours), Ok(theirs)) =
        (Reader::new(text).string(), serde_json::from_str::<String>(text))
    {
        assert_eq!(ours, theirs);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts of the pieces that requests and answers are made of, well-formed more often than not.
    fn almost_object(names: &'static [&'static str]) -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "null",
            "true",
            "false",
            "0",
            "-1",
            "1.5",
            "1e400",
            "4294967296",
            "9007199254740993",
            r#""m""#,
            r#""a\nb""#,
            r#""\ud83d\ude00""#,
            r#""\ud800""#,
            r#""json_schema""#,
            "\"\u{2028}\"",
        ]);
        let name = prop::sample::select(names.to_vec());
        let value = leaf.prop_map(str::to_owned).prop_recursive(4, 32, 5, move |inner| {
            let member = (name.clone(), inner.clone()).prop_map(|(n, v)| format!("\"{n}\":{v}"));
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
                prop::collection::vec(member, 0..6)
                    .prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        });
        (value, prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<char>())))
            .prop_map(|(mut text, damage)| {
                if let Some((at, c)) = damage {
                    let at = text.floor_char_boundary(at.index(text.len()));
                    text.insert(at, c);
                }
                text
            })
    }

    const ASKED: &[&str] = &[
        "\\ud800",
        "model",
        "messages",
        "prompt",
        "content",
        "role",
        "image_url",
        "type",
        "stream",
        "stream_options",
        "include_usage",
        "max_tokens",
        "max_completion_tokens",
        "tools",
        "response_format",
        "logprobs",
        "n",
        "mod\\u0065l",
    ];
    const ANSWERED: &[&str] = &[
        "\\ud800",
        "choices",
        "choices",
        "choices",
        "delta",
        "content",
        "index",
        "usage",
        "error",
        "id",
        "model",
        "object",
        "created",
        "\\u0069d",
        "system_fingerprint",
        "x",
    ];

    const SCORED: &[&str] = &[
        "prompt_logprobs",
        "prompt_logprobs",
        "choices",
        "logprobs",
        "content",
        "1",
        "2",
        "logprob",
        "rank",
        "decoded_token",
        "token",
        "bytes",
    ];

    /// Texts of answers that score, each place right or nearly so.
    fn almost_scores() -> impl Strategy<Value = String> {
        let number = prop::sample::select(vec!["-0.5", "-1", "0", "1", "-1e999", "1e-9", "null"]);
        let rank = prop::sample::select(vec!["1", "1", "1", "2", "9", "0"]);
        let text = prop::sample::select(vec![r#""a""#, r#""""#, r#"" a""#, r#""\ufffd""#, "null"]);
        let token = (number, rank, text).prop_map(|(number, rank, text)| {
            format!(r#"{{"logprob":{number},"rank":{rank},"decoded_token":{text}}}"#)
        });
        let place = prop::collection::vec(token, 0..3).prop_map(|tokens| {
            let named = tokens.iter().enumerate().map(|(id, token)| format!(r#""{id}":{token}"#));
            format!("{{{}}}", named.collect::<Vec<_>>().join(","))
        });
        prop::collection::vec(place, 0..6).prop_map(|mut places| {
            places.insert(0, "null".to_owned());
            format!(r#"{{"prompt_logprobs":[{}]}}"#, places.join(","))
        })
    }

    proptest! {
        #[test]
        fn scores_are_refused_or_are_scores(
            bytes in prop_oneof![
                4 => almost_scores().prop_map(String::into_bytes),
                2 => almost_object(SCORED).prop_map(String::into_bytes),
                1 => any::<Vec<u8>>(),
            ],
        ) {
            scores(&bytes);
        }

        #[test]
        fn requests_are_refused_or_read_as_others_read_them(body in almost_object(ASKED)) {
            request(body.as_bytes());
        }

        #[test]
        fn requests_with_sense_are_read_as_others_read_them(
            members in prop::collection::vec(prop::sample::select(vec![
                r#""stream":true"#, r#""max_tokens":7"#, r#""max_completion_tokens":-1"#,
                r#""stop":null"#, r#""x":[{}]"#, r#""tools":[1]"#, r#""logprobs":0"#,
                r#""stream_options":{"include_usage":true}"#,
            ]), 0..4),
        ) {
            let rest = [&[""], &members[..]].concat().join(",");
            let body = format!(r#"{{"model":"m","prompt":"a","messages":[{{"content":"b"}}]{rest}}}"#);
            request(body.as_bytes());
        }

        #[test]
        fn answers_are_refused_or_become_ours(
            bytes in prop_oneof![
                4 => almost_object(ANSWERED).prop_map(String::into_bytes),
                1 => any::<String>().prop_map(String::into_bytes),
                1 => any::<Vec<u8>>(),
            ],
        ) {
            answer(&bytes);
        }
    }
}
