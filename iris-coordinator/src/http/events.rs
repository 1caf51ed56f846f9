//! What happens to a durable task, as it happens: `GET /inference/{id}/events`.
//!
//! Each reader takes the next event from the task's own list when its connection has room, so a
//! slow one holds up nobody and fills no memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::HeaderMap;
use http::header::ACCEPT;
use iris_core::TaskId;

use super::Api;
use super::auth::ASK;
use super::error::ApiError;
use super::openai::event_stream;
use super::rest::{TaskPath, task_id};
use crate::inference::Events;

const HEARTBEAT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// `GET /inference/{id}/events`.
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    id: TaskPath,
) -> Result<Response, ApiError> {
    let account = api.key(&headers, ASK).await?.account;
    let id = task_id(id)?;
    let events = api.coordinator.inference().follow(account, id).await?;
    Ok(told(&api, id, events))
}

/// Returns whether a caller wants to be told as things happen.
pub(super) fn are_wanted(headers: &HeaderMap) -> bool {
    let kinds = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = kinds.flat_map(|value| value.split(','));
    kinds.any(|kind| kind.split(';').next().unwrap_or_default().trim() == "text/event-stream")
}

/// Answers with the events of a task.
pub(super) fn told(api: &Api, id: TaskId, events: Events) -> Response {
    let keep_alive = api.settings.keep_alive;
    let frames = stream::unfold(events, move |events| next(events, keep_alive));
    let frames = frames.take_until(api.stopping.clone().cancelled_owned());
    event_stream(Body::from_stream(frames), id, None)
}

async fn next(
    mut events: Events,
    keep_alive: Duration,
) -> Option<(Result<Bytes, Infallible>, Events)> {
    let frame = match tokio::time::timeout(keep_alive, events.next()).await {
        Ok(event) => Bytes::from(format!("data: {}\n\n", event?.as_json())),
        Err(_) => HEARTBEAT,
    };
    Some((Ok(frame), events))
}
