//! A store that forgets everything with its last handle.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};

use super::{Batch, Document, Expect, Key, Record, Store, StoreError, Version};

/// Keeps records in memory.
///
/// Clones share the records. Nothing is durable: meant for tests, demonstrations and nodes that
/// need no past.
#[derive(Clone, Default)]
pub struct MemoryStore {
    records: Arc<Mutex<Records>>,
}

type Records = BTreeMap<Key, (Version, Document)>;

impl MemoryStore {
    /// Records that a scan copies at a time, so that it holds the lock only briefly.
    const PAGE: usize = 256;

    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // `apply` cannot panic half-way, so the records are whole even then.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, start: Bound<&Key>, end: &Key) -> VecDeque<Record> {
        let (Bound::Included(first) | Bound::Excluded(first)) = start else {
            return VecDeque::new();
        };
        if first >= end {
            return VecDeque::new();
        }
        let records = self.records();
        let range = records.range((start, Bound::Excluded(end))).take(Self::PAGE);
        range.map(|(key, kept)| record(key.clone(), kept)).collect()
    }
}

impl Store for MemoryStore {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { apply(&mut self.records(), batch) }.boxed()
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        async move {
            let kept = self.records().get(&key).cloned();
            Ok(kept.map(|kept| record(key, &kept)))
        }
        .boxed()
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        let Range { start, end } = range;
        let first = (Bound::Included(start), VecDeque::new());
        stream::unfold(first, move |(mut start, mut page)| {
            if page.is_empty() {
                page = self.page(start.as_ref(), &end);
                if let Some(last) = page.back() {
                    start = Bound::Excluded(last.key.clone());
                }
            }
            let next = page.pop_front().map(|record| (Ok(record), (start, page)));
            async { next }
        })
        .boxed()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("records", &self.records().len()).finish()
    }
}

fn record(key: Key, (version, value): &(Version, Document)) -> Record {
    Record { key, version: *version, value: value.clone() }
}

fn apply(records: &mut Records, batch: Batch) -> Result<(), StoreError> {
    let mut replaced = Vec::with_capacity(batch.writes.len());
    for write in batch.writes {
        let current = records.get(&write.key).map(|(version, _)| *version);
        let met = match write.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::At(version) => current == Some(version),
        };
        if !met {
            undo(records, replaced);
            return Err(StoreError::Conflict(write.key));
        }
        let before = match write.value {
            Some(value) => {
                let version = Version(current.map_or(1, |Version(number)| number + 1));
                records.insert(write.key.clone(), (version, value))
            }
            None => records.remove(&write.key),
        };
        replaced.push((write.key, before));
    }
    Ok(())
}

fn undo(records: &mut Records, replaced: Vec<(Key, Option<(Version, Document)>)>) {
    for (key, before) in replaced.into_iter().rev() {
        match before {
            Some(kept) => records.insert(key, kept),
            None => records.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::conformance;

    #[test]
    fn it_meets_the_contract() {
        block_on(conformance::store::run_all(&MemoryStore::new()));
    }

    #[test]
    fn it_agrees_with_a_naive_model_over_random_histories() {
        for seed in 0..1000 {
            block_on(conformance::store::agrees_with_a_model(&MemoryStore::new(), seed));
        }
    }

    #[test]
    fn clones_share_their_records() {
        let store = MemoryStore::new();
        let shared = store.clone();
        block_on(conformance::store::survives_reopening(async || shared.clone()));
        assert_ne!(store.records().len(), 0);
    }

    #[test]
    fn values_never_reach_debug_output() {
        let store = MemoryStore::new();
        let key = Key::new("secret", "a").unwrap();
        block_on(store.commit(Batch::new().put(key, Document::encode(&"hunter2")))).unwrap();
        assert_eq!(format!("{store:?}"), "MemoryStore { records: 1 }");
    }
}
