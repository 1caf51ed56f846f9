use std::collections::BTreeMap;
use std::time::Duration;

use iris_core::model::ModelOffer;
use iris_core::store::{Batch, Document, Key};
use iris_core::{ModelName, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Dispatch, Floor};

/// The record type of models that nodes offered.
pub(crate) const MODEL: &str = "model";

/// A model counts as unknown when no node has offered it for this long.
const FORGET_AFTER: Duration = Duration::from_hours(30 * 24);
/// How far what is written of a model may lag behind.
const WRITE_AFTER: Duration = Duration::from_hours(1);
/// How many models are remembered; nodes may make names up.
const REMEMBERED: usize = 10_000;

/// A model on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSummary {
    /// Its name.
    pub name: ModelName,
    /// When a node first offered it.
    pub first_offered: Timestamp,
}

/// When nodes offered which model, so that one that is away is told from one that never was.
#[derive(Debug, Default)]
pub(crate) struct KnownModels {
    seen: BTreeMap<ModelName, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Timestamp,
    last: Timestamp,
    written: Timestamp,
}

/// What is written down of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ModelRecord {
    pub(crate) name: ModelName,
    first: Timestamp,
    last: Timestamp,
}

impl KnownModels {
    /// Returns the key of a model's record. Names hold characters that keys do not, so the key
    /// holds their hash.
    pub(crate) fn key(name: &ModelName) -> Key {
        let hash = Sha256::digest(name.as_str().as_bytes());
        let id = data_encoding::HEXLOWER.encode(&hash);
        Key::new(MODEL, id).expect("hexadecimal digits are a key segment")
    }

    /// Takes in what was written down.
    pub(super) fn restore(&mut self, records: impl IntoIterator<Item = ModelRecord>) {
        self.seen.extend(
            records.into_iter().map(|ModelRecord { name, first, last }| {
                (name, Seen { first, last, written: last })
            }),
        );
    }

    /// Takes in what a node offers; returns what has to be written down at once.
    pub(super) fn see(&mut self, models: &[ModelOffer], now: Timestamp) -> Vec<ModelRecord> {
        let mut news = Vec::new();
        for ModelOffer { name, .. } in models {
            if let Some(seen) = self.seen.get_mut(name) {
                seen.last = seen.last.max(now);
            } else if self.seen.len() < REMEMBERED {
                self.seen.insert(name.clone(), Seen { first: now, last: now, written: now });
                news.push(ModelRecord { name: name.clone(), first: now, last: now });
            }
        }
        news
    }

    /// Takes in what is still offered.
    pub(super) fn still_offered<'a>(
        &mut self,
        names: impl Iterator<Item = &'a ModelName>,
        now: Timestamp,
    ) {
        for name in names {
            if let Some(seen) = self.seen.get_mut(name) {
                seen.last = seen.last.max(now);
            }
        }
    }

    /// Returns what has to be written down: what lags too far behind, or `whatever` does.
    pub(super) fn due(&mut self, now: Timestamp, whatever: bool) -> Vec<ModelRecord> {
        let lags = |seen: &Seen| {
            let lag = seen.last.saturating_since(seen.written);
            lag >= WRITE_AFTER || whatever && !lag.is_zero()
        };
        let due = self.seen.iter_mut().filter(|(_, seen)| lags(seen));
        due.map(|(name, seen)| {
            seen.written = now;
            ModelRecord { name: name.clone(), first: seen.first, last: seen.last }
        })
        .collect()
    }

    /// Drops and returns the models that nobody has offered for too long.
    pub(super) fn forget(&mut self, now: Timestamp) -> Vec<ModelName> {
        let old = |seen: &Seen| now.saturating_since(seen.last) >= FORGET_AFTER;
        self.seen.extract_if(.., |_, seen| old(seen)).map(|(name, _)| name).collect()
    }

    /// Returns whether some node has offered `name` within the last 30 days.
    pub(super) fn knows(&self, name: &ModelName, now: Timestamp) -> bool {
        let seen = self.seen.get(name);
        seen.is_some_and(|seen| now.saturating_since(seen.last) < FORGET_AFTER)
    }

    /// Returns whether some model that is remembered is one that is `meant`.
    pub(super) fn any(&self, meant: impl Fn(&ModelName) -> bool) -> bool {
        self.seen.keys().any(meant)
    }

    /// Returns up to `most` models that are known and not `offered`, in the order of their names:
    /// those that have been known for longest, since nodes may make names up.
    pub(super) fn away(
        &self,
        offered: impl Fn(&ModelName) -> bool,
        most: usize,
        now: Timestamp,
    ) -> Vec<ModelName> {
        let away = self.seen.iter().filter(|(name, _)| self.knows(name, now) && !offered(name));
        let mut away: Vec<_> = away.map(|(name, seen)| (seen.first, name)).collect();
        away.sort_unstable();
        away.truncate(most);
        away.sort_unstable_by_key(|(_, name)| *name);
        away.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// Returns when some node first offered `name`.
    pub(super) fn first(&self, name: &ModelName) -> Option<Timestamp> {
        self.seen.get(name).map(|seen| seen.first)
    }
}

