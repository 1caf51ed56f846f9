//! How often a node is looked at, and what a new one has to show.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sequential::{MILLION, Sequential};
use crate::reward::FRESH;

const DAY: Duration = Duration::from_hours(24);

/// What an [`Auditor`](super::Auditor) goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The test that raises a suspicion. Default: [`Sequential::default`].
    pub suspicion: Sequential,
    /// How long a new node works unpaid, at least. Default: 7 days.
    pub probation: Duration,
    /// How many canaries it has to answer as its model does meanwhile. Default: 50.
    pub canaries: u32,
    /// How many tasks of a million a node that has just shown itself is sent a canary with.
    /// Default: 50,000.
    pub watched_rate: u32,
    /// How long that lasts. Default: 30 days.
    pub watched: Duration,
    /// How many of a million after that. Default: 20,000. The fee that a node loses when it is
    /// found lying, measured in tasks, has to be above `1,000,000 / settled_rate`, or lying pays.
    pub settled_rate: u32,
    /// How long a node that works may go without a canary, whatever the rates come to; the shortest
    /// such time is half of it. Default: a day, so that the tests of a small node vouch for it as
    /// well as those of a large one.
    pub longest_gap: Duration,
    /// How many comparable answers in a row another node has to agree with before fewer than all
    /// are compared. Default: 10.
    pub replicated: u32,
    /// How many tokens an answer has to have to count as one of the canaries. Default: 16.
    pub least_tokens: u32,
    /// How many tests in a row a node may leave unanswered before that is told. Default: 10.
    pub unanswered: u32,
    /// How long a passed test vouches for work. Default: as long as the books
    /// [pay for work](crate::reward::EvidencePolicy::fresh_millis) after it, which is two weeks.
    pub fresh: Duration,
    /// How many answers the second test looks at, at most. Default: 20.
    pub confirming: u32,
    /// The longest time between two of them, if the node is there. Default: 40 minutes.
    pub confirming_gap: Duration,
    /// How often, in a million times, a second test may find an honest node lying. Default: 100.
    pub confirming_error: u32,
    /// What the errors of all second tests of a node may add up to within 365 days, in millionths.
    /// Default: 500, which is one honest node of two thousand in a year.
    pub yearly_error: u32,
    /// How long an audit may take before it counts as not answered. Default: an hour.
    pub patience: Duration,
    /// How long a verdict can be appealed against. Default: 7 days.
    pub appeal: Duration,
    /// How many nodes are kept in mind. For further ones those make room that are away and have
    /// shown least; where all are here, newcomers are not verified. Default: 100,000.
    pub most_nodes: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            suspicion: Sequential::default(),
            probation: 7 * DAY,
            canaries: 50,
            watched_rate: 50_000,
            watched: 30 * DAY,
            settled_rate: 20_000,
            longest_gap: DAY,
            replicated: 10,
            least_tokens: 16,
            unanswered: 10,
            fresh: FRESH,
            confirming: 20,
            confirming_gap: Duration::from_mins(40),
            confirming_error: 100,
            yearly_error: 500,
            patience: Duration::from_hours(1),
            appeal: 7 * DAY,
            most_nodes: 100_000,
        }
    }
}

impl Rules {
    /// Returns how many tasks of a million are sent with a canary at `stage`, beside those that
    /// are paced over time.
    pub const fn canary_rate(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Probation | Stage::Convicted => 0,
            Stage::Watched => self.watched_rate,
            Stage::Settled => self.settled_rate,
        }
    }

    /// Returns how many comparable tasks of a million are given to a second node too, after
    /// `valid` in a row on which it agreed or the reference sided with the node.
    pub const fn duplicate_rate(&self, valid: u32) -> u32 {
        if valid < self.replicated || valid == 0 {
            return MILLION;
        }
        let rate = MILLION / valid;
        if rate > self.settled_rate { rate } else { self.settled_rate }
    }

    /// Returns the longest time between two canaries of a new node, while it is there.
    pub(super) fn pace(&self) -> Duration {
        self.probation / self.canaries.max(1)
    }
}

/// How far a node has come with one of its models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// New, or not checked enough; its work is not paid.
    Probation,
    /// It has shown itself, and is still looked at often.
    Watched,
    /// Nothing was found for a month.
    Settled,
    /// It was found lying.
    Convicted,
}

impl Stage {
    /// Returns whether work counts for pay at this stage.
    pub const fn is_paid(self) -> bool {
        matches!(self, Self::Watched | Self::Settled)
    }
}

/// Why work with a model is not paid though its node has shown itself with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// The node has left [many tests in a row](Rules::unanswered) unanswered, and has passed none
    /// since.
    Unanswered,
    /// It has passed none [for long](Rules::fresh), perhaps since nobody is there to score them.
    Stale,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_become_rarer_with_each_valid_one_and_never_stop() {
        let rules = Rules::default();
        let rates = [0, 9, 10, 20, 50, 51, u32::MAX].map(|valid| rules.duplicate_rate(valid));
        assert_eq!(rates, [MILLION, MILLION, 100_000, 50_000, 20_000, 20_000, 20_000]);
        let always = Rules { replicated: 0, ..rules };
        assert_eq!(always.duplicate_rate(0), MILLION);
    }
}
