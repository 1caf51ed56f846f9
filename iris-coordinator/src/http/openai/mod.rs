//! The OpenAI-compatible endpoint.
//!
//! Requests are read shallowly and passed on unchanged; answers are passed on with an envelope
//! around them. What goes wrong before the first byte of an answer is an HTTP status, streamed or
//! not.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use iris_core::backend::{Chunk, Operation};
use iris_core::queue::Priority;
use iris_core::task::Outcome;
use iris_core::{NodeId, TaskId};
use iris_protocol::openai::{Asked, EventWriter, Heading, Model, ModelList, Refused, RequestError};
use iris_protocol::rest;

use self::stream::{Events, Opening};
use super::auth::{ASK, Caller, LOOK};
use super::error::ApiError;
use super::observe::{RequestContext, Streamed, size_class};
use super::route::Routed;
use super::{Api, json_response};
use crate::clock::{Clock, SystemClock};
use crate::dispatch::{ModelSummary, Placement, TaskEvent, TaskHandle, TaskRequest};

mod divided;
mod stream;

/// `POST /v1/chat/completions`.
pub(super) async fn chat(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(&api, Operation::Chat, request).await
}

/// `POST /v1/completions`.
pub(super) async fn completion(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(&api, Operation::Completion, request).await
}

/// `POST /v1/embeddings`.
pub(super) async fn embedding(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(&api, Operation::Embedding, request).await
}

/// Returns what a request asks models for, if it does that, and the path for it.
pub(super) fn operation<B>(request: &http::Request<B>) -> Option<(Operation, &'static str)> {
    const CHAT: &str = "/v1/chat/completions";
    const COMPLETIONS: &str = "/v1/completions";
    const EMBEDDINGS: &str = "/v1/embeddings";
    match (request.method(), request.uri().path()) {
        (&Method::POST, CHAT) => Some((Operation::Chat, CHAT)),
        (&Method::POST, COMPLETIONS) => Some((Operation::Completion, COMPLETIONS)),
        (&Method::POST, EMBEDDINGS) => Some((Operation::Embedding, EMBEDDINGS)),
        _ => None,
    }
}

/// `GET /v1/models`.
pub(super) async fn models(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = api.key(&headers, LOOK).await?;
    let models = api.coordinator.models();
    let models = models.iter().filter(|offered| caller.may_ask(&offered.name)).map(model);
    Ok(json_response(&ModelList::new(models.collect())))
}

/// `GET /v1/models/{id}`, where the id may hold slashes.
pub(super) async fn model_by_name(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    name: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Response, ApiError> {
    let caller = api.key(&headers, LOOK).await?;
    let Path(name) = name.map_err(|_| RequestError::UnknownModel)?;
    let models = api.coordinator.models();
    let found = models.iter().find(|model| model.name.as_str() == name);
    let found = found.filter(|found| caller.may_ask(&found.name));
    Ok(json_response(&model(found.ok_or(RequestError::UnknownModel)?)))
}

fn model(summary: &ModelSummary) -> Model {
    Model::new(summary.name.as_str(), summary.first_offered.as_secs(), "iris")
}

/// Answers a request that [`observe`](super::observe::observe) has given its context.
pub(super) async fn generate<B>(
    api: &Arc<Api>,
    operation: Operation,
    request: http::Request<B>,
) -> Result<Response, ApiError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let (head, body) = request.into_parts();
    let context = *head.extensions.get::<RequestContext>().ok_or_else(ApiError::internal)?;
    let caller = api.key(&head.headers, ASK).await?;
    let permit = api.admit(&caller)?;
    let answer = answer(api, operation, context, &caller, &head.headers, body).await;
    Ok(api.finish(&permit, answer))
}

