//! What was found against nodes, and what is said of it.

use iris_core::id::VerdictId;
use iris_core::verify::{Ruling, Seed};
use iris_core::{AccountId, ModelName, NodeId};
use serde::{Deserialize, Serialize};

/// Verdicts: the caller's own, or everybody's for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictPage {
    /// Verdicts, in the order of their ids.
    pub verdicts: Vec<VerdictSummary>,
    /// What to ask for `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<VerdictId>,
}

/// A finding that a node does not run a model that it offers, by two independent tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictSummary {
    /// Names it.
    pub id: VerdictId,
    /// The node.
    pub node: NodeId,
    /// Whose it is.
    pub account: AccountId,
    /// The model.
    pub model: ModelName,
    /// What was found, and how sure that is, in one sentence.
    pub text: String,
    /// When it was found.
    pub at: u64,
    /// Until when its owner can appeal.
    pub appeal_until: u64,
    /// What has become of it.
    pub state: VerdictState,
    /// What its owner says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objection: Option<String>,
    /// Why the operator decided as they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From which the prompts can be made again that confirmed it; see
    /// [`Canary::draw`](iris_core::verify::Canary::draw).
    pub seeds: Vec<Seed>,
    /// These prompts, in order; only where one verdict is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
}

/// What has become of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictState {
    /// It can be appealed against.
    Open,
    /// It was appealed against, and an operator has yet to decide.
    Appealed,
    /// It stands: an operator upheld it, or nobody objected in time.
    Final,
    /// It is void.
    Overturned,
}

/// What an owner says against a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppealRequest {
    /// 1 to 4096 bytes.
    pub text: String,
}

/// How an operator decides an appeal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRequest {
    /// Whether the verdict stands.
    pub ruling: Ruling,
    /// Why; 1 to 4096 bytes, for the owner to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was odd about nodes of late, the latest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignList {
    /// What was seen: signs, no proofs.
    pub signs: Vec<SignSummary>,
}

/// Something odd about a node, for a person to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignSummary {
    /// The node.
    pub node: NodeId,
    /// When it was seen.
    pub at: u64,
    /// What it is.
    #[serde(flatten)]
    pub sign: OddSign,
}

/// What may be odd about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "sign", rename_all = "snake_case")]
#[non_exhaustive]
pub enum OddSign {
    /// It writes faster than memory can be read.
    TooFast {
        /// Tokens in a second.
        tokens_per_second: u64,
    },
    /// It gave word for word the answer that a node of this owner, or of its own, gave to another
    /// question.
    SameAnswer {
        /// Whose node gave it first.
        owner: AccountId,
    },
    /// It leaves tests unanswered, many in a row: it may have a bad line, or not want to be tested.
    Unanswered,
    /// Its owner has registered many nodes that are new.
    ManyNewNodes {
        /// How many within thirty days.
        count: usize,
    },
    /// Something that this version has no word for.
    #[serde(other)]
    Other,
}
