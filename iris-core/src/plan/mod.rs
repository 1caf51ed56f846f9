//! Plans: one idea for every way of dividing work.
//!
//! A plan is a list of steps, each of which uses results of earlier ones, so it is an acyclic
//! graph by construction. [`PlanRun`] carries a plan out: reports of nodes come in, assignments
//! go out. It never sends, waits or draws randomness, so a coordinator, a client that keeps its
//! prompts to itself, and a test drive the same code; [`drive`] is the loop that all of them use.
//!
//! Every way of working is a constructor of the same type:
//!
//! | mode | constructor | plan |
//! |---|---|---|
//! | `single` | [`single`] | one step |
//! | `subtasks` | [`subtasks`] | independent parts, side by side, merged in order |
//! | `consensus` | [`consensus`] | replicas on nodes of different owners that agree by normal form |
//! | `context` | [`context`] (feature `split`) | a long document, cut, mapped side by side, reduced as a tree |
//! | `collaborative` | [`collaborative`] | one model, many data sets that stay where they are |
//! | `comparative` | [`comparative`] | many models, one input |
//! | `chained` | [`Plan`] itself | a pipeline of one's own |
//!
//! # Time
//!
//! A plan's time is the [`Duration`](std::time::Duration) since it was accepted, so
//! that it can be written down.
#![cfg_attr(
    not(feature = "split"),
    allow(rustdoc::broken_intra_doc_links, reason = "a constructor comes with a feature")
)]

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::backend::Usage;
use crate::id::NodeId;
use crate::model::{Abilities, ModelName};

mod aggregate;
#[cfg(test)]
mod arbitrary;
mod check;
mod collaborative;
mod comparative;
mod condition;
mod consensus;
#[cfg(feature = "split")]
mod context;
mod drive;
mod event;
mod list;
mod mode;
mod name;
mod parts;
mod picture;
mod question;
mod run;
#[cfg(feature = "split")]
mod split;
mod subtasks;
mod template;
mod tokens;
mod vote;
mod wire;

pub use aggregate::aggregate;
pub use collaborative::collaborative;
pub use comparative::comparative;
pub use consensus::consensus;
#[cfg(feature = "split")]
pub use context::context;
pub use drive::{Driven, Worker, drive};
pub use event::{
    Assignment, Decision, DecisionError, Event, Number, Output, Placed, PlanEnd, PlanError,
    Progress, Report, StepError, UnitReport, UnitState,
};
pub use list::list;
pub use mode::{Capacity, Chat, Compare, Division, ModeChoice, divide, single};
pub use name::{StepName, StepNameError};
pub use picture::StepOutline;
pub use run::{Action, PlanRun};
#[cfg(feature = "split")]
pub use split::split;
pub use subtasks::subtasks;
pub use template::{Template, TemplateError};
pub use tokens::tokens;
pub use vote::{Ballot, Group, Tally, tally};

/// How a task is carried out.
#[derive(Clone, PartialEq)]
pub struct Plan {
    /// Which constructor made it.
    pub mode: Mode,
    /// What the user gave: the value of `{{ input }}`.
    pub input: String,
    /// The steps. Each uses results of earlier ones only.
    pub steps: Vec<Step>,
    /// The step whose output is the plan's.
    pub answer: StepName,
    /// What all steps may use together.
    pub budget: Budget,
    /// How many assignments may be under way at a time. Default: 32.
    pub side_by_side: u32,
    /// Tokens of prompt and answer together that every node takes, where it is known. Under a
    /// budget of tokens an answer without a limit of its own gets what is left of it.
    pub context_tokens: Option<u32>,
}

/// A way of working.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One step.
    #[default]
    Single,
    /// Independent parts, merged in order.
    Subtasks,
    /// Replicas that agree.
    Consensus,
    /// A long document.
    Context,
    /// One model, many data sets.
    Collaborative,
    /// Many models, one input.
    Comparative,
    /// A plan of the user's own.
    Chained,
}

/// One unit of a plan.
#[derive(Clone, PartialEq)]
pub struct Step {
    /// Names the step in templates.
    pub name: StepName,
    /// What it does.
    pub work: Work,
    /// Skips the step where this does not hold.
    pub when: Option<Condition>,
    /// What the step may use, all its parts, replicas and repetitions together.
    pub budget: Budget,
    /// What happens when it fails.
    pub on_failure: OnFailure,
    /// Takes back what the step did, where the plan ends without its answer after this step had
    /// finished.
    pub undo: Option<Box<Ask>>,
}

