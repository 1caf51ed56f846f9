//! Chats whose model's name asks for a division, such as `iris/consensus:MODEL`.
//!
//! The plan lives and ends with its request. In a stream the answer's text comes as from one
//! model, and what happens meanwhile as comments between the events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use hyper::body::Frame;
use iris_core::ModelName;
use iris_core::backend::{Chunk, Finish, Operation, Usage};
use iris_core::plan::{Division, PlanEnd, PlanRun, Progress, StepError};
use iris_core::routing::Unnamed;
use iris_protocol::openai::{
    Asked, EventWriter, Heading, Refused, Retry, last_words, write_error, write_keep_alive,
};
use serde_json::json;

use super::stream::{BATCH, BUFFER};
use super::{describe, event_stream};
use crate::dispatch::Payer;
use crate::http::auth::Caller;
use crate::http::error::ApiError;
use crate::http::observe::{RequestContext, Streamed};
use crate::http::quiet::Quiet;
use crate::http::route::understood;
use crate::http::{Api, dividing};
use crate::inference::PlanHandle;

/// What such names begin with.
const PREFIX: &str = "iris/";

/// Returns whether a model's name may ask for a division.
pub(super) fn is_meant(model: &ModelName) -> bool {
    model.as_str().starts_with(PREFIX)
}

/// Makes the plan that the model's name asks for; `None` where it is the name of a model.
pub(super) async fn read(
    api: &Arc<Api>,
    caller: &Caller,
    operation: Operation,
    asked: &Asked,
    body: &Bytes,
) -> Result<Option<PlanRun>, ApiError> {
    if api.coordinator.models().iter().any(|offered| offered.name == asked.model) {
        return Ok(None);
    }
    let Some(named) = Division::of_name(asked.model.as_str()) else { return Ok(None) };
    let (mut division, mut model) = named?;
    if operation != Operation::Chat {
        let message = "Only chats can be divided; ask at /v1/chat/completions.";
        return Err(ApiError::bad_request(message).with_param("model"));
    }
    if let Some(unnamed) = Unnamed::of_name(model.as_str()) {
        let words = last_words(operation, body)?;
        model = api.choose(caller, understood(unnamed)?, asked, &words).await?.model;
    }
    let chat = serde_json::from_slice(body)
        .map_err(|_| ApiError::bad_request("The request body is not valid JSON."))?;
    division.budget.seconds = Some(api.settings.time_limit.as_secs());
    let (reader, asked) = (Arc::clone(api), asked.clone());
    let plan = dividing(body.len(), move || reader.divided(model, chat, &asked, &division));
    Ok(Some(PlanRun::new(plan.await?)?))
}

/// Carries a plan out and answers with what comes of it.
pub(super) async fn answer(
    api: &Api,
    context: &RequestContext,
    payer: Payer,
    run: PlanRun,
    heading: Heading<'_>,
    asked: &Asked,
) -> Result<Response, ApiError> {
    let plan = api.coordinator.submit_plan(context.id, payer, run, asked.preferences.clone());
    if asked.stream {
        streamed(api, context, plan, EventWriter::new(heading, asked.include_usage)).await
    } else {
        whole(plan, heading).await
    }
}

/// Waits for the answer and returns it in one piece.
async fn whole(mut plan: PlanHandle, heading: Heading<'_>) -> Result<Response, ApiError> {
    let mut end = None;
    while let Some(progress) = plan.next().await {
        if let Progress::Ended(ended) = progress {
            end = Some(ended);
        }
    }
    let (text, finish) = outcome(end, plan.usage())?;
    let usage = iris_protocol::openai::Usage::from(finish.usage);
    let message = json!({ "role": "assistant", "content": text, "refusal": null });
    let choice = json!({
        "index": 0, "message": message, "logprobs": null, "finish_reason": finish.reason,
    });
    let members = json!({ "choices": [choice], "usage": usage }).to_string();
    let body = heading.whole(members.as_bytes()).map_err(|_| Refused::invalid_answer())?;
    let mut response = Response::new(Body::from(body));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    describe(response.headers_mut(), heading.task, None);
    Ok(response)
}

