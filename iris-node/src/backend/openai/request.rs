//! What of a caller's body reaches the model server.
//!
//! Everything does, byte for byte, except what steers the server rather than the answer, what
//! makes the server read files or fetch addresses, and the two members that say how to stream.

use std::fmt;

use bytes::Bytes;
use iris_core::backend::{BackendError, GenerateRequest, Operation};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::begun;
use super::object::{MAX_DEPTH, Members, ObjectWriter, Text, depth};

/// Bytes that a grammar or schema may have; compiling one costs the server far more.
const MAX_GRAMMAR: usize = 64 * 1024;

/// Tokens that `n_predict` may ask for; without a limit llama.cpp generates for ever.
const MAX_PREDICT: u32 = 32_768;

/// Answers to one prompt that a request may ask for, as with OpenAI; servers make room for all of
/// them before they write the first.
const MAX_CHOICES: f64 = 128.0;

/// Members that choose cache slots, adapters, templates or processors of the server, or hand it
/// objects to unpickle.
pub(super) const SERVER_CONTROL: [&str; 19] = [
    "action",
    "cache_prompt",
    "chat_template",
    "draft_model",
    "filename",
    "id_slot",
    "keep_alive",
    "kv_transfer_params",
    "logits_processors",
    "lora",
    "lora_request",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "n_cache_reuse",
    "priority",
    "prompt_embeds",
    "response_fields",
    "slot_id",
    "slot_save_path",
];

const GRAMMARS: [&str; 8] = [
    "format",
    "grammar",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "json_schema",
    "response_format",
    "structured_outputs",
];

/// Members that say how long an answer may be.
const LIMITS: [&str; 3] = ["max_completion_tokens", "max_tokens", "n_predict"];

/// Returns the body to send for `request`; `None` when its answer is as long as it may be already.
///
/// An answer that is begun needs `says_continue` where the server has to be told by name that its
/// last message goes on.
pub(super) fn prepare(
    request: &GenerateRequest,
    says_continue: bool,
) -> Result<Option<Bytes>, BackendError> {
    if depth(&request.body) > MAX_DEPTH {
        return Err(rejected(None, "the body is nested too deeply"));
    }
    // The parser's own words may quote the prompt.
    let members = Members::parse(&request.body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let place = format!("the body is not a JSON object; see line {line}, column {column}");
        rejected(None, &place)
    })?;
    if let Some(name) = members.duplicate() {
        return Err(rejected(Some(name), "the body has this member twice"));
    }
    check_model(&members, request)?;
    if request.operation == Operation::Embedding && request.stream {
        return Err(rejected(Some("stream"), "embeddings are not streamed"));
    }
    if let Some(begun) = &request.begun {
        check_continuable(&members, request)?;
        if LIMITS.into_iter().any(|name| limit(&members, name).is_some_and(|n| n <= begun.tokens)) {
            return Ok(None);
        }
    }

    let mut body = ObjectWriter::with_capacity(request.body.len() + 64);
    for (name, value) in members.iter() {
        if SERVER_CONTROL.contains(&name) || matches!(name, "stream" | "stream_options") {
            continue;
        }
        if GRAMMARS.contains(&name) && value.get().len() > MAX_GRAMMAR {
            return Err(rejected(Some(name), "the grammar or schema is too large"));
        }
        match name {
            "messages" => check_messages(value)?,
            "n" | "best_of" if is_beyond_choices(value) => {
                return Err(rejected(Some(name), "at most 128 answers can be asked for"));
            }
            _ => {}
        }
        match (name, &request.begun) {
            ("messages", Some(begun)) if request.operation == Operation::Chat => {
                body.member(name, &with_answer(value, &begun.text)?);
            }
            ("prompt", Some(begun)) if request.operation == Operation::Completion => {
                body.member(name, &with_text(value, &begun.text)?);
            }
            ("add_generation_prompt" | "continue_final_message", Some(_)) => {}
            (name, begun) if LIMITS.contains(&name) => {
                let written = begun.as_ref().map_or(0, |begun| begun.tokens);
                body.member(name, &rest_of(name, value, written));
            }
            _ => body.member(name, value.get().as_bytes()),
        }
    }
    if request.begun.is_some() && says_continue && request.operation == Operation::Chat {
        body.member("continue_final_message", b"true");
        body.member("add_generation_prompt", b"false");
    }
    if request.isolated {
        // What llama.cpp calls it; other servers skip it, and keep caches by their own settings.
        body.member("cache_prompt", b"false");
    }
    if request.stream {
        body.member("stream", b"true");
        body.member("stream_options", &with_usage(members.get("stream_options"))?);
    } else {
        body.member("stream", b"false");
    }
    Ok(Some(body.finish().into()))
}

