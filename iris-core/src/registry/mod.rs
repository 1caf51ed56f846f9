//! Which nodes are there, what they offer and how busy they are.
//!
//! Nodes that offer a model are kept in buckets of equal tier, context class and abilities, so
//! that finding one costs the same among ten as among a hundred thousand.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use crate::demand::Trust;
use crate::id::{AccountId, NodeId};
use crate::model::{ModelName, ModelOffer};
use crate::reputation::Points;
use crate::standing::{Chance, Standing};
use crate::terms::Terms;
use crate::tier::TierPolicy;
use crate::traffic::OwnerShare;

mod access;
mod bucket;
mod candidate;
mod index;
mod node;
mod search;
#[cfg(test)]
mod tests;

pub use candidate::Candidate;
use candidate::Traits;
use index::ModelIndex;
pub use node::{Node, NodeProfile, NodeState};
pub use search::Group;

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
    share: OwnerShare,
    trusted: BTreeSet<AccountId>,
    seats: Vec<SeatState>,
    /// What is compared of the nodes in `seats`, side by side.
    traits: Vec<Traits>,
    vacant: Vec<u32>,
    by_id: BTreeMap<NodeId, u32>,
    by_model: BTreeMap<ModelName, ModelIndex>,
    by_dataset: BTreeMap<String, BTreeSet<u32>>,
    by_owner: BTreeMap<AccountId, BTreeSet<u32>>,
    /// How many slots were ever reserved.
    reserved: u32,
}

#[derive(Debug)]
struct SeatState {
    generation: u32,
    node: Option<Node>,
}

impl Registry {
    /// Makes an empty registry with other borders between tiers than the default.
    pub fn with_tier_policy(policy: TierPolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Returns the borders between tiers.
    pub const fn tier_policy(&self) -> &TierPolicy {
        &self.policy
    }

    /// Lets no owner have more than `share` of a model's work while others could do it. Default:
    /// a fifth, or twice an equal part where that is more.
    #[must_use]
    pub const fn with_share(mut self, share: OwnerShare) -> Self {
        self.share = share;
        self
    }

    /// Counts the nodes of `owners` as trusted. Default: nobody's.
    #[must_use]
    pub fn with_trusted_owners(mut self, owners: impl IntoIterator<Item = AccountId>) -> Self {
        self.trusted.extend(owners);
        self
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
        self.by_owner.entry(profile.owner).or_default().insert(index);
        let (state, standing, chance) = (NodeState::Ready, Standing::default(), Chance::default());
        let places = Vec::new();
        let node = Node { profile, state, in_use: 0, points, standing, chance, places };
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

    /// Replaces what a node's owner has settled about it.
    pub fn set_terms(&mut self, seat: Seat, terms: Terms) {
        let Some(node) = self.node_mut(seat) else { return };
        if node.profile.terms.callers == terms.callers {
            node.profile.terms = terms;
            return;
        }
        // It moves to the buckets of other callers.
        self.unindex_offers(seat.index);
        self.node_mut(seat).expect("the seat is taken").profile.terms = terms;
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

    /// Sets how sure the network is of a node. A node starts as one of which nothing is known.
    pub fn set_standing(&mut self, seat: Seat, standing: Standing) {
        let Some(node) = self.node(seat) else { return };
        let moves = self.trust(node) != self.trust_of(&node.profile.owner, standing);
        let judge = |node: &mut Node| {
            node.standing = standing;
            node.chance = standing.chance();
        };
        if moves {
            // It moves to the buckets of another trust.
            self.unindex_offers(seat.index);
            judge(self.node_mut(seat).expect("the seat is taken"));
            self.index_offers(seat.index);
        }
        self.change(seat, judge);
    }

    /// Returns how far a node is trusted.
    pub fn trust(&self, node: &Node) -> Trust {
        self.trust_of(&node.profile.owner, node.standing)
    }

    fn trust_of(&self, owner: &AccountId, standing: Standing) -> Trust {
        if standing == Standing::CONVICTED {
            Trust::Any
        } else if self.trusted.contains(owner) {
            Trust::Trusted
        } else if standing.is_proven() {
            Trust::Proven
        } else {
            Trust::Any
        }
    }

    /// Counts an assignment for `model` to a node, so that its owner's share is known.
    ///
    /// What owners ask of their own nodes is nobody else's work: leave it out.
    pub fn count_work(&mut self, seat: Seat, model: &ModelName) {
        let Some(owner) = self.node(seat).map(|node| node.profile.owner) else { return };
        if let Some(index) = self.by_model.get_mut(model) {
            index.traffic.count(owner, index.owners.len(), self.share);
        }
    }

    /// Returns the owners who have more than their share of the work for `model`; a few at most.
    pub fn beyond_share(&self, model: &ModelName) -> &[AccountId] {
        self.by_model.get(model).map_or(&[], |index| index.traffic.beyond())
    }

    /// Takes one slot of a node; returns whether there was one.
    pub fn reserve(&mut self, seat: Seat) -> bool {
        let free = self.node(seat).is_some_and(Node::is_free);
        if free {
            self.change(seat, |node| node.in_use += 1);
            self.reserved = self.reserved.wrapping_add(1);
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

    /// Returns whether some node says that a data set of this name lies on it.
    pub fn holds(&self, dataset: &str) -> bool {
        self.by_dataset.contains_key(dataset)
    }

    fn node_mut(&mut self, seat: Seat) -> Option<&mut Node> {
        let state = self.seats.get_mut(seat.index as usize)?;
        let current = state.generation == seat.generation;
        state.node.as_mut().filter(|_| current)
    }

    fn vacate(&mut self, index: u32) {
        self.unindex_offers(index);
        let seat = &mut self.seats[index as usize];
        let node = seat.node.take().expect("only a taken seat is vacated");
        seat.generation = seat.generation.wrapping_add(1);
        self.by_id.remove(&node.profile.id);
        for name in &node.profile.datasets {
            strike(&mut self.by_dataset, name, index);
        }
        strike(&mut self.by_owner, &node.profile.owner, index);
        self.vacant.push(index);
    }
}

/// Takes a seat out of the set of `key`, and the set with it when it was the last one.
fn strike<K: Ord + Borrow<Q>, Q: Ord + ?Sized>(
    sets: &mut BTreeMap<K, BTreeSet<u32>>,
    key: &Q,
    index: u32,
) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&index);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

fn keep_first_offers(models: &mut Vec<ModelOffer>) {
    let mut seen = BTreeSet::new();
    models.retain(|offer| seen.insert(offer.name.clone()));
}
