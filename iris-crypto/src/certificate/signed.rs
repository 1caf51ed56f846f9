//! Certificates before and after their verification.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use iris_core::{NodeId, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use super::{
    CertificateError, CertificateHash, Claims, DEFAULT_LIFETIME, Expectation, MAX_EXTENSIONS_LEN,
    MAX_LIFETIME, MAX_SKEW, Origin, Role, encoding,
};
use crate::identity::{Identity, PublicIdentity, Signature};
use crate::sealing_key::SealingPublicKey;

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
        assert!(claims.extensions.len() <= MAX_EXTENSIONS_LEN, "extensions are bounded");
        let claims = encoding::whole_seconds(Claims { identity: identity.public(), ..claims });
        let mut encoded = encoding::encode(&claims);
        let signature = identity.sign(&encoded);
        encoded.extend_from_slice(signature.as_bytes());
        Self { claims, encoded }
    }

    /// Reads a certificate that a peer sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, CertificateError> {
        let claims = encoding::decode(bytes)?;
        Ok(Self { claims, encoded: bytes.to_vec() })
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
        Ok(VerifiedCertificate { certificate: self.clone() })
    }

    fn verify_signature(&self) -> Result<(), CertificateError> {
        let (signed, signature) = self.parts();
        self.claims
            .identity
            .verify_strict(signed, &Signature::from_bytes(*signature))
            .map_err(|_| CertificateError::BadSignature)
    }

    fn verify_times(&self, now: Timestamp) -> Result<(), CertificateError> {
        let Claims { not_before, not_after, .. } = self.claims;
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

    pub(super) fn signed_part(&self) -> &[u8] {
        self.parts().0
    }

    pub(super) fn parts(&self) -> (&[u8], &[u8; 64]) {
        self.encoded.split_last_chunk().expect("a certificate ends with its signature")
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
        f.debug_tuple("SignedCertificate").field(&self.claims).finish()
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
