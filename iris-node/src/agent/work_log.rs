//! What a node works on, told as it begins and ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_core::backend::{BackendError, Usage};
use iris_core::{ModelName, TaskId, Timestamp};
use iris_protocol::limits::MAX_RECEIPT;
use iris_protocol::text::Blob;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::worker::Output;

/// Hears what a node works on, for a history or for its owner's eyes.
///
/// Called by the task that serves the connection, so an implementation neither waits nor fails:
/// what takes time it leaves to a thread of its own. Each work that has begun ends exactly once,
/// also where the agent is dropped.
pub trait WorkLog: fmt::Debug + Send + Sync + 'static {
    /// Takes in that a task was accepted.
    fn begun(&self, work: &Work);

    /// Takes in that it is over.
    fn ended(&self, done: Done);
}

/// A task that a node has accepted; never its content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Tells the works of one agent apart: a task may come to a node twice.
    pub number: u64,
    /// The task.
    pub task: TaskId,
    /// The model that it asks.
    pub model: ModelName,
    /// Who could read it on its way.
    pub privacy: Privacy,
    /// The tag by which its caller is told from others, where the node was given one.
    pub caller: Option<String>,
    /// When it was accepted.
    pub begun: Timestamp,
}

/// A work that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done {
    /// What was worked on.
    pub work: Work,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// Tokens read and written: for a sealed request rounded up to multiples of 64, as its receipt
    /// says; zero without a complete answer.
    pub usage: Usage,
    /// What the node signed of a sealed answer.
    pub receipt: Option<Bytes>,
}

/// Who, but the node and the caller, could read a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privacy {
    /// The coordinator could.
    Open,
    /// Nobody could.
    Sealed,
}

impl Privacy {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Sealed => "sealed",
        }
    }
}

/// How a work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// With a complete answer.
    Finished,
    /// The model server refused the request itself: the caller's fault.
    Rejected,
    /// Its time ran out.
    TimedOut,
    /// The model server was away, busy, or failed.
    Failed,
    /// Nobody wants it any more: its caller went away, or the connection or the agent ended.
    Dropped,
    /// In a way that this version does not know.
    #[serde(other)]
    Other,
}

impl Outcome {
    /// All but what is not known.
    const KNOWN: [Self; 5] =
        [Self::Finished, Self::Rejected, Self::TimedOut, Self::Failed, Self::Dropped];

    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::Other => "other",
        }
    }

    /// Returns the outcome with this name.
    pub fn named(name: &str) -> Self {
        Self::KNOWN.into_iter().find(|known| known.name() == name).unwrap_or(Self::Other)
    }

    const fn of(error: &BackendError) -> Self {
        match error {
            BackendError::Rejected { .. } => Self::Rejected,
            BackendError::Timeout => Self::TimedOut,
            _ => Self::Failed,
        }
    }
}

/// A work that goes on; tells its log of the end, however it comes.
#[derive(Debug)]
pub(super) struct Ongoing {
    log: Arc<dyn WorkLog>,
    work: Option<Work>,
    since: Instant,
}

impl Ongoing {
    pub(super) fn begin(log: &Arc<dyn WorkLog>, work: Work) -> Self {
        log.begun(&work);
        Self { log: Arc::clone(log), work: Some(work), since: Instant::now() }
    }

    /// Takes in the end that a worker has made.
    pub(super) fn end(&mut self, output: &Output) {
        let bytes = |blob: &Blob<MAX_RECEIPT>| Bytes::copy_from_slice(blob.as_bytes());
        let (outcome, usage, receipt) = match output {
            Output::Result(result) => {
                (Outcome::Finished, result.usage, result.receipt.as_ref().map(bytes))
            }
            Output::Error(error) => {
                let receipt = error.receipt.as_ref().map(bytes);
                (Outcome::of(&error.error), Usage::default(), receipt)
            }
            Output::Frame(_) | Output::Difficulty(_) => return,
        };
        self.tell(outcome, usage, receipt);
    }

    fn tell(&mut self, outcome: Outcome, usage: Usage, receipt: Option<Bytes>) {
        if let Some(work) = self.work.take() {
            let took = self.since.elapsed();
            self.log.ended(Done { work, took, outcome, usage, receipt });
        }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.tell(Outcome::Dropped, Usage::default(), None);
    }
}
