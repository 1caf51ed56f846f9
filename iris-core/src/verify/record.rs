//! What is known of a node, and what an answer changes about it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budget::ErrorBudget;
use super::canary::LONGEST;
use super::confirmation::{Confirmation, Confirmed};
use super::schedule::{Lapse, Rules, Stage};
use super::seed::Seed;
use super::sequential::{Finding, Scored, Trial};
use crate::id::{AccountId, VerdictId};
use crate::model::ModelName;
use crate::time::Timestamp;

/// What has to outlive a restart of what is known of a node.
///
/// Holds seeds of prompts that are still secret: only the auditor may read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub(super) owner: AccountId,
    pub(super) verdict: Option<VerdictId>,
    pub(super) budget: ErrorBudget,
    pub(super) models: BTreeMap<ModelName, Record>,
    /// When it was last seen to come or go.
    pub(super) seen: Timestamp,
    #[serde(skip)]
    pub(super) is_online: bool,
}

impl NodeRecord {
    pub(super) fn new(owner: AccountId, now: Timestamp) -> Self {
        Self {
            owner,
            verdict: None,
            budget: ErrorBudget::default(),
            models: BTreeMap::new(),
            seen: now,
            is_online: false,
        }
    }

    /// Returns whether it stands convicted.
    pub const fn is_convicted(&self) -> bool {
        self.verdict.is_some()
    }

    /// Returns how many canaries it has answered as its models do.
    pub(super) fn shown(&self) -> u32 {
        let verified = self.models.values().map(|record| record.verified);
        verified.fold(0, u32::saturating_add)
    }

    /// Returns whether it would be better off if this was forgotten: it was found lying, or
    /// suspected within the last year.
    pub(super) fn is_marked(&self) -> bool {
        self.verdict.is_some() || self.budget.sum() > 0
    }

    pub(super) fn stage(&self, model: &ModelName, rules: &Rules, now: Timestamp) -> Stage {
        match self.models.get(model) {
            _ if self.verdict.is_some() => Stage::Convicted,
            Some(record) => record.stage(rules, now),
            None => Stage::Probation,
        }
    }
}

/// What is known of a node and one of its models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// When it was first offered.
    since: Timestamp,
    /// How many canaries it has answered as its model does.
    verified: u32,
    /// When probation ended, or a suspicion last came up since.
    watched_since: Option<Timestamp>,
    /// The first test, for each owner whose references scored answers: a suspicion is one owner's,
    /// so that another can confirm it.
    trials: BTreeMap<AccountId, Trial>,
    pub(super) confirmation: Option<Confirmation>,
    /// How many comparable answers in a row were found valid.
    pub(super) valid: u32,
    /// Whether the latest audit has come to nothing yet, so that a later task has to make up for it.
    pub(super) is_owed: bool,
    /// How many canaries in a row were left unanswered.
    unanswered: u32,
    /// When it last passed a canary, unless it was told since that it leaves them unanswered.
    passed: Option<Timestamp>,
    /// How many audits were sent.
    pub(super) sent: u64,
    /// When the next canary is due, if none comes earlier.
    pub(super) next: Timestamp,
    /// The same while it gets no work.
    pub(super) next_idle: Timestamp,
    #[serde(skip)]
    pub(super) is_offered: bool,
    #[serde(skip)]
    pub(super) pending: Option<Pending>,
}

/// An audit that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// The seed of its prompt; none for a duplicate.
    pub(super) canary: Option<Seed>,
    /// Whose reference scores it.
    pub(super) scorer: AccountId,
    pub(super) deadline: Timestamp,
}

/// What a scored answer led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Passed,
    /// The answer was too short to count.
    Short,
    /// Another node gave the same answer.
    Agreed,
    Doubtful,
    Suspected {
        is_confirming: bool,
    },
    Confirming,
    Cleared(Option<AccountId>),
    Convicted(Confirmation),
}

impl Record {
    pub(super) fn new(rules: &Rules, now: Timestamp) -> Self {
        Self {
            since: now,
            verified: 0,
            watched_since: None,
            trials: BTreeMap::new(),
            confirmation: None,
            valid: 0,
            is_owed: false,
            unanswered: 0,
            passed: None,
            sent: 0,
            next: now.saturating_add(rules.pace() / 2),
            next_idle: now,
            is_offered: false,
            pending: None,
        }
    }

    pub(super) fn stage(&self, rules: &Rules, now: Timestamp) -> Stage {
        match self.watched_since {
            None => Stage::Probation,
            Some(since) if now.saturating_since(since) < rules.watched => Stage::Watched,
            Some(_) => Stage::Settled,
        }
    }

    /// Ends probation if all it takes was shown.
    pub(super) fn promote(&mut self, rules: &Rules, now: Timestamp) {
        let shown = self.verified >= rules.canaries && self.confirmation.is_none();
        if self.watched_since.is_none() && shown {
            let ended = now.saturating_since(self.since) >= rules.probation;
            self.watched_since = ended.then_some(now);
        }
    }

    /// Forgets what led to a verdict that is void.
    pub(super) fn absolve(&mut self, now: Timestamp) {
        self.watched_since = self.watched_since.map(|_| now);
        self.trials.clear();
        self.confirmation = None;
    }

    /// Returns whether its canaries are paced over time and not by its tasks.
    pub(super) const fn is_paced(&self) -> bool {
        self.watched_since.is_none() || self.confirmation.is_some()
    }

