//! What a node tells its coordinator.

use iris_core::AssignmentId;
use iris_core::backend::{BackendError, Finish, Usage};
use iris_core::demand::Difficulty;
use iris_core::model::ModelOffer;
use iris_core::terms::Terms;
use serde::{Deserialize, Serialize};

use super::{About, Empty, SessionId, bounded, messages};
use crate::limits::{
    MAX_CERTIFICATE, MAX_DATASET_LEN, MAX_GPU_LEN, MAX_NAME_LEN, MAX_REASON_LEN, MAX_RECEIPT,
    MAX_VERSION_LEN,
};
use crate::text::{Blob, Bytes32, Bytes64, Label};
use crate::version::{Capability, Version};

messages! {
    /// A message from a node to the coordinator.
    pub enum NodeMessage {
        /// Answers the challenge; always first, sent once.
        "NODE_REGISTER" => NodeRegister(Box<NodeRegister>),
        /// Shows that the node lives.
        "NODE_HEARTBEAT" => NodeHeartbeat(NodeHeartbeat),
        /// Takes an assignment on.
        "TASK_ACCEPT" => TaskAccept(About),
        /// Turns an assignment down.
        "TASK_REFUSE" => TaskRefuse(TaskRefuse),
        /// Shows that a backend is at work on an assignment while it has no output.
        "TASK_PROGRESS" => TaskProgress(About),
        /// Ends an assignment well.
        "TASK_RESULT" => TaskResult(TaskResult),
        /// Ends an assignment with a fault.
        "TASK_ERROR" => TaskError(TaskError),
        /// Confirms that an assignment was cancelled; nothing more follows for it.
        "TASK_CANCELLED" => TaskCancelled(About),
        /// Answers a `CLASSIFY_ASSIGN`.
        "CLASSIFY_RESULT" => ClassifyResult(ClassifyResult),
        /// Replaces the certificate of the node's sealing key.
        "CERTIFICATE" => Certificate(Certificate),
        /// Announces that the node takes nothing more on; running work goes on.
        "DRAIN" => Drain(Empty),
    }
}

/// Who a node is, what it can do, and what it still holds of its last session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRegister {
    /// The version of the challenge's range that the node chose.
    pub version: Version,
    /// What the node can do beyond the version.
    #[serde(default, deserialize_with = "bounded::capabilities")]
    pub capabilities: Vec<Capability>,
    /// The node's identity: an Ed25519 public key.
    pub identity: Bytes32,
    /// The node's sealing key, certified by its identity.
    pub certificate: Blob<MAX_CERTIFICATE>,
    /// Random bytes, new for each connection, which the coordinator's proof covers.
    pub nonce: Bytes32,
    /// The identity's signature over the handshake.
    pub signature: Bytes64,
    /// What the owner calls the node; proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label<MAX_NAME_LEN>>,
    /// Which agent this is, such as `iris-node/0.1.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<Label<MAX_VERSION_LEN>>,
    /// How many assignments the node works on at once; 0 while it is paused.
    #[serde(deserialize_with = "bounded::slots")]
    pub slots: u32,
    /// The models that would answer now.
    #[serde(deserialize_with = "bounded::models")]
    pub models: Vec<ModelOffer>,
    /// The names of the data sets that lie on the node, for those who may use them.
    #[serde(
        default,
        deserialize_with = "bounded::datasets",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub datasets: Vec<Label<MAX_DATASET_LEN>>,
    /// The machine; claims, not evidence.
    #[serde(default)]
    pub hardware: Hardware,
    /// What the owner has settled about the node.
    #[serde(default, skip_serializing_if = "Terms::is_default")]
    pub terms: Terms,
    /// The session to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// What a node says about its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The graphics card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Label<MAX_GPU_LEN>>,
    /// Memory of the graphics card, in whole GB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_gb: Option<u32>,
    /// Memory of the machine, in whole GB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram_gb: Option<u32>,
}

/// What a node still holds of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The session's id, from its `REGISTER_ACK`.
    pub session: SessionId,
    /// Every assignment that was accepted and whose end is not acknowledged.
    #[serde(deserialize_with = "bounded::assignments")]
    pub assignments: Vec<Buffered>,
}

/// What a node can send again of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffered {
    /// Which assignment is meant.
    pub assignment: AssignmentId,
    /// The first sequence number that was not acknowledged.
    pub buffered_from: u32,
}

