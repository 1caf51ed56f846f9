//! What becomes of nodes over weeks.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::Dice;
use super::*;
use crate::id::{AccountId, NodeId};
use crate::model::ModelName;
use crate::time::Timestamp;

const HOUR: Duration = Duration::from_hours(1);

/// An office that watches nodes, and what they do when they are asked.
struct Office {
    auditor: Auditor,
    dice: Dice,
    now: Timestamp,
    tasks_an_hour: u32,
    natures: BTreeMap<NodeId, Nature>,
    /// What audits came to, in order.
    outcomes: Vec<(NodeId, Outcome)>,
    audits: BTreeMap<NodeId, Vec<Audit>>,
    /// Owners whose references say that every token is wrong.
    liars: Vec<AccountId>,
    traffic: Traffic,
}

/// How a node answers.
#[derive(Clone, Copy)]
enum Nature {
    /// It differs from its model in so many of a million tokens.
    Differs(u32),
    /// It differs so much in so many of a million answers.
    Sometimes(u32, u32),
    /// It gives no answer.
    Silent,
    /// What it answers is not scored by its references.
    Unscored,
    /// What it answers cannot be scored.
    Unscorable,
}

fn node(number: u8) -> NodeId {
    let letter = char::from(b'a' + number);
    std::iter::repeat_n(letter, 26).collect::<String>().parse().unwrap()
}

const fn owner(number: u8) -> AccountId {
    AccountId::from_bytes([number; 16])
}

fn model() -> ModelName {
    "m".parse().unwrap()
}

fn reference(number: u8) -> Reference {
    Reference { node: node(number), owner: owner(number) }
}

impl Office {
    fn new(seed: u64) -> Self {
        let mut auditor = Auditor::new(Rules::default());
        auditor.set_references(model(), vec![reference(21), reference(22)]);
        Self {
            auditor,
            dice: Dice(seed),
            now: Timestamp::from_millis(1_000_000),
            tasks_an_hour: 4,
            natures: BTreeMap::new(),
            outcomes: Vec::new(),
            audits: BTreeMap::new(),
            liars: Vec::new(),
            traffic: Traffic::Private,
        }
    }

    fn join(&mut self, number: u8, nature: Nature) -> NodeId {
        self.auditor.handle_offer(node(number), owner(number), &model(), self.now);
        self.natures.insert(node(number), nature);
        node(number)
    }

    fn seed(&mut self) -> Seed {
        let mut bytes = [0; 32];
        for part in bytes.chunks_exact_mut(8) {
            part.copy_from_slice(&self.dice.next().to_le_bytes());
        }
        Seed::from_bytes(bytes)
    }

    fn days(&mut self, days: u32) {
        for _ in 0..24 * days {
            self.hour();
        }
    }

    fn hour(&mut self) {
        let nodes: Vec<_> = self.natures.keys().copied().collect();
        for node in nodes {
            for _ in 0..self.tasks_an_hour {
                let seed = self.seed();
                let audit = self.auditor.handle_task(&node, &model(), self.traffic, self.now, seed);
                if let Some(audit) = audit {
                    self.carry_out(audit);
                }
            }
        }
        for _ in 0..100 {
            let seed = self.seed();
            let Some(audit) = self.auditor.poll_audit(self.now, seed) else { break };
            self.carry_out(audit);
        }
        self.now = self.now.saturating_add(HOUR);
    }

    fn carry_out(&mut self, audit: Audit) {
        let result = self.answer(&audit);
        let outcome = self.auditor.handle_result(&audit.id, &result, self.now).unwrap();
        self.outcomes.push((audit.id.node, outcome));
        self.audits.entry(audit.id.node).or_default().push(audit);
    }

    fn answer(&mut self, audit: &Audit) -> AuditResult {
        let rate = match self.natures[&audit.id.node] {
            Nature::Differs(rate) => rate,
            Nature::Sometimes(rate, answers) if self.dice.happens(answers) => rate,
            Nature::Sometimes(..) => 10_000,
            Nature::Silent => return AuditResult::NoAnswer,
            Nature::Unscored => return AuditResult::Unscored,
            Nature::Unscorable => return AuditResult::Unscorable,
        };
        let rate = if self.liars.contains(&audit.reference.owner) { 999_999 } else { rate };
        AuditResult::Scored(self.tokens(rate))
    }

