use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iris_core::backend::{BackendError, Begun, Chunk, GenerateRequest};
use iris_crypto::hop::{Channel, HopError};
use iris_protocol::frame::{Content, DataFrame, HEADER_LEN, Header, parts};
use iris_protocol::limits::SEAL_OVERHEAD;
use iris_protocol::message::{BegunSize, TaskAssign};

use super::Shared;
use super::mischief::Mischief;

/// An assignment that a node works on.
pub(super) struct Work {
    pub(super) assign: TaskAssign,
    pub(super) mischief: Option<Mischief>,
    channel: Channel,
    sealed: usize,
    body: Vec<u8>,
    /// The answer, once the prompt is whole.
    stream: Option<BoxStream<'static, Result<Chunk, BackendError>>>,
    /// The number of the next frame.
    pub(super) frames: u32,
    /// Chunks that were sent.
    pub(super) chunks: u32,
    pub(super) silent: bool,
}

impl Work {
    pub(super) fn new(assign: TaskAssign, channel: Channel, mischief: Option<Mischief>) -> Self {
        Self {
            assign,
            mischief,
            channel,
            sealed: 0,
            body: Vec::new(),
            stream: None,
            frames: 0,
            chunks: 0,
            silent: false,
        }
    }

    /// Takes in a part of the prompt; begins to answer with the last one.
    pub(super) fn receive(&mut self, shared: &Shared, part: &DataFrame) -> Result<(), HopError> {
        let (number, header) = (u64::from(part.header.seq), part.header.encode());
        self.body.extend(self.channel.opener.open(number, &header, &part.payload)?);
        self.sealed += part.payload.len();
        if self.sealed >= self.assign.body_bytes as usize {
            let mut body = std::mem::take(&mut self.body);
            let begun = self.assign.begun.map(|BegunSize { bytes, tokens }| {
                let text = body.split_off(body.len().saturating_sub(bytes as usize));
                Begun { text: String::from_utf8_lossy(&text).into_owned(), tokens }
            });
            self.stream = Some(shared.plan.backend.generate(GenerateRequest {
                operation: self.assign.operation,
                model: self.assign.model.clone(),
                body: body.into(),
                begun,
                isolated: false,
                stream: self.assign.enable_streaming,
                time_left: Duration::from_millis(self.assign.time_left_ms),
            }));
        }
        Ok(())
    }

    /// Polls for the next step of the answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, BackendError>> {
        match &mut self.stream {
            Some(stream) if !self.silent => {
                // A stream that ends without its last chunk is one that cannot be read.
                stream.poll_next_unpin(cx).map(|item| item.unwrap_or(Err(BackendError::Malformed)))
            }
            _ => Poll::Pending,
        }
    }

    /// Seals a chunk into frames.
    pub(super) fn seal(&mut self, content: Content, text: &[u8]) -> Result<Vec<Bytes>, HopError> {
        let ranges = parts(text.len());
        let last = ranges.len() - 1;
        let mut frames = Vec::with_capacity(last + 1);
        for (number, range) in ranges.enumerate() {
            let more = number < last;
            let header = Header::stream(self.assign.assignment, self.frames, content, more);
            let header = header.encode();
            let mut frame = Vec::with_capacity(HEADER_LEN + range.len() + SEAL_OVERHEAD);
            frame.extend_from_slice(&header);
            self.channel.sealer.seal_into(&header, &text[range], &mut frame)?;
            self.frames += 1;
            if self.mischief == Some(Mischief::Garbles) {
                let end = frame.len() - 1;
                frame[end] ^= 1;
            }
            frames.push(frame.into());
        }
        Ok(frames)
    }
}
