//! Saying how hard a question is, by asking a model.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest, Operation};
use iris_core::demand::Difficulty;
use iris_core::{AssignmentId, ModelName};
use iris_protocol::message::{ClassifyResult, TaskError};
use iris_protocol::openai::{judge_request, judged};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::error;

use super::driver::Signal;
use super::worker::{Output, Run};

/// The longest question, in bytes; coordinators cut theirs shorter.
pub(super) const MAX_QUESTION: usize = 16 << 10;
/// The longest time that an answer may take.
pub(super) const LONGEST: Duration = Duration::from_mins(1);

/// Asks one model how hard a question is.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) assignment: AssignmentId,
    pub(super) run: Run,
    pub(super) signals: mpsc::Sender<Signal>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) model: ModelName,
    pub(super) deadline: Instant,
}

impl Judge {
    /// Works until there is an answer, until the deadline, or until it is dropped.
    pub(super) async fn run(self, question: Bytes) {
        let judged = AssertUnwindSafe(self.judge(&question)).catch_unwind();
        let judged = match timeout_at(self.deadline, judged).await {
            Ok(Ok(judged)) => judged,
            Ok(Err(_panic)) => {
                error!(assignment = %self.assignment, "the backend panicked");
                Err(BackendError::Failed)
            }
            Err(_late) => Err(BackendError::Timeout),
        };
        let assignment = self.assignment;
        let output = match judged {
            Ok(difficulty) => Output::Difficulty(ClassifyResult { assignment, difficulty }),
            Err(fault) => Output::Error(TaskError::new(assignment, 0, fault)),
        };
        // An agent that has gone away has no use for it.
        let _ = self.signals.send(Signal::Output(assignment, self.run, output)).await;
    }

    async fn judge(&self, question: &[u8]) -> Result<Difficulty, BackendError> {
        let question = std::str::from_utf8(question).map_err(|_| BackendError::Malformed)?;
        let request = GenerateRequest {
            operation: Operation::Chat,
            model: self.model.clone(),
            body: judge_request(&self.model, question),
            stream: false,
            time_left: self.deadline.saturating_duration_since(Instant::now()),
            begun: None,
            isolated: true,
        };
        let mut chunks = self.backend.generate(request);
        let mut difficulty = None;
        while let Some(chunk) = chunks.next().await {
            match chunk? {
                Chunk::Whole(whole) if difficulty.is_none() => difficulty = judged(&whole),
                Chunk::Finished(_) => return difficulty.ok_or(BackendError::Malformed),
                _ => return Err(BackendError::Malformed),
            }
        }
        Err(BackendError::Failed)
    }
}
