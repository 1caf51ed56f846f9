//! What a person should look at: told in the log, and kept for operators for a while.

use std::collections::VecDeque;
use std::time::Duration;

use iris_core::verify::{Answer, Flag, Flags};
use iris_core::{AccountId, NodeId, Timestamp};

use crate::dispatch::Pace;

/// How many are kept.
const KEPT: usize = 256;
/// How long the same of the same node is not told again.
const SILENCE: Duration = Duration::from_hours(24);

/// Something odd about a node; never the reason for a penalty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// The node.
    pub node: NodeId,
    /// What is odd.
    pub flag: Flag,
    /// When it was seen.
    pub at: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Signs {
    flags: Flags,
    latest: VecDeque<Sign>,
}

impl Signs {
    pub(super) fn see_new_node(&mut self, node: NodeId, owner: AccountId, now: Timestamp) {
        let flag = self.flags.handle_new_node(node, owner, now);
        self.note(node, flag, now);
    }

    pub(super) fn see_answer(
        &mut self,
        node: NodeId,
        owner: AccountId,
        prompt: &str,
        text: &str,
        now: Timestamp,
    ) {
        let flag = self.flags.handle_answer(Answer { owner, prompt, text });
        self.note(node, flag, now);
    }

    /// Notes that a node leaves its tests unanswered.
    pub(super) fn see_silence(&mut self, node: NodeId, now: Timestamp) {
        self.note(node, Some(Flag::Unanswered), now);
    }

    /// Looks at the speed of an answer of a model whose weights take `bytes`.
    pub(super) fn see_speed(&mut self, node: NodeId, pace: Pace, bytes: u64, now: Timestamp) {
        let Pace { tokens, within } = pace;
        self.note(node, Flags::speed(tokens, within, bytes), now);
    }

    /// Returns what was seen of late, the latest last.
    pub(super) fn latest(&self) -> Vec<Sign> {
        self.latest.iter().copied().collect()
    }

    fn note(&mut self, node: NodeId, flag: Option<Flag>, at: Timestamp) {
        let Some(flag) = flag else { return };
        let is_same = |sign: &&Sign| {
            let kind = std::mem::discriminant(&sign.flag) == std::mem::discriminant(&flag);
            sign.node == node && kind && at.saturating_since(sign.at) < SILENCE
        };
        if self.latest.iter().any(|sign| is_same(&sign)) {
            return;
        }
        tracing::warn!(%node, ?flag, "something is odd about a node; it proves nothing");
        self.latest.push_back(Sign { node, flag, at });
        if self.latest.len() > KEPT {
            self.latest.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_a_day_and_little_is_kept() {
        let mut signs = Signs::default();
        let node = |number: usize| {
            let digits = format!("{number:026}").replace(['0', '1', '8', '9'], "a");
            digits.parse::<NodeId>().unwrap()
        };
        let (pace, bytes) = (Pace { tokens: 1000, within: Duration::from_millis(1) }, 1 << 40);
        let hour = |hour: u32| Timestamp::from_millis(0).saturating_add(SILENCE / 24 * hour);
        for at in 0..48 {
            signs.see_speed(node(2), pace, bytes, hour(at));
        }
        assert_eq!(signs.latest().len(), 2);
        let slow = Pace { tokens: 10, ..pace };
        signs.see_speed(node(3), slow, bytes, hour(50));
        assert_eq!(signs.latest().len(), 2);
        for number in 0..10_000 {
            signs.see_speed(node(number), pace, bytes, hour(50));
        }
        assert_eq!(signs.latest().len(), KEPT);
    }
}
