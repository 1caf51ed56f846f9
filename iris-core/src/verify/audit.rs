//! What an auditor asks for and is told.

use super::seed::{Commitment, Seed};
use super::sequential::Scored;
use super::verdict::Conviction;
use crate::id::{AccountId, NodeId};
use crate::model::ModelName;

/// A node whose word on others' answers the operator takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The node.
    pub node: NodeId,
    /// Whose it is.
    pub owner: AccountId,
}

/// Names an audit: the same again after a restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditId {
    /// Who is audited.
    pub node: NodeId,
    /// For which model.
    pub model: ModelName,
    /// The how-manieth audit of the two it is, from 1.
    pub number: u64,
}

/// Something to find out about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Its name.
    pub id: AuditId,
    /// What to do.
    pub check: Check,
    /// Whom to have the answer scored by.
    pub reference: Reference,
}

/// How a node is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Send the node the [`Canary`](super::Canary) of this seed as if it were anybody's request,
    /// and have the answer scored.
    Canary {
        /// What the prompt follows from; secret until a verdict opens it.
        seed: Seed,
        /// Binds to it; to be written down before the prompt is sent.
        commitment: Commitment,
    },
    /// Give the task to a node of another owner too. Where the two answers differ, have that of
    /// the audited node scored.
    Duplicate,
}

/// Whether the answer to a task may be compared with another node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// It may not: it is sealed, its caller has not agreed, or its tokens are drawn at random.
    Private,
    /// It may: the coordinator reads it, and it is asked at temperature zero.
    Comparable,
}

/// What came of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditResult {
    /// The reference scored the node's answer.
    Scored(Vec<Scored>),
    /// A node of another owner gave the same answer. It proves little, since both may belong
    /// together: it makes duplicates rarer and counts for nothing else.
    Agreed,
    /// The node was asked, and refused or gave no answer. The next task is audited in its place, and
    /// many in a row are [a sign](Outcome::Unanswered).
    NoAnswer,
    /// The node answered, and no reference scored that: it does not leave its tests unanswered, and
    /// has passed none.
    Unscored,
    /// The node answered with nothing that can be scored, such as no text, or thoughts beside it.
    /// Some models do so always, and nothing is made of that; of one that has passed tests it counts
    /// as [no answer](Self::NoAnswer).
    Unscorable,
    /// The node could not be asked, or not be waited for, which says nothing about it.
    Unasked,
}

/// What follows from an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The answer is what an honest node would give, and long enough to say so.
    Passed,
    /// Another owner's node gave the same answer, which proves little.
    Agreed,
    /// The answer is strange, as one honest answer in a hundred is; nothing follows from it alone.
    Doubtful,
    /// Nothing was learnt.
    Inconclusive,
    /// The node has left [so many](super::Rules::unanswered) tests of a model in a row unanswered, or
    /// as many again. It may have a bad line, and it may not want to be tested: nothing says that it
    /// lies, and nothing that it does not.
    Unanswered,
    /// The first test suspects the node. Nothing is held against it yet.
    Suspected {
        /// Whether the second test has started; otherwise the node's error budget has no room for
        /// it and a later suspicion has to start it.
        is_confirming: bool,
    },
    /// The second test goes on.
    Confirming,
    /// The second test found the node honest.
    Cleared {
        /// The owner whose reference suspected what another owner's did not confirm. One who is
        /// named here time and again runs a broken or lying reference.
        doubted: Option<AccountId>,
    },
    /// Both tests found the node lying.
    Convicted(Box<Conviction>),
}

/// Says that a result is not of an audit that is under way: it came late, twice or from nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit {} of node {} and model {} is not under way; drop its result", .0.number, .0.node, .0.model)]
pub struct UnknownAudit(pub AuditId);
