//! Who earns what of a month's pool.
//!
//! Everything that counts is a [`RewardEvent`]; [`RewardRules`] fold events into a weight for each
//! owner of nodes, and [`close`] shares a pool by these weights, to the last millionth. Rules are
//! two to choose from, and anything else that implements the trait:
//!
//! - [`EvidenceRules`], the default: owners are paid for work that others asked for, as far as
//!   tests by a reference show that their nodes do what they say.
//! - [`SeedRules`]: every node has a part as large as its points, as the earlier systems had it.
//!   It pays whoever makes many identities or keeps idle nodes; it is kept for networks of friends
//!   and for comparison.
//!
//! The same events in the same order give the same weights on every machine, so whoever has a
//! month's [export](audit) can check what was paid.

pub mod audit;
mod evidence;
mod month;
mod pool;
mod quantile;
mod seed;
mod work;

pub(crate) use evidence::FRESH;
pub use evidence::{EvidencePolicy, EvidenceRules};
pub use month::{AttemptFact, Month, Outcome, State, TaskFact, rules};
pub use pool::{Closing, Share, close, split};
pub use quantile::lower_quantile;
pub use seed::SeedRules;
pub use work::WorkRates;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::id::{AccountId, NodeId};
use crate::model::ModelName;
use crate::reputation::{Deed, ReputationEvent};
use crate::store::Document;
use crate::task::{Attempt, AttemptEnd};
use crate::time::Timestamp;

/// Something that a node did, or that was found out about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardEvent {
    /// When.
    pub at: Timestamp,
    /// The node.
    pub node: NodeId,
    /// Its owner, or a pseudonym of it.
    pub owner: AccountId,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

impl RewardEvent {
    /// Returns what it is by the table of points, where it is anything.
    pub fn deed(&self) -> Option<ReputationEvent> {
        let deed = match self.what {
            What::Deed { deed } => deed,
            What::Promised { kept: false } => Deed::BrokenPromise,
            What::Convicted => Deed::Invalid,
            What::Work { .. }
            | What::Checked { .. }
            | What::Unanswered { .. }
            | What::Promised { kept: true } => return None,
        };
        Some(ReputationEvent { node: self.node, deed, at: self.at })
    }

    /// Returns as what it counts for the node's [standing](crate::standing), where it does.
    pub fn attempt(&self) -> Option<Attempt> {
        let is_silent = matches!(self.what, What::Unanswered { .. });
        is_silent.then_some(Attempt { node: self.node, end: AttemptEnd::Unanswered })
    }
}

/// What a [`RewardEvent`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// It answered a request, or was thanked or blamed for something.
    Deed {
        /// What it did.
        deed: Deed,
    },
    /// It answered a request of another account.
    Work {
        /// Who asked, or a pseudonym that is the same for the whole month.
        requester: AccountId,
        /// With which model.
        model: ModelName,
        /// How much work that was, by the network's [`WorkRates`].
        units: u64,
    },
    /// Its answer to a test was compared with what a reference says.
    Checked {
        /// Of which model.
        model: ModelName,
        /// Whether it is what the model would say.
        passed: bool,
        /// How much that says, in thousandths of a whole test.
        weight: u32,
    },
    /// It has left many tests in a row without an answer. That is no lie, and perhaps a bad line.
    Unanswered {
        /// Of which model.
        model: ModelName,
    },
    /// An hour is over in which it had promised to be there.
    Promised {
        /// Whether it was.
        kept: bool,
    },
    /// Two independent tests found that it does not run the model it offers.
    Convicted,
}

/// An owner's weight when a pool is shared, and what it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// The weight: shares are in proportion.
    pub weight: u64,
    /// What it was computed from, by name, for the owner's statement.
    pub parts: BTreeMap<String, u64>,
}

/// Folds what happened into the weights by which pools are shared.
///
/// Called by one task at a time, for one month after the other: [`begin`](Self::begin), then every
/// event of the month in the order of their times, then [`weights`](Self::weights). What a month
/// leaves behind for the next is [`state`](Self::state); rules of the same kind that were made from
/// it go on as if they had never stopped.
pub trait RewardRules: fmt::Debug + Send + Sync + 'static {
    /// Returns the rules' name, by which exports say what they were closed with.
    fn name(&self) -> &str;

    /// Opens a month.
    fn begin(&mut self, epoch: Epoch);

    /// Takes in an event of the month.
    fn apply(&mut self, event: &RewardEvent);

    /// Returns the weight of every owner that has any, at the end of the month.
    fn weights(&self) -> BTreeMap<AccountId, Weight>;

    /// Returns whether an owner's shares may be released once their time has come. Default: yes.
    fn may_release(&self, _owner: &AccountId) -> bool {
        true
    }

    /// Returns what is left of all events, with the policy, as one document.
    fn state(&self) -> Document;
}
