//! Callers that ask by real HTTP and read what comes.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use iris_core::{ModelName, NodeId, TaskId};
use iris_protocol::openai::{ChatCompletionChunk, ErrorBody};
use iris_protocol::rest::{self, InferenceRequest, InferenceStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::trace::Trace;

mod http1;
mod sealed;
mod sse;

use http1::{Body, Broken};
use sse::Events;

/// Somebody who asks a coordinator.
#[derive(Clone, Debug)]
pub struct Caller {
    pub(super) name: String,
    pub(super) key: String,
    pub(super) trace: Trace,
}

/// What to ask a model, and how to read the answer.
#[derive(Clone, Debug)]
pub struct Chat {
    model: ModelName,
    question: String,
    stream: bool,
    sealed: bool,
    pace: Duration,
    leave_after: Option<u32>,
    patience: Duration,
}

impl Chat {
    /// Asks `model` a question; the answer is streamed and read as fast as it comes.
    pub fn new(model: ModelName, question: impl Into<String>) -> Self {
        Self {
            model,
            question: question.into(),
            stream: true,
            sealed: false,
            pace: Duration::ZERO,
            leave_after: None,
            patience: Duration::from_mins(15),
        }
    }

    /// Sets whether the answer is streamed. Default: yes.
    pub const fn with_stream(mut self, stream: bool) -> Self {
        self.stream = stream;
        self
    }

    /// Sets whether the question is sealed to a node of the roster, so that only that one can read
    /// it. Default: no.
    pub const fn with_seal(mut self, sealed: bool) -> Self {
        self.sealed = sealed;
        self
    }

    /// Reads slowly: waits for `pause` after each read. Default: no pause.
    pub const fn with_pace(mut self, pause: Duration) -> Self {
        self.pace = pause;
        self
    }

    /// Leaves after `reads` reads of the answer's body. Default: stays.
    pub const fn with_leave_after(mut self, reads: u32) -> Self {
        self.leave_after = Some(reads);
        self
    }

    /// Gives up after `patience` altogether. Default: 15 minutes, longer than any chat may take.
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// What came of a [`Chat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The task that the request became, once the coordinator has answered.
    pub task: Option<TaskId>,
    /// The node that the answer came from first.
    pub node: Option<NodeId>,
    /// The text that was received.
    pub text: String,
    /// How it ended.
    pub end: ReplyEnd,
}

/// How a [`Reply`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyEnd {
    /// With the answer's own end.
    Complete,
    /// With a status other than 200, and the error's `code`.
    Refused(u16, String),
    /// In the midst of the stream, with an error that says why.
    CutOff(String),
    /// The connection broke.
    Broken,
    /// The caller left.
    Left,
    /// The caller's patience ran out.
    GaveUp,
    /// With something that is no answer.
    Malformed(String),
}

/// Why a durable task could not be submitted or looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The coordinator refused.
    #[error("refused with {0}")]
    Refused(u16),
    /// There was no answer; what was asked may have happened or not.
    #[error("no answer")]
    NoAnswer,
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Malformed,
}

/// How long a caller waits for an answer that needs no model.
const PATIENCE: Duration = Duration::from_secs(30);

impl Caller {
    /// Returns the caller's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks a model and reads the answer to its end.
    pub async fn chat(&self, chat: Chat) -> Reply {
        let mut reply =
            Reply { task: None, node: None, text: String::new(), end: ReplyEnd::GaveUp };
        let asked = tokio::time::timeout(chat.patience, self.ask(&chat, &mut reply)).await;
        if let Ok(end) = asked {
            reply.end = end;
        }
        let length = reply.text.len();
        self.trace.note(&self.name, format_args!("chat: {:?}, {length} bytes", reply.end));
        reply
    }

    /// Submits a durable task; resolves once the coordinator has accepted it.
    pub async fn submit(
        &self,
        request: &InferenceRequest,
        idempotency_key: Option<&str>,
    ) -> Result<InferenceStatus, CallError> {
        self.submit_body(request, idempotency_key).await
    }

    /// Submits whatever stands for a durable task; see [`submit`](Self::submit).
    pub async fn submit_body(
        &self,
        request: &impl Serialize,
        idempotency_key: Option<&str>,
    ) -> Result<InferenceStatus, CallError> {
        let body = serde_json::to_vec(request).map_err(|_| CallError::Malformed)?;
        let extra = idempotency_key.map(|key| (rest::IDEMPOTENCY_KEY, key.to_owned()));
        self.call(Method::POST, "/inference", extra, body.into(), StatusCode::ACCEPTED).await
    }

    /// Asks how a durable task stands.
    pub async fn status(&self, task: TaskId) -> Result<InferenceStatus, CallError> {
        let path = format!("/inference/{task}");
        self.call(Method::GET, &path, None, Bytes::new(), StatusCode::OK).await
    }

