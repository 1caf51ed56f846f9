//! Which nodes are there, what they offer and how busy they are.
//!
//! Nodes that offer a model are kept in buckets of equal tier, context class and abilities, so
//! that finding one costs the same among ten as among a hundred thousand.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::demand::Demand;
use crate::explain::Reason;
use crate::id::{AccountId, NodeId};
use crate::model::{Abilities, ModelName, ModelOffer, TokenRate};
use crate::reputation::Points;
use crate::tier::{Tier, TierPolicy};

/// What a node says of itself when it joins, and who it belongs to.
#[derive(Clone, Debug)]
pub struct NodeProfile {
    /// Its identity.
    pub id: NodeId,
    /// The account that owns it.
    pub owner: AccountId,
    /// A name for people; not unique.
    pub name: String,
    /// How many requests it works on at once; 0 while it is paused.
    pub slots: u32,
    /// What it offers.
    pub models: Vec<ModelOffer>,
    /// The names of the data sets that lie on it.
    pub datasets: Vec<String>,
}

/// Whether a node takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It takes work.
    Ready,
    /// It finishes what it has.
    Draining,
    /// Its connection is interrupted; it may come back.
    Away,
}

/// Names a node's place in a [`Registry`]; stale once the node has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    index: u32,
    generation: u32,
}

/// Everything a coordinator knows about the nodes that are connected to it.
///
/// Order of calls: [`join`](Self::join); then any of [`update`](Self::update),
/// [`set_state`](Self::set_state), [`reserve`](Self::reserve) and [`release`](Self::release);
/// then [`leave`](Self::leave).
#[derive(Debug, Default)]
pub struct Registry {
    policy: TierPolicy,
    seats: Vec<SeatState>,
    /// What is compared of the nodes in `seats`, side by side.
    traits: Vec<Traits>,
    vacant: Vec<u32>,
    by_id: BTreeMap<NodeId, u32>,
    by_model: BTreeMap<ModelName, ModelIndex>,
    by_dataset: BTreeMap<String, BTreeSet<u32>>,
}

#[derive(Debug)]
struct SeatState {
    generation: u32,
    node: Option<Node>,
}

/// What schedulers compare of a node, copied into the length of one cache line: among a hundred
/// thousand nodes the time to choose is the time to fetch those that are compared from memory.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Traits {
    generation: u32,
    node: NodeId,
    owner: AccountId,
    in_use: u32,
    slots: u32,
    points: Points,
}

impl Traits {
    const fn of(seat: Seat, node: &Node) -> Self {
        let NodeProfile { id, owner, slots, .. } = node.profile;
        let generation = seat.generation;
        Self { generation, node: id, owner, in_use: node.in_use, slots, points: node.points }
    }
}

const _: () = assert!(size_of::<Traits>() == 64, "a node's traits fill one cache line");

/// A connected node as the registry sees it.
#[derive(Debug)]
pub struct Node {
    profile: NodeProfile,
    state: NodeState,
    in_use: u32,
    points: Points,
    places: Vec<Place>,
}

impl Node {
    /// Returns what the node said of itself.
    pub const fn profile(&self) -> &NodeProfile {
        &self.profile
    }

    /// Returns whether it takes work.
    pub const fn state(&self) -> NodeState {
        self.state
    }

    /// Returns how many of its slots are taken.
    pub const fn in_use(&self) -> u32 {
        self.in_use
    }

    /// Returns its reputation.
    pub const fn points(&self) -> Points {
        self.points
    }

    /// Returns its tiers, one for each model it offers.
    pub fn tiers(&self) -> impl Iterator<Item = (&ModelName, Tier)> {
        self.profile.models.iter().zip(&self.places).map(|(o, p)| (&o.name, p.bucket.tier))
    }

    /// Returns why it is not among the nodes that `demand` means; `None` if it is.
    fn lacks(&self, demand: &Demand) -> Option<Reason> {
        let lies_here = |name| self.profile.datasets.contains(name);
        if !demand.only.is_empty() && !demand.only.contains(&self.profile.id) {
            Some(Reason::NotNamed)
        } else if !demand.dataset.as_ref().is_none_or(lies_here) {
            Some(Reason::NoDataset)
        } else {
            None
        }
    }

    fn is_free(&self) -> bool {
        self.state == NodeState::Ready && self.in_use < self.profile.slots
    }