    fn tokens(&mut self, rate: u32) -> Vec<Scored> {
        let mut token = || Scored {
            logprob: if self.dice.happens(rate) { -2_000_000 } else { -300_000 },
            best_logprob: -300_000,
        };
        (0..190).map(|_| token()).collect()
    }

    fn stage(&self, node: NodeId) -> Stage {
        self.auditor.stage(&node, &model(), self.now)
    }

    fn count(&self, node: NodeId, is: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.iter().filter(|(of, outcome)| *of == node && is(outcome)).count()
    }

    fn audits_of(&self, node: NodeId) -> usize {
        self.audits.get(&node).map_or(0, Vec::len)
    }

    fn verdict(&self, node: NodeId) -> Option<Conviction> {
        self.outcomes.iter().find_map(|(of, outcome)| match outcome {
            Outcome::Convicted(conviction) if *of == node => Some((**conviction).clone()),
            _ => None,
        })
    }
}

#[test]
fn honest_node_passes_probation_in_a_week_and_is_looked_at_ever_less() {
    let mut office = Office::new(1);
    let node = office.join(1, Nature::Differs(10_000));
    office.days(6);
    assert_eq!(office.stage(node), Stage::Probation);
    office.days(3);
    assert_eq!(office.stage(node), Stage::Watched);
    let probation = office.audits_of(node);
    assert!((50..90).contains(&probation), "{probation}");
    office.days(30);
    let watched = office.audits_of(node) - probation;
    assert!((100..200).contains(&watched), "{watched} of 2,880 tasks");
    assert_eq!(office.stage(node), Stage::Settled);
    office.days(100);
    let settled = office.audits_of(node) - probation - watched;
    assert!((190..330).contains(&settled), "{settled} of 9,600 tasks in 100 days");
    assert!(office.verdict(node).is_none());
}

#[test]
fn idle_node_is_probed_over_the_week_of_its_probation() {
    let mut office = Office::new(2);
    office.tasks_an_hour = 0;
    let node = office.join(1, Nature::Differs(10_000));
    office.days(1);
    assert!((3..12).contains(&office.audits_of(node)), "{}", office.audits_of(node));
    office.days(9);
    assert_eq!(office.stage(node), Stage::Watched);
    let all = office.audits_of(node);
    office.days(30);
    let since = office.audits_of(node) - all;
    assert!((3..=8).contains(&since), "{since}: who gets no work is looked at now and then");
}

#[test]
fn liars_are_convicted_within_days() {
    let mut office = Office::new(3);
    for (number, rate) in [(1, 81_000), (2, 289_000), (3, 400_000), (4, 950_000)] {
        office.join(number, Nature::Differs(rate));
    }
    office.days(4);
    for number in 1..5 {
        let Conviction { verdict, seeds } = office.verdict(node(number)).unwrap();
        assert_eq!(office.stage(node(number)), Stage::Convicted);
        let evidence = &verdict.evidence;
        assert!(!evidence.confirming.contains(&evidence.suspecting), "{evidence:?}");
        assert!(evidence.confirmation.likelihood > 12_000_000);
        assert_eq!(verdict.appeal_until, verdict.at.saturating_add(7 * 24 * HOUR));
        for (seed, commitment) in seeds.iter().zip(&evidence.prompts) {
            assert_eq!(seed.commitment(), *commitment);
            let is_theirs = |audit: &Audit| {
                audit.check == Check::Canary { seed: *seed, commitment: *commitment }
            };
            assert!(office.audits[&node(number)].iter().any(is_theirs));
        }
    }
    let audits = office.audits_of(node(1));
    office.days(2);
    assert_eq!(office.audits_of(node(1)), audits, "a convicted node is left alone");
}

#[test]
fn node_that_lies_in_one_of_ten_answers_is_convicted() {
    let mut office = Office::new(4);
    let node = office.join(1, Nature::Sometimes(289_000, 100_000));
    office.days(60);
    assert!(office.verdict(node).is_some());
}

