//! The public log of a network: a list that only grows, with short proofs that it does.
//!
//! A coordinator writes down what it tells everybody: its own key, the certificates it lists and
//! the rosters it publishes, as [`Entry`] each. The list is a Merkle tree (RFC 6962), and a signed
//! [`Checkpoint`] states its size and root. Whoever keeps the last checkpoint can demand a proof
//! that the next one [extends it](verify_consistency), and that what it was told
//! [is in the list](verify_inclusion). So a coordinator that shows two people two lists signs the
//! evidence against itself.
//!
//! | part | who uses it |
//! |---|---|
//! | [`SignedCheckpoint`], [`verify_inclusion`], [`verify_consistency`] | whoever checks a log |
//! | [`Frontier`] | whoever appends, or computes the root of a list that passes by |
//! | [`ProofPlan`], [`TileId`], [`Tile`] | whoever keeps the hashes and proves |
//!
//! Nothing here reads or writes. The hashes lie in tiles of 256, laid out as C2SP's tlog-tiles has
//! it: tile `n` of level `l` holds the roots of the complete subtrees of `256^l` entries from
//! entry `n * 256^(l+1)` on. A [`Frontier`] says which tiles an append changes, a [`ProofPlan`]
//! which ones a proof is computed from: at most two of each level.
//!
//! Checkpoints are texts as C2SP's tlog-checkpoint and signed-note have it, so that common tools
//! and witnesses read them.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::identity::{decode_exact, text_form};

mod checkpoint;
mod entry;
mod frontier;
mod prove;
#[cfg(test)]
mod tests;
mod tile;
mod verify;

pub use checkpoint::{Checkpoint, SignedCheckpoint};
pub use entry::Entry;
pub use frontier::Frontier;
pub use prove::ProofPlan;
pub use tile::{Tile, TileError, TileId};
pub use verify::{verify_consistency, verify_inclusion};

/// The most entries of a log: what every JSON reader can count to.
pub const MAX_SIZE: u64 = (1 << 53) - 1;

/// The most hashes of a proof; one of `n` entries has about the binary logarithm of `n`.
pub const MAX_PROOF_LEN: usize = 64;

/// The longest entry, in bytes.
pub const MAX_ENTRY_LEN: usize = 1024;

/// The longest signed checkpoint, in bytes.
pub const MAX_CHECKPOINT_LEN: usize = 8 << 10;

/// A hash in the tree of a log, or its root. The text is unpadded base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeHash([u8; 32]);

impl TreeHash {
    /// The root of a log without entries.
    pub const EMPTY: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9,
        0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52,
        0xb8, 0x55,
    ]);

    /// Takes over the bytes of a hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the hash's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for TreeHash {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        decode_exact(&BASE64URL_NOPAD, text)
            .map(Self)
            .ok_or(LogError::Malformed("expected 32 bytes in unpadded base64url"))
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64URL_NOPAD.encode(&self.0))
    }
}

text_form!(TreeHash);

/// Returns the hash of an entry's bytes in the tree.
pub fn leaf_hash(entry: &[u8]) -> TreeHash {
    TreeHash(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

fn parent(left: &TreeHash, right: &TreeHash) -> TreeHash {
    TreeHash(
        Sha256::new()
            .chain_update([1])
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

/// Returns the root over `hashes`, which are a power of two of them.
fn complete_root(hashes: &[TreeHash]) -> TreeHash {
    debug_assert!(hashes.len().is_power_of_two(), "a complete tree");
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row.chunks_exact(2).map(|pair| parent(&pair[0], &pair[1])).collect();
    }
    row[0]
}

/// Why something about a log is not believed.
///
/// [`Fork`](Self::Fork) and [`BadConsistency`](Self::BadConsistency) between two checkpoints whose
/// signatures hold are evidence that the coordinator keeps two lists; both are worth keeping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The text or the bytes are not what they should be.
    #[error("not of a log: {0}")]
    Malformed(&'static str),
    /// The entry is of a kind that this version does not know; its hash still counts.
    #[error("a log entry of an unknown kind")]
    UnknownEntry,
    /// The checkpoint is of another coordinator's log.
    #[error("the checkpoint is of another coordinator's log")]
    WrongLog,
    /// The coordinator did not sign this checkpoint.
    #[error("the checkpoint's signature does not hold")]
    BadSignature,
    /// There is no such entry in a log of this size.
    #[error("a log of {size} entries has none with the index {index}")]
    NotInLog {
        /// The entry's index.
        index: u64,
        /// The log's entries.
        size: u64,
    },
    /// A log cannot be of this size.
    #[error("a log cannot have {0} entries")]
    TooLarge(u64),
    /// The proof does not show that the entry is in the log.
    #[error("the proof does not show that the entry is in the log")]
    BadInclusion,
    /// The later checkpoint has fewer entries: it is an earlier one, or a list was cut.
    #[error("the log shrank from {old} to {new} entries")]
    Shrunk {
        /// Entries of the checkpoint that was seen before.
        old: u64,
        /// Entries of the one after it.
        new: u64,
    },
    /// Two checkpoints of one size have different roots: there are two lists.
    #[error("there are two different logs of {size} entries")]
    Fork {
        /// The entries of both.
        size: u64,
    },
    /// The proof does not show that the later checkpoint extends the earlier one.
    #[error("the proof does not show that the log only grew")]
    BadConsistency,
}
