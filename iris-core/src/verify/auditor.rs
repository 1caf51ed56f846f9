use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::audit::{Audit, AuditId, AuditResult, Check, Outcome, Reference, Traffic, UnknownAudit};
use super::record::{Effect, NodeRecord, Pending, Record};
use super::schedule::{Lapse, Rules, Stage};
use super::seed::Seed;
use super::sequential::MILLION;
use super::verdict::Conviction;
use crate::id::{AccountId, NodeId, VerdictId};
use crate::model::ModelName;
use crate::time::Timestamp;

/// How many models of one node are kept in mind.
const MOST_MODELS: usize = 256;

/// Decides which nodes are checked when and how, and what the results come to.
///
/// [`handle_offer`](Self::handle_offer) and [`handle_leave`](Self::handle_leave) tell who is there,
/// [`set_references`](Self::set_references) whose word is taken.
/// [`handle_task`](Self::handle_task) is called for every task that a node is given, and
/// [`poll_audit`](Self::poll_audit) until it returns nothing whenever
/// [`poll_timeout`](Self::poll_timeout) is due. Every audit that they return is carried out and
/// ends with [`handle_result`](Self::handle_result); the node's [`record`](Self::record) is
/// written down after each of these and given back with [`restore`](Self::restore) after a
/// restart.
///
/// A node has one audit at a time for each model. Where the clock is set back, time stands still.
#[derive(Debug)]
pub struct Auditor {
    rules: Rules,
    nodes: BTreeMap<NodeId, NodeRecord>,
    references: BTreeMap<ModelName, Vec<Reference>>,
    due: BTreeSet<(Timestamp, NodeId, ModelName)>,
    /// Nodes that had to make room, and are still written down.
    crowded_out: BTreeSet<NodeId>,
    latest: Timestamp,
}