#[test]
fn node_that_turns_after_its_probation_is_convicted() {
    let mut office = Office::new(5);
    let node = office.join(1, Nature::Differs(5_000));
    office.days(60);
    assert_eq!(office.stage(node), Stage::Settled);
    office.natures.insert(node, Nature::Differs(289_000));
    office.days(10);
    assert!(office.verdict(node).is_some());
}

#[test]
fn one_lying_reference_convicts_nobody() {
    let mut office = Office::new(6);
    office.liars.push(owner(21));
    let nodes: Vec<_> = (1..10).map(|n| office.join(n, Nature::Differs(10_000))).collect();
    office.days(40);
    let doubted: Vec<_> = office
        .outcomes
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Cleared { doubted } => *doubted,
            _ => None,
        })
        .collect();
    assert!(!doubted.is_empty());
    assert!(doubted.iter().all(|doubted| *doubted == owner(21)));
    assert!(nodes.iter().all(|node| office.verdict(*node).is_none()));
}

#[test]
fn suspicions_of_an_honest_node_never_cost_more_than_its_budget() {
    let mut office = Office::new(7);
    office.liars.push(owner(21));
    let node = office.join(1, Nature::Differs(10_000));
    office.days(300);
    let began = office.count(node, |o| *o == Outcome::Suspected { is_confirming: true });
    let waits = office.count(node, |o| *o == Outcome::Suspected { is_confirming: false });
    assert!(began > 10 && waits > 0, "{began} {waits}");
    let budget = &office.auditor.record(&node).unwrap().budget;
    assert!(budget.sum() <= Rules::default().yearly_error);
    assert!(office.verdict(node).is_none());
}

#[test]
fn reference_of_its_own_owner_says_nothing_about_a_node() {
    let mut office = Office::new(8);
    office.auditor.set_references(model(), vec![reference(1)]);
    let node = office.join(1, Nature::Differs(400_000));
    office.days(10);
    assert_eq!(office.audits_of(node), 0);
    assert_eq!(office.stage(node), Stage::Probation, "nor does it get paid");
    office.auditor.set_references(model(), vec![reference(1), reference(21)]);
    office.days(5);
    let evidence = office.verdict(node).unwrap().verdict.evidence;
    assert!(evidence.confirming.contains(&evidence.suspecting), "the only one who can tell");
}

#[test]
fn failed_reference_and_missing_answer_prove_nothing_and_are_made_up_for() {
    let mut office = Office::new(9);
    let node = office.join(1, Nature::Differs(10_000));
    office.days(60);
    office.natures.insert(node, Nature::Silent);
    let (before, mut audits) = (office.audits_of(node), 0);
    office.tasks_an_hour = 1;
    while audits == 0 {
        office.hour();
        audits = office.audits_of(node) - before;
    }
    for _ in 0..10 {
        office.hour();
    }
    assert_eq!(office.audits_of(node) - before, audits + 10, "each task until one is answered");
    office.natures.insert(node, Nature::Differs(10_000));
    office.hour();
    let answered = office.audits_of(node);
    office.days(1);
    assert!(office.audits_of(node) - answered < 8);
    assert_eq!(office.count(node, |o| *o == Outcome::Inconclusive), audits + 9);
    assert_eq!(office.count(node, |o| *o == Outcome::Unanswered), 1);
    assert_eq!(office.stage(node), Stage::Settled);
}

#[test]
fn silent_node_never_leaves_probation_and_is_told_but_never_accused() {
    let mut office = Office::new(10);
    let node = office.join(1, Nature::Silent);
    office.days(60);
    assert_eq!(office.stage(node), Stage::Probation);
    let told = office.count(node, |o| *o == Outcome::Unanswered);
    assert_eq!(told, office.audits_of(node) / 10, "once for ten in a row");
    assert_eq!(office.auditor.lapses(&node, office.now), [(model(), Lapse::Unanswered)]);
    assert!(office.verdict(node).is_none());
    office.natures.insert(node, Nature::Differs(10_000));
    office.days(1);
    assert_eq!(office.auditor.lapses(&node, office.now), [], "one answer ends it");
}

