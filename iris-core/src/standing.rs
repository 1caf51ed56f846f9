//! Standing: how sure the network is of a node now.
//!
//! Points say what a node has done; standing says what to expect of it. It is made of evidence
//! for and against a node, which loses half of its weight every two weeks, and schedulers draw
//! from the distribution that follows from it: a node of which little is known is sometimes taken
//! for the best and sometimes for the worst, so it gets work as long as it is uncertain what it is
//! worth, and only then as much as it is worth (Thompson, "On the likelihood that one unknown
//! probability exceeds another", 1933).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::task::AttemptEnd;
use crate::time::Timestamp;

/// What one task that a node completes counts, in thousandths.
const ONE: u64 = 1000;
/// Good evidence, less than which proves nothing, in thousandths of a task.
const PROVEN_GOOD: u64 = 50 * ONE;
/// Expected success, less than which is not proven, in thousandths.
const PROVEN_MEAN: u16 = 900;
/// What an hour leaves of evidence that is halved in two weeks: 2^(-1/336), in units of 2^-32.
const HOUR_LEAVES: u64 = 4_286_116_177;
const HOUR: Duration = Duration::from_hours(1);

/// The evidence for and against a node, in thousandths of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What it did well.
    pub good: u64,
    /// What it did badly.
    pub bad: u64,
}

impl Standing {
    /// That of a node which was found lying: nothing it does makes it any better.
    pub const CONVICTED: Self = Self { good: 0, bad: 1 << 40 };

    /// Returns how many of a thousand tasks it is expected to complete; 500 where nothing is known.
    pub fn mean(self) -> u16 {
        let (good, bad) = self.parameters();
        u16::try_from(good * 1000 / (good + bad)).expect("a part is at most the whole")
    }

    /// Returns whether it did enough, and well enough, to be relied on: 50 tasks within the last
    /// weeks, nine of ten completed.
    pub fn is_proven(self) -> bool {
        self.good >= PROVEN_GOOD && self.mean() >= PROVEN_MEAN
    }

    /// Returns the distribution of how likely it completes a task.
    pub fn chance(self) -> Chance {
        let (good, bad) = self.parameters();
        let all = good + bad;
        let variance = (((good * bad) << 32) / all / all) * 1000 / (all + 1000);
        let small = |number: u128| u32::try_from(number).expect("chances are at most one");
        Chance { mean: small((good << 16) / all), spread: small(variance.isqrt()) }
    }

    /// The two parameters of the beta distribution, in thousandths.
    fn parameters(self) -> (u128, u128) {
        // Sixteen bits less than what a product of two and a shift have room for.
        let bounded = |evidence: u64| u128::from(evidence.min(1 << 40) + ONE);
        (bounded(self.good), bounded(self.bad))
    }

    /// Returns what is left of the evidence after so many hours.
    pub fn after(self, hours: u64) -> Self {
        let leaves = power(HOUR_LEAVES, hours);
        let left = |evidence: u64| {
            let left = (u128::from(evidence) * u128::from(leaves)) >> 32;
            u64::try_from(left).unwrap_or(u64::MAX)
        };
        Self { good: left(self.good), bad: left(self.bad) }
    }
}

/// Returns a power of a number that is below one, both in units of 2^-32.
fn power(mut base: u64, mut exponent: u64) -> u64 {
    let times = |a: u64, b: u64| {
        let product = (u128::from(a) * u128::from(b)) >> 32;
        u64::try_from(product).expect("both are at most 2^32")
    };
    let mut product = 1 << 32;
    while exponent > 0 && product > 0 {
        if exponent & 1 == 1 {
            product = times(product, base);
        }
        base = times(base, base);
        exponent >>= 1;
    }
    product
}

/// How likely a node completes a task, as far as that is known: the mean and the standard
/// deviation of a beta distribution, small enough for a cache line and free of floats, so that
/// all machines draw alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance {
    mean: u32,
    spread: u32,
}

impl Chance {
    /// One, in the units of [`draw`](Self::draw).
    pub const CERTAIN: u32 = 1 << 16;

    /// Draws from the distribution: 0 to [`CERTAIN`](Self::CERTAIN). The same seed gives the same
    /// number, and seeds must be well mixed.
    ///
    /// The sum of four numbers is close to a normal distribution, and that to a beta distribution
    /// of the same mean and spread; what lies beyond its ends counts as the end.
    pub fn draw(self, seed: u64) -> u32 {
        /// The standard deviation of a sum of four numbers of 16 bits.
        const DEVIATION: i64 = 37_837;
        let sum: i64 = (0..4).map(|part| (seed >> (16 * part) & 0xffff).cast_signed()).sum();
        let off = i64::from(self.spread) * (sum - 2 * 65_535) / DEVIATION;
        let drawn = (i64::from(self.mean) + off).clamp(0, i64::from(Self::CERTAIN));
        u32::try_from(drawn).expect("it was clamped")
    }
}

impl Default for Chance {
    fn default() -> Self {
        Standing::default().chance()
    }
}

