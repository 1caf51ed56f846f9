//! The task that gathers, merges and commits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iris_core::store::{Batch, Document, Expect, Key, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{JournalLimits, JournalStats};

/// What the queue holds.
pub(super) enum Entry {
    Rows(Rows),
    Flush(oneshot::Sender<()>),
}

/// A batch, and who waits for it.
pub(super) struct Rows {
    pub(super) batch: Batch,
    pub(super) answer: Option<oneshot::Sender<Result<(), StoreError>>>,
}

impl Rows {
    fn is_abandoned(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    fn expects_something_of(&self, key: &Key) -> bool {
        let mut writes = self.batch.writes.iter();
        writes.any(|write| write.expect != Expect::Any && write.key == *key)
    }
}

/// Takes batches from the queue until its senders are gone or the journal closes.
pub(super) struct Writer {
    pub(super) store: Arc<dyn Store>,
    pub(super) entries: mpsc::Receiver<Entry>,
    pub(super) limits: JournalLimits,
    pub(super) stats: Arc<JournalStats>,
    pub(super) closing: CancellationToken,
    pub(super) give_up_at: Option<Instant>,
}

impl Writer {
    /// Pauses between attempts double from the first to the last.
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    const LAST_PAUSE: Duration = Duration::from_secs(1);

    pub(super) async fn run(mut self) {
        loop {
            let entry = tokio::select! {
                biased;
                () = self.closing.cancelled(), if !self.entries.is_closed() => {
                    // What is queued can still be received.
                    self.entries.close();
                    continue;
                }
                entry = self.entries.recv() => entry,
                () = sleep(Self::LAST_PAUSE), if self.stats.away.load(Ordering::Relaxed) => {
                    self.look_for_store().await;
                    continue;
                }
            };
            match entry {
                Some(Entry::Rows(first)) => self.write_group(first).await,
                Some(Entry::Flush(done)) => {
                    let _ = done.send(());
                }
                None => return,
            }
        }
    }

    async fn write_group(&mut self, first: Rows) {
        let (group, flush) = self.gather(first).await;
        let mut parts = VecDeque::from([group]);
        while let Some(mut part) = parts.pop_front() {
            match self.commit(&mut part).await {
                Err(error) if part.len() > 1 && !matches!(error, StoreError::Unavailable(_)) => {
                    for part in split(part, &error).into_iter().rev() {
                        parts.push_front(part);
                    }
                }
                outcome => self.settle(part, &outcome),
            }
        }
        if let Some(done) = flush {
            let _ = done.send(());
        }
    }

    /// Collects what follows `first`, up to the limits or a flush.
    async fn gather(&mut self, first: Rows) -> (Vec<Rows>, Option<oneshot::Sender<()>>) {
        let deadline = Instant::now() + self.limits.gather;
        let (mut rows, mut awaited) = (first.batch.writes.len(), first.answer.is_some());
        let mut group = vec![first];
        while rows < self.limits.rows {
            let next = match self.entries.try_recv() {
                Ok(entry) => Some(entry),
                Err(_) if awaited => None,
                Err(_) => timeout_at(deadline, self.entries.recv()).await.ok().flatten(),
            };
            match next {
                Some(Entry::Rows(next)) => {
                    rows += next.batch.writes.len();
                    awaited |= next.answer.is_some();
                    group.push(next);
                }
                Some(Entry::Flush(done)) => return (group, Some(done)),
                None => break,
            }
        }
        (group, None)
    }

    /// Commits `part` as one batch, over and over while the store is away.
    ///
    /// Takes out of it what is no longer waited for.
    async fn commit(&mut self, part: &mut Vec<Rows>) -> Result<(), StoreError> {
        let mut pause = Self::FIRST_PAUSE;
        loop {
            part.retain(|rows| !rows.is_abandoned());
            if part.is_empty() {
                return Ok(());
            }
            let outcome = self.store.commit(merged(part)).await;
            self.note(&outcome);
            let Err(StoreError::Unavailable(why)) = &outcome else {
                return outcome;
            };
            count(&self.stats.failures, 1);
            tracing::warn!(%why, rows = row_count(part), "records wait for the store");
            if self.is_out_of_patience() {
                return outcome;
            }
            sleep(pause).await;
            pause = Self::LAST_PAUSE.min(pause * 2);
        }
    }

    /// Finds out whether a store that was away takes rows again, though none wait.
    async fn look_for_store(&self) {
        // A row that comes and goes in one commit is written all the same.
        let key = Key::new("journal", "trial").expect("a word is a key segment");
        let trial = Batch::new().put(key.clone(), Document::encode(&())).delete(key);
        self.note(&self.store.commit(trial).await);
    }

    fn note(&self, outcome: &Result<(), StoreError>) {
        let away = matches!(outcome, Err(StoreError::Unavailable(_)));
        if away != self.stats.away.swap(away, Ordering::Relaxed) && !away {
            tracing::info!("the store takes records again");
        }
    }

    /// Returns whether the task has to end, and has waited for the store long enough.
    fn is_out_of_patience(&mut self) -> bool {
        let ending = self.closing.is_cancelled() || self.entries.is_closed();
        let now = Instant::now();
        ending && now >= *self.give_up_at.get_or_insert(now + self.limits.patience)
    }

    fn settle(&self, part: Vec<Rows>, outcome: &Result<(), StoreError>) {
        let rows = row_count(&part);
        match outcome {
            Ok(()) if part.is_empty() => {}
            Ok(()) => {
                count(&self.stats.rows, rows);
                count(&self.stats.commits, 1);
            }
            Err(StoreError::Unavailable(_)) => count(&self.stats.lost, rows),
            Err(_) => count(&self.stats.refused, rows),
        }
        for Rows { answer, .. } in part {
            match (answer, outcome) {
                (Some(answer), outcome) => drop(answer.send(outcome.clone())),
                (None, Err(error)) => tracing::error!(%error, "a recorded batch was not written"),
                (None, Ok(())) => {}
            }
        }
    }
}

/// Parts a refused group so that the batch at fault stands alone.
///
/// Merging changes no outcome: parts are committed in their order, each batch sees what it would
/// have seen alone, and a conflict costs two more commits rather than one for each batch.
fn split(mut group: Vec<Rows>, error: &StoreError) -> Vec<Vec<Rows>> {
    let suspect = match error {
        StoreError::Conflict(key) => group.iter().position(|rows| rows.expects_something_of(key)),
        _ => None,
    };
    let Some(suspect) = suspect else {
        return group.into_iter().map(|rows| vec![rows]).collect();
    };
    let after = group.split_off(suspect + 1);
    let alone = group.split_off(suspect);
    [group, alone, after].into_iter().filter(|part| !part.is_empty()).collect()
}

fn merged(part: &[Rows]) -> Batch {
    Batch { writes: part.iter().flat_map(|rows| &rows.batch.writes).cloned().collect() }
}

fn row_count(part: &[Rows]) -> u64 {
    part.iter().map(|rows| rows.batch.writes.len() as u64).sum()
}

fn count(counter: &AtomicU64, rows: u64) {
    counter.fetch_add(rows, Ordering::Relaxed);
}
