//! A month's facts, and what follows from them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Closing, EvidenceRules, RewardEvent, RewardRules, SeedRules, WorkRates, close};
use crate::backend::Usage;
use crate::epoch::Epoch;
use crate::id::{AccountId, NodeId, ReceiptId};
use crate::ledger::Money;
use crate::model::ModelName;
use crate::reputation::{Deed, MemoryLedger, ReputationLedger};
use crate::task::AttemptEnd;
use crate::time::Timestamp;

use super::What;

/// A task that is over: who worked on it for whom, and how much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFact {
    /// When it ended.
    pub at: Timestamp,
    /// Who asked, or a pseudonym that is the same for the whole month.
    pub requester: AccountId,
    /// The model.
    pub model: ModelName,
    /// Which nodes tried, whose they are, and how that ended.
    pub attempts: Vec<AttemptFact>,
    /// Tokens read and written by the node that completed it.
    pub usage: Usage,
    /// Milliseconds that it took.
    pub took_ms: u64,
    /// Milliseconds that it had, by its difficulty where it was found to have one.
    pub limit_ms: u64,
    /// What the node that completed it signed of it; sealed tasks have that. Node and caller have
    /// the same, and so find their task in the books.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<ReceiptId>,
}

/// One attempt at a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptFact {
    /// The node.
    pub node: NodeId,
    /// Its owner, or a pseudonym of it.
    pub owner: AccountId,
    /// How the attempt ended.
    pub end: AttemptEnd,
}

impl TaskFact {
    /// Returns what follows from the task for each node that tried it.
    pub fn events<'a>(&'a self, rates: &WorkRates) -> impl Iterator<Item = RewardEvent> + 'a {
        let units = rates.units(&self.model, self.usage);
        let (took, limit) = (Duration::from_millis(self.took_ms), self.limit_ms);
        let limit = Duration::from_millis(limit);
        let fast = Deed::is_fast(took, limit, self.usage.completion_tokens);
        self.attempts.iter().flat_map(move |attempt| {
            let deeds = Deed::of(attempt.end, fast).map(|deed| What::Deed { deed });
            let is_done = attempt.end == AttemptEnd::Done;
            let (requester, model) = (self.requester, || self.model.clone());
            let work = is_done.then(|| What::Work { requester, model: model(), units });
            deeds.chain(work).map(|what| RewardEvent {
                at: self.at,
                node: attempt.node,
                owner: attempt.owner,
                what,
            })
        })
    }
}

/// What one month leaves behind for the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Everybody's points, by the seeds' table.
    pub points: MemoryLedger,
    /// The state of the rules, as they wrote it.
    pub rules: Box<RawValue>,
}

impl State {
    /// Returns whether both say the same, to the byte.
    pub fn is(&self, other: &Self) -> bool {
        self.points == other.points && self.rules.get() == other.rules.get()
    }
}

/// A month while its facts are taken in.
#[derive(Debug)]
pub struct Month {
    epoch: Epoch,
    rates: WorkRates,
    points: MemoryLedger,
    rules: Box<dyn RewardRules>,
}

/// Everything that is computed at the end of a month.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The shares.
    pub closing: Closing,
    /// The points of every node that deeds are known of.
    pub points: BTreeMap<NodeId, i64>,
    /// What the next month begins with.
    pub state: State,
}

impl Outcome {
    /// Returns whether both say the same, to the byte.
    pub fn is(&self, other: &Self) -> bool {
        let same = self.closing == other.closing && self.points == other.points;
        same && self.state.is(&other.state)
    }
}

/// Makes the rules that come with Iris from their name and the state they left; `None` where the
/// name, or the state, is of other rules. Without a state they begin with nothing.
pub fn rules(name: &str, state: Option<&RawValue>) -> Option<Box<dyn RewardRules>> {
    fn read<R: RewardRules + Default + for<'a> Deserialize<'a>>(
        state: Option<&RawValue>,
    ) -> Option<Box<dyn RewardRules>> {
        let rules = match state {
            Some(state) => serde_json::from_str::<R>(state.get()).ok()?,
            None => R::default(),
        };
        Some(Box::new(rules))
    }
    match name {
        EvidenceRules::NAME => read::<EvidenceRules>(state),
        SeedRules::NAME => read::<SeedRules>(state),
        _ => None,
    }
}

impl Month {
    /// Opens a month with what the last one left.
    pub fn begin(
        epoch: Epoch,
        rates: WorkRates,
        points: MemoryLedger,
        mut rules: Box<dyn RewardRules>,
    ) -> Self {
        rules.begin(epoch);
        Self { epoch, rates, points, rules }
    }

    /// Takes in a task. Facts come in the order of their times.
    pub fn task(&mut self, task: &TaskFact) {
        let Self { rates, points, rules, .. } = self;
        for event in task.events(rates) {
            take_in(points, rules.as_mut(), &event);
        }
    }

    /// Takes in what follows from no task.
    pub fn event(&mut self, event: &RewardEvent) {
        take_in(&mut self.points, self.rules.as_mut(), event);
    }

    /// Returns the rules as they are now.
    pub fn rules(&self) -> &dyn RewardRules {
        self.rules.as_ref()
    }

    /// Shares what the month's pool holds.
    pub fn close(&self, pool: Money) -> Outcome {
        let closing = close(self.epoch, pool, self.rules.weights());
        let end = self.epoch.end();
        let nodes = self.points.nodes().into_iter();
        let points = nodes.map(|node| (node, self.points.points(&node, end).value())).collect();
        let rules = RawValue::from_string(self.rules.state().as_text().to_owned());
        let rules = rules.expect("a document is JSON");
        Outcome { closing, points, state: State { points: self.points.clone(), rules } }
    }
}

fn take_in(points: &mut MemoryLedger, rules: &mut dyn RewardRules, event: &RewardEvent) {
    if let Some(deed) = event.deed() {
        points.apply(&deed);
    }
    rules.apply(event);
}
