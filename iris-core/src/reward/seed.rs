//! Pay by points, as the earlier systems had it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{RewardEvent, RewardRules, Weight};
use crate::epoch::Epoch;
use crate::id::{AccountId, NodeId};
use crate::reputation::{MemoryLedger, PointsPolicy, ReputationLedger};
use crate::store::Document;

/// Pays each node in proportion to its points at the end of the month.
///
/// It pays for being there as much as for working, and for each identity anew: 500 new identities
/// that were thanked once take as much as 50 honest nodes of 1,000 points. Use it among friends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedRules {
    ledger: MemoryLedger,
    owners: BTreeMap<NodeId, AccountId>,
    epoch: Epoch,
}

impl SeedRules {
    /// The rules' name.
    pub const NAME: &str = "seed";

    /// Makes rules that count by `policy`.
    pub const fn new(policy: PointsPolicy) -> Self {
        let ledger = MemoryLedger::new(policy);
        Self { ledger, owners: BTreeMap::new(), epoch: Epoch::FIRST }
    }
}

impl RewardRules for SeedRules {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn begin(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    fn apply(&mut self, event: &RewardEvent) {
        if let Some(deed) = event.deed() {
            self.owners.insert(event.node, event.owner);
            self.ledger.apply(&deed);
        }
    }

    fn weights(&self) -> BTreeMap<AccountId, Weight> {
        let mut weights: BTreeMap<AccountId, Weight> = BTreeMap::new();
        for (node, owner) in &self.owners {
            let points = self.ledger.weight(node, self.epoch.end());
            let weight = weights.entry(*owner).or_default();
            weight.weight = weight.weight.saturating_add(points);
            *weight.parts.entry("points".to_owned()).or_default() = weight.weight;
            *weight.parts.entry("nodes".to_owned()).or_default() += 1;
        }
        weights
    }

    fn state(&self) -> Document {
        Document::encode(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reputation::Deed;
    use crate::reward::What;
    use crate::time::Timestamp;

    fn node(number: u8) -> NodeId {
        char::from(b'a' + number).to_string().repeat(26).parse().unwrap()
    }

    fn event(number: u8, owner: u8, what: What) -> RewardEvent {
        let at = Timestamp::from_millis(u64::from(number));
        RewardEvent { at, node: node(number), owner: AccountId::from_bytes([owner; 16]), what }
    }

    fn weights(events: &[RewardEvent]) -> Vec<u64> {
        let mut rules = SeedRules::default();
        rules.begin(Epoch::FIRST);
        for event in events {
            rules.apply(event);
        }
        rules.weights().into_values().map(|weight| weight.weight).collect()
    }

    #[test]
    fn nodes_of_one_owner_add_up_and_lies_cost() {
        // 110, 60 and 95 points, after four weeks of the month.
        let done = || What::Deed { deed: Deed::Completed };
        let work = What::Work {
            requester: AccountId::from_bytes([9; 16]),
            model: "m".parse().unwrap(),
            units: 100,
        };
        assert_eq!(weights(&[event(0, 1, done()), event(1, 1, done()), event(2, 2, work)]), [204]);
        assert_eq!(weights(&[event(0, 1, done()), event(0, 1, What::Convicted)]), [56]);
        let broken = What::Promised { kept: false };
        assert_eq!(weights(&[event(0, 1, broken)]), [91]);
    }
}
