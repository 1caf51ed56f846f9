use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iris_core::NodeId;
use iris_core::model::ModelOffer;
use tokio::sync::watch;

use super::{Core, Status};
use crate::slots::Slots;

/// Looks at an agent while it runs. Clones look at the same one.
#[derive(Clone, Debug)]
pub struct Observer {
    pub(super) core: Arc<Core>,
    pub(super) status: watch::Receiver<Status>,
}

impl Observer {
    /// Returns the id by which the network knows the node.
    pub fn node_id(&self) -> NodeId {
        self.core.identity.node_id()
    }

    /// Returns how the agent stands towards its coordinator.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Returns the node's places for work, of which some are taken.
    pub fn places(&self) -> Slots {
        self.core.places.clone()
    }

    /// Returns the models that would answer now, by name.
    pub fn models(&self) -> Vec<ModelOffer> {
        self.core.catalogue.offers()
    }

    /// Returns how many bytes the node has carried since it was made, both ways, without what TCP
    /// and TLS add to them.
    pub fn carried(&self) -> u64 {
        self.core.carried.load(Ordering::Relaxed)
    }

    /// Returns how many tokens the node has written since it was made. While an answer is on its
    /// way each of its chunks counts as one; its end sets that right.
    pub fn written(&self) -> u64 {
        self.core.written.load(Ordering::Relaxed)
    }

    /// Returns how long the coordinator's answer to the last heartbeat took; `None` while none was
    /// answered in this connection.
    pub fn round_trip(&self) -> Option<Duration> {
        *self.core.round_trip.borrow()
    }
}
