//! Asking for a node: a slot at once, a place in line, or the reason why neither.

use std::sync::Arc;
use std::time::Instant;

use iris_core::admission::Situation;
use iris_core::demand::Demand;
use iris_core::explain::{Explanation, Reason};
use iris_core::queue::Priority;
use iris_core::scheduler::Choice;
use iris_core::task::TaskError;
use iris_core::{AccountId, ModelName, TaskId};
use tokio::sync::oneshot;

use super::lease::{Hold, Lease, Ticketed};
use super::line::Waiter;
use super::{Dispatch, Floor};

/// How a task stands that asks for a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) task: TaskId,
    pub(crate) account: AccountId,
    /// Whose request it is for the nodes.
    pub(crate) name: AccountId,
    pub(crate) priority: Priority,
    /// Whether a node had the task already.
    pub(crate) begun: bool,
    /// Since when it has waited, where it asks again.
    pub(crate) since: Option<Instant>,
    /// How many different owners it and those before it need, which are not claimed yet; 0 where
    /// owners do not matter.
    pub(crate) owners: usize,
}

impl Asker {
    /// Returns whether it may be sent away because the line is too long.
    fn is_newcomer(&self) -> bool {
        self.priority == Priority::Interactive && !self.begun && self.since.is_none()
    }
}

/// What came of asking for a node.
#[derive(Debug)]
pub(crate) enum Acquired {
    /// A slot of this node is reserved.
    Now(Lease),
    /// All nodes that would do are busy; the task stands in line.
    Later(Ticketed),
    /// There is no node, and none is worth waiting for.
    Never(TaskError),
}

impl Dispatch {
    /// Reserves a slot for `demand`, or says how it stands.
    ///
    /// A slot that falls free goes to whoever waits for it, under the lock. So a node that is
    /// free now is one that nobody in line can use, and whoever comes may take it. Where none is
    /// free, an interactive task stands in line only if its turn comes soon, unless a node had it
    /// already or it stood there before.
    ///
    /// Whom its asker may ask is written into the demand here, where nobody can change it between
    /// that and the line.
    pub(crate) fn acquire(self: &Arc<Self>, demand: &mut Demand, asker: Asker) -> Acquired {
        let Asker { account, name, priority, .. } = asker;
        if self.journal.is_behind() {
            return Acquired::Never(TaskError::BooksFull);
        }
        let now = self.clock.now();
        let mut floor = self.floor();
        if floor.draining {
            return Acquired::Never(TaskError::ShuttingDown);
        }
        (demand.barred, demand.invited) = self.admittance.owners(&name);
        let explanation = match self.try_reserve(&mut floor, demand, now) {
            Ok(lease) => {
                floor.admission.found_place(&demand.model, account, now);
                return Acquired::Now(lease);
            }
            Err(explanation) => explanation,
        };
        let newcomer = asker.is_newcomer();
        let situation = floor.situation(demand, account, priority, now);
        if let Some(error) = self.hopeless(&mut floor, demand, situation, asker, &explanation) {
            return Acquired::Never(error);
        }
        if newcomer && let Err(retry_after_secs) = floor.admission.admit(&demand.model, situation) {
            return Acquired::Never(TaskError::Busy { retry_after_secs });
        }
        let since = asker.since.unwrap_or(now);
        let Ok(ticket) = floor.queue.push(since, priority, demand.clone()) else {
            return Acquired::Never(floor.busy(demand, situation, newcomer));
        };
        let (turn, receiver) = oneshot::channel();
        let (task, model) = (asker.task, demand.model.clone());
        floor.waiting.insert(ticket, Waiter { task, name, model, turn });
        drop(floor);
        Acquired::Later(Ticketed::new(Arc::clone(self), demand.model.clone(), ticket, receiver))
    }

    /// Reserves a slot for `demand` that is free and that nobody waits for.
    pub(crate) fn acquire_spare(self: &Arc<Self>, demand: &Demand) -> Option<Lease> {
        let now = self.clock.now();
        let mut floor = self.floor();
        if floor.draining || self.journal.is_behind() {
            return None;
        }
        self.try_reserve(&mut floor, demand, now).ok()
    }

    /// Says what to tell a task that has waited for `demand` for as long as it may.
    pub(crate) fn waited_in_vain(&self, demand: &Demand, account: AccountId) -> TaskError {
        let mut floor = self.floor();
        let able = floor.registry.iter().any(|(_, node)| {
            let refusal = floor.registry.refusal(&node.profile().id, demand);
            matches!(refusal, None | Some(Reason::NoFreeSlot))
        });
        if able {
            let now = self.clock.now();
            let situation = floor.situation(demand, account, Priority::Interactive, now);
            floor.busy(demand, situation, true)
        } else if !demand.only.is_empty() {
            TaskError::NodeOffline
        } else {
            TaskError::NoNodeOnline { model: demand.model.to_string() }
        }
    }

