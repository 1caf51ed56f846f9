use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::file::{self, HistoryError, OpenFile};
use super::{Bounds, QUEUE, Told};
use crate::agent::Done;

/// How long a task may wait for others to be written with it.
const LINGER: Duration = Duration::from_millis(500);
/// Most tasks of one transaction.
const BATCH: usize = 256;
/// How long to wait after a write has failed.
const RETRY: Duration = Duration::from_secs(30);
/// How often what is too old is looked for.
const PRUNED_EVERY: Duration = Duration::from_mins(1);

/// Writes a history down, on a thread that may wait.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    bounds: Bounds,
    left_out: Arc<AtomicU64>,
    /// What is to be written, the oldest first.
    waiting: VecDeque<Done>,
    pub(super) connection: Option<OpenFile>,
    /// When a write failed for the last time, until one succeeds.
    trouble: Option<Instant>,
    pruned: Option<Instant>,
}

impl Writer {
    pub(super) fn new(path: PathBuf, bounds: Bounds, left_out: Arc<AtomicU64>) -> Self {
        let waiting = VecDeque::new();
        let (connection, trouble, pruned) = (None, None, None);
        Self { path, bounds, left_out, waiting, connection, trouble, pruned }
    }

    /// Writes what it is told until nobody tells it anything more.
    pub(super) fn run(mut self, told: &Receiver<Told>) {
        // Whoever starts a node learns then whether its history can be kept.
        self.write();
        loop {
            let flushes = match told.recv_timeout(RETRY) {
                Ok(first) => self.gather(first, told),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let rests = self.trouble.is_some_and(|since| since.elapsed() < RETRY);
            if !rests || !flushes.is_empty() {
                self.write();
            }
            if self.waiting.is_empty() {
                for flush in flushes {
                    // Whoever waited may have given up.
                    let _ = flush.send(());
                }
            }
        }
        self.write();
    }

    /// Takes in what comes within a moment, so that it is written together.
    fn gather(&mut self, first: Told, told: &Receiver<Told>) -> Vec<Sender<()>> {
        let until = Instant::now() + LINGER;
        let (mut next, mut count) = (Some(first), 0);
        while let Some(message) = next.take() {
            match message {
                Told::Done(done) => self.take(*done),
                Told::Flush(written) => return vec![written],
            }
            count += 1;
            if count < BATCH {
                next = told.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
            }
        }
        Vec::new()
    }

    /// Keeps a task until it can be written; the oldest give way.
    pub(super) fn take(&mut self, done: Done) {
        if self.waiting.len() >= QUEUE {
            self.waiting.pop_front();
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        self.waiting.push_back(done);
    }

    /// Writes what waits, and says once when that begins to fail and when it works again.
    pub(super) fn write(&mut self) {
        match (self.try_write(), self.trouble) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                self.trouble = None;
                let left_out = self.left_out.swap(0, Ordering::Relaxed);
                info!(left_out, "the history is written again");
            }
            (Err(error), known) => {
                // Whatever is wrong with the file, it is opened anew.
                self.connection = None;
                self.trouble = Some(Instant::now());
                if known.is_none() {
                    warn!(%error, path = %self.path.display(),
                        "the history is not written for now; tasks go on");
                }
            }
        }
    }

    fn try_write(&mut self) -> Result<(), HistoryError> {
        let open = self.connection.take().filter(|open| open.is_at(&self.path));
        let mut connection = match open {
            Some(open) => open,
            None => file::open(&self.path)?,
        };
        while !self.waiting.is_empty() {
            let batch = self.waiting.len().min(BATCH);
            file::append(&mut connection.sqlite, self.waiting.iter().take(batch))?;
            self.waiting.drain(..batch);
        }
        if self.pruned.is_none_or(|at| at.elapsed() >= PRUNED_EVERY) {
            file::prune(&mut connection.sqlite, self.bounds)?;
            self.pruned = Some(Instant::now());
        }
        self.connection = Some(connection);
        Ok(())
    }
}
