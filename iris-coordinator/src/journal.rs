//! Group commit: the coordinator's writer over any store.
//!
//! What the coordinator writes while it serves requests goes through one queue. A task takes
//! batches from it in order and merges what has gathered into one commit, so that the disk is
//! asked once for many. A batch that someone waits for is committed as soon as the queue behind
//! it is taken up; rows that nobody waits for gather for [`JournalLimits::gather`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use iris_core::store::{Batch, Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

mod writer;

use writer::{Entry, Rows, Writer};

/// Writes to a store in groups.
///
/// Clones share the queue. Batches of one caller are applied in the order of their calls. The
/// task behind it ends, after writing what is queued, with [`shutdown`](Self::shutdown) or the
/// last clone.
#[derive(Clone)]
pub struct Journal {
    entries: mpsc::Sender<Entry>,
    runtime: Handle,
    stats: Arc<JournalStats>,
    patience: Duration,
    closing: CancellationToken,
    finished: CancellationToken,
}

/// Sizes and times of a [`Journal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// Batches that may wait in the queue. Default: 16,384, a second's settlements.
    pub queue: usize,
    /// Rows after which a group is closed. Default: 128.
    pub rows: usize,
    /// Time that rows nobody waits for may lag behind to share a commit. Default: 10 ms.
    pub gather: Duration,
    /// Time that [`Journal::commit`], and a shutdown, wait for a store that is away. Default: 5 s.
    pub patience: Duration,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self {
            queue: 16_384,
            rows: 128,
            gather: Duration::from_millis(10),
            patience: Duration::from_secs(5),
        }
    }
}

/// Why a batch was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The store does not keep up; worth trying again later.
    #[error("the journal is full")]
    Full,
    /// The journal was shut down.
    #[error("the journal is closed")]
    Closed,
}

/// Why a batch is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The store refused the batch, or was away for longer than the journal's patience.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal was shut down.
    #[error("the journal is closed")]
    Closed,
}

/// A shutdown gave rows up, for the store was away for longer than the journal's patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rows} rows were not written before the shutdown")]
pub struct RowsLost {
    /// How many.
    pub rows: u64,
}

impl Journal {
    /// Starts the writing task over `store`.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(store: Arc<dyn Store>, limits: JournalLimits) -> Self {
        let (entries, queue) = mpsc::channel(limits.queue.max(1));
        let journal = Self {
            entries,
            runtime: Handle::current(),
            stats: Arc::default(),
            patience: limits.patience,
            closing: CancellationToken::new(),
            finished: CancellationToken::new(),
        };
        let stats = Arc::clone(&journal.stats);
        let closing = journal.closing.clone();
        let finished = journal.finished.clone().drop_guard();
        tokio::spawn(async move {
            let (entries, give_up_at) = (queue, None);
            Writer { store, entries, limits, stats, closing, give_up_at }.run().await;
            drop(finished);
        });
        journal
    }

    /// Hands `batch` over and returns at once; it becomes durable a little later.
    ///
    /// Should the store refuse it then, it is logged and counted as refused.
    pub fn record(&self, batch: Batch) -> Result<(), RecordError> {
        self.entries.try_send(Entry::Rows(Rows { batch, answer: None })).map_err(
            |error| match error {
                TrySendError::Full(_) => RecordError::Full,
                TrySendError::Closed(_) => RecordError::Closed,
            },
        )
    }

    /// Hands `batch` over like [`record`](Self::record), and keeps it beside a full queue until
    /// there is room.
    ///
    /// For rows whose number is bounded elsewhere, such as those of work that
    /// [`is_behind`](Self::is_behind) lets nobody begin.
    pub(crate) fn record_surely(&self, batch: Batch) -> Result<(), RecordError> {
        match self.entries.try_send(Entry::Rows(Rows { batch, answer: None })) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(RecordError::Closed),
            Err(TrySendError::Full(entry)) => {
                let (entries, stats) = (self.entries.clone(), Arc::clone(&self.stats));
                // Whoever drops a task may do so outside of the runtime.
                self.runtime.spawn(async move {
                    if let Err(SendError(Entry::Rows(rows))) = entries.send(entry).await {
                        stats.lost.fetch_add(rows.batch.writes.len() as u64, Ordering::Relaxed);
                        tracing::error!("a record was lost: the journal closed before it had room");
                    }
                });
                Ok(())
            }
        }
    }

    /// Hands `batch` over like [`record`](Self::record), but waits while the queue is full.
    pub async fn record_when_free(&self, batch: Batch) -> Result<(), RecordError> {
        let entry = Entry::Rows(Rows { batch, answer: None });
        self.entries.send(entry).await.map_err(|_| RecordError::Closed)
    }

    /// Hands `batch` over and resolves when it is durable, or the store has refused it.
    ///
    /// Resolves to [`StoreError::Unavailable`] when that takes longer than the journal's
    /// patience. After that, or when this future was dropped, a batch whose commit has not begun
    /// is discarded; else it may or may not be applied, as a whole.
    pub async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let (answer, settled) = oneshot::channel();
        let handed_over = async {
            let entry = Entry::Rows(Rows { batch, answer: Some(answer) });
            self.entries.send(entry).await.map_err(|_| CommitError::Closed)?;
            Ok(settled.await.map_err(|_| CommitError::Closed)??)
        };
        timeout(self.patience, handed_over).await.unwrap_or_else(|_| {
            let late = "it did not answer in time".to_owned();
            Err(CommitError::Store(StoreError::Unavailable(late)))
        })
    }

    /// Resolves when everything that was handed over before is durable or refused.
    pub async fn flush(&self) {
        let (answer, done) = oneshot::channel();
        let sent = self.entries.send(Entry::Flush(answer)).await;
        if sent.is_err() || done.await.is_err() {
            self.finished.cancelled().await;
        }
    }

    /// Takes nothing more, writes what is queued, and resolves when the task has ended.
    ///
    /// A store that is away is waited for no longer than the journal's patience.
    pub async fn shutdown(&self) -> Result<(), RowsLost> {
        self.closing.cancel();
        self.finished.cancelled().await;
        match self.stats.lost() {
            0 => Ok(()),
            rows => Err(RowsLost { rows }),
        }
    }

    /// Returns what the journal has counted since its start.
    pub fn stats(&self) -> &JournalStats {
        &self.stats
    }

    /// Returns whether the store was away when it was last written to. It is tried again every
    /// second, whether or not there is something to write.
    pub fn is_away(&self) -> bool {
        self.stats.away.load(Ordering::Relaxed)
    }

    /// Returns whether the queue is more than half full: what makes more rows should not begin.
    pub fn is_behind(&self) -> bool {
        self.waiting() > self.entries.max_capacity() / 2
    }

    /// Returns how many batches wait in the queue.
    pub fn waiting(&self) -> usize {
        self.entries.max_capacity() - self.entries.capacity()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting();
        f.debug_struct("Journal")
            .field("waiting", &waiting)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// What a [`Journal`] has done since its start. Read for metrics.
#[derive(Debug, Default)]
pub struct JournalStats {
    rows: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    away: AtomicBool,
}

impl JournalStats {
    /// Returns the rows that became durable.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Returns the commits that made them so.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Returns how often the store was away and a commit had to be tried again.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns the rows of batches that the store refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns the rows that were given up at shutdown.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
