//! Carries a sealed request out: asks the backend, and seals what it says for the caller.

use std::future::pending;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use iris_core::backend::{Backend, BackendError, Chunk, Finish, GenerateRequest};
use iris_crypto::seal::{AnswerSealer, SealError, SignedReceipt, coarse};
use iris_protocol::frame::Content;
use iris_protocol::limits::{MAX_CONTENT, MAX_RECEIPT};
use iris_protocol::message::{TaskError, TaskResult};
use iris_protocol::text::Blob;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::error;

use super::shape::{Advanced, Shaper};
use crate::agent::Core;
use crate::agent::worker::{Outlet, Output, Pulse};
use crate::speed::Stopwatch;

/// How long after its deadline the end of an answer may still wait for room.
const LATEST: Duration = Duration::from_secs(5);

/// One sealed answer in the making.
pub(in crate::agent) struct SealedAnswer {
    pub(in crate::agent) outlet: Outlet,
    pub(in crate::agent) core: Arc<Core>,
    pub(in crate::agent) backend: Arc<dyn Backend>,
    pub(in crate::agent) deadline: Instant,
}

impl SealedAnswer {
    /// Works until the end of the answer, the deadline, or until it is dropped.
    ///
    /// How the answer ends is told to its caller under the seal; the coordinator learns by whose
    /// fault it failed, if it did, and how long it was in steps of 64 tokens.
    pub(in crate::agent) async fn run(mut self, request: GenerateRequest, sealer: AnswerSealer) {
        let deadline = self.deadline + LATEST;
        let answered = AssertUnwindSafe(self.answer(request, sealer)).catch_unwind();
        let answered = match timeout_at(deadline, answered).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_panic)) => {
                error!(assignment = %self.outlet.assignment, "the backend panicked");
                Err(BackendError::Failed)
            }
            // Nobody takes what there is to say.
            Err(_late) => Err(BackendError::Timeout),
        };
        let (assignment, frames) = (self.outlet.assignment, self.outlet.frames());
        let output = match answered {
            Ok((Ok(finish), receipt)) => {
                let coarse = Finish { reason: "stop".to_owned(), usage: coarse(finish.usage) };
                let result = TaskResult::new(assignment, frames, &coarse);
                Output::Result(result.with_receipt(blob(&receipt)))
            }
            Ok((Err(fault), receipt)) => {
                let error = TaskError::new(assignment, frames, without_texts(fault));
                Output::Error(error.with_receipt(blob(&receipt)))
            }
            Err(fault) => Output::Error(TaskError::new(assignment, frames, fault)),
        };
        self.outlet.end(output).await;
    }

    async fn answer(
        &mut self,
        request: GenerateRequest,
        sealer: AnswerSealer,
    ) -> Result<(Result<Finish, BackendError>, Box<SignedReceipt>), BackendError> {
        let model = request.model.clone();
        let mut answer = Some(self.backend.generate(request));
        let (mut watch, mut pulse) = (Stopwatch::default(), Pulse::new(self.core.limits.progress));
        let mut out = Vec::new();
        let mut shaper = Shaper::new(sealer, Instant::now(), self.deadline, &mut out);
        let mut end = None;
        loop {
            let listens = answer.as_mut().filter(|_| !shaper.is_full());
            let next = next(listens, shaper.due(), end.is_none().then_some(self.deadline));
            let ended = match pulse.beat_until(&self.outlet, next).await {
                Next::Tick => {
                    let advanced = shaper.advance(Instant::now(), &self.core.identity, &mut out);
                    let advanced = advanced.map_err(|_: SealError| BackendError::Malformed)?;
                    for records in groups(&out) {
                        let records = &out[records];
                        self.outlet.send(&mut pulse, Content::Sealed, false, records).await?;
                    }
                    out.clear();
                    shaper = match advanced {
                        Advanced::On(shaper) => shaper,
                        Advanced::Over(receipt) => {
                            return Ok((end.unwrap_or(Err(BackendError::Failed)), receipt));
                        }
                    };
                    continue;
                }
                Next::Late => Err(BackendError::Timeout),
                Next::Panicked => {
                    error!(assignment = %self.outlet.assignment, "the backend panicked");
                    Err(BackendError::Failed)
                }
                Next::Chunk(Some(Ok(Chunk::Finished(finish)))) => Ok(finish),
                Next::Chunk(Some(Ok(chunk))) => {
                    if let Some((content, data)) = piece(chunk) {
                        if content != Content::Whole {
                            watch.chunk();
                            self.core.written.fetch_add(1, Ordering::Relaxed);
                        }
                        shaper.push(content, data);
                    }
                    continue;
                }
                Next::Chunk(Some(Err(error))) => Err(error),
                Next::Chunk(None) => Err(BackendError::Failed),
            };
            // Dropping the answer ends its generation.
            answer = None;
            match &ended {
                Ok(finish) => {
                    let rest = watch.uncounted(finish.usage.completion_tokens);
                    self.core.written.fetch_add(rest, Ordering::Relaxed);
                    if let Some(rate) = watch.rate(finish.usage.completion_tokens) {
                        self.core.catalogue.record(&model, rate);
                    }
                }
                Err(fault) if !fault.is_callers_fault() => self.core.catalogue.doubt(),
                Err(_) => {}
            }
            shaper.end(ended.clone());
            end = Some(ended);
        }
    }
}

impl std::fmt::Debug for SealedAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedAnswer").field("outlet", &self.outlet).finish_non_exhaustive()
    }
}

enum Next {
    Chunk(Option<Result<Chunk, BackendError>>),
    /// Some of the answer is due to leave.
    Tick,
    /// The answer took too long.
    Late,
    Panicked,
}

/// Waits for whichever comes first.
async fn next(
    answer: Option<&mut BoxStream<'static, Result<Chunk, BackendError>>>,
    due: Option<Instant>,
    deadline: Option<Instant>,
) -> Next {
    let at = async |time: Option<Instant>| match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    };
    let chunk = async {
        match answer {
            Some(answer) => AssertUnwindSafe(answer.next()).catch_unwind().await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        // What the backend has ready leaves together.
        chunk = chunk => chunk.map_or(Next::Panicked, Next::Chunk),
        () = at(due) => Next::Tick,
        () = at(deadline) => Next::Late,
    }
}

fn piece(chunk: Chunk) -> Option<(Content, Bytes)> {
    match chunk {
        Chunk::Text(text) => Some((Content::Text, Bytes::from(text))),
        Chunk::Json(json) => Some((Content::Json, json)),
        Chunk::Whole(json) => Some((Content::Whole, json)),
        Chunk::Finished(_) => None,
    }
}

/// Returns the ranges of whole records that go into one frame each.
fn groups(records: &[u8]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    while let Some(length) = records[start..].first_chunk::<4>() {
        let end = start + 4 + u32::from_be_bytes(*length) as usize;
        match groups.last_mut() {
            Some(group) if end - group.start <= MAX_CONTENT => group.end = end,
            _ => groups.push(start..end),
        }
        start = end;
    }
    groups
}

/// Returns what of a fault anybody but the caller may know.
fn without_texts(fault: BackendError) -> BackendError {
    match fault {
        BackendError::Rejected { .. } => BackendError::Rejected {
            status: 400,
            code: None,
            param: None,
            message: "refused by the model server".to_owned(),
        },
        other => other,
    }
}

fn blob(receipt: &SignedReceipt) -> Blob<MAX_RECEIPT> {
    receipt.encode().try_into().expect("a receipt is shorter than it may be")
}
