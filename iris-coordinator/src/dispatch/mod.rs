//! Finds a node for every task and keeps count of what is free.
//!
//! One short lock, taken when a task starts and ends; chunks never see it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iris_core::demand::Demand;
use iris_core::explain::{Explanation, Reason};
use iris_core::model::{Abilities, ModelOffer};
use iris_core::queue::{Priority, WaitQueue};
use iris_core::registry::{NodeProfile, NodeState, Registry, Seat};
use iris_core::reputation::{Points, ReputationEvent, ReputationLedger};
use iris_core::scheduler::Scheduler;
use iris_core::task::{RetryPolicy, TaskError};
use iris_core::{AccountId, ModelName, NodeId, TaskId, Timestamp};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::journal::Journal;
use crate::link::NodeLink;
use crate::settlement::Settlement;

mod lease;
mod stats;
mod task;

pub(crate) use lease::{Lease, Ticketed};
pub(crate) use stats::Counters;
pub use stats::Stats;
pub(crate) use task::Books;
pub use task::{TaskEvent, TaskHandle, TaskRequest};

/// A model counts as unknown when no node has offered it for this long.
const FORGET_MODEL_AFTER: Duration = Duration::from_hours(30 * 24);
/// How many waiting tasks one free slot is offered to before it is left free.
const LINE_SEARCH: usize = 16;
/// How many explanations are kept, the latest ones.
const EXPLANATIONS: usize = 4096;

/// The policies a dispatcher works by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DispatchSettings {
    pub(crate) retry: RetryPolicy,
    pub(crate) queue_capacity: usize,
    pub(crate) max_wait: Duration,
}

/// What all tasks and links of a coordinator share.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Counters,
    pub(crate) journal: Journal,
    pub(crate) settings: DispatchSettings,
    scheduler: Arc<dyn Scheduler>,
    seeds: AtomicU64,
    floor: Mutex<Floor>,
    ledger: Mutex<Box<dyn ReputationLedger>>,
    explanations: Mutex<VecDeque<Explained>>,
}

#[derive(Debug)]
struct Floor {
    registry: Registry,
    queue: WaitQueue,
    waiting: HashMap<iris_core::queue::Ticket, oneshot::Sender<Lease>>,
    links: HashMap<Seat, Arc<NodeLink>>,
    models: BTreeMap<ModelName, ModelSeen>,
    /// How long tasks took lately, for estimates.
    service: Duration,
    draining: bool,
}

/// When some node offered a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ModelSeen {
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

#[derive(Debug)]
struct Explained {
    task: TaskId,
    account: AccountId,
    explanation: Explanation,
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

/// A model on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSummary {
    /// Its name.
    pub name: ModelName,
    /// When a node first offered it.
    pub first_offered: Timestamp,
}

