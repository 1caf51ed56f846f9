use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use iris_core::backend::Begun;
use iris_crypto::hop::{Channel, ChunkSealer};
use iris_protocol::frame::DataFrame;
use iris_protocol::message::{BegunSize, ClassifyAssign, TaskAssign};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::work_log::Ongoing;
use super::worker::{Output, Run};
use crate::slots::Slot;

/// One assignment that the agent holds; dropping it ends its generation.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) stage: Stage,
    /// The place it takes, until its generation has ended.
    pub(super) slot: Option<Slot>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The prompt is on its way.
    Receiving(Box<Prompt<TaskAssign>>),
    /// A question is on its way, of which only the difficulty is wanted.
    Hearing(Box<Prompt<ClassifyAssign>>),
    /// The backend is at work, or its last output waits for room.
    Running(Running),
}

/// A prompt that is not complete yet.
#[derive(Debug)]
pub(super) struct Prompt<T> {
    pub(super) task: T,
    pub(super) deadline: Instant,
    /// The keys it may be sealed under; one is left once the first part has opened.
    channels: Vec<Channel>,
    body: Vec<u8>,
}

/// A prompt does not open under any key that it may be sealed under.
#[derive(Debug)]
pub(super) struct Sealed;

impl<T> Prompt<T> {
    pub(super) const fn new(task: T, deadline: Instant, channels: Vec<Channel>) -> Self {
        Self { task, deadline, channels, body: Vec::new() }
    }

    /// Takes the next part in; true when it was the last.
    ///
    /// The connection has checked that the parts come in order and are no longer than announced.
    pub(super) fn receive(&mut self, part: &DataFrame, last: bool) -> Result<bool, Sealed> {
        let header = part.header.encode();
        let number = u64::from(part.header.seq);
        let mut text = None;
        self.channels.retain_mut(|channel| {
            let opened = channel.opener.open(number, &header, &part.payload).ok();
            let opens = opened.is_some();
            text = text.take().or(opened);
            opens
        });
        self.body.append(&mut text.ok_or(Sealed)?);
        Ok(last)
    }

    /// Returns what the prompt holds.
    pub(super) fn into_body(self) -> Bytes {
        self.body.into()
    }
}

impl Prompt<TaskAssign> {
    /// Returns what the prompt holds and what seals its answer; `None` when it does not hold
    /// what the task says.
    ///
    /// # Panics
    /// If nothing was received yet.
    pub(super) fn open(self) -> Option<Opened> {
        let channel = self.channels.into_iter().next();
        let channel = channel.expect("a part of the prompt has opened");
        let mut body = Bytes::from(self.body);
        let begun = match self.task.begun {
            None => None,
            Some(BegunSize { bytes, tokens }) => {
                let request =
                    body.len().checked_sub(bytes as usize).filter(|length| *length > 0)?;
                let text = String::from_utf8(body.split_off(request).into()).ok()?;
                Some(Begun { text, tokens })
            }
        };
        Some(Opened { task: self.task, body, begun, sealer: channel.sealer })
    }
}

/// A prompt that is complete.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) task: TaskAssign,
    pub(super) body: Bytes,
    pub(super) begun: Option<Begun>,
    pub(super) sealer: ChunkSealer,
}

/// A generation and the output of it that waits for room in the connection's window.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) run: Run,
    pub(super) waiting: VecDeque<Output>,
    pub(super) credit: Arc<Semaphore>,
    /// Tells of the end; `None` where nobody listens, or nothing is told of such work.
    pub(super) ongoing: Option<Ongoing>,
    pub(super) _worker: AbortOnDropHandle<()>,
}
