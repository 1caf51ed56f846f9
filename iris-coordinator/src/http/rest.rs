//! The coordinator's own API.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use iris_core::TaskId;
use iris_core::plan::{Decision, DecisionError};
use iris_protocol::rest::{self, Health, InferenceStatus, KeyScope, TaskList};
use serde::de::DeserializeOwned;

use super::auth::{ASK, Caller, LOOK, OPERATE, OWN};
use super::error::ApiError;
use super::members::{self, Members};
use super::observe::RequestContext;
use super::submission::Submission;
use super::{Api, dividing, events, json_response};
use crate::dispatch::hide_reason;
use crate::inference::{InferenceError, Once};

/// The API's description for programs.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// Longest idempotency key, in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 255;

pub(super) type Reply = Result<Response, ApiError>;

/// The task that a path names; its text need not be one.
pub(super) type TaskPath = Result<Path<String>, PathRejection>;

/// `POST /inference`.
pub(super) async fn submit(State(api): State<Arc<Api>>, request: Request) -> Reply {
    let (head, body) = request.into_parts();
    let caller = api.key(&head.headers, ASK).await?;
    let permit = api.admit(&caller)?;
    let answer = submitted(&api, &caller, &head.headers, body).await;
    Ok(api.finish(&permit, answer))
}

/// Answers a submission that was let in.
async fn submitted(api: &Arc<Api>, caller: &Caller, headers: &HeaderMap, body: Body) -> Reply {
    let once = idempotency_key(headers)?;
    let body = api.bodies.read(headers, body, api.settings.body_limit).await?;
    let (reader, read) = (Arc::clone(api), body.clone());
    let submission = dividing(body.len(), move || Submission::read(&reader, &read)).await?;
    let submitted = take(api, caller, submission, once.map(|key| (key, &body[..]))).await?;
    if events::are_wanted(headers) {
        let events = api.coordinator.inference().follow(caller.account, submitted.id).await?;
        return Ok(events::told(api, submitted.id, events));
    }
    let mut response = json_response(&submitted);
    *response.status_mut() = StatusCode::ACCEPTED;
    let task = HeaderValue::try_from(submitted.id.to_string()).expect("an id is hexadecimal");
    response.headers_mut().insert(HeaderName::from_static(rest::TASK), task);
    Ok(response)
}

/// Takes a task, divided or not; `once` is the idempotency key and the body that came with it.
pub(super) async fn take(
    api: &Api,
    caller: &Caller,
    submission: Submission,
    once: Option<(&str, &[u8])>,
) -> Result<InferenceStatus, ApiError> {
    let inference = api.coordinator.inference();
    Ok(match submission {
        Submission::Single(request) => {
            let chosen = api.chosen(caller, &request).await?;
            let payer = caller.payer();
            inference.submit_to(payer, *request, chosen, once.map(|(key, _)| key)).await?
        }
        Submission::Divided { plan, wishes, priority } => {
            caller.check_models(plan.models())?;
            let once = once.map(|(key, request)| Once { key, request });
            inference.submit_plan(caller.payer(), *plan, &wishes, priority, once).await?
        }
    })
}

/// `GET /inference`: the caller's own of late.
pub(super) async fn list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    let account = api.key(&headers, ASK).await?.account;
    let tasks = api.coordinator.inference().list(account).await?;
    Ok(json_response(&TaskList { tasks }))
}

/// `GET /inference/{id}`.
pub(super) async fn status(State(api): State<Arc<Api>>, headers: HeaderMap, id: TaskPath) -> Reply {
    let account = api.key(&headers, ASK).await?.account;
    let status = api.coordinator.inference().status(account, task_id(id)?).await?;
    Ok(json_response(&status))
}

/// `DELETE /inference/{id}`.
pub(super) async fn cancel(State(api): State<Arc<Api>>, headers: HeaderMap, id: TaskPath) -> Reply {
    let account = api.key(&headers, ASK).await?.account;
    let status = api.coordinator.inference().cancel(account, task_id(id)?).await?;
    Ok(json_response(&status))
}

/// `GET /inference/{id}/explain`.
pub(super) async fn explain(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    id: TaskPath,
) -> Reply {
    let account = api.key(&headers, ASK).await?.account;
    let explanation = api.coordinator.inference().explain(account, task_id(id)?).await?;
    Ok(json_response(&explanation))
}

