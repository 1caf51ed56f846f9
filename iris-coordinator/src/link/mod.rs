//! Links to nodes: registration, sessions that outlive their sockets, and the work they carry.
//!
//! Each session is one task that owns the node's connection. Whoever drives a [`Work`] talks to
//! it by commands and hears from it by a channel of its own, so a slow reader slows only its own
//! stream.

use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Sink, Stream};
use iris_core::backend::{BackendError, Finish};
use iris_core::registry::Seat;
use iris_core::{AssignmentId, NodeId, Timestamp};
use iris_crypto::{HopRoot, PublicIdentity};
use iris_protocol::Frame;
use iris_protocol::connection::CoordinatorConnection;
use iris_protocol::frame::DataFrame;
use iris_protocol::message::{NodeRegister, SessionId, TaskAssign};
use iris_protocol::transport::TransportError;
use tokio::sync::mpsc;

use crate::dispatch::Lease;

mod handshake;
mod session;
mod work;

pub(crate) use handshake::Door;
pub use handshake::LinkError;
pub(crate) use work::{News, Work};

/// Carries frames to and from one node.
pub trait Transport:
    Stream<Item = Result<Frame, TransportError>> + Sink<Frame, Error = TransportError> + Send
{
}

impl<T> Transport for T where
    T: Stream<Item = Result<Frame, TransportError>> + Sink<Frame, Error = TransportError> + Send
{
}

pub(crate) type BoxTransport = Pin<Box<dyn Transport>>;

/// How long hop keys are used before new ones are agreed on.
const REKEY_AFTER: Duration = Duration::from_mins(10);
/// How many times hop keys change before an hour of uptime is credited.
const REKEYS_PER_HOUR: u32 = 6;

/// A node's session, as those see it who have work for it.
pub(crate) struct NodeLink {
    pub(crate) seat: Seat,
    pub(crate) node: NodeId,
    pub(crate) session: SessionId,
    pub(crate) agent_version: String,
    pub(crate) connected: Timestamp,
    identity: PublicIdentity,
    commands: mpsc::UnboundedSender<Command>,
    keys: Mutex<HopKeys>,
}

/// The keys of the current epoch, and the number of the next assignment.
struct HopKeys {
    epoch: u32,
    root: HopRoot,
    next: u64,
}

/// What a session is told to do.
///
/// The channel that carries these has no bound of its own: it holds at most one assignment, one
/// cancellation and two reports of progress for each slot of the node.
enum Command {
    Assign {
        task: TaskAssign,
        body: Vec<Bytes>,
        report: mpsc::Sender<Report>,
    },
    /// Takes an assignment back; the slot is free when the node has confirmed it.
    Cancel {
        assignment: AssignmentId,
        lease: Lease,
    },
    Consumed {
        assignment: AssignmentId,
        frames: u32,
        bytes: usize,
    },
    /// The node has come back on another transport.
    Attach(Box<Arrival>),
    /// The node has started a new session; this one is over.
    Replace,
    /// Nothing more will be assigned.
    Drain,
}

/// A node that has proven who it is.
struct Arrival {
    transport: BoxTransport,
    connection: CoordinatorConnection,
    register: Box<NodeRegister>,
    sealing_key: iris_crypto::SealingPublicKey,
}

/// What a session reports of one assignment.
#[derive(Debug)]
enum Report {
    Accepted,
    Refused,
    Progress,
    Stream(DataFrame),
    Finished(Finish),
    Failed(BackendError),
    Lost,
}

impl NodeLink {
    /// Says that nothing more will be assigned.
    pub(crate) fn drain(&self) {
        // A session that has ended is drained.
        let _ = self.commands.send(Command::Drain);
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, HopKeys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for NodeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeLink").field("node", &self.node).finish_non_exhaustive()
    }
}
