//! The two tasks of a check: one for the node, one for the reference.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use iris_core::backend::{Chunk, Operation};
use iris_core::model::Abilities;
use iris_core::queue::Priority;
use iris_core::task::{Outcome, TaskError};
use iris_core::verify::{AuditResult, Canary, Scored};
use iris_core::{AccountId, ModelName, NodeId};
use iris_crypto::VerifiedCertificate;
use iris_crypto::seal::{
    AnswerEvent, AnswerOpener, MAX_TTL, Prompt, RecordReader, SealedRequest, Terms,
};
use iris_protocol::openai::{Asked, PromptScores, score_request};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{PATIENCE, Verification};
use crate::accounts::NETWORK;
use crate::dispatch::{Books, Placement, Routing, SealedTask, TaskEvent, TaskHandle, TaskRequest};

/// Longest answer that is scored, in bytes: more than 256 tokens take.
const MAX_ANSWER: usize = 64 << 10;
/// Longest answer of a reference, in bytes.
const MAX_SCORES: usize = 4 << 20;
/// How often a request is sealed to a node that is busy, as clients do that know no other.
const TRIES: u32 = 6;

/// How a request reaches the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// As from a caller of the coordinator's own endpoint.
    Open,
    /// As from a client whose prompts the coordinator cannot read.
    Sealed,
}

/// What is asked of a node, in whose name, and until when its answer is waited for.
pub(super) struct Question<'a> {
    pub(super) body: Bytes,
    pub(super) model: &'a ModelName,
    pub(super) node: NodeId,
    pub(super) name: AccountId,
    pub(super) until: Instant,
}

impl Verification {
    /// Asks the node that is checked, until it is time to give up; says what the check comes to
    /// where there is no answer that can be scored.
    pub(super) async fn ask(
        &self,
        canary: &Canary,
        model: &ModelName,
        node: NodeId,
        mode: Mode,
        name: AccountId,
    ) -> Result<String, AuditResult> {
        let until = Instant::now() + Duration::from_millis(self.draw(PATIENCE));
        let question = Question { body: Bytes::from(canary.body(model)), model, node, name, until };
        match mode {
            Mode::Sealed => self.ask_sealed(&question).await,
            Mode::Open => self.ask_open(&question).await,
        }
    }

    /// Asks as a caller does whom the coordinator can read.
    pub(super) async fn ask_open(&self, question: &Question<'_>) -> Result<String, AuditResult> {
        let Question { body, model, node, name, until } = question;
        let request = self.request(body.clone(), model, *node, Priority::Interactive);
        let request = request.ok_or(AuditResult::Unasked)?;
        let handle = TaskHandle::new(Arc::clone(&self.dispatch), request, Books::Nobody);
        let mut handle = handle.in_the_name_of(*name);
        let read = timeout_at(*until, read(&mut handle)).await;
        read.unwrap_or_else(|_| Err(missing(&handle)))
    }

    /// Asks as a client does that seals to the node; one without a key for that is asked openly.
    async fn ask_sealed(&self, question: &Question<'_>) -> Result<String, AuditResult> {
        let Question { body, model, node, name, until } = question;
        let asked = Asked::read(Operation::Chat, body).map_err(|_| AuditResult::Unasked)?;
        let mut came = AuditResult::Unasked;
        for _ in 0..TRIES {
            let Some(certificate) = self.dispatch.certificate_of(node) else {
                return self.ask_open(question).await;
            };
            let sealed = self.seal(&certificate, &asked, model, body);
            let (task, opening) = sealed.ok_or(AuditResult::Unasked)?;
            let handle = TaskHandle::sealed(Arc::clone(&self.dispatch), task, Books::Nobody);
            let mut handle = handle.in_the_name_of(*name);
            match timeout_at(*until, opening.read(&mut handle)).await {
                Ok(Heard::Ended(answer)) => return answer,
                Ok(Heard::Busy) => came = missing(&handle),
                Err(_) => return Err(missing(&handle)),
            }
            let pause = tokio::time::sleep(Duration::from_millis(self.draw(1000..3000)));
            if timeout_at(*until, pause).await.is_err() {
                break;
            }
        }
        Err(came)
    }

    /// Seals a request as a client does.
    fn seal(
        &self,
        certificate: &VerifiedCertificate,
        asked: &Asked,
        model: &ModelName,
        body: &Bytes,
    ) -> Option<(SealedTask, Opening)> {
        // Who waits for a whole answer has taken some time until it seals.
        let spent = if asked.stream { 0 } else { self.draw(1..30) };
        let terms = Terms {
            ttl: MAX_TTL.saturating_sub(Duration::from_millis(spent)),
            max_tokens: asked.max_tokens,
            ..Terms::new(model.clone(), self.dispatch.clock.calendar())
        };
        let (operation, stream) = (Operation::Chat, asked.stream);
        let prompt = Prompt { operation, stream, body: body.clone() };
        let (request, opener) = SealedRequest::seal(certificate, terms, &prompt).ok()?;
        let task = SealedTask {
            id: self.dispatch.entropy.task_id(),
            account: NETWORK,
            key: None,
            request,
            time_limit: self.time_limit(),
        };
        let (reader, answer) = (RecordReader::new(), Answer::default());
        Some((task, Opening { opener, reader, answer }))
    }

