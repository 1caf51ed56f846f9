//! Finds the nodes that could take a demand, and says why the others could not.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::Registry;
use super::bucket::{Bucket, Listed};
use super::candidate::Candidate;
use super::index::ModelIndex;
use super::node::NodeState;
use crate::demand::Demand;
use crate::explain::Reason;
use crate::id::{AccountId, NodeId};

/// How many of an owner's nodes are looked at for one that is free.
const OWN_LOOKED_AT: usize = 32;

/// Nodes alike for a demand: tier, context and abilities are the same, or they are those that it
/// means.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    registry: &'a Registry,
    pub(super) bucket: Cow<'a, Bucket>,
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
}
