//! Which models are in a machine's memory, and who may use them next.
//!
//! More models can be offered than fit beside each other. Whoever asks for one that is not loaded
//! waits in a bounded queue until there is room and it is loaded, or until its deadline. Room is made
//! by unloading what was not used for the longest time, and never what is in use.
//!
//! The queue has one order for all models, by priority and age. For the first in it whose model has
//! no room, those that have to go take no further work that is behind it, so that it gets its turn
//! however much is asked of them; until then they stay a while, so that two models in turn do not
//! spend their time being loaded. All else goes on beside that.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::memory::ByteSize;
use crate::model::ModelName;
use crate::queue::Priority;

#[cfg(test)]
mod tests;

/// How much there is for models, and how long they and their callers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// What all loaded models may take together.
    pub memory: ByteSize,
    /// How many requests may wait.
    pub waiting: usize,
    /// How long a model that was loaded stays at least, while others wait for its room.
    pub stay: Duration,
}

/// What a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Memory while it is loaded, with the contexts of all its slots.
    pub memory: ByteSize,
    /// Requests that it works on at a time; at least one.
    pub slots: u32,
}

/// Names a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Load a model, and tell by [`handle_loaded`](Residency::handle_loaded) or
    /// [`handle_failed`](Residency::handle_failed) what came of it.
    Load(ModelName),
    /// Unload a model that nobody uses, or what there is of one that could not be loaded, and tell
    /// when it is gone by [`handle_unloaded`](Residency::handle_unloaded).
    Unload(ModelName),
    /// Let a request have its model, until [`handle_end`](Residency::handle_end).
    Start(Ticket),
    /// Tell a request that waited that it waited in vain.
    Refuse(Ticket, Refusal),
}

/// Why a request does not get its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such model.
    #[error("the model is not offered")]
    Unknown,
    /// It would not fit, even by itself.
    #[error(
        "the model takes {takes} and {may} may be used, which is {missing} too little: give it fewer \
         slots or a shorter context, take one of fewer bits, or let it have more memory"
    )]
    TooLarge {
        /// What it takes.
        takes: ByteSize,
        /// What all may take.
        may: ByteSize,
        /// What is missing.
        missing: ByteSize,
    },
    /// As many wait as may.
    #[error("too many wait for a model")]
    Full,
    /// Its deadline has come.
    #[error("the model was not free in time")]
    Late,
    /// The model could not be loaded.
    #[error("the model could not be loaded")]
    Failed,
}

/// The models of a machine, and who waits for them.
///
/// `handle_*` say what has happened; after each of them, and when
/// [`poll_timeout`](Self::poll_timeout) says so, [`poll`](Self::poll) is called until it has nothing
/// more. Times never go back.
#[derive(Debug)]
pub struct Residency {
    capacity: Capacity,
    models: BTreeMap<ModelName, Model>,
    /// By the time they count as submitted at, then by number.
    waiting: BTreeMap<(Instant, Ticket), Waiting>,
    running: BTreeMap<Ticket, ModelName>,
    next: u64,
    actions: VecDeque<Action>,
    /// When it was decided last.
    decided: Option<Instant>,
}

#[derive(Debug)]
struct Model {
    /// What it takes as it is loaded, or will be.
    claim: Claim,
    /// What it was last offered with.
    offered: Claim,
    state: State,
    running: u32,
    used: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Away,
    Loading,
    Loaded(Instant),
    Unloading,
}

#[derive(Debug)]
struct Waiting {
    model: ModelName,
    deadline: Instant,
}