/// `POST /inference/{id}/review`.
pub(super) async fn review(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    let account = api.key(&head.headers, ASK).await?.account;
    let id = id.parse().map_err(|_| no_such_task())?;
    let body = api.bodies.read(&head.headers, body, api.settings.body_limit).await?;
    let mut members = Members::read(&body)?;
    let decision = Decision {
        step: members.required("step", "the name of the step that waits")?,
        choose: members.optional("choose", "the name of one of the outputs that are laid out")?,
        text: members.optional("text", "a text")?,
    };
    members.finish()?;
    let status = api.coordinator.inference().decide(account, id, decision).await?;
    Ok(json_response(&status))
}

/// `GET /nodes/{id}/why`.
pub(super) async fn why(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Reply {
    let caller = api.key(&headers, OWN).await?;
    let unknown = || ApiError::not_found("There is no such node.");
    let Path(id) = id.map_err(|_| unknown())?;
    let id = id.parse().map_err(|_| unknown())?;
    let may =
        |scopes: &[KeyScope]| caller.key.as_ref().is_some_and(|key| scopes.contains(&key.scope));
    let is_own = api.coordinator.owns(&caller.account, &id);
    if !is_own && caller.key.is_some() && !may(LOOK) {
        return Err(unknown());
    }
    let why = api.coordinator.why(&id).await.map_err(|error| {
        tracing::error!(%error, "a node could not be looked up");
        ApiError::unavailable("The node could not be looked up; try again.")
    })?;
    let mut why = why.ok_or_else(unknown)?;
    if !is_own && !may(OPERATE) {
        hide_reason(&mut why);
    }
    Ok(json_response(&why))
}

/// `GET /healthz`: whether the process answers.
pub(super) async fn healthz(State(api): State<Arc<Api>>) -> Response {
    json_response(&health(&api, "ok"))
}

/// `GET /readyz`: whether tasks can be taken.
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Response {
    let ready = api.coordinator.is_ready().await;
    let mut response = json_response(&health(&api, if ready { "ok" } else { "unready" }));
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// `GET /metrics`: for whoever sits on the machine or has an operator's key.
pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Reply {
    if !context.caller.local {
        api.key(&headers, OPERATE).await?;
    }
    let text = api.metrics.text().map_err(|_| ApiError::internal())?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// `GET /openapi.json`.
pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

impl From<InferenceError> for ApiError {
    fn from(error: InferenceError) -> Self {
        match error {
            InferenceError::NotFound => no_such_task(),
            InferenceError::KeyReused => {
                Self::conflict("This Idempotency-Key was used for a different request.")
            }
            InferenceError::Request(error) => error.into(),
            InferenceError::Plan(error) => error.into(),
            InferenceError::Decision(error @ DecisionError::NotWaiting) => {
                Self::conflict(error.to_string()).with_param("step")
            }
            InferenceError::Decision(error) => {
                Self::bad_request(error.to_string()).with_param("choose")
            }
            InferenceError::Full => Self::too_many("Too many tasks are unfinished.", 10),
            InferenceError::Store => {
                Self::unavailable("The task could not be written down; try again.")
            }
        }
    }
}

fn health(api: &Api, status: &str) -> Health {
    Health {
        status: status.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nodes: api.coordinator.stats().nodes as u64,
        models: api.coordinator.models().len() as u64,
    }
}

fn no_such_task() -> ApiError {
    ApiError::not_found("There is no such task of this account, or its retention is over.")
}

/// An id that cannot be one is the id of no task.
pub(super) fn task_id(path: TaskPath) -> Result<TaskId, ApiError> {
    let Path(text) = path.map_err(|_| no_such_task())?;
    text.parse().map_err(|_| no_such_task())
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(rest::IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().ok().filter(|t| (1..=MAX_IDEMPOTENCY_KEY).contains(&t.len()));
    let refused = || {
        let message = "An Idempotency-Key has 1 to 255 printable ASCII characters.";
        ApiError::bad_request(message).with_param("Idempotency-Key")
    };
    text.map(Some).ok_or_else(refused)
}

pub(super) async fn read_json<T: DeserializeOwned>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<T, ApiError> {
    let body = api.bodies.read(headers, body, limit).await?;
    parse_json(&body)
}

pub(super) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    members::check(body)?;
    serde_json::from_slice(body).map_err(|error| {
        // Only what is wrong, since the rest of the message could repeat a secret.
        let what = match error.classify() {
            serde_json::error::Category::Data => "does not have the members it needs",
            _ => "is not valid JSON",
        };
        ApiError::bad_request(format!("The request body {what}."))
    })
}