/// What a step does.
#[derive(Clone, PartialEq)]
pub enum Work {
    /// Asks a model once, or as often as there are replicas.
    Ask(Box<Ask>),
    /// Asks once for each item, side by side. The outputs keep the order of the items.
    Each {
        /// The items: the values of `{{ item }}`.
        items: Items,
        /// What is asked.
        ask: Box<Ask>,
    },
    /// Merges the outputs of an earlier step, as many at a time as fit, until one is left.
    Fold {
        /// The step whose outputs are merged; usually an [`Work::Each`].
        of: StepName,
        /// What is asked; `{{ item }}` is the outputs that are merged now.
        ask: Box<Ask>,
        /// How many tokens of outputs fit into one merge, estimated.
        most_tokens: u32,
        /// How often outputs of merges are merged again, at most. The last level takes all.
        most_levels: u32,
    },
    /// Puts earlier outputs together without asking anybody.
    Join {
        /// The steps, in the order of their outputs.
        of: Vec<StepName>,
        /// How.
        by: Join,
    },
    /// Waits until a person has chosen among earlier outputs, or written a better one.
    Review {
        /// The steps whose outputs are laid out.
        of: Vec<StepName>,
    },
}

/// Where the items of [`Work::Each`] come from.
#[derive(Clone, PartialEq)]
pub enum Items {
    /// They are known.
    Given(Vec<Item>),
    /// An earlier step's output is a JSON array of strings, or an object with one such array.
    From {
        /// The step.
        step: StepName,
        /// At most so many are taken.
        most: u32,
        /// The only item if the output is no list of at least one; without it the step fails.
        otherwise: Option<String>,
    },
}

/// One item of [`Work::Each`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its text.
    pub text: String,
    /// Where in the plan's document it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// A place in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// The line of its first byte, counted from 1.
    pub line: u64,
    /// The line of its last byte.
    pub last_line: u64,
}

/// What a model is asked.
#[derive(Clone, PartialEq)]
pub struct Ask {
    /// The model.
    pub model: ModelName,
    /// Messages before the prompt, as JSON objects of the chat API; never templates.
    pub history: Vec<Value>,
    /// Instructions before everything else.
    pub system: Option<Template>,
    /// The prompt; without it the history ends with the question.
    pub prompt: Option<Template>,
    /// The longest answer, in tokens.
    pub max_tokens: Option<u32>,
    /// Other members of the chat request, such as `temperature`.
    pub params: Map<String, Value>,
    /// What the model's server must be able to do.
    pub abilities: Abilities,
    /// A data set on the node that the prompt is about.
    pub dataset: Option<Dataset>,
    /// The nodes that may do it; empty for any.
    pub nodes: Vec<NodeId>,
    /// How often it is asked, and what counts as agreement. Without it: once.
    pub replicas: Option<Replicas>,
}

/// A data set that lies on a node and stays there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The name that the node's owner gave it.
    pub name: String,
    /// What the node's owner asks of those who may use it; sent to the node only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The same question to nodes of different owners.
#[derive(Clone, PartialEq)]
pub struct Replicas {
    /// How many are asked.
    pub count: u32,
    /// How many have to answer; fewer is [`StepError::NoQuorum`].
    pub quorum: u32,
    /// What counts as the same answer.
    pub agreement: Agreement,
    /// Whether answers weigh as much as their nodes' reputation, or all the same.
    pub weighted: bool,
    /// Merges answers in free text that do not agree, which are never voted on: `{{ item }}` is
    /// all of them. Without it they are [`StepError::NoAgreement`].
    pub synthesis: Option<Box<Ask>>,
}

/// What counts as the same answer.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum Agreement {
    /// Numbers, if all answers are; else JSON; else texts.
    Auto,
    /// The last number in the answer, within a relative tolerance.
    Number {
        /// Largest difference, as a part of the larger number. 0 asks for equal numbers.
        #[serde(default)]
        tolerance: f64,
    },
    /// The same JSON value, whatever the order of members and the form of numbers.
    Json,
    /// The one of these options that the answer names.
    Choice {
        /// The options.
        options: Vec<String>,
    },
    /// Alike texts, by the share of pairs of letters that two have in common.
    Text {
        /// How alike, from 0 (anything) to 1 (the same pairs).
        similarity: f64,
    },
}

/// How earlier outputs are put together.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case", deny_unknown_fields)]
pub enum Join {
    /// One after the other.
    Concat {
        /// Between two outputs. Default: an empty line.
        #[serde(default = "empty_line")]
        separator: String,
        /// A heading for each output, in order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headings: Vec<String>,
    },
    /// The answer that most have given.
    Vote {
        /// What counts as the same.
        agreement: Agreement,
        /// A weight for each output, in order; missing ones are 1.
        #[serde(default)]
        weights: Vec<f64>,
    },
    /// Numbers, vectors or histograms, by arithmetic.
    Aggregate {
        /// How.
        method: Aggregate,
        /// A weight for each output, in order; missing ones are 1.
        #[serde(default)]
        weights: Vec<f64>,
    },
    /// All of them as a JSON array of objects with `step`, `node` and `text`.
    All,
}

fn empty_line() -> String {
    "\n\n".to_owned()
}

/// Arithmetic over outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Numbers, or vectors of one length: the mean.
    Mean,
    /// The same, with weights.
    WeightedMean,
    /// Vectors of model parameters, weighted by how many samples each comes from: objects with
    /// `vector` and `count`, or plain vectors with given weights.
    FederatedAverage,
    /// Objects from bin to count: the sum of each bin.
    Histogram,
}

