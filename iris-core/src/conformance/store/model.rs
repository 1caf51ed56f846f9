//! Random histories, compared with the plainest store there can be.

use std::collections::BTreeMap;

use super::{document, key, scan};
use crate::store::{Batch, Expect, Key, Record, Store, StoreError, Version, Write};

/// A random history of batches ends each commit, and all records, as a naive model has it.
///
/// The same `seed` makes the same history, on a record type of its own.
pub async fn agrees_with_a_model(store: &dyn Store, seed: u64) {
    let kind = format!("conformance-model-{seed}");
    let mut random = Random(seed);
    let mut model = BTreeMap::new();
    for step in 0..40 {
        let batch = random.batch(&kind, step);
        let expected = apply_to_model(&mut model, &batch);
        let outcome = store.commit(batch.clone()).await;
        assert_eq!(outcome, expected, "seed {seed}, step {step}: {batch:?}");
        let kept: Vec<_> = model.values().cloned().collect();
        assert_eq!(scan(store, Key::all(&kind)).await, kept, "seed {seed} after step {step}");
    }
}

/// Draws the same history from the same seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn batch(&mut self, kind: &str, step: u64) -> Batch {
        let writes = (0..=self.below(4)).map(|_| Write {
            key: key(kind, self.below(5)),
            // Mostly `Any`, so that histories get somewhere before a batch is refused.
            expect: match self.below(8) {
                0 => Expect::Absent,
                1 | 2 => Expect::At(Version(1 + self.below(3))),
                _ => Expect::Any,
            },
            value: (self.below(4) > 0).then(|| document(step)),
        });
        Batch { writes: writes.collect() }
    }
}

fn apply_to_model(model: &mut BTreeMap<Key, Record>, batch: &Batch) -> Result<(), StoreError> {
    let mut next = model.clone();
    for Write { key, expect, value } in &batch.writes {
        let version = next.get(key).map(|record| record.version);
        match (expect, version) {
            (Expect::Absent, Some(_)) => return Err(StoreError::Conflict(key.clone())),
            (Expect::At(at), version) if version != Some(*at) => {
                return Err(StoreError::Conflict(key.clone()));
            }
            _ => next.remove(key),
        };
        if let Some(value) = value.clone() {
            let version = Version(version.map_or(1, |version| version.0 + 1));
            next.insert(key.clone(), Record { key: key.clone(), version, value });
        }
    }
    *model = next;
    Ok(())
}