#[test]
fn tests_that_cannot_be_scored_are_not_held_against_a_node() {
    let mut office = Office::new(20);
    let node = office.join(1, Nature::Unscorable);
    office.days(30);
    assert!(office.audits_of(node) > 30);
    assert_eq!(office.count(node, |o| *o == Outcome::Inconclusive), office.audits_of(node));
    assert_eq!(office.auditor.lapses(&node, office.now), []);
}

#[test]
fn node_without_work_is_tested_often_enough_to_be_paid_for_the_next() {
    let mut office = Office::new(21);
    let node = office.join(1, Nature::Differs(10_000));
    office.tasks_an_hour = 1;
    office.days(60);
    office.tasks_an_hour = 0;
    let before = office.audits_of(node);
    for _ in 0..60 {
        office.days(1);
        assert_eq!(office.auditor.lapses(&node, office.now), []);
    }
    let tests = office.audits_of(node) - before;
    assert!((60 / 8..=60 / 4).contains(&tests), "{tests}: no more than it takes");
}

#[test]
fn node_that_nobody_can_score_is_not_vouched_for_after_two_weeks() {
    let mut office = Office::new(22);
    let node = office.join(1, Nature::Differs(10_000));
    office.tasks_an_hour = 1;
    office.days(60);
    office.auditor.set_references(model(), Vec::new());
    office.days(13);
    assert_eq!(office.auditor.lapses(&node, office.now), []);
    office.days(2);
    assert_eq!(office.auditor.lapses(&node, office.now), [(model(), Lapse::Stale)]);
    office.auditor.set_references(model(), vec![reference(21), reference(22)]);
    office.days(2);
    assert_eq!(office.auditor.lapses(&node, office.now), []);
}

#[test]
fn who_has_passed_tests_and_then_answers_what_cannot_be_scored_is_told_of() {
    let mut office = Office::new(24);
    let node = office.join(1, Nature::Differs(10_000));
    office.tasks_an_hour = 1;
    office.days(60);
    assert_eq!(office.auditor.lapses(&node, office.now), []);
    office.natures.insert(node, Nature::Unscorable);
    office.days(20);
    assert_eq!(office.count(node, |o| *o == Outcome::Unanswered), 1);
    assert_eq!(office.auditor.lapses(&node, office.now), [(model(), Lapse::Unanswered)]);
    assert!(office.verdict(node).is_none());
}

#[test]
fn model_that_a_node_offers_no_more_is_tested_no_more() {
    let mut office = Office::new(25);
    let node = office.join(1, Nature::Differs(10_000));
    office.tasks_an_hour = 0;
    office.days(1);
    office.auditor.handle_withdrawn(&node, &model());
    let before = office.audits_of(node);
    assert!(before > 0);
    office.days(3);
    assert_eq!(office.audits_of(node), before);
    office.auditor.handle_offer(node, owner(1), &model(), office.now);
    office.days(1);
    assert!(office.audits_of(node) > before);
}

#[test]
fn ten_in_a_row_are_ten_that_were_not_answered() {
    let mut office = Office::new(23);
    let node = office.join(1, Nature::Silent);
    for _ in 0..20 {
        office.natures.insert(node, Nature::Silent);
        let before = office.audits_of(node);
        while office.audits_of(node) < before + 9 {
            office.hour();
        }
        office.natures.insert(node, Nature::Unscored);
        let before = office.audits_of(node);
        while office.audits_of(node) == before {
            office.hour();
        }
    }
    assert_eq!(office.count(node, |o| *o == Outcome::Unanswered), 0);
    assert_eq!(office.auditor.lapses(&node, office.now), []);
}

