//! The job interface of DIM: `/api/inference/...`, with its names for what `/inference` does.
//!
//! A job is a durable task whose plan follows from its pattern, so `/inference/{id}` shows it, too,
//! and cancels it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use iris_core::TaskId;
use iris_core::plan::{Mode, UnitReport, UnitState};
use iris_core::queue::Priority;
use iris_core::task::TaskState;
use iris_protocol::openai::{Preferences, Usage};
use iris_protocol::rest::{InferenceError, InferenceStatus, Review};
use serde::Serialize;

use super::auth::{ASK, Caller};
use super::error::ApiError;
use super::members::Members;
use super::rest::{TaskPath, idempotency_key, take, task_id};
use super::submission::Submission;
use super::{Api, json_response};

mod pattern;

/// `POST /api/inference/submit`.
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let caller = api.key(&head.headers, ASK).await?;
    let permit = api.admit(&caller)?;
    let answer = submitted(&api, &caller, &head.headers, body).await;
    Ok(api.finish(&permit, answer))
}

/// Answers a submission that was let in.
async fn submitted(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let once = idempotency_key(headers)?;
    let body = api.bodies.read(headers, body, api.settings.body_limit).await?;
    let submission = read(api, Members::read(&body)?)?;
    let submitted = take(api, caller, submission, once.map(|key| (key, &body[..]))).await?;
    let mut response = json_response(&Job::new(submitted));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

/// `GET /api/inference/status/{id}`.
pub(super) async fn status(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    id: TaskPath,
) -> Result<Response, ApiError> {
    let account = api.key(&headers, ASK).await?.account;
    let status = api.coordinator.inference().status(account, task_id(id)?).await?;
    Ok(json_response(&Job::new(status)))
}

/// `GET /api/inference/result/{id}`: 202 and the status until the job is over.
pub(super) async fn result(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    id: TaskPath,
) -> Result<Response, ApiError> {
    let account = api.key(&headers, ASK).await?.account;
    let mut status = api.coordinator.inference().status(account, task_id(id)?).await?;
    if !status.status.is_terminal() {
        let mut response = json_response(&Job::new(status));
        *response.status_mut() = StatusCode::ACCEPTED;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return Ok(response);
    }
    let result = status.result.take().map(|result| result.text);
    let steps = std::mem::take(&mut status.steps);
    Ok(json_response(&JobResult { result, steps, job: Job::new(status) }))
}

fn read(api: &Api, mut members: Members) -> Result<Submission, ApiError> {
    let priority = match members.optional::<String>("priority", "a text")?.as_deref() {
        None | Some("normal") => Priority::Batch,
        Some("low") => Priority::Low,
        Some("high") => Priority::High,
        Some(_) => return Err(members.wrong("priority", "'low', 'normal' or 'high'")),
    };
    let plan = pattern::read(&mut members, &api.coordinator.nodes())?;
    members.finish()?;
    Ok(Submission::Divided { plan: Box::new(plan), wishes: Preferences::default(), priority })
}

/// How a job stands.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    #[serde(rename = "jobId")]
    id: TaskId,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<Mode>,
    progress: Progress,
    created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// What waits for an expert; see `POST /inference/{id}/review`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reviews: Vec<Review>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<InferenceError>,
}

/// How many steps of a job are over, of those that are known.
#[derive(Serialize)]
struct Progress {
    done: usize,
    total: usize,
}

/// What came of a job.
#[derive(Serialize)]
struct JobResult {
    #[serde(flatten)]
    job: Job,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<UnitReport>,
}

impl Job {
    fn new(status: InferenceStatus) -> Self {
        let is_over = |unit: &&UnitReport| {
            !matches!(unit.state, UnitState::Waiting | UnitState::Running | UnitState::Review)
        };
        let (done, total) = (status.steps.iter().filter(is_over).count(), status.steps.len());
        Self {
            id: status.id,
            status: match status.status {
                TaskState::Submitted | TaskState::Planned => "pending",
                TaskState::Running => "running",
                TaskState::Finished => "completed",
                TaskState::Cancelled => "cancelled",
                TaskState::Failed | TaskState::Expired => "failed",
            },
            pattern: status.mode,
            progress: Progress { done, total },
            created_at: status.created,
            completed_at: status.finished,
            usage: status.usage,
            reviews: status.reviews,
            error: status.error,
        }
    }
}