/// Shows that a node lives, and what has changed about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHeartbeat {
    /// How many assignments the node works on.
    pub running: u32,
    /// The models that would answer now, when they changed.
    #[serde(
        default,
        deserialize_with = "bounded::some_models",
        skip_serializing_if = "Option::is_none"
    )]
    pub models: Option<Vec<ModelOffer>>,
    /// The number of slots, when it changed.
    #[serde(
        default,
        deserialize_with = "bounded::some_slots",
        skip_serializing_if = "Option::is_none"
    )]
    pub slots: Option<u32>,
    /// What the owner has settled about the node, when that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

/// Turns an assignment down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRefuse {
    /// Which assignment is meant.
    pub assignment: AssignmentId,
    /// Why.
    pub reason: RefuseReason,
}

/// Why a node turns an assignment down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefuseReason {
    /// All slots are taken.
    Busy,
    /// The node does not have the model, or no longer.
    ModelNotFound,
    /// The node takes nothing more on.
    Draining,
    /// The owner has paused the node.
    Paused,
    /// The owner has blocked the caller.
    CallerBlocked,
    /// The prompt is not what the operation asks for.
    BadRequest,
    /// The prompt was sealed under keys that the node does not have any more.
    StaleKey,
    /// The prompt is sealed, and cannot be opened or must not be run: it was changed, comes too
    /// late or a second time, or is not what it says it is. One name for all of it, since the
    /// difference would tell whoever tries.
    SealRejected,
    /// A cause that this version does not know.
    #[serde(other)]
    Other,
}

/// Ends an assignment well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// Which assignment is meant.
    pub assignment: AssignmentId,
    /// How many `STREAM` frames came before; the message's own place in the sequence.
    pub frames: u32,
    /// Why the answer ended, as in [`Finish`].
    pub reason: Label<MAX_REASON_LEN>,
    /// Tokens read and written; rounded up to multiples of 64 when the answer is sealed.
    pub usage: Usage,
    /// The node's signed receipt for a sealed answer, and the signature behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Blob<MAX_RECEIPT>>,
}

impl TaskResult {
    /// Makes the message for an answer that ended with `finish`.
    ///
    /// A reason that cannot travel as it is becomes what can be printed of it, or `stop`.
    pub fn new(assignment: AssignmentId, frames: u32, finish: &Finish) -> Self {
        let reason = Label::lossy(&finish.reason).unwrap_or_else(|| Label::known("stop"));
        Self { assignment, frames, reason, usage: finish.usage, receipt: None }
    }

    /// Adds the receipt for a sealed answer.
    #[must_use]
    pub fn with_receipt(self, receipt: Blob<MAX_RECEIPT>) -> Self {
        Self { receipt: Some(receipt), ..self }
    }

    /// Returns how the answer ended.
    pub fn finish(&self) -> Finish {
        Finish { reason: self.reason.to_string(), usage: self.usage }
    }
}

/// Ends an assignment with a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// Which assignment is meant.
    pub assignment: AssignmentId,
    /// How many `STREAM` frames came before; the message's own place in the sequence.
    pub frames: u32,
    /// What went wrong, and by whose fault.
    ///
    /// Without texts when the answer is sealed: what they would say is inside it.
    #[serde(deserialize_with = "bounded::error")]
    pub error: BackendError,
    /// The node's signed receipt for the sealed answer up to the fault, and the signature behind
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Blob<MAX_RECEIPT>>,
}

impl TaskError {
    /// Makes the message for a generation that failed with `error`, whose texts are cut to
    /// length and cleared of what cannot be printed.
    pub fn new(assignment: AssignmentId, frames: u32, error: BackendError) -> Self {
        Self { assignment, frames, error: bounded::clean_error(error), receipt: None }
    }

    /// Adds the receipt for a sealed answer.
    #[must_use]
    pub fn with_receipt(self, receipt: Blob<MAX_RECEIPT>) -> Self {
        Self { receipt: Some(receipt), ..self }
    }
}

/// Says how difficult a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassifyResult {
    /// Which assignment is meant.
    pub assignment: AssignmentId,
    /// How difficult the task is.
    pub difficulty: Difficulty,
}

/// Replaces the certificate of the node's sealing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The new certificate.
    pub certificate: Blob<MAX_CERTIFICATE>,
}
