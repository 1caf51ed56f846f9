//! What nodes did, in the ledger, in their standing and so in the registry.

use std::collections::HashMap;
use std::sync::PoisonError;

use iris_core::reputation::{Points, ReputationEvent};
use iris_core::standing::Standing as Trusted;
use iris_core::task::Attempt;
use iris_core::{AccountId, NodeId, Timestamp};

use super::{Dispatch, Floor};
use crate::settlement::Settlement;

impl Dispatch {
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
}
