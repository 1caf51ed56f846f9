use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use iris_core::AssignmentId;
use iris_core::backend::{Backend, BackendError, Chunk, Finish, GenerateRequest};
use iris_crypto::hop::{ChunkSealer, TAG_LEN};
use iris_protocol::frame::{Content, HEADER_LEN, Header};
use iris_protocol::limits::{MAX_BODY, MAX_CONTENT, MAX_STREAM_FRAMES};
use iris_protocol::message::{ClassifyResult, TaskError, TaskResult};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tracing::error;

use super::catalogue::Catalogue;
use super::driver::Signal;
use crate::speed::Stopwatch;

/// How much output of one assignment may wait between its worker and the connection.
pub(super) const CREDIT: usize = 16;

/// What a worker has made.
#[derive(Debug)]
pub(super) enum Output {
    /// A whole `STREAM` frame, sealed.
    Frame(Bytes),
    /// The end of a complete answer.
    Result(TaskResult),
    /// The end of an answer that failed.
    Error(TaskError),
    /// How hard a question is.
    Difficulty(ClassifyResult),
}

/// Names one run of one assignment; unlike the assignment's number, for the agent's whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run(pub(super) u64);

/// The way of one assignment's output to the connection: sealed for the hop, with bounded room.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) assignment: AssignmentId,
    pub(super) run: Run,
    pub(super) sealer: ChunkSealer,
    pub(super) signals: mpsc::Sender<Signal>,
    /// One permit for each output that may wait; whoever passes an output on gives one back.
    pub(super) credit: Arc<Semaphore>,
}

/// Carries out one assignment: asks the backend and passes on what it says.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) outlet: Outlet,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) catalogue: Arc<Catalogue>,
    /// Counts the tokens that are written.
    pub(super) written: Arc<AtomicU64>,
    /// How often progress is marked while nothing else is sent.
    pub(super) progress: Duration,
    pub(super) deadline: Instant,
}

impl Worker {
    /// Works until the end of the answer, the deadline, or until it is dropped.
    pub(super) async fn run(mut self, request: GenerateRequest) {
        let deadline = self.deadline;
        let generation = AssertUnwindSafe(self.generate(request)).catch_unwind();
        let outcome = match timeout_at(deadline, generation).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_panic)) => {
                error!(assignment = %self.outlet.assignment, "the backend panicked");
                Err(BackendError::Failed)
            }
            Err(_late) => Err(BackendError::Timeout),
        };
        let (assignment, frames) = (self.outlet.assignment, self.outlet.frames());
        let output = match outcome {
            Ok(finish) => Output::Result(TaskResult::new(assignment, frames, &finish)),
            Err(fault) => {
                if !fault.is_callers_fault() {
                    self.catalogue.doubt();
                }
                Output::Error(TaskError::new(assignment, frames, fault))
            }
        };
        self.outlet.end(output).await;
    }

    async fn generate(&mut self, request: GenerateRequest) -> Result<Finish, BackendError> {
        let (model, is_whole) = (request.model.clone(), request.begun.is_none());
        let answer = self.backend.generate(request);
        let mut watch = Stopwatch::default();
        let finish = self.pass_on(answer, &mut watch).await?;
        self.written.fetch_add(watch.uncounted(finish.usage.completion_tokens), Ordering::Relaxed);
        // The tokens of an answer that was begun elsewhere say nothing about this backend.
        if is_whole && let Some(rate) = watch.rate(finish.usage.completion_tokens) {
            self.catalogue.record(&model, rate);
        }
        Ok(finish)
    }

    async fn pass_on(
        &mut self,
        mut answer: BoxStream<'static, Result<Chunk, BackendError>>,
        watch: &mut Stopwatch,
    ) -> Result<Finish, BackendError> {
        let mut pulse = Pulse::new(self.progress);
        loop {
            let next = pulse.beat_until(&self.outlet, answer.next()).await;
            let (content, text) = match next.unwrap_or(Err(BackendError::Failed))? {
                Chunk::Text(text) => (Content::Text, Bytes::from(text)),
                Chunk::Json(json) => (Content::Json, json),
                Chunk::Whole(json) => (Content::Whole, json),
                Chunk::Finished(finish) => return Ok(finish),
            };
            if content != Content::Whole {
                watch.chunk();
                self.written.fetch_add(1, Ordering::Relaxed);
            }
            self.send(&mut pulse, content, &text).await?;
        }
    }

    /// Sends a piece of the answer, in as many frames as it takes.
    async fn send(
        &mut self,
        pulse: &mut Pulse,
        content: Content,
        text: &[u8],
    ) -> Result<(), BackendError> {
        let pieces = text.len().div_ceil(MAX_CONTENT);
        if text.len() + pieces * TAG_LEN > MAX_BODY {
            return Err(BackendError::Malformed);
        }
        let mut pieces = text.chunks(MAX_CONTENT).peekable();
        while let Some(piece) = pieces.next() {
            self.outlet.send(pulse, content, pieces.peek().is_some(), piece).await?;
            pulse.sent();
        }
        Ok(())
    }
}

