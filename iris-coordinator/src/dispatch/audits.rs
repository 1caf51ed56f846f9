//! What checks of nodes need to know of the floor, and what they change there.

use iris_core::demand::Trust;
use iris_core::model::Abilities;
use iris_core::task::AttemptEnd;
use iris_core::{AccountId, ModelName, NodeId};
use tokio::sync::mpsc;

use super::Dispatch;
use crate::settlement::Settlement;

/// A node that is connected, and what it offers.
#[derive(Clone, Debug)]
pub(crate) struct Offers {
    pub(crate) node: NodeId,
    pub(crate) owner: AccountId,
    /// Whether the operator trusts its owner.
    pub(crate) is_trusted: bool,
    /// Its models, and whether it scores given texts with them.
    pub(crate) models: Vec<(ModelName, bool)>,
}

/// A task that a node has completed.
#[derive(Clone, Debug)]
pub(crate) struct Worked {
    pub(crate) node: NodeId,
    pub(crate) model: ModelName,
}

impl Dispatch {
    /// Has `listener` told of completed tasks, as long as it keeps up.
    pub(crate) fn tell_of_work(&self, listener: mpsc::Sender<Worked>) {
        // Whoever listens first is the only one.
        let _ = self.worked.set(listener);
    }

    pub(super) fn tell_settled(&self, settlement: &Settlement) {
        let Some(listener) = self.worked.get() else { return };
        let done = settlement.attempts.iter().filter(|attempt| attempt.end == AttemptEnd::Done);
        for attempt in done {
            // One that is missed is only looked at a little later.
            let worked = Worked { node: attempt.node, model: settlement.model.clone() };
            let _ = listener.try_send(worked);
        }
    }

    /// Returns every connected node with what it offers.
    pub(crate) fn offers(&self) -> Vec<Offers> {
        let floor = self.floor();
        let offers = floor.registry.iter().map(|(_, node)| {
            let profile = node.profile();
            let scores = |abilities: Abilities| abilities.contains(Abilities::SCORE);
            let models = profile.models.iter();
            Offers {
                node: profile.id,
                owner: profile.owner,
                is_trusted: floor.registry.trust(node) == Trust::Trusted,
                models: models.map(|offer| (offer.name.clone(), scores(offer.abilities))).collect(),
            }
        });
        offers.collect()
    }

    /// Returns whose node this is, if it is connected and offers `model`.
    pub(crate) fn owner_of_offer(&self, node: &NodeId, model: &ModelName) -> Option<AccountId> {
        let floor = self.floor();
        let profile = floor.registry.node(floor.registry.seat(node)?)?.profile();
        let offers = profile.models.iter().any(|offer| offer.name == *model);
        offers.then_some(profile.owner)
    }

    /// Sets whether a node stands as one that was found lying.
    pub(crate) fn set_convicted(&self, node: NodeId, is_convicted: bool) {
        let now = self.clock.calendar();
        let mut floor = self.floor();
        if is_convicted {
            floor.standings.convict(node);
        } else {
            floor.standings.absolve(&node);
        }
        let standing = floor.standings.of(&node, now);
        if let Some(seat) = floor.registry.seat(&node) {
            floor.registry.set_standing(seat, standing);
        }
    }
}
