//! Lines that are not in the store yet.
//!
//! Accounts lie in any order, so a line that is written beside its row touches a page of its own,
//! which costs more than the row. Lines therefore gather here, in the order of their keys, and are
//! written many at a time, when one page takes many of them. Whoever reads a history finds those
//! that wait before those that were written.
//!
//! What a crash takes is in the rows themselves. A mark says up to which time of submission every
//! row has its line; a start writes the lines of the rows after it. A row of a task that was
//! submitted before the mark, because it took long, brings its line along.
//!
//! There is one mark, so one coordinator at a time may work on a store: a second would move the mark
//! past rows whose lines wait in the memory of the first, and a crash of that one would leave them out
//! of histories (never out of the books). `iris-coordinator` locks its books for that.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::{AccountId, TaskId, Timestamp};
use tokio::sync::Notify;

use super::{HISTORY, HistoryCursor, LAST, line};
use crate::journal::{CommitError, Journal};
use crate::settlement::{SETTLEMENT, Settlement};

/// Lines that are written at once, at the latest when there are so many.
const GATHERED: usize = 32_768;
/// Lines that are kept while others are being written; further rows bring theirs along.
const MOST: usize = 4 * GATHERED;
/// Lines of one commit: few enough that rows which come meanwhile do not wait long.
const TOGETHER: usize = 512;
/// How far the mark stays behind the newest row: tasks that take longer bring their line along.
const BEHIND: Duration = Duration::from_mins(1);

/// A line, in the order of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    account: AccountId,
    /// The time counted backwards.
    back: u64,
    task: TaskId,
}

impl Line {
    fn of(row: &Settlement) -> Self {
        let back = LAST.saturating_sub(row.submitted.as_millis());
        Self { account: row.account, back, task: row.task }
    }

    const fn submitted(&self) -> Timestamp {
        Timestamp::from_millis(LAST.saturating_sub(self.back))
    }

    fn write(&self, batch: Batch) -> Batch {
        batch.put(line(&self.account, self.submitted(), &self.task), Document::encode(&()))
    }
}

/// The lines of all accounts' histories that wait to be written. A [coordinator](crate::Coordinator)
/// has its own.
#[derive(Debug)]
pub struct Histories {
    lines: Mutex<Lines>,
    many: Arc<Notify>,
    /// Held while lines are written.
    folding: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Lines {
    waiting: BTreeSet<Line>,
    /// Those that are being written.
    leaving: BTreeSet<Line>,
    /// Rows of tasks that were submitted before bring their line along.
    mark: Timestamp,
    /// When the newest task was submitted.
    newest: Timestamp,
}

impl Histories {
    /// Writes the lines of the rows that have none yet.
    pub async fn open(store: &dyn Store) -> Result<Self, StoreError> {
        let mark = mark(store).await?;
        let start = Key::new(SETTLEMENT, format!("{:013}", mark.as_millis()));
        let start = start.expect("a number is a key segment");
        let mut rows = store.scan(start..Key::all(SETTLEMENT).end);
        let mut lines = Lines {
            waiting: BTreeSet::new(),
            leaving: BTreeSet::new(),
            mark,
            newest: mark.saturating_add(BEHIND),
        };
        while let Some(row) = rows.try_next().await? {
            lines.add(&row.value.decode()?);
            if lines.waiting.len() >= GATHERED {
                lines.write(store).await?;
            }
        }
        lines.write(store).await?;
        Ok(Self {
            lines: Mutex::new(lines),
            many: Arc::default(),
            folding: tokio::sync::Mutex::default(),
        })
    }

    /// Adds a row to `batch`, and remembers its line or adds it, too.
    pub fn write(&self, row: &Settlement, batch: Batch) -> Batch {
        let batch = row.write(batch);
        let mut lines = self.lines();
        if row.submitted < lines.mark || lines.len() >= MOST {
            return Line::of(row).write(batch);
        }
        lines.add(row);
        if lines.waiting.len() == GATHERED {
            self.many.notify_one();
        }
        batch
    }

    /// Returns what is told when so many lines have gathered that they should be written.
    pub fn many(&self) -> Arc<Notify> {
        Arc::clone(&self.many)
    }

