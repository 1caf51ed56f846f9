//! A node as the registry sees it, and what it says of itself.

use super::bucket::BucketKey;
use crate::demand::Demand;
use crate::explain::Reason;
use crate::id::{AccountId, NodeId};
use crate::model::{ModelName, ModelOffer};
use crate::reputation::Points;
use crate::standing::{Chance, Standing};
use crate::terms::Terms;
use crate::tier::Tier;

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

/// A connected node as the registry sees it.
#[derive(Debug)]
pub struct Node {
    pub(super) profile: NodeProfile,
    pub(super) state: NodeState,
    pub(super) in_use: u32,
    pub(super) points: Points,
    pub(super) standing: Standing,
    /// What follows from the standing.
    pub(super) chance: Chance,
    pub(super) places: Vec<Place>,
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
    pub(super) fn lacks(&self, demand: &Demand) -> Option<Reason> {
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
    pub(super) fn free_for(&self, demand: &Demand) -> Option<usize> {
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
    pub(super) fn capacity(&self) -> u32 {
        if self.state == NodeState::Draining { 0 } else { self.profile.slots }
    }
}

/// Where a node stands in the index of one model that it offers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) bucket: BucketKey,
    /// Position among the bucket's free nodes; `None` while the node is not free.
    pub(super) position: Option<usize>,
}
