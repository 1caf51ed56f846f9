//! A node that was asked to carry out a task.

use std::time::Instant;

use super::AttemptEnd;
use crate::id::NodeId;

/// A node that was asked, and what it owes by when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) node: NodeId,
    owes: Owes,
}

#[derive(Clone, Copy, Debug)]
enum Owes {
    /// It was offered the task, and has to accept or refuse.
    Reply { until: Instant },
    /// It is at work, and has to make progress.
    Progress { first_chunk: Option<Instant>, until: Instant },
}

impl Asked {
    /// A node that has to accept or refuse.
    pub(super) const fn offered(node: NodeId, until: Instant) -> Self {
        Self { node, owes: Owes::Reply { until } }
    }

    /// The same node at work, which has to make progress.
    pub(super) const fn accepted(self, first_chunk: Option<Instant>, until: Instant) -> Self {
        Self { owes: Owes::Progress { first_chunk, until }, ..self }
    }

    pub(super) const fn has_accepted(&self) -> bool {
        matches!(self.owes, Owes::Progress { .. })
    }

    /// Gives a node that is at work time for its next sign of it.
    pub(super) const fn progressed(&mut self, next: Instant) {
        if let Owes::Progress { until, .. } = &mut self.owes {
            *until = next;
        }
    }

    /// The same, once its answer has begun.
    pub(super) const fn wrote(&mut self, next: Instant) {
        if self.has_accepted() {
            self.owes = Owes::Progress { first_chunk: None, until: next };
        }
    }

    /// Returns when it is late.
    pub(super) fn due(&self) -> Instant {
        match self.owes {
            Owes::Reply { until } | Owes::Progress { first_chunk: None, until } => until,
            Owes::Progress { first_chunk: Some(first), until } => first.min(until),
        }
    }

    /// Returns how it counts when it is late.
    pub(super) const fn lateness(&self) -> AttemptEnd {
        if self.has_accepted() { AttemptEnd::Stalled } else { AttemptEnd::Unanswered }
    }
}
