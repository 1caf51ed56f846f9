//! An answer on its way to the caller: piece by piece, or whole at its end.

use bytes::Bytes;
use iris_core::backend::{Chunk, Finish, GenerateRequest, Operation, Usage};
use serde::Serialize;
use serde_json::{Value, json};

use super::likelihood::Likelihoods;
use super::logprobs::{Listed, TokenList};
use super::outgoing::{Gone, Outgoing};
use super::scoring::Scoring;

/// Hands out text as it comes, or keeps it for the end.
pub(super) struct Writer<'a> {
    request: &'a GenerateRequest,
    outgoing: &'a Outgoing,
    whole: String,
    /// How many bytes of what comes the caller has already.
    known: usize,
    tokens: Option<TokenList<'a>>,
    /// The tokens of `whole`.
    listed: Option<Listed>,
}

/// How an answer ends.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) reason: &'a str,
    pub(super) usage: Usage,
    /// Tokens of the prompt that were known from before.
    pub(super) cached: u32,
    /// Whether a stop string cut its text.
    pub(super) stopped: bool,
}

impl<'a> Writer<'a> {
    /// Writes an answer of which the caller has `known` bytes, with `tokens` listed if that is
    /// asked for.
    pub(super) fn new(
        request: &'a GenerateRequest,
        outgoing: &'a Outgoing,
        known: usize,
        tokens: Option<TokenList<'a>>,
    ) -> Self {
        Self { request, outgoing, whole: String::new(), known, tokens, listed: None }
    }

    /// Takes in which token was chosen, before its text.
    pub(super) fn list(&mut self, token: u32, likelihoods: Option<&Likelihoods>) {
        if let (Some(tokens), Some(likelihoods)) = (&mut self.tokens, likelihoods) {
            tokens.add(token, likelihoods);
        }
    }

    pub(super) fn write(&mut self, mut text: String) -> Result<(), Gone> {
        if self.known > 0 {
            text = self.beyond_known(text);
        }
        let listed = self.tokens.as_mut().map(|tokens| tokens.shown_with(&text));
        self.hand_out(text, listed)
    }

    fn hand_out(&mut self, text: String, listed: Option<Listed>) -> Result<(), Gone> {
        let listed = listed.filter(|listed| !listed.is_empty());
        if !self.request.stream {
            self.whole += &text;
            match (&mut self.listed, listed) {
                (Some(all), Some(listed)) => all.append(listed),
                (all, Some(listed)) => *all = Some(listed),
                (_, None) => {}
            }
        } else if let Some(listed) = listed {
            let step = step(self.request.operation, &text, &listed.into_json());
            self.outgoing.send(Ok(Chunk::Json(Bytes::from(step.to_string()))))?;
        } else if !text.is_empty() {
            self.outgoing.send(Ok(Chunk::Text(text)))?;
        }
        Ok(())
    }

    fn beyond_known(&mut self, mut text: String) -> String {
        let known = text.floor_char_boundary(self.known);
        self.known -= known;
        text.drain(..known);
        text
    }

    /// Ends the answer.
    pub(super) fn finish(
        mut self,
        end: &End<'_>,
        scoring: Option<&Scoring<'_>>,
    ) -> Result<(), Gone> {
        if !end.stopped {
            let rest = self.tokens.as_mut().map(TokenList::rest);
            self.hand_out(String::new(), rest)?;
        }
        if !self.request.stream {
            let whole = self.whole(end, scoring);
            self.outgoing.send(Ok(Chunk::Whole(whole)))?;
        }
        let End { reason, usage, .. } = *end;
        self.outgoing.send(Ok(Chunk::Finished(Finish { reason: reason.to_owned(), usage })))
    }

    fn whole(&mut self, end: &End<'_>, scoring: Option<&Scoring<'_>>) -> Bytes {
        let End { reason, usage, cached, .. } = *end;
        let operation = self.request.operation;
        let text = std::mem::take(&mut self.whole);
        // Whoever asked for a list gets one, even an empty one.
        let none = self.tokens.as_ref().map(|_| Listed::new(operation));
        let listed = self.listed.take().or(none);
        let (message, text) = match operation {
            Operation::Chat => {
                (Some(json!({"role": "assistant", "content": text, "refusal": null})), None)
            }
            Operation::Completion | Operation::Embedding => (None, Some(text)),
        };
        let of = |place| scoring.filter(|_| operation == place);
        let choice = Choice {
            index: 0,
            message,
            text,
            logprobs: listed.map(Listed::into_json),
            finish_reason: reason,
            prompt_logprobs: of(Operation::Completion),
        };
        let total = usage.prompt_tokens.saturating_add(usage.completion_tokens);
        let mut usage = json!({
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": total,
        });
        if cached > 0 {
            usage["prompt_tokens_details"] = json!({"cached_tokens": cached});
        }
        let whole = Whole { choices: [choice], usage, prompt_logprobs: of(Operation::Chat) };
        serde_json::to_vec(&whole).expect("an answer has a JSON form").into()
    }
}

/// A step of a streamed answer that lists its tokens.
fn step(operation: Operation, text: &str, logprobs: &Value) -> Value {
    let mut choice = json!({"index": 0, "logprobs": logprobs, "finish_reason": null});
    match operation {
        Operation::Chat => choice["delta"] = json!({"content": text}),
        Operation::Completion | Operation::Embedding => choice["text"] = json!(text),
    }
    json!({"choices": [choice]})
}

#[derive(Serialize)]
struct Whole<'a> {
    choices: [Choice<'a>; 1],
    usage: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<&'a Scoring<'a>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    logprobs: Option<Value>,
    finish_reason: &'a str,
    /// Where vLLM lists them for completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<&'a Scoring<'a>>,
}
