//! A roster that is believed, made ready for choosing among its nodes.

use std::collections::BTreeMap;

use iris_core::demand::Demand;
use iris_core::explain::{Explanation, Reason};
use iris_core::registry::{NodeProfile, Registry};
use iris_core::reputation::Points;
use iris_core::task::TaskError;
use iris_core::terms::{Callers, Terms};
use iris_core::{AccountId, ModelName, NodeId};
use iris_protocol::rest::{FreeSlots, Roster, RosterNode};
use tokio::time::Instant;

use crate::trust::GuardCandidate;

/// The most slots of one node that matter for choosing.
const MAX_SLOTS: u32 = 64;

#[derive(Debug)]
pub(crate) struct Listing {
    /// When it was fetched.
    pub(super) since: Instant,
    pub(super) number: u64,
    nodes: BTreeMap<NodeId, RosterNode>,
    away: Vec<ModelName>,
    /// All nodes, as if they were free.
    registry: Registry,
}

impl Listing {
    pub(super) fn new(roster: Roster, since: Instant) -> Self {
        let mut registry = Registry::default();
        for node in &roster.nodes {
            join(&mut registry, node);
        }
        let nodes = roster.nodes.into_iter().map(|node| (node.id, node)).collect();
        Self { since, number: roster.number, nodes, away: roster.away, registry }
    }

    /// Returns all nodes, as if they were free.
    pub(super) const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns the models whose nodes are away.
    pub(super) fn away(&self) -> &[ModelName] {
        &self.away
    }

    pub(super) fn node(&self, id: &NodeId) -> Option<&RosterNode> {
        self.nodes.get(id)
    }

    /// Returns whether a node answers its owner alone.
    pub(super) fn is_private(&self, id: &NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.callers == Callers::Own)
    }

    /// Returns whether a node answers its owner, and those whom its owner has invited. Whether that
    /// is this client, the roster, which is everybody's, does not tell.
    pub(super) fn is_for_invited(&self, id: &NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.callers == Callers::Invited)
    }

    /// Returns whether a sealed request can ask for `model`.
    pub(crate) fn offers(&self, model: &str) -> bool {
        model.parse().is_ok_and(|model| self.registry.offers(&model))
    }

    /// Returns the nodes that can do what is demanded, busy or not, or why there are none.
    pub(super) fn able(&self, demand: &Demand) -> Result<Vec<GuardCandidate>, TaskError> {
        if !self.registry.offers(&demand.model) {
            let model = demand.model.to_string();
            return Err(if self.away.contains(&demand.model) {
                TaskError::NoNodeOnline { model }
            } else {
                TaskError::ModelNotFound { model }
            });
        }
        let mut lacking = Explanation::default();
        let mut able = Vec::new();
        for group in self.registry.groups(demand) {
            if let Some(reason) = group.refusal {
                lacking.skip(reason, 1);
                continue;
            }
            // Those without a slot are paused.
            lacking.skip(Reason::NoFreeSlot, group.occupied());
            for candidate in (0..group.free()).map(|place| group.candidate(place)) {
                if let Some(reason) = demand.objection(&candidate) {
                    lacking.skip(reason, 1);
                    continue;
                }
                let owner = candidate.owner.to_string();
                able.push(GuardCandidate { node: candidate.node, owner, slots: candidate.slots });
            }
        }
        if !able.is_empty() {
            return Ok(able);
        }
        if let Some(name) = demand.dataset.as_ref().filter(|name| !self.registry.holds(name)) {
            return Err(TaskError::NoDataset { name: name.clone() });
        }
        if lacking.skipped.iter().any(|(reason, _)| *reason == Reason::NoFreeSlot) {
            return Err(TaskError::NoNodeOnline { model: demand.model.to_string() });
        }
        Err(TaskError::no_node_able(demand, &lacking))
    }

    /// Returns a registry of some nodes, as busy as the roster says.
    pub(super) fn some(&self, nodes: &[NodeId]) -> Registry {
        let mut registry = Registry::default();
        for node in nodes.iter().filter_map(|id| self.nodes.get(id)) {
            let seat = join(&mut registry, node);
            let slots = node.slots.min(MAX_SLOTS);
            // A roster is up to a minute old: who had no slot then may have one now, so such a
            // node comes last and is not left out.
            let used = match node.free {
                FreeSlots::Many => 0,
                FreeSlots::Some => slots / 2,
                FreeSlots::None => slots.saturating_sub(1),
            };
            for _ in 0..used {
                registry.reserve(seat);
            }
        }
        registry
    }
}

fn join(registry: &mut Registry, node: &RosterNode) -> iris_core::registry::Seat {
    let profile = NodeProfile {
        id: node.id,
        // A tag of this month's, not an account; it only tells owners apart.
        owner: node.owner.as_str().parse().unwrap_or(AccountId::from_bytes([0; 16])),
        name: String::new(),
        slots: node.slots.min(MAX_SLOTS),
        models: node.models.clone(),
        datasets: node.datasets.iter().map(ToString::to_string).collect(),
        memory_gb: node.memory_gb,
        terms: Terms::default(),
    };
    let seat = registry.join(profile, Points::new(node.points));
    registry.set_standing(seat, node.standing);
    seat
}