    /// Has an answer to `messages` scored by a reference; `None` where it fails.
    pub(super) async fn score(
        &self,
        messages: Vec<Value>,
        model: &ModelName,
        answer: &str,
        reference: NodeId,
    ) -> Option<Vec<Scored>> {
        let body = Bytes::from(score_request(model, messages, answer).to_string());
        let request = self.request(body, model, reference, Priority::High)?;
        let request =
            TaskRequest { abilities: request.abilities.union(Abilities::SCORE), ..request };
        let mut handle = TaskHandle::new(Arc::clone(&self.dispatch), request, Books::Nobody);
        let mut scores = None;
        while let Some(event) = handle.next().await {
            match event {
                TaskEvent::Chunk(Chunk::Whole(whole)) if whole.len() <= MAX_SCORES => {
                    scores = PromptScores::read(&whole).ok();
                }
                TaskEvent::Accepted { .. } => scores = None,
                TaskEvent::Ended(Outcome::Finished(_)) => break,
                TaskEvent::Chunk(_) | TaskEvent::Sealed(_) | TaskEvent::Ended(_) => return None,
            }
        }
        let tokens = scores?.of_answer(answer).ok()?;
        Some(tokens.into_iter().map(Scored::from).collect())
    }

    /// Makes the task that a caller's request with this body would be, for one node.
    fn request(
        &self,
        body: Bytes,
        model: &ModelName,
        node: NodeId,
        priority: Priority,
    ) -> Option<TaskRequest> {
        let asked = Asked::read(Operation::Chat, &body).ok()?;
        Some(TaskRequest {
            id: self.dispatch.entropy.task_id(),
            account: NETWORK,
            key: None,
            operation: Operation::Chat,
            model: model.clone(),
            body,
            stream: asked.stream,
            prompt_tokens: asked.prompt_tokens,
            max_tokens: asked.max_tokens,
            abilities: asked.abilities,
            time_limit: self.time_limit(),
            priority,
            placement: Placement { nodes: vec![node], ..Placement::default() },
            routing: Routing::default(),
        })
    }

    /// Returns how long callers' requests may take, which nodes are told.
    fn time_limit(&self) -> Duration {
        Duration::from_millis(self.time_limit_ms.load(Ordering::Relaxed))
    }
}

/// Reads an open answer.
async fn read(handle: &mut TaskHandle) -> Result<String, AuditResult> {
    let mut answer = Answer::default();
    while let Some(event) = handle.next().await {
        match event {
            TaskEvent::Accepted { .. } | TaskEvent::Sealed(_) => {}
            TaskEvent::Chunk(chunk) => answer.take_in(&chunk).ok_or(AuditResult::Unscorable)?,
            TaskEvent::Ended(Outcome::Finished(_)) => {
                return answer.text().ok_or(AuditResult::Unscorable);
            }
            TaskEvent::Ended(_) => break,
        }
    }
    Err(missing(handle))
}

/// Returns what a check comes to without an answer that can be scored: one that the node owes, or
/// nothing that can be laid at its door.
fn missing(handle: &TaskHandle) -> AuditResult {
    if handle.is_withheld() { AuditResult::NoAnswer } else { AuditResult::Unasked }
}

/// How a sealed request ended.
enum Heard {
    /// With an answer, or without one that can be scored.
    Ended(Result<String, AuditResult>),
    /// The node had no slot free for it.
    Busy,
}

/// Returns whether a sealed request, which is for one node, found that one busy.
const fn is_busy(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(TaskError::NodeBusy { .. }))
}

/// A sealed answer that is being opened.
struct Opening {
    opener: AnswerOpener,
    reader: RecordReader,
    answer: Answer,
}

impl Opening {
    /// Reads an answer.
    async fn read(mut self, handle: &mut TaskHandle) -> Heard {
        while let Some(event) = handle.next().await {
            match event {
                TaskEvent::Accepted { .. } => {}
                TaskEvent::Sealed(records) => {
                    if let Err(result) = self.take_in(&records) {
                        return Heard::Ended(Err(result));
                    }
                }
                TaskEvent::Ended(Outcome::Finished(_)) => {
                    return Heard::Ended(self.answer.text().ok_or(AuditResult::Unscorable));
                }
                TaskEvent::Ended(outcome) if is_busy(&outcome) => return Heard::Busy,
                TaskEvent::Ended(_) | TaskEvent::Chunk(_) => break,
            }
        }
        Heard::Ended(Err(missing(handle)))
    }

