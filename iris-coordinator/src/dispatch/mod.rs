//! Finds a node for every task and keeps count of what is free.
//!
//! One short lock, taken when a task starts and ends; chunks never see it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use iris_core::admission::{Admission, AdmissionPolicy, Situation};
use iris_core::demand::Demand;
use iris_core::explain::{Explanation, Reason};
use iris_core::model::ModelOffer;
use iris_core::queue::{Priority, Ticket, WaitQueue};
use iris_core::registry::{Node, NodeProfile, NodeState, Registry, Seat};
use iris_core::reputation::{Points, ReputationEvent, ReputationLedger};
use iris_core::scheduler::{Choice, Scheduler};
use iris_core::standing::{Standing as Trusted, Standings};
use iris_core::store::{Batch, Document};
use iris_core::task::{Attempt, RetryPolicy, TaskError};
use iris_core::terms::Terms;
use iris_core::{AccountId, ModelName, NodeId, TaskId, Timestamp};
use iris_crypto::certificate::CertificateHash;
use iris_crypto::{SignedCertificate, VerifiedCertificate};
use iris_protocol::openai::Turns;
use iris_protocol::rest::MembershipState;
use tokio::sync::oneshot;

use crate::accounts::{Accounts, NOBODY};
use crate::admittance::Admittance;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::history::Histories;
use crate::holds::Holds;
use crate::journal::Journal;
use crate::limits::Limits;
use crate::link::{NodeLink, within};
use crate::live::Live;
use crate::promises::Promises;
use crate::settlement::Settlement;

mod affinity;
mod apart;
mod audits;
mod certificates;
mod explanations;
mod held;
mod judges;
mod lease;
mod listing;
mod models;
mod passed;
mod payer;
mod placement;
mod routing;
mod sealing;
mod stats;
mod task;
mod wanted;
mod why;

use affinity::Affinity;
pub use affinity::Conversation;
pub use apart::Apart;
use audits::Listener;
pub(crate) use audits::{Exchange, Offers, Pace, Worked};
use certificates::{Certificates, Standing};
use explanations::Explanations;
use judges::Judges;
use lease::Hold;
pub(crate) use lease::{Lease, Ticketed, Turn};
pub(crate) use listing::{Listed, Listing};
pub(crate) use models::{KnownModels, MODEL, ModelRecord};
pub use payer::Payer;
pub use placement::Placement;
pub use routing::Routing;
pub(crate) use sealing::ReceiptRecord;
#[cfg(any(all(test, feature = "http"), fuzzing))]
pub(crate) use sealing::Transcript;
pub(crate) use stats::Counters;
pub use stats::Stats;
pub(crate) use task::Books;
pub use task::{SealedTask, TaskEvent, TaskHandle, TaskRequest};
use wanted::Wanted;
#[cfg(feature = "http")]
pub(crate) use why::hide_reason;

/// How many waiting tasks that a free node could serve are put to the scheduler before the node
/// is left free.
const ASKED: usize = 16;

/// The policies a dispatcher works by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DispatchSettings {
    pub(crate) retry: RetryPolicy,
    pub(crate) queue_capacity: usize,
    pub(crate) admission: AdmissionPolicy,
}

/// What a dispatcher is put together from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) admittance: Admittance,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) ledger: Box<dyn ReputationLedger>,
    pub(crate) registry: Registry,
    pub(crate) standings: Standings,
    pub(crate) journal: Journal,
    pub(crate) histories: Histories,
    pub(crate) settings: DispatchSettings,
    pub(crate) entropy: Entropy,
    pub(crate) limits: Arc<Limits>,
    pub(crate) members: Arc<Accounts>,
    pub(crate) promises: Promises,
    pub(crate) holds: Holds,
}

