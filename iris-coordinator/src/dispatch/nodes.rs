//! The nodes that are connected, shown.

use std::sync::Arc;

use iris_core::NodeId;
use iris_core::registry::{Node, Registry};

use super::Dispatch;
use crate::link::NodeLink;

impl Dispatch {
    /// Shows the registry, under the lock.
    pub(crate) fn with_registry<T>(&self, show: impl FnOnce(&Registry) -> T) -> T {
        show(&self.floor().registry)
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
}