    /// Cancels a durable task and returns how it stands then.
    pub async fn cancel(&self, task: TaskId) -> Result<InferenceStatus, CallError> {
        let path = format!("/inference/{task}");
        self.call(Method::DELETE, &path, None, Bytes::new(), StatusCode::OK).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        extra: Option<(&'static str, String)>,
        body: Bytes,
        expected: StatusCode,
    ) -> Result<T, CallError> {
        let called = async {
            let mut headers = vec![("authorization", format!("Bearer {}", self.key))];
            headers.extend(extra);
            let (head, mut incoming) = http1::send(method.clone(), path, &headers, body).await?;
            Ok::<_, Broken>((head.status, incoming.all().await?))
        };
        let answer = tokio::time::timeout(PATIENCE, called).await;
        let said = match &answer {
            Ok(Ok((status, _))) => status.as_u16(),
            _ => 0,
        };
        self.trace.note(&self.name, format_args!("{method} {}: {said}", shown(path)));
        let Ok(Ok((status, text))) = answer else { return Err(CallError::NoAnswer) };
        if status != expected {
            return Err(CallError::Refused(status.as_u16()));
        }
        serde_json::from_slice(&text).map_err(|_| CallError::Malformed)
    }

    async fn ask(&self, chat: &Chat, reply: &mut Reply) -> ReplyEnd {
        let message = json!({ "role": "user", "content": chat.question });
        let body = json!({ "model": chat.model, "stream": chat.stream, "messages": [message] });
        let headers = [("authorization", format!("Bearer {}", self.key))];
        let (path, body, opener) = if chat.sealed {
            match self.seal(chat, body.to_string().into()).await {
                Ok((body, opener)) => ("/sealed", body, Some(opener)),
                Err(end) => return end,
            }
        } else {
            ("/v1/chat/completions", body.to_string().into(), None)
        };
        let sent = http1::send(Method::POST, path, &headers, body).await;
        let Ok((head, mut incoming)) = sent else { return ReplyEnd::Broken };
        let header = |name: &str| head.headers.get(name)?.to_str().ok();
        reply.task = header(rest::REQUEST_ID).and_then(|id| id.parse().ok());
        reply.node = header(rest::NODE).and_then(|id| id.parse().ok());
        if head.status != StatusCode::OK {
            let Ok(text) = incoming.all().await else { return ReplyEnd::Broken };
            return ReplyEnd::Refused(head.status.as_u16(), error_code(&text));
        }
        if let Some(opener) = opener {
            sealed::read(chat, opener, &mut incoming, &mut reply.text).await
        } else if chat.stream {
            read_stream(chat, &mut incoming, &mut reply.text).await
        } else {
            read_whole(&mut incoming, &mut reply.text).await
        }
    }
}

fn error_code(text: &[u8]) -> String {
    let body = serde_json::from_slice::<ErrorBody>(text).ok();
    body.and_then(|body| body.error.code).unwrap_or_default()
}

async fn read_whole(incoming: &mut Body, text: &mut String) -> ReplyEnd {
    let Ok(body) = incoming.all().await else { return ReplyEnd::Broken };
    match content(&body) {
        Some(content) => {
            text.push_str(&content);
            ReplyEnd::Complete
        }
        None => ReplyEnd::Malformed("no content".to_owned()),
    }
}

/// Returns what a whole answer says.
fn content(answer: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    Some(answer["choices"][0]["message"]["content"].as_str()?.to_owned())
}

async fn read_stream(chat: &Chat, incoming: &mut Body, text: &mut String) -> ReplyEnd {
    let mut events = Events::default();
    let mut reads = 0;
    loop {
        let part = match incoming.next().await {
            Ok(Some(part)) => part,
            // A stream that is over has said so before.
            Ok(None) => return ReplyEnd::Malformed("the stream ends without an end".to_owned()),
            Err(Broken) => return ReplyEnd::Broken,
        };
        events.push(&part);
        while let Some(data) = events.next() {
            if data == "[DONE]" {
                return ReplyEnd::Complete;
            }
            if let Ok(error) = serde_json::from_str::<ErrorBody>(&data) {
                return ReplyEnd::CutOff(error.error.code.unwrap_or_default());
            }
            let Ok(chunk) = serde_json::from_str::<ChatCompletionChunk>(&data) else {
                return ReplyEnd::Malformed(data);
            };
            text.push_str(chunk.text());
        }
        reads += 1;
        if chat.leave_after.is_some_and(|limit| reads >= limit) {
            return ReplyEnd::Left;
        }
        if !chat.pace.is_zero() {
            tokio::time::sleep(chat.pace).await;
        }
    }
}

/// Returns a path as it may stand in a trace, where ids of tasks say nothing.
fn shown(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(start, _)| if start.is_empty() { path } else { start })
}