/// What all tasks and links of a coordinator share.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Counters,
    pub(crate) journal: Journal,
    pub(crate) histories: Histories,
    pub(crate) settings: DispatchSettings,
    pub(crate) entropy: Entropy,
    pub(crate) limits: Arc<Limits>,
    pub(crate) promises: Promises,
    pub(crate) holds: Holds,
    pub(crate) live: Live,
    pub(crate) admittance: Admittance,
    members: Arc<Accounts>,
    scheduler: Arc<dyn Scheduler>,
    seeds: AtomicU64,
    /// Counts what changes a roster.
    changes: AtomicU64,
    floor: Mutex<Floor>,
    ledger: Mutex<Box<dyn ReputationLedger>>,
    explanations: Mutex<Explanations>,
    affinity: Affinity,
    /// Who is told of completed tasks.
    worked: OnceLock<Listener>,
}

#[derive(Debug)]
struct Floor {
    registry: Registry,
    queue: WaitQueue,
    waiting: HashMap<Ticket, Waiter>,
    links: HashMap<Seat, Arc<NodeLink>>,
    judges: Judges,
    certificates: Certificates,
    models: KnownModels,
    standings: Standings,
    wanted: Wanted,
    admission: Admission,
    draining: bool,
}

/// A task that stands in line.
#[derive(Debug)]
struct Waiter {
    task: TaskId,
    name: AccountId,
    model: ModelName,
    turn: oneshot::Sender<Turn>,
}

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

/// A model on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSummary {
    /// Its name.
    pub name: ModelName,
    /// When a node first offered it.
    pub first_offered: Timestamp,
}

