//! What is read of a request's body on its way to a node; the rest passes unread.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use iris_core::ModelName;
use iris_core::backend::Operation;
use iris_core::model::Abilities;
use iris_core::routing::{ANY, Unnamed};

use super::RequestError;
use super::json::{JsonError, Kind, Reader};
use super::preferences::{PREFERENCES, Preferences};
use crate::limits::MAX_DATASET_LEN;

/// Most messages of one conversation.
const MAX_MESSAGES: usize = 2048;
/// Most members of a request's object; OpenAI knows about forty.
const MAX_MEMBERS: usize = 256;
/// Bytes of JSON that count as one token; what English text comes to.
const BYTES_PER_TOKEN: usize = 4;
/// Tokens that an image counts as, whatever its size.
const IMAGE_TOKENS: usize = 1024;

/// Most alternatives that can be asked for beside each token of a prompt.
const MAX_ALTERNATIVES: u32 = 20;

/// The member by which a chat asks for a data set that lies on a node: an object with its `name`
/// and, where its owner wants one, a `key`. The node takes it out.
pub const DATASET: &str = "iris_dataset";

/// What a request asks for, as far as it matters for finding a node and writing the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The model, or what stands in place of one; [`ANY`] where there is nothing.
    pub model: ModelName,
    /// Whether the answer comes in chunks.
    pub stream: bool,
    /// Whether a streamed answer ends with the tokens used.
    pub include_usage: bool,
    /// The longest answer in tokens; zero when the request does not say.
    pub max_tokens: u32,
    /// What the prompt comes to, estimated from its size; of texts for vectors, the longest.
    pub prompt_tokens: u32,
    /// What the model must be able to do.
    pub abilities: Abilities,
    /// The data set on the node that the prompt is about.
    pub dataset: Option<String>,
    /// Which nodes may answer.
    pub preferences: Preferences,
    /// Where a chat's messages stand in the body.
    pub turns: Option<Turns>,
    /// Where the preferences stand in the body, with a comma.
    cut: Option<Range<usize>>,
}

/// Where the messages of a conversation stand in a body, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// Where the first one begins.
    pub start: usize,
    /// Where the last one ends that was there before the last answer and the question after it:
    /// the third from the end.
    pub before: Option<usize>,
    /// Where the last one ends.
    pub end: usize,
}

impl Asked {
    /// Reads the body of a request for `operation`, without copying it.
    pub fn read(operation: Operation, body: &[u8]) -> Result<Self, RequestError> {
        let text = text(body)?;
        let mut scan = Scan::default();
        let mut reader = Reader::new(text);
        if reader.kind().is_ok_and(|kind| kind != Kind::Object) {
            return Err(RequestError::invalid("The request body must be a JSON object."));
        }
        read_members(&mut reader, |reader, name| scan.member(reader, name))?;
        reader.end().map_err(Fault::from)?;
        let preferences = scan.preferences.clone();
        let mut asked = scan.finish(operation)?;
        if let Some(place) = preferences {
            asked.preferences = Preferences::read(&text[place.clone()])?;
            asked.cut = Some(member_at(text, place));
        }
        Ok(asked)
    }

    /// Returns the body that was read as nodes see it: without what is only for whoever chooses
    /// them.
    pub fn body_for_nodes(&self, body: &Bytes) -> Bytes {
        let Some(cut) = &self.cut else { return body.clone() };
        let mut rest = BytesMut::with_capacity(body.len());
        rest.extend_from_slice(&body[..cut.start]);
        rest.extend_from_slice(&body[cut.end..]);
        rest.freeze()
    }
}

/// Returns how many bytes the longest of the texts has that are to become vectors: each is read by
/// itself, so a model needs room for no more.
fn longest(reader: &mut Reader<'_>) -> Result<usize, Fault> {
    if reader.kind()? != Kind::Array {
        return Ok(reader.skip()?);
    }
    let (mut tokens, mut longest) = (0, 0);
    reader.array(|reader| {
        let is_token = reader.kind()? == Kind::Number;
        let bytes = reader.skip()?;
        if is_token {
            tokens += bytes;
        } else {
            longest = bytes.max(longest);
        }
        Ok::<_, Fault>(())
    })?;
    Ok(longest.max(tokens))
}

