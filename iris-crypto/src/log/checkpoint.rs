//! Signed checkpoints: C2SP's tlog-checkpoint in its signed-note.

use std::fmt;

use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::prove::check_size;
use super::{LogError, MAX_CHECKPOINT_LEN, TreeHash};
use crate::identity::{Identity, PublicIdentity, Signature};

/// What the name of a log begins with; its coordinator's identity follows.
const ORIGIN: &str = "iris-log/";
/// What a line with a signature begins with.
const SIGNATURE: &str = "\u{2014} ";
/// The number of Ed25519 among the algorithms of signed notes.
const ED25519: u8 = 1;
/// The most signatures of a checkpoint; all but the first are witnesses'.
const MAX_SIGNATURES: usize = 16;

/// The state of a log: how many entries it has, and the root over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The entries.
    pub size: u64,
    /// The root over all of them.
    pub root: TreeHash,
}

/// A checkpoint that a coordinator signed, or so it says.
///
/// The text is, with a line feed after each line:
///
/// ```text
/// iris-log/<identity of the coordinator, in hexadecimal>
/// <size>
/// <root, in base64>
///
/// — iris-log/<identity> <4 bytes of key id and the signature, in base64>
/// ```
///
/// There is one spelling of each checkpoint. Signatures of witnesses may follow the
/// coordinator's; they are passed on and not looked at.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    text: String,
    coordinator: PublicIdentity,
    checkpoint: Checkpoint,
    signature: Signature,
}

impl SignedCheckpoint {
    /// Signs that the log of `coordinator` has `size` entries under `root`.
    ///
    /// # Panics
    ///
    /// When `size` is larger than [`MAX_SIZE`](super::MAX_SIZE).
    pub fn sign(coordinator: &Identity, size: u64, root: TreeHash) -> Self {
        assert!(check_size(size).is_ok(), "the size of a log is bounded");
        let checkpoint = Checkpoint { size, root };
        let public = coordinator.public();
        let body = body(&public, &checkpoint);
        let signature = coordinator.sign(body.as_bytes());
        let signed = [&key_id(&public)[..], signature.as_bytes()].concat();
        let text = format!("{body}\n{SIGNATURE}{ORIGIN}{public} {}\n", BASE64.encode(&signed));
        Self { text, coordinator: public, checkpoint, signature }
    }

    /// Reads a checkpoint that a peer sent.
    pub fn decode(text: &str) -> Result<Self, LogError> {
        const MALFORMED: LogError = LogError::Malformed("not a checkpoint in a signed note");
        if text.len() > MAX_CHECKPOINT_LEN {
            return Err(LogError::Malformed("the checkpoint is too long"));
        }
        let (body, signatures) = text.split_once("\n\n").ok_or(MALFORMED)?;
        let mut lines = body.split('\n');
        let mut line = || lines.next().ok_or(MALFORMED);
        let (origin, size, root) = (line()?, line()?, line()?);
        let coordinator = origin
            .strip_prefix(ORIGIN)
            .and_then(|identity| identity.parse().ok())
            .ok_or(LogError::Malformed("the checkpoint names no coordinator's log"))?;
        let size = decode_size(size)?;
        let root = decode_padded(root)
            .map(TreeHash::from_bytes)
            .ok_or(LogError::Malformed("the checkpoint's root is not 32 bytes of base64"))?;
        if lines.next().is_some() {
            return Err(LogError::Malformed("the checkpoint says more than this version knows"));
        }
        let signature = decode_signatures(signatures, &coordinator)?;
        let checkpoint = Checkpoint { size, root };
        Ok(Self { text: text.to_owned(), coordinator, checkpoint, signature })
    }

    /// Returns the text to send.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns whose log this says it is of, which may be a lie.
    pub const fn unverified_coordinator(&self) -> &PublicIdentity {
        &self.coordinator
    }

    /// Returns what `coordinator` states, after checking that it signed.
    pub fn verify(&self, coordinator: &PublicIdentity) -> Result<Checkpoint, LogError> {
        if self.coordinator != *coordinator {
            return Err(LogError::WrongLog);
        }
        coordinator
            .verify_strict(body(coordinator, &self.checkpoint).as_bytes(), &self.signature)
            .map_err(|_| LogError::BadSignature)?;
        Ok(self.checkpoint)
    }
}

/// Returns the signed text.
fn body(coordinator: &PublicIdentity, checkpoint: &Checkpoint) -> String {
    let Checkpoint { size, root } = checkpoint;
    format!("{ORIGIN}{coordinator}\n{size}\n{}\n", BASE64.encode(root.as_bytes()))
}

fn decode_size(text: &str) -> Result<u64, LogError> {
    const MALFORMED: LogError = LogError::Malformed("the checkpoint's size is not a number");
    let size: u64 = text.parse().map_err(|_| MALFORMED)?;
    // Zeros and signs before a number would be further spellings of it.
    if size.to_string() != text {
        return Err(MALFORMED);
    }
    check_size(size)?;
    Ok(size)
}

fn decode_signatures(text: &str, coordinator: &PublicIdentity) -> Result<Signature, LogError> {
    const MALFORMED: LogError = LogError::Malformed("not a list of signatures");
    let lines = text.strip_suffix('\n').ok_or(MALFORMED)?;
    let mut own = None;
    for (place, line) in lines.split('\n').enumerate() {
        let line = line.strip_prefix(SIGNATURE).filter(|_| place < MAX_SIGNATURES);
        let (name, signed) = line.and_then(|line| line.split_once(' ')).ok_or(MALFORMED)?;
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(MALFORMED);
        }
        if place > 0 {
            let signed = BASE64.decode(signed.as_bytes()).map_err(|_| MALFORMED)?;
            if signed.len() < 5 {
                return Err(MALFORMED);
            }
            continue;
        }
        let signed: [u8; 68] = decode_padded(signed).ok_or(MALFORMED)?;
        let is_own = name.strip_prefix(ORIGIN) == Some(&coordinator.to_string());
        let signature = signed.strip_prefix(&key_id(coordinator)).filter(|_| is_own);
        own = signature.and_then(|signature| signature.try_into().ok());
        if own.is_none() {
            return Err(LogError::Malformed("the first signature is not the coordinator's"));
        }
    }
    own.map(Signature::from_bytes).ok_or(MALFORMED)
}

/// Decodes a text of exactly `N` bytes without allocating for a longer one.
fn decode_padded<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != BASE64.encode_len(N) {
        return None;
    }
    BASE64.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// Returns the start of the hash by which signed notes name a key.
fn key_id(coordinator: &PublicIdentity) -> [u8; 4] {
    let hash = Sha256::new()
        .chain_update(format!("{ORIGIN}{coordinator}\n"))
        .chain_update([ED25519])
        .chain_update(coordinator.as_bytes())
        .finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

impl fmt::Debug for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignedCheckpoint").field(&self.checkpoint).finish()
    }
}
