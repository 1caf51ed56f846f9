//! What a coordinator remembers of the assignments that it gave to a node.

use std::collections::HashMap;

use iris_core::AssignmentId;

use super::Violation;
use crate::frame::{Content, DataFrame, Part};
use crate::limits::{MAX_BODY, MAX_STREAM_FRAMES};
use crate::message::{Resume, Resumed, SessionId, Window};

/// What a coordinator keeps of a session while its node is away.
///
/// Comes from [`CoordinatorConnection::detach`](super::CoordinatorConnection::detach) and goes
/// back by [`CoordinatorConnection::welcome`](super::CoordinatorConnection::welcome).
#[derive(Debug)]
pub struct CoordinatorSession {
    pub(super) id: SessionId,
    pub(super) highest: Option<AssignmentId>,
    pub(super) table: HashMap<AssignmentId, Inbound>,
    /// Ended assignments whose end is not acknowledged yet, with their last number plus one.
    pub(super) ended: Vec<(AssignmentId, u32)>,
    /// Assignments of which enough was consumed to tell the node.
    pub(super) due: Vec<AssignmentId>,
}

impl CoordinatorSession {
    pub(super) fn new(id: SessionId) -> Self {
        Self { id, highest: None, table: HashMap::new(), ended: Vec::new(), due: Vec::new() }
    }

    /// Returns the session's id.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Iterates over the assignments that wait for the node, lowest first.
    pub fn assignments(&self) -> impl Iterator<Item = AssignmentId> {
        let mut ids: Vec<_> = self.table.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter()
    }

    /// Gives an assignment up; the node learns of it when it resumes.
    pub fn cancel(&mut self, assignment: AssignmentId) {
        self.table.remove(&assignment);
    }

    /// Records that `frames` of an assignment, `bytes` long with their headers, have left the
    /// coordinator's memory.
    pub fn consumed(&mut self, assignment: AssignmentId, frames: u32, bytes: usize) {
        if let Some(inbound) = self.table.get_mut(&assignment) {
            inbound.consume(frames, bytes);
        }
    }

    /// Keeps what the node can continue and returns it, beside what is lost.
    pub(super) fn resume(&mut self, resume: &Resume) -> (Vec<Resumed>, Vec<AssignmentId>) {
        let mut kept = Vec::new();
        for buffered in &resume.assignments {
            let Some(inbound) = self.table.get(&buffered.assignment) else {
                continue;
            };
            let resumed = Resumed { assignment: buffered.assignment, next: inbound.next };
            if buffered.buffered_from <= inbound.next && !kept.contains(&resumed) {
                kept.push(resumed);
            }
        }
        let lost: Vec<_> = self
            .assignments()
            .filter(|id| !kept.iter().any(|kept| kept.assignment == *id))
            .collect();
        for id in &lost {
            self.table.remove(id);
        }
        // What the node did not list it has dropped; what it listed and we have ended it drops
        // on reading the answer.
        self.ended.clear();
        self.due = kept.iter().map(|kept| kept.assignment).collect();
        (kept, lost)
    }
}

/// How far an assignment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Offered; the node has not answered.
    Offered,
    /// Accepted; the answer streams.
    Accepted,
    /// Taken back; what still comes is dropped until the node confirms.
    Cancelled,
}

/// Whether an assignment is a task or a question about one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Task,
    /// A task whose prompt and answer only the caller and the node can read.
    Sealed,
    Classify,
}

impl Kind {
    pub(super) const fn is_task(self) -> bool {
        matches!(self, Self::Task | Self::Sealed)
    }
}

/// One assignment as the coordinator sees it.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) kind: Kind,
    pub(super) stage: Stage,
    /// The next sequence number, and so the count of frames received.
    pub(super) next: u32,
    received: u64,
    consumed: (u32, u64),
    acked: (u32, u64),
    /// The unfinished piece: what it is and how long it is so far.
    piece: Option<(Content, usize)>,
}

impl Inbound {
    pub(super) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            stage: Stage::Offered,
            next: 0,
            received: 0,
            consumed: (0, 0),
            acked: (0, 0),
            piece: None,
        }
    }

    pub(super) fn consume(&mut self, frames: u32, bytes: usize) {
        self.consumed.0 = self.consumed.0.saturating_add(frames).min(self.next);
        self.consumed.1 = self.consumed.1.saturating_add(bytes as u64).min(self.received);
    }

    /// Returns whether the node should hear of what was consumed since the last time.
    pub(super) fn ack_is_due(&self, window: Window) -> bool {
        let frames = self.consumed.0 - self.acked.0;
        let bytes = self.consumed.1 - self.acked.1;
        frames >= (window.frames / 2).max(1) || bytes >= u64::from(window.bytes / 2).max(1)
    }

    /// Returns the number that the next acknowledgement names.
    pub(super) const fn acknowledge(&mut self) -> u32 {
        self.acked = self.consumed;
        self.consumed.0
    }

    /// Checks a frame and counts it.
    pub(super) fn receive(&mut self, data: &DataFrame, window: Window) -> Result<(), Violation> {
        let assignment = data.header.assignment;
        let Part::Stream { content, more } = data.header.part else {
            return Err(Violation::WrongSide);
        };
        if !self.kind.is_task() || self.stage == Stage::Offered {
            return Err(Violation::AssignmentOrder { assignment, what: "STREAM" });
        }
        if (self.kind == Kind::Sealed) != (content == Content::Sealed) {
            return Err(Violation::Sealing(assignment));
        }
        if data.header.seq != self.next {
            let (expected, got) = (self.next, data.header.seq);
            return Err(Violation::Sequence { assignment, expected, got });
        }
        let full = self.next - self.acked.0 >= window.frames
            || self.received - self.acked.1 >= u64::from(window.bytes);
        if full {
            return Err(Violation::WindowOverrun(assignment));
        }
        let length = match self.piece {
            Some((piece, _)) if piece != content => {
                return Err(Violation::AssignmentOrder { assignment, what: "STREAM" });
            }
            Some((_, length)) => length + data.payload.len(),
            None => data.payload.len(),
        };
        if length > MAX_BODY || self.next >= MAX_STREAM_FRAMES {
            return Err(Violation::Length(assignment));
        }
        self.piece = more.then_some((content, length));
        self.next += 1;
        self.received += data.wire_len() as u64;
        Ok(())
    }

    /// Checks the message that ends the assignment after `frames` frames.
    pub(super) fn end(&self, end: &End) -> Result<(), Violation> {
        let assignment = end.assignment;
        let order = Violation::AssignmentOrder { assignment, what: end.what };
        match (self.kind, self.stage) {
            (Kind::Task | Kind::Sealed, Stage::Offered) => return Err(order),
            (Kind::Classify, _) if end.well => return Err(order),
            _ => {}
        }
        if end.frames != self.next {
            let (expected, got) = (self.next, end.frames);
            return Err(Violation::Sequence { assignment, expected, got });
        }
        if end.well && self.piece.is_some() {
            return Err(order);
        }
        Ok(())
    }
}

/// What `TASK_RESULT` and `TASK_ERROR` have in common.
#[derive(Debug)]
pub(super) struct End {
    pub(super) assignment: AssignmentId,
    pub(super) frames: u32,
    pub(super) what: &'static str,
    /// Whether the answer is complete.
    pub(super) well: bool,
}