/// Returns where a member of the outermost object stands whose value is at `value`, with a comma
/// that it needs no more.
fn member_at(text: &str, value: Range<usize>) -> Range<usize> {
    let head = text[..value.start].trim_end().trim_end_matches(':').trim_end();
    // The name means nothing but letters, so its quotes are the last two.
    let name = head[..head.len() - 1].rfind('"').unwrap_or_default();
    let tail = &text[value.end..];
    let after = tail.trim_start();
    if let Some(rest) = after.strip_prefix(',') {
        return name..text.len() - rest.len();
    }
    let before = text[..name].trim_end();
    before.strip_suffix(',').map_or(name, str::len)..value.end
}

/// Checks that a body is one JSON object that is not too deep and names each member once.
pub fn check_object(body: &[u8]) -> Result<(), RequestError> {
    let mut reader = Reader::new(text(body)?);
    read_members(&mut reader, |reader, _| Ok(reader.skip().map(drop)?))?;
    Ok(reader.end().map_err(Fault::from)?)
}

/// Reads the outermost object and sees to it that no member occurs twice: two readers of one
/// body must not see two different requests.
fn read_members<'a>(
    reader: &mut Reader<'a>,
    mut member: impl FnMut(&mut Reader<'a>, &Cow<'a, str>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut seen: Vec<Cow<'a, str>> = Vec::with_capacity(16);
    reader.object(|reader, name| {
        if seen.iter().any(|known| known == name) {
            return Err(Fault::refused(format!("The member '{name}' occurs twice."), None));
        }
        if seen.len() == MAX_MEMBERS {
            return Err(Fault::refused("The request has too many members.".to_owned(), None));
        }
        seen.push(name.clone());
        member(reader, name)
    })
}

/// Why a body is refused, before it is known how to say so.
enum Fault {
    Json(JsonError),
    Refused(RequestError),
}

impl Fault {
    fn refused(message: String, param: Option<&'static str>) -> Self {
        Self::Refused(RequestError::Invalid { message: message.into(), param })
    }

    fn wrong_type(param: &'static str, expected: &str) -> Self {
        Self::refused(format!("'{param}' must be {expected}."), Some(param))
    }
}

impl From<JsonError> for Fault {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

impl From<JsonError> for RequestError {
    fn from(error: JsonError) -> Self {
        Self::invalid(format!("The request body is {error}."))
    }
}

impl From<Fault> for RequestError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Json(error) => error.into(),
            Fault::Refused(error) => error,
        }
    }
}

#[derive(Default)]
struct Scan {
    model: Option<String>,
    messages: Option<usize>,
    prompt: bool,
    /// How long what is to become vectors is.
    input_bytes: Option<usize>,
    stream: bool,
    include_usage: bool,
    max_tokens: u32,
    max_completion_tokens: u32,
    prompt_bytes: usize,
    images: usize,
    /// What only a completion asks for by what it says.
    of_completions: Abilities,
    abilities: Abilities,
    dataset: Option<String>,
    turns: Option<Turns>,
    preferences: Option<Range<usize>>,
}

impl Scan {
    fn member(&mut self, reader: &mut Reader<'_>, name: &str) -> Result<(), Fault> {
        if name == PREFERENCES {
            reader.kind()?;
            let start = reader.position();
            reader.skip()?;
            self.preferences = Some(start..reader.position());
            return Ok(());
        }
        // A null stands for an absent member everywhere.
        if reader.kind()? == Kind::Null {
            reader.skip()?;
            return Ok(());
        }
        match name {
            "model" => self.model = Some(expect_string(reader, "model")?),
            "messages" => self.messages(reader)?,
            "prompt" => {
                self.prompt = true;
                self.prompt_bytes += reader.skip()?;
            }
            "input" => self.input_bytes = Some(longest(reader)?),
            "stream" => self.stream = expect_bool(reader, "stream")?,
            "stream_options" => self.stream_options(reader)?,
            "max_tokens" => self.max_tokens = expect_count(reader, "max_tokens")?,
            "max_completion_tokens" => {
                self.max_completion_tokens = expect_count(reader, "max_completion_tokens")?;
            }
            "tools" | "functions" => self.tools(reader)?,
            "response_format" => self.response_format(reader)?,
            "logprobs" => self.logprobs(reader)?,
            "prompt_logprobs" => self.prompt_logprobs(reader)?,
            DATASET => self.dataset(reader)?,
            _ => drop(reader.skip()?),
        }
        Ok(())
    }

