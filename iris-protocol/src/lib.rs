//! How nodes and coordinators talk, and the types of the HTTP APIs.
//!
//! This page and the modules it names are all that an implementation in another language needs,
//! together with the examples in `tests/vectors`.
//!
//! # A connection
//!
//! A node opens one WebSocket to its coordinator's `/nodes/connect` (`wss` off loopback) and
//! keeps it. Control messages are JSON objects in text frames, told apart by `type`
//! ([`message`]); prompts, answers and acknowledgements are compact binary frames ([`frame`]).
//! Keys, nonces, signatures and certificates travel as base64url without padding. A peer that
//! breaks a rule or a bound of [`limits`] is disconnected; fields and message types that are not
//! known are skipped.
//!
//! # Registration
//!
//! ```text
//! node                                         coordinator
//!  │ ◀─ CHALLENGE  versions, nonce, identity ─────── │  at once
//!  │ ── NODE_REGISTER  version, identity,            │  within 5 s
//!  │      certificate, nonce, signature, models ──▶  │
//!  │ ◀─ REGISTER_ACK  session, hop key, proof,       │  or ERROR, and the end
//!  │      window, intervals ──────────────────────── │
//! ```
//!
//! The node picks the highest version of the range that it speaks ([`version`]). Its signature
//! covers the challenge's nonce, the coordinator's origin and its certificate; the coordinator's
//! proof covers the node's nonce, the encapsulated hop key and the session. The exact bytes that
//! are signed, and how payloads are sealed, are `iris-crypto`'s subject; here they are opaque.
//! Until `REGISTER_ACK` neither side sends anything else.
//!
//! The node then sends `NODE_HEARTBEAT` every 10 s (the interval that the acknowledgement names),
//! which the coordinator answers with `HEARTBEAT_ACK`. A peer of which nothing at all was heard
//! for 35 s is lost.
//!
//! # An assignment
//!
//! ```text
//!  │ ◀─ TASK_ASSIGN, BODY 0, BODY 1, … last ──────── │
//!  │ ── TASK_ACCEPT ──────────────────────────────▶  │  or TASK_REFUSE, and the end
//!  │ ── TASK_PROGRESS ────────────────────────────▶  │  every 5 s without output
//!  │ ── STREAM 0, STREAM 1, … ────────────────────▶  │
//!  │ ◀─ ACK ──────────────────────────────────────── │  as chunks are passed on
//!  │ ── TASK_RESULT or TASK_ERROR ────────────────▶  │  and the end
//! ```
//!
//! Assignment ids ascend within a session, from the coordinator's hand. A refusal is only
//! possible before the acceptance, an answer only after it. The payloads of the `BODY` frames add
//! up to exactly `body_bytes`, and the one that completes them is marked as the last.
//!
//! A task whose node was lost amid a streamed answer goes on at another one that has the
//! capability `continue`: `begun` in `TASK_ASSIGN` says how many bytes at the end of the prompt
//! are the beginning of the answer, and the node sends what follows them.
//!
//! # A sealed assignment
//!
//! A prompt that its caller sealed to the node's own key comes with `sealed` in `TASK_ASSIGN`, to
//! nodes with the capability `seal`, and is the caller's request byte for byte. The answer's
//! `STREAM` frames carry whole sealed records, which the coordinator passes on unread; nothing
//! else may answer a sealed assignment, and sealed records answer no other. Such frames keep a
//! rhythm of their own and so say nothing about the work: `TASK_PROGRESS` comes every 5 s until
//! the end, whatever else is sent. `TASK_RESULT` says `stop` and rounds the usage up
//! to multiples of 64, `TASK_ERROR` has no texts, and both bring the node's `receipt`, its
//! signature included. The node turns a sealed request down with `stale_key` when it was sealed
//! to a key that is gone, and with `seal_rejected` for everything that is wrong with it.
//!
//! # Frames of an answer
//!
//! `STREAM` frames are numbered from 0 without a gap. A piece of content that exceeds one frame
//! goes on in the next, marked by the flag of every frame but its last. `TASK_RESULT` and
//! `TASK_ERROR` say how many frames came before, which is also their own number; only an error
//! may come in the middle of a piece.
//!
//! `TASK_CANCEL` takes an assignment back at any time. The node stops the work and answers
//! `TASK_CANCELLED`, unless it has sent the end or the refusal already, which then stands in its
//! place. What was on its way before is ignored on both sides.
//!
//! `CLASSIFY_ASSIGN` is an assignment without acceptance: `BODY` frames follow, and
//! `CLASSIFY_RESULT`, `TASK_REFUSE` or `TASK_ERROR` (with no frames) ends it.
//!
//! # The window
//!
//! A node sends a `STREAM` frame only while fewer than `window.frames` frames and fewer than
//! `window.bytes` bytes of that assignment (headers included) are not acknowledged, and keeps
//! each frame until it is. The coordinator acknowledges a frame once it has passed it on, at the
//! latest when half a window has been, so a slow reader slows its own stream and no other. An
//! `ACK` is cumulative: it names the next number that is not acknowledged. An assignment's end
//! counts as one more number and needs no room in the window; ends are acknowledged together, 64
//! at a time or with the next heartbeat.
//!
//! # When the socket breaks
//!
//! The session goes on if the node comes back within the grace of 5 s:
//!
//! 1. Both sides forget every assignment that was not accepted, whose prompt had not arrived
//!    whole, or that was a `CLASSIFY_ASSIGN`. The coordinator also forgets what it cancelled.
//! 2. The node registers with `resume`: the session, and every assignment it holds with the first
//!    number that was not acknowledged.
//! 3. `REGISTER_ACK` names the same session, new hop keys (running assignments keep theirs), and
//!    in `resumed` each assignment that goes on, with the next number the coordinator expects.
//!    Whatever is not listed is over: the node stops work on it and forgets it.
//! 4. The node sends again, byte for byte, everything from that number on. It keeps what comes
//!    before until it is acknowledged, as the window counts what the coordinator still holds; the
//!    coordinator acknowledges what it has passed on right after `REGISTER_ACK`.
//!
//! A `REGISTER_ACK` with another session means that nothing goes on. A node that connects twice
//! replaces itself: the older connection gets the error `replaced`.
//!
//! [`connection`] has both ends as state machines without I/O, and [`transport`] carries their
//! frames.
#![forbid(unsafe_code)]

pub mod connection;
pub mod frame;
pub mod limits;
pub mod message;
pub mod openai;
pub mod rest;
pub mod text;
pub mod transport;
pub mod version;

pub use frame::Frame;