    fn try_reserve(
        self: &Arc<Self>,
        floor: &mut Floor,
        demand: &Demand,
        now: Instant,
    ) -> Result<Lease, Explanation> {
        let choice = self.scheduler.choose(&floor.registry, demand, now, self.seed());
        let own = choice.chosen.is_some_and(|chosen| demand.is_own(&chosen.owner));
        self.reserve(floor, &demand.model, choice, own, now)
    }

    /// Reserves a slot of the chosen node, which works for its `own` owner or for another.
    pub(super) fn reserve(
        self: &Arc<Self>,
        floor: &mut Floor,
        model: &ModelName,
        choice: Choice,
        own: bool,
        now: Instant,
    ) -> Result<Lease, Explanation> {
        let Some(candidate) = choice.chosen else {
            return Err(choice.explanation);
        };
        let Some(link) = floor.links.get(&candidate.seat) else {
            return Err(choice.explanation);
        };
        let link = Arc::clone(link);
        if !floor.registry.reserve(candidate.seat) {
            return Err(choice.explanation);
        }
        if !own {
            floor.registry.count_work(candidate.seat, model);
        }
        let hold = Hold { seat: candidate.seat, model: model.clone(), since: now, accepted: false };
        Ok(Lease::new(Arc::clone(self), hold, candidate.node, link, choice.explanation))
    }

    /// Says why waiting for `demand` makes no sense; `None` when it does.
    fn hopeless(
        &self,
        floor: &mut Floor,
        demand: &Demand,
        situation: Situation,
        asker: Asker,
        explanation: &Explanation,
    ) -> Option<TaskError> {
        let model = demand.model.to_string();
        if !floor.registry.offers(&demand.model) {
            floor.wanted.count(&demand.model, asker.account);
            let known = floor.models.knows(&demand.model, self.clock.calendar());
            return Some(if known {
                TaskError::NoNodeOnline { model }
            } else {
                TaskError::ModelNotFound { model }
            });
        }
        let able = floor.registry.groups(demand).filter(|group| group.refusal.is_none());
        let able: usize = able.map(|group| group.free() + group.occupied() as usize).sum();
        if able == 0 {
            return Some(floor.nobody(demand, explanation));
        }
        let owners = floor.registry.owners(demand, asker.owners.max(1));
        if owners < asker.owners {
            return Some(TaskError::TooFewOwners);
        }
        if owners > 0 {
            return None;
        }
        let unbarred = || Demand { barred: Vec::new(), ..demand.clone() };
        if !demand.barred.is_empty() && floor.registry.owners(&unbarred(), 1) > 0 {
            let needs = "a node whose owner lets it answer this caller".to_owned();
            return Some(TaskError::NoNodeAble { model, needs, too_long: false });
        }
        if !demand.denied.is_empty() || !demand.denied_owners.is_empty() {
            let needs = "a node that its caller has not ruled out".to_owned();
            return Some(TaskError::NoNodeAble { model, needs, too_long: false });
        }
        if !asker.begun && !demand.exclude.is_empty() {
            let needs = "a node that has not tried it yet".to_owned();
            return Some(TaskError::NoNodeAble { model, needs, too_long: false });
        }
        Some(floor.busy(demand, situation, asker.is_newcomer()))
    }
}

impl Floor {
    /// Says why none of the nodes that offer the model will do.
    pub(super) fn nobody(&self, demand: &Demand, explanation: &Explanation) -> TaskError {
        let lacking = TaskError::no_node_able(demand, explanation);
        match &demand.dataset {
            Some(name) if !self.registry.holds(name) => TaskError::NoDataset { name: name.clone() },
            // The nodes that it is meant for are away, or do not offer the model.
            _ if matches!(&lacking, TaskError::NoNodeAble { needs, .. } if needs.is_empty()) => {
                TaskError::NodeOffline
            }
            _ => lacking,
        }
    }

    fn situation(
        &mut self,
        demand: &Demand,
        account: AccountId,
        priority: Priority,
        now: Instant,
    ) -> Situation {
        let able = self.registry.groups(demand).filter(|group| group.refusal.is_none());
        let slots = able.map(|group| group.capacity()).sum();
        Situation { now, account, ahead: self.queue.ahead(&demand.model, now, priority), slots }
    }

    /// Sends a task away: a newcomer with an appointment, any other with an estimate.
    fn busy(&mut self, demand: &Demand, situation: Situation, newcomer: bool) -> TaskError {
        let retry_after_secs = if newcomer {
            self.admission.appoint(&demand.model, situation)
        } else {
            self.admission.estimate(&demand.model, situation)
        };
        TaskError::Busy { retry_after_secs }
    }
}