impl Dispatch {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        scheduler: Arc<dyn Scheduler>,
        ledger: Box<dyn ReputationLedger>,
        registry: Registry,
        journal: Journal,
        settings: DispatchSettings,
        seed: u64,
    ) -> Self {
        Self {
            clock,
            counters: Counters::default(),
            journal,
            settings,
            scheduler,
            seeds: AtomicU64::new(seed),
            floor: Mutex::new(Floor {
                registry,
                queue: WaitQueue::new(settings.queue_capacity),
                waiting: HashMap::new(),
                links: HashMap::new(),
                models: BTreeMap::new(),
                service: Duration::from_secs(1),
                draining: false,
            }),
            ledger: Mutex::new(ledger),
            explanations: Mutex::new(VecDeque::new()),
        }
    }

    /// Reserves a slot for `demand`, or says how it stands.
    pub(crate) fn acquire(self: &Arc<Self>, demand: &Demand, priority: Priority) -> Acquired {
        let now = self.clock.now();
        let mut floor = self.floor();
        if floor.draining {
            return Acquired::Never(TaskError::Busy { retry_after_secs: 5 });
        }
        // Whoever stands in line already goes first.
        let explanation = if floor.queue.waiting(&demand.model) == 0 {
            match self.try_reserve(&mut floor, demand, now) {
                Ok(lease) => return Acquired::Now(lease),
                Err(explanation) => explanation,
            }
        } else {
            self.scheduler.choose(&floor.registry, demand, now, self.seed()).explanation
        };
        if let Some(error) = self.hopeless(&floor, demand, &explanation) {
            return Acquired::Never(error);
        }
        let busy = TaskError::Busy { retry_after_secs: floor.retry_after(demand) };
        let Ok(ticket) = floor.queue.push(now, priority, demand.clone()) else {
            return Acquired::Never(busy);
        };
        let (sender, receiver) = oneshot::channel();
        floor.waiting.insert(ticket, sender);
        self.serve_line(&mut floor, &demand.model, now);
        drop(floor);
        let model = demand.model.clone();
        Acquired::Later(Ticketed::new(Arc::clone(self), model, ticket, receiver, busy))
    }

    /// Lets a node join by the link that `link` makes for its place.
    pub(crate) fn join(
        self: &Arc<Self>,
        profile: NodeProfile,
        link: impl FnOnce(Seat) -> Arc<NodeLink>,
    ) -> Arc<NodeLink> {
        let (now, calendar) = (self.clock.now(), self.clock.calendar());
        let points = self.points(&profile.id, calendar);
        let mut floor = self.floor();
        if let Some(previous) = floor.registry.seat(&profile.id) {
            floor.links.remove(&previous);
        }
        floor.see(&profile.models, calendar);
        let seat = floor.registry.join(now, profile, points);
        let link = link(seat);
        floor.links.insert(seat, Arc::clone(&link));
        self.serve_node(&mut floor, seat, now);
        link
    }

    /// Replaces what a node offers.
    pub(crate) fn update(
        self: &Arc<Self>,
        seat: Seat,
        slots: Option<u32>,
        models: Option<Vec<ModelOffer>>,
    ) {
        let mut floor = self.floor();
        let Some(node) = floor.registry.node(seat) else {
            return;
        };
        let slots = slots.unwrap_or(node.profile().slots);
        let models = models.unwrap_or_else(|| node.profile().models.clone());
        floor.see(&models, self.clock.calendar());
        floor.registry.update(seat, slots, models);
        self.serve_node(&mut floor, seat, self.clock.now());
    }

    /// Records that a node was heard.
    pub(crate) fn heard(&self, seat: Seat) {
        let now = self.clock.now();
        self.floor().registry.heard(now, seat);
    }

    /// Sets whether a node takes work.
    pub(crate) fn set_state(self: &Arc<Self>, seat: Seat, state: NodeState) {
        let mut floor = self.floor();
        floor.registry.set_state(seat, state);
        self.serve_node(&mut floor, seat, self.clock.now());
    }

    /// Removes a node.
    pub(crate) fn leave(&self, seat: Seat) {
        let mut floor = self.floor();
        let calendar = self.clock.calendar();
        if let Some(node) = floor.registry.node(seat) {
            let models = node.profile().models.clone();
            floor.see(&models, calendar);
        }
        floor.registry.leave(seat);
        floor.links.remove(&seat);
    }

    /// Takes no new task any more.
    pub(crate) fn begin_drain(&self) {
        self.floor().draining = true;
    }

    /// Writes a settlement's consequences into the ledger and the registry.
    pub(crate) fn settled(&self, settlement: &Settlement) {
        self.counters.settled(settlement);
        let took = Duration::from_millis(settlement.took_ms);
        let events: Vec<ReputationEvent> = settlement.deeds().collect();
        let points = self.apply(&events);
        let mut floor = self.floor();
        floor.service = (floor.service * 7 + took) / 8;
        for (node, points) in points {
            if let Some(seat) = floor.registry.seat(&node) {
                floor.registry.set_points(seat, points);
            }
        }
    }

    /// Applies events to the ledger and returns the points that came of it.
    pub(crate) fn apply(&self, events: &[ReputationEvent]) -> Vec<(NodeId, Points)> {
        if events.is_empty() {
            return Vec::new();
        }
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            ledger.apply(event);
        }
        events.iter().map(|event| (event.node, ledger.points(&event.node, event.at))).collect()
    }

    /// Returns the points of a node.
    pub(crate) fn points(&self, node: &NodeId, now: Timestamp) -> Points {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).points(node, now)
    }

    /// Looks at the registry under the lock.
    pub(crate) fn with_registry<T>(&self, look: impl FnOnce(&Registry) -> T) -> T {
        look(&self.floor().registry)
    }

    /// Returns the link of a node, if it is connected.
    pub(crate) fn link(&self, node: &NodeId) -> Option<Arc<NodeLink>> {
        let floor = self.floor();
        floor.links.get(&floor.registry.seat(node)?).cloned()
    }

    /// Returns the links of all nodes.
    pub(crate) fn links(&self) -> Vec<Arc<NodeLink>> {
        self.floor().links.values().cloned().collect()
    }

    /// Returns the models that some node offers now.
    pub(crate) fn models(&self) -> Vec<ModelSummary> {
        let floor = self.floor();
        let seen = |name: &ModelName| floor.models.get(name).map(|seen| seen.first);
        let models = floor.registry.models().map(|name| ModelSummary {
            name: name.clone(),
            first_offered: seen(name).unwrap_or(Timestamp::from_millis(0)),
        });
        models.collect()
    }

    /// Restores when models were offered, from what was written down.
    pub(crate) fn restore_models(&self, models: impl IntoIterator<Item = (ModelName, ModelSeen)>) {
        self.floor().models.extend(models);
    }

    /// Returns when each known model was offered first and last.
    pub(crate) fn models_seen(&self) -> Vec<(ModelName, ModelSeen)> {
        let calendar = self.clock.calendar();
        let mut floor = self.floor();
        let offered: Vec<ModelName> = floor.registry.models().cloned().collect();
        for name in offered {
            if let Some(seen) = floor.models.get_mut(&name) {
                seen.last = calendar;
            }
        }
        floor.models.retain(|_, seen| calendar.saturating_since(seen.last) < FORGET_MODEL_AFTER);
        floor.models.iter().map(|(name, seen)| (name.clone(), *seen)).collect()
    }

    /// Returns how many tasks stand in line.
    pub(crate) fn queued(&self) -> usize {
        self.floor().queue.len()
    }

    /// Returns why `task` went where it went, if it is a recent one of `account`.
    pub(crate) fn explanation(&self, task: &TaskId, account: &AccountId) -> Option<Explanation> {
        let explanations = self.explanations.lock().unwrap_or_else(PoisonError::into_inner);
        let found = explanations.iter().rev().find(|e| e.task == *task && e.account == *account);
        found.map(|explained| explained.explanation.clone())
    }

    pub(crate) fn explain(&self, task: TaskId, account: AccountId, explanation: Explanation) {
        let mut explanations = self.explanations.lock().unwrap_or_else(PoisonError::into_inner);
        if explanations.len() == EXPLANATIONS {
            explanations.pop_front();
        }
        explanations.push_back(Explained { task, account, explanation });
    }

    /// Gives a slot back and offers it to whoever waits.
    fn release(self: &Arc<Self>, seat: Seat) {
        let mut floor = self.floor();
        floor.registry.release(seat);
        if !floor.queue.is_empty() {
            self.serve_node(&mut floor, seat, self.clock.now());
        }
    }

    /// Takes a task out of the line.
    fn leave_line(&self, model: &ModelName, ticket: iris_core::queue::Ticket) {
        let mut floor = self.floor();
        floor.queue.remove(model, ticket);
        floor.waiting.remove(&ticket);
    }

    /// Offers a node's free slots to those who wait for its models.
    fn serve_node(self: &Arc<Self>, floor: &mut Floor, seat: Seat, now: Instant) {
        if floor.queue.is_empty() {
            return;
        }
        let Some(node) = floor.registry.node(seat) else {
            return;
        };
        let models: Vec<ModelName> = node.tiers().map(|(name, _)| name.clone()).collect();
        for model in models {
            self.serve_line(floor, &model, now);
        }
    }

    /// Gives leases to the first in line that a free node can serve.
    fn serve_line(self: &Arc<Self>, floor: &mut Floor, model: &ModelName, now: Instant) {
        loop {
            let line: Vec<_> = floor.queue.line(model).take(LINE_SEARCH).collect();
            let served = line.into_iter().find_map(|(ticket, demand)| {
                let choice = self.scheduler.choose(&floor.registry, demand, now, self.seed());
                choice.chosen.is_some().then_some((ticket, choice))
            });
            let Some((ticket, choice)) = served else {
                return;
            };
            let lease = self.reserve(floor, choice);
            floor.queue.remove(model, ticket);
            let waiting = floor.waiting.remove(&ticket);
            let Ok(lease) = lease else { return };
            // Whoever left the line in this moment leaves the lease behind; it is given back
            // here, because dropping it would wait for the lock that is held.
            let returned = match waiting {
                Some(sender) => sender.send(lease).err(),
                None => Some(lease),
            };
            if let Some(lease) = returned {
                floor.registry.release(lease.forget());
            }
        }
    }

    fn try_reserve(
        self: &Arc<Self>,
        floor: &mut Floor,
        demand: &Demand,
        now: Instant,
    ) -> Result<Lease, Explanation> {
        let choice = self.scheduler.choose(&floor.registry, demand, now, self.seed());
        self.reserve(floor, choice)
    }

    fn reserve(
        self: &Arc<Self>,
        floor: &mut Floor,
        choice: iris_core::scheduler::Choice,
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
        Ok(Lease::new(Arc::clone(self), candidate, link, choice.explanation))
    }

    /// Says why waiting for `demand` makes no sense; `None` when it does.
    fn hopeless(
        &self,
        floor: &Floor,
        demand: &Demand,
        explanation: &Explanation,
    ) -> Option<TaskError> {
        let model = demand.model.to_string();
        let skipped = |reason| explanation.skipped.iter().any(|(r, _)| *r == reason);
        if !floor.registry.offers(&demand.model) {
            let now = self.clock.calendar();
            let known = floor.models.get(&demand.model);
            let known =
                known.is_some_and(|seen| now.saturating_since(seen.last) < FORGET_MODEL_AFTER);
            return Some(if known {
                TaskError::NoNodeOnline { model }
            } else {
                TaskError::ModelNotFound { model }
            });
        }
        if skipped(Reason::NoFreeSlot) {
            // Those that are busy may be the ones that were tried already.
            let able = floor.registry.groups(demand).filter(|group| group.refusal.is_none());
            let members: usize = able.map(|group| group.free() + group.occupied() as usize).sum();
            if members > demand.exclude.len() {
                return None;
            }
        }
        if skipped(Reason::AlreadyTried) || !demand.exclude.is_empty() {
            return Some(TaskError::Busy { retry_after_secs: floor.retry_after(demand) });
        }
        if !explanation.compared.is_empty() {
            return None;
        }
        Some(TaskError::NoNodeAble { model, needs: needs(demand, explanation) })
    }

    fn seed(&self) -> u64 {
        self.seeds.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    fn floor(&self) -> MutexGuard<'_, Floor> {
        // A panic under the lock leaves counts that are at worst too high for one node.
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Floor {
    fn see(&mut self, models: &[ModelOffer], now: Timestamp) {
        for offer in models {
            let seen = ModelSeen { first: now, last: now };
            self.models.entry(offer.name.clone()).or_insert(seen).last = now;
        }
    }

    /// Estimates when a task that comes now could start: those before it, at the pace of late.
    fn retry_after(&self, demand: &Demand) -> u32 {
        let waiting = self.queue.waiting(&demand.model) + 1;
        let slots: u64 = self
            .registry
            .groups(demand)
            .filter(|group| group.refusal.is_none())
            .map(|group| group.free() as u64 + u64::from(group.occupied()))
            .sum();
        let millis = self.service.as_millis() * waiting as u128 / u128::from(slots.max(1));
        u32::try_from(millis.div_ceil(1000)).unwrap_or(u32::MAX).clamp(1, 600)
    }
}

/// Says what the nodes of a model lack for `demand`.
fn needs(demand: &Demand, explanation: &Explanation) -> String {
    let lacks = |reason| explanation.skipped.iter().any(|(known, _)| *known == reason);
    let mut needs = Vec::new();
    if lacks(Reason::ContextTooShort) {
        needs.push(format!("a context of {} tokens", demand.context_tokens));
    }
    if lacks(Reason::MissingAbility) && demand.abilities != Abilities::NONE {
        needs.push(demand.abilities.names().collect::<Vec<_>>().join(", "));
    }
    if lacks(Reason::TierTooLow) {
        needs.push("a higher tier".to_owned());
    }
    needs.join(" and ")
}
