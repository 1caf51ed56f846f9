//! What is sealed to: X25519 keys that live in memory only.

use std::fmt;

use data_encoding::HEXLOWER;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::random::random_bytes;

/// The key pair that others seal to. Never written anywhere, erased when dropped.
///
/// Whoever holds it opens everything that was sealed to it, so it is replaced every few hours; its
/// end is the end of that traffic's secrecy risk. It is not convertible from or to an identity.
pub struct SealingKey {
    secret: StaticSecret,
    public: SealingPublicKey,
}

impl SealingKey {
    /// Draws a new key.
    pub fn generate() -> Self {
        Self::from_secret(StaticSecret::from(random_bytes::<32>()))
    }

    pub(crate) fn from_secret(secret: StaticSecret) -> Self {
        let public = SealingPublicKey(PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    /// Returns the half that goes into a certificate.
    pub const fn public(&self) -> SealingPublicKey {
        self.public
    }

    /// Agrees with the holder of `peer`; `None` where the result would not depend on this key.
    pub(crate) fn agree(&self, peer: &[u8; 32]) -> Option<x25519_dalek::SharedSecret> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*peer));
        shared.was_contributory().then_some(shared)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({:?})", self.public)
    }
}

/// The public half of a [`SealingKey`].
///
/// Any 32 bytes; sealing to a key of small order is refused where it is tried. A key from the
/// network is worth something only out of a [`VerifiedCertificate`](crate::VerifiedCertificate).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SealingPublicKey([u8; 32]);

impl SealingPublicKey {
    /// Takes over the bytes of a public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the key's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Tells whether every agreement with this key gives zero, whatever the other key.
    pub(crate) fn is_low_order(&self) -> bool {
        SealingKey::from_secret(StaticSecret::from([0x55; 32])).agree(&self.0).is_none()
    }
}

impl fmt::Debug for SealingPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingPublicKey({})", HEXLOWER.encode(&self.0))
    }
}
