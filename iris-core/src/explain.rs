//! Why a task went where it went.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// What a scheduler found about one node, or about many alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// It was the best of those compared.
    Chosen,
    /// It could have done it; another promised to be done sooner.
    Outscored,
    /// It could have done it, and was not among the few that were compared.
    NotCompared,
    /// All its slots are taken.
    NoFreeSlot,
    /// Its context is too short.
    ContextTooShort,
    /// Its server lacks an ability the task needs.
    MissingAbility,
    /// Its tier is too low.
    TierTooLow,
    /// It tried this task already.
    AlreadyTried,
    /// The task is meant for other nodes.
    NotNamed,
    /// The data set that the task is about does not lie on it.
    NoDataset,
    /// Its owner answers the same question with another node.
    OwnerTaken,
    /// The caller asked not to be sent to it.
    Denied,
    /// The task is for the caller's own nodes.
    NotOwn,
    /// The caller has a free node of its own, and that comes first.
    OwnFirst,
    /// Its owner lets it answer others only.
    NotForCaller,
    /// It is not trusted as far as the caller asks.
    TrustTooLow,
    /// Its owner has more than a fair share of the model's work already.
    OwnerShare,
    /// Its tier is lower than what the task's difficulty calls for; none of that tier was there.
    TierLowered,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// Its connection is interrupted.
    Away,
    /// It does not offer the model.
    ModelNotOffered,
}

impl Reason {
    /// Returns the reason's name, as it appears on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Outscored => "outscored",
            Self::NotCompared => "not_compared",
            Self::NoFreeSlot => "no_free_slot",
            Self::ContextTooShort => "context_too_short",
            Self::MissingAbility => "missing_ability",
            Self::TierTooLow => "tier_too_low",
            Self::AlreadyTried => "already_tried",
            Self::NotNamed => "not_named",
            Self::NoDataset => "no_dataset",
            Self::OwnerTaken => "owner_taken",
            Self::Denied => "denied",
            Self::NotOwn => "not_own",
            Self::OwnFirst => "own_first",
            Self::NotForCaller => "not_for_caller",
            Self::TrustTooLow => "trust_too_low",
            Self::OwnerShare => "owner_share",
            Self::TierLowered => "tier_lowered",
            Self::Draining => "draining",
            Self::Away => "away",
            Self::ModelNotOffered => "model_not_offered",
        }
    }

    /// Returns the reason as one sentence about the node.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Chosen => "It was the best of those compared.",
            Self::Outscored => "It could have done it; another promised to be done sooner.",
            Self::NotCompared => "It could have done it, and was not among the few compared.",
            Self::NoFreeSlot => "All its slots are taken.",
            Self::ContextTooShort => "Its context is too short for the prompt and the answer.",
            Self::MissingAbility => "Its model server lacks an ability the task needs.",
            Self::TierTooLow => "Its tier is too low for the task.",
            Self::AlreadyTried => "It tried this task already.",
            Self::NotNamed => "The task is meant for other nodes.",
            Self::NoDataset => "The data set that the task is about does not lie on it.",
            Self::OwnerTaken => "Its owner answers the same question with another node.",
            Self::Denied => "The caller asked not to be sent to it.",
            Self::NotOwn => "The task is for the caller's own nodes.",
            Self::OwnFirst => "The caller has a free node of its own, and that comes first.",
            Self::NotForCaller => "Its owner does not let it answer this caller.",
            Self::TrustTooLow => "It is not trusted as far as the caller asks.",
            Self::OwnerShare => "Its owner has more than a fair share of the model's work already.",
            Self::TierLowered => {
                "Its tier is lower than the task calls for; no node of that tier was there."
            }
            Self::Draining => "It finishes what it has and takes nothing new.",
            Self::Away => "Its connection is interrupted.",
            Self::ModelNotOffered => "It does not offer the model.",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// Why one choice came out as it did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The nodes that were compared, at most [`Explanation::MAX_COMPARED`].
    pub compared: Vec<(NodeId, Reason)>,
    /// How many further nodes were passed over, by reason; only reasons that occurred.
    pub skipped: Vec<(Reason, u32)>,
}

impl Explanation {
    /// The most nodes that one choice compares.
    pub const MAX_COMPARED: usize = 8;

    /// Counts `count` more nodes passed over for `reason`.
    pub fn skip(&mut self, reason: Reason, count: u32) {
        if count == 0 {
            return;
        }
        match self.skipped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, total)) => *total = total.saturating_add(count),
            None => self.skipped.push((reason, count)),
        }
    }
}