impl Residency {
    /// Makes a machine without models.
    pub const fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            models: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            next: 0,
            actions: VecDeque::new(),
            decided: None,
        }
    }

    /// Offers a model, which is loaded when somebody asks for it. One that would not fit by itself is
    /// refused at once. What a known one takes may be something else than before; that counts once it
    /// is not loaded.
    pub fn offer(&mut self, now: Instant, name: &ModelName, claim: Claim) -> Result<(), Refusal> {
        let claim = Claim { slots: claim.slots.max(1), ..claim };
        let refusal = self.refusal(claim);
        if refusal.is_none() {
            let model = Model { claim, offered: claim, state: State::Away, running: 0, used: now };
            self.models.entry(name.clone()).or_insert(model);
        }
        if let Some(known) = self.models.get_mut(name) {
            known.offered = claim;
            if known.state == State::Away {
                self.renew(name);
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Returns why a model that takes so much cannot be loaded whatever else is there.
    fn refusal(&self, claim: Claim) -> Option<Refusal> {
        let (takes, may) = (claim.memory, self.capacity.memory);
        let missing = takes.minus(may).filter(|missing| *missing > ByteSize::ZERO)?;
        Some(Refusal::TooLarge { takes, may, missing })
    }

    /// Has a model that is not loaded take what it was last offered with, or forgets it where that
    /// cannot be.
    fn renew(&mut self, name: &ModelName) {
        let Some(model) = self.models.get_mut(name) else { return };
        model.claim = model.offered;
        let claim = model.claim;
        if let Some(refusal) = self.refusal(claim) {
            self.models.remove(name);
            self.refuse_all(name, refusal);
        }
    }

    /// Refuses all who wait for a model.
    fn refuse_all(&mut self, name: &ModelName, refusal: Refusal) {
        let gone = self.waiting.extract_if(.., |_, waiting| waiting.model == *name);
        self.actions.extend(gone.map(|((_, ticket), _)| Action::Refuse(ticket, refusal)));
    }

    /// Takes in that somebody asks for a model, and waits for it until `deadline`.
    pub fn handle_request(
        &mut self,
        now: Instant,
        model: &ModelName,
        priority: Priority,
        deadline: Instant,
    ) -> Result<Ticket, Refusal> {
        if !self.models.contains_key(model) {
            return Err(Refusal::Unknown);
        }
        let is_full = self.waiting.len() >= self.capacity.waiting;
        if is_full && !self.is_free(model) {
            return Err(Refusal::Full);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        let waiting = Waiting { model: model.clone(), deadline };
        let key = (now + priority.handicap(), ticket);
        self.waiting.insert(key, waiting);
        self.decide(now);
        // Its model may be free, and have to make room for somebody who came before.
        if is_full && self.waiting.remove(&key).is_some() {
            return Err(Refusal::Full);
        }
        Ok(ticket)
    }

    /// Takes in that a request has ended, or nobody wants it any more.
    pub fn handle_end(&mut self, now: Instant, ticket: Ticket) {
        if let Some(name) = self.running.remove(&ticket)
            && let Some(model) = self.models.get_mut(&name)
        {
            model.running -= 1;
            model.used = now;
        }
        self.waiting.retain(|(_, waiting), _| *waiting != ticket);
        self.decide(now);
    }

    /// Takes in that a model is loaded.
    pub fn handle_loaded(&mut self, now: Instant, name: &ModelName) {
        if let Some(model) = self.in_state(name, State::Loading) {
            (model.state, model.used) = (State::Loaded(now), now);
        }
        self.decide(now);
    }

    /// Takes in that a model could not be loaded. Whoever waits for it is refused. It counts as there
    /// until it is [gone](Self::handle_unloaded), and is tried again then for the next who asks.
    pub fn handle_failed(&mut self, now: Instant, name: &ModelName) {
        if let Some(model) = self.in_state(name, State::Loading) {
            model.state = State::Unloading;
            self.refuse_all(name, Refusal::Failed);
            self.actions.push_back(Action::Unload(name.clone()));
        }
        self.decide(now);
    }

    /// Takes in that a model has gone by itself, or what it was loaded from: those who use it find
    /// out. What is left of it is to be unloaded, and counts until it is.
    pub fn handle_gone(&mut self, now: Instant, name: &ModelName) {
        if let Some(model) = self.models.get_mut(name)
            && matches!(model.state, State::Loaded(_))
        {
            model.state = State::Unloading;
            self.actions.push_back(Action::Unload(name.clone()));
        }
        self.decide(now);
    }

    /// Takes in that nothing of a model is loaded any more.
    pub fn handle_unloaded(&mut self, now: Instant, name: &ModelName) {
        if let Some(model) = self.in_state(name, State::Unloading) {
            (model.state, model.running) = (State::Away, 0);
            // It may have gone while it was in use.
            self.running.retain(|_, used| used != name);
            self.renew(name);
        }
        self.decide(now);
    }

    /// Takes in that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.decide(now);
    }

    /// Returns what is to be done next.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.waiting.values().map(|waiting| waiting.deadline);
        let stays = self.models.values().filter_map(|model| match model.state {
            State::Loaded(since) => Some(since + self.capacity.stay),
            _ => None,
        });
        let is_blocked = self.waiting.values().any(|waiting| self.is_away(&waiting.model));
        // Those that have stayed long enough are waited for by their callers alone.
        let stays = stays.filter(|until| is_blocked && Some(*until) > self.decided);
        deadlines.chain(stays).min()
    }

    /// Returns how much the models take that are loaded, or about to be, or not gone yet.
    pub fn taken(&self) -> ByteSize {
        let there = self.models.values().filter(|model| model.state != State::Away);
        there.fold(ByteSize::ZERO, |sum, model| sum.plus(model.claim.memory))
    }

    /// Iterates over the models that are loaded, and how many requests each works on.
    pub fn resident(&self) -> impl Iterator<Item = (&ModelName, u32)> {
        let loaded = |model: &Model| matches!(model.state, State::Loaded(_));
        let loaded = self.models.iter().filter(move |(_, model)| loaded(model));
        loaded.map(|(name, model)| (name, model.running))
    }

    /// Returns how many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn in_state(&mut self, name: &ModelName, state: State) -> Option<&mut Model> {
        self.models.get_mut(name).filter(|model| model.state == state)
    }

    fn is_away(&self, name: &ModelName) -> bool {
        self.models.get(name).is_some_and(|model| model.state == State::Away)
    }

    /// Returns whether a model would take a request at once.
    fn is_free(&self, name: &ModelName) -> bool {
        let is_free = |model: &Model| {
            matches!(model.state, State::Loaded(_)) && model.running < model.claim.slots
        };
        self.models.get(name).is_some_and(is_free)
    }

    /// Goes through those who wait, in their order.
    fn decide(&mut self, now: Instant) {
        self.decided = Some(now);
        let late = self.waiting.extract_if(.., |_, waiting| waiting.deadline <= now);
        let late = late.map(|((_, ticket), _)| Action::Refuse(ticket, Refusal::Late));
        self.actions.extend(late.collect::<Vec<_>>());
        let order: Vec<_> = self.waiting.keys().copied().collect();
        // Room that is being made belongs to the first who needs it.
        let (mut closed, mut is_blocked) = (Vec::new(), false);
        for key in order {
            let name = self.waiting[&key].model.clone();
            let Some(model) = self.models.get_mut(&name) else { continue };
            match model.state {
                State::Loaded(_)
                    if !closed.contains(&name) && model.running < model.claim.slots =>
                {
                    model.running += 1;
                    model.used = now;
                    self.waiting.remove(&key);
                    self.running.insert(key.1, name);
                    self.actions.push_back(Action::Start(key.1));
                }
                State::Away if !is_blocked => {
                    if self.has_room_for(&name) {
                        self.load(&name);
                    } else {
                        is_blocked = true;
                        closed = self.make_room(now, &name);
                    }
                }
                _ => {}
            }
        }
    }

    fn has_room_for(&self, name: &ModelName) -> bool {
        let taken = self.taken().plus(self.models[name].claim.memory);
        taken <= self.capacity.memory
    }

    fn load(&mut self, name: &ModelName) {
        if let Some(model) = self.models.get_mut(name) {
            model.state = State::Loading;
            self.actions.push_back(Action::Load(name.clone()));
        }
    }

    /// Unloads what has to go for a model and is not in use. Returns what takes no further work until
    /// it has gone, too.
    fn make_room(&mut self, now: Instant, name: &ModelName) -> Vec<ModelName> {
        let mut lacking = self.taken().plus(self.models[name].claim.memory);
        // What is on its way out makes room already.
        for model in self.models.values().filter(|model| model.state == State::Unloading) {
            lacking = lacking.minus(model.claim.memory).unwrap_or(ByteSize::ZERO);
        }
        let mut loaded: Vec<_> = self
            .models
            .iter()
            .filter_map(|(name, model)| match model.state {
                State::Loaded(since) => {
                    let stays = now < since + self.capacity.stay;
                    Some((stays, model.running > 0, model.used, name.clone()))
                }
                _ => None,
            })
            .collect();
        loaded.sort();
        let mut closed = Vec::new();
        for (stays, in_use, _, other) in loaded {
            if lacking <= self.capacity.memory {
                break;
            }
            let Some(model) = self.models.get_mut(&other) else { continue };
            lacking = lacking.minus(model.claim.memory).unwrap_or(ByteSize::ZERO);
            if !stays && !in_use {
                model.state = State::Unloading;
                self.actions.push_back(Action::Unload(other.clone()));
            }
            if !stays {
                closed.push(other);
            }
        }
        closed
    }
}