/// Waits until some step is done, then streams what happens.
async fn streamed(
    api: &Api,
    context: &RequestContext,
    plan: PlanHandle,
    writer: EventWriter,
) -> Result<Response, ApiError> {
    let quiet = Quiet::new(api.settings.keep_alive);
    let mut events = Events { plan: Some(plan), writer, out: BytesMut::new(), quiet };
    events.out.reserve(BUFFER);
    events.writer.begin(&mut events.out);
    events.open(api, context).await?;
    let mut response = event_stream(Body::new(events), context.id, None);
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

/// The events of a streamed answer.
struct Events {
    /// The plan, until it is over.
    plan: Option<PlanHandle>,
    writer: EventWriter,
    out: BytesMut,
    quiet: Quiet,
}

impl Events {
    /// Reads on until there is something to say, or for as long as silence may last. A plan that
    /// ends without an answer before that is an error.
    async fn open(&mut self, api: &Api, context: &RequestContext) -> Result<(), ApiError> {
        let opened = async {
            while let Some(plan) = &mut self.plan {
                let Some(progress) = plan.next().await else { break };
                let says = matches!(progress, Progress::Text { .. } | Progress::Answered { .. });
                if matches!(progress, Progress::Text { .. }) {
                    api.metrics.first_chunk(context.since.elapsed());
                }
                if let Progress::Ended(end) = progress {
                    let (_, finish) = outcome(Some(end), plan.usage())?;
                    self.writer.finish(&finish, &mut self.out);
                    self.plan = None;
                    return Ok(());
                }
                self.pass_on(&progress);
                if says {
                    break;
                }
            }
            Ok(())
        };
        let patience: Duration = api.settings.keep_alive;
        tokio::time::timeout(patience, opened).await.unwrap_or(Ok(()))
    }

    fn pass_on(&mut self, progress: &Progress) {
        match progress {
            Progress::Text { text } => {
                // A text is always a part of an answer.
                let _ = self.writer.chunk(&Chunk::Text(text.clone()), &mut self.out);
            }
            progress => write_comment(progress, &mut self.out),
        }
    }

    /// Writes what is ready now, until the plan is over or the batch is full.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while self.out.len() < BATCH {
            let Some(plan) = &mut self.plan else { return };
            match plan.poll_next(cx) {
                Poll::Ready(Some(Progress::Ended(end))) => {
                    match outcome(Some(end), plan.usage()) {
                        Ok((_, finish)) => self.writer.finish(&finish, &mut self.out),
                        Err(error) => write_error(&error.body(), &mut self.out),
                    }
                    self.plan = None;
                }
                Poll::Ready(Some(progress)) => self.pass_on(&progress),
                Poll::Ready(None) => self.plan = None,
                Poll::Pending => return,
            }
        }
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let events = &mut *self;
        events.gather(cx);
        if events.out.is_empty() {
            if events.plan.is_none() {
                return Poll::Ready(None);
            }
            if events.quiet.poll(cx).is_pending() {
                return Poll::Pending;
            }
            write_keep_alive(&mut events.out);
        }
        events.quiet.broken();
        Poll::Ready(Some(Ok(Frame::data(events.out.split().freeze()))))
    }
}

/// Writes what happened as a comment, which OpenAI's clients pass over.
fn write_comment(progress: &Progress, out: &mut BytesMut) {
    let Ok(json) = serde_json::to_vec(progress) else { return };
    out.put_slice(b": ");
    out.put_slice(&json);
    out.put_slice(b"\n\n");
}

/// Returns the answer of a plan, or why there is none.
fn outcome(end: Option<PlanEnd>, usage: Usage) -> Result<(String, Finish), ApiError> {
    match end {
        Some(PlanEnd::Finished { output }) => {
            Ok((output.text, Finish { reason: output.finish_reason, usage }))
        }
        Some(PlanEnd::Failed { step, error }) => Err(refused(error, Some(&step))),
        Some(PlanEnd::Partial { error, .. }) => Err(refused(error, None)),
        _ => Err(ApiError::unavailable("The coordinator is stopping.")),
    }
}

fn refused(error: StepError, step: Option<&str>) -> ApiError {
    let message = match step {
        Some(step) => format!("The step '{step}' failed: {error}."),
        None => format!("The request was not answered whole: {error}."),
    };
    let refused = |status| Refused::new(status, "server_error", message.clone());
    match error {
        StepError::Task { error } => error.into(),
        StepError::Expired => Refused::expired().into(),
        StepError::Budget { what } if what == "seconds" => Refused::expired().into(),
        error @ StepError::NoDataset { .. } => refused(404).with_code(error.code()).into(),
        error @ StepError::TooFewOwners => {
            refused(503).with_code(error.code()).with_retry(Retry::After(10)).into()
        }
        error => refused(502).with_code(error.code()).with_retry(Retry::No).into(),
    }
}
