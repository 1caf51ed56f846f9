use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use iris_core::store::{Batch, Key, MemoryStore, Record};
use iris_crypto::log::{Checkpoint, verify_consistency};

use super::*;

/// A store that counts what is read of it.
#[derive(Clone, Debug, Default)]
struct Counting {
    store: MemoryStore,
    reads: Arc<AtomicUsize>,
}

impl Counting {
    /// Returns the reads since the last call.
    fn reads(&self) -> usize {
        self.reads.swap(0, Ordering::Relaxed)
    }
}

impl Store for Counting {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.commit(batch)
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.get(key)
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.scan(range)
    }
}

fn roster(number: u64) -> Entry {
    Entry::Roster(Sha256::digest(number.to_be_bytes()).into())
}

async fn open(store: &Counting) -> (Log, State) {
    let identity = Identity::from_seed(&Secret::from_bytes([3; 32]));
    Log::open(Arc::new(store.clone()), Arc::new(identity)).await.unwrap()
}

#[tokio::test]
async fn long_log_is_proven_by_a_handful_of_reads() {
    let store = Counting::default();
    let (log, mut state) = open(&store).await;
    // Entries come one by one, and now and then in numbers.
    for number in 1..1_000 {
        state = log.append(state, &[roster(number)], number).await.unwrap();
    }
    for first in (1_000..10_000).step_by(1_000) {
        let some: Vec<_> = (first..first + 1_000).map(roster).collect();
        state = log.append(state, &some, first).await.unwrap();
    }
    assert_eq!(store.reads(), 1, "appending reads nothing but the head at the start");
    let tip = log.tip();
    assert_eq!(tip.size, 10_000);
    for index in [1, 255, 256, 4_999, 5_000, 7_777, 9_999] {
        let proof = log.prove(&ProofPlan::inclusion(index, tip.size).unwrap()).await.unwrap();
        let reads = store.reads();
        assert!(reads <= 4, "{reads} for {index}");
        let leaf = roster(index).leaf_hash();
        verify_inclusion(&leaf, index, tip.size, &proof, &tip.root).unwrap();
        let old = log.prove(&ProofPlan::root(index).unwrap()).await.unwrap()[0];
        store.reads();
        let proof = log.prove(&ProofPlan::consistency(index, tip.size).unwrap()).await.unwrap();
        assert!(store.reads() <= 4);
        let old = Checkpoint { size: index, root: old };
        let new = Checkpoint { size: tip.size, root: tip.root };
        verify_consistency(&old, &new, &proof).unwrap();
    }
    store.reads();
    let (again, state) = open(&store).await;
    assert!(store.reads() <= 4, "a start reads the head and the right edge");
    assert_eq!((again.tip().size, again.tip().root), (tip.size, tip.root));
    let grown = again.append(state, &[roster(10_000)], 10_000).await.unwrap();
    assert_eq!(grown.rosters(), 10_000);
}

#[tokio::test]
async fn second_writer_conflicts_and_writes_nothing() {
    let store = Counting::default();
    let (one, first) = open(&store).await;
    let (two, second) = open(&store).await;
    one.append(first, &[roster(1)], 1).await.unwrap();
    let refused = two.append(second, &[roster(2)], 1).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));
    assert_eq!(two.tip().size, 1, "what was refused is not told");
    let state = two.read().await.unwrap();
    assert_eq!(two.tip().root, one.tip().root);
    two.append(state, &[roster(2)], 2).await.unwrap();
    let entries = two.entries(0..3).await.unwrap();
    assert_eq!(entries[2].as_bytes(), roster(2).encode());
}

#[tokio::test]
async fn damaged_log_is_not_gone_on_with() {
    let store = Counting::default();
    let (log, state) = open(&store).await;
    let some: Vec<_> = (1..300).map(roster).collect();
    log.append(state, &some, 1).await.unwrap();
    let edge = records::TileRecord::key(iris_crypto::log::TileId { level: 0, index: 1 });
    let kept = store.get(edge.clone()).await.unwrap().unwrap();
    store.commit(Batch::new().delete(edge.clone())).await.unwrap();
    let identity = Arc::new(Identity::from_seed(&Secret::from_bytes([3; 32])));
    let opened = Log::open(Arc::new(store.clone()), Arc::clone(&identity)).await;
    assert!(matches!(opened, Err(StartError::Store(StoreError::Corrupt(_)))));
    let plan = ProofPlan::inclusion(290, 300).unwrap();
    assert!(matches!(log.prove(&plan).await, Err(StoreError::Corrupt(_))));
    store.commit(Batch::new().put(edge, kept.value)).await.unwrap();
    assert!(Log::open(Arc::new(store.clone()), identity).await.is_ok());
    store.commit(Batch::new().delete(records::EntryRecord::key(7))).await.unwrap();
    assert!(matches!(log.entries(0..300).await, Err(StoreError::Corrupt(_))));
}
