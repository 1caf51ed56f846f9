//! Thirty-two secret bytes.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::random::random_bytes;

/// A secret of 32 bytes: a seed, a pepper or a symmetric key. Erased when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Draws a new secret.
    pub fn generate() -> Self {
        Self(random_bytes())
    }

    /// Takes over bytes that are already secret.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Shows the bytes.
    pub const fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
