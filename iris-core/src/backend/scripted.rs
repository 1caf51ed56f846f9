//! A backend without a model: it answers by script, for tests, benches and demonstrations.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use serde::Deserialize;
use serde_json::json;

use super::{Backend, BackendError, Chunk, Finish, GenerateRequest, Operation, Usage};
use crate::model::{ModelName, ModelOffer};

mod script;

pub use script::{Gate, Script, Step};

/// A backend that answers as it was told.
///
/// It refuses bodies that are not JSON objects and models it does not offer; every other request
/// gets the [`Script`] that the given function makes of it. Time is not looked at: a script that
/// waits for a [`Gate`] waits until the gate opens or the stream is dropped. A request whose answer
/// is begun gets what the script says beyond the beginning; a script that begins otherwise fails.
/// Clones share their [`Counts`].
#[derive(Clone)]
pub struct ScriptedBackend {
    offers: Vec<ModelOffer>,
    answer: Arc<dyn Fn(&GenerateRequest) -> Script + Send + Sync>,
    counts: Arc<Mutex<Counts>>,
}

impl ScriptedBackend {
    /// Makes a backend that offers `offers` and answers each request with what `answer` returns.
    pub fn new(
        offers: impl IntoIterator<Item = ModelOffer>,
        answer: impl Fn(&GenerateRequest) -> Script + Send + Sync + 'static,
    ) -> Self {
        Self {
            offers: offers.into_iter().collect(),
            answer: Arc::new(answer),
            counts: Arc::default(),
        }
    }

    /// Makes a backend that answers with the last user message, or with the prompt of a
    /// completion, word by word.
    pub fn echo(model: ModelName) -> Self {
        Self::new([ModelOffer::new(model, CONTEXT_LENGTH)], |request| {
            let text = last_user_text(request);
            Script::saying(text.split_inclusive(char::is_whitespace))
        })
    }

    /// Makes a backend that answers every request with `texts`, one chunk each.
    pub fn saying<T: Into<String>>(model: ModelName, texts: impl IntoIterator<Item = T>) -> Self {
        let script = Script::saying(texts);
        Self::new([ModelOffer::new(model, CONTEXT_LENGTH)], move |_| script.clone())
    }

    /// Returns what happened to the generations so far.
    pub fn counts(&self) -> Counts {
        *locked(&self.counts)
    }
}

const CONTEXT_LENGTH: u32 = 8192;

impl Backend for ScriptedBackend {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        let offers = self.offers.clone();
        async move { Ok(offers) }.boxed()
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        let backend = self.clone();
        stream::once(async move { backend.start(&request) }).flatten().fuse().boxed()
    }
}

impl ScriptedBackend {
    fn start(&self, request: &GenerateRequest) -> BoxStream<'static, Result<Chunk, BackendError>> {
        if let Err(error) = self.check(request) {
            return stream::iter([Err(error)]).boxed();
        }
        let run = Run {
            steps: (self.answer)(request).steps,
            begun: request.begun.as_ref().map_or_else(String::new, |begun| begun.text.clone()),
            usage: Usage::default(),
            tally: Tally::start(&self.counts),
        };
        let operation = request.operation;
        if request.stream {
            stream::unfold(Some(run), |run| async move { run?.next().await }).boxed()
        } else {
            stream::once(run.whole(operation)).map(stream::iter).flatten().boxed()
        }
    }

    fn check(&self, request: &GenerateRequest) -> Result<(), BackendError> {
        if !is_json_object(&request.body) {
            return Err(BackendError::Rejected {
                status: 400,
                code: None,
                param: None,
                message: "the body is not a JSON object".to_owned(),
            });
        }
        let offered = self.offers.iter().any(|offer| offer.name == request.model);
        if offered { Ok(()) } else { Err(BackendError::ModelNotFound) }
    }
}

impl fmt::Debug for ScriptedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedBackend")
            .field("offers", &self.offers)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// How many generations a [`ScriptedBackend`] has seen, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Polled at least once and not refused.
    pub started: usize,
    /// Started, and neither ended nor dropped yet.
    pub running: usize,
    /// Ended with [`Chunk::Finished`].
    pub finished: usize,
    /// Ended with an error.
    pub failed: usize,
    /// Dropped before their end.
    pub cancelled: usize,
}

/// A script being carried out.
struct Run {
    steps: VecDeque<Step>,
    /// What is left of the beginning that the caller has already.
    begun: String,
    usage: Usage,
    tally: Tally,
}

impl Run {
    async fn next(mut self) -> Option<(Result<Chunk, BackendError>, Option<Self>)> {
        let item = self.advance().await;
        let ended = matches!(item, Err(_) | Ok(Chunk::Finished(_)));
        Some((item, (!ended).then_some(self)))
    }

