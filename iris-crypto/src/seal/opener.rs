//! The client's side of an answer.

use std::fmt;

use iris_core::backend::{BackendError, Finish, Usage};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::frame::{Kind, Piece, Reader};
use super::receipt::{Outcome, ReceiptError, SignedReceipt, coarse};
use super::record::{Record, RecordKind};
use super::request::SealedRequest;
use super::sealer::{AnswerKeys, MAX_REASON, chained, frame_aad};
use super::{MAX_ANSWER, MAX_FRAMES, Shape};
use crate::certificate::CertificateHash;
use crate::identity::PublicIdentity;
use crate::numbered_aead::TAG_LEN;

/// What a record of an answer tells its client.
#[derive(Clone, PartialEq, Eq)]
pub enum AnswerEvent {
    /// The node has the request: nobody else can have begun the answer.
    Opened,
    /// The answer goes on with this text; never empty.
    Text(String),
    /// The answer goes on with this JSON object.
    Json(Vec<u8>),
    /// This is the whole answer, which was not to be streamed: a JSON object.
    Whole(Vec<u8>),
    /// The answer is complete. What it had is what the events before said.
    Finished(Finish),
    /// The answer failed at the node.
    Failed(BackendError),
    /// The node's receipt, which holds and fits the answer.
    Receipt(Box<SignedReceipt>),
}

impl fmt::Debug for AnswerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Answers never reach logs.
        match self {
            Self::Opened => f.write_str("Opened"),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Json(json) => write!(f, "Json({} bytes)", json.len()),
            Self::Whole(json) => write!(f, "Whole({} bytes)", json.len()),
            Self::Finished(finish) => f.debug_tuple("Finished").field(finish).finish(),
            Self::Failed(_) => f.write_str("Failed(..)"),
            Self::Receipt(receipt) => f.debug_tuple("Receipt").field(receipt).finish(),
        }
    }
}

