//! What the owner of a node has settled about it.

use serde::{Deserialize, Serialize};

use crate::hours::Hours;

/// What the owner of a node has settled about it, beyond what it offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// When it promises to be there; `None` where it promises nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Box<Hours>>,
    /// Whose requests it answers.
    #[serde(default, skip_serializing_if = "Callers::are_all")]
    pub callers: Callers,
    /// Why it takes no work now, though it is connected; `None` while it takes some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
}

impl Terms {
    /// Returns whether nothing is settled.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose requests a node answers. The coordinator sees to it: a node does not learn which account
/// asks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Callers {
    /// Everybody's, also of those who have no account.
    #[default]
    Public,
    /// Of everybody with an account.
    Members,
    /// Of its owner, and of those whom its owner has invited.
    Invited,
    /// Its owner's alone. So counts, too, what this version does not know.
    #[serde(other)]
    Own,
}

impl Callers {
    /// Returns whether it answers others than its owner has chosen.
    pub const fn are_many(self) -> bool {
        matches!(self, Self::Public | Self::Members)
    }

    /// Returns whether nobody is left out.
    pub fn are_all(&self) -> bool {
        *self == Self::Public
    }

    /// Returns the word for them.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Members => "members",
            Self::Invited => "invited",
            Self::Own => "own",
        }
    }
}

/// Why a node's owner lets it take no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rest {
    /// Its owner has paused it.
    Paused,
    /// It is outside of the hours in which it works.
    OffHours,
    /// Its machine is busy with something else.
    Busy,
    /// Its machine is too hot.
    Hot,
    /// Its machine draws too much power.
    Power,
    /// Its machine has too little memory left.
    Memory,
    /// It has carried as much as its owner lets it in a day or a month.
    Bandwidth,
    /// A cause that this version does not know.
    #[serde(other)]
    Other,
}

impl Rest {
    /// Returns its name, as it appears on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::OffHours => "off_hours",
            Self::Busy => "busy",
            Self::Hot => "hot",
            Self::Power => "power",
            Self::Memory => "memory",
            Self::Bandwidth => "bandwidth",
            Self::Other => "other",
        }
    }

    /// Returns what it is, as a sentence.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Paused => "Its owner has paused it.",
            Self::OffHours => "It works in other hours, by the limits of its owner.",
            Self::Busy => "Its machine is busy with something else.",
            Self::Hot => "Its machine is hotter than its owner lets it become.",
            Self::Power => "Its machine draws more power than its owner lets it.",
            Self::Memory => "Its machine has less memory free than its owner wants to keep.",
            Self::Bandwidth => "It has carried as much as its owner lets it for now.",
            Self::Other => "It rests for a reason that this version does not know.",
        }
    }

    /// Returns what would change it, as a sentence.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Paused => "`iris-node resume` on its machine lets it work again.",
            Self::OffHours => "It begins by itself; `work_hours` in its settings says when.",
            Self::Busy | Self::Hot | Self::Power | Self::Memory => {
                "It begins again by itself, when the machine has been within its limits for a minute."
            }
            Self::Bandwidth => {
                "It begins again with the next day or month of UTC; `gb_per_day` and \
                 `gb_per_month` in its settings say how much it may."
            }
            Self::Other => "See its log.",
        }
    }
}
