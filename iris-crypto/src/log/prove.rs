use std::collections::BTreeSet;
use std::ops::Range;

use super::{LogError, MAX_SIZE, Tile, TileError, TileId, TreeHash, complete_root, parent};

/// How a proof is computed: of which tiles, and how of those.
///
/// Any version of a tile serves that was written when the log had the size in question, or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofPlan {
    /// The subtrees whose roots are the proof, in its order.
    subtrees: Vec<Range<u64>>,
}

impl ProofPlan {
    /// Plans the proof that the entry at `index` is in a log of `size` entries.
    pub fn inclusion(index: u64, size: u64) -> Result<Self, LogError> {
        check_size(size)?;
        if index >= size {
            return Err(LogError::NotInLog { index, size });
        }
        let (mut subtrees, mut tree) = (Vec::new(), 0..size);
        while tree.end - tree.start > 1 {
            let middle = middle(&tree);
            if index < middle {
                subtrees.push(middle..tree.end);
                tree.end = middle;
            } else {
                subtrees.push(tree.start..middle);
                tree.start = middle;
            }
        }
        subtrees.reverse();
        Ok(Self { subtrees })
    }

    /// Plans the proof that a log of `new` entries extends the one of its first `old`.
    pub fn consistency(old: u64, new: u64) -> Result<Self, LogError> {
        check_size(new)?;
        if old > new {
            return Err(LogError::Shrunk { old, new });
        }
        let (mut subtrees, mut tree) = (Vec::new(), 0..new);
        if old == 0 || old == new {
            return Ok(Self { subtrees });
        }
        while tree.end > old {
            let middle = middle(&tree);
            if old <= middle {
                subtrees.push(middle..tree.end);
                tree.end = middle;
            } else {
                subtrees.push(tree.start..middle);
                tree.start = middle;
            }
        }
        // Who has the old root knows this subtree's, if it is the whole old tree.
        if tree.start > 0 {
            subtrees.push(tree);
        }
        subtrees.reverse();
        Ok(Self { subtrees })
    }

    /// Plans the root of a log's first `size` entries, as a list of the one hash.
    pub fn root(size: u64) -> Result<Self, LogError> {
        check_size(size)?;
        Ok(Self { subtrees: (size > 0).then_some(0..size).into_iter().collect() })
    }

    /// Returns the tiles that the proof is computed from: at most two of each level.
    pub fn tiles(&self) -> BTreeSet<TileId> {
        self.subtrees.iter().cloned().flat_map(complete_parts).map(|part| part.tile).collect()
    }

    /// Computes the proof; `tile` returns the tiles that were [asked for](Self::tiles).
    pub fn compute<'a>(
        &self,
        tile: impl Fn(TileId) -> Option<&'a Tile>,
    ) -> Result<Vec<TreeHash>, TileError> {
        let part = |part: Part| {
            let hashes = tile(part.tile).ok_or(TileError)?.hashes();
            hashes.get(part.hashes).map(complete_root).ok_or(TileError)
        };
        let subtree = |subtree: &Range<u64>| {
            let mut parts = Vec::new();
            for each in complete_parts(subtree.clone()) {
                parts.push(part(each)?);
            }
            let root = parts.into_iter().rev().reduce(|right, left| parent(&left, &right));
            root.ok_or(TileError)
        };
        self.subtrees.iter().map(subtree).collect()
    }
}

/// A complete subtree: the tile that its root is computed from, and the hashes in it.
struct Part {
    tile: TileId,
    hashes: Range<usize>,
}

/// Cuts a subtree of a log's tree into complete ones, the largest and leftmost first.
fn complete_parts(subtree: Range<u64>) -> impl Iterator<Item = Part> {
    let Range { mut start, end } = subtree;
    std::iter::from_fn(move || {
        let log2 = (end - start).checked_ilog2()?;
        let level = u8::try_from(log2 / 8).expect("a u64 has eight bytes");
        let row = start >> (8 * u32::from(level));
        let first = usize::from(row.to_le_bytes()[0]);
        start += 1 << log2;
        Some(Part {
            tile: TileId { level, index: row >> 8 },
            hashes: first..first + (1 << (log2 % 8)),
        })
    })
}

/// Returns where RFC 6962 divides a tree of at least two entries: behind the largest complete
/// subtree that leaves something over.
fn middle(tree: &Range<u64>) -> u64 {
    tree.start + (1 << (tree.end - tree.start - 1).ilog2())
}

pub(super) const fn check_size(size: u64) -> Result<(), LogError> {
    if size > MAX_SIZE { Err(LogError::TooLarge(size)) } else { Ok(()) }
}
