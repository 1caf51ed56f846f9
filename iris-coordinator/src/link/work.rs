use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use iris_core::backend::{BackendError, Begun, Chunk, Finish};
use iris_core::id::CallerTag;
use iris_core::{AssignmentId, NodeId};
use iris_crypto::hop::{ChunkOpener, ChunkSealer, HopError};
use iris_protocol::frame::{Content, DataFrame, HEADER_LEN, Header, Part};
use iris_protocol::limits::{MAX_BODY, MAX_CONTENT, SEAL_OVERHEAD};
use iris_protocol::message::{BegunSize, RefuseReason, TaskAssign};
use tokio::sync::mpsc;

use super::{Assign, Command, NodeLink, Receipt, Report};
use crate::dispatch::{Lease, TaskRequest};

/// Reports of one assignment that may wait for their reader beside a full window of chunks.
const SPARE_REPORTS: usize = 8;

/// One attempt of one node at a task, as the task's driver holds it.
#[derive(Debug)]
pub(crate) struct Work {
    link: Arc<NodeLink>,
    assignment: AssignmentId,
    reports: mpsc::Receiver<Report>,
    /// Whether the node has marked progress that was not reported; for sealed tasks alone.
    progress: Option<Arc<AtomicBool>>,
    opener: ChunkOpener,
    /// The beginning of a piece that goes on in the next frame.
    piece: Vec<u8>,
    consumed_frames: u32,
    consumed_bytes: usize,
}

/// What happened to an attempt.
pub(crate) enum News {
    /// The node took the task on.
    Accepted,
    /// The node turned the task down.
    Refused(RefuseReason),
    /// The node's backend is at work.
    Progress,
    /// The next piece of the answer.
    Chunk(Chunk),
    /// A part of a piece; the rest follows.
    Part,
    /// The next part of a sealed answer.
    Sealed(Bytes),
    /// The answer is complete; a sealed one has a receipt.
    Finished(Finish, Option<Receipt>),
    /// The node reports a failure; that of a sealed answer may have a receipt.
    Failed(BackendError, Option<Receipt>),
    /// The node sent what is not an answer.
    Invalid,
    /// The node is gone for good.
    Lost,
}

impl Work {
    /// Offers a task of `caller` to the node of `lease`, with the beginning of its answer if there is one;
    /// `None` when its session has ended.
    pub(crate) fn offer(
        lease: Lease,
        request: &TaskRequest,
        caller: Option<CallerTag>,
        sealed: bool,
        begun: Option<&Begun>,
        time_left: Duration,
    ) -> Option<Self> {
        let link = Arc::clone(&lease.link);
        let (report, reports) = mpsc::channel(link.window.frames as usize + SPARE_REPORTS);
        // The lock is the node's own. Numbers ascend in the order in which they are sent.
        let mut keys = link.keys();
        let assignment = AssignmentId(keys.next);
        keys.next += 1;
        let channel = keys.root.channel(assignment.0).ok()?;
        let task = TaskAssign {
            assignment,
            task: request.id,
            operation: request.operation,
            model: request.model.clone(),
            enable_streaming: request.stream,
            time_left_ms: u64::try_from(time_left.as_millis()).unwrap_or(u64::MAX),
            prompt_tokens: request.prompt_tokens,
            hop_epoch: keys.epoch,
            body_bytes: 0,
            begun: match begun {
                Some(begun) => Some(begun_size(begun)?),
                None => None,
            },
            sealed,
            caller,
        };
        let body = match begun {
            Some(begun) => Bytes::from([&request.body, begun.text.as_bytes()].concat()),
            None => request.body.clone(),
        };
        let body = seal_body(channel.sealer, assignment, &body).ok()?;
        let length = payload(&body);
        let task = TaskAssign { body_bytes: u32::try_from(length).ok()?, ..task };
        let progress = sealed.then(Arc::<AtomicBool>::default);
        let assign = Assign { task, body, report, progress: progress.clone(), lease };
        // Where the session has ended, the lease returns with the command and ends here.
        let sent = link.commands.send(Command::Assign(Box::new(assign)));
        drop(keys);
        sent.ok()?;
        Some(Self {
            assignment,
            reports,
            progress,
            opener: channel.opener,
            piece: Vec::new(),
            consumed_frames: 0,
            consumed_bytes: 0,
            link,
        })
    }

    /// Returns the node that was asked.
    pub(crate) fn node(&self) -> NodeId {
        self.link.node
    }

    /// Returns the link to the node that was asked.
    pub(crate) fn link(&self) -> &NodeLink {
        &self.link
    }