/// Refuses requests whose answer is more than one text that goes on from any place.
fn check_continuable(members: &Members<'_>, request: &GenerateRequest) -> Result<(), BackendError> {
    if !request.stream {
        return Err(rejected(None, "an answer that is not streamed cannot be continued"));
    }
    let one_text = |name: &&str| match members.get(name).map_or("null", RawValue::get) {
        "null" | "false" | "\"\"" => true,
        "1" => matches!(*name, "n" | "best_of"),
        value => *name == "response_format" && is_plain_text(value),
    };
    let others = ["n", "best_of", "echo", "suffix", "use_beam_search"];
    let fault = others.iter().chain(&GRAMMARS).find(|name| !one_text(name));
    match fault {
        Some(name) => Err(rejected(Some(name), "such an answer cannot be continued elsewhere")),
        None => Ok(()),
    }
}

fn is_plain_text(format: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Format<'a> {
        #[serde(borrow, rename = "type")]
        kind: Text<'a>,
    }
    serde_json::from_str(format).is_ok_and(|Format { kind: Text(kind) }| kind == "text")
}

/// Adds the beginning of the answer to a chat.
fn with_answer(messages: &RawValue, answer: &str) -> Result<Vec<u8>, BackendError> {
    let (answer, _) = begun::split(answer);
    let fault = || rejected(Some("messages"), "the answer to this chat cannot be continued");
    let last = serde_json::from_str::<Vec<Role<'_>>>(messages.get());
    let last = last.map_err(|_| fault())?.pop().ok_or_else(fault)?;
    // Two messages by the assistant in a row mean something else to every server.
    if last.role.is_some_and(|Text(role)| role == "assistant") {
        return Err(fault());
    }
    let open = messages.get().trim_end().strip_suffix(']').ok_or_else(fault)?;
    if answer.is_empty() {
        return Ok(messages.get().into());
    }
    let message = serde_json::json!({ "content": answer, "role": "assistant" });
    Ok(format!("{open},{message}]").into())
}

#[derive(serde::Deserialize)]
struct Role<'a> {
    #[serde(borrow, default)]
    role: Option<Text<'a>>,
}

/// Adds the beginning of the answer to a text that is being completed.
fn with_text(prompt: &RawValue, answer: &str) -> Result<Vec<u8>, BackendError> {
    let (answer, _) = begun::split(answer);
    let prompt: String = serde_json::from_str(prompt.get())
        .map_err(|_| rejected(Some("prompt"), "only one text can be completed elsewhere"))?;
    Ok(serde_json::Value::String(prompt + answer).to_string().into())
}

/// Returns a limit of the answer's length; `None` where there is none.
fn limit(members: &Members<'_>, name: &str) -> Option<u32> {
    members.get(name)?.get().parse().ok()
}

/// Returns what a limit leaves to an answer of which `written` tokens are there.
fn rest_of(name: &str, value: &RawValue, written: u32) -> Vec<u8> {
    if name == "n_predict" {
        return (bounded_predict(value) - written.min(MAX_PREDICT - 1)).to_string().into();
    }
    match value.get().parse::<u32>() {
        Ok(limit) if written > 0 => limit.saturating_sub(written).to_string().into(),
        _ => value.get().into(),
    }
}