#[test]
fn answer_of_a_few_right_tokens_does_not_count_as_a_canary() {
    let mut office = Office::new(11);
    let node = office.join(1, Nature::Silent);
    let seed = office.seed();
    let now = office.now.saturating_add(4 * HOUR);
    let audit = office.auditor.handle_task(&node, &model(), Traffic::Private, now, seed).unwrap();
    let tokens = vec![Scored { logprob: -1, best_logprob: -1 }; 15];
    let outcome = office.auditor.handle_result(&audit.id, &AuditResult::Scored(tokens), now);
    assert_eq!(outcome, Ok(Outcome::Inconclusive));
    let json = serde_json::to_value(office.auditor.record(&node)).unwrap();
    assert_eq!(json["models"]["m"]["verified"], 0);
}

#[test]
fn duplicates_become_rarer_and_a_lost_one_starts_over() {
    let mut office = Office::new(12);
    let node = office.join(1, Nature::Differs(10_000));
    office.days(10);
    let next = |office: &mut Office, result: &AuditResult| {
        for task in 1.. {
            let (seed, now) = (office.seed(), office.now);
            let audit = office.auditor.handle_task(&node, &model(), Traffic::Comparable, now, seed);
            let Some(audit) = audit else { continue };
            if audit.check == Check::Duplicate {
                office.auditor.handle_result(&audit.id, result, now).unwrap();
                return task;
            }
            office.carry_out(audit);
        }
        unreachable!("every fiftieth task is compared")
    };
    let agreed = AuditResult::Agreed;
    let first: Vec<u32> = (0..10).map(|_| next(&mut office, &agreed)).collect();
    assert!(first.iter().all(|tasks| *tasks <= 3), "{first:?}");
    let later: u32 = (0..50).map(|_| next(&mut office, &agreed)).sum();
    assert!(later > 500, "{later}");
    let lost = AuditResult::Scored(office.tokens(400_000)[..20].to_vec());
    next(&mut office, &lost);
    assert!(next(&mut office, &agreed) <= 3);
}

#[test]
fn agreement_of_colluding_nodes_counts_for_nothing_but_duplicates() {
    let mut office = Office::new(13);
    let node = office.join(1, Nature::Differs(289_000));
    let mut canaries = 0;
    for _ in 0..10 {
        let (seed, now) = (office.seed(), office.now);
        let audit = office.auditor.handle_task(&node, &model(), Traffic::Comparable, now, seed);
        let audit = audit.unwrap();
        canaries += usize::from(audit.check != Check::Duplicate);
        office.auditor.handle_result(&audit.id, &AuditResult::Agreed, now).unwrap();
    }
    assert!(canaries < 10);
    let json = serde_json::to_value(office.auditor.record(&node)).unwrap();
    assert_eq!(json["models"]["m"]["verified"], 0);
    office.traffic = Traffic::Comparable;
    office.days(4);
    assert!(office.verdict(node).is_some(), "the reference decides");
}

#[test]
fn overturned_verdict_puts_a_node_back() {
    let mut office = Office::new(14);
    let node = office.join(1, Nature::Differs(10_000));
    office.days(60);
    office.natures.insert(node, Nature::Differs(400_000));
    office.days(5);
    let verdict = office.verdict(node).unwrap().verdict;
    office.natures.insert(node, Nature::Differs(10_000));
    let other = Conviction::clone(&office.verdict(node).unwrap()).verdict.node;
    office.auditor.handle_overturned(&other, "0".repeat(32).parse().unwrap(), office.now);
    assert_eq!(office.stage(node), Stage::Convicted);
    office.auditor.handle_overturned(&node, verdict.id, office.now);
    assert_eq!(office.stage(node), Stage::Watched);
    office.outcomes.clear();
    office.days(20);
    assert!(office.verdict(node).is_none());
}

#[test]
fn whitewashed_node_starts_over_and_a_convicted_one_cannot_change_hands() {
    let mut office = Office::new(15);
    let convicted = office.join(1, Nature::Differs(400_000));
    let honest = office.join(2, Nature::Differs(10_000));
    office.days(10);
    assert_eq!(office.stage(convicted), Stage::Convicted);
    for number in [1, 2] {
        office.auditor.handle_offer(node(number), owner(7), &model(), office.now);
    }
    assert_eq!(office.stage(convicted), Stage::Convicted);
    assert_eq!(office.stage(honest), Stage::Probation, "another owner has shown nothing yet");
    assert_eq!(office.stage(node(3)), Stage::Probation, "nor has a new identity");
}