impl Dispatch {
    /// Returns the models that some node offers now.
    pub(crate) fn models(&self) -> Vec<ModelSummary> {
        let floor = self.floor();
        let first =
            |name: &ModelName| floor.models.first(name).unwrap_or(Timestamp::from_millis(0));
        let summary =
            |name: &ModelName| ModelSummary { name: name.clone(), first_offered: first(name) };
        floor.registry.models().map(summary).collect()
    }

    /// Restores when models were offered, from what was written down.
    pub(crate) fn restore_models(&self, records: impl IntoIterator<Item = ModelRecord>) {
        self.floor().models.restore(records);
    }

    /// Writes down which models were offered of late, and forgets those that were not for long.
    pub(crate) fn keep_models(&self, at_once: bool) {
        let calendar = self.clock.calendar();
        let mut floor = self.floor();
        let Floor { registry, models, .. } = &mut *floor;
        models.still_offered(registry.models(), calendar);
        let due = models.due(calendar, at_once);
        let forgotten = models.forget(calendar);
        drop(floor);
        self.record_models(&due);
        let batch = forgotten.iter().map(KnownModels::key).fold(Batch::new(), Batch::delete);
        if !batch.writes.is_empty() {
            self.record(batch);
        }
    }

    pub(super) fn record_models(&self, records: &[ModelRecord]) {
        let batch = records.iter().fold(Batch::new(), |batch, record| {
            batch.put(KnownModels::key(&record.name), Document::encode(record))
        });
        if !batch.writes.is_empty() {
            self.record(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(name: &str) -> ModelOffer {
        ModelOffer::new(name.parse().unwrap(), 4096)
    }

    fn day(number: u64) -> Timestamp {
        Timestamp::from_millis(number * 86_400_000)
    }

    #[test]
    fn model_is_known_for_thirty_days_after_it_was_offered() {
        let mut known = KnownModels::default();
        assert_eq!(known.see(&[offer("m")], day(0)).len(), 1);
        assert!(known.see(&[offer("m")], day(1)).is_empty(), "it is no news any more");
        let name = "m".parse().unwrap();
        assert!(known.knows(&name, day(30)));
        assert!(!known.knows(&name, day(31)));
        assert!(known.forget(day(30)).is_empty());
        assert_eq!(known.forget(day(31)), [name]);
    }

    #[test]
    fn models_that_went_away_are_named_and_the_oldest_ones_when_there_are_many() {
        let mut known = KnownModels::default();
        known.see(&[offer("z"), offer("here")], day(0));
        known.see(&[offer("b"), offer("a")], day(1));
        let away = |most, now| -> Vec<String> {
            let away = known.away(|name| name.as_str() == "here", most, now);
            away.iter().map(ToString::to_string).collect()
        };
        assert_eq!(away(9, day(2)), ["a", "b", "z"]);
        assert_eq!(away(2, day(2)), ["a", "z"]);
        assert_eq!(away(9, day(30)), ["a", "b"]);
        assert!(away(9, day(31)).is_empty());
    }

    #[test]
    fn only_what_lags_behind_is_written_again() {
        let mut known = KnownModels::default();
        known.see(&[offer("old"), offer("new")], day(0));
        known.see(&[offer("old")], day(1));
        let due: Vec<_> = known.due(day(1), false).into_iter().map(|record| record.name).collect();
        assert_eq!(due, ["old".parse().unwrap()]);
        assert!(known.due(day(1), true).is_empty());
    }

    #[test]
    fn names_that_nodes_make_up_are_remembered_up_to_a_bound() {
        let mut known = KnownModels::default();
        for number in 0..REMEMBERED + 10 {
            known.see(&[offer(&format!("m{number}"))], day(0));
        }
        assert_eq!(known.seen.len(), REMEMBERED);
    }
}