/// Why an answer is not one, or not a whole one. Never the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// A frame was altered, left out, repeated, moved, relabelled, or is of another answer.
    #[error("a part of the answer does not open: it was altered, moved or left out on the way")]
    Rejected,
    /// What should be the answer's beginning was not made by the node that was asked.
    #[error("the answer does not come from the node that was asked")]
    WrongNode,
    /// Something came that has no place where it came.
    #[error("{0} came out of place in the answer")]
    OutOfPlace(&'static str),
    /// A part of the answer opens, but cannot be read.
    #[error("a part of the answer cannot be read: {0}")]
    Malformed(&'static str),
    /// The answer is longer than any may be.
    #[error("the answer is too long")]
    TooLong,
    /// The answer ended before the mark that it is complete.
    #[error("the answer was cut off before its end")]
    Truncated,
    /// The answer is complete, but its receipt did not come.
    #[error("the answer is complete, but the node's receipt is missing")]
    ReceiptMissing,
    /// The answer is complete, but its receipt is not one for it.
    #[error("the answer is complete, but its receipt is disputed: {0}")]
    ReceiptDisputed(ReceiptError),
    /// An error came before; nothing after it is read.
    #[error("the answer had failed before")]
    Over,
}

impl AnswerError {
    /// Returns whether the answer itself is complete, and only what proves it is not.
    pub const fn is_about_receipt(&self) -> bool {
        matches!(self, Self::ReceiptMissing | Self::ReceiptDisputed(_))
    }
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing of the node's came yet.
    Waiting,
    /// Its parts are coming.
    Open,
    /// Its end has come, whichever it was.
    Ended,
    /// Its receipt has come.
    Receipted,
    /// It broke.
    Broken,
}

/// Opens the answer to one request: takes records in, in the order in which they arrive.
///
/// Success is [`AnswerEvent::Finished`] and nothing else. After an error nothing is opened any
/// more; what came before it is a part of the answer at best. When the records end, ask
/// [`close`](Self::close) whether they were all.
pub struct AnswerOpener {
    secret: Zeroizing<[u8; 32]>,
    encapsulated: [u8; 32],
    identity: PublicIdentity,
    shape: Shape,
    task: [u8; 16],
    certificate: CertificateHash,
    request: [u8; 32],
    stage: Stage,
}

enum Stage {
    Waiting,
    Open(Box<Open>),
    /// The last frame has come.
    Last {
        open: Box<Open>,
        digest: [u8; 32],
    },
    Receipted,
    Broken,
}

/// An answer whose keys are known.
struct Open {
    keys: AnswerKeys,
    nonce: [u8; 32],
    next: u64,
    chain: [u8; 32],
    content: Sha256,
    length: usize,
    /// The beginning of something that goes on in the next piece.
    begun: Option<(Kind, Vec<u8>)>,
    ended: Option<(Outcome, Usage)>,
}

impl AnswerOpener {
    pub(super) fn new(
        request: &SealedRequest,
        identity: PublicIdentity,
        encapsulated: [u8; 32],
        secret: Zeroizing<[u8; 32]>,
    ) -> Self {
        let header = request.header();
        Self {
            secret,
            encapsulated,
            identity,
            shape: header.terms.shape,
            task: header.task,
            certificate: header.certificate,
            request: request.digest(),
            stage: Stage::Waiting,
        }
    }

    /// Returns the node whose answer this can be, and nobody else's.
    pub const fn node(&self) -> &PublicIdentity {
        &self.identity
    }

    /// Returns how far the answer has come.
    pub const fn progress(&self) -> Progress {
        match &self.stage {
            Stage::Waiting => Progress::Waiting,
            Stage::Open(open) if open.ended.is_none() => Progress::Open,
            Stage::Open(_) | Stage::Last { .. } => Progress::Ended,
            Stage::Receipted => Progress::Receipted,
            Stage::Broken => Progress::Broken,
        }
    }

    /// Takes the next record in.
    ///
    /// Keep-alives and the relay's advice say nothing of the answer and are skipped.
    pub fn handle_record(&mut self, record: &Record) -> Result<Vec<AnswerEvent>, AnswerError> {
        let handled = match record.kind {
            RecordKind::Opening => self.handle_opening(&record.payload),
            RecordKind::Frame => self.handle_frame(&record.payload),
            RecordKind::Receipt => self.handle_receipt(&record.payload),
            RecordKind::KeepAlive | RecordKind::Failure | RecordKind::Other(_) => {
                return Ok(Vec::new());
            }
        };
        if handled.is_err() {
            self.stage = Stage::Broken;
        }
        handled
    }

    /// Says what an answer is whose records have ended: complete with its receipt, or an error.
    pub fn close(self) -> Result<(), AnswerError> {
        match self.progress() {
            Progress::Receipted => Ok(()),
            Progress::Ended => Err(AnswerError::ReceiptMissing),
            Progress::Waiting | Progress::Open => Err(AnswerError::Truncated),
            Progress::Broken => Err(AnswerError::Over),
        }
    }

    fn handle_opening(&mut self, payload: &[u8]) -> Result<Vec<AnswerEvent>, AnswerError> {
        let Stage::Waiting = self.stage else {
            return Err(self.out_of_place("an opening"));
        };
        let halves = payload.split_first_chunk::<32>();
        let (nonce, commit) = halves.ok_or(AnswerError::Malformed("a short opening"))?;
        let keys = AnswerKeys::derive(&self.encapsulated, nonce, &self.secret);
        // Both are public by now; what is compared is no secret.
        if keys.commit[..] != *commit {
            return Err(AnswerError::WrongNode);
        }
        self.stage = Stage::Open(Box::new(Open {
            keys,
            nonce: *nonce,
            next: 0,
            chain: [0; 32],
            content: Sha256::new(),
            length: 0,
            begun: None,
            ended: None,
        }));
        Ok(vec![AnswerEvent::Opened])
    }

    fn handle_frame(&mut self, sealed: &[u8]) -> Result<Vec<AnswerEvent>, AnswerError> {
        let Stage::Open(open) = &mut self.stage else {
            return Err(self.out_of_place("a frame"));
        };
        if open.next >= MAX_FRAMES {
            return Err(AnswerError::TooLong);
        }
        let mut text = Zeroizing::new(sealed.to_vec());
        // The last frame is known by opening as that; only after the end it can come at all.
        let is_last = open.open(&mut text)?;
        let length = sealed.len() - TAG_LEN;
        let pieces = Reader::new(&text[..length], self.shape)
            .ok_or(AnswerError::Malformed("a frame has not its shape's length"))?;
        if is_last {
            let digest = last(pieces)?;
            let Stage::Open(open) = std::mem::replace(&mut self.stage, Stage::Broken) else {
                return Err(AnswerError::Over);
            };
            self.stage = Stage::Last { open, digest };
            return Ok(Vec::new());
        }
        let mut events = Vec::new();
        for piece in pieces {
            let piece = piece.map_err(AnswerError::Malformed)?;
            events.extend(open.take(&piece)?);
        }
        Ok(events)
    }

    fn handle_receipt(&mut self, payload: &[u8]) -> Result<Vec<AnswerEvent>, AnswerError> {
        let Stage::Last { open, digest } = &self.stage else {
            return Err(self.out_of_place("a receipt"));
        };
        let disputed = AnswerError::ReceiptDisputed;
        let signed = SignedReceipt::decode(payload).map_err(disputed)?;
        signed.verify(&self.identity).map_err(disputed)?;
        let mismatch = |what| disputed(ReceiptError::Mismatch(what));
        let receipt = signed.receipt();
        let (outcome, usage) = open.ended.ok_or(AnswerError::Truncated)?;
        for (fits, what) in [
            (receipt.task == self.task, "task"),
            (receipt.certificate == self.certificate, "certificate"),
            (receipt.request == self.request, "request"),
            (receipt.nonce == open.nonce, "answer"),
            (receipt.chain == open.chain, "content"),
            (receipt.outcome == outcome, "outcome"),
            (outcome == Outcome::Failed || receipt.usage == coarse(usage), "usage"),
            (receipt.digest() == *digest, "receipt than the answer's own"),
        ] {
            if !fits {
                return Err(mismatch(what));
            }
        }
        self.stage = Stage::Receipted;
        Ok(vec![AnswerEvent::Receipt(Box::new(signed))])
    }

    const fn out_of_place(&self, what: &'static str) -> AnswerError {
        match self.stage {
            Stage::Broken => AnswerError::Over,
            _ => AnswerError::OutOfPlace(what),
        }
    }
}

impl Open {
    /// Opens the next frame in place and returns whether it is the last.
    fn open(&mut self, text: &mut [u8]) -> Result<bool, AnswerError> {
        let chain = chained(&self.chain, text);
        let more = frame_aad(false, self.next);
        // A failed try leaves the frame as it was.
        let is_last = if self.keys.aead.open(self.next, &more, text).is_ok() {
            self.chain = chain;
            false
        } else if self.ended.is_some() {
            let last = frame_aad(true, self.next);
            self.keys.aead.open(self.next, &last, text).map_err(|_| AnswerError::Rejected)?;
            true
        } else {
            return Err(AnswerError::Rejected);
        };
        self.next += 1;
        Ok(is_last)
    }

    /// Takes a piece in and returns what it completes.
    fn take(&mut self, piece: &Piece<'_>) -> Result<Option<AnswerEvent>, AnswerError> {
        if self.ended.is_some() {
            return Err(AnswerError::OutOfPlace("a piece behind the end"));
        }
        self.length += piece.data.len();
        if self.length > MAX_ANSWER {
            return Err(AnswerError::TooLong);
        }
        if piece.kind.is_content() {
            self.content.update(piece.data);
        }
        let data = match self.begun.take() {
            None if !piece.more => return self.complete(piece.kind, piece.data.to_vec()).map(Some),
            None => piece.data.to_vec(),
            Some((kind, mut data)) if kind == piece.kind => {
                data.extend_from_slice(piece.data);
                data
            }
            Some(_) => return Err(AnswerError::OutOfPlace("a piece of another kind")),
        };
        if piece.more {
            self.begun = Some((piece.kind, data));
            return Ok(None);
        }
        self.complete(piece.kind, data).map(Some)
    }

    fn complete(&mut self, kind: Kind, data: Vec<u8>) -> Result<AnswerEvent, AnswerError> {
        match kind {
            Kind::Text => String::from_utf8(data)
                .map(AnswerEvent::Text)
                .map_err(|_| AnswerError::Malformed("text is not UTF-8")),
            Kind::Json => Ok(AnswerEvent::Json(data)),
            Kind::Whole => Ok(AnswerEvent::Whole(data)),
            Kind::Fault => {
                let error = serde_json::from_slice(&data)
                    .map_err(|_| AnswerError::Malformed("the failure is not one"))?;
                self.ended = Some((Outcome::Failed, Usage::default()));
                Ok(AnswerEvent::Failed(error))
            }
            Kind::End => {
                let (finish, digest) =
                    read_end(&data).ok_or(AnswerError::Malformed("the end is not one"))?;
                if digest[..] != *self.content.clone().finalize() {
                    return Err(AnswerError::Malformed("the end is of another answer"));
                }
                self.ended = Some((Outcome::Complete, finish.usage));
                Ok(AnswerEvent::Finished(finish))
            }
            Kind::Receipt => Err(AnswerError::OutOfPlace("a receipt's hash")),
        }
    }
}

/// Reads the last frame.
fn last(mut pieces: Reader<'_>) -> Result<[u8; 32], AnswerError> {
    let wrong = AnswerError::Malformed("the last frame is not one");
    let piece = pieces.next().ok_or(wrong)?.map_err(AnswerError::Malformed)?;
    let digest = piece.data.try_into().ok().filter(|_| piece.kind == Kind::Receipt && !piece.more);
    let alone = pieces.next().is_none();
    digest.filter(|_| alone).ok_or(wrong)
}

fn read_end(data: &[u8]) -> Option<(Finish, [u8; 32])> {
    let (prompt, rest) = data.split_first_chunk()?;
    let (completion, rest) = rest.split_first_chunk()?;
    let (digest, reason) = rest.split_first_chunk()?;
    let usage = Usage {
        prompt_tokens: u32::from_be_bytes(*prompt),
        completion_tokens: u32::from_be_bytes(*completion),
    };
    let reason = std::str::from_utf8(reason).ok().filter(|reason| reason.len() <= MAX_REASON)?;
    Some((Finish { reason: reason.to_owned(), usage }, *digest))
}

impl fmt::Debug for AnswerOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerOpener")
            .field("node", &self.identity.node_id())
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}