    /// Returns how many slots those may count on who wait for it.
    fn capacity(&self) -> u32 {
        if self.state == NodeState::Draining { 0 } else { self.profile.slots }
    }
}

/// Where a node stands in the index of one model that it offers.
#[derive(Clone, Copy, Debug)]
struct Place {
    bucket: BucketKey,
    /// Position among the bucket's free nodes; `None` while the node is not free.
    position: Option<usize>,
}

/// Nodes that are alike for a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BucketKey {
    tier: Tier,
    context: u32,
    abilities: Abilities,
}

impl BucketKey {
    fn of(policy: &TierPolicy, offer: &ModelOffer) -> Self {
        Self {
            tier: policy.tier(offer),
            context: context_class(offer.context_length),
            abilities: offer.abilities,
        }
    }

    fn judge(self, demand: &Demand) -> Option<Reason> {
        if self.tier < demand.min_tier {
            Some(Reason::TierTooLow)
        } else if self.context < demand.context_tokens {
            Some(Reason::ContextTooShort)
        } else if !self.abilities.contains(demand.abilities) {
            Some(Reason::MissingAbility)
        } else {
            None
        }
    }
}

/// Keeps the four leading bits of a context length, so that a million lengths make few classes.
/// A node counts as having at most an eighth less than it says; powers of two stay exact.
const fn context_class(length: u32) -> u32 {
    let drop = (u32::BITS - length.leading_zeros()).saturating_sub(4);
    length >> drop << drop
}

#[derive(Debug, Default)]
struct ModelIndex {
    buckets: BTreeMap<BucketKey, Bucket>,
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    /// Nodes with a free slot, in no order.
    free: Vec<Listed>,
    /// How many nodes belong here, free or not.
    members: u32,
    /// Slots of those that take work or may come back.
    capacity: u64,
    /// How many of the nodes belong to whom.
    owners: BTreeMap<AccountId, u32>,
}

impl Bucket {
    fn enter(&mut self, node: &Node) {
        self.members += 1;
        self.capacity += u64::from(node.capacity());
        *self.owners.entry(node.profile.owner).or_default() += 1;
    }

    fn leave(&mut self, node: &Node) {
        self.members -= 1;
        self.capacity -= u64::from(node.capacity());
        let owned = self.owners.get_mut(&node.profile.owner).expect("a member has an owner");
        *owned -= 1;
        if *owned == 0 {
            self.owners.remove(&node.profile.owner);
        }
    }
}

/// A node with a free slot, and which of its offers is meant.
#[derive(Clone, Copy, Debug)]
struct Listed {
    seat: u32,
    offer: u32,
    speed: Option<TokenRate>,
}

/// A node that could take a demand, as a scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place, to reserve it.
    pub seat: Seat,
    /// Its identity.
    pub node: NodeId,
    /// Its owner.
    pub owner: AccountId,
    /// Slots in use.
    pub in_use: u32,
    /// Slots altogether.
    pub slots: u32,
    /// Measured speed of one stream, if known.
    pub speed: Option<TokenRate>,
    /// Its reputation.
    pub points: Points,
}

/// Nodes alike for a demand: tier, context and abilities are the same, or they are those that it
/// means.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    registry: &'a Registry,
    bucket: Cow<'a, Bucket>,
    /// Why none of these nodes will do; `None` when all free ones will.
    pub refusal: Option<Reason>,
}

impl Group<'_> {
    /// Returns how many of the nodes have a free slot.
    pub fn free(&self) -> usize {
        self.bucket.free.len()
    }

    /// Returns how many of the nodes have no free slot, are draining or away.
    pub fn occupied(&self) -> u32 {
        self.bucket.members.saturating_sub(u32::try_from(self.free()).unwrap_or(u32::MAX))
    }

    /// Returns how many slots the nodes have, free and in use together, those left out that are
    /// draining.
    pub fn capacity(&self) -> u64 {
        self.bucket.capacity
    }

    /// Returns the free node at `position`, counted from 0 in no particular order.
    ///
    /// # Panics
    ///
    /// When `position` is not below [`free`](Self::free).
    pub fn candidate(&self, position: usize) -> Candidate {
        let Listed { seat: index, speed, .. } = self.bucket.free[position];
        let Traits { generation, node, owner, in_use, slots, points } =
            self.registry.traits[index as usize];
        let seat = Seat { index, generation };
        Candidate { seat, node, owner, in_use, slots, speed, points }
    }
}

