//! The body of a streamed answer.
//!
//! It reads the task's events when the connection asks for more and writes them straight into the
//! buffer that is sent: no task and no channel lies in between, and a slow reader holds up its
//! own stream alone. Dropping the body drops the task, which frees the node.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use iris_core::backend::{Chunk, Finish};
use iris_core::task::Outcome;
use iris_protocol::openai::{EventWriter, write_error, write_keep_alive};

use super::unfinished;
use crate::dispatch::{TaskEvent, TaskHandle};
use crate::http::error::ApiError;
use crate::http::observe::{RequestContext, size_class};
use crate::http::quiet::Quiet;

/// Bytes that are sent at a time when many events are ready.
pub(super) const BATCH: usize = 16 << 10;
/// Bytes that a stream's buffer begins with.
pub(super) const BUFFER: usize = 2 << 10;

/// How a stream begins.
#[derive(Debug)]
pub(super) enum Opening {
    /// With a chunk.
    Chunk(Chunk),
    /// With its end: the answer is empty.
    Finished(Finish),
    /// With silence: a node is at work, and has been for a while.
    Waiting,
    /// Not at all.
    Failed(ApiError),
}

/// Waits for the first chunk; once a node has accepted the task, not longer than `patience`.
pub(super) async fn open(handle: &mut TaskHandle, patience: Duration) -> Opening {
    let mut accepted = false;
    loop {
        let event = if accepted {
            match tokio::time::timeout(patience, handle.next()).await {
                Ok(event) => event,
                Err(_) => return Opening::Waiting,
            }
        } else {
            handle.next().await
        };
        match event {
            Some(TaskEvent::Accepted { .. } | TaskEvent::Sealed(_)) => accepted = true,
            Some(TaskEvent::Chunk(chunk)) => return Opening::Chunk(chunk),
            Some(TaskEvent::Ended(Outcome::Finished(finish))) => return Opening::Finished(finish),
            Some(TaskEvent::Ended(outcome)) => return Opening::Failed(unfinished(outcome)),
            None => return Opening::Failed(ApiError::internal()),
        }
    }
}

/// The events of one streamed answer.
pub(super) struct Events {
    context: RequestContext,
    /// The task, until it is over.
    handle: Option<TaskHandle>,
    writer: EventWriter,
    out: BytesMut,
    sent: usize,
    quiet: Quiet,
    /// How the stream ended; for the log.
    ended: &'static str,
}

impl Events {
    /// Begins with what was written to `out` already.
    pub(super) fn new(
        keep_alive: Duration,
        context: RequestContext,
        handle: TaskHandle,
        writer: EventWriter,
        out: BytesMut,
    ) -> Self {
        let quiet = Quiet::new(keep_alive);
        Self { context, handle: Some(handle), writer, out, sent: 0, quiet, ended: "dropped" }
    }

    /// Writes a chunk, or holds it against the node that it is none.
    fn pass_on(&mut self, chunk: &Chunk) {
        if self.writer.chunk(chunk, &mut self.out).is_err()
            && let Some(handle) = &mut self.handle
        {
            handle.reject_answer();
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.handle = None;
        match outcome {
            Outcome::Finished(finish) => {
                self.writer.finish(&finish, &mut self.out);
                self.ended = "finished";
            }
            outcome => {
                write_error(&unfinished(outcome).body(), &mut self.out);
                self.ended = "failed";
            }
        }
    }

    /// Writes what is ready now, until the task is over or the batch is full.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while self.out.len() < BATCH {
            let Some(handle) = &mut self.handle else { return };
            match handle.poll_next(cx) {
                Poll::Ready(Some(TaskEvent::Chunk(chunk))) => self.pass_on(&chunk),
                Poll::Ready(Some(TaskEvent::Accepted { .. } | TaskEvent::Sealed(_))) => {}
                Poll::Ready(Some(TaskEvent::Ended(outcome))) => self.end(outcome),
                Poll::Ready(None) => self.handle = None,
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
            if events.handle.is_none() {
                return Poll::Ready(None);
            }
            if events.quiet.poll(cx).is_pending() {
                return Poll::Pending;
            }
            write_keep_alive(&mut events.out);
        }
        events.quiet.broken();
        let bytes = events.out.split().freeze();
        events.sent = events.sent.saturating_add(bytes.len());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        tracing::debug!(
            task = %self.context.id,
            outcome = self.ended,
            took_ms = self.context.since.elapsed().as_millis(),
            bytes = size_class(self.sent),
            "stream ended"
        );
    }
}
