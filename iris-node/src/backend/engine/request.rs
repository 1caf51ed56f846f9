//! The caller's JSON body, read strictly where it matters: what the engine cannot honour is
//! refused, and what it does not know is ignored.

use std::ops::RangeInclusive;

use iris_core::backend::{BackendError, Operation};
use iris_protocol::openai::count_values;
use serde_json::{Map, Value, json};

use super::sampler::Sampling;
use super::template::Conversation;

/// Most values of a body; a prompt of tokens has one for each.
pub(super) const MAX_VALUES: usize = 1 << 18;
const MAX_STOPS: usize = 16;
const MAX_STOP_LEN: usize = 1024;
/// OpenAI's default for text completions.
const COMPLETION_TOKENS: usize = 16;
/// Most alternatives that are listed beside a token, as with OpenAI.
const MAX_ALTERNATIVES: usize = 20;
/// The same for text completions.
const MAX_COMPLETION_ALTERNATIVES: usize = 5;
/// Lengths of a salt: 22 characters of Base64 hold 128 bits.
const SALT_LENS: RangeInclusive<usize> = 22..=256;

/// A request the engine can honour.
pub(super) struct Request {
    pub(super) prompt: Prompt,
    pub(super) sampling: Sampling,
    pub(super) stops: Vec<String>,
    /// Most tokens of the answer; `None` for as many as the context holds.
    pub(super) max_tokens: Option<usize>,
    /// How many alternatives are listed beside each token of the answer; `None` for no list.
    pub(super) logprobs: Option<usize>,
    /// How many are listed beside each token of the prompt; `None` for no list.
    pub(super) prompt_logprobs: Option<usize>,
    /// What only the caller knows, for whoever wants the conversation kept.
    pub(super) cache_salt: Option<String>,
    /// The schema that the answer keeps to; `None` for text.
    pub(super) schema: Option<Value>,
}

/// What the model reads first.
pub(super) enum Prompt {
    Chat(Conversation),
    Text(String),
    Tokens(Vec<u32>),
}

impl Request {
    /// Reads a body, or says which part of it cannot be honoured.
    pub(super) fn read(operation: Operation, body: &[u8]) -> Result<Self, BackendError> {
        if count_values(body) > MAX_VALUES {
            return Err(refused(None, "the body holds too many values"));
        }
        // The parser's own words may quote the prompt.
        let body: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|_| refused(None, "the body is not a JSON object"))?;
        let body = Body(body);
        body.refuse_unsupported()?;
        let (prompt, default_tokens) = match operation {
            Operation::Chat => (body.conversation()?, None),
            Operation::Completion | Operation::Embedding => {
                (body.prompt()?, Some(COMPLETION_TOKENS))
            }
        };
        let max_tokens = match body.count("max_completion_tokens", 1)? {
            Some(count) => Some(count),
            None => body.count("max_tokens", 1)?,
        };
        Ok(Self {
            prompt,
            sampling: body.sampling()?,
            stops: body.stops()?,
            max_tokens: max_tokens.or(default_tokens),
            logprobs: body.logprobs(operation)?,
            prompt_logprobs: body.alternatives("prompt_logprobs", MAX_ALTERNATIVES)?,
            cache_salt: body.cache_salt()?,
            schema: body.schema()?,
        })
    }
}

/// Makes the error for a request that no node could honour in this form.
pub(super) fn refused(param: Option<&str>, message: impl Into<String>) -> BackendError {
    BackendError::Rejected {
        status: 400,
        code: None,
        param: param.map(ToOwned::to_owned),
        message: message.into(),
    }
}

struct Body(Map<String, Value>);