fn check_model(members: &Members<'_>, request: &GenerateRequest) -> Result<(), BackendError> {
    let named =
        members.get("model").and_then(|raw| serde_json::from_str::<Text<'_>>(raw.get()).ok());
    match named {
        Some(Text(name)) if name == request.model.as_str() => Ok(()),
        _ => Err(rejected(Some("model"), "the body does not name the model that was asked for")),
    }
}

fn check_messages(messages: &RawValue) -> Result<(), BackendError> {
    let messages: Vec<Message> = serde_json::from_str(messages.get())
        .map_err(|_| rejected(Some("messages"), "messages is not a list of messages"))?;
    if messages.iter().any(|message| message.content.remote) {
        return Err(rejected(Some("messages"), "media must be given inline, as a data: URI"));
    }
    Ok(())
}

/// Some servers take `"1e9"` for a number too.
fn is_beyond_choices(value: &RawValue) -> bool {
    value.get().trim_matches('"').trim().parse().is_ok_and(|count: f64| count > MAX_CHOICES)
}

fn bounded_predict(value: &RawValue) -> u32 {
    value.get().parse().map_or(MAX_PREDICT, |asked: u32| asked.min(MAX_PREDICT))
}

/// Asks for the usage whatever the caller wanted to see, because the books need it.
fn with_usage(options: Option<&RawValue>) -> Result<Vec<u8>, BackendError> {
    let mut asked = ObjectWriter::with_capacity(32);
    if let Some(options) = options.filter(|options| options.get() != "null") {
        let options = Members::parse(options.get().as_bytes())
            .map_err(|_| rejected(Some("stream_options"), "stream_options is not an object"))?;
        for (name, value) in options.iter().filter(|(name, _)| *name != "include_usage") {
            asked.member(name, value.get().as_bytes());
        }
    }
    asked.member("include_usage", b"true");
    Ok(asked.finish())
}

fn rejected(param: Option<&str>, message: &str) -> BackendError {
    BackendError::Rejected {
        status: 400,
        code: None,
        param: param.map(|param| param.chars().take(64).collect()),
        message: message.to_owned(),
    }
}

#[derive(serde::Deserialize)]
struct Message {
    #[serde(default)]
    content: Content,
}

/// The content of a message; `remote` when the server would have to fetch or open something.
#[derive(Default)]
struct Content {
    remote: bool,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let walk = Walk { is_address: false };
        Ok(Self { remote: serde::de::DeserializeSeed::deserialize(walk, deserializer)? })
    }
}

/// Looks through a JSON value, at any depth, for addresses other than `data:`.
#[derive(Clone, Copy)]
struct Walk {
    is_address: bool,
}

impl Walk {
    fn into_member(name: &str) -> Self {
        // Servers differ in what they call a part's address, and follow it wherever it stands.
        let is_address = name.ends_with("url")
            || name.ends_with("_embeds")
            || matches!(name, "image" | "audio" | "video");
        Self { is_address }
    }