    fn messages(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        if reader.kind()? != Kind::Array {
            return Err(Fault::wrong_type("messages", "an array"));
        }
        let start = reader.position();
        let (mut count, mut image_bytes, mut images) = (0, 0, 0);
        let mut first = None;
        // Where the last three ended, the last one first.
        let mut ends = [None; 3];
        reader.array(|reader| {
            count += 1;
            if count > MAX_MESSAGES {
                let message = format!("At most {MAX_MESSAGES} messages are accepted.");
                return Err(Fault::refused(message, Some("messages")));
            }
            if reader.kind()? != Kind::Object {
                return Err(Fault::wrong_type("messages", "an array of objects"));
            }
            let level = reader.depth();
            first.get_or_insert(reader.position());
            reader.object(|reader, name| {
                if name == "content" && reader.kind()? == Kind::Array {
                    debug_assert_eq!(reader.depth(), level + 1);
                    let (parts, bytes) = count_images(reader)?;
                    images += parts;
                    image_bytes += bytes;
                } else {
                    reader.skip()?;
                }
                Ok::<(), Fault>(())
            })?;
            ends = [Some(reader.position()), ends[0], ends[1]];
            Ok(())
        })?;
        if let (Some(start), [Some(end), _, before]) = (first, ends) {
            self.turns = Some(Turns { start, before, end });
        }
        self.messages = Some(count);
        self.images += images;
        self.prompt_bytes += reader.position() - start - image_bytes;
        Ok(())
    }

    fn stream_options(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        if reader.kind()? != Kind::Object {
            return Err(Fault::wrong_type("stream_options", "an object"));
        }
        reader.object(|reader, name| {
            if name == "include_usage" && reader.kind()? == Kind::Bool {
                self.include_usage = reader.bool()?;
            } else {
                reader.skip()?;
            }
            Ok(())
        })
    }

    fn tools(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        if reader.kind()? != Kind::Array {
            return Err(Fault::wrong_type("tools", "an array"));
        }
        let mut any = false;
        let start = reader.position();
        reader.array(|reader| {
            any = true;
            reader.skip().map(drop)
        })?;
        self.prompt_bytes += reader.position() - start;
        // An empty list asks for nothing.
        if any {
            self.abilities = self.abilities.union(Abilities::TOOLS);
        }
        Ok(())
    }

    fn response_format(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        if reader.kind()? != Kind::Object {
            return Err(Fault::wrong_type("response_format", "an object"));
        }
        reader.object(|reader, name| {
            if name == "type" && reader.kind()? == Kind::String {
                if reader.string()? == "json_schema" {
                    self.abilities = self.abilities.union(Abilities::JSON_SCHEMA);
                }
            } else {
                reader.skip()?;
            }
            Ok(())
        })
    }

    fn dataset(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let wrong = || Fault::wrong_type(DATASET, "an object with a 'name' of 1 to 64 bytes");
        if reader.kind()? != Kind::Object {
            return Err(wrong());
        }
        reader.object(|reader, name| {
            if name == "name" && reader.kind()? == Kind::String {
                self.dataset = Some(reader.string()?.into_owned());
            } else {
                reader.skip()?;
            }
            Ok::<(), Fault>(())
        })?;
        let fits = |name: &String| (1..=MAX_DATASET_LEN).contains(&name.len());
        if self.dataset.as_ref().is_some_and(fits) { Ok(()) } else { Err(wrong()) }
    }

