//! Checks that come to nothing, and how long nobody tries again.

use std::collections::BTreeMap;
use std::time::Duration;

use iris_core::verify::AuditResult;
use iris_core::{ModelName, NodeId, Timestamp};

/// How long the first rest is; each further one is twice as long, up to 64 times.
const FIRST: Duration = Duration::from_mins(1);
const DOUBLED: u32 = 6;

/// What is not checked along with tasks for a while: a model whose answers cannot be scored would
/// otherwise be asked twice for everything that callers ask.
#[derive(Debug, Default)]
pub(super) struct Rests(BTreeMap<(NodeId, ModelName), Rest>);

#[derive(Clone, Copy, Debug)]
struct Rest {
    failures: u32,
    until: Timestamp,
}

impl Rests {
    /// Takes in what came of a check.
    pub(super) fn see(
        &mut self,
        node: NodeId,
        model: &ModelName,
        result: &AuditResult,
        now: Timestamp,
    ) {
        let place = (node, model.clone());
        if matches!(result, AuditResult::Scored(_) | AuditResult::Agreed) {
            self.0.remove(&place);
            return;
        }
        let failures = self.0.get(&place).map_or(0, |rest| rest.failures);
        let until = now.saturating_add(FIRST * 2_u32.pow(failures.min(DOUBLED)));
        self.0.insert(place, Rest { failures: failures.saturating_add(1), until });
    }

    pub(super) fn holds(&self, node: &NodeId, model: &ModelName, now: Timestamp) -> bool {
        self.0.get(&(*node, model.clone())).is_some_and(|rest| now < rest.until)
    }

    /// Forgets rests that have been over for as long as the longest one.
    pub(super) fn forget(&mut self, now: Timestamp) {
        let longest = FIRST * 2_u32.pow(DOUBLED);
        self.0.retain(|_, rest| now < rest.until.saturating_add(longest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_while_nothing_is_learnt_and_end_with_the_first_scores() {
        let (mut rests, node) = (Rests::default(), "a".repeat(26).parse().unwrap());
        let model = "m".parse().unwrap();
        let mut now = Timestamp::from_millis(0);
        let mut rested = Vec::new();
        for _ in 0..9 {
            rests.see(node, &model, &AuditResult::Unscored, now);
            let begun = now;
            while rests.holds(&node, &model, now) {
                now = now.saturating_add(FIRST);
            }
            rested.push(now.saturating_since(begun).as_secs() / 60);
        }
        assert_eq!(rested, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        rests.see(node, &model, &AuditResult::NoAnswer, now);
        rests.see(node, &model, &AuditResult::Scored(Vec::new()), now);
        assert!(!rests.holds(&node, &model, now));
        rests.see(node, &model, &AuditResult::NoAnswer, now);
        rests.forget(now.saturating_add(FIRST));
        assert_eq!(rests.0.len(), 1);
        rests.forget(now.saturating_add(FIRST * 66));
        assert!(rests.0.is_empty());
    }
}
