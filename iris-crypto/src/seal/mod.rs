//! Requests that only the chosen node can open, and their answers: *Iris Seal v1*.
//!
//! A client seals a prompt to the key of a node's certificate; whoever relays it reads a small
//! clear header and nothing else. The answer comes back as frames under keys that only the two of
//! them have, ends with a mark that cannot be forged or cut off, and leaves a receipt that the node
//! signed, which client and relay both hold and which says nothing of the content.
//!
//! ```
//! use iris_core::backend::{Finish, Operation, Usage};
//! use iris_core::Timestamp;
//! use iris_crypto::certificate::{Expectation, Origin, Role};
//! use iris_crypto::seal::{
//!     AnswerEvent, Outcome, Pieces, Prompt, RecordReader, SealedRequest, Shape, Terms,
//! };
//! use iris_crypto::{Identity, SealingKey, SignedCertificate};
//!
//! // The node has an identity, and a certificate that the client has verified.
//! let (identity, key) = (Identity::generate(), SealingKey::generate());
//! let origin: Origin = "https://iris.example".parse()?;
//! let now = Timestamp::from_millis(1_800_000_000_000);
//! let certificate =
//!     SignedCertificate::issue(&identity, Role::Node, key.public(), &origin, now, 1);
//! let expected = Expectation { role: Role::Node, now, min_serial: 0, origin: &origin };
//! let certificate = certificate.verify(&expected)?;
//!
//! // The client seals.
//! let prompt = Prompt { operation: Operation::Chat, stream: true, body: "{}".into() };
//! let terms = Terms::new("some-model".parse()?, now);
//! let (request, mut opener) = SealedRequest::seal(&certificate, terms, &prompt)?;
//!
//! // The node opens what arrived, and answers.
//! let arrived = SealedRequest::decode(request.wire().clone())?;
//! let (opened, mut sealer) = arrived.open(&key)?;
//! assert_eq!(opened, prompt);
//! let mut records = Vec::new();
//! sealer.opening(&mut records);
//! let mut pieces = Pieces::new(Shape::Paced);
//! pieces.push_text("Paris.");
//! sealer.seal(&pieces, &mut records)?;
//! let usage = Usage { prompt_tokens: 9, completion_tokens: 2 };
//! let finish = Finish { reason: "stop".to_owned(), usage };
//! sealer.end(&finish, &mut records)?;
//! let receipt = sealer.finish(&identity, Outcome::Complete, usage, &mut records)?;
//! receipt.write_record(&mut records);
//!
//! // The client opens the answer, record by record.
//! let mut reader = RecordReader::new();
//! reader.push(&records);
//! let mut events = Vec::new();
//! while let Some(record) = reader.pop()? {
//!     events.extend(opener.handle_record(&record)?);
//! }
//! assert_eq!(events[1], AnswerEvent::Text("Paris.".to_owned()));
//! assert_eq!(events[2], AnswerEvent::Finished(finish));
//! assert!(matches!(events[3], AnswerEvent::Receipt(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The bytes
//!
//! Integers are big-endian, `lp(x)` is a `u16` length and as many bytes, `|` joins. There is one
//! encoding of everything, and a trailing byte is an error. The suite is HPKE in base mode
//! (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM; see
//! [`hpke`](crate::hpke).
//! `tests/vectors/seal.json` has examples with every secret shown.
//!
//! **Request.** The clear header is
//! `H = "iris/req/v1\0" | 1 | task[16] | certificate hash[32] | lp(model) | issued at u64 ms |
//! ttl u32 ms | max tokens u32 | shape u8`, where the `1` says that it is sealed to a node, the
//! task is random, the hash is SHA-256 of what the node's certificate says
//! ([`SignedCertificate::hash`](crate::SignedCertificate::hash)), the ttl is at most ten minutes
//! and the shape is 0, 1 or 2. The wire request is `H | enc[32] | len u32 | ct`, with
//! `enc, context = SetupBaseS(node's key, info = H)` and `ct = context.Seal(aad = "req",
//! pad(prompt))`. As the header goes into the key schedule, nothing of it can be changed.
//!
//! The prompt is `operation u8 | streamed u8 | body`: operation 1 is a chat, 2 a completion;
//! streamed is 0 or 1; the body is the OpenAI request as its caller wrote it. `pad(x)` is `x`,
//! the byte `0x80`, and zeros up to the next of the sizes
//! `(1024 << j) * [65536, 77936, 92682, 110218][r] / 65536`, for `j` from 0 and `r` from 0 to 3,
//! rounded up to a multiple of 64: a quarter more at most. The largest size is 28,215,808.
//!
//! **Answer.** With `secret = context.Export("iris/resp/v1", 32)` and 32 random bytes `rn` of the
//! node, `prk = HKDF-Extract(salt = enc | rn, secret)` and `key = HKDF-Expand(prk, "key", 32)`,
//! `nonce = HKDF-Expand(prk, "nonce", 12)`, `commit = HKDF-Expand(prk, "commit", 32)`: the response
//! derivation of RFC 9458, section 4.4, and a commitment to the key, since AES-GCM has none.
//!
//! An answer is a sequence of records, `len u32 | kind u8 | payload`, where the length counts what
//! follows it and is at most 66,000:
//!
//! | kind | record | payload | written by |
//! |---|---|---|---|
//! | 0 | keep-alive | nothing | the relay |
//! | 1 | opening | `rn[32] \| commit[32]`; first of the node's, once | the node |
//! | 2 | frame | sealed | the node |
//! | 3 | receipt | `R \| signature[64]`; last | the node, by the relay |
//! | 4 | failure | JSON, in clear: advice, never a part of the answer | the relay |
//!
//! Frame `i`, counted from 0, is AES-256-GCM under `key` with the nonce `nonce XOR i` (`i` in its
//! last 8 bytes) and the associated data `flag u8 | i u64`; the flag is 1 in the last frame and 0
//! in all others. Its text is a sequence of pieces and zeros behind them. In shapes 1 and 2 it has
//! exactly 256 bytes; in shape 0 it ends with its pieces. A piece is
//! `kind u8 | len u16 | data`; the kind with the bit `0x80` goes on in the next piece, which has
//! the same kind. A kind of 0 ends the pieces: all that follows is zero, and a frame of zeros alone
//! is a dummy.
//!
//! | kind | piece |
//! |---|---|
//! | 1 | text that the answer goes on with: UTF-8 |
//! | 2 | a whole answer that is not streamed: a JSON object |
//! | 3 | the answer failed: the JSON of a [`BackendError`](iris_core::backend::BackendError) |
//! | 4 | the answer is complete: `prompt tokens u32 \| completion tokens u32 \| SHA-256 of the data of all pieces of kinds 1, 2 and 5 \| finish reason` |
//! | 5 | another step of a streamed answer: a JSON object |
//! | 6 | SHA-256 of `R`; alone, and only in the last frame |
//!
//! After a piece of kind 3 or 4 only dummies follow, and the last frame. An answer is a success
//! when its piece of kind 4 has come, whatever happens to the connection then; without one it is
//! none.
//!
//! **Receipt.** `R = "iris/receipt/v1\0" | task[16] | certificate hash[32] | SHA-256 of the wire
//! request[32] | rn[32] | h[32] | prompt tokens u32 | completion tokens u32 | model digest[32] |
//! log probability root[32] | outcome u8`, signed by the node's identity. `h` starts as 32 zeros
//! and becomes `SHA-256(h | sealed frame)` with every frame but the last. Tokens are rounded up to
//! multiples of 64. The digest and the root are zeros where the node states none. The outcome is 1
//! for a complete answer and 2 for one that failed; why is sealed.
//!
//! # What it is made from, and where it differs
//!
//! The request is HPKE as in RFC 9180, the answer's keys are derived as in RFC 9458, and frames are
//! numbered and marked as in Chunked OHTTP (draft-ietf-ohai-chunked-ohttp). Beyond them, an end
//! that lies within the sealed text says that the answer is complete, since a connection's end says
//! nothing, and the key is committed to. Against the plan that this was built by:
//!
//! - *Usage is a part of the end*, not a piece of its own: what is counted holds for a whole answer
//!   or for none, and one piece cannot come without the other. Its kind, 2, is a whole answer that
//!   was not streamed.
//! - *The operation and whether it is streamed are sealed*, in front of the body. The relay has no
//!   use for them, and they would tell one kind of program from another.
//! - *The finish reason is sealed*, and what is signed in clear tells complete from failed only:
//!   `tool_calls` or `content_filter` would say what was spoken of. Exact usage is sealed likewise.
//! - *Text may be cut between pieces* only between characters, unless a piece says that it goes on,
//!   so that no reader has to keep half a character.
//! - *Failures are JSON of one type*, the node's [`BackendError`](iris_core::backend::BackendError),
//!   and their text is the model server's; the relay learns that it failed.
//!
//! `js/iris-seal.mjs` is the client's side once more, for browsers.
//!
//! # Shapes
//!
//! | shape | what an observer of the bytes learns |
//! |---|---|
//! | 0 off | the length and time of every piece of the answer |
//! | 1 batched | how much came in every quarter of a second |
//! | 2 paced | in which class of duration the answer falls; how fast, only above 1,265 bytes a second; of an answer that is not streamed its class of length, too |
//!
//! The node sends by the clock, see [`Shape`]; that lengths are alike is seen to here.
//!
//! # What is not hidden
//!
//! The relay sees the header: which model, which node, when, at most how many tokens, and the
//! prompt's size class. The node sees prompt and answer, since it computes on them.

