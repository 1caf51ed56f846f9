//! Pay by work that is proven to be honest.
//!
//! An owner's weight is `V × q × u`:
//!
//! - `V` is the work that its nodes did for others in the month. What a node did while it was on
//!   probation does not count, nor what was done for its own owner. Whoever asks moves only so much:
//!   no requester counts for more than a tenth of an owner's work (in a network of fewer than ten
//!   requesters, for more than its part), which is a ninth of what the others asked; nor with more
//!   than ten times what requesters usually ask. Work for a single friend counts nothing.
//! - `q` is how sure it is that its nodes run what they say: the 5 % quantile of
//!   Beta(1 + s, 1 + f), where s and f are tests passed and failed, of which half is forgotten every
//!   two weeks. A thousand good tests give 0.997, ten give 0.76, none gives 0.05: so an identity
//!   that is split earns less than one that is whole.
//! - `u` goes from 0.9 to 1.1, by how many hours of the month its nodes had promised to be there
//!   and were.
//!
//! A node is on probation with each of its models: until its first test with that one is seven days
//! ago and fifty were passed. Tests with one model say nothing of another. A node that was convicted
//! begins anew with all of them, and nothing that its owner's nodes do in that month counts, before
//! the verdict or after it: what is lost is lost with the identity, which is the owner's. So a new
//! identity earns nothing at first, and it never pays to leave a bad name behind.
//!
//! Who passed tests once has to go on passing them: work with a model is paid within two weeks of the
//! last test with it that was passed. That says nothing bad of a node that answers no test, perhaps
//! behind a bad line; it is not paid meanwhile, and one passed test ends that. Ten tests in a row that
//! it leaves unanswered end its pay sooner.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{RewardEvent, RewardRules, Weight, What, lower_quantile};
use crate::epoch::Epoch;
use crate::id::{AccountId, NodeId};
use crate::model::ModelName;
use crate::standing::Standing;
use crate::store::Document;
use crate::time::Timestamp;

const HOUR_MILLIS: u64 = 3_600_000;
/// How long a test that was passed vouches for work.
pub(crate) const FRESH: Duration = Duration::from_hours(14 * 24);

/// The numbers of [`EvidenceRules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidencePolicy {
    /// Tests with a model that a node passes before it is paid for work with it. Default: 50.
    pub probation_tests: u32,
    /// How long before that it passed the first of them, in milliseconds. Default: seven days.
    pub probation_millis: u64,
    /// How long work is paid after the last test that was passed, in milliseconds. Default: two weeks.
    pub fresh_millis: u64,
    /// Most that one requester counts for of an owner's work, in thousandths. Default: 100.
    pub requester_share: u32,
    /// Most that one requester counts for in all, in medians of what requesters ask. Default: 10.
    pub requester_medians: u32,
    /// Most that kept promises add, and broken ones take, in thousandths. Default: 100.
    pub promises: u32,
    /// Tests that a conviction counts as failed. Default: 10.
    pub conviction_tests: u32,
    /// Paid tasks that an owner has done before its first share is released. Default: 50.
    pub release_tasks: u64,
}

impl Default for EvidencePolicy {
    fn default() -> Self {
        Self {
            probation_tests: 50,
            probation_millis: 7 * 24 * HOUR_MILLIS,
            fresh_millis: FRESH.as_secs() * 1000,
            requester_share: 100,
            requester_medians: 10,
            promises: 100,
            conviction_tests: 10,
            release_tasks: 50,
        }
    }
}

/// Pays owners for work that others asked for, as far as tests vouch for their nodes. See the
/// module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRules {
    policy: EvidencePolicy,
    epoch: Epoch,
    owners: BTreeMap<AccountId, Owner>,
    nodes: BTreeMap<NodeId, BTreeMap<ModelName, Probation>>,
    /// The month's work, by owner and requester. Not part of what a month leaves behind.
    #[serde(skip)]
    work: BTreeMap<AccountId, BTreeMap<AccountId, u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    evidence: Standing,
    faded_to: Timestamp,
    /// Paid tasks of all times.
    tasks: u64,
    /// Hours of the month that were promised, and of those that were kept.
    #[serde(skip)]
    promised: u64,
    #[serde(skip)]
    kept: u64,
    /// Whether one of its nodes was convicted in the month.
    #[serde(skip)]
    convicted: bool,
}

/// How far a node has come with one of its models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Probation {
    /// When it was first tested.
    since: Timestamp,
    passed: u32,
    /// When it last passed a test, unless it has left many unanswered since.
    latest: Option<Timestamp>,
}

