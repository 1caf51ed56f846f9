//! Both ends of a connection, as state machines without I/O.
//!
//! Input enters by `handle_frame` and `handle_timeout`; output leaves by `poll_transmit`, which
//! is drained after every other call; `poll_timeout` says when `handle_timeout` is next due.
//! Whatever breaks a rule is a [`Violation`]: the connection is over, and whoever drives it
//! closes the transport.

use iris_core::AssignmentId;

use crate::frame::FrameError;
use crate::message::DecodeError;

mod allowance;
mod coordinator;
mod inbound;
mod node;
mod outbox;

pub use coordinator::{
    AssignError, CoordinatorConnection, CoordinatorEvent, Detached, Resumption, Welcome,
};
pub use inbound::CoordinatorSession;
pub use node::{NodeConnection, NodeEvent, SendError};

/// Says which rule a peer broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A control message cannot be read.
    #[error(transparent)]
    Message(#[from] DecodeError),
    /// A binary frame cannot be read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Registration took too long.
    #[error("the peer did not register in time")]
    RegistrationTimeout,
    /// Nothing was heard of the peer for too long.
    #[error("the peer fell silent")]
    Silent,
    /// The message has no place in this phase of the connection.
    #[error("{0} came out of order")]
    OutOfOrder(&'static str),
    /// The two sides share no version, or the chosen one was not offered.
    #[error("no common version of the protocol")]
    Version,
    /// The peer sends a kind of frame that only the other side may send.
    #[error("a frame came from the wrong side")]
    WrongSide,
    /// A message or frame names an assignment that does not exist, or no longer.
    #[error("assignment {0} does not exist")]
    UnknownAssignment(AssignmentId),
    /// A message or frame has no place in the assignment's life.
    #[error("{what} came out of order for assignment {assignment}")]
    AssignmentOrder {
        /// Which assignment is meant.
        assignment: AssignmentId,
        /// What came.
        what: &'static str,
    },
    /// A sequence number is missing or repeated.
    #[error("assignment {assignment} continued at {got}, not at {expected}")]
    Sequence {
        /// Which assignment is meant.
        assignment: AssignmentId,
        /// The number that was due.
        expected: u32,
        /// The number that came.
        got: u32,
    },
    /// More is on its way than the window allows.
    #[error("assignment {0} overran its window")]
    WindowOverrun(AssignmentId),
    /// A prompt, an answer or a piece of one is longer than allowed or announced.
    #[error("assignment {0} carries more or less than it may")]
    Length(AssignmentId),
    /// A sealed assignment is answered in the open or begun already, or an open one sealed.
    #[error("assignment {0} mixes sealed and open content")]
    Sealing(AssignmentId),
    /// An acknowledgement covers what was never sent.
    #[error("assignment {0} was acknowledged beyond its end")]
    AckBeyondEnd(AssignmentId),
    /// Too many messages that no assignment called for.
    #[error("too many messages")]
    Flood,
    /// The terms of `REGISTER_ACK` cannot be met.
    #[error("the terms of the registration are out of bounds")]
    Terms,
    /// A key epoch is skipped or not there yet.
    #[error("a key epoch is out of order")]
    Epoch,
}
