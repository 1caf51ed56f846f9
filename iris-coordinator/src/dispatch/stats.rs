use std::sync::atomic::{AtomicU64, Ordering};

use iris_core::task::TaskState;

use crate::live::Took;
use crate::settlement::Settlement;

/// What a coordinator has counted since it started, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Nodes connected.
    pub nodes: usize,
    /// Their slots altogether.
    pub slots: u64,
    /// Slots in use.
    pub slots_in_use: u64,
    /// Tasks that wait for a node.
    pub queued: usize,
    /// Tasks that finished.
    pub finished: u64,
    /// Tasks that failed.
    pub failed: u64,
    /// Tasks whose callers left.
    pub cancelled: u64,
    /// Tasks whose time ran out.
    pub expired: u64,
    /// Tasks among all these that only their callers and nodes could read.
    pub sealed: u64,
    /// Chunks passed on.
    pub chunks: u64,
    /// Tokens of prompts, as nodes reported them.
    pub prompt_tokens: u64,
    /// Tokens of answers, as nodes reported them.
    pub completion_tokens: u64,
    /// Rows that the journal has made durable.
    pub rows: u64,
    /// Commits that it took for them, each of which waited for the disk.
    pub commits: u64,
}

/// The counts of [`Stats`] that only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    finished: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    expired: AtomicU64,
    sealed: AtomicU64,
    chunks: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    /// How long finished tasks took.
    pub(crate) took: Took,
}

impl Counters {
    pub(super) fn settled(&self, settlement: &Settlement) {
        let counter = match settlement.state {
            TaskState::Finished => &self.finished,
            TaskState::Cancelled => &self.cancelled,
            TaskState::Expired => &self.expired,
            _ => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if settlement.state == TaskState::Finished {
            self.took.add(settlement.took_ms);
        }
        self.sealed.fetch_add(u64::from(settlement.sealed), Ordering::Relaxed);
        let usage = settlement.usage;
        self.prompt_tokens.fetch_add(usage.prompt_tokens.into(), Ordering::Relaxed);
        self.completion_tokens.fetch_add(usage.completion_tokens.into(), Ordering::Relaxed);
    }

    pub(super) fn chunks(&self, count: u64) {
        self.chunks.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the counts; the rest of the value is zero.
    pub(crate) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            finished: read(&self.finished),
            failed: read(&self.failed),
            cancelled: read(&self.cancelled),
            expired: read(&self.expired),
            sealed: read(&self.sealed),
            chunks: read(&self.chunks),
            prompt_tokens: read(&self.prompt_tokens),
            completion_tokens: read(&self.completion_tokens),
            ..Stats::default()
        }
    }
}