#[test]
fn state_that_was_written_down_goes_on_where_it_was() {
    let mut office = Office::new(16);
    let liar = office.join(1, Nature::Differs(81_000));
    let honest = office.join(2, Nature::Differs(10_000));
    office.days(60);
    let mut restarted = Auditor::new(Rules::default());
    restarted.set_references(model(), vec![reference(21), reference(22)]);
    for node in [liar, honest] {
        let json = serde_json::to_string(office.auditor.record(&node).unwrap()).unwrap();
        restarted.restore(node, serde_json::from_str(&json).unwrap());
    }
    office.auditor = restarted;
    assert_eq!(office.stage(liar), Stage::Convicted);
    assert_eq!(office.stage(honest), Stage::Settled);
    let audits = office.audits_of(honest);
    office.join(2, Nature::Differs(10_000));
    office.days(10);
    assert!((5..60).contains(&(office.audits_of(honest) - audits)));
}

#[test]
fn results_that_come_late_or_twice_are_refused() {
    let mut office = Office::new(17);
    let node = office.join(1, Nature::Silent);
    let now = office.now.saturating_add(4 * HOUR);
    let seed = office.seed();
    let audit = office.auditor.handle_task(&node, &model(), Traffic::Private, now, seed).unwrap();
    assert_eq!(office.auditor.handle_task(&node, &model(), Traffic::Private, now, seed), None);
    let late = now.saturating_add(2 * HOUR);
    assert_eq!(office.auditor.poll_audit(late, seed), None, "given up, and the next one not due");
    let result = AuditResult::Scored(office.tokens(0));
    let refused = office.auditor.handle_result(&audit.id, &result, late);
    assert_eq!(refused, Err(UnknownAudit(audit.id.clone())));
    let later = late.saturating_add(8 * HOUR);
    let second = office.auditor.poll_audit(later, seed).unwrap();
    assert!(office.auditor.handle_result(&audit.id, &result, later).is_err());
    assert!(office.auditor.handle_result(&second.id, &result, later).is_ok());
    assert!(office.auditor.handle_result(&second.id, &result, later).is_err());
}

#[test]
fn nodes_that_stay_away_are_forgotten() {
    let mut office = Office::new(18);
    let node = office.join(1, Nature::Silent);
    let later = office.now.saturating_add(1000 * HOUR);
    assert!(office.auditor.forget_absent(later).is_empty(), "it is there");
    office.auditor.handle_leave(&node, office.now);
    assert_eq!(office.auditor.poll_timeout(), None);
    assert!(office.auditor.forget_absent(office.now).is_empty());
    assert_eq!(office.auditor.forget_absent(later), [node]);
    assert!(office.auditor.record(&node).is_none());
}

#[test]
fn newcomers_take_the_places_of_those_who_are_away_and_have_shown_least() {
    let mut office = Office::new(21);
    let rules = Rules { most_nodes: 3, ..Rules::default() };
    office.auditor = Auditor::new(rules);
    office.auditor.set_references(model(), vec![reference(21), reference(22)]);
    let proven = office.join(1, Nature::Differs(10_000));
    let liar = office.join(2, Nature::Differs(400_000));
    office.days(10);
    assert_eq!(office.stage(liar), Stage::Convicted);
    let idle = office.join(3, Nature::Silent);
    office.join(4, Nature::Differs(10_000));
    assert!(office.auditor.record(&node(4)).is_none(), "all are here");
    for number in 1..4 {
        office.auditor.handle_leave(&node(number), office.now);
        office.now = office.now.saturating_add(HOUR);
    }
    office.join(4, Nature::Differs(10_000));
    assert!(office.auditor.record(&node(4)).is_some());
    assert!(office.auditor.record(&idle).is_none(), "it had shown nothing");
    office.join(5, Nature::Differs(10_000));
    assert!(office.auditor.record(&proven).is_none(), "it is away");
    office.join(6, Nature::Differs(10_000));
    assert!(office.auditor.record(&node(6)).is_none());
    assert_eq!(office.stage(liar), Stage::Convicted, "a liar is not forgotten");
    let begun = Timestamp::from_millis(0);
    assert_eq!(office.auditor.forget_absent(begun), [proven, idle], "they are to be deleted");
    assert_eq!(office.auditor.forget_absent(begun), []);
}

