use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iris_core::id::CallerTag;
use iris_core::{ModelName, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

/// A task that a node took on, and who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedTask {
    /// The task.
    pub task: TaskId,
    /// What the caller is known by this month; `None` of people without an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerTag>,
    /// The model that was asked.
    pub model: ModelName,
    /// When it was taken on.
    pub at: Timestamp,
}

/// The latest tasks that a node took on.
#[derive(Debug, Default)]
pub struct AskedTasks {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    latest: VecDeque<AskedTask>,
    count: u64,
}

impl AskedTasks {
    /// How many are known.
    pub const KEPT: usize = 256;

    /// Takes in that a task was taken on.
    pub(super) fn note(&self, task: AskedTask) {
        let mut held = self.held();
        if held.latest.len() == Self::KEPT {
            held.latest.pop_front();
        }
        held.latest.push_back(task);
        held.count += 1;
    }

    /// Returns how many there were since the node was made.
    pub fn count(&self) -> u64 {
        self.held().count
    }

    /// Returns the latest ones, the oldest of them first.
    pub fn latest(&self) -> Vec<AskedTask> {
        self.held().latest.iter().cloned().collect()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