    async fn whole(mut self, operation: Operation) -> Vec<Result<Chunk, BackendError>> {
        let mut text = String::new();
        let mut ready = None;
        loop {
            match self.advance().await {
                Ok(Chunk::Text(more)) => text.push_str(&more),
                Ok(Chunk::Json(_)) => {}
                Ok(Chunk::Whole(whole)) => ready = Some(whole),
                Ok(Chunk::Finished(finish)) => {
                    let whole = ready.unwrap_or_else(|| whole_answer(operation, &text, &finish));
                    return vec![Ok(Chunk::Whole(whole)), Ok(Chunk::Finished(finish))];
                }
                Err(error) => return vec![Err(error)],
            }
        }
    }

    async fn advance(&mut self) -> Result<Chunk, BackendError> {
        loop {
            let step = self.steps.pop_front().unwrap_or_else(|| {
                let finish = Finish { reason: "stop".to_owned(), usage: self.usage };
                Step::Chunk(Chunk::Finished(finish))
            });
            match step {
                Step::Wait(gate) => gate.opened().await,
                Step::Open(gate) => gate.open(),
                Step::Chunk(Chunk::Text(text)) => {
                    self.usage.completion_tokens += 1;
                    let begun = !self.begun.is_empty();
                    let Some(new) = self.beyond(&text) else {
                        return Err(self.fail(BackendError::Failed));
                    };
                    if !(begun && new.is_empty()) {
                        return Ok(Chunk::Text(new));
                    }
                }
                Step::Chunk(chunk) => {
                    if let Chunk::Finished(_) = chunk {
                        self.tally.end(|counts| counts.finished += 1);
                    }
                    return Ok(chunk);
                }
                Step::Error(error) => return Err(self.fail(error)),
            }
        }
    }

    /// Returns what of `text` the caller does not have; `None` when the beginning is another.
    fn beyond(&mut self, text: &str) -> Option<String> {
        let known = text.len().min(self.begun.len());
        let same = text.as_bytes()[..known] == self.begun.as_bytes()[..known];
        // Two texts that are the same up to the end of one have a character end there.
        same.then(|| {
            self.begun.drain(..known);
            text[known..].to_owned()
        })
    }

    fn fail(&mut self, error: BackendError) -> BackendError {
        self.tally.end(|counts| counts.failed += 1);
        error
    }
}

/// Enters one generation into the counts, as cancelled unless its end is reported.
struct Tally {
    counts: Arc<Mutex<Counts>>,
    ended: bool,
}

impl Tally {
    fn start(counts: &Arc<Mutex<Counts>>) -> Self {
        let mut now = locked(counts);
        now.started += 1;
        now.running += 1;
        Self { counts: Arc::clone(counts), ended: false }
    }

    fn end(&mut self, record: impl FnOnce(&mut Counts)) {
        self.ended = true;
        let mut counts = locked(&self.counts);
        counts.running -= 1;
        record(&mut counts);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if !self.ended {
            self.end(|counts| counts.cancelled += 1);
        }
    }
}

/// Locks what no panic can leave half written.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_json_object(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body).is_ok()
}

fn whole_answer(operation: Operation, text: &str, finish: &Finish) -> Bytes {
    let Usage { prompt_tokens, completion_tokens } = finish.usage;
    let choice = match operation {
        Operation::Chat => json!({
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "logprobs": null,
            "finish_reason": finish.reason,
        }),
        Operation::Completion => json!({
            "index": 0, "text": text, "logprobs": null, "finish_reason": finish.reason,
        }),
        Operation::Embedding => return embedded(text, prompt_tokens),
    };
    let whole = json!({
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": u64::from(prompt_tokens) + u64::from(completion_tokens),
        },
    });
    whole.to_string().into()
}

/// Makes a vector of a text: its length and one.
fn embedded(text: &str, prompt_tokens: u32) -> Bytes {
    let whole = json!({
        "data": [{"object": "embedding", "index": 0, "embedding": [text.len(), 1]}],
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    });
    whole.to_string().into()
}