/// What may happen to an auditor.
#[derive(Clone, Debug)]
enum Event {
    Offer(u8, u8),
    Leave(u8),
    Task(u8, bool),
    Poll,
    Result(usize, u8, Vec<(i64, i64)>),
    Wait(i64),
    Restart(u8),
    Forget,
}

fn events() -> impl Strategy<Value = Event> {
    let tokens = proptest::collection::vec((any::<i64>(), any::<i64>()), 0..40);
    prop_oneof![
        (0_u8..4, 0_u8..3).prop_map(|(node, owner)| Event::Offer(node, owner)),
        (0_u8..4).prop_map(Event::Leave),
        (0_u8..4, any::<bool>()).prop_map(|(node, comparable)| Event::Task(node, comparable)),
        Just(Event::Poll),
        (any::<usize>(), 0_u8..6, tokens).prop_map(|(n, kind, t)| Event::Result(n, kind, t)),
        (-10_000_000_i64..100_000_000).prop_map(Event::Wait),
        (0_u8..4).prop_map(Event::Restart),
        Just(Event::Forget),
    ]
}

proptest! {
    #[test]
    fn nothing_that_happens_breaks_the_bounds(events in proptest::collection::vec(events(), 0..150)) {
        let mut office = Office::new(19);
        office.auditor.set_references(model(), vec![reference(1), reference(21)]);
        let mut audits: Vec<Audit> = Vec::new();
        for event in events {
            let (seed, now) = (office.seed(), office.now);
            let auditor = &mut office.auditor;
            let mut new = None;
            match event {
                Event::Offer(n, by) => auditor.handle_offer(node(n), owner(by), &model(), now),
                Event::Leave(n) => auditor.handle_leave(&node(n), now),
                Event::Task(n, comparable) => {
                    let traffic = if comparable { Traffic::Comparable } else { Traffic::Private };
                    new = auditor.handle_task(&node(n), &model(), traffic, now, seed);
                }
                Event::Poll => new = auditor.poll_audit(now, seed),
                Event::Result(n, kind, tokens) if !audits.is_empty() => {
                    let scored = |(logprob, best_logprob)| Scored { logprob, best_logprob };
                    let result = match kind {
                        0 => AuditResult::Agreed,
                        1 => AuditResult::NoAnswer,
                        2 => AuditResult::Unasked,
                        3 => AuditResult::Unscored,
                        4 => AuditResult::Unscorable,
                        _ => AuditResult::Scored(tokens.into_iter().map(scored).collect()),
                    };
                    let id = audits[n % audits.len()].id.clone();
                    let _ = auditor.handle_result(&id, &result, now);
                    prop_assert!(auditor.handle_result(&id, &result, now).is_err());
                }
                Event::Result(..) => {}
                Event::Wait(millis) => {
                    let time = now.as_millis().saturating_add_signed(millis);
                    office.now = Timestamp::from_millis(time);
                }
                Event::Restart(n) => {
                    if let Some(record) = auditor.record(&node(n)).cloned() {
                        auditor.handle_leave(&node(n), now);
                        auditor.restore(node(n), record);
                        auditor.handle_leave(&node(n), now);
                    }
                }
                Event::Forget => drop(auditor.forget_absent(now)),
            }
            if let Some(audit) = new {
                let known = office.auditor.record(&audit.id.node).unwrap();
                prop_assert!(audit.reference.owner != known.owner);
                prop_assert!(audit.reference.node != audit.id.node);
                audits.push(audit);
            }
            prop_assert!(office.auditor.is_in_order());
            for n in 0..4 {
                let spent = office.auditor.record(&node(n)).map_or(0, |known| known.budget.sum());
                prop_assert!(spent <= Rules::default().yearly_error);
            }
        }
    }
}
