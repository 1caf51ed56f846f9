//! Where chance comes from: numbers that the caller drew, and what follows from them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// Random bytes that a prompt or a decision follows from; secret until they are opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// Makes a seed of bytes that nobody can guess.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns what can be shown before the seed is, and proves afterwards that it was this one.
    pub fn commitment(&self) -> Commitment {
        Commitment(self.hash(b"iris/canary/commit/v1", 0))
    }

    /// Returns a seed of its own for one use of this one.
    pub(super) fn branch(&self, number: u64) -> Self {
        Self(self.hash(b"iris/verify/branch/v1", number))
    }

    /// Returns a number below `bound` without hashing; zero when `bound` is. Each of the `part`s 0
    /// to 3 gives a number of its own.
    pub(super) fn below(&self, part: usize, bound: u64) -> u64 {
        let bytes = self.0[part * 8..][..8].try_into().expect("the slice has eight bytes");
        scale(u64::from_le_bytes(bytes), bound)
    }

    fn hash(&self, label: &[u8], number: u64) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(label);
        hash.update(self.0);
        hash.update(number.to_le_bytes());
        hash.finalize().into()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// Binds to a seed without showing it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commitment([u8; 32]);

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commitment({self})")
    }
}

/// Numbers that follow from a seed, one after the other.
///
/// They are hashes, so a prompt tells nothing about its seed or about other prompts.
pub(super) struct Draws {
    seed: Seed,
    drawn: u64,
}

impl Draws {
    pub(super) const fn new(seed: Seed) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Returns a number below `bound`, or zero when `bound` is.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        let bytes = self.seed.hash(b"iris/verify/draw/v1", self.drawn);
        scale(u64::from_le_bytes(bytes[..8].try_into().expect("a hash has 32 bytes")), bound)
    }

    /// Returns one of `items`, of which there must be some.
    pub(super) fn one<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
        &items[usize::try_from(self.below(count)).expect("it is below a length")]
    }
}

fn scale(number: u64, bound: u64) -> u64 {
    u64::try_from((u128::from(number) * u128::from(bound)) >> 64).expect("it is below the bound")
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || text.bytes().any(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (number, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * number..][..2], 16).ok()?;
    }
    Some(bytes)
}

macro_rules! text_form {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&Commitment(self.0))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                hex(&text).map(Self).ok_or_else(|| {
                    de::Error::custom("a seed or commitment is 64 characters of 0-9 and a-f")
                })
            }
        }
    )*};
}

text_form!(Seed, Commitment);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_survive_their_text_and_do_not_print() {
        let seed = Seed::from_bytes([0xa7; 32]);
        let json = serde_json::to_string(&seed).unwrap();
        assert_eq!(serde_json::from_str::<Seed>(&json).unwrap(), seed);
        assert!(serde_json::from_str::<Seed>(&json.to_uppercase()).is_err());
        assert!(serde_json::from_str::<Seed>("\"é\"").is_err());
        assert_eq!(format!("{seed:?}"), "Seed(..)");
    }

    #[test]
    fn other_seeds_have_other_commitments() {
        let (one, two) = (Seed::from_bytes([1; 32]), Seed::from_bytes([2; 32]));
        assert_eq!(one.commitment(), one.commitment());
        assert_ne!(one.commitment(), two.commitment());
        assert_ne!(one.branch(1), one.branch(2));
    }

    #[test]
    fn draws_reach_every_number_below_the_bound() {
        let mut draws = Draws::new(Seed::from_bytes([3; 32]));
        let mut seen = [0; 7];
        for _ in 0..700 {
            seen[usize::try_from(draws.below(7)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| (60..150).contains(count)), "{seen:?}");
        assert_eq!(draws.below(0), 0);
    }
}
