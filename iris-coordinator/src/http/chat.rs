//! A chat for web pages: `POST /api/chat/stream`.
//!
//! One message, or a conversation, and the answer as server-sent events that are JSON objects of
//! one form each. People without a key may be let in for a message a day, and members have a few;
//! what counts is a message that a node took.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use iris_core::ModelName;
use iris_core::backend::{Chunk, Operation};
use iris_core::queue::Priority;
use iris_core::routing::ANY;
use iris_core::task::Outcome;
use iris_protocol::openai::{Asked, PREFERENCES, Usage};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::auth::{ASK, Caller};
use super::error::ApiError;
use super::limits::{Permit, whole_secs};
use super::members::Members;
use super::observe::{RequestContext, Streamed};
use super::openai::{event_stream, unfinished};
use super::route::Routed;
use super::settings::Unlimited;
use crate::accounts::{ApiKey, NOBODY};
use crate::dispatch::{Placement, TaskEvent, TaskHandle, TaskRequest};
use crate::limits::{Allowance, Left, Person, Turn};

/// Messages of a day of somebody without a key.
const STRANGERS: u32 = 1;
/// Messages of a day of an account.
const MEMBERS: u32 = 3;
/// Longest answer for somebody without a key, in tokens.
const STRANGERS_TOKENS: u32 = 2048;
/// Longest conversation, in bytes.
const BODY: usize = 256 << 10;
/// How long it stays open whether there will be an answer, before the caller is told to wait.
const UNDECIDED: Duration = Duration::from_millis(500);

/// `POST /api/chat/stream`.
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let caller = caller(&api, &head.headers).await?;
    let (turn, left) = turn(&api, &caller, &context)?;
    let mut permit: Permit = api.admit(&caller)?;
    permit.narrow(left);
    let answer = answer(&api, &caller, context, turn, &head.headers, body).await;
    Ok(api.finish(&permit, answer))
}

/// Returns who asks: a member, or nobody in particular where such are let in.
async fn caller(api: &Api, headers: &HeaderMap) -> Result<Caller, ApiError> {
    if headers.contains_key(AUTHORIZATION) {
        return api.key(headers, ASK).await;
    }
    if api.settings.public_chat {
        return Ok(Caller { account: NOBODY, key: None });
    }
    let message = "This coordinator answers members alone: send an API key as 'Authorization: \
                   Bearer iris_...'. Its operator can let others in with --public-chat.";
    Err(ApiError::unauthorized().with_message(message))
}

/// Takes one of the messages that a caller has today.
fn turn(
    api: &Api,
    caller: &Caller,
    context: &RequestContext,
) -> Result<(Turn, Option<Left>), ApiError> {
    let (person, limit) = if caller.account == NOBODY {
        (Person::Address(context.caller.address), STRANGERS)
    } else {
        (Person::Account(caller.account), MEMBERS)
    };
    let is_unlimited = api.settings.unlimited.iter().any(|unlimited| match unlimited {
        Unlimited::Account(account) => *account == caller.account,
        Unlimited::Key(id) => {
            let named = |key: &ApiKey| key.id == *id || key.meter == *id;
            caller.key.as_ref().is_some_and(named)
        }
    });
    if is_unlimited {
        return Ok((Turn::uncounted(), None));
    }
    match api.chats.begin(person, limit) {
        Ok((turn, left)) => Ok((turn, Some(left))),
        Err(left) => {
            let (plural, more) = match person {
                Person::Address(_) => ("", " Members have more."),
                Person::Account(_) => ("s", ""),
            };
            let message = format!(
                "There {} {limit} message{plural} a day here, and today's were sent; a new day \
                 begins at midnight UTC.{more}",
                if limit == 1 { "is" } else { "are" },
            );
            let allowance = Allowance { requests: Some(left), tokens: None };
            let refused = ApiError::too_many(message, whole_secs(left.reset));
            Err(refused.with_allowance(allowance))
        }
    }
}

async fn answer(
    api: &Arc<Api>,
    caller: &Caller,
    context: RequestContext,
    turn: Turn,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let limit = BODY.min(api.settings.body_limit);
    let body = api.bodies.read(headers, body, limit).await?;
    let request = request(api, caller, &context, &body).await?;
    let (model, routing) = (request.model.clone(), request.routing);
    let mut talk = Talk {
        handle: Some(api.coordinator.submit(request)),
        turn,
        model,
        has_begun: false,
        has_text: false,
        ready: VecDeque::new(),
    };
    talk.open().await?;
    let keep_alive = api.settings.keep_alive;
    let events = stream::unfold(talk, move |mut talk| async move {
        let frame = match tokio::time::timeout(keep_alive, talk.next()).await {
            Ok(event) => event?,
            Err(_) => Bytes::from_static(b": keep-alive\n\n"),
        };
        Some((Ok::<_, Infallible>(frame), talk))
    });
    let node = None;
    let mut response = event_stream(Body::from_stream(events), context.id, node);
    response.extensions_mut().insert(Streamed);
    routing.describe(response.headers_mut());
    Ok(response)
}