    /// Writes what has gathered.
    ///
    /// What a journal does not take stays, and is written with what comes later.
    pub async fn fold(&self, journal: &Journal) -> Result<(), CommitError> {
        let _alone = self.folding.lock().await;
        let (leaving, mark) = {
            let mut lines = self.lines();
            lines.leave();
            (lines.leaving.iter().copied().collect::<Vec<_>>(), lines.mark)
        };
        if leaving.is_empty() {
            return Ok(());
        }
        for some in leaving.chunks(TOGETHER) {
            journal.record_when_free(batch(some)).await.map_err(|_| CommitError::Closed)?;
        }
        // Behind the lines, so that it says nothing of any that is not durable.
        journal.commit(Batch::new().put(mark_key(), Document::encode(&mark))).await?;
        self.lines().leaving.clear();
        Ok(())
    }

    /// Returns at most `limit` places of `account` that come after a place, the latest first.
    pub(super) fn places(
        &self,
        account: &AccountId,
        after: Option<&HistoryCursor>,
        limit: usize,
    ) -> Vec<HistoryCursor> {
        let first = Line { account: *account, back: 0, task: TaskId::from_bytes([0; 16]) };
        let from = after.map_or(Bound::Included(first), |place| {
            let back = LAST.saturating_sub(place.submitted.as_millis());
            Bound::Excluded(Line { account: *account, back, task: place.task })
        });
        let lines = self.lines();
        let own = |set: &BTreeSet<Line>| {
            let own = set.range((from, Bound::Unbounded));
            let own = own.take_while(|line| line.account == *account).take(limit);
            own.copied().collect::<Vec<_>>()
        };
        let mut all = own(&lines.waiting);
        all.extend(own(&lines.leaving));
        all.sort_unstable();
        all.dedup();
        all.truncate(limit);
        let place = |line: Line| HistoryCursor { submitted: line.submitted(), task: line.task };
        all.into_iter().map(place).collect()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn len(&self) -> usize {
        self.waiting.len() + self.leaving.len()
    }

    fn add(&mut self, row: &Settlement) {
        self.newest = self.newest.max(row.submitted);
        self.waiting.insert(Line::of(row));
    }

    /// Takes out what waits, with what could not be written before, and moves the mark on.
    fn leave(&mut self) {
        self.leaving.append(&mut self.waiting);
        let behind = u64::try_from(BEHIND.as_millis()).unwrap_or(u64::MAX);
        let mark = self.newest.as_millis().saturating_sub(behind);
        self.mark = self.mark.max(Timestamp::from_millis(mark));
    }

    async fn write(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        self.leave();
        let leaving: Vec<Line> = std::mem::take(&mut self.leaving).into_iter().collect();
        for some in leaving.chunks(TOGETHER) {
            store.commit(batch(some)).await?;
        }
        store.commit(Batch::new().put(mark_key(), Document::encode(&self.mark))).await
    }
}

fn batch(lines: &[Line]) -> Batch {
    lines.iter().fold(Batch::new(), |batch, line| line.write(batch))
}

fn mark_key() -> Key {
    Key::new("folded", "history").expect("a word is a key segment")
}

/// Reads up to when every row has its line.
async fn mark(store: &dyn Store) -> Result<Timestamp, StoreError> {
    if let Some(mark) = store.get(mark_key()).await? {
        return mark.value.decode();
    }
    // Before there was a mark, each line was written with its row.
    let has_lines = store.scan(Key::all(HISTORY)).try_next().await?.is_some();
    if !has_lines {
        return Ok(Timestamp::from_millis(0));
    }
    let mut rows = store.scan(Key::all(SETTLEMENT));
    let mut last = Timestamp::from_millis(0);
    while let Some(row) = rows.try_next().await? {
        last = Settlement::submitted_of(&row.key).unwrap_or(last);
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use iris_core::store::MemoryStore;
    use proptest::prelude::*;

    use super::super::page;
    use super::super::tests::settlement;
    use super::*;
    use crate::journal::JournalLimits;

    const ACCOUNTS: u8 = 3;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A task of an account ends that was submitted at this second.
        Row(u8, u64),
        Fold,
        /// Everything that was not written is forgotten.
        Crash,
        /// The same, while lines were being written: so many rows got theirs.
        CrashWithin(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..ACCOUNTS, 0_u64..300).prop_map(|(account, at)| Step::Row(account, at)),
            2 => Just(Step::Fold),
            1 => Just(Step::Crash),
            1 => (0_usize..9).prop_map(Step::CrashWithin),
        ]
    }

    struct Books {
        store: Arc<MemoryStore>,
        journal: Journal,
        histories: Histories,
        rows: Vec<Settlement>,
    }

