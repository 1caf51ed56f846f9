//! Links to nodes: registration, sessions that outlive their sockets, and the work they carry.
//!
//! Each session is one task that owns the node's connection. Whoever drives a [`Work`] talks to
//! it by commands and hears from it by a channel of its own, so a slow reader slows only its own
//! stream.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use iris_core::backend::{BackendError, Finish};
use iris_core::demand::Difficulty;
use iris_core::registry::Seat;
use iris_core::{AccountId, AssignmentId, NodeId, Timestamp};
use iris_crypto::{HopRoot, PublicIdentity, VerifiedCertificate};
use iris_protocol::connection::CoordinatorConnection;
use iris_protocol::frame::DataFrame;
use iris_protocol::limits::MAX_RECEIPT;
use iris_protocol::message::{
    ClassifyAssign, NodeRegister, RefuseReason, SessionId, TaskAssign, Window,
};
use iris_protocol::text::Blob;
use iris_protocol::transport::Transport;
use tokio::sync::mpsc;

use crate::dispatch::Lease;

mod handshake;
mod inquiry;
mod owned;
mod session;
mod work;

pub use handshake::LinkError;
pub(crate) use handshake::{Door, is_known, owners, within};
pub(crate) use inquiry::Inquiry;
pub(crate) use owned::Owned;
pub(crate) use work::{News, Work, fits};

pub(crate) type BoxTransport = Pin<Box<dyn Transport>>;

/// How long hop keys are used before new ones are agreed on.
const REKEY_AFTER: Duration = Duration::from_mins(10);
/// How long a node is connected for one credit of uptime.
const HOUR: Duration = Duration::from_hours(1);

/// A node's session, as those see it who have work for it.
pub(crate) struct NodeLink {
    pub(crate) seat: Seat,
    pub(crate) node: NodeId,
    pub(crate) owner: AccountId,
    pub(crate) session: SessionId,
    pub(crate) agent_version: String,
    pub(crate) connected: Timestamp,
    /// Whether the node can be told of the beginning of an answer.
    pub(crate) continues: bool,
    /// Whether the node opens requests that are sealed to it.
    pub(crate) seals: bool,
    /// Whether the node says how hard questions are.
    pub(crate) classifies: bool,
    /// Whether a receipt of this session was checked to the last.
    audited: AtomicBool,
    /// Whether the node said that it finishes what it has and ends.
    leaving: AtomicBool,
    identity: PublicIdentity,
    window: Window,
    commands: mpsc::UnboundedSender<Command>,
    keys: Mutex<HopKeys>,
    certificate: Mutex<Arc<VerifiedCertificate>>,
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
/// cancellation and two reports of consumption for each slot of the node.
enum Command {
    /// Gives the node an assignment. Boxed, because a channel makes room for 32 commands as soon
    /// as a node connects.
    Assign(Box<Assign>),
    /// Asks the node how hard a question is.
    Inquire(Box<Inquire>),
    /// Takes an assignment back; the slot is free when the node has confirmed it.
    Cancel {
        assignment: AssignmentId,
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
    /// The coordinator stops.
    Close,
}

/// An assignment and who follows it. The lease ends with the node's work, not with its reader's.
struct Assign {
    task: TaskAssign,
    body: Vec<Bytes>,
    report: mpsc::Sender<Report>,
    /// Set when the node marks progress while something else waits to be read.
    progress: Option<Arc<AtomicBool>>,
    lease: Lease,
}

/// A question and who waits for the answer. The lease ends with the node's work.
struct Inquire {
    question: ClassifyAssign,
    body: Vec<Bytes>,
    report: mpsc::Sender<Report>,
    lease: Lease,
}

/// A node that has proven who it is.
struct Arrival {
    transport: BoxTransport,
    connection: CoordinatorConnection,
    register: Box<NodeRegister>,
    certificate: Arc<VerifiedCertificate>,
}

/// What a session reports of one assignment.
#[derive(Debug)]
enum Report {
    Accepted,
    Refused(RefuseReason),
    Progress,
    Stream(DataFrame),
    Finished(Finish, Option<Receipt>),
    Failed(BackendError, Option<Receipt>),
    Classified(Difficulty),
    Lost,
}

/// A receipt as a node sends it.
pub(crate) type Receipt = Blob<MAX_RECEIPT>;

impl NodeLink {
    /// Returns who the node is.
    pub(crate) const fn identity(&self) -> &PublicIdentity {
        &self.identity
    }

    /// Returns whether no receipt of this session was checked to the last, and notes that one is.
    pub(crate) fn is_first_audit(&self) -> bool {
        !self.audited.swap(true, Ordering::Relaxed)
    }

    /// Notes that the node finishes what it has and ends.
    pub(crate) fn note_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Returns whether the node said that it ends.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Says that nothing more will be assigned.
    pub(crate) fn drain(&self) {
        // A session that has ended is drained.
        let _ = self.commands.send(Command::Drain);
    }

    /// Ends the session; the node may come back to the coordinator's next start.
    pub(crate) fn close(&self) {
        let _ = self.commands.send(Command::Close);
    }

    /// Ends the session in favour of a new one of the same node.
    pub(crate) fn replace(&self) {
        let _ = self.commands.send(Command::Replace);
    }

    /// Returns the certificate of the key that the node is sealed to now.
    pub(crate) fn certificate(&self) -> Arc<VerifiedCertificate> {
        Arc::clone(&self.certificate.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the certificate; see [`Dispatch::certify`](crate::dispatch::Dispatch::certify).
    pub(crate) fn set_certificate(&self, certificate: Arc<VerifiedCertificate>) {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = certificate;
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
