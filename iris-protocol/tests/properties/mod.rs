//! What holds for anything that a peer sends; shared by the tests and the fuzz targets.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use iris_core::backend::BackendError;
use iris_core::model::{ModelOffer, is_invisible};
use iris_core::{AccountId, ModelName, NodeId, TaskId};
use iris_protocol::message::SessionId;
use iris_protocol::openai::{
    ChatCompletion, ChatCompletionChunk, ChatRequest, Completion, ErrorBody, ModelList,
};
use iris_protocol::rest::{
    AccountCreated, ConsistencyProof, Explanation, Health, InclusionProof, InferenceRequest,
    InferenceStatus, KeyCreated, KeyRequest, LogEntries, NodeList, Roster, SealedRefusal,
    SignedRoster,
};
use iris_protocol::text::{Blob, FixedBytes, Label};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Names, ids and opaque bytes: each text is refused, or is the only one of its value and safe to
/// print.
pub(crate) fn text(text: &str) {
    for printed in [parsed::<ModelName>(text), parsed::<Label<64>>(text)].into_iter().flatten() {
        assert!(!printed.chars().any(is_invisible), "{printed:?}");
        assert_eq!(printed.trim(), printed);
    }
    parsed::<NodeId>(text);
    parsed::<TaskId>(text);
    parsed::<AccountId>(text);
    if let Some(label) = Label::<64>::lossy(text) {
        assert_eq!(label.as_str().parse().as_ref(), Ok(&label));
    }
    let quoted = serde_json::to_string(text).expect("a text has a JSON form");
    for exact in [
        reread::<SessionId>(&quoted),
        reread::<FixedBytes<32>>(&quoted),
        reread::<FixedBytes<64>>(&quoted),
        reread::<Blob<48>>(&quoted),
        reread::<ModelName>(&quoted),
        reread::<NodeId>(&quoted),
    ] {
        assert!(exact.is_none_or(|exact| exact == quoted), "{quoted} has two spellings");
    }
}

/// Bodies and answers of the HTTP APIs: whatever is read is written so that it reads the same.
pub(crate) fn rest(json: &[u8]) {
    settles::<ChatRequest>(json);
    settles::<ChatCompletion>(json);
    settles::<ChatCompletionChunk>(json);
    settles::<Completion>(json);
    settles::<ErrorBody>(json);
    settles::<ModelList>(json);
    settles::<InferenceRequest>(json);
    settles::<InferenceStatus>(json);
    settles::<NodeList>(json);
    settles::<SignedRoster>(json);
    settles::<Roster>(json);
    settles::<InclusionProof>(json);
    settles::<ConsistencyProof>(json);
    settles::<LogEntries>(json);
    settles::<SealedRefusal>(json);
    settles::<Explanation>(json);
    settles::<Health>(json);
    settles::<KeyRequest>(json);
    settles::<KeyCreated>(json);
    settles::<AccountCreated>(json);
    settles::<ModelOffer>(json);
    settles::<BackendError>(json);
    let debugged =
        serde_json::from_slice::<ChatRequest>(json).map(|request| format!("{request:?}"));
    drop(debugged);
}

/// Returns the text of the value that `text` spells, after checking that it spells the same.
fn parsed<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(text: &str) -> Option<String> {
    let value: T = text.parse().ok()?;
    let written = value.to_string();
    assert_eq!(written, text);
    assert_eq!(written.parse::<T>().expect("a value's text is one of its kind"), value);
    Some(written)
}

fn reread<T: DeserializeOwned + Serialize>(json: &str) -> Option<String> {
    let value: T = serde_json::from_str(json).ok()?;
    Some(serde_json::to_string(&value).expect("what was read has a JSON form"))
}

/// Writing what was read, and reading it again, changes nothing any more.
fn settles<T: DeserializeOwned + Serialize>(json: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(json) else { return };
    let written = serde_json::to_string(&value).expect("what was read has a JSON form");
    let again = reread::<T>(&written).expect("what was written can be read");
    let [written, again] = [written, again].map(|text| serde_json::from_str(&text).expect("JSON"));
    assert!(is_same(&written, &again), "{written} became {again}");
}

/// Compares documents, but for the last bits of fractions, which reading may round.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.keys().eq(b.keys()) && a.values().zip(b.values()).all(|(a, b)| is_same(a, b))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let [a, b] = [a, b].map(|number| number.as_f64().unwrap_or_default());
            (a - b).abs() <= a.abs() * 1e-14
        }
        _ => a == b,
    }
}
