//! The journal writes in groups, in order, and loses nothing that it can still write.

#![allow(clippy::unwrap_used, reason = "a test may fail wherever its story breaks")]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::BoxStream;
use iris_coordinator::journal::{CommitError, Journal, JournalLimits, RecordError, RowsLost};
use iris_core::store::{Batch, Document, Key, MemoryStore, Record, Store, StoreError, Version};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Keeps records in memory, fails as told, commits one batch for each permit, and notes the
/// sizes of the batches it has taken.
#[derive(Debug)]
struct Bench {
    store: MemoryStore,
    permits: Semaphore,
    failures: Mutex<VecDeque<StoreError>>,
    commits: Mutex<Vec<usize>>,
}

impl Bench {
    fn open() -> Arc<Self> {
        Self::with_permits(Semaphore::MAX_PERMITS)
    }

    fn with_permits(permits: usize) -> Arc<Self> {
        let (failures, commits) = (Mutex::default(), Mutex::default());
        let permits = Semaphore::new(permits);
        Arc::new(Self { store: MemoryStore::new(), permits, failures, commits })
    }

    fn fail(&self, times: usize, error: &StoreError) {
        self.failures.lock().unwrap().extend(std::iter::repeat_n(error.clone(), times));
    }

    fn commits(&self) -> Vec<usize> {
        self.commits.lock().unwrap().clone()
    }

    async fn version(&self, id: &str) -> Option<u64> {
        self.store.get(key(id)).await.unwrap().map(|record| record.version.0)
    }
}

