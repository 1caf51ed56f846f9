//! What a node holds of one assignment until the coordinator has it.

use std::collections::VecDeque;

use bytes::Bytes;
use iris_core::AssignmentId;

use super::{SendError, Violation};
use crate::frame::{Content, DataFrame, Frame, Part};
use crate::limits::{MAX_BODY_FRAMES, MAX_STREAM_FRAMES};
use crate::message::Window;

/// One assignment as its node sees it.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) stage: Stage,
    pub(super) kind: Kind,
    body: Body,
    /// Frames that are not acknowledged; the first has the number `first`.
    frames: VecDeque<Bytes>,
    first: u32,
    bytes: usize,
    /// The message that ended the assignment; its number follows those of the frames.
    end: Option<Frame>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A task.
    Task,
    /// A task that is answered by sealed records.
    Sealed,
    /// A question about a task, which is not resumed.
    Classify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Offered; the agent has not answered.
    Offered,
    /// Accepted; the answer streams.
    Accepted,
}

/// How much of the prompt has arrived.
#[derive(Debug)]
struct Body {
    next: u32,
    left: u32,
    complete: bool,
}

impl Outbox {
    pub(super) const fn new(body_bytes: u32, kind: Kind) -> Self {
        Self {
            stage: Stage::Offered,
            kind,
            body: Body { next: 0, left: body_bytes, complete: false },
            frames: VecDeque::new(),
            first: 0,
            bytes: 0,
            end: None,
        }
    }

    /// Returns the first number that is not acknowledged.
    pub(super) const fn first(&self) -> u32 {
        self.first
    }

    /// Returns the number after the last frame.
    pub(super) fn next(&self) -> u32 {
        let held = u32::try_from(self.frames.len()).expect("a window holds fewer frames");
        self.first + held
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    pub(super) const fn is_resumable(&self) -> bool {
        matches!((self.stage, self.kind), (Stage::Accepted, Kind::Task | Kind::Sealed))
            && self.body.complete
    }

    pub(super) fn has_room(&self, window: Window) -> bool {
        self.frames.len() < window.frames as usize && self.bytes < window.bytes as usize
    }

    /// Counts a part of the prompt.
    pub(super) fn receive(&mut self, data: &DataFrame) -> Result<(), Violation> {
        let assignment = data.header.assignment;
        let Part::Body { last } = data.header.part else {
            return Err(Violation::WrongSide);
        };
        let body = &mut self.body;
        if body.complete {
            return Err(Violation::AssignmentOrder { assignment, what: "BODY" });
        }
        if data.header.seq != body.next {
            let (expected, got) = (body.next, data.header.seq);
            return Err(Violation::Sequence { assignment, expected, got });
        }
        let length = u32::try_from(data.payload.len()).expect("a frame is at most 1 MiB long");
        let left = body.left.checked_sub(length).ok_or(Violation::Length(assignment))?;
        if (left == 0) != last || body.next >= MAX_BODY_FRAMES {
            return Err(Violation::Length(assignment));
        }
        *body = Body { next: body.next + 1, left, complete: last };
        Ok(())
    }

    /// Takes a part of the answer in; `data` is `frame` taken apart.
    pub(super) fn push(
        &mut self,
        data: &DataFrame,
        frame: Bytes,
        window: Window,
    ) -> Result<(), SendError> {
        if self.stage == Stage::Offered || self.end.is_some() {
            return Err(SendError::OutOfOrder);
        }
        let sealed = matches!(data.header.part, Part::Stream { content: Content::Sealed, .. });
        if self.kind == Kind::Classify || sealed != (self.kind == Kind::Sealed) {
            return Err(SendError::OutOfOrder);
        }
        if data.header.seq != self.next() || data.header.seq >= MAX_STREAM_FRAMES {
            return Err(SendError::OutOfOrder);
        }
        if !self.has_room(window) {
            return Err(SendError::Full);
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        Ok(())
    }

    /// Takes the message in that ends the assignment after `frames` frames.
    pub(super) fn finish(&mut self, frames: u32, end: Frame) -> Result<(), SendError> {
        if self.stage == Stage::Offered || self.end.is_some() || frames != self.next() {
            return Err(SendError::OutOfOrder);
        }
        self.end = Some(end);
        Ok(())
    }

    /// Forgets what comes before `next`; true when that was everything.
    pub(super) fn acknowledge(
        &mut self,
        assignment: AssignmentId,
        next: u32,
    ) -> Result<bool, Violation> {
        let end = self.next();
        if self.end.is_some() && next == end.saturating_add(1) {
            return Ok(true);
        }
        if next > end {
            return Err(Violation::AckBeyondEnd(assignment));
        }
        while self.first < next {
            let frame = self.frames.pop_front().expect("numbers below the end have a frame");
            self.bytes -= frame.len();
            self.first += 1;
        }
        Ok(false)
    }

    /// Returns what the coordinator lacks from `next` on, without forgetting anything: only an
    /// acknowledgement says that a frame has left the coordinator's memory.
    pub(super) fn from(&self, next: u32) -> Option<impl Iterator<Item = Frame> + '_> {
        let skip = next.checked_sub(self.first)? as usize;
        (skip <= self.frames.len()).then(|| {
            let frames = self.frames.iter().skip(skip).cloned().map(Frame::Binary);
            frames.chain(self.end.clone())
        })
    }
}