use std::time::Duration;

use bytes::Bytes;
use iris_core::backend::Operation;

use crate::hpke::HpkeError;

mod frame;
mod opener;
mod receipt;
mod record;
mod replay;
mod request;
mod sealer;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use frame::{Pieces, SHAPED_FRAME};
pub use opener::{AnswerError, AnswerEvent, AnswerOpener, Progress};
pub use receipt::{Outcome, Receipt, ReceiptError, SignedReceipt, coarse};
pub use record::{MAX_RECORD, Record, RecordKind, RecordReader, RecordTooLong, write_record};
pub use replay::{ReplayError, Replays};
pub use request::{RequestHeader, SealedRequest, Terms};
pub use sealer::AnswerSealer;

/// The media type of a wire request and of the records of an answer.
pub const MEDIA_TYPE: &str = "application/vnd.iris.sealed";

/// The client for browsers, an ES module without dependencies.
#[cfg(feature = "browser")]
pub const BROWSER_CLIENT: &str = include_str!("../../js/iris-seal.mjs");

/// The longest wire request, in bytes: what fits into a relay's hop beside its own sealing.
pub const MAX_REQUEST: usize = 28 << 20;

/// The longest time that a request may be good for.
pub const MAX_TTL: Duration = Duration::from_mins(10);

