use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Points, PointsPolicy, ReputationEvent, ReputationLedger, WEEK};
use crate::id::NodeId;
use crate::store::Document;
use crate::time::Timestamp;

/// Keeps points in memory, by a table such as [`PointsPolicy::SEED`].
///
/// Decay follows the whole weeks since a node's first deed, so it does not matter how often or
/// when points are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLedger {
    policy: PointsPolicy,
    entries: BTreeMap<NodeId, Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    points: i64,
    /// The start of the week up to which decay has been applied.
    decayed_to: Timestamp,
}

impl MemoryLedger {
    /// Makes an empty ledger that counts by `policy`.
    pub const fn new(policy: PointsPolicy) -> Self {
        Self { policy, entries: BTreeMap::new() }
    }

    fn points_at(&self, entry: &Entry, now: Timestamp) -> i64 {
        self.policy.decayed(entry.points, now.saturating_since(entry.decayed_to))
    }
}

impl ReputationLedger for MemoryLedger {
    fn apply(&mut self, event: &ReputationEvent) {
        let policy = self.policy;
        let entry = self
            .entries
            .entry(event.node)
            .or_insert(Entry { points: policy.start, decayed_to: event.at });
        let elapsed = event.at.saturating_since(entry.decayed_to);
        let points = policy.decayed(entry.points, elapsed);
        let weeks = u32::try_from(elapsed.as_secs() / WEEK.as_secs()).unwrap_or(u32::MAX);
        entry.decayed_to = entry.decayed_to.saturating_add(WEEK.saturating_mul(weeks));
        entry.points = points.saturating_add(policy.worth(event.deed)).max(policy.floor);
    }

    fn points(&self, node: &NodeId, now: Timestamp) -> Points {
        let points = self.entries.get(node).map_or(self.policy.start, |e| self.points_at(e, now));
        Points::new(points)
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.entries.keys().copied().collect()
    }

    fn weight(&self, node: &NodeId, now: Timestamp) -> u64 {
        let entry = self.entries.get(node);
        entry.map_or(0, |entry| u64::try_from(self.points_at(entry, now)).unwrap_or(0))
    }

    fn state(&self) -> Option<Document> {
        Some(Document::encode(self))
    }

    fn resumed(&self, state: Option<&Document>) -> Option<Box<dyn ReputationLedger>> {
        let Some(state) = state else { return Some(Box::new(Self::new(self.policy))) };
        let ledger = state.decode::<Self>().ok()?;
        (ledger.policy == self.policy).then(|| Box::new(ledger) as Box<dyn ReputationLedger>)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reputation::Deed;

    fn node() -> NodeId {
        "abcdefghijklmnopqrstuvwxyz".parse().unwrap()
    }

    fn week(number: u32) -> Timestamp {
        Timestamp::from_millis(0).saturating_add(WEEK * number)
    }

    fn after(deeds: &[Deed]) -> i64 {
        let mut ledger = MemoryLedger::default();
        for &deed in deeds {
            ledger.apply(&ReputationEvent { node: node(), deed, at: week(0) });
        }
        ledger.points(&node(), week(0)).value()
    }

    #[test]
    fn meets_the_contract_of_ledgers() {
        crate::conformance::reputation::run_all(MemoryLedger::default);
    }

    #[test]
    fn deeds_are_worth_what_the_seeds_say() {
        assert_eq!(after(&[]), 100);
        assert_eq!(after(&[Deed::Completed]), 110);
        assert_eq!(after(&[Deed::Completed, Deed::Fast]), 115);
        assert_eq!(after(&[Deed::Timeout]), 80);
        assert_eq!(after(&[Deed::Invalid]), 50);
        assert_eq!(after(&[Deed::Uptime]), 101);
        assert_eq!(after(&[Deed::BrokenPromise]), 95);
        assert_eq!(after(&[Deed::Invalid; 3]), 10, "nothing falls below the floor");
    }

    #[test]
    fn one_percent_goes_with_each_whole_week() {
        let mut ledger = MemoryLedger::default();
        ledger.apply(&ReputationEvent { node: node(), deed: Deed::Uptime, at: week(0) });
        let almost = Timestamp::from_millis(week(1).as_millis() - 1);
        assert_eq!(ledger.points(&node(), almost).value(), 101);
        assert_eq!(ledger.points(&node(), week(1)).value(), 99);
        assert_eq!(ledger.points(&node(), week(2)).value(), 98);
        assert_eq!(ledger.points(&node(), week(100_000)).value(), 10);
    }

    #[test]
    fn state_of_another_table_is_not_gone_on_from() {
        let state = MemoryLedger::default().state().unwrap();
        let other = PointsPolicy { completed: 11, ..PointsPolicy::SEED };
        assert!(MemoryLedger::new(other).resumed(Some(&state)).is_none());
        let broken = Document::from_text("{".to_owned());
        assert!(MemoryLedger::default().resumed(Some(&broken)).is_none());
    }

    #[test]
    fn idle_identities_weigh_nothing() {
        assert_eq!(MemoryLedger::default().weight(&node(), week(5)), 0);
    }

    proptest! {
        #[test]
        fn decay_does_not_depend_on_when_points_are_read(
            reads in proptest::collection::vec(0_u64..100, 0..20),
        ) {
            let event = |at| ReputationEvent { node: node(), deed: Deed::Completed, at };
            let (mut read, mut unread) = (MemoryLedger::default(), MemoryLedger::default());
            for ledger in [&mut read, &mut unread] {
                ledger.apply(&event(week(0)));
            }
            for day in reads {
                let at = Timestamp::from_millis(day * 86_400_000);
                read.points(&node(), at);
            }
            for ledger in [&mut read, &mut unread] {
                ledger.apply(&event(week(15)));
            }
            prop_assert_eq!(read.points(&node(), week(16)), unread.points(&node(), week(16)));
        }
    }
}