    /// Reads how many alternatives are wanted for each token of the prompt, which asks for scores.
    fn prompt_logprobs(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let most = MAX_ALTERNATIVES;
        let count = match reader.kind()? {
            Kind::Number => reader.number()?.parse().ok().filter(|count: &u32| *count <= most),
            _ => None,
        };
        if count.is_none() {
            let expected = format!("a whole number from 0 to {most}");
            return Err(Fault::wrong_type("prompt_logprobs", &expected));
        }
        self.abilities = self.abilities.union(Abilities::SCORE);
        Ok(())
    }

    /// A chat says `true`; a completion says how many alternatives, and even 0 asks for the token
    /// that was chosen.
    fn logprobs(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        match reader.kind()? {
            Kind::Bool if !reader.bool()? => {}
            Kind::Number if reader.number()? == "0" => self.of_completions = Abilities::LOGPROBS,
            Kind::Bool | Kind::Number => self.abilities = self.abilities.union(Abilities::LOGPROBS),
            _ => return Err(Fault::wrong_type("logprobs", "a boolean or a number")),
        }
        Ok(())
    }

    fn finish(mut self, operation: Operation) -> Result<Asked, RequestError> {
        let missing = |param: &'static str| RequestError::Invalid {
            message: format!("You must provide the parameter '{param}'.").into(),
            param: Some(param),
        };
        let model = self.model.take().unwrap_or_else(|| ANY.to_owned());
        match operation {
            Operation::Chat => match self.messages {
                None => return Err(missing("messages")),
                Some(0) => {
                    let message = "'messages' must not be empty.".into();
                    return Err(RequestError::Invalid { message, param: Some("messages") });
                }
                Some(_) => {}
            },
            Operation::Completion if !self.prompt => return Err(missing("prompt")),
            Operation::Completion => {}
            Operation::Embedding if self.input_bytes.is_none() => return Err(missing("input")),
            // Vectors of different models cannot be compared, so the caller must know which it is.
            Operation::Embedding if Unnamed::of_name(&model).is_some() => {
                return Err(missing("model"));
            }
            Operation::Embedding if self.stream => {
                let message = "Embeddings are not streamed.".into();
                return Err(RequestError::Invalid { message, param: Some("stream") });
            }
            Operation::Embedding => {
                self.abilities = Abilities::EMBEDDINGS;
                self.prompt_bytes = self.input_bytes.unwrap_or_default();
            }
        }
        if operation == Operation::Completion {
            self.abilities = self.abilities.union(self.of_completions);
        }
        if self.stream && self.abilities.contains(Abilities::SCORE) {
            let message = "'prompt_logprobs' come with an answer that is not streamed.".into();
            return Err(RequestError::Invalid { message, param: Some("prompt_logprobs") });
        }
        if self.images > 0 {
            self.abilities = self.abilities.union(Abilities::VISION);
        }
        let prompt = self.prompt_bytes / BYTES_PER_TOKEN + self.images * IMAGE_TOKENS;
        Ok(Asked {
            // A name that no model can have is the name of no model.
            model: model.parse().map_err(|_| RequestError::UnknownModel)?,
            stream: self.stream,
            include_usage: self.include_usage,
            max_tokens: self.max_tokens.max(self.max_completion_tokens),
            prompt_tokens: u32::try_from(prompt).unwrap_or(u32::MAX),
            abilities: self.abilities,
            dataset: self.dataset,
            preferences: Preferences::default(),
            turns: self.turns,
            cut: None,
        })
    }
}

pub(super) fn text(body: &[u8]) -> Result<&str, RequestError> {
    std::str::from_utf8(body).map_err(|_| RequestError::invalid("The request body is not UTF-8."))
}

/// Reads a message's parts; returns how many images they hold, and their size in bytes.
fn count_images(reader: &mut Reader<'_>) -> Result<(usize, usize), JsonError> {
    let (mut images, mut bytes) = (0, 0);
    reader.array(|reader| {
        if reader.kind()? != Kind::Object {
            return reader.skip().map(drop);
        }
        reader.object(|reader, name| {
            let length = reader.skip()?;
            if name == "image_url" {
                images += 1;
                bytes += length;
            }
            Ok(())
        })
    })?;
    Ok((images, bytes))
}

