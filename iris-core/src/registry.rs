//! Which nodes are there, what they offer and how busy they are.
//!
//! Nodes that offer a model are kept in buckets of equal tier, context class and abilities, so
//! that finding one costs the same among ten as among a hundred thousand.

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeMap, BTreeSet};

use crate::demand::{Demand, Trust};
use crate::explain::Reason;
use crate::id::{AccountId, NodeId};
use crate::model::{Abilities, ModelName, ModelOffer, TokenRate};
use crate::reputation::Points;
use crate::standing::{Chance, Standing};
use crate::terms::{Callers, Terms};
use crate::tier::{Tier, TierPolicy};
use crate::traffic::{OwnerShare, Traffic};

/// How many of an owner's nodes are looked at for one that is free.
const OWN_LOOKED_AT: usize = 32;

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
    /// What it says of all its memory together, in GB; `None` where it leaves some out.
    pub memory_gb: Option<u32>,
    /// What its owner has settled about it.
    pub terms: Terms,
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
    chance: Chance,
}

impl Traits {
    fn of(seat: Seat, node: &Node) -> Self {
        let NodeProfile { id, owner, slots, .. } = node.profile;
        let (generation, chance) = (seat.generation, node.chance);
        Self { generation, node: id, owner, in_use: node.in_use, slots, chance }
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
    standing: Standing,
    /// What follows from the standing.
    chance: Chance,
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

    /// Returns how sure the network is of it.
    pub const fn standing(&self) -> Standing {
        self.standing
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
        } else if demand.owner_only.is_some_and(|owner| owner != self.profile.owner) {
            Some(Reason::NotOwn)
        } else {
            None
        }
    }

    /// Returns which of its offers `demand` could be given now; `None` if none.
    fn free_for(&self, demand: &Demand) -> Option<usize> {
        if !self.is_free() || demand.objects_to(&self.profile.id, &self.profile.owner).is_some() {
            return None;
        }
        let offer = self.profile.models.iter().position(|offer| offer.name == demand.model)?;
        let unfit = self.places[offer].bucket.judge(demand).or_else(|| self.lacks(demand));
        unfit.is_none().then_some(offer)
    }

    /// Returns whether it takes another task now.
    pub fn is_free(&self) -> bool {
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

/// Who may ask a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Access {
    Public,
    Members,
    /// The owner, and whom it has invited.
    Invited(AccountId),
    Owner(AccountId),
}

impl Access {
    fn of(profile: &NodeProfile) -> Self {
        match profile.terms.callers {
            Callers::Public => Self::Public,
            Callers::Members => Self::Members,
            Callers::Invited => Self::Invited(profile.owner),
            Callers::Own => Self::Owner(profile.owner),
        }
    }

    /// Returns whether its owner says one by one who may ask.
    const fn is_closed(self) -> bool {
        matches!(self, Self::Invited(_) | Self::Owner(_))
    }

    fn admits(self, demand: &Demand) -> bool {
        match self {
            Self::Public => true,
            Self::Members => demand.asker.is_some(),
            Self::Invited(owner) => {
                demand.asker.is_some_and(|asker| asker == owner || demand.invited.contains(&owner))
            }
            Self::Owner(owner) => demand.asker == Some(owner),
        }
    }

    /// Iterates over all that owners have closed and that the asker may ask.
    fn closed_for(demand: &Demand) -> impl Iterator<Item = Self> {
        let own = demand.asker.map(|asker| [Self::Invited(asker), Self::Owner(asker)]);
        let invited = demand.invited.iter().filter(|_| demand.asker.is_some());
        own.into_iter().flatten().chain(invited.map(|owner| Self::Invited(*owner)))
    }
}

/// Nodes that are alike for a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BucketKey {
    /// Comes first, so that nodes that one owner has closed lie side by side, behind all others.
    access: Access,
    trust: Trust,
    tier: Tier,
    context: u32,
    abilities: Abilities,
}

impl BucketKey {
    fn of(policy: &TierPolicy, trust: Trust, profile: &NodeProfile, offer: &ModelOffer) -> Self {
        Self {
            access: Access::of(profile),
            trust,
            tier: policy.tier(offer, profile.memory_gb),
            context: context_class(offer.context_length),
            abilities: offer.abilities,
        }
    }

    /// Returns the key before all those of nodes of one access.
    const fn first_of(access: Access) -> Self {
        let (trust, tier) = (Trust::Any, Tier::Basic);
        Self { access, trust, tier, context: 0, abilities: Abilities::NONE }
    }

