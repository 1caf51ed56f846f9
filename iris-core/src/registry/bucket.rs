//! Nodes that are alike for a demand, kept together.

use std::collections::BTreeMap;

use super::access::Access;
use super::node::{Node, NodeProfile};
use crate::demand::{Demand, Trust};
use crate::explain::Reason;
use crate::id::AccountId;
use crate::model::{Abilities, ModelOffer, TokenRate};
use crate::tier::{Tier, TierPolicy};

/// Nodes that are alike for a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BucketKey {
    /// Comes first, so that nodes that one owner has closed lie side by side, behind all others.
    pub(super) access: Access,
    trust: Trust,
    pub(super) tier: Tier,
    context: u32,
    abilities: Abilities,
}

impl BucketKey {
    pub(super) fn of(
        policy: &TierPolicy,
        trust: Trust,
        profile: &NodeProfile,
        offer: &ModelOffer,
    ) -> Self {
        Self {
            access: Access::of(profile),
            trust,
            tier: policy.tier(offer, profile.memory_gb),
            context: context_class(offer.context_length),
            abilities: offer.abilities,
        }
    }

    /// Returns the key before all those of nodes of one access.
    pub(super) const fn first_of(access: Access) -> Self {
        let (trust, tier) = (Trust::Any, Tier::Basic);
        Self { access, trust, tier, context: 0, abilities: Abilities::NONE }
    }

    pub(super) fn judge(self, demand: &Demand) -> Option<Reason> {
        if !self.access.admits(demand) {
            Some(Reason::NotForCaller)
        } else if self.trust < demand.trust {
            Some(Reason::TrustTooLow)
        } else if self.tier < demand.min_tier {
            Some(Reason::TierTooLow)
        } else if self.context < demand.context_tokens {
            Some(Reason::ContextTooShort)
        } else if !self.abilities.meet(demand.abilities) {
            Some(Reason::MissingAbility)
        } else {
            None
        }
    }
}

/// Keeps the four leading bits of a context length, so that a million lengths make few classes.
/// A node counts as having at most an eighth less than it says; powers of two stay exact.
const fn context_class(length: u32) -> u32 {
    let drop = (u32::BITS - length.leading_zeros()).saturating_sub(4);
    length >> drop << drop
}

#[derive(Clone, Debug, Default)]
pub(super) struct Bucket {
    /// Nodes with a free slot, in no order.
    pub(super) free: Vec<Listed>,
    /// How many nodes belong here, free or not.
    pub(super) members: u32,
    /// Slots of those that take work or may come back.
    pub(super) capacity: u64,
    /// How many of the nodes belong to whom.
    pub(super) owners: BTreeMap<AccountId, u32>,
}

impl Bucket {
    pub(super) fn enter(&mut self, node: &Node) {
        self.members += 1;
        self.capacity += u64::from(node.capacity());
        *self.owners.entry(node.profile.owner).or_default() += 1;
    }

    /// Lists a free node, `offer` of which is meant.
    pub(super) fn list(&mut self, seat: u32, node: &Node, offer: usize) {
        let speed = node.profile.models[offer].speed;
        let offer = u32::try_from(offer).expect("a node offers fewer than 2^32 models");
        self.free.push(Listed { seat, offer, speed });
    }

    pub(super) fn leave(&mut self, node: &Node) {
        self.members -= 1;
        self.capacity -= u64::from(node.capacity());
        count_off(&mut self.owners, &node.profile.owner);
    }
}

pub(super) fn count_off(owners: &mut BTreeMap<AccountId, u32>, owner: &AccountId) {
    let count = owners.get_mut(owner).expect("a member has an owner");
    *count -= 1;
    if *count == 0 {
        owners.remove(owner);
    }
}

/// A node with a free slot, and which of its offers is meant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) seat: u32,
    pub(super) offer: u32,
    pub(super) speed: Option<TokenRate>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_context_lengths_are_exact_classes() {
        for length in [512, 2048, 4096, 6144, 8192, 32_768, 40_960, 131_072, 1_048_576] {
            assert_eq!(context_class(length), length);
        }
        assert_eq!(context_class(4097), 4096);
        assert_eq!(context_class(0), 0);
    }
}
