//! What happens to a task.

use std::fmt;

use bytes::Bytes;
use iris_core::NodeId;
use iris_core::backend::Chunk;
use iris_core::task::Outcome;

/// What happens to a task.
#[derive(Clone, PartialEq, Eq)]
pub enum TaskEvent {
    /// A node accepted it; when it comes again, another one did, and goes on from the chunks so
    /// far. A whole answer comes anew.
    Accepted {
        /// The node that works on it from now on.
        node: NodeId,
    },
    /// The next piece of the answer; never [`Chunk::Finished`].
    Chunk(Chunk),
    /// The next records of a sealed answer: whole ones, and unread.
    Sealed(Bytes),
    /// It is over; comes once, and last.
    Ended(Outcome),
}

impl fmt::Debug for TaskEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { node } => f.debug_struct("Accepted").field("node", node).finish(),
            Self::Chunk(chunk) => f.debug_tuple("Chunk").field(chunk).finish(),
            // Answers never reach logs, not even sealed ones.
            Self::Sealed(records) => write!(f, "Sealed({} bytes)", records.len()),
            Self::Ended(outcome) => f.debug_tuple("Ended").field(outcome).finish(),
        }
    }
}
