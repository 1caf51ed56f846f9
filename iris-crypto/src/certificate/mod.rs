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
use std::str::FromStr;
use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use iris_core::{NodeId, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::identity::{Identity, PublicIdentity, Signature};
use crate::sealing_key::SealingPublicKey;

mod encoding;
mod origin;
#[cfg(test)]
mod tests;

pub use origin::{Origin, OriginError};

/// The longest lifetime of a certificate.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The lifetime that a certificate is given where nothing else is asked for.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(6 * 3600);

/// How far two clocks may differ.
pub const MAX_SKEW: Duration = Duration::from_secs(300);

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

/// A certificate whose claims nobody has checked yet. The text is unpadded base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedCertificate {
    claims: Claims,
    /// The signed bytes and the signature.
    encoded: Vec<u8>,
}

impl SignedCertificate {
    /// Signs for `sealing_key` from `now` on, for [`DEFAULT_LIFETIME`], as a certificate without
    /// extensions.
    ///
    /// `serial` must be higher than that of every earlier certificate of `identity`; the time in
    /// milliseconds will do.
    pub fn issue(
        identity: &Identity,
        role: Role,
        sealing_key: SealingPublicKey,
        origin: &Origin,
        now: Timestamp,
        serial: u64,
    ) -> Self {
        let now = Timestamp::from_millis(now.as_secs().saturating_mul(1000));
        let claims = Claims {
            role,
            identity: identity.public(),
            sealing_key,
            not_before: now,
            not_after: now.saturating_add(DEFAULT_LIFETIME),
            serial,
            origin: origin.clone(),
            extensions: Vec::new(),
        };
        Self::sign(identity, claims)
    }

    /// Signs `claims` as they are; the identity in them is replaced by the signer's.
    ///
    /// # Panics
    ///
    /// When the extensions are longer than [`MAX_EXTENSIONS_LEN`].
    pub fn sign(identity: &Identity, claims: Claims) -> Self {
        assert!(
            claims.extensions.len() <= MAX_EXTENSIONS_LEN,
            "extensions are bounded"
        );
        let claims = encoding::whole_seconds(Claims {
            identity: identity.public(),
            ..claims
        });
        let mut encoded = encoding::encode(&claims);
        let signature = identity.sign(&encoded);
        encoded.extend_from_slice(signature.as_bytes());
        Self { claims, encoded }
    }

    /// Reads a certificate that a peer sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, CertificateError> {
        let claims = encoding::decode(bytes)?;
        Ok(Self {
            claims,
            encoded: bytes.to_vec(),
        })
    }

    /// Returns the bytes to send.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Returns what the certificate says, which may be a lie: to look up what is known of the
    /// identity before [verifying](Self::verify).
    pub const fn unverified_claims(&self) -> &Claims {
        &self.claims
    }

    /// Returns the hash that other messages refer to this certificate by.
    pub fn hash(&self) -> CertificateHash {
        CertificateHash(Sha256::digest(self.signed_part()).into())
    }

    /// Checks everything that can be checked.
    ///
    /// The clocks of signer and verifier may differ by [`MAX_SKEW`].
    pub fn verify(
        &self,
        expected: &Expectation<'_>,
    ) -> Result<VerifiedCertificate, CertificateError> {
        self.verify_signature()?;
        let claims = &self.claims;
        if claims.role != expected.role {
            return Err(CertificateError::WrongRole {
                expected: expected.role,
                found: claims.role,
            });
        }
        if claims.origin != *expected.origin {
            return Err(CertificateError::WrongOrigin {
                expected: expected.origin.clone(),
                found: claims.origin.clone(),
            });
        }
        self.verify_times(expected.now)?;
        if claims.serial < expected.min_serial {
            return Err(CertificateError::OldSerial {
                serial: claims.serial,
                minimum: expected.min_serial,
            });
        }
        if claims.sealing_key.is_low_order() {
            return Err(CertificateError::WeakSealingKey);
        }
        Ok(VerifiedCertificate {
            certificate: self.clone(),
        })
    }

    fn verify_signature(&self) -> Result<(), CertificateError> {
        let (signed, signature) = self.parts();
        self.claims
            .identity
            .verify_strict(signed, &Signature::from_bytes(*signature))
            .map_err(|_| CertificateError::BadSignature)
    }

    fn verify_times(&self, now: Timestamp) -> Result<(), CertificateError> {
        let Claims {
            not_before,
            not_after,
            ..
        } = self.claims;
        if not_after <= not_before || not_after.saturating_since(not_before) > MAX_LIFETIME {
            return Err(CertificateError::BadLifetime);
        }
        if not_before > now.saturating_add(MAX_SKEW) {
            return Err(CertificateError::NotYetValid { not_before, now });
        }
        if now > not_after.saturating_add(MAX_SKEW) {
            return Err(CertificateError::Expired { not_after, now });
        }
        Ok(())
    }

    fn signed_part(&self) -> &[u8] {
        self.parts().0
    }

    fn parts(&self) -> (&[u8], &[u8; 64]) {
        self.encoded
            .split_last_chunk()
            .expect("a certificate ends with its signature")
    }
}

impl FromStr for SignedCertificate {
    type Err = CertificateError;

    fn from_str(text: &str) -> Result<Self, CertificateError> {
        if text.len() > BASE64URL_NOPAD.encode_len(encoding::MAX_LEN) {
            return Err(CertificateError::Malformed("too long"));
        }
        let bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| CertificateError::Malformed("not unpadded base64url"))?;
        Self::decode(&bytes)
    }
}

impl fmt::Display for SignedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64URL_NOPAD.encode(&self.encoded))
    }
}

impl fmt::Debug for SignedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignedCertificate")
            .field(&self.claims)
            .finish()
    }
}

impl Serialize for SignedCertificate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SignedCertificate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A certificate that passed every check of [`SignedCertificate::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCertificate {
    certificate: SignedCertificate,
}

impl VerifiedCertificate {
    /// Returns what the certificate says.
    pub const fn claims(&self) -> &Claims {
        &self.certificate.claims
    }

    /// Returns who signed it.
    pub const fn identity(&self) -> &PublicIdentity {
        &self.certificate.claims.identity
    }

    /// Returns the id of the node that signed it.
    pub fn node_id(&self) -> NodeId {
        self.identity().node_id()
    }

    /// Returns the key to seal to.
    pub const fn sealing_key(&self) -> SealingPublicKey {
        self.certificate.claims.sealing_key
    }

    /// Returns the certificate, to pass it on.
    pub const fn certificate(&self) -> &SignedCertificate {
        &self.certificate
    }
}
