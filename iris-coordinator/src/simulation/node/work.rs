use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iris_core::backend::{BackendError, Begun, Chunk, Finish, GenerateRequest, Usage};
use iris_crypto::hop::{Channel, HopError};
use iris_crypto::seal::{AnswerSealer, Outcome, Pieces, SealError, SealedRequest, coarse};
use iris_crypto::{Identity, SealingKey};
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
    /// Seals the answer, where the caller sealed the prompt.
    answer: Option<AnswerSealer>,
}

/// How a prompt has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    InPart,
    Whole,
    /// It was sealed to another key.
    Sealed,
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
            answer: None,
        }
    }

    /// Takes in a part of the prompt; begins to answer with the last one.
    pub(super) fn receive(
        &mut self,
        shared: &Shared,
        key: &SealingKey,
        part: &DataFrame,
    ) -> Result<Arrived, HopError> {
        let (number, header) = (u64::from(part.header.seq), part.header.encode());
        self.body.extend(self.channel.opener.open(number, &header, &part.payload)?);
        self.sealed += part.payload.len();
        if self.sealed < self.assign.body_bytes as usize {
            return Ok(Arrived::InPart);
        }
        if self.assign.sealed {
            let request = SealedRequest::decode(std::mem::take(&mut self.body).into());
            let Ok((prompt, answer)) = request.and_then(|request| request.open(key)) else {
                return Ok(Arrived::Sealed);
            };
            self.answer = Some(answer);
            self.stream = Some(shared.plan.backend.generate(GenerateRequest {
                operation: prompt.operation,
                model: self.assign.model.clone(),
                body: prompt.body,
                begun: None,
                stream: prompt.stream,
                time_left: Duration::from_millis(self.assign.time_left_ms),
                isolated: true,
            }));
        } else {
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
        Ok(Arrived::Whole)
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

    /// Returns whether the answer is sealed for its caller.
    pub(super) const fn is_sealed(&self) -> bool {
        self.answer.is_some()
    }

    /// Returns the records that a chunk becomes, the opening before the first ones.
    pub(super) fn records(&mut self, chunk: &Chunk) -> Result<Vec<u8>, SealError> {
        let mut records = self.opening();
        let Some(answer) = &mut self.answer else { return Ok(records) };
        let length = match chunk {
            Chunk::Text(text) => text.len(),
            Chunk::Json(json) | Chunk::Whole(json) => json.len(),
            Chunk::Finished(_) => 0,
        };
        let mut taken = 0;
        while taken < length {
            let mut pieces = Pieces::new(answer.shape());
            taken += match chunk {
                Chunk::Text(text) => pieces.push_text(&text[taken..]),
                Chunk::Json(json) => pieces.push_json(&json[taken..]),
                Chunk::Whole(json) => pieces.push_whole(&json[taken..]),
                Chunk::Finished(_) => 0,
            };
            answer.seal(&pieces, &mut records)?;
        }
        Ok(records)
    }

    /// Returns the last records of the answer, and its receipt.
    pub(super) fn end(
        &mut self,
        identity: &Identity,
        end: Result<&Finish, &BackendError>,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut records = self.opening();
        let mut answer = self.answer.take()?;
        let (outcome, usage) = match end {
            Ok(finish) => {
                answer.end(finish, &mut records).ok()?;
                (Outcome::Complete, finish.usage)
            }
            Err(error) => {
                answer.fault(error, &mut records).ok()?;
                (Outcome::Failed, Usage::default())
            }
        };
        let receipt = answer.finish(identity, outcome, coarse(usage), &mut records).ok()?;
        Some((records, receipt.encode()))
    }

    fn opening(&self) -> Vec<u8> {
        let mut records = Vec::new();
        if let Some(answer) = self.answer.as_ref().filter(|_| self.frames == 0) {
            answer.opening(&mut records);
        }
        records
    }
}