/// What each end of an attempt says about a node, in thousandths of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingPolicy {
    /// For a complete answer. Default: 1000.
    pub done: u64,
    /// Against a node that refused what it could have known it cannot do. Default: 200.
    pub refused: u64,
    /// Against one that neither accepted nor refused, fell silent after it had accepted, failed
    /// or was lost with the task. Default: 1000.
    pub failed: u64,
    /// Against one that answered what is no answer. Default: 5000.
    pub invalid: u64,
}

impl Default for StandingPolicy {
    fn default() -> Self {
        Self { done: ONE, refused: 200, failed: ONE, invalid: 5 * ONE }
    }
}

impl StandingPolicy {
    /// Returns the evidence that an attempt leaves.
    pub const fn evidence(&self, end: AttemptEnd) -> Standing {
        let (good, bad) = match end {
            AttemptEnd::Done => (self.done, 0),
            AttemptEnd::Refused => (0, self.refused),
            AttemptEnd::Unanswered
            | AttemptEnd::Stalled
            | AttemptEnd::Lost
            | AttemptEnd::Failed => (0, self.failed),
            AttemptEnd::Invalid => (0, self.invalid),
            AttemptEnd::Unreached
            | AttemptEnd::CallersFault
            | AttemptEnd::Stopped
            | AttemptEnd::Outrun => (0, 0),
        };
        Standing { good, bad }
    }
}

/// The standings of all nodes of which something is known.
///
/// The same attempts give the same standings, whenever they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standings {
    policy: StandingPolicy,
    records: BTreeMap<NodeId, Record>,
    convicted: BTreeSet<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    standing: Standing,
    /// The start of the hour up to which its evidence has faded.
    faded_to: Timestamp,
}

impl Record {
    fn hours(&self, now: Timestamp) -> u64 {
        now.saturating_since(self.faded_to).as_secs() / HOUR.as_secs()
    }

    fn at(&self, now: Timestamp) -> Standing {
        self.standing.after(self.hours(now))
    }
}

impl Standings {
    /// Makes an empty list that weighs attempts by `policy`.
    pub const fn new(policy: StandingPolicy) -> Self {
        Self { policy, records: BTreeMap::new(), convicted: BTreeSet::new() }
    }

    /// Returns how attempts are weighed.
    pub const fn policy(&self) -> StandingPolicy {
        self.policy
    }

    /// Takes in how an attempt ended; returns the node's standing if that changed it.
    ///
    /// What a node does for its own owner says nothing: leave it out.
    pub fn note(&mut self, node: NodeId, end: AttemptEnd, at: Timestamp) -> Option<Standing> {
        let evidence = self.policy.evidence(end);
        if evidence == Standing::default() {
            return None;
        }
        let new = Record { standing: Standing::default(), faded_to: at };
        let record = self.records.entry(node).or_insert(new);
        let hours = record.hours(at);
        let Standing { good, bad } = record.standing.after(hours);
        let faded = HOUR.saturating_mul(u32::try_from(hours).unwrap_or(u32::MAX));
        record.faded_to = record.faded_to.saturating_add(faded);
        record.standing = Standing {
            good: good.saturating_add(evidence.good),
            bad: bad.saturating_add(evidence.bad),
        };
        let standing = record.standing;
        Some(if self.convicted.contains(&node) { Standing::CONVICTED } else { standing })
    }

    /// Returns the standing of `node`.
    pub fn of(&self, node: &NodeId, now: Timestamp) -> Standing {
        if self.convicted.contains(node) {
            return Standing::CONVICTED;
        }
        self.records.get(node).map(|record| record.at(now)).unwrap_or_default()
    }

    /// Records that `node` was found lying, until it is [absolved](Self::absolve).
    pub fn convict(&mut self, node: NodeId) {
        self.convicted.insert(node);
    }

    /// Returns whether `node` was found lying.
    pub fn is_convicted(&self, node: &NodeId) -> bool {
        self.convicted.contains(node)
    }

    /// Gives `node` back the standing that it has by its work.
    pub fn absolve(&mut self, node: &NodeId) {
        self.convicted.remove(node);
    }

