//! Who may ask a node.

use super::node::NodeProfile;
use crate::demand::Demand;
use crate::id::AccountId;
use crate::terms::Callers;

/// Who may ask a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Public,
    Members,
    /// The owner, and whom it has invited.
    Invited(AccountId),
    Owner(AccountId),
}

impl Access {
    pub(super) fn of(profile: &NodeProfile) -> Self {
        match profile.terms.callers {
            Callers::Public => Self::Public,
            Callers::Members => Self::Members,
            Callers::Invited => Self::Invited(profile.owner),
            Callers::Own => Self::Owner(profile.owner),
        }
    }

    /// Returns whether its owner says one by one who may ask.
    pub(super) const fn is_closed(self) -> bool {
        matches!(self, Self::Invited(_) | Self::Owner(_))
    }

    pub(super) fn admits(self, demand: &Demand) -> bool {
        match self {
            Self::Public => true,
            Self::Members => demand.asker.is_some(),
            Self::Invited(owner) => {
                demand.asker.is_some_and(|asker| asker == owner || demand.invited.contains(&owner))
            }
            Self::Owner(owner) => demand.asker == Some(owner),
        }
    }

    /// Iterates over all that owners have closed and that the asker may ask.
    pub(super) fn closed_for(demand: &Demand) -> impl Iterator<Item = Self> {
        let own = demand.asker.map(|asker| [Self::Invited(asker), Self::Owner(asker)]);
        let invited = demand.invited.iter().filter(|_| demand.asker.is_some());
        own.into_iter().flatten().chain(invited.map(|owner| Self::Invited(*owner)))
    }
}