impl Auditor {
    /// Makes an auditor that knows no node.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            nodes: BTreeMap::new(),
            references: BTreeMap::new(),
            due: BTreeSet::new(),
            crowded_out: BTreeSet::new(),
            latest: Timestamp::from_millis(0),
        }
    }

    /// Sets who is asked about answers of `model`, in place of all before.
    ///
    /// All of them, whether they are there or not: where one is away, the audit that names it ends
    /// with [`AuditResult::Unasked`] before anything is sent, and a later one may name
    /// another. Two owners at least, or a suspicion is confirmed by the one who raised it. A
    /// reference is never asked about nodes of its own owner; a model without one is not verified
    /// at all.
    pub fn set_references(&mut self, model: ModelName, references: Vec<Reference>) {
        if references.is_empty() {
            self.references.remove(&model);
        } else {
            self.references.insert(model, references);
        }
    }

    /// Records that `node` is there and offers `model`.
    ///
    /// The first time, its probation begins. A node that passes to another owner begins anew,
    /// unless it stands convicted.
    pub fn handle_offer(
        &mut self,
        node: NodeId,
        owner: AccountId,
        model: &ModelName,
        now: Timestamp,
    ) {
        let now = self.clock(now);
        if !self.nodes.contains_key(&node) && self.nodes.len() >= self.rules.most_nodes {
            self.make_room();
            if self.nodes.len() >= self.rules.most_nodes {
                return;
            }
        }
        if self.nodes.get(&node).is_some_and(|known| known.owner != owner) {
            self.hand_over(&node, owner, now);
        }
        self.unschedule(&node, model);
        let known = self.nodes.entry(node).or_insert_with(|| NodeRecord::new(owner, now));
        (known.is_online, known.seen) = (true, now);
        if known.models.len() < MOST_MODELS || known.models.contains_key(model) {
            let rules = &self.rules;
            let record = known.models.entry(model.clone());
            let record = record.or_insert_with(|| Record::new(rules, now));
            // A probe right after a node comes back would be known for one.
            record.next = record.next.max(now.saturating_add(rules.confirming_gap / 2));
            record.is_offered = true;
        }
        self.schedule(&node, model);
    }

    /// Records that `node` is here and offers `model` no more; what is under way may still end.
    pub fn handle_withdrawn(&mut self, node: &NodeId, model: &ModelName) {
        self.unschedule(node, model);
        let known = self.nodes.get_mut(node).and_then(|known| known.models.get_mut(model));
        if let Some(record) = known {
            record.is_offered = false;
        }
    }

    /// Records that `node` is gone; what is under way may still end.
    pub fn handle_leave(&mut self, node: &NodeId, now: Timestamp) {
        let now = self.clock(now);
        if let Some(known) = self.nodes.get_mut(node) {
            (known.is_online, known.seen) = (false, now);
        }
        for model in self.models(node) {
            self.handle_withdrawn(node, &model);
        }
    }

    /// Returns how far `node` has come with `model`.
    pub fn stage(&self, node: &NodeId, model: &ModelName, now: Timestamp) -> Stage {
        let known = self.nodes.get(node);
        known
            .map_or(Stage::Probation, |known| known.stage(model, &self.rules, now.max(self.latest)))
    }

    /// Returns the models of `node` that no test vouches for any more, and why.
    pub fn lapses(&self, node: &NodeId, now: Timestamp) -> Vec<(ModelName, Lapse)> {
        let now = now.max(self.latest);
        let models = self.nodes.get(node).into_iter().flat_map(|known| &known.models);
        let lapse = |record: &Record| record.lapse(&self.rules, now);
        models.filter_map(|(model, record)| Some((model.clone(), lapse(record)?))).collect()
    }

    /// Returns what to write down of `node`.
    pub fn record(&self, node: &NodeId) -> Option<&NodeRecord> {
        self.nodes.get(node)
    }

    /// Takes back what was written down of `node`; to be called before it is there.
    ///
    /// An audit that was under way is forgotten, and a later task makes up for it.
    pub fn restore(&mut self, node: NodeId, record: NodeRecord) {
        self.nodes.insert(node, record);
    }

    /// Forgets the nodes that have been away since before `before`, and returns them, and those that
    /// had to make room for others. One that comes back is a new one.
    pub fn forget_absent(&mut self, before: Timestamp) -> Vec<NodeId> {
        let is_absent = |known: &NodeRecord| !known.is_online && known.seen < before;
        let absent = self.nodes.extract_if(.., |_, known| is_absent(known)).map(|(node, _)| node);
        let mut forgotten: BTreeSet<_> = absent.collect();
        forgotten.append(&mut self.crowded_out);
        forgotten.retain(|node| !self.nodes.contains_key(node));
        forgotten.into_iter().collect()
    }

    /// Forgets some of those who are away and have shown least, the longest away first, and nobody
    /// of whom there is something to remember.
    fn make_room(&mut self) {
        let away = self.nodes.iter().filter(|(_, known)| !known.is_online && !known.is_marked());
        let mut away: Vec<_> =
            away.map(|(node, known)| (known.shown(), known.seen, *node)).collect();
        away.sort_unstable();
        // Several at a time, lest each newcomer is as much work.
        away.truncate((self.rules.most_nodes / 64).max(1));
        for (.., node) in away {
            self.nodes.remove(&node);
            self.crowded_out.insert(node);
        }
    }

    /// Makes a verdict void: the node is where it was, and watched.
    pub fn handle_overturned(&mut self, node: &NodeId, verdict: VerdictId, now: Timestamp) {
        let now = self.clock(now);
        let known = self.nodes.get_mut(node).filter(|known| known.verdict == Some(verdict));
        let Some(known) = known else { return };
        known.verdict = None;
        known.models.values_mut().for_each(|record| record.absolve(now));
        for model in self.models(node) {
            self.schedule(node, &model);
        }
    }

    /// Returns what to check with a task of `model` that `node` has just been given; the task
    /// itself goes its way.
    ///
    /// `seed` is drawn anew for each call, so that nobody knows beforehand.
    pub fn handle_task(
        &mut self,
        node: &NodeId,
        model: &ModelName,
        traffic: Traffic,
        now: Timestamp,
        seed: Seed,
    ) -> Option<Audit> {
        let now = self.clock(now);
        let known = self.nodes.get_mut(node).filter(|known| known.verdict.is_none())?;
        let record = known.models.get_mut(model).filter(|record| record.pending.is_none())?;
        let was = record.due(&self.rules);
        record.promote(&self.rules, now);
        let is_moved = record.due(&self.rules) != was;
        let by_chance = || {
            let rate = self.rules.canary_rate(record.stage(&self.rules, now));
            record.is_owed || seed.below(0, MILLION.into()) < rate.into()
        };
        let canary = now >= record.next || (!record.is_paced() && by_chance());
        let duplicate = || {
            let rate = self.rules.duplicate_rate(record.valid);
            traffic == Traffic::Comparable && seed.below(1, MILLION.into()) < rate.into()
        };
        let is_due = canary || duplicate();
        if is_moved {
            self.reschedule(node, model, was);
        }
        is_due.then(|| self.send(node, model, canary, now, seed)).flatten()
    }

    /// Returns an audit that is due though no task of its node came along, until there is none.
    ///
    /// Audits that had no result in time are given up here. `seed` is drawn anew for each call.
    pub fn poll_audit(&mut self, now: Timestamp, seed: Seed) -> Option<Audit> {
        let now = self.clock(now);
        while let Some((at, node, model)) = self.due.first().cloned()
            && at <= now
        {
            let known = self.nodes.get_mut(&node).expect("whoever is due is known");
            let record = known.models.get_mut(&model).expect("whatever is due is known");
            if record.pending.take().is_some() {
                record.next = record.next.max(now.saturating_add(Duration::from_millis(1)));
                self.reschedule(&node, &model, at);
                continue;
            }
            record.promote(&self.rules, now);
            if record.due(&self.rules) != at {
                self.reschedule(&node, &model, at);
                continue;
            }
            if let Some(audit) = self.send(&node, &model, true, now, seed) {
                return Some(audit);
            }
            self.postpone(&node, &model, now);
        }
        None
    }

    /// Returns when [`poll_audit`](Self::poll_audit) is next due.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Takes in what came of an audit, and returns what follows from it.
    pub fn handle_result(
        &mut self,
        id: &AuditId,
        result: &AuditResult,
        now: Timestamp,
    ) -> Result<Outcome, UnknownAudit> {
        let now = self.clock(now);
        let unknown = || UnknownAudit(id.clone());
        let known = self.nodes.get_mut(&id.node).ok_or_else(unknown)?;
        let record = known.models.get_mut(&id.model).ok_or_else(unknown)?;
        let pending = record.pending.filter(|_| record.sent == id.number).ok_or_else(unknown)?;
        record.pending = None;
        let effect = match result {
            _ if known.verdict.is_some() => None,
            AuditResult::Scored(tokens) if !tokens.is_empty() => {
                Some(record.score(pending, tokens, &mut known.budget, &self.rules, now))
            }
            AuditResult::Agreed if pending.canary.is_none() => {
                record.valid = record.valid.saturating_add(1);
                Some(Effect::Agreed)
            }
            AuditResult::Unscored if pending.canary.is_some() => {
                record.answer();
                None
            }
            _ => None,
        };
        let is_missed = match result {
            AuditResult::NoAnswer => pending.canary.is_some(),
            AuditResult::Unscorable => pending.canary.is_some() && record.has_passed(),
            _ => false,
        };
        let is_told = is_missed && known.verdict.is_none() && record.miss(&self.rules);
        let nothing = if is_told { Outcome::Unanswered } else { Outcome::Inconclusive };
        record.is_owed = effect.is_none();
        record.promote(&self.rules, now);
        self.due.remove(&(pending.deadline, id.node, id.model.clone()));
        let outcome = effect.map_or(nothing, |effect| self.outcome(id, effect, now));
        self.schedule(&id.node, &id.model);
        Ok(outcome)
    }

    fn outcome(&mut self, id: &AuditId, effect: Effect, now: Timestamp) -> Outcome {
        let test = match effect {
            Effect::Passed => return Outcome::Passed,
            Effect::Agreed => return Outcome::Agreed,
            Effect::Short => return Outcome::Inconclusive,
            Effect::Doubtful => return Outcome::Doubtful,
            Effect::Confirming => return Outcome::Confirming,
            Effect::Suspected { is_confirming } => return Outcome::Suspected { is_confirming },
            Effect::Cleared(doubted) => return Outcome::Cleared { doubted },
            Effect::Convicted(test) => test,
        };
        let known = self.nodes.get_mut(&id.node).expect("it was just audited");
        let AuditId { node, model, .. } = id.clone();
        let conviction = Conviction::new(node, known.owner, model, test, &self.rules, now);
        known.verdict = Some(conviction.verdict.id);
        self.due.retain(|(_, node, _)| *node != id.node);
        Outcome::Convicted(Box::new(conviction))
    }

    /// Lets a node that is not convicted begin anew with another owner.
    fn hand_over(&mut self, node: &NodeId, owner: AccountId, now: Timestamp) {
        self.handle_leave(node, now);
        if let Some(known) = self.nodes.get_mut(node).filter(|known| known.verdict.is_none()) {
            let budget = std::mem::take(&mut known.budget);
            *known = NodeRecord { budget, ..NodeRecord::new(owner, now) };
        }
    }

    fn models(&self, node: &NodeId) -> Vec<ModelName> {
        let known = self.nodes.get(node);
        known.map_or(Vec::new(), |known| known.models.keys().cloned().collect())
    }

    /// Makes an audit, if there is somebody to score it.
    fn send(
        &mut self,
        node: &NodeId,
        model: &ModelName,
        is_canary: bool,
        now: Timestamp,
        seed: Seed,
    ) -> Option<Audit> {
        let known = self.nodes.get_mut(node)?;
        let record = known.models.get_mut(model)?;
        let references = self.references.get(model)?;
        let reference = choose(references, node, known.owner, record.avoided(), seed)?;
        let due = record.due(&self.rules);
        record.sent += 1;
        record.is_owed = true;
        let id = AuditId { node: *node, model: model.clone(), number: record.sent };
        let canary = is_canary.then(|| seed.branch(record.sent));
        let deadline = now.saturating_add(self.rules.patience);
        record.pending = Some(Pending { canary, scorer: reference.owner, deadline });
        if is_canary {
            let half = record.gap(&self.rules) / 2;
            let between = |drawn: u64, half: Duration| {
                now.saturating_add(half + Duration::from_millis(drawn))
            };
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let idle = self.rules.fresh / 4;
            record.next = between(seed.below(3, millis(half)), half);
            record.next_idle = between(seed.branch(0).below(0, millis(idle)), idle);
        }
        self.due.remove(&(due, *node, model.clone()));
        self.schedule(node, model);
        let check = canary
            .map_or(Check::Duplicate, |seed| Check::Canary { seed, commitment: seed.commitment() });
        Some(Audit { id, check, reference })
    }

    fn postpone(&mut self, node: &NodeId, model: &ModelName, now: Timestamp) {
        self.unschedule(node, model);
        let record = self.nodes.get_mut(node).and_then(|known| known.models.get_mut(model));
        if let Some(record) = record {
            record.next = now.saturating_add(self.rules.pace().max(Duration::from_mins(1)));
        }
        self.schedule(node, model);
    }

    fn reschedule(&mut self, node: &NodeId, model: &ModelName, was: Timestamp) {
        self.due.remove(&(was, *node, model.clone()));
        self.schedule(node, model);
    }

    fn unschedule(&mut self, node: &NodeId, model: &ModelName) {
        let record = self.nodes.get(node).and_then(|known| known.models.get(model));
        if let Some(at) = record.map(|record| record.due(&self.rules)) {
            self.due.remove(&(at, *node, model.clone()));
        }
    }

    fn schedule(&mut self, node: &NodeId, model: &ModelName) {
        let Some(known) = self.nodes.get(node) else { return };
        let record = known.models.get(model).filter(|record| record.is_offered);
        let due = record.map(|record| record.due(&self.rules));
        if let Some(at) = due.filter(|_| known.is_online && known.verdict.is_none()) {
            self.due.insert((at, *node, model.clone()));
        }
    }

    /// Returns whether exactly those are due who are here and not convicted, at their times.
    #[cfg(test)]
    pub(super) fn is_in_order(&self) -> bool {
        let here =
            self.nodes.iter().filter(|(_, known)| known.is_online && known.verdict.is_none());
        let due = here.flat_map(|(node, known)| {
            let models = known.models.iter().filter(|(_, record)| record.is_offered);
            models.map(|(model, record)| (record.due(&self.rules), *node, model.clone()))
        });
        self.due == due.collect()
    }

    /// Returns the time, which never goes back.
    fn clock(&mut self, now: Timestamp) -> Timestamp {
        self.latest = self.latest.max(now);
        self.latest
    }
}

/// Chooses a reference of another owner than the node's, and than the one who raised the
/// suspicion if there is such a one.
fn choose(
    references: &[Reference],
    node: &NodeId,
    owner: AccountId,
    avoided: Option<AccountId>,
    seed: Seed,
) -> Option<Reference> {
    let able = references.iter().filter(|able| able.owner != owner && able.node != *node);
    let able: Vec<_> = able.copied().collect();
    let is_other = |able: &Reference| avoided.is_none_or(|avoided| able.owner != avoided);
    let others: Vec<_> = able.iter().copied().filter(is_other).collect();
    let among = if others.is_empty() { able } else { others };
    let count = u64::try_from(among.len()).unwrap_or(u64::MAX);
    among.get(usize::try_from(seed.below(2, count)).ok()?).copied()
}