    fn is_remote(self, text: &str) -> bool {
        let inline = text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
        self.is_address && !inline
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Walk {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the content of a message")
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.is_remote(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let mut remote = false;
        while let Some(found) = items.next_element_seed(self)? {
            remote |= found;
        }
        Ok(remote)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<bool, A::Error> {
        let mut remote = false;
        while let Some(Text(name)) = members.next_key()? {
            if name == "text" {
                members.next_value::<IgnoredAny>()?;
            } else {
                remote |= members.next_value_seed(Self::into_member(&name))?;
            }
        }
        Ok(remote)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use iris_core::backend::Begun;

    use super::*;

    fn prepared(body: &str, stream: bool) -> Result<String, BackendError> {
        let request = GenerateRequest {
            operation: Operation::Chat,
            model: "m".parse().unwrap(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            stream,
            time_left: Duration::from_secs(1),
            begun: None,
            isolated: false,
        };
        let body = prepare(&request, false)?.expect("nothing is begun");
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn isolated_request_leaves_no_prompt_cache_behind() {
        let request = GenerateRequest {
            operation: Operation::Chat,
            model: "m".parse().unwrap(),
            body: r#"{"model":"m","cache_prompt":true}"#.into(),
            stream: false,
            time_left: Duration::from_secs(1),
            begun: None,
            isolated: true,
        };
        let body = prepare(&request, false).unwrap().unwrap();
        assert_eq!(body, r#"{"model":"m","cache_prompt":false,"stream":false}"#);
    }

    fn continued(
        operation: Operation,
        members: &str,
        text: &str,
        says_continue: bool,
    ) -> Result<Option<String>, BackendError> {
        let request = GenerateRequest {
            operation,
            model: "m".parse().unwrap(),
            body: format!(r#"{{"model":"m",{members}}}"#).into(),
            stream: true,
            time_left: Duration::from_secs(1),
            begun: Some(Begun { text: text.to_owned(), tokens: 4 }),
            isolated: false,
        };
        let body = prepare(&request, says_continue)?;
        let end = r#","stream":true,"stream_options":{"include_usage":true}}"#;
        Ok(body.map(|body| {
            let body = std::str::from_utf8(&body).unwrap();
            let members = body.strip_prefix(r#"{"model":"m","#).unwrap();
            members.strip_suffix(end).unwrap().to_owned()
        }))
    }

    const CHAT: &str = r#""messages":[ {"role":"user","content":"Hi"} ]"#;

    #[test]
    fn begun_answer_becomes_the_last_message_and_keeps_its_last_space_back() {
        let last = r#","messages":[ {"role":"user","content":"Hi"} ,{"content":"a \"b\"","role":"assistant"}]"#;
        let sent = continued(Operation::Chat, CHAT, "a \"b\" \n", false).unwrap().unwrap();
        assert_eq!(format!(",{sent}"), last);
        let sent = continued(Operation::Chat, CHAT, "a \"b\"", true).unwrap().unwrap();
        let named = r#","continue_final_message":true,"add_generation_prompt":false"#;
        assert_eq!(format!(",{sent}"), format!("{last}{named}"));
        let sent = continued(Operation::Chat, CHAT, " \n", false).unwrap().unwrap();
        assert_eq!(sent, CHAT, "white space alone is no message");
        let sent = continued(Operation::Completion, r#""prompt":"On\u0063e ""#, "upon ", true);
        assert_eq!(sent.unwrap().unwrap(), r#""prompt":"Once upon""#);
    }

    #[test]
    fn limits_count_what_was_begun() {
        for (limits, left) in [
            (r#""max_tokens":10"#, Some(r#""max_tokens":6"#)),
            (r#""max_completion_tokens":5"#, Some(r#""max_completion_tokens":1"#)),
            (r#""n_predict":-1"#, Some(r#""n_predict":32764"#)),
            (r#""max_tokens":null"#, Some(r#""max_tokens":null"#)),
            (r#""max_tokens":4"#, None),
            (r#""n_predict":3"#, None),
        ] {
            let sent =
                continued(Operation::Completion, &format!(r#""prompt":"",{limits}"#), "a", false);
            let expected = left.map(|left| format!(r#""prompt":"a",{left}"#));
            assert_eq!(sent.unwrap(), expected, "{limits}");
        }
    }

    #[test]
    fn answers_that_are_more_than_one_text_cannot_be_continued() {
        let param = |operation, members: &str| match continued(operation, members, "a", true) {
            Err(BackendError::Rejected { status: 400, param, .. }) => param,
            Ok(_) => None,
            other => panic!("{members} gave {other:?}"),
        };
        for (member, param_at_fault) in [
            (r#""n":2"#, Some("n")),
            (r#""n":1,"echo":false,"response_format":{"type":"text"},"suffix":null"#, None),
            (r#""response_format":{"type":"json_object"}"#, Some("response_format")),
            (r#""grammar":"root ::= x""#, Some("grammar")),
            (r#""echo":true"#, Some("echo")),
        ] {
            let members = format!("{CHAT},{member}");
            assert_eq!(param(Operation::Chat, &members).as_deref(), param_at_fault, "{member}");
        }
        let own =
            r#""messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"So"}]"#;
        assert_eq!(param(Operation::Chat, own).as_deref(), Some("messages"));
        assert_eq!(param(Operation::Chat, r#""messages":[]"#).as_deref(), Some("messages"));
        assert_eq!(param(Operation::Completion, r#""prompt":["a"]"#).as_deref(), Some("prompt"));
    }

    fn refused_param(body: &str) -> Option<String> {
        match prepared(body, true) {
            Err(BackendError::Rejected { status: 400, param, .. }) => param,
            other => panic!("{body} gave {other:?}"),
        }
    }

    fn with_part(part: &str) -> String {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#)
    }

    #[test]
    fn unknown_members_pass_byte_for_byte() {
        let body =
            r#"{"model":"m","min_p":0.050,"tools":[ {"a" : 1e2} ],"x":"\u00e9","stop":null}"#;
        let sent = prepared(body, false).unwrap();
        assert_eq!(sent, format!(r#"{},"stream":false}}"#, &body[..body.len() - 1]));
    }

    #[test]
    fn streaming_follows_the_request_and_always_asks_for_usage() {
        let body = r#"{"model":"m","stream":false,"stream_options":{"include_usage":false,"a":1}}"#;
        let sent = prepared(body, true).unwrap();
        let options = r#""stream_options":{"a":1,"include_usage":true}"#;
        assert_eq!(sent, format!(r#"{{"model":"m","stream":true,{options}}}"#));
        assert_eq!(prepared(body, false).unwrap(), r#"{"model":"m","stream":false}"#);
        assert_eq!(
            prepared(r#"{"model":"m","stream_options":null}"#, true).unwrap(),
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#
        );
    }

    #[test]
    fn server_controls_are_removed_however_they_are_spelt() {
        let body = r#"{"id_slot":3,"cache\u005fprompt":true,"model":"m","lora":[{"id":0}]}"#;
        assert_eq!(prepared(body, false).unwrap(), r#"{"model":"m","stream":false}"#);
    }

    #[test]
    fn endless_prediction_is_bounded() {
        for (asked, sent) in [("-1", 32_768), ("99999999999", 32_768), ("1e9", 32_768), ("7", 7)] {
            let body = format!(r#"{{"model":"m","n_predict":{asked}}}"#);
            let expected = format!(r#"{{"model":"m","n_predict":{sent},"stream":false}}"#);
            assert_eq!(prepared(&body, false).unwrap(), expected);
        }
    }

    #[test]
    fn addresses_the_server_would_fetch_are_refused() {
        for part in [
            r#"{"type":"image_url","image_url":{"url":"http://10.0.0.1/"}}"#,
            r#"{"type":"image_url","image_url":"file:///etc/passwd"}"#,
            r#"{"type":"image_url","image\u005furl":{"u\u0072l":"\u0068ttp://a"}}"#,
            r#"{"type":"image_url","image_url":{"url":"data:,a","url":"http://a"}}"#,
            r#"{"type":"video_url","video_url":{"url":"https://a"}}"#,
            r#"{"type":"image","image":"/etc/passwd"}"#,
            r#"{"x":[{"image_url":["http://a"]}]}"#,
            r#"{"type":"image_embeds","image_embeds":"AAAA"}"#,
        ] {
            assert_eq!(refused_param(&with_part(part)).as_deref(), Some("messages"), "{part}");
        }
    }

    #[test]
    fn inline_media_and_addresses_in_prose_pass() {
        for part in [
            r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AA","detail":"low"}}"#,
            r#"{"type":"text","text":"see http://example.org"}"#,
            r#"{"type":"input_audio","input_audio":{"data":"AA","format":"wav"}}"#,
        ] {
            assert!(prepared(&with_part(part), true).is_ok(), "{part}");
        }
        let prose = r#"{"model":"m","messages":[{"role":"user","content":"http://a"}]}"#;
        assert!(prepared(prose, true).is_ok());
    }

    #[test]
    fn bodies_with_two_meanings_are_refused() {
        assert_eq!(refused_param(r#"{"model":"m","stop":1,"stop":2}"#).as_deref(), Some("stop"));
        assert_eq!(refused_param(r#"{"model":"other"}"#).as_deref(), Some("model"));
        assert_eq!(refused_param(r#"{"messages":[]}"#).as_deref(), Some("model"));
    }

    #[test]
    fn bodies_that_cost_more_than_they_should_are_refused() {
        let deep = format!(r#"{{"model":"m","x":{}{}}}"#, "[".repeat(64), "]".repeat(64));
        assert_eq!(refused_param(&deep), None);
        let grammar = format!(r#"{{"model":"m","grammar":"{}"}}"#, "x".repeat(MAX_GRAMMAR));
        assert_eq!(refused_param(&grammar).as_deref(), Some("grammar"));
        for count in ["129", "1e9", "1e400", "\"1000000000\"", "4294967296"] {
            let body = format!(r#"{{"model":"m","n":{count}}}"#);
            assert_eq!(refused_param(&body).as_deref(), Some("n"), "{count}");
        }
        assert!(prepared(r#"{"model":"m","n":128,"best_of":null}"#, true).is_ok());
    }
}