/// Most frames of one answer.
pub const MAX_FRAMES: u64 = 1 << 20;

/// Longest answer, in bytes of its pieces' data.
pub const MAX_ANSWER: usize = 64 << 20;

/// How much an observer of the sealed bytes learns from their sizes and times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Frames are as long as what they carry, and leave at once. For nodes of one's own.
    Off,
    /// Frames are alike, and leave every 250 ms when there is something to say.
    Batched,
    /// Frames are alike, and one leaves every 200 ms from the acceptance on, whether there is
    /// something to say or not, up to the end of a class of durations; each class is a quarter
    /// longer than the one before. Costs at most 200 ms of waiting and 1.4 kB a second. More
    /// frames leave at a time only when more is waiting than fits into one.
    #[default]
    Paced,
}

impl Shape {
    /// Returns the number that stands for it in a header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Batched => 1,
            Self::Paced => 2,
        }
    }

    /// Returns the shape of a number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Off),
            1 => Some(Self::Batched),
            2 => Some(Self::Paced),
            _ => None,
        }
    }
}

/// What a node is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What the body is.
    pub operation: Operation,
    /// Whether the answer is wanted as it is written.
    pub stream: bool,
    /// The OpenAI request as its caller wrote it: a JSON object.
    pub body: Bytes,
}

impl std::fmt::Debug for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Prompts never reach logs.
        f.debug_struct("Prompt")
            .field("operation", &self.operation)
            .field("stream", &self.stream)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// Why a request cannot be sealed, read or opened, or an answer not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The bytes are no sealed request of this version.
    #[error("not a sealed request: {0}")]
    Malformed(&'static str),
    /// The prompt or the answer is longer than a sealed one can be.
    #[error("too long to be sealed")]
    TooLong,
    /// The node's key is of small order.
    #[error("the node's key is of small order")]
    WeakKey,
    /// It was altered, or sealed to another key.
    #[error("the sealed request does not open")]
    Rejected,
    /// It is from the future: one of the two clocks is wrong.
    #[error("the request is from the future: check the clocks")]
    NotYetValid,
    /// Its time is over, or one of the two clocks is wrong.
    #[error("the request's time is over: check the clocks")]
    Expired,
}

impl From<HpkeError> for SealError {
    fn from(error: HpkeError) -> Self {
        match error {
            HpkeError::WeakKey => Self::WeakKey,
            HpkeError::Rejected | HpkeError::Exhausted => Self::Rejected,
        }
    }
}
