//! Which requests a node has seen.

use std::collections::{BTreeSet, HashSet};

use iris_core::Timestamp;

/// Remembers the requests of which another copy could still be opened.
///
/// A request is known by its encapsulated key, and kept until its time is over by any clock. Only
/// requests that opened belong here, so that nobody can fill it with noise.
#[derive(Debug, Default)]
pub struct Replays {
    seen: HashSet<[u8; 32]>,
    by_end: BTreeSet<(Timestamp, [u8; 32])>,
}

/// Why a request is not taken for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It was seen before.
    #[error("the request was seen before")]
    Seen,
    /// So many are remembered that no further one can be.
    #[error("too many requests are remembered")]
    Full,
}

impl Replays {
    /// The most requests that are remembered: what 100 requests a second come to.
    pub const CAPACITY: usize = 1 << 17;

    /// Makes a memory that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a request that is good until `until`, once.
    pub fn insert(
        &mut self,
        encapsulated: [u8; 32],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), ReplayError> {
        while let Some(first) = self.by_end.first().copied().filter(|(end, _)| *end < now) {
            self.by_end.remove(&first);
            self.seen.remove(&first.1);
        }
        if self.seen.contains(&encapsulated) {
            return Err(ReplayError::Seen);
        }
        if self.seen.len() >= Self::CAPACITY {
            return Err(ReplayError::Full);
        }
        self.seen.insert(encapsulated);
        self.by_end.insert((until, encapsulated));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    #[test]
    fn request_is_taken_once_until_its_time_is_over() {
        let mut replays = Replays::new();
        assert_eq!(replays.insert([1; 32], at(10), at(0)), Ok(()));
        assert_eq!(replays.insert([1; 32], at(10), at(10)), Err(ReplayError::Seen));
        assert_eq!(replays.insert([2; 32], at(30), at(11)), Ok(()));
        assert_eq!(replays.seen.len(), 1);
        assert_eq!(replays.by_end.len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_forgets_nothing_to_make_room() {
        let mut replays = Replays::new();
        let key = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(n as u64).to_be_bytes());
            key
        };
        for n in 0..Replays::CAPACITY {
            assert_eq!(replays.insert(key(n), at(10), at(0)), Ok(()));
        }
        assert_eq!(replays.insert([9; 32], at(10), at(0)), Err(ReplayError::Full));
        assert_eq!(replays.insert(key(0), at(10), at(0)), Err(ReplayError::Seen));
        assert_eq!(replays.insert([9; 32], at(30), at(11)), Ok(()));
    }
}
