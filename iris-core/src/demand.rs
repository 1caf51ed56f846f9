//! What a task needs of a node.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::explain::Reason;
use crate::id::{AccountId, NodeId};
use crate::model::{Abilities, ModelName};
use crate::registry::Candidate;
use crate::tier::Tier;

/// How far a node has to be trusted; each level includes the higher ones.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Any node will do.
    #[default]
    Any,
    /// Nodes of good standing by enough work: see
    /// [`Standing::is_proven`](crate::standing::Standing::is_proven).
    Proven,
    /// Nodes of owners whom the operator trusts.
    Trusted,
}

/// What part a caller's own nodes have in its tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Own {
    /// They come before all others, since they cost their owner nothing.
    #[default]
    First,
    /// No others will do.
    Only,
    /// They are nodes as any other.
    Any,
}

/// What one step of a task needs of the node that does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The model that was asked for.
    pub model: ModelName,
    /// Tokens of prompt and answer together, as far as they can be estimated.
    pub context_tokens: u32,
    /// What the model's server must be able to do.
    pub abilities: Abilities,
    /// The lowest tier that will do.
    pub min_tier: Tier,
    /// Nodes that were tried already.
    pub exclude: Vec<NodeId>,
    /// The nodes that may do it; empty for any.
    pub only: Vec<NodeId>,
    /// Owners whose nodes must not do it, because they answer the same question already.
    pub not_of: Vec<AccountId>,
    /// Nodes that its caller does not want.
    pub denied: Vec<NodeId>,
    /// Owners whose nodes its caller does not want.
    pub denied_owners: Vec<AccountId>,
    /// The only owner whose nodes may do it.
    pub owner_only: Option<AccountId>,
    /// The owner whose nodes come before all others, as long as one of them is free.
    pub own_first: Option<AccountId>,
    /// The account that asks, where one does: some nodes serve none but these.
    pub asker: Option<AccountId>,
    /// Owners whose nodes do not answer the account that asks.
    pub barred: Vec<AccountId>,
    /// Owners whose nodes answer it though they answer few.
    pub invited: Vec<AccountId>,
    /// How far its node has to be trusted.
    pub trust: Trust,
    /// The node that has read the beginning of the conversation already.
    pub affinity: Option<NodeId>,
    /// A data set that has to lie on the node.
    pub dataset: Option<String>,
}

impl Demand {
    /// Makes a demand for `model` that any of its nodes can meet.
    pub const fn new(model: ModelName) -> Self {
        Self {
            model,
            context_tokens: 0,
            abilities: Abilities::NONE,
            min_tier: Tier::Basic,
            exclude: Vec::new(),
            only: Vec::new(),
            not_of: Vec::new(),
            denied: Vec::new(),
            denied_owners: Vec::new(),
            owner_only: None,
            own_first: None,
            asker: None,
            barred: Vec::new(),
            invited: Vec::new(),
            trust: Trust::Any,
            affinity: None,
            dataset: None,
        }
    }

    /// Returns why a node that could do it must not; `None` when it may.
    ///
    /// For schedulers: a registry's groups hold what meets all the rest of a demand.
    pub fn objection(&self, candidate: &Candidate) -> Option<Reason> {
        self.objects_to(&candidate.node, &candidate.owner)
    }

    /// Returns why a node of `owner` must not do it, whatever it can do.
    pub(crate) fn objects_to(&self, node: &NodeId, owner: &AccountId) -> Option<Reason> {
        if self.exclude.contains(node) {
            Some(Reason::AlreadyTried)
        } else if self.barred.contains(owner) {
            Some(Reason::NotForCaller)
        } else if self.denied.contains(node) || self.denied_owners.contains(owner) {
            Some(Reason::Denied)
        } else {
            self.not_of.contains(owner).then_some(Reason::OwnerTaken)
        }
    }

    /// Returns whether a node of `owner` would work for its own owner.
    pub fn is_own(&self, owner: &AccountId) -> bool {
        [self.own_first.as_ref(), self.owner_only.as_ref()].contains(&Some(owner))
    }

    /// Returns whether few nodes are meant, which are found by their names, data or owner.
    pub(crate) const fn is_narrow(&self) -> bool {
        !self.only.is_empty() || self.dataset.is_some() || self.owner_only.is_some()
    }
}

/// How hard a task is, by the seeds' classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Difficulty {
    /// Translations, definitions, yes or no.
    Simple,
    /// Analysis, summaries, comparisons.
    Complex,
    /// Code, proofs, long chains of reasoning.
    Advanced,
}

impl Difficulty {
    /// Returns how long a task of this difficulty may take when its caller names no deadline:
    /// 60, 300 or 600 seconds.
    pub const fn time_limit(self) -> Duration {
        match self {
            Self::Simple => Duration::from_mins(1),
            Self::Complex => Duration::from_mins(5),
            Self::Advanced => Duration::from_mins(10),
        }
    }

    /// Returns its name, as it is written everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simple => "SIMPLE",
            Self::Complex => "COMPLEX",
            Self::Advanced => "ADVANCED",
        }
    }

    /// Returns the difficulty of this name, in any case of letters.
    pub fn of_name(name: &str) -> Option<Self> {
        let all = [Self::Simple, Self::Complex, Self::Advanced];
        all.into_iter().find(|difficulty| difficulty.name().eq_ignore_ascii_case(name))
    }

    /// Returns the lowest tier that is meant to take tasks of this difficulty.
    pub const fn tier(self) -> Tier {
        match self {
            Self::Simple => Tier::Basic,
            Self::Complex => Tier::Mid,
            Self::Advanced => Tier::Pro,
        }
    }
}