    fn judge(self, demand: &Demand) -> Option<Reason> {
        if !self.access.admits(demand) {
            Some(Reason::NotForCaller)
        } else if self.trust < demand.trust {
            Some(Reason::TrustTooLow)
        } else if self.tier < demand.min_tier {
            Some(Reason::TierTooLow)
        } else if self.context < demand.context_tokens {
            Some(Reason::ContextTooShort)
        } else if !self.abilities.meet(demand.abilities) {
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
    /// How many of the nodes that offer the model belong to whom.
    owners: BTreeMap<AccountId, u32>,
    /// How many of them their owners have closed.
    closed: u32,
    traffic: Traffic,
}

impl ModelIndex {
    fn members(&self) -> u32 {
        self.closed.saturating_add(self.open().map(|(_, bucket)| bucket.members).sum())
    }

    /// Iterates over the nodes that their owners have not closed.
    fn open(&self) -> impl Iterator<Item = (&BucketKey, &Bucket)> {
        self.buckets.iter().take_while(|(key, _)| !key.access.is_closed())
    }

    /// Iterates over the nodes of one access.
    fn of(&self, access: Access) -> impl Iterator<Item = (&BucketKey, &Bucket)> {
        let from = self.buckets.range(BucketKey::first_of(access)..);
        from.take_while(move |(key, _)| key.access == access)
    }

    /// Sorts the nodes by why they do not meet `demand`. Those that others alone may ask are
    /// counted, however many owners keep theirs to themselves.
    fn judged<'a>(
        &'a self,
        demand: &'a Demand,
    ) -> impl Iterator<Item = (Option<Reason>, Cow<'a, Bucket>)> {
        let own = || Access::closed_for(demand).flat_map(|access| self.of(access));
        let members: u32 = own().map(|(_, bucket)| bucket.members).sum();
        let members = self.closed.saturating_sub(members);
        let others = Bucket { members, ..Bucket::default() };
        let others = (members > 0).then_some((Some(Reason::NotForCaller), Cow::Owned(others)));
        let known = self.open().chain(own());
        known.map(|(key, bucket)| (key.judge(demand), Cow::Borrowed(bucket))).chain(others)
    }
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

    /// Lists a free node, `offer` of which is meant.
    fn list(&mut self, seat: u32, node: &Node, offer: usize) {
        let speed = node.profile.models[offer].speed;
        let offer = u32::try_from(offer).expect("a node offers fewer than 2^32 models");
        self.free.push(Listed { seat, offer, speed });
    }

    fn leave(&mut self, node: &Node) {
        self.members -= 1;
        self.capacity -= u64::from(node.capacity());
        count_off(&mut self.owners, &node.profile.owner);
    }
}

fn count_off(owners: &mut BTreeMap<AccountId, u32>, owner: &AccountId) {
    let count = owners.get_mut(owner).expect("a member has an owner");
    *count -= 1;
    if *count == 0 {
        owners.remove(owner);
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
    /// How likely it completes a task.
    pub chance: Chance,
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
        let Listed { seat, speed, .. } = self.bucket.free[position];
        self.registry.candidate_in(seat, speed)
    }
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

    /// Iterates over the groups of nodes that offer the demanded model.
    ///
    /// Where a node of the owner whose nodes come first is free, all others are refused.
    pub fn groups<'a>(&'a self, demand: &'a Demand) -> impl Iterator<Item = Group<'a>> {
        let index = self.by_model.get(&demand.model);
        let own = index.and_then(|index| self.own(index, demand));
        let (all, few) = match (index, own) {
            (_, Some(own)) => (None, own),
            (Some(index), None) if demand.is_narrow() => (None, self.narrow(index, demand)),
            (index, None) => (index, BTreeMap::new()),
        };
        let all = all.into_iter().flat_map(|index| index.judged(demand));
        let few = few.into_iter().map(|(refusal, bucket)| (refusal, Cow::Owned(bucket)));
        all.chain(few).map(|(refusal, bucket)| Group { registry: self, bucket, refusal })
    }

    /// Returns how many different owners have a node that can take `demand`, busy or not, counted
    /// up to `most`.
    pub fn owners(&self, demand: &Demand, most: usize) -> usize {
        let demand = &Demand { own_first: None, ..demand.clone() };
        let is_out = |owner: &AccountId| {
            demand.not_of.contains(owner)
                || demand.denied_owners.contains(owner)
                || demand.barred.contains(owner)
        };
        let denied = demand.denied.iter().filter(|id| !demand.exclude.contains(id));
        let unwanted = [Some(Reason::AlreadyTried), Some(Reason::Denied)];
        let tried = demand.exclude.iter().chain(denied);
        let tried = tried.filter(|id| unwanted.contains(&self.refusal(id, demand)));
        let tried: Vec<_> = tried
            .filter_map(|id| Some(self.node(self.seat(id)?)?.profile.owner))
            .filter(|owner| !is_out(owner))
            .collect();
        let mut left: BTreeMap<AccountId, usize> = BTreeMap::new();
        for group in self.groups(demand).filter(|group| group.refusal.is_none()) {
            for (owner, members) in &group.bucket.owners {
                if left.len() >= most.saturating_add(tried.len()) {
                    break;
                }
                if !is_out(owner) {
                    *left.entry(*owner).or_default() += *members as usize;
                }
            }
        }
        let all_tried = |(owner, members): &(&AccountId, &usize)| {
            tried.iter().filter(|known| known == owner).count() >= **members
        };
        left.iter().filter(|entry| !all_tried(entry)).count().min(most)
    }

    /// Returns the node `id` as a scheduler sees it, if it could take `demand` now.
    pub fn candidate(&self, id: &NodeId, demand: &Demand) -> Option<Candidate> {
        let seat = self.seat(id)?;
        let node = self.node(seat)?;
        let offer = node.free_for(demand)?;
        Some(self.candidate_in(seat.index, node.profile.models[offer].speed))
    }

    fn candidate_in(&self, index: u32, speed: Option<TokenRate>) -> Candidate {
        let Traits { generation, node, owner, in_use, slots, chance } = self.traits[index as usize];
        let seat = Seat { index, generation };
        Candidate { seat, node, owner, in_use, slots, speed, chance }
    }

    /// Sorts the nodes of a model into a few that are free and of the owner whose nodes come
    /// first, and all others; `None` where there is no such node, or no such owner.
    fn own(&self, index: &ModelIndex, demand: &Demand) -> Option<BTreeMap<Option<Reason>, Bucket>> {
        let owner = demand.own_first?;
        let seats = self.by_owner.get(&owner)?;
        if index.owners.len() == 1 && index.owners.contains_key(&owner) {
            return None;
        }
        // Where an owner has many, each time others are looked at.
        let start =
            self.reserved.wrapping_mul(0x9e37_79b9) % u32::try_from(self.seats.len()).ok()?;
        let mut own = Bucket::default();
        for &seat in seats.range(start..).chain(seats.range(..start)).take(OWN_LOOKED_AT) {
            let node = self.seats[seat as usize].node.as_ref().expect("the seat is taken");
            if let Some(offer) = node.free_for(demand) {
                own.enter(node);
                own.list(seat, node, offer);
            }
        }
        if own.free.is_empty() {
            return None;
        }
        let others = index.members() - own.members;
        let mut sorted = BTreeMap::from([(None, own)]);
        if others > 0 {
            let others = Bucket { members: others, ..Bucket::default() };
            sorted.insert(Some(Reason::OwnFirst), others);
        }
        Some(sorted)
    }

    /// Sorts the nodes of a model into those that `demand` means, if they will do, and the others
    /// by reason. This costs as much as there are nodes that it means.
    fn narrow(&self, index: &ModelIndex, demand: &Demand) -> BTreeMap<Option<Reason>, Bucket> {
        let mut sorted: BTreeMap<Option<Reason>, Bucket> = BTreeMap::new();
        let named: BTreeSet<u32> =
            demand.only.iter().filter_map(|id| self.by_id.get(id)).copied().collect();
        let holders = demand.dataset.as_ref().and_then(|name| self.by_dataset.get(name));
        let own = demand.owner_only.as_ref().and_then(|owner| self.by_owner.get(owner));
        let (meant, others) = if !demand.only.is_empty() {
            (Some(&named), Reason::NotNamed)
        } else if demand.dataset.is_some() {
            (holders, Reason::NoDataset)
        } else {
            (own, Reason::NotOwn)
        };
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
                bucket.list(*seat, node, offer);
            }
        }
        let all = index.members();
        if all > counted {
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
        let unfit = node.places[offer].bucket.judge(demand).or_else(|| node.lacks(demand));
        let objection = || demand.objects_to(id, &node.profile.owner);
        unfit.or_else(objection).or(match node.state {
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
            strike(&mut self.by_dataset, name, index);
        }
        strike(&mut self.by_owner, &node.profile.owner, index);
        self.vacant.push(index);
    }

    fn index_offers(&mut self, index: u32) {
        let node = self.seats[index as usize].node.as_ref().expect("the seat is taken");
        let trust = self.trust(node);
        let node = self.seats[index as usize].node.as_mut().expect("the seat is taken");
        let bucket = |offer| BucketKey::of(&self.policy, trust, &node.profile, offer);
        let place = |offer| Place { bucket: bucket(offer), position: None };
        node.places = node.profile.models.iter().map(place).collect();
        for (offer, place) in node.profile.models.iter().zip(&node.places) {
            let model = self.by_model.entry(offer.name.clone()).or_default();
            model.buckets.entry(place.bucket).or_default().enter(node);
            *model.owners.entry(node.profile.owner).or_default() += 1;
            model.closed += u32::from(place.bucket.access.is_closed());
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
            count_off(&mut model.owners, &node.profile.owner);
            model.closed -= u32::from(place.bucket.access.is_closed());
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
            memory_gb: None,
            terms: Terms::default(),
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
        Standing(u8, u64, u64),
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
            (0_u8..6, 0_u64..99_000, 0_u64..9000).prop_map(|(n, g, b)| Step::Standing(n, g, b)),
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
                    let found = (candidate.in_use, candidate.slots, candidate.chance);
                    assert_eq!(found, (node.in_use, node.profile.slots, node.standing.chance()));
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
            for demand in placed(&demand).into_iter().take(6).chain([demand]) {
                check_own_first(registry, &demand);
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
        let denied = Demand {
            denied: vec![node_id(0), node_id(9)],
            denied_owners: vec![owner(1)],
            exclude: vec![node_id(0), node_id(2)],
            ..plain.clone()
        };
        let own = Demand { owner_only: Some(owner(0)), ..long.clone() };
        let own_data = Demand {
            denied: vec![node_id(0)],
            ..Demand { dataset: data.dataset.clone(), ..own.clone() }
        };
        let strangers = Demand { owner_only: Some(owner(9)), ..plain.clone() };
        let proven = Demand { trust: Trust::Proven, ..plain.clone() };
        let trusted = Demand { trust: Trust::Trusted, not_of: vec![owner(2)], ..plain.clone() };
        let strict = [denied, own, own_data, strangers, proven, trusted];
        [only, data, both, apart, data_apart].into_iter().chain(strict).collect()
    }

    /// Checks that an owner's free nodes come before all others, and that nothing changes where
    /// there are none.
    fn check_own_first(registry: &Registry, demand: &Demand) {
        let own = Demand { own_first: Some(owner(1)), ..demand.clone() };
        let nodes = || registry.iter().map(|(_, node)| node);
        let able = |node: &&Node| registry.refusal(&node.profile.id, demand).is_none();
        let mine = nodes().filter(|node| node.profile.owner == owner(1)).filter(able);
        let mine: BTreeSet<_> = mine.map(|node| node.profile.id).collect();
        let found = |demand: &Demand| -> BTreeSet<NodeId> {
            let able = registry.groups(demand).filter(|group| group.refusal.is_none());
            let free = able.flat_map(|group| {
                (0..group.free()).map(move |at| group.candidate(at)).collect::<Vec<_>>()
            });
            free.filter(|c| demand.objection(c).is_none()).map(|c| c.node).collect()
        };
        let expected = if mine.is_empty() { found(demand) } else { mine };
        assert_eq!(found(&own), expected, "{own:?}");
        let count = |demand: &Demand| -> usize {
            registry.groups(demand).map(|group| group.free() + group.occupied() as usize).sum()
        };
        assert_eq!(count(&own), count(demand));
        for node in nodes() {
            let id = node.profile.id;
            let refused = registry.refusal(&id, demand).is_some();
            assert_eq!(registry.candidate(&id, demand).is_none(), refused);
        }
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
            let mut registry = Registry::default().with_trusted_owners([owner(3)]);
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
                    Step::Standing(n, good, bad) => {
                        if let Some(seat) = seat(&registry, n) {
                            registry.set_standing(seat, Standing { good, bad });
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

    /// Returns how many nodes may be asked, and how many are not for the one who asks.
    fn asked_by(registry: &Registry, asker: Option<AccountId>) -> (usize, u32) {
        let demand = Demand { asker, ..Demand::new("m0".parse().unwrap()) };
        let (mut may, mut not) = (0, 0);
        for group in registry.groups(&demand) {
            match group.refusal {
                None => may += group.free(),
                Some(reason) => {
                    assert_eq!(reason, Reason::NotForCaller);
                    not += group.bucket.members;
                }
            }
        }
        (may, not)
    }

    #[test]
    fn nodes_answer_those_whom_their_owners_let_ask() {
        let mut registry = Registry::default();
        let mut seats = Vec::new();
        for number in 0..4 {
            seats.push(registry.join(profile(number, 1, &[0]), Points::START));
        }
        assert_eq!(asked_by(&registry, None), (4, 0));
        let set = |registry: &mut Registry, seat: usize, callers| {
            registry.set_terms(seats[seat], Terms { callers, ..Terms::default() });
        };
        set(&mut registry, 0, Callers::Members);
        set(&mut registry, 1, Callers::Own);
        set(&mut registry, 2, Callers::Own);
        let owner_of = |seat: usize| registry.node(seats[seat]).unwrap().profile().owner;
        let (mine, theirs) = (owner_of(1), owner_of(2));
        assert_ne!(mine, theirs, "the story needs two owners");
        assert_eq!(asked_by(&registry, None), (1, 3));
        assert_eq!(asked_by(&registry, Some(AccountId::from_bytes([200; 16]))), (2, 2));
        assert_eq!(asked_by(&registry, Some(mine)), (3, 1));
        let id = registry.node(seats[2]).unwrap().profile().id;
        let demand = |asker| Demand { asker, ..Demand::new("m0".parse().unwrap()) };
        assert_eq!(registry.refusal(&id, &demand(Some(mine))), Some(Reason::NotForCaller));
        assert_eq!(registry.refusal(&id, &demand(Some(theirs))), None);
        // A busy node of one's own is worth waiting for, and no other is counted.
        registry.reserve(seats[1]);
        let waits = demand(Some(mine));
        let able = registry.groups(&waits).filter(|group| group.refusal.is_none());
        assert_eq!(able.map(|group| group.occupied()).sum::<u32>(), 1);
        set(&mut registry, 1, Callers::Public);
        set(&mut registry, 2, Callers::Public);
        registry.release(seats[1]);
        assert_eq!(asked_by(&registry, None), (3, 1));
        for seat in seats {
            registry.leave(seat);
        }
        assert!(registry.by_model.is_empty());
    }

    #[test]
    fn a_node_for_the_invited_answers_its_owner_and_those_it_has_invited() {
        let mut registry = Registry::default();
        let seat = registry.join(profile(0, 1, &[0]), Points::START);
        let theirs = registry.join(profile(1, 1, &[0]), Points::START);
        for seat in [seat, theirs] {
            let terms = Terms { callers: Callers::Invited, ..Terms::default() };
            registry.set_terms(seat, terms);
        }
        let owner = registry.node(seat).unwrap().profile().owner;
        let guest = AccountId::from_bytes([200; 16]);
        let model: ModelName = "m0".parse().unwrap();
        let invited = |asker, invited: &[AccountId]| Demand {
            asker,
            invited: invited.to_vec(),
            ..Demand::new(model.clone())
        };
        for (demand, free) in [
            (invited(None, &[owner]), 0),
            (invited(Some(guest), &[]), 0),
            (invited(Some(guest), &[owner]), 1),
            (invited(Some(owner), &[]), 1),
        ] {
            let groups: Vec<_> = registry.groups(&demand).collect();
            let able = groups.iter().filter(|group| group.refusal.is_none());
            assert_eq!(able.map(Group::free).sum::<usize>(), free, "{demand:?}");
            let refused = groups.iter().filter(|group| group.refusal.is_some());
            let refused: u32 = refused.map(|group| group.bucket.members).sum();
            assert_eq!(refused as usize, 2 - free, "{demand:?}");
            let id = registry.node(seat).unwrap().profile().id;
            assert_eq!(registry.refusal(&id, &demand).is_none(), free == 1, "{demand:?}");
        }
    }

    #[test]
    fn a_barred_caller_is_given_none_of_an_owners_nodes() {
        let mut registry = Registry::default();
        let seat = registry.join(profile(0, 1, &[0]), Points::START);
        let owner = registry.node(seat).unwrap().profile().owner;
        let demand = Demand { barred: vec![owner], ..Demand::new("m0".parse().unwrap()) };
        let id = registry.node(seat).unwrap().profile().id;
        assert_eq!(registry.refusal(&id, &demand), Some(Reason::NotForCaller));
        assert_eq!(registry.owners(&demand, 1), 0);
        assert!(registry.candidate(&id, &demand).is_none());
    }
}