fn last_user_text(request: &GenerateRequest) -> String {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        messages: Vec<Message>,
        #[serde(default, alias = "input")]
        prompt: String,
    }
    #[derive(Deserialize)]
    struct Message {
        role: String,
        #[serde(default)]
        content: Option<Content>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
    }
    #[derive(Deserialize)]
    struct Part {
        #[serde(default)]
        text: String,
    }

    let Ok(body) = serde_json::from_slice::<Body>(&request.body) else {
        return String::new();
    };
    if request.operation != Operation::Chat {
        return body.prompt;
    }
    let last = body.messages.into_iter().rfind(|message| message.role == "user");
    match last.and_then(|message| message.content) {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => parts.into_iter().map(|part| part.text).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::executor::block_on;

    use super::*;
    use crate::backend::Begun;
    use crate::conformance;
    use crate::model::Abilities;

    fn request(stream: bool) -> GenerateRequest {
        let body = json!({
            "model": "m",
            "stream": stream,
            "messages": [
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "no"},
                {"role": "user", "content": [{"type": "text", "text": "say it back"}]},
            ],
        });
        GenerateRequest {
            operation: Operation::Chat,
            model: "m".parse().unwrap(),
            body: body.to_string().into(),
            stream,
            time_left: Duration::from_mins(1),
            begun: None,
            isolated: false,
        }
    }

    fn echo() -> ScriptedBackend {
        ScriptedBackend::echo("m".parse().unwrap())
    }

    #[test]
    fn meets_the_contract_of_backends() {
        block_on(conformance::backend::run_all(&echo(), request(true)));
        let saying = ScriptedBackend::saying("m".parse().unwrap(), ["a", "b"]);
        block_on(conformance::backend::run_all(&saying, request(true)));
        let mut offer = ModelOffer::new("m".parse().unwrap(), 10);
        offer.abilities = Abilities::CONTINUE;
        let script = Script::saying(["€ one", " ", "two"]);
        let continuing = ScriptedBackend::new([offer], move |_| script.clone());
        block_on(conformance::backend::run_all(&continuing, request(true)));
    }

    #[test]
    fn script_that_begins_otherwise_cannot_go_on() {
        let begun = Begun { text: "say this".to_owned(), tokens: 2 };
        let request = GenerateRequest { begun: Some(begun), ..request(true) };
        let chunks: Vec<_> = block_on(echo().generate(request).collect());
        assert_eq!(chunks, [Err(BackendError::Failed)]);
    }

    #[test]
    fn echo_answers_with_the_last_user_message_word_by_word() {
        let chunks: Vec<_> = block_on(echo().generate(request(true)).collect());
        let finish = Finish {
            reason: "stop".to_owned(),
            usage: Usage { prompt_tokens: 0, completion_tokens: 3 },
        };
        let texts = ["say ", "it ", "back"].map(|word| Ok(Chunk::Text(word.to_owned())));
        assert_eq!(chunks[..3], texts);
        assert_eq!(chunks[3..], [Ok(Chunk::Finished(finish))]);
    }

    #[test]
    fn whole_answer_holds_every_text_and_the_usage() {
        let chunks: Vec<_> = block_on(echo().generate(request(false)).collect());
        let Ok(Chunk::Whole(whole)) = &chunks[0] else { panic!("{chunks:?}") };
        let whole: serde_json::Value = serde_json::from_slice(whole).unwrap();
        assert_eq!(whole["choices"][0]["message"]["content"], "say it back");
        assert_eq!(whole["usage"]["total_tokens"], 3);
    }

    #[test]
    fn gate_holds_an_answer_back_and_dropping_it_counts_as_cancelled() {
        let (reached, gate) = (Gate::new(), Gate::new());
        let script = Script::new().text("a").open(&reached).wait(&gate).text("b");
        let offers = [ModelOffer::new("m".parse().unwrap(), 10)];
        let backend = ScriptedBackend::new(offers, move |_| script.clone());

        let mut stream = backend.generate(request(true));
        assert_eq!(backend.counts(), Counts::default());
        assert!(block_on(stream.next()).is_some());
        assert!(stream.next().now_or_never().is_none());
        assert!(reached.opened().now_or_never().is_some());
        assert_eq!((backend.counts().started, backend.counts().running), (1, 1));
        drop(stream);
        assert_eq!(backend.counts(), Counts { started: 1, cancelled: 1, ..Counts::default() });

        gate.open();
        assert_eq!(block_on(backend.generate(request(true)).count()), 3);
        assert_eq!((backend.counts().finished, backend.counts().running), (1, 0));
    }

    #[test]
    fn error_ends_the_answer_after_what_was_said() {
        let offers = [ModelOffer::new("m".parse().unwrap(), 10)];
        let backend = ScriptedBackend::new(offers, |_| {
            Script::new().text("a").fail(BackendError::Failed).text("never")
        });
        let chunks: Vec<_> = block_on(backend.generate(request(true)).collect());
        assert_eq!(chunks, [Ok(Chunk::Text("a".to_owned())), Err(BackendError::Failed)]);
        assert_eq!(backend.counts().failed, 1);
    }
}
