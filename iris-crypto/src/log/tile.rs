use std::fmt;

use super::TreeHash;

/// Names a tile: `level` and number, counted from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// How far up: the hashes of level `l` are roots of `256^l` entries each. At most 6.
    pub level: u8,
    /// The place in its level.
    pub index: u64,
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.level, self.index)
    }
}

impl TileId {
    /// Returns the tiles at the right edge of a log of `size` entries that are neither empty nor
    /// full, and how many hashes they have: what a [`Frontier`](super::Frontier) consists of.
    pub fn edge(size: u64) -> impl Iterator<Item = (Self, usize)> {
        (0..)
            .map(move |level| (level, size >> (8 * u32::from(level))))
            .take_while(|row| row.1 > 0)
            .filter_map(|(level, row)| {
                let width = usize::from(row.to_le_bytes()[0]);
                (width > 0).then_some((Self { level, index: row >> 8 }, width))
            })
    }
}

/// The hashes of one tile, from the left: 1 to 256.
///
/// The tile at the right edge is written anew as it fills, and never otherwise: a fuller one
/// begins with the hashes of a less full one and serves in its place.
#[derive(Clone, PartialEq, Eq)]
pub struct Tile(Vec<TreeHash>);

/// Says that bytes are no [`Tile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tile is 1 to 256 hashes of 32 bytes")]
pub struct TileError;

impl Tile {
    /// The most hashes of a tile.
    pub const WIDTH: usize = 256;

    pub(super) fn new(hashes: Vec<TreeHash>) -> Self {
        debug_assert!((1..=Self::WIDTH).contains(&hashes.len()), "the size of a tile");
        Self(hashes)
    }

    pub(super) fn into_hashes(self) -> Vec<TreeHash> {
        self.0
    }

    /// Reads the bytes of a tile.
    pub fn decode(bytes: &[u8]) -> Result<Self, TileError> {
        let (hashes, rest) = bytes.as_chunks();
        if !rest.is_empty() || !(1..=Self::WIDTH).contains(&hashes.len()) {
            return Err(TileError);
        }
        Ok(Self(hashes.iter().copied().map(TreeHash::from_bytes).collect()))
    }

    /// Returns the bytes to keep: the hashes, one after the other.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|hash| hash.0).collect()
    }

    /// Returns the hashes.
    pub fn hashes(&self) -> &[TreeHash] {
        &self.0
    }
}

impl fmt::Debug for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tile({} hashes)", self.0.len())
    }
}
