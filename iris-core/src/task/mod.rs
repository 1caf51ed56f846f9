//! A task's life: from submission to exactly one end.

use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, Finish};
use crate::demand::Demand;
use crate::explain::{Explanation, Reason};
use crate::id::NodeId;
use crate::model::Abilities;

mod run;

pub use run::{Action, Hedge, Passed, RetryPolicy, TaskRun};

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It was accepted and waits for a node.
    Submitted,
    /// It is known how it will be carried out.
    Planned,
    /// A node works on it.
    Running,
    /// It has its answer.
    Finished,
    /// It has no answer, or only a part of one.
    Failed,
    /// Its caller gave it up.
    Cancelled,
    /// Its time ran out.
    Expired,
}

impl TaskState {
    /// Returns the state's name, as it appears on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Planned => "planned",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Returns whether the task is over.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled | Self::Expired)
    }
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is complete.
    Finished(Finish),
    /// There is no answer, or only a part of one.
    Failed(TaskError),
    /// The caller gave it up.
    Cancelled,
    /// The time ran out.
    Expired,
}

impl Outcome {
    /// Returns the terminal state.
    pub const fn state(&self) -> TaskState {
        match self {
            Self::Finished(_) => TaskState::Finished,
            Self::Failed(_) => TaskState::Failed,
            Self::Cancelled => TaskState::Cancelled,
            Self::Expired => TaskState::Expired,
        }
    }
}

/// Why a task has no complete answer. The texts are for the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskError {
    /// The request itself is at fault; no node could do it as it stands.
    #[error("{message}")]
    Rejected {
        /// HTTP status, 400 to 499.
        status: u16,
        /// OpenAI's `code`.
        code: Option<String>,
        /// OpenAI's `param`.
        param: Option<String>,
        /// What is wrong.
        message: String,
    },
    /// No node has offered the model for a long time; check its name.
    #[error("the model `{model}` is not offered by any node of this network")]
    ModelNotFound {
        /// The name that was asked for.
        model: String,
    },
    /// The model is known, and no node that offers it is there now; try again later.
    #[error("no node that offers the model `{model}` is online")]
    NoNodeOnline {
        /// The name that was asked for.
        model: String,
    },
    /// Nodes offer the model, and none of them can do what the request needs.
    #[error("no node that offers the model `{model}` can serve this request: {needs}")]
    NoNodeAble {
        /// The name that was asked for.
        model: String,
        /// What is missing.
        needs: String,
        /// Whether the request is too long for them.
        #[serde(default)]
        too_long: bool,
    },
    /// The data set lies on no node that is there.
    #[error("no node that is there has a data set `{name}`")]
    NoDataset {
        /// The name that was asked for.
        name: String,
    },
    /// The same question goes to nodes of different owners, and there are too few of them.
    #[error("too few nodes of different owners can serve this request")]
    TooFewOwners,
    /// The account's fee was not paid, and none of its own nodes can do it.
    #[error(
        "the membership fee of this account is due, and none of its own nodes can serve this \
         request: ask the operator how to pay"
    )]
    MembershipLapsed,
    /// The coordinator is about to stop; try again in a moment.
    #[error("the coordinator is restarting; try again in a moment")]
    ShuttingDown,
    /// The books cannot be written for now, and no work begins that could not be accounted for.
    #[error("the coordinator's books cannot be written for now; try again in a moment")]
    BooksFull,
    /// Every node is busy, and the task's turn in the queue would come too late, or came too late.
    #[error("every node that offers the model is busy; try again in {retry_after_secs} s")]
    Busy {
        /// When a slot is expected to be free.
        retry_after_secs: u32,
    },
    /// The one node that can open the request is busy, and nobody waits in line for a single one.
    #[error("the chosen node is busy; try again in {retry_after_secs} s, or another node")]
    NodeBusy {
        /// When one of its slots is expected to be free.
        retry_after_secs: u32,
    },
    /// The one node that can open the request is not there, or takes no work.
    #[error("the chosen node is not there, or takes no work; try again later, or another node")]
    NodeOffline,
    /// The one node that can open the request does not offer the model.
    #[error("the chosen node does not offer the model `{model}`")]
    NotOffered {
        /// The name that was asked for.
        model: String,
    },
    /// The request is sealed to a key that its node does not have, or no longer.
    #[error("the request is sealed to a key that is not in use; seal it to the current one")]
    StaleKey,
    /// The node cannot open the sealed request, or must not act on it.
    #[error("the node rejects the sealed request")]
    SealRejected,
    /// The nodes that tried it failed before they answered anything.
    #[error("the nodes that tried this request failed ({attempts} tried)")]
    NodesFailed {
        /// How many nodes had accepted it.
        attempts: u32,
    },
    /// The node failed after it had answered a part, and no other could go on from there; what
    /// was received stays valid.
    #[error("the node that answered was lost before the answer was complete")]
    Interrupted,
}