impl Outlet {
    /// Sends a part of the answer that fits into a frame, as soon as there is room.
    pub(super) async fn send(
        &mut self,
        pulse: &mut Pulse,
        content: Content,
        more: bool,
        part: &[u8],
    ) -> Result<(), BackendError> {
        let credit = pulse.beat_until(self, self.credit.acquire()).await;
        credit.expect("the semaphore is never closed").forget();
        let signals = self.signals.clone();
        let permit = signals.reserve().await.map_err(|_| BackendError::Failed)?;
        // No await from here on: a frame that is sealed is sent, or its number would be missing.
        let frame = self.seal(content, more, part)?;
        permit.send(Signal::Output(self.assignment, self.run, Output::Frame(frame)));
        Ok(())
    }

    /// Sends the end.
    pub(super) async fn end(self, output: Output) {
        // An agent that has gone away has no use for the end either.
        let _ = self.signals.send(Signal::Output(self.assignment, self.run, output)).await;
    }

    fn seal(&mut self, content: Content, more: bool, text: &[u8]) -> Result<Bytes, BackendError> {
        let seq = self.frames();
        if seq >= MAX_STREAM_FRAMES {
            return Err(BackendError::Malformed);
        }
        let header = Header::stream(self.assignment, seq, content, more).encode();
        let mut frame = Vec::with_capacity(HEADER_LEN + text.len() + TAG_LEN);
        frame.extend_from_slice(&header);
        let sealed = self.sealer.seal_into(&header, text, &mut frame);
        sealed.expect("an answer has fewer frames than a channel has chunks");
        Ok(frame.into())
    }

    /// Returns how many frames there are so far.
    pub(super) fn frames(&self) -> u32 {
        u32::try_from(self.sealer.next_number()).expect("an answer has at most 2^20 frames")
    }
}

/// Marks progress whenever nothing was sent for a while.
pub(super) struct Pulse {
    every: Duration,
    last: Instant,
    due: Pin<Box<Sleep>>,
}

impl Pulse {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, last: Instant::now(), due: Box::pin(sleep(every)) }
    }

    fn sent(&mut self) {
        self.last = Instant::now();
    }

    pub(super) async fn beat_until<T>(
        &mut self,
        outlet: &Outlet,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = &mut self.due => self.beat(outlet).await,
            }
        }
    }

    async fn beat(&mut self, outlet: &Outlet) {
        // The timer is not touched by every chunk; it looks at what came since it was set.
        if self.last.elapsed() >= self.every {
            let signal = Signal::Progress(outlet.assignment, outlet.run);
            // When nobody listens any more, the worker is about to be dropped.
            let _ = outlet.signals.send(signal).await;
            self.sent();
        }
        self.due.as_mut().reset(self.last + self.every);
    }
}
