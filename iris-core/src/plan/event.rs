//! What goes into a [`PlanRun`](super::PlanRun) and what comes out of it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Dataset, Source, quiet_debug};
use crate::backend::Usage;
use crate::id::{NodeId, TaskId};
use crate::model::{Abilities, ModelName};
use crate::task::TaskError;

/// Numbers the assignments of one plan, from 0 in the order in which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(pub u32);

/// One generation that a plan wants done by some node.
#[derive(Clone, PartialEq)]
pub struct Assignment {
    /// Which one of its plan it is.
    pub number: Number,
    /// What it is a try at: a step's name, and which part of it, such as `parts.3`.
    pub unit: String,
    /// Which of the unit's replicas it is, from 0.
    pub replica: Option<u32>,
    /// The model to ask.
    pub model: ModelName,
    /// The messages, as JSON objects of the chat API.
    pub messages: Vec<Value>,
    /// Other members of the chat request.
    pub params: Map<String, Value>,
    /// The longest answer, in tokens.
    pub max_tokens: Option<u32>,
    /// What the model's server must be able to do.
    pub abilities: Abilities,
    /// A data set on the node that the messages are about.
    pub dataset: Option<Dataset>,
    /// The nodes that may do it; empty for any.
    pub nodes: Vec<NodeId>,
    /// Nodes that have failed at it.
    pub exclude: Vec<NodeId>,
    /// Assignments of the same group go to nodes of different owners. `exclude` does not name
    /// those of the others.
    pub apart: Option<u32>,
    /// How long it may take.
    pub time_limit: Duration,
    /// Whether its text is the plan's answer, to be passed on as it comes.
    pub streams: bool,
    /// Whether it takes something back.
    pub undo: bool,
}

/// Where an assignment went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The node that took it, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The task that it is in the coordinator's books.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The node's reputation, in points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<i64>,
}

/// A complete answer of one node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its text.
    pub text: String,
    /// Why it ended: `stop`, `length` or what else the model's server says.
    pub finish_reason: String,
    /// Tokens used.
    #[serde(default)]
    pub usage: Usage,
}

/// Why an assignment, or a whole step, has no output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepError {
    /// The network has no answer.
    #[error("{error}")]
    Task {
        /// Why.
        error: TaskError,
    },
    /// The answer broke off; this much of it came.
    #[error("the answer broke off")]
    Partial {
        /// What came.
        text: String,
    },
    /// The time ran out.
    #[error("the step's time ran out")]
    Expired,
    /// The model wants to call tools, which nobody here can do for it.
    #[error("the model asked for tools, which a divided task cannot call")]
    ToolCalls,
    /// Fewer answers came than the step needs.
    #[error("{came} of at least {needed} answers came")]
    NoQuorum {
        /// How many came.
        came: u32,
        /// How many it needs.
        needed: u32,
    },
    /// No answer has more than half of the weight of all, or only one node gave it.
    #[error("the answers do not agree: {answers} differ")]
    NoAgreement {
        /// How many different ones there are.
        answers: u32,
    },
    /// Two answers weigh the same.
    #[error("{answers} answers are tied")]
    Tie {
        /// How many.
        answers: u32,
    },
    /// There are too few nodes of different owners.
    #[error("there are not enough nodes of different owners")]
    TooFewOwners,
    /// An earlier output cannot be used as the step needs it.
    #[error("{what}")]
    Unusable {
        /// What is wrong with which output.
        what: String,
    },
    /// The data set is not on any node that is there, or may not be used.
    #[error("no node that is there lets this data set `{name}` be used")]
    NoDataset {
        /// Its name.
        name: String,
    },
    /// The budget is used up.
    #[error("the budget of {what} is used up")]
    Budget {
        /// Which one: `tokens`, `seconds` or `assignments`.
        what: String,
    },
}

