//! What checks of nodes need to know of the floor, and what they change there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_core::demand::Trust;
use iris_core::model::Abilities;
use iris_core::reward::RewardEvent;
use iris_core::task::{Attempt, AttemptEnd};
use iris_core::terms::Callers;
use iris_core::verify::Flags;
use iris_core::{AccountId, ModelName, NodeId};
use iris_crypto::VerifiedCertificate;
use iris_protocol::rest::CallerRule;
use tokio::sync::mpsc;

use super::Dispatch;
use crate::accounts::{NETWORK, NOBODY};
use crate::settlement::Settlement;

/// A node that is connected, and what it offers.
#[derive(Clone, Debug)]
pub(crate) struct Offers {
    pub(crate) node: NodeId,
    pub(crate) owner: AccountId,
    /// Whether the operator trusts its owner.
    pub(crate) is_trusted: bool,
    /// Whether the network may ask it anything.
    pub(crate) is_open: bool,
    /// Its models, and whether it scores given texts with them, for others than its owner.
    pub(crate) models: Vec<(ModelName, bool)>,
}

/// A task that a node has completed.
pub(crate) struct Worked {
    pub(crate) node: NodeId,
    pub(crate) model: ModelName,
    /// Who had asked.
    pub(crate) caller: AccountId,
    /// Whether the coordinator could not read it.
    pub(crate) sealed: bool,
    /// How fast it was, where that can be said.
    pub(crate) pace: Option<Pace>,
    /// What was asked and answered, where another node may be asked the same.
    pub(crate) exchange: Option<Exchange>,
}

/// How fast an answer was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) tokens: u32,
    pub(crate) within: Duration,
}

/// What was asked, by a caller who lets any node read it, and what a node answered.
pub(crate) struct Exchange {
    pub(crate) body: Bytes,
    pub(crate) answer: String,
}

/// Who is told of completed tasks.
#[derive(Debug)]
pub(super) struct Listener {
    worked: mpsc::Sender<Worked>,
    /// Whether it wants to know what was asked and answered.
    compares: bool,
}

impl Dispatch {
    /// Has `listener` told of completed tasks, as long as it keeps up.
    pub(crate) fn tell_of_work(&self, listener: mpsc::Sender<Worked>, compares: bool) {
        // Whoever listens first is the only one.
        let _ = self.worked.set(Listener { worked: listener, compares });
    }

    /// Tells of a task that is over; `exchange` is called where it matters.
    pub(super) fn tell_of(
        &self,
        settlement: &Settlement,
        exchange: impl FnOnce() -> Option<Exchange>,
    ) {
        let Some(Listener { worked, compares }) = self.worked.get() else { return };
        let is_done = |attempt: &&Attempt| attempt.end == AttemptEnd::Done;
        let mut done = settlement.attempts.iter().filter(is_done);
        let Some(Attempt { node, .. }) = done.next_back().copied() else { return };
        let is_alone = settlement.attempts.len() == 1;
        let told = Worked {
            node,
            model: settlement.model.clone(),
            caller: settlement.account,
            sealed: settlement.sealed,
            pace: if is_alone { pace(settlement) } else { None },
            exchange: if is_alone && *compares { exchange() } else { None },
        };
        // One that is missed is only looked at a little later.
        let _ = worked.try_send(told);
    }

    /// Returns how many bytes the weights of a model of a node take, if it says how large it is.
    pub(crate) fn weights_of(&self, node: &NodeId, model: &ModelName) -> Option<u64> {
        let floor = self.floor();
        let profile = floor.registry.node(floor.registry.seat(node)?)?.profile();
        let offer = profile.models.iter().find(|offer| offer.name == *model)?;
        let bytes = floor.registry.tier_policy().weight_bytes(offer);
        (bytes > 0).then_some(bytes)
    }

    /// Returns the key to seal to a node, if it is connected and takes sealed requests.
    pub(crate) fn certificate_of(&self, node: &NodeId) -> Option<Arc<VerifiedCertificate>> {
        let floor = self.floor();
        let seat = floor.registry.seat(node)?;
        floor.links.get(&seat).filter(|link| link.seals)?;
        floor.certificates.of(node)
    }