impl Registry {
    /// Makes an empty registry with other borders between tiers than the default.
    pub fn with_tier_policy(policy: TierPolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Adds a node that starts ready and idle; a node of the same identity leaves first.
    ///
    /// An offer that repeats a model's name is dropped.
    pub fn join(&mut self, mut profile: NodeProfile, points: Points) -> Seat {
        if let Some(&index) = self.by_id.get(&profile.id) {
            self.vacate(index);
        }
        keep_first_offers(&mut profile.models);
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.seats.push(SeatState { generation: 0, node: None });
            u32::try_from(self.seats.len() - 1).expect("fewer than 2^32 nodes connect")
        });
        self.by_id.insert(profile.id, index);
        for name in &profile.datasets {
            self.by_dataset.entry(name.clone()).or_default().insert(index);
        }
        let state = NodeState::Ready;
        let node = Node { profile, state, in_use: 0, points, places: Vec::new() };
        let seat = Seat { index, generation: self.seats[index as usize].generation };
        // Seats are never given up, so both lists are of one length.
        let traits = Traits::of(seat, &node);
        match self.traits.get_mut(index as usize) {
            Some(vacant) => *vacant = traits,
            None => self.traits.push(traits),
        }
        self.seats[index as usize].node = Some(node);
        self.index_offers(index);
        seat
    }

    /// Removes a node. A stale seat changes nothing.
    pub fn leave(&mut self, seat: Seat) {
        if self.node(seat).is_some() {
            self.vacate(seat.index);
        }
    }

    /// Replaces what a node offers and how many slots it has.
    pub fn update(&mut self, seat: Seat, slots: u32, mut models: Vec<ModelOffer>) {
        if self.node(seat).is_none() {
            return;
        }
        keep_first_offers(&mut models);
        self.unindex_offers(seat.index);
        let node = self.seats[seat.index as usize].node.as_mut().expect("the seat is taken");
        node.profile.slots = slots;
        node.profile.models = models;
        self.traits[seat.index as usize].slots = slots;
        self.index_offers(seat.index);
    }

    /// Sets whether a node takes work.
    pub fn set_state(&mut self, seat: Seat, state: NodeState) {
        self.change(seat, |node| node.state = state);
    }

    /// Sets a node's reputation.
    pub fn set_points(&mut self, seat: Seat, points: Points) {
        self.change(seat, |node| node.points = points);
    }

    /// Takes one slot of a node; returns whether there was one.
    pub fn reserve(&mut self, seat: Seat) -> bool {
        let free = self.node(seat).is_some_and(Node::is_free);
        if free {
            self.change(seat, |node| node.in_use += 1);
        }
        free
    }

    /// Gives one slot back. A stale seat changes nothing.
    pub fn release(&mut self, seat: Seat) {
        self.change(seat, |node| node.in_use = node.in_use.saturating_sub(1));
    }

    /// Returns the node in `seat`, unless it has left.
    pub fn node(&self, seat: Seat) -> Option<&Node> {
        let state = self.seats.get(seat.index as usize)?;
        state.node.as_ref().filter(|_| state.generation == seat.generation)
    }

    /// Returns the place of the node with this identity.
    pub fn seat(&self, id: &NodeId) -> Option<Seat> {
        let &index = self.by_id.get(id)?;
        Some(Seat { index, generation: self.seats[index as usize].generation })
    }

    /// Iterates over all nodes in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (Seat, &Node)> {
        self.by_id.values().filter_map(|&index| {
            let state = &self.seats[index as usize];
            Some((Seat { index, generation: state.generation }, state.node.as_ref()?))
        })
    }

    /// Returns the number of nodes.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Iterates over the models that some node offers now, in the order of their names.
    pub fn models(&self) -> impl Iterator<Item = &ModelName> {
        self.by_model.keys()
    }

    /// Returns whether some node offers `model` now, busy or not.
    pub fn offers(&self, model: &ModelName) -> bool {
        self.by_model.contains_key(model)
    }

    /// Iterates over the groups of nodes that offer the demanded model.
    pub fn groups<'a>(&'a self, demand: &'a Demand) -> impl Iterator<Item = Group<'a>> {
        let index = self.by_model.get(&demand.model);
        let (all, few) = match index {
            Some(index) if demand.is_narrow() => (None, self.narrow(index, demand)),
            index => (index, BTreeMap::new()),
        };
        let all = all.into_iter().flat_map(|index| &index.buckets);
        let all = all.map(|(key, bucket)| (key.judge(demand), Cow::Borrowed(bucket)));
        let few = few.into_iter().map(|(refusal, bucket)| (refusal, Cow::Owned(bucket)));
        all.chain(few).map(|(refusal, bucket)| Group { registry: self, bucket, refusal })
    }

    /// Returns how many different owners have a node that can take `demand`, busy or not, counted
    /// up to `most`.
    pub fn owners(&self, demand: &Demand, most: usize) -> usize {
        let tried = demand.exclude.iter();
        let tried = tried.filter(|id| self.refusal(id, demand) == Some(Reason::AlreadyTried));
        let tried: Vec<_> = tried
            .filter_map(|id| Some(self.node(self.seat(id)?)?.profile.owner))
            .filter(|owner| !demand.not_of.contains(owner))
            .collect();
        let mut left: BTreeMap<AccountId, usize> = BTreeMap::new();
        for group in self.groups(demand).filter(|group| group.refusal.is_none()) {
            for (owner, members) in &group.bucket.owners {
                if left.len() >= most.saturating_add(tried.len()) {
                    break;
                }
                if !demand.not_of.contains(owner) {
                    *left.entry(*owner).or_default() += *members as usize;
                }
            }
        }
        let all_tried = |(owner, members): &(&AccountId, &usize)| {
            tried.iter().filter(|known| known == owner).count() >= **members
        };
        left.iter().filter(|entry| !all_tried(entry)).count().min(most)
    }

    /// Sorts the nodes of a model into those that `demand` means, if they will do, and the others
    /// by reason. This costs as much as there are nodes that it means.
    fn narrow(&self, index: &ModelIndex, demand: &Demand) -> BTreeMap<Option<Reason>, Bucket> {
        let mut sorted: BTreeMap<Option<Reason>, Bucket> = BTreeMap::new();
        let named: BTreeSet<u32> =
            demand.only.iter().filter_map(|id| self.by_id.get(id)).copied().collect();
        let holders = demand.dataset.as_ref().and_then(|name| self.by_dataset.get(name));
        let meant = if demand.only.is_empty() { holders } else { Some(&named) };
        let mut counted = 0;
        for seat in meant.into_iter().flatten() {
            let node = self.seats[*seat as usize].node.as_ref().expect("the seat is taken");
            let offer = node.profile.models.iter().position(|offer| offer.name == demand.model);
            let Some(offer) = offer else { continue };
            counted += 1;
            let refusal = node.places[offer].bucket.judge(demand).or_else(|| node.lacks(demand));
            let bucket = sorted.entry(refusal).or_default();
            bucket.enter(node);
            if node.is_free() {
                let speed = node.profile.models[offer].speed;
                let offer = u32::try_from(offer).expect("a node offers fewer than 2^32 models");
                bucket.free.push(Listed { seat: *seat, offer, speed });
            }
        }
        let all: u32 = index.buckets.values().map(|bucket| bucket.members).sum();
        if all > counted {
            let others = if demand.only.is_empty() { Reason::NoDataset } else { Reason::NotNamed };
            sorted.entry(Some(others)).or_default().members += all - counted;
        }
        sorted
    }

    /// Returns whether some node says that a data set of this name lies on it.
    pub fn holds(&self, dataset: &str) -> bool {
        self.by_dataset.contains_key(dataset)
    }

    /// Returns why the node `id` cannot take `demand` now; `None` when it can.
    pub fn refusal(&self, id: &NodeId, demand: &Demand) -> Option<Reason> {
        let Some(node) = self.seat(id).and_then(|seat| self.node(seat)) else {
            return Some(Reason::Away);
        };
        let offer = node.profile.models.iter().position(|offer| offer.name == demand.model);
        let Some(offer) = offer else {
            return Some(Reason::ModelNotOffered);
        };
        let tried = demand.exclude.contains(id).then_some(Reason::AlreadyTried);
        let taken = demand.not_of.contains(&node.profile.owner).then_some(Reason::OwnerTaken);
        let unfit = node.places[offer].bucket.judge(demand).or_else(|| node.lacks(demand));
        unfit.or(tried).or(taken).or(match node.state {
            NodeState::Draining => Some(Reason::Draining),
            NodeState::Away => Some(Reason::Away),
            NodeState::Ready if !node.is_free() => Some(Reason::NoFreeSlot),
            NodeState::Ready => None,
        })
    }

    fn node_mut(&mut self, seat: Seat) -> Option<&mut Node> {
        let state = self.seats.get_mut(seat.index as usize)?;
        let current = state.generation == seat.generation;
        state.node.as_mut().filter(|_| current)
    }

    /// Applies `change` to a node and keeps the lists of free nodes true.
    fn change(&mut self, seat: Seat, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.node_mut(seat) else {
            return;
        };
        let (was_free, capacity) = (node.is_free(), node.capacity());
        change(node);
        let (is_free, traits, new) = (node.is_free(), Traits::of(seat, node), node.capacity());
        self.traits[seat.index as usize] = traits;
        if new != capacity {
            self.count(seat.index, |sum| sum - u64::from(capacity) + u64::from(new));
        }
        match (was_free, is_free) {
            (false, true) => self.list(seat.index),
            (true, false) => self.unlist(seat.index),
            _ => {}
        }
    }

    /// Changes the capacity of the buckets of all that a node offers.
    fn count(&mut self, index: u32, change: impl Fn(u64) -> u64) {
        let Self { seats, by_model, .. } = self;
        let node = seats[index as usize].node.as_ref().expect("the seat is taken");
        for (offer, place) in node.profile.models.iter().zip(&node.places) {
            let bucket = bucket_of(by_model, &offer.name, place.bucket);
            bucket.capacity = change(bucket.capacity);
        }
    }

    fn vacate(&mut self, index: u32) {
        self.unindex_offers(index);
        let seat = &mut self.seats[index as usize];
        let node = seat.node.take().expect("only a taken seat is vacated");
        seat.generation = seat.generation.wrapping_add(1);
        self.by_id.remove(&node.profile.id);
        for name in &node.profile.datasets {
            if let Some(holders) = self.by_dataset.get_mut(name) {
                holders.remove(&index);
                if holders.is_empty() {
                    self.by_dataset.remove(name);
                }
            }
        }
        self.vacant.push(index);
    }

    fn index_offers(&mut self, index: u32) {
        let node = self.seats[index as usize].node.as_mut().expect("the seat is taken");
        let place = |offer| Place { bucket: BucketKey::of(&self.policy, offer), position: None };
        node.places = node.profile.models.iter().map(place).collect();
        for (offer, place) in node.profile.models.iter().zip(&node.places) {
            let model = self.by_model.entry(offer.name.clone()).or_default();
            model.buckets.entry(place.bucket).or_default().enter(node);
        }
        if node.is_free() {
            self.list(index);
        }
    }

    fn unindex_offers(&mut self, index: u32) {
        self.unlist(index);
        let Self { seats, by_model, .. } = self;
        let node = seats[index as usize].node.as_mut().expect("the seat is taken");
        let places = std::mem::take(&mut node.places);
        for (offer, place) in node.profile.models.iter().zip(places) {
            let model = by_model.get_mut(&offer.name).expect("an offered model is indexed");
            let bucket = model.buckets.get_mut(&place.bucket).expect("an offer has a bucket");
            bucket.leave(node);
            if bucket.members == 0 {
                model.buckets.remove(&place.bucket);
            }
            if model.buckets.is_empty() {
                by_model.remove(&offer.name);
            }
        }
    }

    /// Enters a node into the free list of every model it offers.
    fn list(&mut self, index: u32) {
        let Self { seats, by_model, .. } = self;
        let node = seats[index as usize].node.as_mut().expect("the seat is taken");
        let offers = node.profile.models.iter().zip(&mut node.places);
        for (number, (offer, place)) in (0..).zip(offers) {
            let bucket = bucket_of(by_model, &offer.name, place.bucket);
            place.position = Some(bucket.free.len());
            bucket.free.push(Listed { seat: index, offer: number, speed: offer.speed });
        }
    }

    /// Strikes a node off the free list of every model it offers.
    fn unlist(&mut self, index: u32) {
        let Self { seats, by_model, .. } = self;
        let places = |seats: &[SeatState]| {
            seats[index as usize].node.as_ref().map_or(0, |node| node.places.len())
        };
        for offer in 0..places(seats) {
            let node = seats[index as usize].node.as_mut().expect("the seat is taken");
            let Some(position) = node.places[offer].position.take() else {
                continue;
            };
            let key = node.places[offer].bucket;
            let bucket = bucket_of(by_model, &node.profile.models[offer].name, key);
            bucket.free.swap_remove(position);
            if let Some(&moved) = bucket.free.get(position) {
                let node = seats[moved.seat as usize].node.as_mut();
                node.expect("a listed seat is taken").places[moved.offer as usize].position =
                    Some(position);
            }
        }
    }
}