impl TaskError {
    /// Says what the nodes of a model, none of which will do, lack for `demand`.
    pub fn no_node_able(demand: &Demand, explanation: &Explanation) -> Self {
        let lacks = |reason| explanation.skipped.iter().any(|(known, _)| *known == reason);
        let too_long = lacks(Reason::ContextTooShort);
        let mut needs = Vec::new();
        if too_long {
            needs.push(format!("a context of {} tokens", demand.context_tokens));
        }
        if lacks(Reason::MissingAbility) && demand.abilities != Abilities::NONE {
            needs.push(demand.abilities.names().collect::<Vec<_>>().join(", "));
        }
        if lacks(Reason::TierTooLow) {
            needs.push("a higher tier".to_owned());
        }
        if lacks(Reason::NotForCaller) {
            needs.push("a node whose owner lets it answer this caller".to_owned());
        }
        if lacks(Reason::TrustTooLow) {
            needs.push("a node that is trusted as far".to_owned());
        }
        if lacks(Reason::Denied) {
            needs.push("a node that its caller has not ruled out".to_owned());
        }
        if lacks(Reason::NotOwn) {
            needs.push("a node of the caller's own".to_owned());
        }
        if let Some(name) = demand.dataset.as_ref().filter(|_| lacks(Reason::NoDataset)) {
            needs.push(format!("the data set `{name}`"));
        }
        let model = demand.model.to_string();
        Self::NoNodeAble { model, needs: needs.join(" and "), too_long }
    }

    /// Returns the error's name, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "rejected",
            Self::ModelNotFound { .. } | Self::NotOffered { .. } => "model_not_found",
            Self::NoNodeOnline { .. } => "no_node_online",
            Self::NoNodeAble { .. } => "no_node_able",
            Self::NoDataset { .. } => "dataset_not_found",
            Self::TooFewOwners => "too_few_owners",
            Self::MembershipLapsed => "membership_lapsed",
            Self::ShuttingDown => "shutting_down",
            Self::BooksFull => "books_full",
            Self::Busy { .. } => "busy",
            Self::NodeBusy { .. } => "node_busy",
            Self::NodeOffline => "node_offline",
            Self::StaleKey => "stale_key",
            Self::SealRejected => "seal_rejected",
            Self::NodesFailed { .. } => "nodes_failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// How one node's attempt at a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AttemptEnd {
    /// It delivered a complete answer.
    Done,
    /// It refused before it accepted.
    Refused,
    /// It neither accepted nor refused in time.
    Unanswered,
    /// It accepted and then made no progress in time.
    Stalled,
    /// Its connection was lost for good after it had accepted.
    Lost,
    /// Its connection was lost before it had answered the offer, which it may never have seen.
    Unreached,
    /// It reported that its model server failed.
    Failed,
    /// It answered something that is not an answer.
    Invalid,
    /// It reported that the request itself is at fault.
    CallersFault,
    /// The caller gave up, or the time that the caller had given ran out.
    Stopped,
    /// Another node that was asked beside it began to answer sooner.
    Outrun,
}

/// One node's attempt at a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The node that tried.
    pub node: NodeId,
    /// How it ended.
    pub end: AttemptEnd,
}

impl From<BackendError> for AttemptEnd {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Rejected { .. } => Self::CallersFault,
            BackendError::ModelNotFound | BackendError::Busy => Self::Refused,
            BackendError::Malformed => Self::Invalid,
            BackendError::Timeout => Self::Stalled,
            BackendError::Unavailable | BackendError::Failed => Self::Failed,
        }
    }
}
