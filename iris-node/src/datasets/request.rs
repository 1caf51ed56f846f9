//! A chat that asks for a data set, and what becomes of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use iris_core::backend::BackendError;
use iris_core::plan::tokens;
use iris_protocol::openai::DATASET;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Loaded;

/// The shortest answer that there must be room for when a request names no length, in tokens.
const SHORTEST_ANSWER: u32 = 64;

/// The members of a request, their values unread.
type Members<'a> = BTreeMap<String, &'a RawValue>;

/// What is asked for, and by which key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) key: Option<Cow<'a, str>>,
}

/// A message that only says something.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Text<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Cow<'a, str>,
}

/// Returns whether a body may ask for a data set, without reading it: most say nothing like it.
pub(super) fn may_wish(body: &[u8]) -> bool {
    let name = DATASET.as_bytes();
    // Quotation marks inside of texts are escaped, so that only names and whole texts look alike.
    let starts = body.iter().enumerate().filter(|(_, byte)| **byte == b'"');
    let mut rests = starts.map(|(at, _)| &body[at + 1..]);
    rests.any(|rest| rest.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'"')))
}

/// Reads a request's members; `None` when it asks for no data set after all.
pub(super) fn members(body: &[u8]) -> Option<Members<'_>> {
    let members: Members<'_> = serde_json::from_slice(body).ok()?;
    members.contains_key(DATASET).then_some(members)
}

/// Takes out what is asked for.
pub(super) fn take_wish<'a>(members: &mut Members<'a>) -> Result<Option<Wish<'a>>, BackendError> {
    let Some(wish) = members.remove(DATASET) else { return Ok(None) };
    let wrong = |_| {
        let message = "'iris_dataset' must be an object with 'name' and, where its owner wants \
                       one, 'key'.";
        rejected(400, "invalid_dataset", message.to_owned())
    };
    serde_json::from_str(wish.get()).map_err(wrong)
}

