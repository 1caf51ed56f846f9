//! Nodes that are asked by the certificate of their sealing key, for requests that they alone can
//! read.

use std::sync::Arc;
use std::time::Instant;

use iris_core::admission::Situation;
use iris_core::demand::Demand;
use iris_core::explain::{Explanation, Reason};
use iris_core::registry::Seat;
use iris_core::task::TaskError;
use iris_core::{AccountId, ModelName, NodeId};
use iris_crypto::SignedCertificate;
use iris_crypto::certificate::CertificateHash;

use super::certificates::Standing;
use super::lease::{Hold, Lease};
use super::{Dispatch, Floor};

impl Dispatch {
    /// Reserves a slot of the node that `certificate` names, for a request that is sealed to it.
    ///
    /// There is no line for a single node and no appointment with it: its caller knows others.
    pub(crate) fn acquire_named(
        self: &Arc<Self>,
        certificate: &CertificateHash,
        demand: &Demand,
        account: AccountId,
    ) -> Result<Lease, TaskError> {
        if self.journal.is_behind() {
            return Err(TaskError::BooksFull);
        }
        let now = self.clock.now();
        let mut floor = self.floor();
        if floor.draining {
            return Err(TaskError::ShuttingDown);
        }
        let node = match floor.certificates.standing(certificate, now) {
            Standing::InUse(node) => node,
            Standing::Replaced | Standing::Unknown => return Err(TaskError::StaleKey),
        };
        let seat = floor.registry.seat(&node).ok_or(TaskError::NodeOffline)?;
        let link = floor.links.get(&seat).filter(|link| link.seals).map(Arc::clone);
        let link = link.ok_or(TaskError::NodeOffline)?;
        match floor.registry.refusal(&node, demand) {
            None if floor.registry.reserve(seat) => {
                if link.owner != account {
                    floor.registry.count_work(seat, &demand.model);
                }
            }
            Some(Reason::ModelNotOffered) => {
                return Err(TaskError::NotOffered { model: demand.model.to_string() });
            }
            Some(Reason::NoFreeSlot) => {
                return Err(floor.node_busy(seat, &demand.model, account, now));
            }
            _ => return Err(TaskError::NodeOffline),
        }
        let hold = Hold { seat, model: demand.model.clone(), since: now, accepted: false };
        Ok(Lease::new(Arc::clone(self), hold, node, link, Explanation::default()))
    }

    /// Says when a node that is busy is worth asking again.
    pub(crate) fn node_busy(
        &self,
        node: &NodeId,
        model: &ModelName,
        account: AccountId,
    ) -> TaskError {
        let floor = self.floor();
        match floor.registry.seat(node) {
            Some(seat) => floor.node_busy(seat, model, account, self.clock.now()),
            None => TaskError::NodeOffline,
        }
    }

    /// Returns the current certificate of the node that a hash is, or was, known of.
    pub(crate) fn certificate_for(&self, hash: &CertificateHash) -> Option<SignedCertificate> {
        self.floor().certificates.current_for(hash).cloned()
    }

    /// Returns whether a hash is that of its node's current certificate.
    pub(crate) fn is_current(&self, hash: &CertificateHash) -> bool {
        self.floor().certificates.current_for(hash).is_some_and(|held| held.hash() == *hash)
    }
}

impl Floor {
    /// Sends a task away from the one node that could do it: with an estimate of when one of its
    /// slots falls free, or because it has none.
    fn node_busy(
        &self,
        seat: Seat,
        model: &ModelName,
        account: AccountId,
        now: Instant,
    ) -> TaskError {
        let slots = self.registry.node(seat).map_or(0, |node| node.profile().slots);
        if slots == 0 {
            return TaskError::NodeOffline;
        }
        let situation = Situation { now, account, ahead: 0, slots: slots.into() };
        TaskError::NodeBusy { retry_after_secs: self.admission.estimate(model, situation) }
    }
}