    /// Returns the nodes that offer `model` and belong to other owners than `node` does.
    pub(crate) fn offers_of_others(&self, node: &NodeId, model: &ModelName) -> Vec<NodeId> {
        let offers = self.offers();
        let offers_it = |offer: &&Offers| offer.models.iter().any(|(name, _)| name == model);
        let Some(owner) = offers.iter().find(|offer| offer.node == *node).map(|known| known.owner)
        else {
            return Vec::new();
        };
        let others = offers.iter().filter(offers_it);
        let others = others.filter(|offer| offer.owner != owner && offer.is_open);
        others.map(|offer| offer.node).collect()
    }

    /// Returns every connected node with what it offers.
    pub(crate) fn offers(&self) -> Vec<Offers> {
        let floor = self.floor();
        let offers = floor.registry.iter().map(|(_, node)| {
            let profile = node.profile();
            let is_open = profile.terms.callers.are_many();
            let scores = |abilities: Abilities| is_open && abilities.contains(Abilities::SCORE);
            let models = profile.models.iter();
            Offers {
                node: profile.id,
                owner: profile.owner,
                is_trusted: floor.registry.trust(node) == Trust::Trusted,
                is_open,
                models: models.map(|offer| (offer.name.clone(), scores(offer.abilities))).collect(),
            }
        });
        offers.collect()
    }

    /// Returns in whose name a node can be asked for `model` so that it takes the question for
    /// anybody's; `None` where it is not here, or answers its owner alone.
    ///
    /// One that answers the invited alone is asked in the name of one of them. Any other is asked in
    /// the name of `caller`, if there is one whose request it would answer, or of the network, which
    /// looks like somebody else each time.
    pub(crate) fn name_for(
        &self,
        node: &NodeId,
        model: &ModelName,
        caller: Option<AccountId>,
        drawn: u64,
    ) -> Option<AccountId> {
        let (owner, callers) = self.terms_of_offer(node, model)?;
        let is_answered = |caller: &AccountId| {
            let rule = self.admittance.rule(&owner, caller);
            let may_ask = match callers {
                Callers::Public => true,
                Callers::Members => *caller != NOBODY,
                _ => rule == Some(CallerRule::Invited),
            };
            *caller != owner && may_ask && rule != Some(CallerRule::Blocked)
        };
        let caller = caller.filter(is_answered);
        match callers {
            Callers::Public | Callers::Members => caller.or(Some(NETWORK)),
            Callers::Invited => caller.or_else(|| self.admittance.invited_one(&owner, drawn)),
            // Its owner's alone, who pays nothing for that.
            _ => None,
        }
    }

    fn terms_of_offer(&self, node: &NodeId, model: &ModelName) -> Option<(AccountId, Callers)> {
        let floor = self.floor();
        let profile = floor.registry.node(floor.registry.seat(node)?)?.profile();
        let offers = profile.models.iter().any(|offer| offer.name == *model);
        offers.then_some((profile.owner, profile.terms.callers))
    }

    /// Returns whose node this is, if it is connected and offers `model`.
    pub(crate) fn owner_of_offer(&self, node: &NodeId, model: &ModelName) -> Option<AccountId> {
        self.terms_of_offer(node, model).map(|(owner, _)| owner)
    }

    /// Takes into account that a node answers no tests.
    pub(crate) fn note_silence(&self, event: &RewardEvent) {
        let Some(Attempt { node, end }) = event.attempt() else { return };
        let mut floor = self.floor();
        let standing = floor.standings.note(node, end, event.at);
        if let Some((standing, seat)) = standing.zip(floor.registry.seat(&node)) {
            floor.registry.set_standing(seat, standing);
        }
    }

    /// Sets whether a node stands as one that was found lying.
    pub(crate) fn set_convicted(&self, node: NodeId, is_convicted: bool) {
        let now = self.clock.calendar();
        let mut floor = self.floor();
        if floor.standings.is_convicted(&node) == is_convicted {
            return;
        }
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

/// Returns how fast an answer was; the length of a sealed one is rounded, and its time by the clock.
fn pace(settlement: &Settlement) -> Option<Pace> {
    let (tokens, within) = (settlement.usage.completion_tokens, settlement.took_ms);
    let is_known = !settlement.sealed && tokens >= Flags::LEAST_TOKENS;
    is_known.then_some(Pace { tokens, within: Duration::from_millis(within) })
}