/// Puts the data before the prompt, if both and the answer fit into `context` tokens.
pub(super) fn inform(
    mut members: Members<'_>,
    name: &str,
    data: &Loaded,
    context: Option<u32>,
) -> Result<Bytes, BackendError> {
    let malformed =
        || rejected(400, "invalid_dataset", "A data set goes with a chat's messages.".to_owned());
    let messages = members.remove("messages").ok_or_else(malformed)?;
    fit(&members, messages, name, data, context)?;
    let mut messages: Vec<&RawValue> =
        serde_json::from_str(messages.get()).map_err(|_| malformed())?;
    let told = format!("Data set `{name}` ({}):\n\n{}", data.form.name(), data.text);
    // Many models take one message of the system only, so the caller's own goes first into it.
    let own = messages.first().and_then(|first| serde_json::from_str::<Text<'_>>(first.get()).ok());
    let told = match own.filter(|own| own.role == "system") {
        Some(own) => {
            messages.remove(0);
            format!("{}\n\n{told}", own.content)
        }
        None => told,
    };
    let system = Text { role: "system".into(), content: told.into() };
    let system = serde_json::value::to_raw_value(&system).map_err(|_| malformed())?;
    messages.insert(0, &system);
    let messages = serde_json::value::to_raw_value(&messages).map_err(|_| malformed())?;
    let mut informed: BTreeMap<&str, &RawValue> =
        members.iter().map(|(name, value)| (&**name, *value)).collect();
    informed.insert("messages", &messages);
    serde_json::to_vec(&informed).map(Bytes::from).map_err(|_| malformed())
}

/// Refuses what does not fit: a model's server may cut it without a word.
fn fit(
    members: &Members<'_>,
    messages: &RawValue,
    name: &str,
    data: &Loaded,
    context: Option<u32>,
) -> Result<(), BackendError> {
    let Some(context) = context else { return Ok(()) };
    let size = |member: &str| members.get(member).map_or(0, |value| tokens(value.get()));
    let prompt = tokens(messages.get()).saturating_add(size("tools"));
    let count = |member: &str| {
        let value = members.get(member)?;
        serde_json::from_str::<u32>(value.get()).ok()
    };
    let answer = count("max_completion_tokens").max(count("max_tokens")).unwrap_or_default();
    let (data, answer) = (tokens(&data.text), answer.max(SHORTEST_ANSWER));
    if data.saturating_add(prompt).saturating_add(answer) <= context {
        return Ok(());
    }
    let message = format!(
        "The data set `{name}` has about {data} tokens, the prompt about {prompt} and the answer \
         {answer}; the model's context has {context}."
    );
    Err(rejected(413, "dataset_too_large", message))
}

/// Makes a refusal that is the caller's fault.
pub(super) fn rejected(status: u16, code: &str, message: String) -> BackendError {
    let (code, param) = (Some(code.to_owned()), Some(DATASET.to_owned()));
    BackendError::Rejected { status, code, param, message }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::file::Form;
    use super::*;

    fn data(text: &str) -> Loaded {
        Loaded { form: Form::Csv, text: text.into() }
    }

    fn informed(body: &Value, text: &str, context: Option<u32>) -> Result<Value, BackendError> {
        let body = serde_json::to_vec(body).unwrap();
        assert!(may_wish(&body));
        let mut members = members(&body).unwrap();
        let wish = take_wish(&mut members)?.unwrap();
        let body = inform(members, &wish.name, &data(text), context)?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    fn chat(messages: &Value) -> Value {
        json!({"model": "m", "messages": messages, "iris_dataset": {"name": "d", "key": "k"}})
    }

    fn code(refused: Result<Value, BackendError>) -> (u16, String, String) {
        match refused.unwrap_err() {
            BackendError::Rejected { status, code, message, .. } => {
                (status, code.unwrap(), message)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn data_stand_before_the_prompt_and_the_wish_is_gone() {
        let told = "Data set `d` (CSV):\n\na,\"b\"\n1,2";
        let user = json!({"role": "user", "content": "q", "name": "somebody"});
        let body = informed(&chat(&json!([user])), "a,\"b\"\n1,2", None).unwrap();
        let system = json!({"role": "system", "content": told});
        assert_eq!(body, json!({"model": "m", "messages": [system, user]}));
        let own = json!({"role": "system", "content": "Be brief."});
        let body = informed(&chat(&json!([own, user])), "a,\"b\"\n1,2", None).unwrap();
        let system = json!({"role": "system", "content": format!("Be brief.\n\n{told}")});
        assert_eq!(body["messages"], json!([system, user]));
    }

    #[test]
    fn other_members_stay_as_they_were_written() {
        let body = br#"{"x":1.00e2,"big":123456789012345678901234567890,"messages":[],"iris_dataset":{"name":"d"}}"#;
        let mut members = members(body).unwrap();
        take_wish(&mut members).unwrap();
        let body = inform(members, "d", &data("1"), None).unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.contains("1.00e2") && text.contains("123456789012345678901234567890"));
        assert!(!text.contains("iris_dataset"));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_sizes() {
        let mut body = chat(&json!([{"role": "user", "content": "q"}]));
        body["max_tokens"] = json!(100);
        let text = "1234567890".repeat(100);
        // 500 tokens of data, 19 of messages and 100 of the answer.
        assert!(informed(&body, &text, Some(619)).is_ok());
        let (status, name, message) = code(informed(&body, &text, Some(610)));
        assert_eq!((status, name.as_str()), (413, "dataset_too_large"));
        assert!(message.contains("500") && message.contains("610"), "{message}");
        assert!(!message.contains("1234"), "{message}");
    }

    #[test]
    fn wishes_that_make_no_sense_are_refused() {
        for wish in [json!("d"), json!({}), json!({"name": 1}), json!({"name": "d", "nme": 1})] {
            let body = json!({"messages": [], "iris_dataset": wish});
            assert_eq!(code(informed(&body, "", None)).0, 400, "{wish}");
        }
        let prompt = json!({"prompt": "p", "iris_dataset": {"name": "d"}});
        assert_eq!(code(informed(&prompt, "", None)).0, 400);
    }

    #[test]
    fn only_bodies_that_name_the_member_are_read() {
        assert!(may_wish(br#"{"iris_dataset":{}}"#));
        for body in [
            &b""[..],
            b"\"",
            br#"{"messages":[{"role":"user","content":"\"iris_dataset\""}]}"#,
            br#"{"iris_datasets":1,"iris_datase":2}"#,
        ] {
            assert!(!may_wish(body), "{}", String::from_utf8_lossy(body));
        }
        assert!(members(br#"{"messages":["iris_dataset"]}"#).is_none());
    }
}
