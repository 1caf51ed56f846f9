//! What happens around every request: its id, its caller, its count and its line in the log.
//!
//! Log lines hold ids, statuses, times and sizes in coarse steps; never a prompt, a key or a
//! caller's whole address.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{CONNECTION, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue};
use iris_core::TaskId;
use iris_protocol::rest::REQUEST_ID;
use std::net::SocketAddr;

use super::Api;
use super::cors;
use super::proxy::Caller;

pub(super) const PROCESSING_MS: &str = "openai-processing-ms";

/// What is known of a request before it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestContext {
    /// Names the request, and the task that it becomes.
    pub(super) id: TaskId,
    /// When its head was complete.
    pub(super) since: Instant,
    pub(super) caller: Caller,
}

/// Marks a response whose end is logged by its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streamed;

/// Surrounds a request that the router found the handler of with what every request has.
pub(super) async fn layer(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    observe(&api, path, request, |request| next.run(request)).await
}

/// Surrounds `answer` with what every request has; `path` is for the log.
pub(super) async fn observe<B, F: Future<Output = Response>>(
    api: &Api,
    path: &str,
    mut request: http::Request<B>,
    answer: impl FnOnce(http::Request<B>) -> F,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    let context = RequestContext {
        id: api.coordinator.new_task_id(),
        since: Instant::now(),
        caller: Caller::find(&api.settings.trusted_proxies, peer, request.headers()),
    };
    let origin = cors::allowed_origin(&api.settings.cors_origins, request.headers());
    let chunked = request.headers().contains_key(TRANSFER_ENCODING);
    let method = request.method().clone();
    let mut response = if cors::is_preflight(&request) && origin.is_some() {
        cors::preflight()
    } else {
        request.extensions_mut().insert(context);
        answer(request).await
    };
    let took = context.since.elapsed();
    api.metrics.answered(response.status(), took);
    let headers = response.headers_mut();
    identify(headers, context.id, took);
    if let Some(origin) = origin {
        cors::allow(headers, origin);
    }
    if chunked {
        // Such a request may have named a length too, by which something in between may have
        // found another end of it. What would follow is nobody's request.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if response.extensions().get::<Streamed>().is_none() {
        tracing::debug!(
            request = %context.id,
            %method,
            path,
            status = response.status().as_u16(),
            took_ms = took.as_millis(),
            "answered"
        );
    }
    response
}

/// Adds the headers by which a request is found again.
fn identify(headers: &mut HeaderMap, id: TaskId, took: Duration) {
    let id = HeaderValue::try_from(id.to_string()).expect("an id is hexadecimal");
    headers.insert(HeaderName::from_static(REQUEST_ID), id);
    let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    headers.insert(HeaderName::from_static(PROCESSING_MS), took.into());
}

/// Returns the power of two at or above `bytes`: how sizes appear in logs.
pub(super) fn size_class(bytes: usize) -> usize {
    bytes.checked_next_power_of_two().unwrap_or(usize::MAX)
}
