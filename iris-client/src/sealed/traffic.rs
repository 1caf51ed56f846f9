//! What requests that go on side by side tell each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iris_core::NodeId;
use tokio::sync::watch;

/// The requests of one plan that are under way.
///
/// A roster is up to a minute old, and tells nothing of what this client itself keeps its nodes
/// busy with. Whoever asks alone has a traffic of its own.
#[derive(Debug)]
pub(crate) struct Traffic {
    going: Mutex<Going>,
    changed: watch::Sender<()>,
}

/// Who works on what.
#[derive(Debug, Default)]
pub(super) struct Going {
    nodes: BTreeMap<NodeId, u32>,
    /// For each group of requests that are kept apart, the owners that have one of it.
    owners: BTreeMap<u32, BTreeSet<String>>,
}

/// A request's place at a node, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    traffic: Arc<Traffic>,
    node: NodeId,
    claim: Option<(u32, String)>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { going: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Traffic {
    pub(super) fn going(&self) -> MutexGuard<'_, Going> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what tells of the next request that is over.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns whether any request is under way.
    pub(super) fn is_going(&self) -> bool {
        !self.going().nodes.is_empty()
    }

    /// Waits until no request is under way, receipts included.
    pub(crate) async fn idle(&self) {
        let mut changes = self.changes();
        while self.is_going() && changes.changed().await.is_ok() {}
    }

    /// Takes a place at `node`, and for requests that are kept apart its owner.
    pub(super) fn take(
        self: &Arc<Self>,
        going: &mut Going,
        node: NodeId,
        claim: Option<(u32, String)>,
    ) -> Turn {
        *going.nodes.entry(node).or_default() += 1;
        if let Some((group, owner)) = &claim {
            going.owners.entry(*group).or_default().insert(owner.clone());
        }
        Turn { traffic: Arc::clone(self), node, claim }
    }
}

impl Going {
    /// Returns how many requests are under way at `node`.
    pub(super) fn at(&self, node: &NodeId) -> u32 {
        self.nodes.get(node).copied().unwrap_or(0)
    }

    /// Returns whether nodes of `owner` have a request of this group.
    pub(super) fn claims(&self, group: u32, owner: &str) -> bool {
        self.owners.get(&group).is_some_and(|owners| owners.contains(owner))
    }
}

impl Turn {
    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    /// Returns whether this is the only request under way at its node.
    pub(super) fn is_alone(&self) -> bool {
        self.traffic.going().at(&self.node) == 1
    }

    /// Lets the claim stand: the answer is there, and no other of the group may come from the
    /// same owner.
    pub(super) fn answered(&mut self) {
        self.claim = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut going = self.traffic.going();
        if let Some(count) = going.nodes.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                going.nodes.remove(&self.node);
            }
        }
        if let Some((group, owner)) = self.claim.take()
            && let Some(owners) = going.owners.get_mut(&group)
        {
            owners.remove(&owner);
        }
        drop(going);
        self.traffic.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_free_again_unless_it_has_answered() {
        let traffic = Arc::new(Traffic::default());
        let node: NodeId = "abcdefghijklmnopqrstuvwx27".parse().unwrap();
        let take = || {
            let mut going = traffic.going();
            traffic.take(&mut going, node, Some((1, "a".to_owned())))
        };
        let changes = traffic.changes();
        drop(take());
        assert!(changes.has_changed().unwrap() && !traffic.is_going());
        assert!(!traffic.going().claims(1, "a"));
        let mut turn = take();
        assert!(turn.is_alone() && traffic.going().claims(1, "a"));
        assert!(!traffic.going().claims(2, "a"));
        turn.answered();
        drop(turn);
        assert!(traffic.going().claims(1, "a") && !traffic.is_going());
    }
}
