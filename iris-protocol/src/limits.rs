//! Every bound that the protocol puts on a peer.
//!
//! Sizes of messages are constants, because both sides must agree on them; what one side may
//! choose for itself is a field of [`Limits`].

use std::time::Duration;

use crate::message::Window;

/// Longest frame, header included: 1 MiB.
pub const MAX_FRAME: usize = 1 << 20;

/// Longest control message: 256 KiB.
pub const MAX_CONTROL: usize = 256 << 10;

/// Longest prompt, and longest single piece of an answer, sealing included: 32 MiB.
pub const MAX_BODY: usize = 32 << 20;

/// What sealing may add to the content of one frame.
pub const SEAL_OVERHEAD: usize = 16;

/// Most content that a sealed frame carries.
pub const MAX_CONTENT: usize = MAX_FRAME - crate::frame::HEADER_LEN - SEAL_OVERHEAD;

/// Most frames of one prompt; a sender fills its frames well before this many are needed.
pub const MAX_BODY_FRAMES: u32 = 1024;

/// Most frames of one answer.
pub const MAX_STREAM_FRAMES: u32 = 1 << 20;

/// Deepest nesting of a control message's JSON; the message itself is level one.
pub const MAX_JSON_DEPTH: usize = 16;

/// Most models that a node offers.
pub const MAX_MODELS: usize = 256;

/// Most slots of a node, and most assignments that it holds in one session.
pub const MAX_SLOTS: u32 = 1024;

/// Most assignments that a node holds, those included whose end is not acknowledged; it refuses
/// what comes beyond.
pub const MAX_HELD: usize = 2 * MAX_SLOTS as usize;

/// Widest window that a coordinator may set, since the node keeps that much of each answer.
pub const MAX_WINDOW: Window = Window { frames: 4096, bytes: 16 << 20 };

/// Most capabilities that a peer names.
pub const MAX_CAPABILITIES: usize = 32;

/// Longest name of a capability, in bytes.
pub const MAX_CAPABILITY_LEN: usize = 64;

/// Longest display name of a node, in bytes.
pub const MAX_NAME_LEN: usize = 64;

/// Longest agent version, in bytes.
pub const MAX_VERSION_LEN: usize = 64;

/// Longest name of a graphics card, in bytes.
pub const MAX_GPU_LEN: usize = 128;

/// Longest name of how a model's weights are stored, in bytes.
pub const MAX_QUANTIZATION_LEN: usize = 32;

/// Most data sets of a node.
pub const MAX_DATASETS: usize = 32;

/// Longest name of a data set, in bytes.
pub const MAX_DATASET_LEN: usize = 64;

/// Longest reason why an answer ended, and longest `code` or `param` of an error, in bytes.
pub const MAX_REASON_LEN: usize = 64;

/// Longest text of an error, in bytes.
pub const MAX_ERROR_LEN: usize = 2048;

/// Longest certificate, in bytes.
pub const MAX_CERTIFICATE: usize = 4096;

/// Longest receipt for a sealed answer with its signature, in bytes.
pub const MAX_RECEIPT: usize = 512;

/// Most nodes of a roster.
pub const MAX_ROSTER_NODES: usize = 100_000;

/// Most models of a roster that nobody offers any more.
pub const MAX_AWAY: usize = 256;

/// Longest signed checkpoint of a log, in bytes.
pub const MAX_CHECKPOINT: usize = 8 << 10;

/// Most hashes of a proof.
pub const MAX_PROOF: usize = 64;

/// Longest entry of a log, in bytes.
pub const MAX_LOG_ENTRY: usize = 1024;

/// Most entries of a log that are returned at once.
pub const MAX_LOG_ENTRIES: usize = 256;

/// Most entries of one acknowledgement frame.
pub const MAX_ACKS: usize = 1024;

/// What one side demands of a connection.
///
/// The coordinator tells its heartbeat, lost and window values to the node in `REGISTER_ACK`;
/// the rest needs no agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a peer may take from the first byte to the end of registration. Default: 5 s.
    pub registration: Duration,
    /// How often the node sends a heartbeat. Default: 10 s.
    pub heartbeat: Duration,
    /// How long a peer may be silent before it counts as lost. Default: 35 s.
    pub lost: Duration,
    /// How often the node marks progress while a backend works without output. Default: 5 s.
    pub progress: Duration,
    /// How long a session waits for its node after the socket broke. Default: 5 s.
    pub resume_grace: Duration,
    /// How much of one answer may be on its way without acknowledgement.
    /// Default: 256 frames and 1 MiB.
    pub window: Window,
    /// Most assignments of one session. Default: 1024.
    pub assignments: u32,
    /// Most messages of a heartbeat interval that no assignment called for, beside four for each
    /// assignment. Default: 64.
    pub unsolicited: u32,
    /// How many finished assignments are acknowledged together. Default: 64.
    pub terminal_acks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            registration: Duration::from_secs(5),
            heartbeat: Duration::from_secs(10),
            lost: Duration::from_secs(35),
            progress: Duration::from_secs(5),
            resume_grace: Duration::from_secs(5),
            window: Window { frames: 256, bytes: 1 << 20 },
            assignments: MAX_SLOTS,
            unsolicited: 64,
            terminal_acks: 64,
        }
    }
}