impl Body {
    /// Returns a member; `null` counts as absent, as clients send it for what they leave out.
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn refuse_unsupported(&self) -> Result<(), BackendError> {
        for key in ["n", "best_of"] {
            if self.count(key, 1)?.is_some_and(|count| count > 1) {
                return Err(refused(Some(key), "this engine writes one answer a request"));
            }
        }
        let asked = |key: &str| match self.get(key) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Object(object)) => !object.is_empty(),
            Some(_) => true,
        };
        for key in ["logit_bias", "echo", "suffix", "audio"] {
            if asked(key) {
                return Err(refused(Some(key), format!("this engine does not support {key}")));
            }
        }
        match self.get("tool_choice") {
            None => Ok(()),
            Some(Value::String(choice)) if choice == "auto" || choice == "none" => Ok(()),
            Some(_) => Err(refused(Some("tool_choice"), "this engine cannot force a tool call")),
        }
    }

    fn conversation(&self) -> Result<Prompt, BackendError> {
        let Some(Value::Array(messages)) = self.get("messages") else {
            return Err(refused(Some("messages"), "messages must be an array"));
        };
        let messages: Vec<_> =
            messages.iter().enumerate().map(|(i, m)| message(i, m)).collect::<Result<_, _>>()?;
        let last = messages.last();
        let last = last.ok_or_else(|| refused(Some("messages"), "messages must not be empty"))?;
        let extra = self.get("chat_template_kwargs").and_then(Value::as_object);
        let tools = match self.get("tools") {
            None => None,
            Some(Value::Array(tools)) if tools.is_empty() => None,
            Some(tools @ Value::Array(_)) => Some(tools.clone()),
            Some(_) => return Err(refused(Some("tools"), "tools must be an array")),
        };
        let (continues, opens_answer) = self.ending(last["role"] == "assistant")?;
        Ok(Prompt::Chat(Conversation {
            continues,
            opens_answer,
            messages,
            tools,
            extra: extra.cloned().unwrap_or_default(),
        }))
    }

    /// Reads whether the last message stays open, and whether an answer is opened after it.
    ///
    /// Without a word about it, a last message by the assistant is one to go on with.
    fn ending(&self, by_assistant: bool) -> Result<(bool, bool), BackendError> {
        let opens = self.flag("add_generation_prompt")?;
        let continues = self.flag("continue_final_message")?;
        let continues = continues.unwrap_or(by_assistant && opens != Some(true));
        if continues && opens == Some(true) {
            let text = "a message that is continued leaves no room for add_generation_prompt";
            return Err(refused(Some("continue_final_message"), text));
        }
        Ok((continues, opens.unwrap_or(!continues)))
    }

    fn prompt(&self) -> Result<Prompt, BackendError> {
        let error =
            || refused(Some("prompt"), "prompt must be a text, an array of one text, or of tokens");
        match self.get("prompt") {
            Some(Value::String(text)) => Ok(Prompt::Text(text.clone())),
            Some(Value::Array(parts)) => match parts.as_slice() {
                [Value::String(text)] => Ok(Prompt::Text(text.clone())),
                [] => Err(error()),
                tokens => {
                    let token = |value: &Value| u32::try_from(value.as_u64()?).ok();
                    let tokens = tokens.iter().map(token).collect::<Option<_>>();
                    tokens.map(Prompt::Tokens).ok_or_else(error)
                }
            },
            _ => Err(error()),
        }
    }

    fn sampling(&self) -> Result<Sampling, BackendError> {
        let default = Sampling::default();
        let repeat = match self.number("repeat_penalty", 0.1, 10.0)? {
            Some(penalty) => Some(penalty),
            None => self.number("repetition_penalty", 0.1, 10.0)?,
        };
        let penalty = |key| Ok(self.number(key, -2.0, 2.0)?.unwrap_or(0.0));
        Ok(Sampling {
            temperature: self.number("temperature", 0.0, 2.0)?.unwrap_or(default.temperature),
            top_p: self.number("top_p", 0.0, 1.0)?.unwrap_or(default.top_p),
            top_k: self.top_k()?,
            min_p: self.number("min_p", 0.0, 1.0)?.unwrap_or(default.min_p),
            seed: self.seed()?,
            repeat_penalty: repeat,
            frequency_penalty: penalty("frequency_penalty")?,
            presence_penalty: penalty("presence_penalty")?,
        })
    }

    fn stops(&self) -> Result<Vec<String>, BackendError> {
        let error = || {
            let text = format!("stop must be up to {MAX_STOPS} texts of 1 to {MAX_STOP_LEN} bytes");
            refused(Some("stop"), text)
        };
        let texts = match self.get("stop") {
            None => return Ok(Vec::new()),
            Some(Value::Array(texts)) => texts.as_slice(),
            Some(text) => std::slice::from_ref(text),
        };
        let stops: Option<Vec<_>> =
            texts.iter().map(|text| text.as_str().map(ToOwned::to_owned)).collect();
        let fit = |stop: &String| (1..=MAX_STOP_LEN).contains(&stop.len());
        stops.filter(|stops| stops.len() <= MAX_STOPS && stops.iter().all(fit)).ok_or_else(error)
    }

    fn schema(&self) -> Result<Option<Value>, BackendError> {
        let Some(format) = self.get("response_format") else {
            return Ok(None);
        };
        match (format["type"].as_str(), &format["json_schema"]["schema"]) {
            (Some("text"), _) => Ok(None),
            (Some("json_object"), _) => Ok(Some(json!({"type": "object"}))),
            (Some("json_schema"), schema @ Value::Object(_)) => Ok(Some(schema.clone())),
            (Some("json_schema"), _) => {
                let text = "json_schema.schema must be an object";
                Err(refused(Some("response_format"), text))
            }
            _ => {
                let text = "response_format must be of type text, json_object or json_schema";
                Err(refused(Some("response_format"), text))
            }
        }
    }

    fn cache_salt(&self) -> Result<Option<String>, BackendError> {
        let Some(salt) = self.get("cache_salt") else {
            return Ok(None);
        };
        let salt = salt.as_str().filter(|salt| SALT_LENS.contains(&salt.len()));
        let error = || {
            let (least, most) = SALT_LENS.into_inner();
            let text = format!("cache_salt must be a random text of {least} to {most} bytes");
            refused(Some("cache_salt"), text)
        };
        salt.map(|salt| Some(salt.to_owned())).ok_or_else(error)
    }

    /// Reads `top_k`, where -1 also means "keep all".
    fn top_k(&self) -> Result<usize, BackendError> {
        match self.get("top_k").map(Value::as_i64) {
            Some(Some(-1)) => Ok(0),
            _ => Ok(self.count("top_k", 0)?.unwrap_or(0)),
        }
    }

    fn seed(&self) -> Result<Option<u64>, BackendError> {
        let Some(value) = self.get("seed") else {
            return Ok(None);
        };
        let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
        seed.map(Some).ok_or_else(|| refused(Some("seed"), "seed must be an integer"))
    }

    fn logprobs(&self, operation: Operation) -> Result<Option<usize>, BackendError> {
        if operation == Operation::Completion {
            return match self.get("logprobs") {
                Some(Value::Bool(false)) => Ok(None),
                // Even 0 asks for them: for the token that was chosen, without others.
                _ => self.alternatives("logprobs", MAX_COMPLETION_ALTERNATIVES),
            };
        }
        let wanted = self.flag("logprobs")?.unwrap_or(false);
        let alternatives = self.alternatives("top_logprobs", MAX_ALTERNATIVES)?.unwrap_or(0);
        if !wanted && alternatives > 0 {
            return Err(refused(Some("top_logprobs"), "top_logprobs needs logprobs to be true"));
        }
        Ok(wanted.then_some(alternatives))
    }

    fn alternatives(&self, key: &str, most: usize) -> Result<Option<usize>, BackendError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        let count = count.filter(|count| *count <= most);
        let error = || refused(Some(key), format!("{key} must be an integer from 0 to {most}"));
        count.map(Some).ok_or_else(error)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, BackendError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let flag = value.as_bool();
        flag.map(Some).ok_or_else(|| refused(Some(key), format!("{key} must be true or false")))
    }

    fn count(&self, key: &str, least: u64) -> Result<Option<usize>, BackendError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let count = value.as_u64().filter(|count| *count >= least);
        let count = count.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let error = || refused(Some(key), format!("{key} must be an integer of at least {least}"));
        count.map(Some).ok_or_else(error)
    }

    #[allow(clippy::cast_possible_truncation)]
    fn number(&self, key: &str, least: f32, most: f32) -> Result<Option<f32>, BackendError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_f64().map(|number| number as f32);
        let number = number.filter(|number| (least..=most).contains(number));
        let error = || refused(Some(key), format!("{key} must be from {least} to {most}"));
        number.map(Some).ok_or_else(error)
    }
}