/// When a step is done.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The earlier step whose output is looked at; a skipped one has an empty output.
    pub step: StepName,
    /// Holds when the output contains this text, whatever the case of its letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Holds when the output is this text, but for case and surrounding space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
    /// Holds when the last number in the output is larger than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// Holds when the last number in the output is smaller than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// Turns the answer around.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
}

/// What may be used. What would go beyond it is not begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Tokens, read and written. Prompts are estimated, by their texts alone: what a node adds (a
    /// data set), and a second try that the network makes by itself, are not in the estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Seconds since the plan, or the step, began. Of a plan, waiting for a person does not
    /// count; of a review, they are what the person has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Assignments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignments: Option<u32>,
}

/// What happens when a step fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnFailure {
    /// How often it is tried again, on another node where there is one. Default: 0; the network
    /// itself tries a second node before a step counts as failed.
    pub retries: u32,
    /// Models to try after that, in order.
    pub fallback: Vec<ModelName>,
    /// What happens at last.
    pub then: Then,
}

/// What happens when a step has failed for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The plan fails; what was done is undone.
    #[default]
    Stop,
    /// The plan goes on; the step's output is empty.
    Skip,
}

impl Plan {
    /// Iterates over the models that its steps may ask, some of them perhaps twice.
    pub fn models(&self) -> impl Iterator<Item = &ModelName> {
        self.steps.iter().flat_map(|step| {
            let ask = match &step.work {
                Work::Ask(ask) | Work::Each { ask, .. } | Work::Fold { ask, .. } => Some(ask),
                Work::Join { .. } | Work::Review { .. } => None,
            };
            let asks = ask.into_iter().chain(&step.undo).flat_map(|ask| {
                let synthesis = ask.replicas.as_ref().and_then(|each| each.synthesis.as_ref());
                [Some(&ask.model), synthesis.map(|ask| &ask.model)]
            });
            asks.flatten().chain(&step.on_failure.fallback)
        })
    }

    /// Returns the place of the step `name` among the steps.
    pub fn place(&self, name: &StepName) -> Option<usize> {
        self.steps.iter().position(|step| step.name == *name)
    }
}

impl Step {
    /// Iterates over the names of the steps whose outputs it needs, perhaps twice.
    pub fn uses(&self) -> impl Iterator<Item = StepName> + '_ {
        let (ask, of): (Option<&Ask>, &[StepName]) = match &self.work {
            Work::Each { items: Items::From { step, .. }, ask } => {
                (Some(ask), std::slice::from_ref(step))
            }
            Work::Ask(ask) | Work::Each { ask, .. } => (Some(ask), &[]),
            Work::Fold { of, ask, .. } => (Some(ask), std::slice::from_ref(of)),
            Work::Join { of, .. } | Work::Review { of } => (None, of),
        };
        let named = ask.into_iter().flat_map(Ask::names).filter_map(|name| name.parse().ok());
        let condition = self.when.iter().map(|condition| condition.step.clone());
        of.iter().cloned().chain(named).chain(condition)
    }
}

impl Ask {
    /// Iterates over the names that its templates use, those of its synthesis included.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let synthesis = self.replicas.as_ref().and_then(|replicas| replicas.synthesis.as_deref());
        let asks = [Some(self), synthesis].into_iter().flatten();
        asks.flat_map(|ask| ask.system.iter().chain(&ask.prompt)).flat_map(Template::names)
    }
}

impl Source {
    /// Returns its lines as people write them: `12-40`, or `12`.
    fn lines(self) -> String {
        let Self { line, last_line, .. } = self;
        if line == last_line { line.to_string() } else { format!("{line}-{last_line}") }
    }

    /// Returns the stretch from the beginning of the first to the end of the last of two places.
    fn across(self, other: Self) -> Self {
        let first = if other.start < self.start { other } else { self };
        let last = if other.end > self.end { other } else { self };
        Self { start: first.start, end: last.end, line: first.line, last_line: last.last_line }
    }
}

impl Output {
    /// Returns no text, which nobody had to write.
    fn empty() -> Self {
        Self { text: String::new(), finish_reason: "stop".to_owned(), usage: Usage::default() }
    }
}

/// Prompts and answers never reach logs, so plans and what they are made of print without them.
macro_rules! quiet_debug {
    ($($name:ident { $($field:ident),* }),* $(,)?) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    )*};
}
use quiet_debug;

quiet_debug!(
    Plan { mode, steps, answer, budget, side_by_side },
    Step { name, when, budget, on_failure },
    Ask { model, max_tokens, abilities, nodes, replicas },
    Item { source },
    Dataset { name },
    Replicas { count, quorum, agreement, weighted },
    Condition { step },
);

impl std::fmt::Debug for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "Auto",
            Self::Number { .. } => "Number",
            Self::Json => "Json",
            Self::Choice { .. } => "Choice",
            Self::Text { .. } => "Text",
        })
    }
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Concat { .. } => "Concat",
            Self::Vote { .. } => "Vote",
            Self::Aggregate { .. } => "Aggregate",
            Self::All => "All",
        })
    }
}
