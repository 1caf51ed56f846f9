//! What an operator's hold on a node does here: it takes nothing new.

use std::sync::Arc;

use iris_core::NodeId;
use iris_core::registry::{NodeState, Seat};
use iris_protocol::rest::HoldKind;

use super::{Dispatch, Floor};

impl Dispatch {
    /// Returns the state of a node that is to get `state`, which an operator may not let work.
    pub(super) fn allowed(&self, floor: &Floor, seat: Seat, state: NodeState) -> NodeState {
        let node = floor.registry.node(seat).map(|node| node.profile().id);
        let is_held = node.is_some_and(|node| self.holds.kind(&node).is_some());
        if is_held && state == NodeState::Ready { NodeState::Draining } else { state }
    }

    /// Carries out what was decided about a node: it stops or goes on, and one that is blocked is
    /// sent away.
    pub(crate) fn carry_out_hold(self: &Arc<Self>, node: &NodeId) {
        let kind = self.holds.kind(node);
        let floor = self.floor();
        let Some(seat) = floor.registry.seat(node) else { return };
        let state = floor.registry.node(seat).map(iris_core::registry::Node::state);
        let link = floor.links.get(&seat).map(Arc::clone);
        drop(floor);
        let is_leaving = link.as_ref().is_some_and(|link| link.is_leaving());
        match state {
            Some(NodeState::Ready) if kind.is_some() => self.set_state(seat, NodeState::Draining),
            Some(NodeState::Draining) if kind.is_none() && !is_leaving => {
                self.set_state(seat, NodeState::Ready);
            }
            _ => {}
        }
        if let Some(link) = link.filter(|_| kind == Some(HoldKind::Block)) {
            link.close();
        }
    }
}
