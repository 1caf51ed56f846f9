//! What a coordinator tells a node.

use std::time::Duration;

use iris_core::backend::Operation;
use iris_core::id::CallerTag;
use iris_core::{AssignmentId, ModelName, NodeId, TaskId};
use serde::{Deserialize, Serialize};

use super::{About, Empty, SessionId, bounded, messages};
use crate::limits::MAX_ERROR_LEN;
use crate::text::{Bytes32, Bytes64, Label};
use crate::version::{Capability, Version};

messages! {
    /// A message from the coordinator to a node.
    pub enum CoordinatorMessage {
        /// Opens the connection; always first, sent once.
        "CHALLENGE" => Challenge(Challenge),
        /// Ends the registration.
        "REGISTER_ACK" => RegisterAck(Box<RegisterAck>),
        /// Answers a heartbeat.
        "HEARTBEAT_ACK" => HeartbeatAck(Empty),
        /// Offers a task; `BODY` frames with the prompt follow at once.
        "TASK_ASSIGN" => TaskAssign(TaskAssign),
        /// Takes an assignment back; the node answers `TASK_CANCELLED`.
        "TASK_CANCEL" => TaskCancel(About),
        /// Starts a new epoch of hop keys for the assignments that follow.
        "REKEY" => Rekey(Rekey),
        /// Asks how difficult a task is; `BODY` frames with the prompt follow at once.
        "CLASSIFY_ASSIGN" => ClassifyAssign(ClassifyAssign),
        /// Announces that nothing more will be assigned; running work goes on.
        "DRAIN" => Drain(Empty),
        /// Says why the coordinator closes the connection; always last.
        "ERROR" => Error(ErrorMessage),
    }
}

/// What a node must sign, and what the coordinator speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The oldest version of the protocol that the coordinator speaks.
    pub min_version: Version,
    /// The newest one.
    pub max_version: Version,
    /// Random bytes, new for each connection.
    pub nonce: Bytes32,
    /// The coordinator's identity: an Ed25519 public key.
    pub coordinator: Bytes32,
    /// What the coordinator can do beyond its version.
    #[serde(default, deserialize_with = "bounded::capabilities")]
    pub capabilities: Vec<Capability>,
}

/// The terms of a registered connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterAck {
    /// The version that both sides use from here on.
    pub version: Version,
    /// The session; the one that the node asked to resume, or a new one.
    pub session: SessionId,
    /// The node's id, which follows from its identity.
    pub node: NodeId,
    /// How often to send a heartbeat, in milliseconds.
    pub heartbeat_ms: u32,
    /// How long a silent peer is waited for, in milliseconds.
    pub lost_ms: u32,
    /// Keys for the hop; a resumed session gets a new epoch too.
    pub hop: Hop,
    /// The coordinator's signature over the handshake.
    pub proof: Bytes64,
    /// How much of one answer may be on its way without acknowledgement.
    pub window: Window,
    /// The assignments that go on; the node drops all others.
    #[serde(
        default,
        deserialize_with = "bounded::assignments",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resumed: Vec<Resumed>,
}

impl RegisterAck {
    /// Returns how often to send a heartbeat.
    pub const fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms as u64)
    }

    /// Returns how long a silent peer is waited for.
    pub const fn lost(&self) -> Duration {
        Duration::from_millis(self.lost_ms as u64)
    }
}

/// One epoch of hop keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Counts the epochs of a session, from 0.
    pub epoch: u32,
    /// The encapsulated key, for the sealing key of the node's certificate.
    pub enc: Bytes32,
}

impl Hop {
    /// Returns what the keys of an epoch and the proof for it are bound to: the session's 16
    /// bytes and the epoch, big-endian.
    ///
    /// It is the `info` of the key agreement and the session's name in the signed welcome, for
    /// `REGISTER_ACK` and `REKEY` alike; both sign over the nonce of the last `NODE_REGISTER`.
    pub fn binding(session: SessionId, epoch: u32) -> [u8; 20] {
        let mut binding = [0; 20];
        binding[..16].copy_from_slice(session.as_bytes());
        binding[16..].copy_from_slice(&epoch.to_be_bytes());
        binding
    }
}

