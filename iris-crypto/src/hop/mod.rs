//! The hop between coordinator and node: one key agreement per session, two keys per assignment.
//!
//! The coordinator [initiates](HopRoot::initiate) a root to the key of the node's certificate and
//! sends the encapsulated key; the node [accepts](HopRoot::accept). From then on no public-key
//! operation is needed: both derive the two keys of an assignment (one per direction) from the
//! root and the assignment's number, and seal chunks under them, numbered from 0.
//!
//! ```
//! use iris_crypto::{HopRoot, SealingKey};
//!
//! let node_key = SealingKey::generate();
//! let (encapsulated, mut coordinator) = HopRoot::initiate(&node_key.public(), b"session 1")?;
//! let mut node = HopRoot::accept(&node_key, &encapsulated, b"session 1")?;
//!
//! let mut here = coordinator.channel(7)?;
//! let mut there = node.channel(7)?;
//! let sealed = here.sealer.seal(b"header", b"a prompt")?;
//! assert_eq!(there.opener.open(0, b"header", &sealed)?, b"a prompt");
//! # Ok::<(), iris_crypto::hop::HopError>(())
//! ```
//!
//! The exact bytes: the root is the HPKE export of `"iris/hop/v1"` (32 bytes), used as a
//! pseudorandom key; `HKDF-Expand("iris/hop/assignment/v1" | assignment u64)` gives 88 bytes: key
//! and base nonce towards the node (32, 12), key and base nonce towards the coordinator (32, 12).
//! Chunk `i` is AES-256-GCM under the key of its direction, with the nonce `base XOR i` (`i` in the
//! last 8 bytes, big-endian); its tag follows the text.
//!
//! A session that outlives its socket keeps its channels. Chunks that may have been lost are sent
//! again as they were, byte for byte; the receiver drops by number what it already has, before
//! opening.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::hpke::{self, HpkeError};
use crate::numbered_aead::NumberedAead;
use crate::sealing_key::{SealingKey, SealingPublicKey};

mod chunks;
mod once;
#[cfg(test)]
mod tests;

pub use chunks::{ChunkOpener, ChunkSealer, MAX_CHUNKS, TAG_LEN};

/// How far behind the highest assignment number seen another one may be derived.
pub const MAX_REORDERING: u64 = once::WINDOW;

/// Why keys were not derived, or a chunk was not sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HopError {
    /// The peer's key is of small order.
    #[error("the peer's key is of small order")]
    WeakKey,
    /// The keys of this assignment were given out before, or its number is more than
    /// [`MAX_REORDERING`] behind; deriving them again could use a nonce twice.
    #[error("the keys of assignment {0} were already given out")]
    AssignmentReused(u64),
    /// Another chunk is next; a lower number was opened before, a higher one came too early.
    #[error("chunk {found} arrived where chunk {expected} is next")]
    OutOfOrder {
        /// The next chunk's number.
        expected: u64,
        /// The number asked to open.
        found: u64,
    },
    /// The chunk was altered or is not of this channel; the channel opens nothing any more.
    #[error("the chunk does not open")]
    Rejected,
    /// The channel has carried [`MAX_CHUNKS`] chunks.
    #[error("the channel has reached its limit of chunks")]
    Exhausted,
}

impl From<HpkeError> for HopError {
    fn from(error: HpkeError) -> Self {
        match error {
            HpkeError::WeakKey => Self::WeakKey,
            HpkeError::Rejected => Self::Rejected,
            HpkeError::Exhausted => Self::Exhausted,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Coordinator,
    Node,
}

/// One side of the secret that a session's assignments get their keys from.
///
/// Cheap to derive from, and meant to be replaced every ten minutes: make a new root and keep the
/// channels of the old one until their assignments end.
pub struct HopRoot {
    side: Side,
    prk: Hkdf<Sha256>,
    given: once::Once,
}

/// The two directions of one assignment, as one side sees them.
#[derive(Debug)]
pub struct Channel {
    /// Seals what this side sends.
    pub sealer: ChunkSealer,
    /// Opens what the other side sends.
    pub opener: ChunkOpener,
}

impl HopRoot {
    /// Makes the coordinator's side towards the node whose certified key is `node`.
    ///
    /// `info` names the session, which of its roots this is, and whatever else both must agree
    /// on. Returns the encapsulated key to send along.
    pub fn initiate(node: &SealingPublicKey, info: &[u8]) -> Result<([u8; 32], Self), HopError> {
        let (encapsulated, context) = hpke::setup_sender(node, info)?;
        let mut secret = Zeroizing::new([0; 32]);
        context.export(EXPORT, &mut *secret);
        Ok((encapsulated, Self::new(Side::Coordinator, &secret)))
    }

    /// Makes the node's side of a root that was initiated to `key`.
    ///
    /// Succeeds for any `encapsulated` that is a usable key. That it came from the coordinator is
    /// for a signature to say ([`verify_welcome`](crate::hello::verify_welcome)); that both agree
    /// on `info` shows when the first chunk opens.
    pub fn accept(
        key: &SealingKey,
        encapsulated: &[u8; 32],
        info: &[u8],
    ) -> Result<Self, HopError> {
        let context = hpke::setup_receiver(key, encapsulated, info)?;
        let mut secret = Zeroizing::new([0; 32]);
        context.export(EXPORT, &mut *secret);
        Ok(Self::new(Side::Node, &secret))
    }

    fn new(side: Side, secret: &[u8; 32]) -> Self {
        let prk = Hkdf::from_prk(secret).expect("a hash's length is enough");
        Self { side, prk, given: once::Once::default() }
    }

    /// Derives the keys of an assignment, once.
    ///
    /// Numbers may come in any order as long as none is more than [`MAX_REORDERING`] behind the
    /// highest.
    pub fn channel(&mut self, assignment: u64) -> Result<Channel, HopError> {
        if !self.given.insert(assignment) {
            return Err(HopError::AssignmentReused(assignment));
        }
        let mut material = Zeroizing::new([0; 88]);
        self.prk
            .expand_multi_info(&[LABEL, &assignment.to_be_bytes()], &mut *material)
            .expect("three blocks are expanded");
        let (to_node, to_coordinator) = material.split_at(44);
        let (to_node, to_coordinator) = (direction(to_node), direction(to_coordinator));
        let (sealing, opening) = match self.side {
            Side::Coordinator => (to_node, to_coordinator),
            Side::Node => (to_coordinator, to_node),
        };
        Ok(Channel { sealer: ChunkSealer::new(sealing), opener: ChunkOpener::new(opening) })
    }
}

const EXPORT: &[u8] = b"iris/hop/v1";
const LABEL: &[u8] = b"iris/hop/assignment/v1";

fn direction(material: &[u8]) -> NumberedAead {
    let (key, base_nonce) = material.split_first_chunk().expect("a direction has 44 bytes");
    NumberedAead::new(key, base_nonce.try_into().expect("a direction has 44 bytes"))
}

impl fmt::Debug for HopRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HopRoot").field("side", &self.side).finish_non_exhaustive()
    }
}