impl StepError {
    /// Returns the cause's name, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Task { error } => error.code(),
            Self::Partial { .. } => "interrupted",
            Self::Expired => "timeout",
            Self::ToolCalls => "tool_calls",
            Self::NoQuorum { .. } => "no_quorum",
            Self::NoAgreement { .. } => "no_agreement",
            Self::Tie { .. } => "tie",
            Self::TooFewOwners => "too_few_owners",
            Self::Unusable { .. } => "unusable_output",
            Self::NoDataset { .. } => "dataset_not_found",
            Self::Budget { .. } => "budget_exceeded",
        }
    }
}

/// What happened to a plan, as it is written down before it is acted on.
///
/// A plan and its events, handed to [`PlanRun::replay`](super::PlanRun::replay), give the run as
/// it was.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// An assignment is over.
    Ended {
        /// Which one.
        number: Number,
        /// Where it went.
        placed: Placed,
        /// What came of it.
        result: Result<Output, StepError>,
    },
    /// A node took an assignment whose weight the plan's course depends on; see
    /// [`PlanRun::records_start`](super::PlanRun::records_start).
    Placed {
        /// Which one.
        number: Number,
        /// Where it went.
        placed: Placed,
    },
    /// A person has decided a review.
    Decided(Decision),
    /// The caller gave the plan up.
    Cancelled,
}

/// What a person decides of a review.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The step that waits for it.
    pub step: String,
    /// The unit whose output is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choose: Option<String>,
    /// A text of the person's own instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Why a decision was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionError {
    /// No step of that name waits for a decision.
    #[error("no step of that name waits for a decision")]
    NotWaiting,
    /// It names no output that is laid out.
    #[error("'choose' names none of the outputs that are laid out")]
    UnknownChoice,
    /// It has to choose an output or give a text, not both.
    #[error("exactly one of 'choose' and 'text' must be given")]
    OneOfBoth,
}

/// What a [`Worker`](super::Worker) tells of an assignment.
#[derive(Clone, PartialEq, Eq)]
pub enum Report {
    /// A node took it; when it comes again, another one did.
    Started(Placed),
    /// The next piece of its text, where [`Assignment::streams`] asks for it.
    Text(String),
    /// It is over; comes once, and last. After any text, a failure is [`StepError::Partial`].
    Ended(Placed, Result<Output, StepError>),
}

/// What those who follow a plan are told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// A unit became part of the plan.
    Added {
        /// Its label.
        unit: String,
        /// Where in the document its item stands.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Source>,
    },
    /// A node works on a unit.
    Started {
        /// The unit.
        unit: String,
        /// The assignment.
        number: Number,
        /// The model.
        model: ModelName,
        /// Where it went.
        #[serde(flatten)]
        placed: Placed,
    },
    /// The plan's answer goes on. All of these together are the output of a finished plan.
    Text {
        /// With this text.
        text: String,
    },
    /// An assignment was completed.
    Answered {
        /// The unit.
        unit: String,
        /// The assignment.
        number: Number,
        /// Where it went.
        #[serde(flatten)]
        placed: Placed,
        /// Milliseconds that it took.
        took_ms: u64,
        /// Tokens used.
        usage: Usage,
    },
    /// An assignment failed.
    Failed {
        /// The unit.
        unit: String,
        /// The assignment.
        number: Number,
        /// Where it went.
        #[serde(flatten)]
        placed: Placed,
        /// Why, as a sentence.
        error: String,
    },
    /// Replicas agreed, or did not.
    Agreed {
        /// The unit.
        unit: String,
        /// Nodes that gave the answer that was taken.
        agreed: Vec<NodeId>,
        /// Nodes that gave another.
        dissent: Vec<NodeId>,
    },
    /// A unit is over.
    Over {
        /// The unit.
        unit: String,
        /// How.
        state: UnitState,
    },
    /// A person has to decide.
    Waiting {
        /// The review's step.
        unit: String,
        /// The units whose outputs are laid out.
        choices: Vec<String>,
    },
    /// Everything is over; comes once, and last.
    Ended(PlanEnd),
}

