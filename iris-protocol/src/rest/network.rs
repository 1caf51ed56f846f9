use iris_core::demand::Difficulty;
use iris_core::explain::Reason;
use iris_core::task::TaskState;
use iris_core::{Hours, ModelName, NodeId, TaskId};
use serde::{Deserialize, Serialize};

use super::NodeSummary;

/// The network at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStats {
    /// Nodes that are connected.
    pub nodes: u64,
    /// Requests they can work on at a time.
    pub slots: u64,
    /// Requests they are working on.
    pub running: u64,
    /// Requests that wait for a node.
    pub waiting: u64,
    /// Models on offer.
    pub models: u64,
    /// Tasks that ended with a complete answer since the coordinator started.
    pub finished: u64,
    /// Tasks that ended without one, those left out that their callers gave up.
    pub failed: u64,
    /// Tokens that were written since the coordinator started.
    pub tokens: u64,
    /// Since when the coordinator is at work.
    pub since: u64,
}

/// A part of the nodes' ranking by points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReputationPage {
    /// Nodes, those with the most points first.
    pub nodes: Vec<ReputationEntry>,
    /// What to ask for `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What a node has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReputationEntry {
    /// Its place in the ranking, from 1.
    pub rank: u64,
    /// The node.
    pub id: NodeId,
    /// Its owner's name for it, while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its points.
    pub points: i64,
    /// Whether it is connected.
    pub connected: bool,
}

/// A part of an account's tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryPage {
    /// Tasks that are over, the latest first.
    pub tasks: Vec<HistoryEntry>,
    /// What to ask for `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What the books hold of a task: never its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The task.
    pub task: TaskId,
    /// When it was submitted.
    pub submitted: u64,
    /// The model that was asked.
    pub model: ModelName,
    /// How it ended.
    pub state: TaskState,
    /// Milliseconds from submission to the end.
    pub took_ms: u64,
    /// Tokens of the prompt; zero without a complete answer.
    pub prompt_tokens: u64,
    /// Tokens of the answer; zero without a complete answer.
    pub completion_tokens: u64,
    /// The node that worked on it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Whether the coordinator could not read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// How difficult it was found to be, where its caller named no model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<Difficulty>,
}

/// Why a node has the work that it has, and what would bring it more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeWhy {
    /// The node.
    pub id: NodeId,
    /// Its owner's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Requests it can work on at a time.
    pub slots: u32,
    /// Requests it is working on.
    pub running: u32,
    /// What it has done, in points of reputation, while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<i64>,
    /// How many of a thousand tasks it is expected to complete, while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<u16>,
    /// What it has promised, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<NodePromise>,
    /// What keeps it from work now, the most important first; empty if nothing does.
    pub hindrances: Vec<Hindrance>,
    /// How the latest choices came out that compared it, by reason.
    pub recent: Vec<ReasonCount>,
    /// Models that were asked for of late and that it does not offer, the most wanted first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<WantedModel>,
}

/// A part of an account's own nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnNodeList {
    /// The nodes that ever came with a key of the account, ordered by id.
    pub nodes: Vec<OwnNode>,
    /// What to ask for `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NodeId>,
}

/// One of an account's own nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnNode {
    /// When it first came.
    pub first_seen: u64,
    /// What it has done, in points of reputation.
    pub points: i64,
    /// How many of a thousand tasks it is expected to complete; 500 where nothing is known of it.
    pub standing: u16,
    /// What it offers now; absent while it is not connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeSummary>,
    /// Why it has the work that it has.
    pub why: NodeWhy,
}

/// When a node promises to be there, and how it kept that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePromise {
    /// The hours that it declares now; absent where it takes its promise back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// From when on that counts.
    pub since: u64,
    /// Promised hours in which it was there.
    pub kept: u32,
    /// Promised hours in which it was not.
    pub broken: u32,
}

/// Something that keeps a node from work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hindrance {
    /// Names it, for programs.
    pub code: String,
    /// What it is, in a sentence.
    pub text: String,
    /// What would change it, in a sentence.
    pub remedy: String,
}

/// How often choices came out in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// Why.
    pub reason: Reason,
    /// The same as a sentence.
    pub text: String,
    /// How often.
    pub count: u64,
}

/// A model that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedModel {
    /// Its name.
    pub model: ModelName,
    /// How often it was asked for.
    pub requests: u64,
}
