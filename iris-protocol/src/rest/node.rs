use iris_core::explain::Reason;
use iris_core::model::ModelOffer;
use iris_core::plan::StepOutline;
use iris_core::terms::Callers;
use iris_core::{Hours, NodeId, TaskId};
use serde::{Deserialize, Serialize};

/// The nodes that are connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeList {
    /// The nodes, ordered by id.
    pub nodes: Vec<NodeSummary>,
    /// What to ask for `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NodeId>,
}

/// One connected node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// Names the node.
    pub id: NodeId,
    /// Its owner's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it can do: `BASIC`, `MID` or `PRO`.
    pub tier: String,
    /// What it has done, in points of reputation.
    pub points: i64,
    /// How many of a thousand tasks it is expected to complete, by what it did of late; 500 where
    /// nothing is known of it.
    #[serde(default)]
    pub standing: u16,
    /// The models it offers.
    pub models: Vec<ModelOffer>,
    /// The data sets that lie on it, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<String>,
    /// Requests it can work on at a time.
    pub slots: u32,
    /// Requests it is working on.
    pub running: u32,
    /// Whose requests it answers.
    #[serde(default, skip_serializing_if = "Callers::are_all")]
    pub callers: Callers,
    /// When its owner promises that it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// When it connected.
    pub connected: u64,
    /// The agent's version.
    pub version: String,
}

/// Why a task went to its node and not to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The task.
    pub task: TaskId,
    /// The node that was chosen, if any could be.
    pub node: Option<NodeId>,
    /// The nodes that were compared, the chosen one first; a few.
    pub reasons: Vec<NodeReason>,
    /// The nodes that were never looked at one by one.
    pub skipped: Vec<SkipCount>,
    /// The choices before this one, of nodes that refused, failed or were lost; the first comes
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Choice>,
    /// The plan of a divided task, whose steps are explained one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Outline>,
    /// Why the steps of a divided task went where they went, as far as that is still known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepExplanation>,
}

/// A plan as a person reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// In words, a line for each step.
    pub text: String,
    /// As a picture in the language of Mermaid.
    pub mermaid: String,
    /// Its steps, for whoever draws them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepOutline>,
}

/// Why one assignment of a plan went where it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepExplanation {
    /// The unit that it was a try at.
    pub unit: String,
    /// The choices; its `task` is the assignment's own.
    #[serde(flatten)]
    pub explanation: Box<Explanation>,
}

/// Why a task once went to a node that it did not stay at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The node that was chosen.
    pub node: Option<NodeId>,
    /// The nodes that were compared, the chosen one first; a few.
    pub reasons: Vec<NodeReason>,
    /// The nodes that were never looked at one by one.
    pub skipped: Vec<SkipCount>,
}

impl Explanation {
    /// Makes the explanation of `task` out of what its scheduler returned, choice by choice;
    /// `None` when nothing was chosen yet.
    pub fn new(task: TaskId, choices: &[iris_core::explain::Explanation]) -> Option<Self> {
        let mut earlier: Vec<_> = choices.iter().map(Choice::from).collect();
        let Choice { node, reasons, skipped } = earlier.pop()?;
        Some(Self { node, reasons, skipped, earlier, ..Self::empty(task) })
    }

    /// Makes the explanation of a task that is divided: of its plan, and of its steps.
    pub fn of_plan(task: TaskId, plan: Outline, steps: Vec<StepExplanation>) -> Self {
        Self { plan: Some(plan), steps, ..Self::empty(task) }
    }

    fn empty(task: TaskId) -> Self {
        let (reasons, skipped, earlier) = (Vec::new(), Vec::new(), Vec::new());
        Self { task, node: None, reasons, skipped, earlier, plan: None, steps: Vec::new() }
    }
}

impl From<&iris_core::explain::Explanation> for Choice {
    fn from(explanation: &iris_core::explain::Explanation) -> Self {
        let chosen = |(_, reason): &&(NodeId, Reason)| *reason == Reason::Chosen;
        let mut compared = explanation.compared.clone();
        compared.sort_by_key(|entry| !chosen(&entry));
        Self {
            node: compared.iter().find(chosen).map(|(node, _)| *node),
            reasons: compared.into_iter().map(NodeReason::from).collect(),
            skipped: explanation.skipped.iter().copied().map(SkipCount::from).collect(),
        }
    }
}

/// What was said of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReason {
    /// The node.
    pub node: NodeId,
    /// The reason's name, for programs.
    pub reason: String,
    /// The same for a person.
    pub sentence: String,
}

impl From<(NodeId, Reason)> for NodeReason {
    fn from((node, reason): (NodeId, Reason)) -> Self {
        Self { node, reason: reason.name().to_owned(), sentence: reason.sentence().to_owned() }
    }
}

/// How many nodes were passed over for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipCount {
    /// The reason's name, for programs.
    pub reason: String,
    /// How many nodes.
    pub count: u64,
}

impl From<(Reason, u32)> for SkipCount {
    fn from((reason, count): (Reason, u32)) -> Self {
        Self { reason: reason.name().to_owned(), count: count.into() }
    }
}

/// Whether a coordinator is at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, or what is the matter in one word.
    pub status: String,
    /// The coordinator's version.
    #[serde(default)]
    pub version: String,
    /// Nodes that are connected.
    #[serde(default)]
    pub nodes: u64,
    /// Models that they offer between them.
    #[serde(default)]
    pub models: u64,
}
