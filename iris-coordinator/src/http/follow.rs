//! What happens to a job, over a WebSocket: `GET /ws/jobs/{id}`.
//!
//! Each text frame is one event, as in [`events`](super::events), with the job's id. Programs show
//! their key as everywhere. Web pages cannot set headers here, so they offer two subprotocols:
//! `iris.jobs`, which is chosen, and `iris.key.` with the key after it. A key never stands in an
//! address, because addresses are written into logs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use futures::{SinkExt, StreamExt};
use http::header::{AUTHORIZATION, HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};
use iris_core::TaskId;
use iris_protocol::frame::Frame;
use iris_protocol::transport::websocket::WebSocket;
use tokio::time::timeout;

use super::Api;
use super::auth::ASK;
use super::cors;
use super::error::ApiError;
use super::rest::{TaskPath, task_id};
use super::upgrade::{Placed, Upgrade};
use crate::inference::Events;

/// What the connection speaks, where a subprotocol is chosen.
const PROTOCOL: &str = "iris.jobs";
/// What stands before a key among the subprotocols.
const KEY: &str = "iris.key.";
/// How long a frame may take to be sent before its reader is left.
const PATIENCE: Duration = Duration::from_mins(1);

/// Tells a caller what happens to its job, until that is over.
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    id: TaskPath,
    mut request: Request,
) -> Result<Response, ApiError> {
    check_origin(&api.settings.cors_origins, request.headers())?;
    let offers = offered(request.headers());
    let account = api.key(&with_key(request.headers(), &offers), ASK).await?.account;
    let id = task_id(id)?;
    let events = api.coordinator.inference().follow(account, id).await?;
    let (mut response, upgrade) = Upgrade::agree(&mut request)?;
    if !offers.is_empty() {
        // Browsers insist on an answer, and it must not be the key.
        if !offers.iter().any(|offer| offer == PROTOCOL) {
            let message = "The subprotocol 'iris.jobs' must be among those that are offered.";
            return Err(ApiError::bad_request(message).with_param("Sec-WebSocket-Protocol"));
        }
        let chosen = HeaderValue::from_static(PROTOCOL);
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    tokio::spawn(async move {
        if let Some(socket) = upgrade.open().await {
            tell(&api, id, events, socket).await;
        }
    });
    Ok(response)
}

/// Sends what happens until the job is over, the server stops, or the reader has left.
async fn tell(api: &Api, id: TaskId, mut events: Events, mut socket: WebSocket<Placed>) {
    loop {
        let event = tokio::select! {
            biased;
            () = api.stopping.cancelled() => None,
            heard = socket.next() => match heard {
                // There is nothing to say here.
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
            event = timeout(api.settings.keep_alive, events.next()) => match event {
                Ok(event) => event,
                Err(_) => match timeout(PATIENCE, socket.ping()).await {
                    Ok(Ok(())) => continue,
                    _ => return,
                },
            },
        };
        let Some(event) = event else { break };
        // Every event is a JSON object with at least one member.
        let members = event.as_json().strip_prefix('{').unwrap_or("}");
        let frame = Frame::Text(format!(r#"{{"jobId":"{id}",{members}"#).into());
        if !matches!(timeout(PATIENCE, socket.send(frame)).await, Ok(Ok(()))) {
            return;
        }
    }
    // A reader that does not answer the farewell is left, too.
    let _ = timeout(PATIENCE, async {
        if socket.close().await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    })
    .await;
}

/// Refuses web pages of origins that are not allowed here.
fn check_origin(allowed: &[HeaderValue], headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let page = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
    let here = headers.get(HOST).and_then(|host| host.to_str().ok());
    if page.is_some() && page == here || cors::allowed_origin(allowed, headers).is_some() {
        return Ok(());
    }
    Err(ApiError::forbidden("Web pages of this origin may not connect here."))
}

fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|offer| offer.trim().to_owned()).collect()
}

/// Returns the headers with the key that is offered as a subprotocol, if there is none in them.
fn with_key(headers: &HeaderMap, offers: &[String]) -> HeaderMap {
    let mut headers = headers.clone();
    let key = offers.iter().find_map(|offer| offer.strip_prefix(KEY));
    if let Some(key) = key
        && !headers.contains_key(AUTHORIZATION)
        && let Ok(bearer) = HeaderValue::try_from(format!("Bearer {key}"))
    {
        headers.insert(AUTHORIZATION, bearer);
    }
    headers
}