    impl Books {
        async fn new() -> Self {
            let store = Arc::new(MemoryStore::new());
            let limits = JournalLimits { gather: Duration::ZERO, ..Default::default() };
            let journal = Journal::start(store.clone(), limits);
            let histories = Histories::open(&*store).await.unwrap();
            Self { store, journal, histories, rows: Vec::new() }
        }

        async fn take(&mut self, step: Step) {
            match step {
                Step::Row(account, at) => {
                    let task = u8::try_from(self.rows.len()).unwrap();
                    let account = AccountId::from_bytes([account; 16]);
                    let row = settlement(account, task, at * 1000);
                    let batch = self.histories.write(&row, Batch::new());
                    self.journal.commit(batch).await.unwrap();
                    self.rows.push(row);
                }
                Step::Fold => self.histories.fold(&self.journal).await.unwrap(),
                Step::Crash => self.reopen().await,
                Step::CrashWithin(lines) => {
                    let some = self.rows.iter().rev().take(lines).map(Line::of);
                    self.store.commit(batch(&some.collect::<Vec<_>>())).await.unwrap();
                    self.reopen().await;
                }
            }
        }

        async fn reopen(&mut self) {
            self.histories = Histories::open(&*self.store).await.unwrap();
        }

        /// Reads a whole history, page by page.
        async fn told(&self, account: &AccountId, limit: usize) -> Vec<TaskId> {
            let (mut told, mut after) = (Vec::new(), None);
            loop {
                let page = page(&*self.store, &self.histories, account, after.as_ref(), limit);
                let page = page.await.unwrap();
                assert!(page.tasks.len() == limit || page.next.is_none());
                told.extend(page.tasks.iter().map(|task| task.task));
                let Some(next) = page.next else { return told };
                after = Some(next.parse().unwrap());
            }
        }

        /// What a history must tell.
        fn own(&self, account: &AccountId) -> Vec<TaskId> {
            let own = self.rows.iter().filter(|row| row.account == *account);
            let mut own: Vec<_> = own.map(|row| (Reverse(row.submitted), row.task)).collect();
            own.sort_unstable();
            own.into_iter().map(|(_, task)| task).collect()
        }
    }

    fn run(steps: &[Step], limit: usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut books = Books::new().await;
            for step in steps {
                books.take(*step).await;
                for account in 0..ACCOUNTS {
                    let account = AccountId::from_bytes([account; 16]);
                    assert_eq!(books.told(&account, limit).await, books.own(&account));
                }
            }
        });
    }

    proptest! {
        #[test]
        fn every_row_is_told_at_once_and_once_whatever_folds_and_crashes_come_between(
            steps in proptest::collection::vec(step(), 0..40),
            limit in 1_usize..6,
        ) {
            run(&steps, limit);
        }
    }

    #[tokio::test]
    async fn lines_are_written_by_a_fold_and_the_mark_after_them() {
        let mut books = Books::new().await;
        for at in [0, 100, 200] {
            books.take(Step::Row(1, at)).await;
        }
        let lines = async |store: &MemoryStore| {
            store.scan(Key::all(HISTORY)).try_collect::<Vec<_>>().await.unwrap().len()
        };
        assert_eq!(lines(&books.store).await, 0);
        books.take(Step::Fold).await;
        assert_eq!(lines(&books.store).await, 3);
        assert_eq!(mark(&*books.store).await.unwrap(), Timestamp::from_millis(140_000));
        // One that took long is behind the mark.
        books.take(Step::Row(1, 139)).await;
        assert_eq!(lines(&books.store).await, 4);
        books.take(Step::Row(1, 140)).await;
        assert_eq!(lines(&books.store).await, 4);
    }

    #[tokio::test]
    async fn books_of_before_there_was_a_mark_are_read_once_and_not_written_anew() {
        let store = MemoryStore::new();
        let old = settlement(AccountId::from_bytes([1; 16]), 1, 5_000_000);
        store.commit(Line::of(&old).write(old.write(Batch::new()))).await.unwrap();
        assert_eq!(mark(&store).await.unwrap(), old.submitted);
        Histories::open(&store).await.unwrap();
        assert_eq!(mark(&store).await.unwrap(), old.submitted);
    }

    #[tokio::test]
    async fn what_a_journal_does_not_take_stays() {
        let mut books = Books::new().await;
        books.take(Step::Row(1, 1)).await;
        books.journal.shutdown().await.unwrap();
        assert!(books.histories.fold(&books.journal).await.is_err());
        let account = AccountId::from_bytes([1; 16]);
        assert_eq!(books.told(&account, 5).await, books.own(&account));
    }
}