    /// Returns the longest time between two canaries of a node that gets work.
    pub(super) fn gap(&self, rules: &Rules) -> Duration {
        match self.watched_since {
            _ if self.confirmation.is_some() => rules.confirming_gap,
            Some(_) => rules.longest_gap,
            None => rules.pace(),
        }
    }

    /// Returns whose references should not score the next answer if there are others.
    pub(super) fn avoided(&self) -> Option<AccountId> {
        self.confirmation.as_ref().map(|test| test.suspecting)
    }

    /// Returns when something has to happen though no task comes; one that does takes the canary
    /// along a little earlier.
    pub(super) fn due(&self, rules: &Rules) -> Timestamp {
        let idle = || {
            match self.passed {
                _ if self.is_paced() => self.next.saturating_add(self.gap(rules) / 4),
                None => self.next,
                // Whoever has shown itself and gets no work is to be paid for the next.
                Some(_) => self.next.max(self.next_idle),
            }
        };
        self.pending.map_or_else(idle, |pending| pending.deadline)
    }

    /// Counts a canary that was left unanswered; returns whether that is to be told.
    pub(super) fn miss(&mut self, rules: &Rules) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        let is_told = self.unanswered.is_multiple_of(rules.unanswered.max(1));
        if is_told {
            self.passed = None;
        }
        is_told
    }

    /// Returns whether a passed canary vouches for it still, or did so last.
    pub(super) const fn has_passed(&self) -> bool {
        self.passed.is_some()
    }

    /// Counts a canary that was answered, whatever the answer was.
    pub(super) const fn answer(&mut self) {
        self.unanswered = 0;
    }

    /// Returns why work with the model is not paid though probation may be over.
    pub(super) fn lapse(&self, rules: &Rules, now: Timestamp) -> Option<Lapse> {
        let is_over = self.stage(rules, now).is_paid();
        match self.passed {
            _ if self.unanswered >= rules.unanswered => Some(Lapse::Unanswered),
            None if is_over => Some(Lapse::Unanswered),
            Some(passed) if is_over && now.saturating_since(passed) >= rules.fresh => {
                Some(Lapse::Stale)
            }
            _ => None,
        }
    }

    /// Takes into account what a reference said of an answer.
    pub(super) fn score(
        &mut self,
        pending: Pending,
        tokens: &[Scored],
        budget: &mut ErrorBudget,
        rules: &Rules,
        now: Timestamp,
    ) -> Effect {
        let longest = usize::try_from(LONGEST).unwrap_or(usize::MAX);
        let tokens = &tokens[..tokens.len().min(longest)];
        let is_doubtful = rules.suspicion.doubts(rules.suspicion.weigh(tokens));
        let is_long = tokens.len() >= usize::try_from(rules.least_tokens).unwrap_or(usize::MAX);
        if pending.canary.is_some() {
            self.answer();
        }
        match pending.canary {
            _ if is_doubtful => self.valid = 0,
            Some(_) if is_long => self.verified = self.verified.saturating_add(1),
            Some(_) => {}
            None => self.valid = self.valid.saturating_add(1),
        }
        if let Some(test) = &mut self.confirmation {
            if let Some(seed) = pending.canary {
                let confirmed = test.count(rules, pending.scorer, seed, tokens);
                return self.confirm(confirmed);
            }
        } else if let Some(suspicion) = self.suspect(pending.scorer, tokens, rules) {
            return self.alarm(suspicion, pending.scorer, budget, rules, now);
        }
        match pending.canary {
            _ if is_doubtful => Effect::Doubtful,
            Some(_) if !is_long => Effect::Short,
            Some(_) => {
                self.passed = Some(now);
                Effect::Passed
            }
            None => Effect::Passed,
        }
    }

    /// Runs the first test over `tokens`; returns what it saw if it finds them suspicious.
    fn suspect(&mut self, scorer: AccountId, tokens: &[Scored], rules: &Rules) -> Option<Trial> {
        let trial = self.trials.entry(scorer).or_default();
        match rules.suspicion.count_all(trial, tokens) {
            Finding::Dishonest => self.trials.remove(&scorer),
            Finding::Honest | Finding::Continue => None,
        }
    }

    /// Looks closer from now on, and starts the second test if the budget has room for it.
    fn alarm(
        &mut self,
        suspicion: Trial,
        suspecting: AccountId,
        budget: &mut ErrorBudget,
        rules: &Rules,
        now: Timestamp,
    ) -> Effect {
        self.watched_since = self.watched_since.map(|_| now);
        self.valid = 0;
        let error = budget.take(rules, now);
        self.confirmation = error.map(|error| Confirmation::new(suspicion, suspecting, error));
        self.next = now.saturating_add(rules.confirming_gap / 2);
        Effect::Suspected { is_confirming: error.is_some() }
    }

    fn confirm(&mut self, confirmed: Confirmed) -> Effect {
        let test = match confirmed {
            Confirmed::NotYet => None,
            Confirmed::Honest | Confirmed::Dishonest => self.confirmation.take(),
        };
        match test {
            None => Effect::Confirming,
            Some(test) if confirmed == Confirmed::Dishonest => Effect::Convicted(test),
            Some(test) => {
                let is_other = !test.confirming.contains(&test.suspecting);
                Effect::Cleared(is_other.then_some(test.suspecting))
            }
        }
    }
}
