//! `POST /sealed`: takes requests to the node that they are sealed to, and its records back.
//!
//! Nothing here can read a request or an answer. The clear header says which node is meant; what
//! the node sends is passed on as it came, and the coordinator adds records of its own: signs of
//! life, the receipt, and its advice where the answer broke off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::body::Frame;
use iris_core::task::{Outcome, TaskError};
use iris_crypto::SignedCertificate;
use iris_crypto::seal::{MAX_REQUEST, MEDIA_TYPE, RecordKind, SealedRequest, write_record};
use iris_protocol::rest::{self, SealedRefusal};

use super::auth::{ASK, Caller};
use super::error::ApiError;
use super::observe::{RequestContext, Streamed, size_class};
use super::openai::unfinished;
use super::quiet::Quiet;
use super::{Api, json_response};
use crate::dispatch::{SealedTask, TaskEvent, TaskHandle};

pub(super) const PATH: &str = "/sealed";

/// Returns whether a request is one for this module.
pub(super) fn is_meant<B>(request: &http::Request<B>) -> bool {
    request.method() == Method::POST && request.uri().path() == PATH
}

/// `POST /sealed`.
pub(super) async fn post(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, ApiError> {
    relay(&api, request).await
}

/// Answers a request that [`observe`](super::observe::observe) has given its context.
pub(super) async fn relay<B>(api: &Api, request: http::Request<B>) -> Result<Response, ApiError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let (head, body) = request.into_parts();
    let context = *head.extensions.get::<RequestContext>().ok_or_else(ApiError::internal)?;
    let caller = api.key(&head.headers, ASK).await?;
    let permit = api.admit(&caller)?;
    let answer = answer(api, context, &caller, &head.headers, body).await;
    Ok(api.finish(&permit, answer))
}

/// Answers a request that was let in.
async fn answer<B>(
    api: &Api,
    context: RequestContext,
    caller: &Caller,
    headers: &HeaderMap,
    body: B,
) -> Result<Response, ApiError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let limit = api.settings.body_limit.min(MAX_REQUEST);
    let body = api.bodies.read(headers, body, limit).await?;
    let bytes = size_class(body.len());
    let request = SealedRequest::decode(body).map_err(ApiError::bad_sealed_request)?;
    tracing::debug!(task = %context.id, bytes, "sealed task submitted");
    caller.check_models([&request.header().terms.model])?;
    let certificate = request.header().certificate;
    let mut handle = api.coordinator.submit_sealed(SealedTask {
        id: context.id,
        account: caller.account,
        key: caller.payer().key,
        request,
        time_limit: api.settings.time_limit,
    });
    let records = match open(&mut handle, api.settings.keep_alive).await {
        Ok(records) => records,
        Err(Outcome::Failed(TaskError::StaleKey)) => {
            return Ok(stale_key(api.coordinator.certificate_for(&certificate)));
        }
        Err(outcome) => return Err(unfinished(outcome)),
    };
    let node = handle.node();
    let records = Records::new(api.settings.keep_alive, context, handle, records);
    let mut response = Response::new(Body::new(records));
    response.extensions_mut().insert(Streamed);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    // What is sealed does not get shorter, and what is alike in length must stay so.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    let unbuffered = HeaderName::from_static("x-accel-buffering");
    headers.insert(unbuffered, HeaderValue::from_static("no"));
    let id = HeaderValue::try_from(context.id.to_string()).expect("an id is hexadecimal");
    headers.insert(HeaderName::from_static(rest::TASK), id);
    if let Some(node) = node {
        let node = HeaderValue::from_str(node.as_str()).expect("a node id is base32");
        headers.insert(HeaderName::from_static(rest::NODE), node);
    }
    Ok(response)
}

/// Refuses a request that is sealed to an old key, and names the current one where it is known.
fn stale_key(current: Option<SignedCertificate>) -> Response {
    let error = ApiError::from(TaskError::StaleKey).body().error;
    let certificate = current.and_then(|current| current.encoded().to_vec().try_into().ok());
    let mut response = json_response(&SealedRefusal { error, certificate });
    *response.status_mut() = StatusCode::CONFLICT;
    response
}

/// Waits for the first records; once the node has accepted the task, not longer than `patience`.
async fn open(handle: &mut TaskHandle, patience: Duration) -> Result<Option<Bytes>, Outcome> {
    let mut accepted = false;
    loop {
        let event = if accepted {
            match tokio::time::timeout(patience, handle.next()).await {
                Ok(event) => event,
                Err(_) => return Ok(None),
            }
        } else {
            handle.next().await
        };
        match event {
            Some(TaskEvent::Accepted { .. }) => accepted = true,
            Some(TaskEvent::Sealed(records)) => return Ok(Some(records)),
            Some(TaskEvent::Chunk(_)) => handle.reject_answer(),
            Some(TaskEvent::Ended(outcome)) => return Err(outcome),
            None => return Err(Outcome::Cancelled),
        }
    }
}

/// The records of one sealed answer.
struct Records {
    context: RequestContext,
    /// The task, until it is over.
    handle: Option<TaskHandle>,
    ready: VecDeque<Bytes>,
    sent: usize,
    quiet: Quiet,
    /// How the stream ended; for the log.
    ended: &'static str,
}

impl Records {
    /// Begins with the records that have come already.
    fn new(
        keep_alive: Duration,
        context: RequestContext,
        handle: TaskHandle,
        ready: Option<Bytes>,
    ) -> Self {
        let (handle, ready) = (Some(handle), ready.into_iter().collect());
        Self { context, handle, ready, sent: 0, quiet: Quiet::new(keep_alive), ended: "dropped" }
    }

    /// Ends the answer: by its receipt, which a failed one may have, too, or else by advice.
    fn end(&mut self, outcome: Outcome) {
        let receipt = self.handle.take().and_then(|handle| handle.receipt().copied());
        let mut record = Vec::new();
        self.ended = if matches!(outcome, Outcome::Finished(_)) { "finished" } else { "failed" };
        if let Some(receipt) = receipt {
            receipt.write_record(&mut record);
        } else {
            let advice = unfinished(outcome).body().to_json();
            write_record(RecordKind::Failure, &advice, &mut record);
        }
        self.ready.push_back(record.into());
    }

    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(records) = self.ready.pop_front() {
                return Poll::Ready(Some(records));
            }
            let Some(handle) = &mut self.handle else { return Poll::Ready(None) };
            match handle.poll_next(cx) {
                Poll::Ready(Some(TaskEvent::Sealed(records))) => self.ready.push_back(records),
                Poll::Ready(Some(TaskEvent::Accepted { .. })) => {}
                Poll::Ready(Some(TaskEvent::Chunk(_))) => handle.reject_answer(),
                Poll::Ready(Some(TaskEvent::Ended(outcome))) => self.end(outcome),
                Poll::Ready(None) => self.handle = None,
                Poll::Pending => break,
            }
        }
        self.quiet.poll(cx).map(|()| {
            let mut record = Vec::new();
            write_record(RecordKind::KeepAlive, &[], &mut record);
            Some(record.into())
        })
    }
}

impl HttpBody for Records {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let records = &mut *self;
        records.poll_record(cx).map(|next| {
            let bytes = next?;
            records.quiet.broken();
            records.sent = records.sent.saturating_add(bytes.len());
            Some(Ok(Frame::data(bytes)))
        })
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        tracing::debug!(
            task = %self.context.id,
            outcome = self.ended,
            took_ms = self.context.since.elapsed().as_millis(),
            bytes = size_class(self.sent),
            "sealed stream ended"
        );
    }
}