    /// Takes the task back. The node's slot stays taken until the node has confirmed.
    pub(crate) fn cancel(self) {
        // A session that has ended took its slots with it.
        let _ = self.link.commands.send(Command::Cancel { assignment: self.assignment });
    }

    /// Polls for what happens next.
    pub(crate) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        if self.progress.as_ref().is_some_and(|mark| mark.swap(false, Ordering::Relaxed)) {
            return Poll::Ready(News::Progress);
        }
        self.reports.poll_recv(cx).map(|report| match report {
            Some(Report::Accepted) => News::Accepted,
            Some(Report::Refused(reason)) => News::Refused(reason),
            Some(Report::Progress) => News::Progress,
            Some(Report::Stream(frame)) => self.receive(&frame),
            Some(Report::Finished(finish, receipt)) => News::Finished(finish, receipt),
            Some(Report::Failed(error, receipt)) => News::Failed(error, receipt),
            Some(Report::Lost | Report::Classified(_)) | None => News::Lost,
        })
    }

    fn receive(&mut self, frame: &DataFrame) -> News {
        self.consume(frame.wire_len());
        let Part::Stream { content, more } = frame.header.part else {
            return News::Invalid;
        };
        if self.open(frame).is_err() {
            return News::Invalid;
        }
        if more {
            return News::Part;
        }
        let piece = std::mem::take(&mut self.piece);
        match content {
            Content::Json => News::Chunk(Chunk::Json(piece.into())),
            Content::Whole => News::Chunk(Chunk::Whole(piece.into())),
            Content::Text => match String::from_utf8(piece) {
                Ok(text) if !text.is_empty() => News::Chunk(Chunk::Text(text)),
                _ => News::Invalid,
            },
            Content::Sealed => News::Sealed(piece.into()),
        }
    }

    /// Appends a frame's plaintext to the piece.
    fn open(&mut self, frame: &DataFrame) -> Result<(), HopError> {
        let start = self.piece.len();
        self.piece.extend_from_slice(&frame.payload);
        let header = frame.header.encode();
        let number = u64::from(frame.header.seq);
        let opened = self.opener.open_in_place(number, &header, &mut self.piece[start..])?;
        let end = start + opened.len();
        self.piece.truncate(end);
        Ok(())
    }

    /// Counts a frame that left this task's memory, and tells the session now and then.
    fn consume(&mut self, bytes: usize) {
        let window = self.link.window;
        self.consumed_frames += 1;
        self.consumed_bytes += bytes;
        if self.consumed_frames >= (window.frames / 2).max(1)
            || self.consumed_bytes >= window.bytes as usize / 2
        {
            // A session that has ended waits for no acknowledgement.
            let _ = self.link.commands.send(Command::Consumed {
                assignment: self.assignment,
                frames: std::mem::take(&mut self.consumed_frames),
                bytes: std::mem::take(&mut self.consumed_bytes),
            });
        }
    }
}

fn begun_size(begun: &Begun) -> Option<BegunSize> {
    let bytes = u32::try_from(begun.text.len()).ok()?;
    Some(BegunSize { bytes, tokens: begun.tokens })
}

/// Returns whether a prompt of `length` bytes can travel to a node.
pub(crate) const fn fits(length: usize) -> bool {
    length > 0 && length + length.div_ceil(MAX_CONTENT) * SEAL_OVERHEAD <= MAX_BODY
}

/// Returns how long the payloads of sealed frames are together.
pub(super) fn payload(frames: &[Bytes]) -> usize {
    frames.iter().map(|frame| frame.len() - HEADER_LEN).sum()
}

/// Seals a prompt into frames.
pub(super) fn seal_body(
    mut sealer: ChunkSealer,
    assignment: AssignmentId,
    body: &[u8],
) -> Result<Vec<Bytes>, HopError> {
    let parts = body.len().div_ceil(MAX_CONTENT).max(1);
    let mut frames = Vec::with_capacity(parts);
    for (number, part) in body.chunks(MAX_CONTENT).enumerate() {
        let seq = u32::try_from(number).map_err(|_| HopError::Exhausted)?;
        let header = Header::body(assignment, seq, number + 1 == parts).encode();
        let mut frame = BytesMut::with_capacity(HEADER_LEN + part.len() + SEAL_OVERHEAD);
        frame.put_slice(&header);
        frame.put_slice(part);
        let (_, tag) = sealer.seal_in_place(&header, &mut frame[HEADER_LEN..])?;
        frame.put_slice(&tag);
        frames.push(frame.freeze());
    }
    Ok(frames)
}