    /// Drops what has faded away.
    pub fn forget_faded(&mut self, now: Timestamp) {
        self.records.retain(|_, record| record.at(now) != Standing::default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> NodeId {
        "abcdefghijklmnopqrstuvwxyz".parse().unwrap()
    }

    fn hour(number: u64) -> Timestamp {
        Timestamp::from_millis(number * 3_600_000)
    }

    fn after(ends: &[AttemptEnd]) -> Standing {
        let mut standings = Standings::default();
        for &end in ends {
            standings.note(node(), end, hour(0));
        }
        standings.of(&node(), hour(0))
    }

    fn mix(seed: u64) -> u64 {
        let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn every_end_says_what_it_should() {
        use AttemptEnd::{
            CallersFault, Done, Failed, Invalid, Lost, Refused, Stalled, Stopped, Unanswered,
            Unreached,
        };
        assert_eq!(after(&[]).mean(), 500);
        assert_eq!(after(&[Done]).mean(), 666);
        for nothing in [CallersFault, Stopped, Unreached] {
            assert_eq!(after(&[nothing]), Standing::default());
        }
        assert_eq!(after(&[Refused]).mean(), 454, "a refusal costs a little, and at once");
        for bad in [Unanswered, Stalled, Lost, Failed] {
            assert_eq!(after(&[bad]).mean(), 333, "{bad:?}");
        }
        assert_eq!(after(&[Invalid]).mean(), 142);
    }

    #[test]
    fn fifty_good_tasks_prove_a_node_and_one_lie_does_not_leave_it_so() {
        assert!(!after(&[AttemptEnd::Done; 49]).is_proven());
        assert!(after(&[AttemptEnd::Done; 50]).is_proven());
        let mut ends = vec![AttemptEnd::Done; 50];
        ends.push(AttemptEnd::Invalid);
        assert!(!after(&ends).is_proven());
    }

    #[test]
    fn convicted_node_is_not_trusted_whatever_it_does_until_it_is_absolved() {
        let mut standings = Standings::default();
        let work = |standings: &mut Standings| {
            let noted = (0..100).map(|_| standings.note(node(), AttemptEnd::Done, hour(0)));
            noted.fold(None, |_, latest| latest)
        };
        work(&mut standings);
        standings.convict(node());
        assert_eq!(standings.of(&node(), hour(0)).mean(), 0);
        assert_eq!(work(&mut standings), Some(Standing::CONVICTED));
        assert!(!standings.of(&node(), hour(9000)).is_proven());
        standings.absolve(&node());
        assert_eq!(standings.of(&node(), hour(0)).good, 200_000);
    }

    #[test]
    fn half_of_the_evidence_is_gone_after_two_weeks() {
        let mut standings = Standings::default();
        for _ in 0..100 {
            standings.note(node(), AttemptEnd::Done, hour(0));
        }
        let good = |weeks: u64| standings.of(&node(), hour(weeks * 7 * 24)).good;
        assert_eq!((good(0), good(1)), (100_000, 70_710));
        assert!((49_999..=50_000).contains(&good(2)), "{}", good(2));
        assert!((24_999..=25_000).contains(&good(4)), "{}", good(4));
        assert_eq!(good(100), 0);
        standings.forget_faded(hour(4 * 7 * 24));
        assert_eq!(standings.records.len(), 1);
        standings.forget_faded(hour(u64::from(u32::MAX)));
        assert!(standings.records.is_empty());
    }

    #[test]
    fn clock_that_is_set_back_fades_nothing_and_breaks_nothing() {
        let mut standings = Standings::default();
        standings.note(node(), AttemptEnd::Done, hour(1000));
        standings.note(node(), AttemptEnd::Done, hour(0));
        assert_eq!(standings.of(&node(), hour(0)).good, 2000);
        assert_eq!(standings.of(&node(), hour(1000)).good, 2000);
        standings.note(node(), AttemptEnd::Done, Timestamp::from_millis(u64::MAX));
    }

    /// Compares the mean and the spread of many draws with those of the beta distribution.
    #[test]
    fn draws_have_the_mean_and_the_spread_of_their_distribution() {
        for (good, bad) in [(0_u32, 0_u32), (3, 1), (10, 10), (100, 0), (100, 5), (5000, 50)] {
            let standing = Standing { good: u64::from(good) * ONE, bad: u64::from(bad) * ONE };
            let chance = standing.chance();
            let draws: Vec<f64> = (0..40_000)
                .map(|seed| f64::from(chance.draw(mix(seed))) / f64::from(Chance::CERTAIN))
                .collect();
            let count = 40_000.0;
            let mean = draws.iter().sum::<f64>() / count;
            let spread = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / count;
            let (a, b) = (f64::from(good) + 1.0, f64::from(bad) + 1.0);
            let expected = a / (a + b);
            let variance = a * b / ((a + b).powi(2) * (a + b + 1.0));
            assert!((mean - expected).abs() < 0.01, "{good} {bad}: {mean} {expected}");
            let (spread, expected) = (spread.sqrt(), variance.sqrt());
            assert!((spread - expected).abs() < expected * 0.35, "{good} {bad}: {spread}");
        }
    }

    #[test]
    fn much_evidence_draws_within_one_percent() {
        let sure = Standing { good: 10_000 * ONE, bad: 0 }.chance();
        assert!((0..1000).all(|seed| sure.draw(mix(seed)) > Chance::CERTAIN / 100 * 99));
    }

    proptest! {
        #[test]
        fn any_evidence_has_a_chance(good: u64, bad: u64, seed: u64) {
            let standing = Standing { good, bad };
            prop_assert!(standing.mean() <= 1000);
            prop_assert!(standing.chance().draw(seed) <= Chance::CERTAIN);
        }

        #[test]
        fn reading_changes_nothing(reads in proptest::collection::vec(0_u64..2000, 0..20)) {
            let mut read = Standings::default();
            let mut unread = Standings::default();
            for standings in [&mut read, &mut unread] {
                standings.note(node(), AttemptEnd::Done, hour(0));
                standings.note(node(), AttemptEnd::Failed, hour(3));
            }
            for at in reads {
                read.of(&node(), hour(at));
            }
            prop_assert_eq!(read.of(&node(), hour(2000)), unread.of(&node(), hour(2000)));
        }
    }
}