    /// Takes records in; says what the check comes to where the answer cannot be scored.
    fn take_in(&mut self, records: &[u8]) -> Result<(), AuditResult> {
        self.reader.push(records);
        while let Some(record) = self.reader.pop().map_err(|_| AuditResult::NoAnswer)? {
            let events = self.opener.handle_record(&record);
            for event in events.map_err(|_| AuditResult::NoAnswer)? {
                let chunk = match event {
                    AnswerEvent::Text(text) => Chunk::Text(text),
                    AnswerEvent::Json(json) => Chunk::Json(json.into()),
                    AnswerEvent::Whole(json) => Chunk::Whole(json.into()),
                    AnswerEvent::Failed(_) => return Err(AuditResult::NoAnswer),
                    AnswerEvent::Opened | AnswerEvent::Finished(_) | AnswerEvent::Receipt(_) => {
                        continue;
                    }
                };
                self.answer.take_in(&chunk).ok_or(AuditResult::Unscorable)?;
            }
        }
        Ok(())
    }
}

/// The text of an answer, as far as it came.
#[derive(Debug, Default)]
struct Answer(String);

impl Answer {
    /// Takes a piece in; `None` where the answer cannot be scored.
    fn take_in(&mut self, chunk: &Chunk) -> Option<()> {
        let said = match chunk {
            Chunk::Text(text) => Said { content: Some(text.clone()), ..Said::default() },
            Chunk::Json(json) => Completion::read(json)?,
            Chunk::Whole(whole) => {
                self.0.clear();
                Completion::read(whole)?
            }
            Chunk::Finished(_) => return Some(()),
        };
        // What a model thinks is not part of its answer, yet the answer follows from it: without
        // it, nobody would write the same.
        let thinks = [said.reasoning, said.reasoning_content].into_iter().flatten();
        if thinks.into_iter().any(|thought| thought.as_str() != Some("") && !thought.is_null()) {
            return None;
        }
        let text = said.content.unwrap_or_default();
        if self.0.len() + text.len() > MAX_ANSWER {
            return None;
        }
        self.0.push_str(&text);
        Some(())
    }

    fn text(self) -> Option<String> {
        (!self.0.is_empty()).then_some(self.0)
    }
}

/// What is read of an answer, or of a step of it.
#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default, alias = "delta")]
    message: Said,
}

#[derive(Default, Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning: Option<Value>,
    #[serde(default)]
    reasoning_content: Option<Value>,
}

impl Completion {
    fn read(json: &[u8]) -> Option<Said> {
        let read: Self = serde_json::from_slice(json).ok()?;
        Some(read.choices.into_iter().next().map(|choice| choice.message).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(chunks: &[Chunk]) -> Option<String> {
        let mut answer = Answer::default();
        chunks.iter().try_for_each(|chunk| answer.take_in(chunk))?;
        answer.text()
    }

    fn json(value: &Value) -> Bytes {
        Bytes::from(value.to_string())
    }

    #[test]
    fn whole_and_streamed_answers_are_read() {
        let whole = json(&json!({"choices": [{"message": {"content": "a b"}}]}));
        assert_eq!(read(&[Chunk::Whole(whole)]).as_deref(), Some("a b"));
        let role = json(&json!({"choices": [{"delta": {"role": "assistant"}}]}));
        let more = json(&json!({"choices": [{"delta": {"content": " b"}}]}));
        let streamed = [Chunk::Json(role), Chunk::Text("a".to_owned()), Chunk::Json(more)];
        assert_eq!(read(&streamed).as_deref(), Some("a b"));
    }

    #[test]
    fn a_request_that_was_sealed_to_a_busy_node_is_tried_again() {
        let busy = TaskError::NodeBusy { retry_after_secs: 1 };
        assert!(is_busy(&Outcome::Failed(busy)));
        assert!(!is_busy(&Outcome::Failed(TaskError::NodeOffline)));
    }

    #[test]
    fn answers_that_say_nothing_or_follow_from_hidden_thoughts_are_not_scored() {
        for message in [
            json!({"content": ""}),
            json!({"content": null}),
            json!({"content": "a", "reasoning_content": "so"}),
            json!({"content": "a", "reasoning": ["so"]}),
            json!({"content": "x".repeat(MAX_ANSWER + 1)}),
            json!({"content": 1}),
        ] {
            let whole = json(&json!({"choices": [{"message": message}]}));
            assert_eq!(read(&[Chunk::Whole(whole)]), None, "{message}");
        }
        let thoughtless = json!({"content": "a", "reasoning_content": "", "reasoning": null});
        let whole = json(&json!({"choices": [{"message": thoughtless}]}));
        assert_eq!(read(&[Chunk::Whole(whole)]).as_deref(), Some("a"));
        assert_eq!(read(&[Chunk::Whole(Bytes::from_static(b"["))]), None);
    }
}
