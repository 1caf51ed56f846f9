//! Checking proofs, as in RFC 9162, 2.1.3.2 and 2.1.4.2.

use super::prove::check_size;
use super::{Checkpoint, LogError, MAX_PROOF_LEN, TreeHash, parent};

/// Checks that the entry whose hash is `leaf` is at `index` in the log of `size` entries under
/// `root`.
pub fn verify_inclusion(
    leaf: &TreeHash,
    index: u64,
    size: u64,
    proof: &[TreeHash],
    root: &TreeHash,
) -> Result<(), LogError> {
    check_size(size)?;
    if index >= size {
        return Err(LogError::NotInLog { index, size });
    }
    if proof.len() > MAX_PROOF_LEN {
        return Err(LogError::BadInclusion);
    }
    let mut path = Path { node: index, last: size - 1 };
    let mut hash = *leaf;
    for sibling in proof {
        hash = match path.step().ok_or(LogError::BadInclusion)? {
            Side::Left => parent(sibling, &hash),
            Side::Right => parent(&hash, sibling),
        };
    }
    if path.last == 0 && hash == *root { Ok(()) } else { Err(LogError::BadInclusion) }
}

/// Checks that the log of `new` begins with all entries of the log of `old`.
///
/// Two checkpoints of one size need no proof, nor does one after a log without entries.
pub fn verify_consistency(
    old: &Checkpoint,
    new: &Checkpoint,
    proof: &[TreeHash],
) -> Result<(), LogError> {
    check_size(new.size)?;
    if old.size > new.size {
        return Err(LogError::Shrunk { old: old.size, new: new.size });
    }
    if old.size == new.size && old.root != new.root {
        return Err(LogError::Fork { size: new.size });
    }
    if [old, new].iter().any(|it| it.size == 0 && it.root != TreeHash::EMPTY) {
        return Err(LogError::BadConsistency);
    }
    if old.size == 0 || old.size == new.size {
        return if proof.is_empty() { Ok(()) } else { Err(LogError::BadConsistency) };
    }
    if proof.len() > MAX_PROOF_LEN {
        return Err(LogError::BadConsistency);
    }
    // The proof starts at the largest complete subtree that ends where the old log does. Its root
    // is not repeated when that is the old log itself.
    let (start, proof) = if old.size.is_power_of_two() {
        (&old.root, proof)
    } else {
        proof.split_first().ok_or(LogError::BadConsistency)?
    };
    let mut path = Path { node: old.size - 1, last: new.size - 1 };
    while path.node & 1 == 1 {
        path.up();
    }
    let (mut old_root, mut new_root) = (*start, *start);
    for sibling in proof {
        match path.step().ok_or(LogError::BadConsistency)? {
            Side::Left => {
                old_root = parent(sibling, &old_root);
                new_root = parent(sibling, &new_root);
            }
            Side::Right => new_root = parent(&new_root, sibling),
        }
    }
    if path.last == 0 && old_root == old.root && new_root == new.root {
        Ok(())
    } else {
        Err(LogError::BadConsistency)
    }
}

/// A way up the tree: a node's number in its row, and that of the row's last one.
struct Path {
    node: u64,
    last: u64,
}

/// Where the sibling of a node is.
enum Side {
    Left,
    Right,
}

impl Path {
    /// Goes up past one sibling; `None` at the root.
    fn step(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let side = if self.node & 1 == 1 || self.node == self.last {
            // The last node of a row that has no sibling is the last of the next row too.
            while self.node & 1 == 0 && self.node != 0 {
                self.up();
            }
            Side::Left
        } else {
            Side::Right
        };
        self.up();
        Some(side)
    }

    fn up(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }
}