fn bucket_of<'a>(
    by_model: &'a mut BTreeMap<ModelName, ModelIndex>,
    model: &ModelName,
    key: BucketKey,
) -> &'a mut Bucket {
    let index = by_model.get_mut(model).expect("an offered model is indexed");
    index.buckets.get_mut(&key).expect("an offer has a bucket")
}

fn keep_first_offers(models: &mut Vec<ModelOffer>) {
    let mut seen = std::collections::BTreeSet::new();
    models.retain(|offer| seen.insert(offer.name.clone()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node_id(number: u8) -> NodeId {
        let letter = |n: u8| char::from(b'a' + n % 26);
        let text: String = [letter(number / 26), letter(number)].iter().collect();
        format!("{text:a>26}").parse().unwrap()
    }

    fn offers(models: &[u8]) -> Vec<ModelOffer> {
        let offer = |m: &u8| {
            let mut offer = ModelOffer::new(format!("m{m}").parse().unwrap(), 512 << (m % 3));
            offer.speed = Some(TokenRate::per_second(u64::from(*m)));
            offer
        };
        models.iter().map(offer).collect()
    }

    fn profile(number: u8, slots: u32, models: &[u8]) -> NodeProfile {
        NodeProfile {
            id: node_id(number),
            owner: owner(number),
            name: String::new(),
            slots,
            models: offers(models),
            datasets: if number.is_multiple_of(2) { vec!["d".to_owned()] } else { Vec::new() },
        }
    }

    fn owner(number: u8) -> AccountId {
        AccountId::from_bytes([number % 4; 16])
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(u8, u32, Vec<u8>),
        Leave(u8),
        Update(u8, u32, Vec<u8>),
        State(u8, NodeState),
        Points(u8, i64),
        Reserve(u8),
        Release(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let models = || proptest::collection::vec(0_u8..5, 0..4);
        let state =
            prop_oneof![Just(NodeState::Ready), Just(NodeState::Draining), Just(NodeState::Away)];
        prop_oneof![
            (0_u8..6, 1_u32..3, models()).prop_map(|(n, s, m)| Step::Join(n, s, m)),
            (0_u8..6).prop_map(Step::Leave),
            (0_u8..6, 1_u32..3, models()).prop_map(|(n, s, m)| Step::Update(n, s, m)),
            (0_u8..6, state).prop_map(|(n, s)| Step::State(n, s)),
            (0_u8..6, -5_i64..200).prop_map(|(n, points)| Step::Points(n, points)),
            (0_u8..6).prop_map(Step::Reserve),
            (0_u8..6).prop_map(Step::Release),
        ]
    }

    /// Compares the index with a search through all nodes.
    fn check(registry: &Registry) {
        for model in 0..5 {
            let demand = Demand::new(format!("m{model}").parse().unwrap());
            let indexed: std::collections::BTreeSet<NodeId> = registry
                .groups(&demand)
                .flat_map(|group| (0..group.free()).map(move |i| group.candidate(i).node))
                .collect();
            let searched = registry
                .iter()
                .map(|(_, node)| node.profile.id)
                .filter(|id| registry.refusal(id, &demand).is_none())
                .collect();
            assert_eq!(indexed, searched, "m{model}");
            for group in registry.groups(&demand) {
                for candidate in (0..group.free()).map(|position| group.candidate(position)) {
                    let node = registry.node(candidate.seat).unwrap();
                    assert_eq!(candidate.node, node.profile.id);
                    let found = (candidate.in_use, candidate.slots, candidate.points);
                    assert_eq!(found, (node.in_use, node.profile.slots, node.points));
                    let offer = node.profile.models.iter().find(|o| o.name == demand.model);
                    assert_eq!(candidate.speed, offer.unwrap().speed);
                }
            }
            let members: usize =
                registry.groups(&demand).map(|g| g.free() + g.occupied() as usize).sum();
            let offering = registry
                .iter()
                .map(|(_, node)| node)
                .filter(|node| node.profile.models.iter().any(|offer| offer.name == demand.model));
            let offering: Vec<&Node> = offering.collect();
            let working = offering.iter().filter(|node| node.state != NodeState::Draining);
            let slots: u64 = working.map(|node| u64::from(node.profile.slots)).sum();
            assert_eq!(registry.groups(&demand).map(|g| g.capacity()).sum::<u64>(), slots);
            assert_eq!(members, offering.len(), "m{model}");
            assert_eq!(registry.offers(&demand.model), members > 0);
            for demand in placed(&demand) {
                check_placed(registry, &demand);
            }
        }
    }

    fn placed(plain: &Demand) -> Vec<Demand> {
        let long = Demand { context_tokens: 1000, ..plain.clone() };
        let only = Demand { only: [0, 1, 3, 9].map(node_id).to_vec(), ..long.clone() };
        let data = Demand { dataset: Some("d".to_owned()), ..plain.clone() };
        let both = Demand { only: only.only.clone(), ..data.clone() };
        let apart = Demand { not_of: vec![owner(0)], exclude: vec![node_id(1)], ..plain.clone() };
        let data_apart = Demand { not_of: vec![owner(2)], ..data.clone() };
        vec![only, data, both, apart, data_apart]
    }

    /// Compares what is found for a demand that means some nodes with a search through all.
    fn check_placed(registry: &Registry, demand: &Demand) {
        let refusal = |node: &Node| registry.refusal(&node.profile.id, demand);
        let nodes = || registry.iter().map(|(_, node)| node);
        let able = registry.groups(demand).filter(|group| group.refusal.is_none());
        let found: std::collections::BTreeSet<NodeId> = able
            .flat_map(|group| (0..group.free()).map(move |at| group.candidate(at)))
            .filter(|candidate| demand.objection(candidate).is_none())
            .map(|candidate| candidate.node)
            .collect();
        let free = nodes().filter(|node| refusal(node).is_none());
        assert_eq!(found, free.map(|node| node.profile.id).collect(), "{demand:?}");
        let counted: usize =
            registry.groups(demand).map(|group| group.free() + group.occupied() as usize).sum();
        let offering = nodes().filter(|node| refusal(node) != Some(Reason::ModelNotOffered));
        assert_eq!(counted, offering.count(), "{demand:?}");
        let busy = [None, Some(Reason::NoFreeSlot), Some(Reason::Draining), Some(Reason::Away)];
        let takers = nodes().filter(|node| busy.contains(&refusal(node)));
        let owners: std::collections::BTreeSet<_> = takers.map(|node| node.profile.owner).collect();
        for most in 0..5 {
            assert_eq!(registry.owners(demand, most), owners.len().min(most), "{demand:?}");
        }
        let holding = nodes().any(|node| !node.profile.datasets.is_empty());
        assert_eq!(registry.holds("d"), holding);
    }

    proptest! {
        #[test]
        fn index_agrees_with_a_search_through_all_nodes(
            steps in proptest::collection::vec(step(), 0..60),
        ) {
            let mut registry = Registry::default();
            for step in steps {
                let seat = |registry: &Registry, n| registry.seat(&node_id(n));
                match step {
                    Step::Join(n, slots, models) => {
                        registry.join(profile(n, slots, &models), Points::START);
                    }
                    Step::Leave(n) => {
                        if let Some(seat) = seat(&registry, n) {
                            registry.leave(seat);
                            assert!(!registry.reserve(seat), "a stale seat has no slots");
                        }
                    }
                    Step::Update(n, slots, models) => {
                        if let Some(seat) = seat(&registry, n) {
                            registry.update(seat, slots, offers(&models));
                        }
                    }
                    Step::State(n, state) => {
                        if let Some(seat) = seat(&registry, n) {
                            registry.set_state(seat, state);
                        }
                    }
                    Step::Points(n, points) => {
                        if let Some(seat) = seat(&registry, n) {
                            registry.set_points(seat, Points::new(points));
                        }
                    }
                    Step::Reserve(n) => {
                        if let Some(seat) = seat(&registry, n) {
                            registry.reserve(seat);
                        }
                    }
                    Step::Release(n) => {
                        if let Some(seat) = seat(&registry, n) {
                            registry.release(seat);
                        }
                    }
                }
                check(&registry);
            }
        }
    }

    #[test]
    fn common_context_lengths_are_exact_classes() {
        for length in [512, 2048, 4096, 6144, 8192, 32_768, 40_960, 131_072, 1_048_576] {
            assert_eq!(context_class(length), length);
        }
        assert_eq!(context_class(4097), 4096);
        assert_eq!(context_class(0), 0);
    }
}