/// Answers a request that was let in.
async fn answer<B>(
    api: &Arc<Api>,
    operation: Operation,
    context: RequestContext,
    caller: &Caller,
    headers: &HeaderMap,
    body: B,
) -> Result<Response, ApiError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let settings = &api.settings;
    let body = api.bodies.read(headers, body, settings.body_limit).await?;
    let asked = Asked::read(operation, &body)?;
    tracing::debug!(
        task = %context.id,
        stream = asked.stream,
        bytes = size_class(body.len()),
        "task submitted"
    );
    let created = SystemClock.calendar().as_secs();
    let heading = |model| Heading { operation, task: context.id, created, model };
    if divided::is_meant(&asked.model)
        && let Some(run) = divided::read(api, caller, operation, &asked, &body).await?
    {
        caller.check_models(run.plan().models())?;
        let heading = heading(asked.model.as_str());
        let payer = caller.payer();
        return Box::pin(divided::answer(api, &context, payer, run, heading, &asked)).await;
    }
    let conversation = api.coordinator.conversation(caller.account, &body, &asked);
    let body = asked.body_for_nodes(&body);
    let Routed { model, body, routing } = api.route(caller, operation, &asked, body).await?;
    let placement = Placement::new(asked.preferences, asked.dataset);
    let handle = api.coordinator.submit(TaskRequest {
        id: context.id,
        account: caller.account,
        key: caller.payer().key,
        operation,
        model: model.clone(),
        body,
        stream: asked.stream,
        prompt_tokens: asked.prompt_tokens,
        max_tokens: asked.max_tokens,
        abilities: asked.abilities,
        time_limit: routing.time_limit(settings.time_limit, context.since),
        priority: Priority::Interactive,
        placement: Placement { conversation, ..placement },
        routing,
    });
    let heading = heading(model.as_str());
    let mut response = if asked.stream {
        let writer = EventWriter::new(heading, asked.include_usage);
        streamed(api, &context, handle, writer).await?
    } else {
        whole(handle, heading).await?
    };
    routing.describe(response.headers_mut());
    Ok(response)
}

/// Waits for the answer and returns it in one piece.
async fn whole(mut handle: TaskHandle, heading: Heading<'_>) -> Result<Response, ApiError> {
    let mut answer = None;
    while let Some(event) = handle.next().await {
        match event {
            // A new attempt begins anew.
            TaskEvent::Accepted { .. } => answer = None,
            TaskEvent::Chunk(Chunk::Whole(whole)) if answer.is_none() => {
                answer = heading.whole(&whole).ok();
                if answer.is_none() {
                    handle.reject_answer();
                }
            }
            TaskEvent::Chunk(_) | TaskEvent::Sealed(_) => handle.reject_answer(),
            TaskEvent::Ended(Outcome::Finished(_)) => break,
            TaskEvent::Ended(outcome) => return Err(unfinished(outcome)),
        }
    }
    let answer = answer.ok_or_else(Refused::invalid_answer)?;
    let mut response = Response::new(Body::from(answer));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    describe(headers, heading.task, handle.node());
    Ok(response)
}

/// Waits until it is known whether there will be an answer, then streams it.
async fn streamed(
    api: &Api,
    context: &RequestContext,
    mut handle: TaskHandle,
    writer: EventWriter,
) -> Result<Response, ApiError> {
    let mut out = BytesMut::with_capacity(stream::BUFFER);
    writer.begin(&mut out);
    loop {
        match stream::open(&mut handle, api.settings.keep_alive).await {
            Opening::Chunk(chunk) if writer.chunk(&chunk, &mut out).is_err() => {
                handle.reject_answer();
            }
            Opening::Chunk(_) => {
                api.metrics.first_chunk(context.since.elapsed());
                break;
            }
            Opening::Finished(finish) => {
                writer.finish(&finish, &mut out);
                return Ok(event_stream(Body::from(out.freeze()), context.id, handle.node()));
            }
            Opening::Waiting => break,
            Opening::Failed(error) => return Err(error),
        }
    }
    let (id, node) = (handle.id(), handle.node());
    let events = Events::new(api.settings.keep_alive, *context, handle, writer, out);
    let mut response = event_stream(Body::new(events), id, node);
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

pub(super) fn event_stream(body: Body, task: TaskId, node: Option<NodeId>) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let unbuffered = HeaderName::from_static("x-accel-buffering");
    headers.insert(unbuffered, HeaderValue::from_static("no"));
    describe(headers, task, node);
    response
}

/// Says what became of a request, and who can read it.
fn describe(headers: &mut HeaderMap, task: TaskId, node: Option<NodeId>) {
    let id = HeaderValue::try_from(task.to_string()).expect("an id is hexadecimal");
    headers.insert(HeaderName::from_static(rest::TASK), id);
    // The coordinator's own endpoint is open.
    headers.insert(HeaderName::from_static(rest::PRIVACY), HeaderValue::from_static("open"));
    if let Some(node) = node {
        let node = HeaderValue::from_str(node.as_str()).expect("a node id is base32");
        headers.insert(HeaderName::from_static(rest::NODE), node);
    }
}

/// Turns the end of a task that has no complete answer into a refusal.
pub(super) fn unfinished(outcome: Outcome) -> ApiError {
    match outcome {
        Outcome::Failed(error) => error.into(),
        Outcome::Expired => Refused::expired().into(),
        // A caller that gave up hears nothing; what is left is a coordinator that stops.
        Outcome::Cancelled => ApiError::unavailable("The coordinator is stopping."),
        Outcome::Finished(_) => Refused::invalid_answer().into(),
    }
}
