//! What a node has done, kept in a SQLite file: who asked which model when, what it took, how it
//! ended, and what the node signed of it. Never what was asked or answered.
//!
//! A [`History`] is a [`WorkLog`]. A thread of its own writes what it hears, many tasks at a time;
//! where its disk is full or slow, what cannot be written is left out, and no task waits.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use crate::agent::{Done, Work, WorkLog};

mod file;
mod writer;

pub use file::{Entry, HistoryError, read};

use writer::Writer;

/// How many tasks may wait for the writer. A node does not end so many while a disk is merely slow.
const QUEUE: usize = 4096;

/// How much of a history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How long a task is remembered. Default: 90 days.
    pub age: Duration,
    /// How large the file may become, in bytes, without the log of a few MB that lies beside it
    /// while it is written. About two thousand tasks fit into a MB, or four thousand without
    /// receipts. Default: 64 MiB.
    pub size: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { age: Duration::from_hours(90 * 24), size: 64 << 20 }
    }
}

/// Keeps what a node has done. Dropping it writes what is left, beside the program's end.
pub struct History {
    sender: SyncSender<Told>,
    /// Tasks that found no room.
    left_out: Arc<AtomicU64>,
}

enum Told {
    Done(Box<Done>),
    /// Everything before is to be written; what listens is told when it is.
    Flush(mpsc::Sender<()>),
}

impl History {
    /// Keeps a history in the file at `path`, which is made where it is missing, for its user's
    /// eyes alone.
    ///
    /// Returns at once: whether the file can be used is found out by the thread that writes.
    ///
    /// # Errors
    ///
    /// When the system has no thread to give.
    pub fn keep(path: impl Into<PathBuf>, bounds: Bounds) -> std::io::Result<Self> {
        let (sender, told) = mpsc::sync_channel(QUEUE);
        let left_out = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(path.into(), bounds, Arc::clone(&left_out));
        thread::Builder::new().name("history".to_owned()).spawn(move || writer.run(&told))?;
        Ok(Self { sender, left_out })
    }

    /// Waits until what was heard so far is written, at most as long as `limit`; returns whether
    /// it is. Blocks: for the end of a program, and for tests.
    pub fn flush(&self, limit: Duration) -> bool {
        let (written, wait) = mpsc::channel();
        let asked = self.sender.try_send(Told::Flush(written)).is_ok();
        asked && wait.recv_timeout(limit).is_ok()
    }
}

impl WorkLog for History {
    fn begun(&self, _: &Work) {}

    fn ended(&self, done: Done) {
        if self.sender.try_send(Told::Done(Box::new(done))).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("left_out", &self.left_out).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
