//! How an identity vouches for its sealing key.
//!
//! A certificate says: this identity, in this role, can be sealed to with this key, between these
//! two moments, in the network of this coordinator. It is decoded into a [`SignedCertificate`],
//! which is good for nothing but passing on and [verifying](SignedCertificate::verify); only a
//! [`VerifiedCertificate`] hands out the sealing key.
//!
//! The signed bytes, integers big-endian and `lp` a `u16` length with as many bytes, are
//! `"iris/keycert/v1\0" | role u8 | identity[32] | kem u16 | kdf u16 | aead u16 | sealing key[32] |
//! not before u64 s | not after u64 s | serial u64 | lp(origin) | lp(extensions)`, and the 64 bytes
//! of the signature follow. There is one encoding; a trailing byte is an error. Extensions are
//! signed and otherwise ignored by this version.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use iris_core::Timestamp;

use crate::identity::PublicIdentity;
use crate::sealing_key::SealingPublicKey;

mod encoding;
mod origin;
mod signed;
#[cfg(test)]
mod tests;

pub use origin::{Origin, OriginError};
pub use signed::{SignedCertificate, VerifiedCertificate};

/// The longest lifetime of a certificate.
pub const MAX_LIFETIME: Duration = Duration::from_hours(24);

/// The lifetime that a certificate is given where nothing else is asked for.
pub const DEFAULT_LIFETIME: Duration = Duration::from_hours(6);

/// How far two clocks may differ.
pub const MAX_SKEW: Duration = Duration::from_mins(5);

/// The most bytes of extensions.
pub const MAX_EXTENSIONS_LEN: usize = 1024;

/// What the certified key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Prompts are sealed to it and it computes answers.
    Node,
    /// It relays, divides and keeps the books.
    Coordinator,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// What the key is used for.
    pub role: Role,
    /// Who signs for it.
    pub identity: PublicIdentity,
    /// The key.
    pub sealing_key: SealingPublicKey,
    /// When it begins to hold; whole seconds.
    pub not_before: Timestamp,
    /// When it ends; whole seconds, at most [`MAX_LIFETIME`] later.
    pub not_after: Timestamp,
    /// Grows with every certificate of an identity.
    pub serial: u64,
    /// The coordinator in whose network it holds.
    pub origin: Origin,
    /// Reserved for evidence about the machine; at most [`MAX_EXTENSIONS_LEN`] bytes.
    pub extensions: Vec<u8>,
}

/// What a verifier demands of a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// The role that the key is going to be used in.
    pub role: Role,
    /// The verifier's time.
    pub now: Timestamp,
    /// The highest serial seen of this identity before, or 0.
    pub min_serial: u64,
    /// The coordinator in whose network the verifier is.
    pub origin: &'a Origin,
}

/// Why a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The bytes or the text are not a certificate of this version.
    #[error("not a key certificate: {0}")]
    Malformed(&'static str),
    /// The key is meant for another algorithm; the peer is newer or older than this program.
    #[error("the certificate's suite {kem:#06x}/{kdf:#06x}/{aead:#06x} is not supported")]
    UnknownSuite {
        /// The HPKE number of its key encapsulation.
        kem: u16,
        /// The HPKE number of its key derivation.
        kdf: u16,
        /// The HPKE number of its cipher.
        aead: u16,
    },
    /// The identity did not sign this.
    #[error("the certificate's signature does not hold")]
    BadSignature,
    /// The key was certified for something else.
    #[error("the certificate is for the role {found:?}, not {expected:?}")]
    WrongRole {
        /// The role demanded.
        expected: Role,
        /// The role certified.
        found: Role,
    },
    /// The key belongs to another coordinator's network.
    #[error("the certificate is for {found}, not {expected}")]
    WrongOrigin {
        /// The coordinator demanded.
        expected: Origin,
        /// The coordinator certified.
        found: Origin,
    },
    /// It ends before it begins, or lasts too long to limit the harm of a stolen key.
    #[error("the certificate must last between a second and {} hours", MAX_LIFETIME.as_secs() / 3600)]
    BadLifetime,
    /// It begins in the future; one of the two clocks may be wrong.
    #[error("the certificate holds only from {not_before:?}, and it is {now:?}: check the clocks")]
    NotYetValid {
        /// When it begins to hold.
        not_before: Timestamp,
        /// The verifier's time.
        now: Timestamp,
    },
    /// It has ended; ask for the current one, or check the clocks.
    #[error("the certificate ended at {not_after:?}, and it is {now:?}")]
    Expired {
        /// When it ended.
        not_after: Timestamp,
        /// The verifier's time.
        now: Timestamp,
    },
    /// A newer certificate of this identity was seen before; somebody may be replaying.
    #[error("the certificate's serial {serial} is older than {minimum}, which was seen before")]
    OldSerial {
        /// The certificate's serial.
        serial: u64,
        /// The highest serial seen.
        minimum: u64,
    },
    /// Everybody could open what is sealed to this key.
    #[error("the certificate's sealing key is of small order")]
    WeakSealingKey,
}

/// The SHA-256 of what a certificate says, without the signature. The text is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateHash([u8; 32]);

impl CertificateHash {
    /// Takes over the bytes of a hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the hash's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateHash({self})")
    }
}