impl Store for Bench {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            self.permits.acquire().await.unwrap().forget();
            if let Some(error) = self.failures.lock().unwrap().pop_front() {
                return Err(error);
            }
            let rows = batch.writes.len();
            self.store.commit(batch).await?;
            self.commits.lock().unwrap().push(rows);
            Ok(())
        }
        .boxed()
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.store.get(key)
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        self.store.scan(range)
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_nobody_waits_for_share_a_commit_within_ten_milliseconds() {
    let (bench, journal) = start(Bench::open());
    for id in ["a", "b", "c"] {
        journal.record(put(id)).unwrap();
    }
    let begun = Instant::now();
    journal.flush().await;
    assert_eq!(bench.commits(), [3]);
    journal.record(put("d")).unwrap();
    while bench.version("d").await.is_none() {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(begun.elapsed() <= Duration::from_millis(12), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_group_closes_at_its_limit_of_rows() {
    let (bench, journal) = start(Bench::open());
    for id in 0..300 {
        journal.record(put(&id.to_string())).unwrap();
    }
    journal.flush().await;
    assert_eq!(bench.commits(), [128, 128, 44]);
    assert_eq!((journal.stats().rows(), journal.stats().commits()), (300, 3));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_does_not_wait_for_the_timer() {
    let (bench, journal) = start(Bench::open());
    let begun = Instant::now();
    journal.commit(put("a")).await.unwrap();
    assert_eq!(bench.version("a").await, Some(1));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn many_that_wait_at_once_share_a_commit() {
    let (bench, journal) = start(Bench::open());
    let outcomes = join_all((0..100).map(|id| {
        let journal = journal.clone();
        async move { journal.commit(put(&id.to_string())).await }
    }))
    .await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(bench.commits(), [100]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_harms_no_other_batch() {
    let (bench, journal) = start(Bench::open());
    journal.commit(put("taken")).await.unwrap();
    let batches = [
        put("a"),
        create("b"),
        put("c").create(key("taken"), value()),
        Batch::new().replace(key("b"), Version(1), value()),
        create("taken"),
        put("d"),
    ];
    let outcomes = join_all(batches.map(|batch| journal.commit(batch))).await;
    let conflict = Err(CommitError::Store(StoreError::Conflict(key("taken"))));
    let expected = [Ok(()), Ok(()), conflict.clone(), Ok(()), conflict, Ok(())];
    assert_eq!(outcomes, expected);
    for (id, version) in [("a", Some(1)), ("b", Some(2)), ("c", None), ("d", Some(1))] {
        assert_eq!(bench.version(id).await, version, "{id}");
    }
    assert_eq!(journal.stats().refused(), 3);
    assert_eq!(bench.commits(), [1, 2, 1, 1], "the others are still committed in groups");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_written_stands_alone() {
    let (bench, journal) = start(Bench::open());
    bench.fail(2, &StoreError::Corrupt("too big".to_owned()));
    for id in ["a", "b", "c"] {
        journal.record(put(id)).unwrap();
    }
    journal.flush().await;
    assert_eq!(bench.version("a").await, None);
    assert_eq!((bench.version("b").await, bench.version("c").await), (Some(1), Some(1)));
    assert_eq!(journal.stats().refused(), 1);
}

#[tokio::test(start_paused = true)]
async fn rows_wait_in_order_while_the_store_is_away() {
    let (bench, journal) = start(Bench::open());
    bench.fail(30, &StoreError::Unavailable("disk full".to_owned()));
    journal.record(put("a")).unwrap();
    journal.record(create("b")).unwrap();
    journal.record(Batch::new().replace(key("b"), Version(1), value())).unwrap();
    journal.flush().await;
    assert_eq!((bench.version("a").await, bench.version("b").await), (Some(1), Some(2)));
    assert_eq!((journal.stats().failures(), journal.stats().rows()), (30, 3));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_store_that_is_away_is_told_and_leaves_no_row_behind() {
    let (bench, journal) = start(Bench::open());
    bench.fail(30, &StoreError::Unavailable("disk full".to_owned()));
    journal.record(put("recorded")).unwrap();
    let begun = Instant::now();
    let outcome = journal.commit(put("awaited")).await;
    assert!(matches!(outcome, Err(CommitError::Store(StoreError::Unavailable(_)))), "{outcome:?}");
    assert_eq!(begun.elapsed(), JournalLimits::default().patience);
    journal.flush().await;
    assert_eq!((bench.version("recorded").await, bench.version("awaited").await), (Some(1), None));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_back_is_found_within_a_second_though_nothing_waits() {
    let (bench, journal) = start(Bench::open());
    assert!(!journal.is_away());
    bench.fail(1000, &StoreError::Unavailable("disk full".to_owned()));
    journal.commit(put("awaited")).await.unwrap_err();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(journal.is_away(), "nobody waits for a row, and the store is away all the same");
    bench.failures.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_millis(1001)).await;
    assert!(!journal.is_away());
    assert_eq!(bench.version("awaited").await, None);
    assert!(bench.store.get(Key::new("journal", "trial").unwrap()).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_more_than_half_full_is_behind() {
    let bench = Bench::with_permits(0);
    let limits = JournalLimits { queue: 4, rows: 1, ..JournalLimits::default() };
    let journal = Journal::start(Arc::clone(&bench) as Arc<dyn Store>, limits);
    journal.record(put("in work")).unwrap();
    while journal.waiting() > 0 {
        tokio::task::yield_now().await;
    }
    for (id, behind) in [("a", false), ("b", false), ("c", true)] {
        journal.record(put(id)).unwrap();
        assert_eq!(journal.is_behind(), behind, "{id}");
    }
    bench.permits.add_permits(4);
    journal.flush().await;
    assert!(!journal.is_behind());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_or_makes_wait() {
    let bench = Bench::with_permits(0);
    let limits = JournalLimits { queue: 2, rows: 1, ..JournalLimits::default() };
    let journal = Journal::start(Arc::clone(&bench) as Arc<dyn Store>, limits);
    journal.record(put("in work")).unwrap();
    while journal.waiting() > 0 {
        tokio::task::yield_now().await;
    }
    journal.record(put("a")).unwrap();
    journal.record(put("b")).unwrap();
    assert_eq!(journal.record(put("c")), Err(RecordError::Full));
    let mut waiting = Box::pin(journal.record_when_free(put("c")));
    assert!(futures::poll!(&mut waiting).is_pending());
    bench.permits.add_permits(4);
    waiting.await.unwrap();
    journal.flush().await;
    assert_eq!(bench.commits(), [1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_writes_what_is_queued_and_takes_nothing_more() {
    let (bench, journal) = start(Bench::open());
    for id in 0..300 {
        journal.record(put(&id.to_string())).unwrap();
    }
    journal.shutdown().await.unwrap();
    assert_eq!(bench.commits().iter().sum::<usize>(), 300);
    assert_eq!(journal.record(put("late")), Err(RecordError::Closed));
    assert_eq!(journal.commit(put("late")).await, Err(CommitError::Closed));
    journal.flush().await;
    journal.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_up_on_a_store_that_stays_away() {
    let (bench, journal) = start(Bench::open());
    bench.fail(1000, &StoreError::Unavailable("disk full".to_owned()));
    for id in 0..300 {
        journal.record(put(&id.to_string())).unwrap();
    }
    let begun = Instant::now();
    assert_eq!(journal.shutdown().await, Err(RowsLost { rows: 300 }));
    assert!(begun.elapsed() < JournalLimits::default().patience + Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_writes_what_is_queued() {
    let (bench, journal) = start(Bench::open());
    journal.record(put("a")).unwrap();
    drop(journal);
    // The task holds the store until it ends.
    while Arc::strong_count(&bench) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.version("a").await, Some(1));
}

fn start(bench: Arc<Bench>) -> (Arc<Bench>, Journal) {
    let journal = Journal::start(Arc::clone(&bench) as Arc<dyn Store>, JournalLimits::default());
    (bench, journal)
}

fn key(id: &str) -> Key {
    Key::new("test", id.replace(' ', "-")).unwrap()
}

fn value() -> Document {
    Document::encode(&1)
}

fn put(id: &str) -> Batch {
    Batch::new().put(key(id), value())
}

fn create(id: &str) -> Batch {
    Batch::new().create(key(id), value())
}