impl Owner {
    fn new(at: Timestamp) -> Self {
        let evidence = Standing::default();
        Self { evidence, faded_to: at, tasks: 0, promised: 0, kept: 0, convicted: false }
    }

    fn evidence_at(&self, now: Timestamp) -> Standing {
        self.evidence.after(now.saturating_since(self.faded_to).as_secs() / 3600)
    }

    fn note(&mut self, good: u64, bad: u64, at: Timestamp) {
        let Standing { good: old_good, bad: old_bad } = self.evidence_at(at);
        let hours = at.saturating_since(self.faded_to).as_secs() / 3600;
        self.faded_to = self.faded_to.saturating_add(Duration::from_hours(hours));
        self.evidence =
            Standing { good: old_good.saturating_add(good), bad: old_bad.saturating_add(bad) };
    }

    /// What promises make of the weight, in thousandths.
    fn promises(&self, most: u32, hours: u64) -> u64 {
        let most = u64::from(most.min(1000));
        let kept = most * self.kept.min(hours) / hours.max(1);
        let broken = most * (self.promised - self.kept) / self.promised.max(1);
        1000 + kept - broken
    }
}

impl EvidenceRules {
    /// The rules' name.
    pub const NAME: &str = "evidence";

    /// Makes rules that count by `policy`.
    pub fn new(policy: EvidencePolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Returns whether a node's work with a model is paid at a moment: it is off probation, and has
    /// passed a test of late.
    pub fn is_paid(&self, node: &NodeId, model: &ModelName, at: Timestamp) -> bool {
        self.nodes.get(node).and_then(|models| models.get(model)).is_some_and(|known| {
            let since = |then: Timestamp| at.as_millis().saturating_sub(then.as_millis());
            let is_old = since(known.since) >= self.policy.probation_millis;
            let is_fresh = known.latest.is_some_and(|then| since(then) < self.policy.fresh_millis);
            known.passed >= self.policy.probation_tests && is_old && is_fresh
        })
    }

    fn owner(&mut self, event: &RewardEvent) -> &mut Owner {
        self.owners.entry(event.owner).or_insert_with(|| Owner::new(event.at))
    }

    fn check(&mut self, event: &RewardEvent, model: &ModelName, passed: bool, weight: u32) {
        let weight = u64::from(weight);
        let (good, bad) = if passed { (weight, 0) } else { (0, weight) };
        self.owner(event).note(good, bad, event.at);
        let models = self.nodes.entry(event.node).or_default();
        let new = Probation { since: event.at, passed: 0, latest: None };
        let known = models.entry(model.clone()).or_insert(new);
        if passed {
            known.passed = known.passed.saturating_add(1);
            known.latest = Some(event.at);
        }
    }

    /// Ends the pay for work with a model until a test with it is passed.
    fn doubt(&mut self, event: &RewardEvent, model: &ModelName) {
        let models = self.nodes.get_mut(&event.node);
        if let Some(known) = models.and_then(|models| models.get_mut(model)) {
            known.latest = None;
        }
    }

    fn work(&mut self, event: &RewardEvent, requester: AccountId, model: &ModelName, units: u64) {
        let is_own = requester == event.owner;
        if is_own || units == 0 || !self.is_paid(&event.node, model, event.at) {
            return;
        }
        let owner = self.owner(event);
        if owner.convicted {
            return;
        }
        owner.tasks = owner.tasks.saturating_add(1);
        let done = self.work.entry(event.owner).or_default().entry(requester).or_default();
        *done = done.saturating_add(units);
    }

    fn convict(&mut self, event: &RewardEvent) {
        let failed = u64::from(self.policy.conviction_tests) * 1000;
        self.nodes.remove(&event.node);
        let owner = self.owner(event);
        owner.note(0, failed, event.at);
        owner.convicted = true;
        self.work.remove(&event.owner);
    }

    /// Returns how much of what each requester asked counts, at most: its own cap.
    fn caps(&self) -> BTreeMap<AccountId, (u64, u64)> {
        let mut asked: BTreeMap<AccountId, u64> = BTreeMap::new();
        for (requester, units) in self.work.values().flatten() {
            let all = asked.entry(*requester).or_default();
            *all = all.saturating_add(*units);
        }
        let mut sizes: Vec<u64> = asked.values().copied().collect();
        sizes.sort_unstable();
        let median = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
        let most = median.saturating_mul(u64::from(self.policy.requester_medians.max(1)));
        asked.into_iter().map(|(requester, all)| (requester, (all, all.min(most)))).collect()
    }

    /// Returns the work of an owner that counts.
    fn counted(
        &self,
        owner: &AccountId,
        work: &BTreeMap<AccountId, u64>,
        caps: &BTreeMap<AccountId, (u64, u64)>,
    ) -> u64 {
        let capped = |(requester, units): (&AccountId, &u64)| {
            let (asked, most) = caps.get(requester).copied().unwrap_or((0, 0));
            part(*units, most, asked)
        };
        let parts: Vec<u64> = work.iter().map(capped).collect();
        let all: u64 = parts.iter().fold(0, |sum, part| sum.saturating_add(*part));
        let others = caps.keys().filter(|requester| *requester != owner).count();
        let share = u64::from(self.policy.requester_share.min(1000));
        let share = share.max(1000 / u64::try_from(others.max(1)).unwrap_or(u64::MAX));
        // Of what the others asked, lest a requester's own work makes room for more of it.
        let count = |units: u64| match 1000_u64.checked_sub(share) {
            None | Some(0) => units,
            Some(rest) => units.min(part(all - units, share, rest)),
        };
        parts.into_iter().fold(0, |sum: u64, part| sum.saturating_add(count(part)))
    }
}

/// Returns `units × above / below`.
fn part(units: u64, above: u64, below: u64) -> u64 {
    let part = u128::from(units) * u128::from(above) / u128::from(below.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

impl RewardRules for EvidenceRules {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn begin(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.work.clear();
        for owner in self.owners.values_mut() {
            (owner.promised, owner.kept, owner.convicted) = (0, 0, false);
        }
    }

    fn apply(&mut self, event: &RewardEvent) {
        match &event.what {
            What::Deed { .. } => {}
            What::Work { requester, model, units } => self.work(event, *requester, model, *units),
            What::Checked { model, passed, weight } => self.check(event, model, *passed, *weight),
            What::Unanswered { model } => self.doubt(event, model),
            What::Promised { kept } => {
                let owner = self.owner(event);
                owner.promised += 1;
                owner.kept += u64::from(*kept);
            }
            What::Convicted => self.convict(event),
        }
    }

    fn weights(&self) -> BTreeMap<AccountId, Weight> {
        let (caps, now) = (self.caps(), self.epoch.end());
        let known = self.owners.iter();
        let worked =
            known.filter_map(|(owner, record)| Some((owner, record, self.work.get(owner)?)));
        let weigh = |(owner, record, work): (&AccountId, &Owner, &BTreeMap<AccountId, u64>)| {
            let counted = self.counted(owner, work, &caps);
            let quality = lower_quantile(record.evidence_at(now));
            let promises = record.promises(self.policy.promises, self.epoch.hours());
            let weight = part(part(counted, quality.into(), 1_000_000), promises, 1000);
            let done = work.values().fold(0_u64, |sum, units| sum.saturating_add(*units));
            let parts = [
                ("work", done),
                ("work_counted", counted),
                ("quality_millionths", quality.into()),
                ("promises_thousandths", promises),
            ];
            let parts = parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            (*owner, Weight { weight, parts })
        };
        worked.map(weigh).collect()
    }

    fn may_release(&self, owner: &AccountId) -> bool {
        let tasks = self.owners.get(owner).map_or(0, |owner| owner.tasks);
        tasks >= self.policy.release_tasks
    }

    fn state(&self) -> Document {
        let (mut left, now) = (self.clone(), self.epoch.end());
        left.owners
            .retain(|_, owner| owner.tasks > 0 || owner.evidence_at(now) != Standing::default());
        Document::encode(&left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * HOUR_MILLIS;

    fn epoch() -> Epoch {
        "2026-11".parse().unwrap()
    }

    fn account(number: u8) -> AccountId {
        AccountId::from_bytes([number; 16])
    }

    fn node(number: u8) -> NodeId {
        let letters: Vec<u8> = (0..26).map(|place| b'a' + (number >> (place % 8)) % 2).collect();
        String::from_utf8(letters).unwrap().parse().unwrap()
    }

    fn passed(model: &str) -> What {
        What::Checked { model: model.parse().unwrap(), passed: true, weight: 1000 }
    }

    fn work(requester: u8, model: &str, units: u64) -> What {
        What::Work { requester: account(requester), model: model.parse().unwrap(), units }
    }

    /// What happens to one owner, whose only node has the same number.
    struct Story {
        rules: EvidenceRules,
    }

    impl Story {
        fn begin() -> Self {
            let mut rules = EvidenceRules::default();
            rules.begin(epoch());
            Self { rules }
        }

        fn at(&mut self, day: u64, owner: u8, what: What) {
            let at = Timestamp::from_millis(epoch().start().as_millis() + day * DAY);
            let event = RewardEvent { at, node: node(owner), owner: account(owner), what };
            self.rules.apply(&event);
        }

        fn pass(&mut self, day: u64, owner: u8, tests: u32) {
            for _ in 0..tests {
                self.at(day, owner, passed("m"));
            }
        }

        /// Lets twelve members ask the owner for `units` each.
        fn work(&mut self, day: u64, owner: u8, units: u64) {
            self.work_with("m", day, owner, units);
        }

        fn work_with(&mut self, model: &str, day: u64, owner: u8, units: u64) {
            for member in 100..112 {
                self.at(day, owner, work(member, model, units));
            }
        }

        /// Returns the owner's work that is paid, as far as nothing else bounds it.
        fn paid(&self, owner: u8) -> u64 {
            let weights = self.rules.weights();
            weights.get(&account(owner)).map_or(0, |weight| weight.parts["work"])
        }

        fn weight(&self, owner: u8) -> u64 {
            self.rules.weights().get(&account(owner)).map_or(0, |weight| weight.weight)
        }
    }

    #[test]
    fn attack_30_fresh_identities_earn_nothing() {
        let mut story = Story::begin();
        story.pass(0, 1, 49);
        story.work(8, 1, 1000);
        assert_eq!(story.weight(1), 0, "49 tests are one too few");
        story.pass(8, 2, 50);
        story.work(14, 2, 1000);
        assert_eq!(story.weight(2), 0, "six days are one too few");
        story.pass(8, 1, 1);
        story.work(9, 1, 1000);
        assert!(story.weight(1) > 0);
        for identity in 3..90 {
            story.work(20, identity, 1000);
            assert_eq!(story.weight(identity), 0);
        }
    }

    #[test]
    fn tests_with_one_model_pay_for_no_other() {
        let mut story = Story::begin();
        story.pass(0, 1, 100);
        story.work_with("untested", 10, 1, 1000);
        assert_eq!(story.paid(1), 0);
        story.work(10, 1, 1000);
        assert_eq!(story.paid(1), 12_000);
        for _ in 0..50 {
            story.at(10, 1, passed("untested"));
        }
        story.work_with("untested", 16, 1, 1000);
        assert_eq!(story.paid(1), 12_000, "six days are one too few, whatever came before");
        story.work_with("untested", 17, 1, 1000);
        assert_eq!(story.paid(1), 24_000);
        story.at(18, 1, What::Convicted);
        story.work(19, 1, 1000);
        story.work_with("untested", 19, 1, 1000);
        assert_eq!(story.paid(1), 0, "a node is convicted with all its models");
    }

    #[test]
    fn work_is_paid_while_tests_are_passed_and_no_longer() {
        let mut story = Story::begin();
        story.pass(0, 1, 100);
        story.work(13, 1, 1000);
        assert_eq!(story.paid(1), 12_000);
        story.work(14, 1, 1000);
        assert_eq!(story.paid(1), 12_000, "its last test is two weeks ago");
        story.pass(15, 1, 1);
        story.work(15, 1, 1000);
        assert_eq!(story.paid(1), 24_000, "one passed test is enough");
        let quality = story.rules.weights()[&account(1)].parts["quality_millionths"];
        story.at(16, 1, What::Unanswered { model: "m".parse().unwrap() });
        story.work(16, 1, 1000);
        assert_eq!(story.paid(1), 24_000);
        let after = story.rules.weights()[&account(1)].parts["quality_millionths"];
        assert_eq!(after, quality, "no answer is no lie");
        story.pass(17, 1, 1);
        story.work(17, 1, 1000);
        assert_eq!(story.paid(1), 36_000);
    }

    #[test]
    fn attack_31_who_is_idle_earns_nothing() {
        let mut story = Story::begin();
        story.pass(0, 1, 100);
        for _ in 0..30 * 24 {
            story.at(20, 1, What::Promised { kept: true });
            story.at(20, 1, What::Deed { deed: crate::reputation::Deed::Uptime });
        }
        assert_eq!(story.weight(1), 0);
    }

    #[test]
    fn work_for_oneself_and_for_a_single_friend_counts_nothing() {
        let mut story = Story::begin();
        for owner in 1..=3 {
            story.pass(0, owner, 100);
        }
        story.work(10, 1, 1000);
        story.at(10, 2, work(2, "m", 12_000));
        assert_eq!(story.weight(2), 0, "it asked itself");
        story.at(10, 3, work(100, "m", 12_000));
        assert_eq!(story.weight(3), 0, "a friend asked all of it");
        let before = story.weight(1);
        story.at(10, 1, work(100, "m", 1_000_000));
        assert!(story.weight(1) * 10 < before * 11, "a friend adds a tenth at most");
    }

    #[test]
    fn requester_who_asks_much_more_than_others_moves_only_so_much() {
        let mut story = Story::begin();
        story.pass(0, 1, 100);
        story.pass(0, 2, 100);
        story.work(10, 1, 1000);
        story.work(10, 2, 1000);
        let before = story.weight(1);
        story.at(10, 1, work(100, "m", 1_000_000));
        let after = story.weight(1);
        assert!(after < before * 12 / 10, "{before} {after}");
    }

    #[test]
    fn few_requesters_each_count_for_their_part() {
        let mut story = Story::begin();
        story.pass(0, 1, 1000);
        for member in 100..104 {
            story.at(10, 1, work(member, "m", 1000));
        }
        let counted = story.rules.weights()[&account(1)].parts["work_counted"];
        assert_eq!(counted, 4000);
    }

    #[test]
    fn attack_38_conviction_takes_the_month_and_begins_probation_anew() {
        let mut story = Story::begin();
        story.pass(0, 1, 100);
        story.work(10, 1, 1000);
        assert!(story.weight(1) > 0);
        story.at(11, 1, What::Convicted);
        assert_eq!(story.weight(1), 0);
        story.work(12, 1, 1000);
        assert_eq!(story.weight(1), 0, "it is on probation again");
        story.pass(12, 1, 50);
        story.work(19, 1, 1000);
        assert_eq!(story.weight(1), 0, "the month is lost");
        story.rules.begin(epoch().next());
        story.pass(31, 1, 1);
        story.work(31, 1, 1000);
        assert!(story.weight(1) > 0, "and the next one is another");
        let quality = story.rules.weights()[&account(1)].parts["quality_millionths"];
        assert!(quality < 960_000, "ten failed tests are remembered: {quality}");
    }

    #[test]
    fn conviction_of_one_node_takes_the_month_of_all_nodes_of_its_owner() {
        let mut story = Story::begin();
        let other = |story: &mut Story, day, what| {
            let at = Timestamp::from_millis(epoch().start().as_millis() + day * DAY);
            story.rules.apply(&RewardEvent { at, node: node(2), owner: account(1), what });
        };
        story.pass(0, 1, 100);
        (0..100).for_each(|_| other(&mut story, 0, passed("m")));
        other(&mut story, 10, work(100, "m", 1000));
        assert_eq!(story.paid(1), 1000);
        story.at(11, 1, What::Convicted);
        other(&mut story, 12, work(100, "m", 1000));
        assert_eq!(story.paid(1), 0);
        story.rules.begin(epoch().next());
        other(&mut story, 13, work(100, "m", 1000));
        assert_eq!(story.paid(1), 1000, "its other node is still tested, and paid for");
    }

    #[test]
    fn promises_add_or_take_a_tenth_at_most() {
        let hours = epoch().hours();
        for (kept, broken, expected) in
            [(0, 0, 1000), (720, 0, 1100), (360, 0, 1050), (0, 10, 900), (5, 5, 950)]
        {
            let mut owner = Owner::new(epoch().start());
            (owner.kept, owner.promised) = (kept, kept + broken);
            assert_eq!(owner.promises(100, hours), expected, "{kept} {broken}");
        }
    }

    #[test]
    fn month_goes_on_from_the_state_of_the_last_one() {
        let mut story = Story::begin();
        story.pass(0, 1, 100);
        story.work(10, 1, 1000);
        let mut restored: EvidenceRules = story.rules.state().decode().unwrap();
        let mut live = story.rules;
        for rules in [&mut live, &mut restored] {
            rules.begin(epoch().next());
            assert!(rules.weights().is_empty());
        }
        assert_eq!(live, restored);
        assert!(!live.may_release(&account(1)), "it was thanked twelve times");
    }

    proptest! {
        /// However an owner divides its work and its tests among identities, it earns no more than
        /// a millionth beyond what it would as one.
        #[test]
        fn splitting_an_identity_never_pays(
            parts in 2_u8..20,
            tests in 100_u32..2000,
            units in 1_000_u64..1_000_000,
        ) {
            let mut whole = Story::begin();
            whole.pass(0, 1, tests);
            whole.work(10, 1, units * u64::from(parts));
            let mut split = Story::begin();
            for part in 1..=parts {
                split.pass(0, part, tests / u32::from(parts));
                split.work(10, part, units);
            }
            let sum: u64 = (1..=parts).map(|part| split.weight(part)).sum();
            prop_assert!(sum <= whole.weight(1) + whole.weight(1) / 1_000_000, "{sum}");
        }
    }
}
