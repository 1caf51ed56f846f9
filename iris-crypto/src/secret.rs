//! Thirty-two secret bytes.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
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

    /// Derives the secret for `purpose` and `context`: HKDF-SHA256 with `purpose`, a zero byte
    /// and `context` as info. Whoever sees some of them learns nothing of this one or of others.
    pub fn derive(&self, purpose: &str, context: &[u8]) -> Self {
        let mut derived = Self([0; 32]);
        Hkdf::<Sha256>::new(None, &self.0)
            .expand_multi_info(&[purpose.as_bytes(), &[0], context], &mut derived.0)
            .expect("HKDF gives far more than 32 bytes");
        derived
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_secrets_are_hkdf_and_differ_by_purpose_and_context() {
        let secret = Secret::from_bytes([7; 32]);
        let derived = secret.derive("purpose", b"context");
        let mut expected = [0; 32];
        Hkdf::<Sha256>::new(None, &[7; 32]).expand(b"purpose\0context", &mut expected).unwrap();
        assert_eq!(derived.reveal(), &expected);
        for other in [
            secret.derive("purpos", b"context"),
            secret.derive("purpose", b"contex"),
            Secret::from_bytes([8; 32]).derive("purpose", b"context"),
        ] {
            assert_ne!(other.reveal(), derived.reveal());
        }
    }
}
