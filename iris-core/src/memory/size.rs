//! Amounts of memory, exact or between bounds.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount of memory, in bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(u64);

impl ByteSize {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Makes an amount of bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Makes an amount of 2^20 bytes each.
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// Makes an amount of 2^30 bytes each.
    pub const fn gib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 30))
    }

    /// Returns the bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the sum, or the largest amount where that is larger.
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Returns what is left without `other`; `None` where that is more.
    pub const fn minus(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(left) => Some(Self(left)),
            None => None,
        }
    }

    /// Returns `number / of` of it, rounded up; all of it where `of` is 0.
    pub fn part(self, number: u64, of: u64) -> Self {
        let part = u128::from(self.0) * u128::from(number);
        Self(u64::try_from(part.div_ceil(u128::from(of.max(1)))).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for ByteSize {
    /// Writes two digits after the point, rounded down.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shift, unit) = if self.0 >= 1 << 30 { (30, "GiB") } else { (20, "MiB") };
        let hundredths = (u128::from(self.0) * 100) >> shift;
        write!(f, "{}.{:02} {unit}", hundredths / 100, hundredths % 100)
    }
}

/// What an amount of memory is at least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// It is no less.
    pub least: ByteSize,
    /// It is no more.
    pub most: ByteSize,
}

impl Span {
    /// An amount that is known.
    pub const fn exact(size: ByteSize) -> Self {
        Self { least: size, most: size }
    }

    /// Returns whether the amount is known and no estimate.
    pub fn is_exact(self) -> bool {
        self.least == self.most
    }

    /// Returns whether `size` lies within.
    pub fn contains(self, size: ByteSize) -> bool {
        (self.least..=self.most).contains(&size)
    }
}