/// Reads what is asked, and makes the chat of it that a model understands.
async fn request(
    api: &Api,
    caller: &Caller,
    context: &RequestContext,
    body: &[u8],
) -> Result<TaskRequest, ApiError> {
    let mut members = Members::read(body)?;
    let model: Option<ModelName> = members.optional("model", "a model's name")?;
    let message: Option<String> = members.optional("message", "a text")?;
    let messages: Option<Vec<Value>> = members.optional("messages", "an array of messages")?;
    let messages = match (message, messages) {
        (Some(message), None) => vec![json!({ "role": "user", "content": message })],
        (None, Some(messages)) => messages,
        _ => return Err(members.wrong("message", "given, or else 'messages'")),
    };
    let wishes = members.take(PREFERENCES);
    members.finish()?;
    let model = model.as_ref().map_or(ANY, ModelName::as_str);
    let mut chat = json!({ "model": model, "messages": messages, "stream": true });
    if caller.account == NOBODY {
        chat["max_tokens"] = STRANGERS_TOKENS.into();
    }
    if let Some(wishes) = wishes {
        chat[PREFERENCES] = wishes;
    }
    let body = Bytes::from(chat.to_string());
    let asked = Asked::read(Operation::Chat, &body)?;
    let body = asked.body_for_nodes(&body);
    let Routed { model, body, routing } = api.route(caller, Operation::Chat, &asked, body).await?;
    Ok(TaskRequest {
        id: context.id,
        account: caller.account,
        key: caller.payer().key,
        operation: Operation::Chat,
        model,
        body,
        stream: true,
        prompt_tokens: asked.prompt_tokens,
        max_tokens: asked.max_tokens,
        abilities: asked.abilities,
        time_limit: routing.time_limit(api.settings.time_limit, context.since),
        priority: Priority::Interactive,
        placement: Placement::new(asked.preferences, None),
        routing,
    })
}

/// One answer on its way to its reader.
struct Talk {
    /// The task, until it is over.
    handle: Option<TaskHandle>,
    turn: Turn,
    model: ModelName,
    /// Whether a node has taken it, and has not failed before it said anything.
    has_begun: bool,
    has_text: bool,
    ready: VecDeque<Bytes>,
}

impl Talk {
    /// Waits for a moment whether there will be an answer; if not, that is an HTTP status.
    async fn open(&mut self) -> Result<(), ApiError> {
        let opened = async {
            while self.ready.is_empty() {
                let Some(handle) = &mut self.handle else { break };
                let Some(event) = handle.next().await else { break };
                match event {
                    TaskEvent::Ended(outcome) if !matches!(outcome, Outcome::Finished(_)) => {
                        self.handle = None;
                        return Err(unfinished(outcome));
                    }
                    event => self.take(event),
                }
            }
            Ok(())
        };
        if let Ok(opened) = tokio::time::timeout(UNDECIDED, opened).await {
            return opened;
        }
        let place = self.handle.as_ref().and_then(TaskHandle::place_in_line);
        self.say(&json!({ "type": "queued", "place_in_line": place }));
        Ok(())
    }

    /// Returns the next events; `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.handle.as_mut()?.next().await {
                Some(event) => self.take(event),
                None => self.handle = None,
            }
        }
    }

    fn take(&mut self, event: TaskEvent) {
        match event {
            TaskEvent::Accepted { node } => {
                self.has_begun = true;
                let task = self.handle.as_ref().map(TaskHandle::id);
                let model = self.model.as_str();
                self.say(&json!({ "type": "start", "task": task, "model": model, "node": node }));
            }
            TaskEvent::Chunk(chunk) => self.pass_on(&chunk),
            TaskEvent::Sealed(_) => self.reject(),
            TaskEvent::Ended(outcome) => self.end(outcome),
        }
    }

    /// Passes on what a chunk says, or holds it against the node that it is none.
    fn pass_on(&mut self, chunk: &Chunk) {
        let text = match chunk {
            Chunk::Text(text) => Some(text.clone()),
            Chunk::Json(json) => said(json),
            Chunk::Whole(_) | Chunk::Finished(_) => None,
        };
        match text {
            Some(text) if text.is_empty() => {}
            Some(text) => {
                self.has_text = true;
                self.say(&json!({ "type": "chunk", "text": text }));
            }
            None => self.reject(),
        }
    }

    fn reject(&mut self) {
        if let Some(handle) = &mut self.handle {
            handle.reject_answer();
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.handle = None;
        match outcome {
            Outcome::Finished(finish) => {
                self.has_begun = true;
                let (reason, usage) = (finish.reason, Usage::from(finish.usage));
                self.say(&json!({ "type": "end", "finish_reason": reason, "usage": usage }));
            }
            outcome => {
                self.has_begun &= self.has_text;
                let error = unfinished(outcome).body().error;
                self.say(&json!({ "type": "error", "error": error }));
            }
        }
    }

    fn say(&mut self, event: &Value) {
        self.ready.push_back(Bytes::from(format!("data: {event}\n\n")));
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        if self.has_begun {
            self.turn.keep();
        }
    }
}

/// Reads the text of a step of a streamed answer; `None` when it is none.
fn said(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Step {
        #[serde(default)]
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        #[serde(default)]
        delta: Option<Delta>,
    }
    #[derive(Deserialize)]
    struct Delta {
        #[serde(default)]
        content: Option<String>,
    }
    let step: Step = serde_json::from_slice(json).ok()?;
    let delta = step.choices.into_iter().next().and_then(|choice| choice.delta);
    Some(delta.and_then(|delta| delta.content).unwrap_or_default())
}