impl Dispatch {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { registry, standings, settings, entropy, .. } = parts;
        Self {
            admittance: parts.admittance,
            members: parts.members,
            clock: parts.clock,
            counters: Counters::default(),
            journal: parts.journal,
            histories: parts.histories,
            settings,
            scheduler: parts.scheduler,
            seeds: AtomicU64::new(entropy.seed()),
            entropy,
            limits: parts.limits,
            promises: parts.promises,
            holds: parts.holds,
            live: Live::default(),
            changes: AtomicU64::new(0),
            floor: Mutex::new(Floor {
                registry,
                queue: WaitQueue::new(settings.queue_capacity),
                waiting: HashMap::new(),
                links: HashMap::new(),
                judges: Judges::default(),
                certificates: Certificates::default(),
                models: KnownModels::default(),
                standings,
                wanted: Wanted::default(),
                admission: Admission::new(settings.admission),
                draining: false,
            }),
            ledger: Mutex::new(parts.ledger),
            explanations: Mutex::default(),
            affinity: Affinity::default(),
            worked: OnceLock::new(),
        }
    }

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

    /// Returns whether an account has not paid its fee, so that its own nodes alone serve it.
    pub(crate) fn is_lapsed(&self, account: &AccountId) -> bool {
        // Those without an account are let in, or not, before they become a task.
        *account != NOBODY && self.members.membership(account).state == MembershipState::Lapsed
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

    /// Reserves a slot of the node that `certificate` names, for a request that is sealed to it.
    ///
    /// There is no line for a single node and no appointment with it: its caller knows others.
    pub(crate) fn acquire_named(
        self: &Arc<Self>,
        certificate: &CertificateHash,
        demand: &Demand,
        account: AccountId,
    ) -> Result<Lease, TaskError> {
        if self.journal.is_behind() {
            return Err(TaskError::BooksFull);
        }
        let now = self.clock.now();
        let mut floor = self.floor();
        if floor.draining {
            return Err(TaskError::ShuttingDown);
        }
        let node = match floor.certificates.standing(certificate, now) {
            Standing::InUse(node) => node,
            Standing::Replaced | Standing::Unknown => return Err(TaskError::StaleKey),
        };
        let seat = floor.registry.seat(&node).ok_or(TaskError::NodeOffline)?;
        let link = floor.links.get(&seat).filter(|link| link.seals).map(Arc::clone);
        let link = link.ok_or(TaskError::NodeOffline)?;
        match floor.registry.refusal(&node, demand) {
            None if floor.registry.reserve(seat) => {
                if link.owner != account {
                    floor.registry.count_work(seat, &demand.model);
                }
            }
            Some(Reason::ModelNotOffered) => {
                return Err(TaskError::NotOffered { model: demand.model.to_string() });
            }
            Some(Reason::NoFreeSlot) => {
                return Err(floor.node_busy(seat, &demand.model, account, now));
            }
            _ => return Err(TaskError::NodeOffline),
        }
        let hold = Hold { seat, model: demand.model.clone(), since: now, accepted: false };
        Ok(Lease::new(Arc::clone(self), hold, node, link, Explanation::default()))
    }

    /// Says when a node that is busy is worth asking again.
    pub(crate) fn node_busy(
        &self,
        node: &NodeId,
        model: &ModelName,
        account: AccountId,
    ) -> TaskError {
        let floor = self.floor();
        match floor.registry.seat(node) {
            Some(seat) => floor.node_busy(seat, model, account, self.clock.now()),
            None => TaskError::NodeOffline,
        }
    }

    /// Returns the current certificate of the node that a hash is, or was, known of.
    pub(crate) fn certificate_for(&self, hash: &CertificateHash) -> Option<SignedCertificate> {
        self.floor().certificates.current_for(hash).cloned()
    }

    /// Returns whether a hash is that of its node's current certificate.
    pub(crate) fn is_current(&self, hash: &CertificateHash) -> bool {
        self.floor().certificates.current_for(hash).is_some_and(|held| held.hash() == *hash)
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

    /// Lets a node join by the link that `link` makes for its place; returns the link of a
    /// session that it had before.
    pub(crate) fn join(
        self: &Arc<Self>,
        profile: NodeProfile,
        certificate: &Arc<VerifiedCertificate>,
        link: impl FnOnce(Seat) -> Arc<NodeLink>,
    ) -> (Arc<NodeLink>, Option<Arc<NodeLink>>) {
        let (now, calendar) = (self.clock.now(), self.clock.calendar());
        let points = self.points(&profile.id, calendar);
        let mut floor = self.floor();
        let displaced = floor.registry.seat(&profile.id);
        let before = displaced.and_then(|seat| floor.registry.node(seat));
        let before = before.map(|node| node.profile().models.clone()).unwrap_or_default();
        let displaced = displaced.and_then(|seat| floor.part(seat));
        let news = floor.models.see(&profile.models, calendar);
        floor.certificates.see(profile.id, certificate, now);
        let standing = floor.standings.of(&profile.id, calendar);
        let seat = floor.registry.join(profile, points);
        floor.registry.set_standing(seat, standing);
        if self.allowed(&floor, seat, NodeState::Ready) == NodeState::Draining {
            floor.registry.set_state(seat, NodeState::Draining);
        }
        floor.forget_lines(&before);
        let link = link(seat);
        floor.links.insert(seat, Arc::clone(&link));
        if link.classifies {
            floor.judges.join(seat);
        }
        self.note_change();
        self.serve_node(&mut floor, seat, now);
        drop(floor);
        self.record_models(&news);
        (link, displaced)
    }

    /// Replaces what a node offers.
    pub(crate) fn update(
        self: &Arc<Self>,
        seat: Seat,
        slots: Option<u32>,
        models: Option<Vec<ModelOffer>>,
    ) {
        let mut floor = self.floor();
        let Some(node) = floor.registry.node(seat) else { return };
        let slots_before = node.profile().slots;
        let slots = slots.unwrap_or(slots_before);
        let before = node.profile().models.clone();
        let continues = floor.links.get(&seat).is_some_and(|link| link.continues);
        let models = models.map(|models| within(continues, models));
        let models = models.unwrap_or_else(|| before.clone());
        let news = floor.models.see(&models, self.clock.calendar());
        if slots != slots_before || models != before {
            self.note_change();
        }
        floor.registry.update(seat, slots, models);
        floor.forget_lines(&before);
        self.serve_node(&mut floor, seat, self.clock.now());
        drop(floor);
        self.record_models(&news);
    }

    /// Takes in what a node's owner has settled about it.
    pub(crate) fn take_terms(self: &Arc<Self>, link: &NodeLink, terms: &Terms) {
        let mut floor = self.floor();
        // A session that was replaced does not speak for its node any more.
        if floor.registry.node(link.seat).is_none() {
            return;
        }
        floor.registry.set_terms(link.seat, terms.clone());
        self.note_change();
        self.serve_node(&mut floor, link.seat, self.clock.now());
        drop(floor);
        let now = self.clock.calendar();
        self.promises.declare(now, link.node, link.owner, terms.hours.as_deref());
    }

    /// Sets whether a node takes work.
    pub(crate) fn set_state(self: &Arc<Self>, seat: Seat, state: NodeState) {
        let mut floor = self.floor();
        let state = self.allowed(&floor, seat, state);
        floor.registry.set_state(seat, state);
        self.note_change();
        self.serve_node(&mut floor, seat, self.clock.now());
    }

    /// Removes a node.
    pub(crate) fn leave(&self, seat: Seat) {
        let calendar = self.clock.calendar();
        let mut floor = self.floor();
        let Some(node) = floor.registry.node(seat) else { return };
        let (id, offers) = (node.profile().id, node.profile().models.clone());
        floor.models.see(&offers, calendar);
        floor.registry.leave(seat);
        floor.certificates.leave(id);
        floor.part(seat);
        self.note_change();
        floor.forget_lines(&offers);
    }

    /// Replaces the certificate of a node's sealing key.
    pub(crate) fn certify(&self, link: &NodeLink, certificate: Arc<VerifiedCertificate>) {
        let now = self.clock.now();
        let mut floor = self.floor();
        // A session that was replaced does not speak for its node any more.
        if floor.registry.node(link.seat).is_some() {
            floor.certificates.see(link.node, &certificate, now);
        }
        drop(floor);
        link.set_certificate(certificate);
        self.note_change();
    }

    /// Counts the changes of nodes, their certificates and what they offer.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Counts a change that was made: who sees the count sees the change too.
    fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Takes no new task any more.
    pub(crate) fn begin_drain(&self) {
        self.floor().draining = true;
    }

    /// Returns whether no new task is taken any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.floor().draining
    }

    /// Shows the registry, under the lock.
    pub(crate) fn with_registry<T>(&self, show: impl FnOnce(&Registry) -> T) -> T {
        show(&self.floor().registry)
    }

    /// Writes a settlement's consequences into the ledger and the registry.
    pub(crate) fn settled(&self, settlement: &Settlement) {
        self.counters.settled(settlement);
        self.live.over(settlement);
        if let Some(key) = &settlement.key {
            let usage = settlement.usage;
            let tokens = u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens);
            self.limits.spend(key, tokens);
        }
        let events: Vec<ReputationEvent> = settlement.deeds().collect();
        self.apply(&events);
    }

    /// Applies events to the ledger, and what comes of them to the registry.
    pub(crate) fn apply(&self, events: &[ReputationEvent]) {
        if events.is_empty() {
            return;
        }
        // The ledger stays locked, so that points reach the registry in the order of the events.
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            ledger.apply(event);
        }
        let mut floor = self.floor();
        for event in events {
            if let Some(seat) = floor.registry.seat(&event.node) {
                floor.registry.set_points(seat, ledger.points(&event.node, event.at));
            }
        }
    }

    /// Takes in how attempts at a task of `account` ended. What nodes do for their own owners says
    /// nothing of them.
    pub(crate) fn note_attempts(&self, account: AccountId, attempts: &[Attempt]) {
        if attempts.is_empty() {
            return;
        }
        let now = self.clock.calendar();
        let mut floor = self.floor();
        let Floor { registry, standings, .. } = &mut *floor;
        for Attempt { node, end } in attempts {
            let seat = registry.seat(node);
            let owner = seat.and_then(|seat| Some(registry.node(seat)?.profile().owner));
            if owner == Some(account) {
                continue;
            }
            if let (Some(standing), Some(seat)) = (standings.note(*node, *end, now), seat) {
                registry.set_standing(seat, standing);
            }
        }
    }

    /// Lets old evidence fade, and forgets what is only of use for nodes that are here.
    pub(crate) fn refresh_standings(&self) {
        let now = self.clock.calendar();
        let mut floor = self.floor();
        let Floor { registry, standings, .. } = &mut *floor;
        standings.forget_faded(now);
        let seats: Vec<_> = registry
            .iter()
            .map(|(seat, node)| (seat, standings.of(&node.profile().id, now)))
            .collect();
        for (seat, standing) in seats {
            registry.set_standing(seat, standing);
        }
        self.explained().keep_nodes(|node| registry.seat(node).is_some());
    }

    /// Names the conversation that `account` goes on with in a chat that was read.
    pub(crate) fn conversation(
        &self,
        account: AccountId,
        body: &[u8],
        turns: Option<&Turns>,
    ) -> Option<Conversation> {
        self.affinity.conversation(account, body, turns?)
    }

    /// Returns the points of a node.
    pub(crate) fn points(&self, node: &NodeId, now: Timestamp) -> Points {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).points(node, now)
    }

    /// Returns the points of a node that is connected.
    pub(crate) fn points_of(&self, node: &NodeId) -> Option<i64> {
        let floor = self.floor();
        let seat = floor.registry.seat(node)?;
        Some(floor.registry.node(seat)?.points().value())
    }

    /// Returns what a node has done and how far it is trusted, also while it is away.
    pub(crate) fn record_of(&self, node: &NodeId) -> (Points, Trusted) {
        let now = self.clock.calendar();
        let points = self.points(node, now);
        (points, self.floor().standings.of(node, now))
    }

    /// Shows a node that is connected, with its link.
    pub(crate) fn show_node<T>(
        &self,
        node: &NodeId,
        show: impl FnOnce(&Node, Option<&NodeLink>) -> T,
    ) -> Option<T> {
        let floor = self.floor();
        let seat = floor.registry.seat(node)?;
        let link = floor.links.get(&seat).map(Arc::as_ref);
        Some(show(floor.registry.node(seat)?, link))
    }

    /// Returns the name of a node that is connected.
    pub(crate) fn name_of(&self, node: &NodeId) -> Option<String> {
        let floor = self.floor();
        let seat = floor.registry.seat(node)?;
        Some(floor.registry.node(seat)?.profile().name.clone())
    }

    /// Returns the points of every node that is connected or that deeds are known of.
    pub(crate) fn all_points(&self) -> HashMap<NodeId, Points> {
        let now = self.clock.calendar();
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = ledger.nodes();
        let mut points: HashMap<NodeId, Points> =
            nodes.into_iter().map(|node| (node, ledger.points(&node, now))).collect();
        drop(ledger);
        for (_, node) in self.floor().registry.iter() {
            points.entry(node.profile().id).or_insert_with(|| node.points());
        }
        points
    }

    /// Shows at most `limit` nodes, in the order of their ids, beginning after `after`.
    pub(crate) fn nodes_after<T>(
        &self,
        after: Option<&NodeId>,
        limit: usize,
        show: impl Fn(&Node, Option<&NodeLink>) -> T,
    ) -> Vec<T> {
        let floor = self.floor();
        let nodes = floor.registry.iter();
        let nodes = nodes.filter(|(_, node)| after.is_none_or(|after| node.profile().id > *after));
        let shown = nodes.map(|(seat, node)| show(node, floor.links.get(&seat).map(Arc::as_ref)));
        shown.take(limit).collect()
    }

    /// Shows every node, in the order of their ids, with its link.
    pub(crate) fn nodes<T>(&self, show: impl Fn(&Node, Option<&NodeLink>) -> T) -> Vec<T> {
        let floor = self.floor();
        let nodes = floor.registry.iter();
        nodes.map(|(seat, node)| show(node, floor.links.get(&seat).map(Arc::as_ref))).collect()
    }

    /// Returns the link of a node, if it is connected.
    pub(crate) fn link(&self, node: &NodeId) -> Option<Arc<NodeLink>> {
        let floor = self.floor();
        floor.links.get(&floor.registry.seat(node)?).cloned()
    }

    /// Returns the links of all nodes, in the order of their seats.
    pub(crate) fn links(&self) -> Vec<Arc<NodeLink>> {
        let mut links: Vec<_> = self.floor().links.values().cloned().collect();
        links.sort_unstable_by_key(|link| link.seat);
        links
    }

    /// Returns the models that some node offers now.
    pub(crate) fn models(&self) -> Vec<ModelSummary> {
        let floor = self.floor();
        let first =
            |name: &ModelName| floor.models.first(name).unwrap_or(Timestamp::from_millis(0));
        let summary =
            |name: &ModelName| ModelSummary { name: name.clone(), first_offered: first(name) };
        floor.registry.models().map(summary).collect()
    }

    /// Restores when models were offered, from what was written down.
    pub(crate) fn restore_models(&self, records: impl IntoIterator<Item = ModelRecord>) {
        self.floor().models.restore(records);
    }

    /// Writes down which models were offered of late, and forgets those that were not for long.
    pub(crate) fn keep_models(&self, at_once: bool) {
        let calendar = self.clock.calendar();
        let mut floor = self.floor();
        let Floor { registry, models, .. } = &mut *floor;
        models.still_offered(registry.models(), calendar);
        let due = models.due(calendar, at_once);
        let forgotten = models.forget(calendar);
        drop(floor);
        self.record_models(&due);
        let batch = forgotten.iter().map(KnownModels::key).fold(Batch::new(), Batch::delete);
        if !batch.writes.is_empty() {
            self.record(batch);
        }
    }

    fn record_models(&self, records: &[ModelRecord]) {
        let batch = records.iter().fold(Batch::new(), |batch, record| {
            batch.put(KnownModels::key(&record.name), Document::encode(record))
        });
        if !batch.writes.is_empty() {
            self.record(batch);
        }
    }

    /// Returns how many tasks stand in line.
    pub(crate) fn queued(&self) -> usize {
        self.floor().queue.len()
    }

    /// Returns why `task` went where it went, each time, if it is a recent one of `account`.
    pub(crate) fn explanations(&self, task: &TaskId, account: &AccountId) -> Vec<Explanation> {
        self.explained().of_task(task, account)
    }

    pub(crate) fn explain(&self, task: TaskId, account: AccountId, explanation: Explanation) {
        self.explained().add(task, account, explanation);
    }

    fn explained(&self) -> MutexGuard<'_, Explanations> {
        self.explanations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a slot back and offers it to whoever waits. `since` says since when a node has worked
    /// in it, if one did.
    fn release(self: &Arc<Self>, seat: Seat, model: &ModelName, since: Option<Instant>) {
        let now = self.clock.now();
        let mut floor = self.floor();
        floor.registry.release(seat);
        if let Some(since) = since
            && floor.registry.offers(model)
        {
            floor.admission.record(model, now.saturating_duration_since(since));
        }
        if !floor.queue.is_empty() {
            self.serve_node(&mut floor, seat, now);
        }
    }

    /// Returns which place a task has in the line for its model, 1 being the next one; `None` for
    /// one that does not wait. This costs as much as there are tasks that wait.
    pub(crate) fn place_in_line(&self, task: &TaskId) -> Option<u32> {
        let floor = self.floor();
        let (ticket, waiter) = floor.waiting.iter().find(|(_, waiter)| waiter.task == *task)?;
        u32::try_from(floor.queue.place(&waiter.model, *ticket)?).ok()
    }

    /// Lets the tasks in the name of `caller` that stand in line ask again, each for its old place: an owner
    /// has said something else of it.
    pub(crate) fn ask_again(&self, caller: &AccountId) {
        let mut floor = self.floor();
        let Floor { queue, waiting, .. } = &mut *floor;
        let theirs = waiting.iter().filter(|(_, waiter)| waiter.name == *caller);
        let mut tickets: Vec<Ticket> = theirs.map(|(ticket, _)| *ticket).collect();
        tickets.sort_unstable();
        for ticket in tickets {
            let Some(waiter) = waiting.remove(&ticket) else { continue };
            queue.remove(&waiter.model, ticket);
            // Whoever left the line in this moment asks nothing more.
            let _ = waiter.turn.send(Turn::Again);
        }
    }

    /// Takes a task out of the line.
    fn leave_line(&self, model: &ModelName, ticket: Ticket) {
        let mut floor = self.floor();
        floor.queue.remove(model, ticket);
        floor.waiting.remove(&ticket);
    }

    /// Offers a node's free slots to those who wait for its models, the first in line first.
    fn serve_node(self: &Arc<Self>, floor: &mut Floor, seat: Seat, now: Instant) {
        if floor.queue.is_empty() {
            return;
        }
        let Some(node) = floor.registry.node(seat) else { return };
        let id = node.profile().id;
        let models: Vec<ModelName> = node.tiers().map(|(name, _)| name.clone()).collect();
        for model in models {
            while self.serve_first(floor, &id, &model, now) {}
        }
    }

    /// Serves the first in line whom a node can serve; returns whether there was one.
    fn serve_first(
        self: &Arc<Self>,
        floor: &mut Floor,
        node: &NodeId,
        model: &ModelName,
        now: Instant,
    ) -> bool {
        let able = |(_, demand): &(Ticket, &Demand)| floor.registry.refusal(node, demand).is_none();
        let able = floor.queue.line(model).filter(able).take(ASKED);
        // The scheduler may have reasons of its own to leave a node free.
        let choice = able.into_iter().find_map(|(ticket, demand)| {
            let choice = self.scheduler.choose(&floor.registry, demand, now, self.seed());
            let own = demand.is_own(&choice.chosen?.owner);
            Some((ticket, choice, own))
        });
        let Some((ticket, choice, own)) = choice else { return false };
        let Ok(lease) = self.reserve(floor, model, choice, own, now) else { return false };
        floor.queue.remove(model, ticket);
        let returned = match floor.waiting.remove(&ticket) {
            Some(waiter) => match waiter.turn.send(Turn::Served(lease)) {
                Err(Turn::Served(lease)) => Some(lease),
                _ => None,
            },
            None => Some(lease),
        };
        // Whoever left the line in this moment leaves the lease behind. It is given back here,
        // because dropping it would wait for the lock that is held.
        if let Some(lease) = returned {
            floor.registry.release(lease.forget());
        }
        true
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
    fn reserve(
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

    /// Returns whether a receipt's signature is to be checked: one in sixteen, at random.
    fn draws_audit(&self) -> bool {
        // The seeds are a known distance apart; mixing hides where they began.
        let seed = self.seed();
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 60 == 0
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
    /// Lets go of the link to a node.
    fn part(&mut self, seat: Seat) -> Option<Arc<NodeLink>> {
        let link = self.links.remove(&seat)?;
        if link.classifies {
            self.judges.leave(seat);
        }
        Some(link)
    }

    /// Says why none of the nodes that offer the model will do.
    fn nobody(&self, demand: &Demand, explanation: &Explanation) -> TaskError {
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

    /// Sends a task away from the one node that could do it: with an estimate of when one of its
    /// slots falls free, or because it has none.
    fn node_busy(
        &self,
        seat: Seat,
        model: &ModelName,
        account: AccountId,
        now: Instant,
    ) -> TaskError {
        let slots = self.registry.node(seat).map_or(0, |node| node.profile().slots);
        if slots == 0 {
            return TaskError::NodeOffline;
        }
        let situation = Situation { now, account, ahead: 0, slots: slots.into() };
        TaskError::NodeBusy { retry_after_secs: self.admission.estimate(model, situation) }
    }

    /// Forgets what is known of the lines for models of `offers` that nobody offers any more.
    fn forget_lines(&mut self, offers: &[ModelOffer]) {
        for offer in offers.iter().filter(|offer| !self.registry.offers(&offer.name)) {
            self.admission.forget(&offer.name);
        }
    }
}