/// Brings a message into the form that templates read: a known role and a text.
fn message(index: usize, message: &Value) -> Result<Map<String, Value>, BackendError> {
    let error = |part: &str, text: &str| refused(Some(&format!("messages[{index}]{part}")), text);
    let Value::Object(message) = message else {
        return Err(error("", "a message must be an object"));
    };
    let mut message = message.clone();
    let role = match message.get("role").and_then(Value::as_str) {
        // Templates know the older name only.
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
        _ => {
            let text = "role must be system, developer, user, assistant or tool";
            return Err(error(".role", text));
        }
    };
    let text = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            parts.iter().map(part).collect::<Option<_>>().ok_or_else(|| {
                error(".content", "this engine reads text only, no images, sound or files")
            })?
        }
        None | Some(Value::Null) if role == "assistant" => String::new(),
        _ => {
            return Err(error(".content", "content must be a text or an array of parts"));
        }
    };
    let role = role.to_owned();
    message.insert("role".to_owned(), Value::String(role));
    message.insert("content".to_owned(), Value::String(text));
    Ok(message)
}

fn part(part: &Value) -> Option<&str> {
    if part["type"] == "text" { part["text"].as_str() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(mut members: Value) -> Result<Request, BackendError> {
        if members.get("messages").is_none() {
            members["messages"] = json!([{"role": "user", "content": "Hi"}]);
        }
        Request::read(Operation::Chat, members.to_string().as_bytes())
    }

    fn refused_param(result: Result<Request, BackendError>) -> Option<String> {
        match result.err() {
            Some(BackendError::Rejected { status: 400, param, .. }) => param,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn nothing_and_null_and_the_unknown_mean_the_defaults() {
        let request = chat(json!({
            "temperature": null, "stop": null, "tools": null, "n": 1, "max_tokens": null,
            "logprobs": false, "response_format": {"type": "text"}, "ttl": 60, "stream": true,
        }));
        let request = request.unwrap();
        assert_eq!(request.sampling, Sampling::default());
        assert_eq!((request.stops.len(), request.max_tokens), (0, None));
    }

    #[test]
    fn parameters_are_read() {
        let request = chat(json!({
            "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -1,
            "repetition_penalty": 1.5, "frequency_penalty": 0.5, "presence_penalty": -1,
            "stop": ["a", "b"], "max_tokens": 7, "max_completion_tokens": 5,
        }));
        let request = request.unwrap();
        let expected = Sampling {
            temperature: 0.5,
            top_p: 0.9,
            top_k: 40,
            min_p: 0.1,
            seed: Some(u64::MAX),
            repeat_penalty: Some(1.5),
            frequency_penalty: 0.5,
            presence_penalty: -1.0,
        };
        assert_eq!(request.sampling, expected);
        assert_eq!(request.stops, ["a", "b"]);
        assert_eq!(request.max_tokens, Some(5));
    }

    #[test]
    fn what_cannot_be_honoured_names_its_parameter() {
        for (key, value) in [
            ("n", json!(2)),
            ("logprobs", json!(5)),
            ("top_logprobs", json!(1)),
            ("top_logprobs", json!(21)),
            ("prompt_logprobs", json!(-1)),
            ("prompt_logprobs", json!(21)),
            ("prompt_logprobs", json!(true)),
            ("add_generation_prompt", json!("no")),
            ("logit_bias", json!({"5": 1})),
            ("response_format", json!({"type": "json_schema"})),
            ("response_format", json!({"type": "json_schema", "json_schema": {"schema": []}})),
            ("response_format", json!({"type": "grammar"})),
            ("response_format", json!("json")),
            ("tool_choice", json!("required")),
            ("temperature", json!(2.5)),
            ("temperature", json!("warm")),
            ("top_k", json!(-2)),
            ("max_tokens", json!(0)),
            ("stop", json!([""])),
            ("stop", json!(vec!["x"; MAX_STOPS + 1])),
            ("cache_salt", json!("x".repeat(21))),
            ("cache_salt", json!("x".repeat(257))),
            ("cache_salt", json!(7)),
            ("messages", json!([])),
            ("messages", json!("Hi")),
        ] {
            let param = refused_param(chat(json!({ key: value.clone() })));
            assert_eq!(param.as_deref(), Some(key), "{value}");
        }
        assert_eq!(refused_param(Request::read(Operation::Chat, b"[]")), None);
    }

    #[test]
    fn messages_are_brought_into_the_form_of_templates() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let request = chat(json!({"messages": [
            {"role": "developer", "content": parts},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]},
        ]}));
        let Prompt::Chat(talk) = request.unwrap().prompt else { panic!("not a chat") };
        assert!(talk.continues);
        assert_eq!(talk.messages[0]["role"], "system");
        assert_eq!(talk.messages[0]["content"], "ab");
        assert_eq!(talk.messages[1]["content"], "");
        assert_eq!(talk.messages[1]["tool_calls"][0]["id"], "1");
    }

    #[test]
    fn log_probabilities_are_asked_for_in_each_operations_own_way() {
        let of = |body: Value| chat(body).unwrap().logprobs;
        assert_eq!(of(json!({"logprobs": true})), Some(0));
        assert_eq!(of(json!({"logprobs": true, "top_logprobs": 20})), Some(20));
        assert_eq!(of(json!({"logprobs": null, "top_logprobs": 0})), None);
        assert_eq!(chat(json!({"prompt_logprobs": 0})).unwrap().prompt_logprobs, Some(0));
        let completion = |logprobs: Value| {
            let body = json!({"prompt": "a", "logprobs": logprobs}).to_string();
            Request::read(Operation::Completion, body.as_bytes())
        };
        assert_eq!(completion(json!(0)).unwrap().logprobs, Some(0));
        assert_eq!(completion(json!(5)).unwrap().logprobs, Some(5));
        assert_eq!(completion(json!(false)).unwrap().logprobs, None);
        for wrong in [json!(6), json!(true), json!(-1)] {
            assert_eq!(refused_param(completion(wrong)).as_deref(), Some("logprobs"));
        }
    }

    #[test]
    fn how_a_prompt_ends_follows_from_its_last_role_unless_it_is_said() {
        let ending = |role: &str, members: Value| {
            let mut body = json!({"messages": [{"role": role, "content": "Hi"}]});
            body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            let Prompt::Chat(talk) = chat(body)?.prompt else { panic!("not a chat") };
            Ok::<_, BackendError>((talk.continues, talk.opens_answer))
        };
        let scored = json!({"continue_final_message": true, "add_generation_prompt": false});
        for (role, members, expected) in [
            ("user", json!({}), (false, true)),
            ("assistant", json!({}), (true, false)),
            ("assistant", scored.clone(), (true, false)),
            ("user", scored, (true, false)),
            ("assistant", json!({"add_generation_prompt": true}), (false, true)),
            ("assistant", json!({"continue_final_message": false}), (false, true)),
            ("user", json!({"add_generation_prompt": false}), (false, false)),
        ] {
            assert_eq!(ending(role, members.clone()), Ok(expected), "{role} {members}");
        }
        let both = json!({"continue_final_message": true, "add_generation_prompt": true});
        assert!(ending("assistant", both).is_err());
    }

    #[test]
    fn images_and_unknown_roles_are_refused_where_they_stand() {
        let image = json!([{"type": "image_url", "image_url": {"url": "data:"}}]);
        let with = |role: &str, content: &Value| {
            refused_param(chat(json!({"messages": [{"role": role, "content": content}]})))
        };
        assert_eq!(with("user", &image).as_deref(), Some("messages[0].content"));
        assert_eq!(with("user", &Value::Null).as_deref(), Some("messages[0].content"));
        assert_eq!(with("wizard", &json!("Hi")).as_deref(), Some("messages[0].role"));
    }

    #[test]
    fn completions_take_text_or_tokens() {
        let read = |prompt: Value| {
            Request::read(Operation::Completion, json!({"prompt": prompt}).to_string().as_bytes())
        };
        let request = read(json!(["One"])).unwrap();
        assert_eq!(request.max_tokens, Some(COMPLETION_TOKENS));
        assert!(matches!(request.prompt, Prompt::Text(text) if text == "One"));
        let tokens = read(json!([1, 2])).unwrap().prompt;
        assert!(matches!(tokens, Prompt::Tokens(tokens) if tokens == [1, 2]));
        for bad in [json!(["a", "b"]), json!([]), json!([-1]), json!(7), Value::Null] {
            assert_eq!(refused_param(read(bad)).as_deref(), Some("prompt"));
        }
    }
}
