use std::fmt;

use super::{LogError, MAX_SIZE, Tile, TileError, TileId, TreeHash, complete_root, parent};

/// The right edge of a log's tree: all that appending and computing the root need.
///
/// Takes 8 KiB for each factor of 256 in the log's size.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    /// The hashes of the tile at the edge of each level, always fewer than a tile's width.
    edge: Vec<Vec<TreeHash>>,
}

impl Frontier {
    /// Starts a log without entries.
    pub const fn new() -> Self {
        Self { size: 0, edge: Vec::new() }
    }

    /// Takes up a log of `size` entries, whose tiles `tile` returns; it is asked for
    /// [`TileId::edge`] only.
    ///
    /// Compare the [root](Self::root) with one that is known: the tiles are believed.
    pub fn restore(
        size: u64,
        mut tile: impl FnMut(TileId) -> Option<Tile>,
    ) -> Result<Self, TileError> {
        if size > MAX_SIZE {
            return Err(TileError);
        }
        let mut frontier = Self { size, edge: Vec::new() };
        for (id, width) in TileId::edge(size) {
            let mut hashes = tile(id).ok_or(TileError)?.into_hashes();
            if hashes.len() < width {
                return Err(TileError);
            }
            hashes.truncate(width);
            frontier.level(id.level.into()).append(&mut hashes);
        }
        Ok(frontier)
    }

    /// Returns how many entries the log has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Returns the root over all entries.
    pub fn root(&self) -> TreeHash {
        // The smaller subtrees are on the right; each is the right child of what lies beside it.
        let mut root: Option<TreeHash> = None;
        for hashes in &self.edge {
            let mut hashes = hashes.as_slice();
            while !hashes.is_empty() {
                let smallest = 1 << hashes.len().trailing_zeros();
                let (rest, subtree) = hashes.split_at(hashes.len() - smallest);
                let left = complete_root(subtree);
                root = Some(root.map_or(left, |right| parent(&left, &right)));
                hashes = rest;
            }
        }
        root.unwrap_or(TreeHash::EMPTY)
    }

    /// Appends an entry, by its leaf hash.
    ///
    /// For whoever wants to know the root and keeps no tiles.
    pub fn append(&mut self, leaf: TreeHash) -> Result<(), LogError> {
        self.push(leaf, |_, _| {})
    }

    /// Appends entries, by their leaf hashes, and returns every tile that is new or fuller now.
    ///
    /// Refuses all of them when the log would become too large.
    pub fn append_all(&mut self, leaves: &[TreeHash]) -> Result<Vec<(TileId, Tile)>, LogError> {
        let size = self.size.saturating_add(leaves.len() as u64);
        if size > MAX_SIZE {
            return Err(LogError::TooLarge(size));
        }
        let before = self.size;
        let mut tiles = Vec::new();
        for leaf in leaves {
            self.push(*leaf, |id, hashes| tiles.push((id, Tile::new(hashes))))?;
        }
        let row = |size: u64, level: u8| size >> (8 * u32::from(level));
        let fuller =
            TileId::edge(size).filter(|(id, _)| row(before, id.level) < row(size, id.level));
        tiles.extend(fuller.map(|(id, _)| (id, Tile::new(self.level(id.level.into()).clone()))));
        Ok(tiles)
    }

    fn push(
        &mut self,
        leaf: TreeHash,
        mut full: impl FnMut(TileId, Vec<TreeHash>),
    ) -> Result<(), LogError> {
        if self.size >= MAX_SIZE {
            return Err(LogError::TooLarge(self.size.saturating_add(1)));
        }
        let (mut hash, mut row) = (leaf, self.size);
        for level in 0.. {
            let hashes = self.level(level.into());
            hashes.push(hash);
            if hashes.len() < Tile::WIDTH {
                break;
            }
            hash = complete_root(hashes);
            row >>= 8;
            full(TileId { level, index: row }, std::mem::take(hashes));
        }
        self.size += 1;
        Ok(())
    }

    fn level(&mut self, level: usize) -> &mut Vec<TreeHash> {
        if self.edge.len() <= level {
            self.edge.resize_with(level + 1, Vec::new);
        }
        &mut self.edge[level]
    }
}

impl fmt::Debug for Frontier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontier").field("size", &self.size).finish_non_exhaustive()
    }
}