/// How much of one answer may be on its way without acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Frames.
    pub frames: u32,
    /// Bytes of frames with their headers; a single frame may exceed it.
    pub bytes: u32,
}

/// An assignment that a resumed session continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Which assignment goes on.
    pub assignment: AssignmentId,
    /// The first sequence number that the coordinator has not received.
    pub next: u32,
}

/// Offers a task to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskAssign {
    /// Names this attempt; higher than every earlier one of the session, and below 2^53.
    pub assignment: AssignmentId,
    /// The task that the attempt is for.
    pub task: TaskId,
    /// What the prompt's body is; says nothing when the prompt is sealed.
    pub operation: Operation,
    /// The model to run.
    pub model: ModelName,
    /// Whether chunks are wanted as they come; otherwise one whole answer. Says nothing when the
    /// prompt is sealed.
    pub enable_streaming: bool,
    /// Time left for the whole task, in milliseconds.
    pub time_left_ms: u64,
    /// Estimated length of the prompt, in tokens.
    pub prompt_tokens: u32,
    /// The epoch whose keys seal this assignment, both ways, to its end.
    pub hop_epoch: u32,
    /// Length of all payloads of the `BODY` frames together, 1 to 32 MiB.
    pub body_bytes: u32,
    /// Set when the caller has the beginning of the answer already, which another node wrote.
    /// Only for nodes that have the capability [`CONTINUE`](crate::version::CONTINUE), and models
    /// that are offered with the ability of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<BegunSize>,
    /// Whether the body is a request that its caller has sealed to the node's key, to be answered
    /// by sealed records and a receipt. Never beside `begun`, and only for nodes that have the
    /// capability [`SEAL`](crate::version::SEAL).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// What the node's owner knows the caller by this month; nothing of a caller without an
    /// account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerTag>,
}

/// How much of an answer its caller has already.
///
/// The text itself ends the prompt: what the `BODY` frames carry, opened, is the request and right
/// behind it these bytes. The node answers with what follows them and nothing of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BegunSize {
    /// Length of the text in bytes of UTF-8; at least 1, and less than the prompt's.
    pub bytes: u32,
    /// How many tokens that is at least, for limits that count tokens.
    pub tokens: u32,
}

/// Asks a node how difficult a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassifyAssign {
    /// Names this attempt, in one sequence with those of tasks.
    pub assignment: AssignmentId,
    /// Time left for the answer, in milliseconds.
    pub time_left_ms: u64,
    /// The epoch whose keys seal the prompt.
    pub hop_epoch: u32,
    /// Length of all payloads of the `BODY` frames together, 1 to 32 MiB.
    pub body_bytes: u32,
}

/// Starts a new epoch of hop keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekey {
    /// One more than the last.
    pub epoch: u32,
    /// The encapsulated key.
    pub enc: Bytes32,
    /// The coordinator's signature over the new epoch.
    pub proof: Bytes64,
}

/// Says why the coordinator closes a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorMessage {
    /// The cause.
    pub code: ErrorCode,
    /// The cause in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Label<MAX_ERROR_LEN>>,
}

/// Why a coordinator closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The two sides share no version; a newer agent may help.
    Version,
    /// The proof of identity or the certificate does not hold.
    Unauthorized,
    /// The node is not welcome; trying again will not help.
    Forbidden,
    /// The same node has connected again; this connection must not come back.
    Replaced,
    /// The coordinator has as many nodes as it can take; worth a later try.
    Full,
    /// The node broke a rule of the protocol.
    Violation,
    /// The coordinator shuts down; worth a try in a moment.
    ShuttingDown,
    /// The coordinator failed; worth a try in a moment.
    Internal,
    /// A cause that this version does not know.
    #[serde(other)]
    Other,
}
