use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iris_core::TaskId;
use iris_core::task::TaskState;

use crate::simulation::caller::Reply;

/// What callers saw; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) chats: Vec<ChatSeen>,
    pub(super) durable: Vec<DurableSeen>,
}

#[derive(Clone, Debug)]
pub(super) struct ChatSeen {
    pub(super) caller: String,
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) reply: Reply,
    pub(super) expected: String,
    pub(super) leaves: bool,
}

/// A durable task that was accepted.
#[derive(Clone, Debug)]
pub(super) struct DurableSeen {
    pub(super) caller: String,
    pub(super) task: TaskId,
    /// The end that the caller was told of.
    pub(super) end: Option<TaskState>,
    /// The tasks that its steps ended as, where it is divided and has its answer.
    pub(super) steps: Vec<TaskId>,
}

impl Log {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