/// Where a unit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitState {
    /// It waits for earlier steps, for its turn, or for its condition to be known.
    Waiting,
    /// A node works on it.
    Running,
    /// A person has to decide.
    Review,
    /// It has its output.
    Finished,
    /// Its condition did not hold, or it failed and that is allowed.
    Skipped,
    /// It failed.
    Failed,
    /// The plan ended before it.
    Dropped,
    /// It was taken back.
    Undone,
}

/// How a plan ended.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PlanEnd {
    /// It has its answer.
    Finished {
        /// The answer.
        output: Output,
    },
    /// A budget or the time was used up; what is there is here.
    Partial {
        /// Why.
        error: StepError,
        /// The outputs that nothing else was made of, one after the other.
        text: String,
    },
    /// It has no answer.
    Failed {
        /// The step that failed.
        step: String,
        /// Why.
        error: StepError,
    },
    /// The caller gave it up.
    Cancelled,
}

/// One unit of a plan, as it stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitReport {
    /// Its label: the step's name, and which part of it.
    pub unit: String,
    /// Where it stands.
    pub state: UnitState,
    /// The model that was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// Where its assignments went, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placed: Vec<Placed>,
    /// Assignments so far.
    pub assignments: u32,
    /// Milliseconds from its first assignment to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// What it cost: tokens of all its assignments.
    pub usage: Usage,
    /// Where in the document its item stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Nodes that gave another answer than the one that was taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dissent: Vec<NodeId>,
    /// Why it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepError>,
}

/// Why a plan cannot be carried out. `at` names the member of the plan that is at fault, such as
/// `steps[2].prompt`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct PlanError {
    /// The member.
    pub at: String,
    /// What is wrong with it, and what would be right.
    pub what: String,
}

quiet_debug!(
    Assignment {
        number,
        unit,
        replica,
        model,
        max_tokens,
        abilities,
        nodes,
        exclude,
        apart,
        time_limit,
        streams,
        undo
    },
    Output { finish_reason, usage },
    Decision { step, choose },
    UnitReport { unit, state, model, placed, assignments, took_ms, usage, dissent },
);

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepError({}", self.code())?;
        match self {
            // Model servers quote prompts in their errors.
            Self::Task { .. } | Self::Partial { .. } => f.write_str(")"),
            other => write!(f, ": {other})"),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { number, placed, result } => f
                .debug_struct("Ended")
                .field("number", number)
                .field("placed", placed)
                .field("is_ok", &result.is_ok())
                .finish(),
            Self::Placed { number, placed } => {
                f.debug_tuple("Placed").field(number).field(placed).finish()
            }
            Self::Decided(decision) => f.debug_tuple("Decided").field(decision).finish(),
            Self::Cancelled => f.write_str("Cancelled"),
        }
    }
}

impl fmt::Debug for PlanEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished { output } => f.debug_tuple("Finished").field(output).finish(),
            Self::Partial { text, .. } => write!(f, "Partial({} bytes)", text.len()),
            Self::Failed { step, .. } => write!(f, "Failed({step})"),
            Self::Cancelled => f.write_str("Cancelled"),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { unit, .. } => write!(f, "Added({unit})"),
            Self::Started { unit, number, .. } => write!(f, "Started({unit}, {number:?})"),
            Self::Text { text } => write!(f, "Text({} bytes)", text.len()),
            Self::Answered { unit, number, .. } => write!(f, "Answered({unit}, {number:?})"),
            Self::Failed { unit, number, .. } => write!(f, "Failed({unit}, {number:?})"),
            Self::Agreed { unit, agreed, dissent } => {
                write!(f, "Agreed({unit}, {} against {})", agreed.len(), dissent.len())
            }
            Self::Over { unit, state } => write!(f, "Over({unit}, {state:?})"),
            Self::Waiting { unit, .. } => write!(f, "Waiting({unit})"),
            Self::Ended(end) => f.debug_tuple("Ended").field(end).finish(),
        }
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(placed) => f.debug_tuple("Started").field(placed).finish(),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Ended(placed, result) => {
                f.debug_tuple("Ended").field(placed).field(&result.is_ok()).finish()
            }
        }
    }
}
