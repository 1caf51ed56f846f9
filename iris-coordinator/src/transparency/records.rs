//! How the log lies in the store.
//!
//! | record | what it holds |
//! |---|---|
//! | `log-head/log` | whose log it is, its size and root, and the number of the last roster |
//! | `log-tile/<level>/<number>` | the hashes of a tile; the one at the edge is replaced as it fills |
//! | `log-entry/<index>` | the bytes of an entry |

use std::ops::Range;

use iris_core::store::Key;
use iris_crypto::PublicIdentity;
use iris_crypto::log::{Tile, TileId, TreeHash};
use iris_protocol::limits::MAX_LOG_ENTRY;
use iris_protocol::text::Blob;
use serde::{Deserialize, Serialize};

/// The end of the log. Every append replaces it, at the version that it was read as, so that two
/// who write to one log conflict and never fork it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) coordinator: PublicIdentity,
    pub(super) size: u64,
    pub(super) root: TreeHash,
    pub(super) rosters: u64,
}

impl Head {
    pub(super) fn key() -> Key {
        Key::new("log-head", "log").expect("a word is a key segment")
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TileRecord {
    pub(super) hashes: Blob<{ 32 * Tile::WIDTH }>,
}

impl TileRecord {
    pub(super) fn new(tile: &Tile) -> Self {
        Self { hashes: tile.encode().try_into().expect("a tile has a bounded number of hashes") }
    }

    pub(super) fn key(id: TileId) -> Key {
        let id = format!("{}/{:014x}", id.level, id.index);
        Key::new("log-tile", id).expect("digits are key segments")
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EntryRecord {
    pub(super) entry: Blob<MAX_LOG_ENTRY>,
}

impl EntryRecord {
    /// The log's size is bounded, so that fourteen digits order every index.
    pub(super) fn key(index: u64) -> Key {
        Key::new("log-entry", format!("{index:014x}")).expect("digits are a key segment")
    }

    pub(super) fn keys(indices: Range<u64>) -> Range<Key> {
        Self::key(indices.start)..Self::key(indices.end)
    }
}