fn expect_string(reader: &mut Reader<'_>, param: &'static str) -> Result<String, Fault> {
    if reader.kind()? != Kind::String {
        return Err(Fault::wrong_type(param, "a string"));
    }
    Ok(reader.string()?.into_owned())
}

fn expect_bool(reader: &mut Reader<'_>, param: &'static str) -> Result<bool, Fault> {
    if reader.kind()? != Kind::Bool {
        return Err(Fault::wrong_type(param, "a boolean"));
    }
    Ok(reader.bool()?)
}

/// Reads a whole number. Several model servers take negative ones as "no limit".
fn expect_count(reader: &mut Reader<'_>, param: &'static str) -> Result<u32, Fault> {
    let wrong = || Fault::wrong_type(param, "a whole number");
    if reader.kind()? != Kind::Number {
        return Err(wrong());
    }
    let number: i64 = reader.number()?.parse().map_err(|_| wrong())?;
    if number < 0 { Ok(0) } else { u32::try_from(number).map_err(|_| wrong()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use iris_core::demand::Own;
    use iris_core::tier::Tier;

    use super::*;
    use crate::openai::Refused;

    fn chat(body: &str) -> Result<Asked, RequestError> {
        Asked::read(Operation::Chat, body.as_bytes())
    }

    fn fault(body: &str) -> (u16, Option<String>) {
        let refused = Refused::from(chat(body).unwrap_err());
        (refused.status, refused.param.map(Cow::into_owned))
    }

    #[test]
    fn what_matters_is_read_and_nulls_are_absent() {
        let asked = chat(
            r#"{"model":"org/m:q4","stream":true,"stream_options":{"include_usage":true},
                "max_tokens":null,"max_completion_tokens":7,"tools":[],"stop":null,"min_p":0.1,
                "messages":[{"role":"user","content":"12345678"}]}"#,
        )
        .unwrap();
        assert_eq!(asked.model.as_str(), "org/m:q4");
        assert!(asked.stream && asked.include_usage);
        assert_eq!((asked.max_tokens, asked.abilities), (7, Abilities::NONE));
        assert!((2..16).contains(&asked.prompt_tokens), "{}", asked.prompt_tokens);
    }

    #[test]
    fn who_names_no_model_takes_any() {
        for body in [r#"{"messages":[{}]}"#, r#"{"model":null,"messages":[{}]}"#] {
            assert_eq!(chat(body).unwrap().model.as_str(), ANY, "{body}");
        }
        assert_eq!(fault(r#"{"model":"","messages":[{}]}"#).0, 404);
    }

    #[test]
    fn abilities_follow_from_what_is_asked_for() {
        let with = |members: &str| {
            chat(&format!(r#"{{"model":"m","messages":[{{"content":"a"}}],{members}}}"#))
                .unwrap()
                .abilities
        };
        assert_eq!(with(r#""tools":[{"type":"function"}]"#), Abilities::TOOLS);
        assert_eq!(with(r#""response_format":{"type":"json_object"}"#), Abilities::NONE);
        assert_eq!(with(r#""response_format":{"type":"json_schema"}"#), Abilities::JSON_SCHEMA);
        assert_eq!(with(r#""logprobs":true"#), Abilities::LOGPROBS);
        assert_eq!(with(r#""logprobs":false"#), Abilities::NONE);
        assert_eq!(with(r#""logprobs":0"#), Abilities::NONE);
        assert_eq!(with(r#""prompt_logprobs":0"#), Abilities::SCORE);
        assert_eq!(with(r#""prompt_logprobs":null"#), Abilities::NONE);
    }

    fn nodes_see(body: &str) -> (Preferences, String) {
        let asked = chat(body).unwrap();
        let seen = asked.body_for_nodes(&Bytes::from(body.to_owned()));
        (asked.preferences, String::from_utf8(seen.to_vec()).unwrap())
    }

    #[test]
    fn preferences_are_read_and_cut_out_wherever_they_stand() {
        let rest = r#""model":"m","messages":[{"content":"\"iris\": {} ,"}]"#;
        let iris = r#""iris" : {"own":"only","tier":"MID","deny":["aaaaaaaaaaaaaaaaaaaaaaaaaa"]}"#;
        let escaped = iris.replacen("iris", "\\u0069ris", 1);
        for member in [iris, &escaped] {
            for body in [
                format!("{{{rest},{member}}}"),
                format!("{{{member},{rest}}}"),
                format!("{{ {member} ,\n {rest} }}"),
                format!("{{{rest} , {member} }}"),
                format!(r#"{{"n":1,{member},{rest}}}"#),
            ] {
                let (preferences, seen) = nodes_see(&body);
                assert_eq!((preferences.own, preferences.tier), (Own::Only, Tier::Mid), "{body}");
                assert_eq!(preferences.deny.len(), 1);
                let mut expected: serde_json::Value = serde_json::from_str(&body).unwrap();
                expected.as_object_mut().unwrap().remove("iris");
                let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
                assert_eq!(seen, expected, "{body}");
            }
        }
        let (preferences, seen) = nodes_see(&format!(r#"{{{rest},"iris":null}}"#));
        assert_eq!((preferences, seen), (Preferences::default(), format!("{{{rest}}}")));
        let (_, seen) = nodes_see(&format!("{{{rest}}}"));
        assert_eq!(seen, format!("{{{rest}}}"));
    }

    #[test]
    fn preferences_that_cannot_be_kept_are_refused_by_name() {
        let nodes = vec![format!("\"{}\"", "a".repeat(26)); 65].join(",");
        for wrong in [
            "1",
            "[]",
            r#"{"own":"mine"}"#,
            r#"{"tier":"mid"}"#,
            r#"{"trust":1}"#,
            r#"{"allow":["x"]}"#,
            r#"{"own":"only","own":"any"}"#,
            r#"{"node":"x"}"#,
            &format!(r#"{{"deny":[{nodes}]}}"#),
            &format!(r#"{{"deny":[{}1]}}"#, " ".repeat(9000)),
        ] {
            let body = format!(r#"{{"model":"m","messages":[{{}}],"iris":{wrong}}}"#);
            assert_eq!(fault(&body), (400, Some("iris".to_owned())), "{wrong}");
        }
    }

    #[test]
    fn turns_of_a_conversation_are_found() {
        let at = |body: &str| {
            let Turns { start, before, end } = chat(body).unwrap().turns.unwrap();
            (before.map(|before| body[start..before].to_owned()), body[start..end].to_owned())
        };
        let body = |messages: &str| format!(r#"{{"messages":[ {messages} ],"model":"m"}}"#);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|text| format!(r#"{{"content":"{text}"}}"#));
        assert_eq!(at(&body(&a)), (None, a.clone()));
        assert_eq!(at(&body(&format!("{a}, {b}"))), (None, format!("{a}, {b}")));
        let four = format!("{a}, {b},{c},{d}");
        assert_eq!(at(&body(&four)), (Some(format!("{a}, {b}")), four));
    }

    #[test]
    fn an_image_needs_eyes_and_does_not_count_by_its_bytes() {
        let pixels = "A".repeat(400_000);
        let asked = chat(&format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"b"}},
               {{"type":"image_url","image_url":{{"url":"data:{pixels}"}}}}]}}]}}"#
        ))
        .unwrap();
        assert_eq!(asked.abilities, Abilities::VISION);
        assert!((1024..1100).contains(&asked.prompt_tokens), "{}", asked.prompt_tokens);
    }

    #[test]
    fn requests_without_sense_name_the_member_at_fault() {
        let at = |param: &str| (400, Some(param.to_owned()));
        assert_eq!(fault(r#"{"model":"m"}"#), at("messages"));
        assert_eq!(fault(r#"{"model":"m","messages":[]}"#), at("messages"));
        assert_eq!(fault(r#"{"model":"m","messages":["a"]}"#), at("messages"));
        assert_eq!(fault(r#"{"model":7,"messages":[{}]}"#), at("model"));
        assert_eq!(fault(r#"{"model":"m","messages":[{}],"stream":"yes"}"#), at("stream"));
        assert_eq!(fault(r#"{"model":"m","messages":[{}],"max_tokens":1.5}"#), at("max_tokens"));
        for wrong in ["-1", "21", "1.5", "true", "1,\"stream\":true"] {
            let body = format!(r#"{{"model":"m","messages":[{{}}],"prompt_logprobs":{wrong}}}"#);
            assert_eq!(fault(&body), at("prompt_logprobs"), "{wrong}");
        }
        let many = vec!["{}"; MAX_MESSAGES + 1].join(",");
        assert_eq!(fault(&format!(r#"{{"model":"m","messages":[{many}]}}"#)), at("messages"));
        assert_eq!(fault(r#"{"model":"a\nb","messages":[{}]}"#).0, 404);
    }

    #[test]
    fn bodies_that_two_readers_could_take_for_two_requests_are_refused() {
        for bad in [
            "",
            "[]",
            "{",
            r#"{"model":"m","messages":[{}],"model":"n"}"#,
            r#"{"model":"m","messages":[{}],"mod\u0065l":"n"}"#,
            r#"{"model":"m","messages":[{}]} {}"#,
            r#"{"model":"m","messages":[{}],}"#,
        ] {
            assert_eq!(fault(bad), (400, None), "{bad}");
        }
        let deep = format!(r#"{{"model":"m","x":{}"#, "[".repeat(100_000));
        assert_eq!(fault(&deep), (400, None));
        let members: Vec<String> = (0..300).map(|n| format!(r#""{n}":0"#)).collect();
        assert_eq!(fault(&format!("{{{}}}", members.join(","))), (400, None));
    }

    #[test]
    fn a_negative_limit_is_none() {
        let body = r#"{"model":"m","messages":[{}],"max_tokens":-1}"#;
        assert_eq!(chat(body).unwrap().max_tokens, 0);
    }

    #[test]
    fn embeddings_name_a_model_and_are_not_streamed() {
        let read = |body: &str| Asked::read(Operation::Embedding, body.as_bytes());
        let asked = read(r#"{"model":"m","input":["a","b"],"tools":[{}]}"#).unwrap();
        assert_eq!(asked.abilities, Abilities::EMBEDDINGS);
        let long = "a".repeat(4000);
        let many =
            format!(r#"{{"model":"m","input":[{}"b"]}}"#, format!(r#""{long}","#).repeat(50));
        let one = format!(r#"{{"model":"m","input":"{long}"}}"#);
        let tokens = read(&many).unwrap().prompt_tokens;
        assert_eq!(tokens, read(&one).unwrap().prompt_tokens, "the longest one has to fit");
        let tokens = format!(r#"{{"model":"m","input":[{}1]}}"#, "1000,".repeat(1000));
        assert!(read(&tokens).unwrap().prompt_tokens > 900, "they are one text");
        for (body, param) in [
            (r#"{"model":"m"}"#, "input"),
            (r#"{"input":"a"}"#, "model"),
            (r#"{"model":"iris/any","input":"a"}"#, "model"),
            (r#"{"model":"m","input":"a","stream":true}"#, "stream"),
        ] {
            match read(body) {
                Err(RequestError::Invalid { param: found, .. }) => assert_eq!(found, Some(param)),
                other => panic!("{body}: {other:?}"),
            }
        }
    }

    #[test]
    fn completions_need_a_prompt_of_any_form() {
        let read = |body: &str| Asked::read(Operation::Completion, body.as_bytes());
        assert!(read(r#"{"model":"m","prompt":["a"]}"#).is_ok());
        let listed = read(r#"{"model":"m","prompt":"a","logprobs":0}"#).unwrap();
        assert_eq!(listed.abilities, Abilities::LOGPROBS, "of the chosen tokens alone");
        let refused = Refused::from(read(r#"{"model":"m"}"#).unwrap_err());
        assert_eq!(refused.param.as_deref(), Some("prompt"));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Asked::read(Operation::Chat, &body);
        }
    }
}
