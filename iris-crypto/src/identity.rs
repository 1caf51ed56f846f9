//! Who signs: Ed25519 identities and their public halves.
//!
//! Signatures are checked strictly: a key of small order and a second encoding of a key or a
//! signature are refused. Every message that is signed begins with its own purpose, such as
//! `iris/hello/v1`, so a signature for one never serves as another.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use iris_core::NodeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::secret::Secret;

/// The key pair that a node or a coordinator is known by.
///
/// Lives in a file ([`Identity::load_or_create`]) and signs; nothing is ever sealed to it.
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// Draws a new identity.
    pub fn generate() -> Self {
        Self::from_seed(&Secret::generate())
    }

    /// Makes the identity that belongs to `seed`, always the same one.
    pub fn from_seed(seed: &Secret) -> Self {
        Self { key: SigningKey::from_bytes(seed.reveal()) }
    }

    /// Returns the half that everybody may see.
    pub fn public(&self) -> PublicIdentity {
        PublicIdentity(self.key.verifying_key().to_bytes())
    }

    /// Returns the id of the node that holds this identity.
    pub fn node_id(&self) -> NodeId {
        self.public().node_id()
    }

    /// Signs `message`, which must begin with a purpose that no other kind of message begins with.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.key.sign(message).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public())
    }
}

/// The public half of an [`Identity`]: a point of the curve, not of small order.
///
/// The text is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicIdentity([u8; 32]);

/// Why bytes or a text are no public identity or no signature, or a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The bytes or the text are not a usable Ed25519 public key.
    #[error("not a public identity: expected 64 hexadecimal digits of an Ed25519 public key")]
    BadKey,
    /// The text is not a signature.
    #[error("not a signature: expected 64 bytes in unpadded base64url")]
    BadSignatureText,
    /// The signature was not made by this identity for this message.
    #[error("the signature does not belong to this identity and message")]
    BadSignature,
}

impl PublicIdentity {
    /// Takes over a public key that a peer sent.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, IdentityError> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| IdentityError::BadKey)?;
        // A second encoding of the same point would be a second id of the same key.
        let canonical = key.to_edwards().compress().to_bytes() == bytes;
        if key.is_weak() || !canonical {
            return Err(IdentityError::BadKey);
        }
        Ok(Self(bytes))
    }

    /// Returns the key's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the id of the node that holds this identity: the start of a hash of the key, so
    /// that nobody can put another key behind the id.
    pub fn node_id(&self) -> NodeId {
        let hash = Sha256::new().chain_update(b"iris/node-id/v1").chain_update(self.0).finalize();
        let mut text = data_encoding::BASE32_NOPAD.encode(&hash);
        text.make_ascii_lowercase();
        text[..26].parse().expect("26 characters of base32 are a node id")
    }

    /// Checks that this identity signed `message`.
    pub fn verify_strict(
        &self,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), IdentityError> {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(message, &signature))
            .map_err(|_| IdentityError::BadSignature)
    }
}

impl FromStr for PublicIdentity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        decode_exact(&HEXLOWER, text).ok_or(IdentityError::BadKey).and_then(Self::from_bytes)
    }
}

impl fmt::Display for PublicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

/// An Ed25519 signature. The text is unpadded base64url.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Takes over the bytes of a signature, unchecked until it is verified.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Returns the signature's 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl FromStr for Signature {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        decode_exact(&BASE64URL_NOPAD, text).map(Self).ok_or(IdentityError::BadSignatureText)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64URL_NOPAD.encode(&self.0))
    }
}

/// Decodes a text of exactly `N` bytes without allocating for a longer one.
pub(crate) fn decode_exact<const N: usize>(
    encoding: &data_encoding::Encoding,
    text: &str,
) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != encoding.encode_len(N) {
        return None;
    }
    let written = encoding.decode_mut(text.as_bytes(), &mut bytes).ok()?;
    (written == N).then_some(bytes)
}

macro_rules! text_form {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
pub(crate) use text_form;

text_form!(PublicIdentity, Signature);

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::from_seed(&Secret::from_bytes([7; 32]))
    }

    #[test]
    fn node_id_is_the_hash_of_the_key() {
        let hash =
            Sha256::digest([&b"iris/node-id/v1"[..], identity().public().as_bytes()].concat());
        let text = data_encoding::BASE32_NOPAD.encode(&hash).to_lowercase();
        assert_eq!(identity().node_id().as_str(), &text[..26]);
        assert_ne!(Identity::generate().node_id(), identity().node_id());
    }

    #[test]
    fn signature_belongs_to_its_message_and_signer() {
        let signature = identity().sign(b"message");
        assert_eq!(identity().public().verify_strict(b"message", &signature), Ok(()));
        for (signer, message) in
            [(identity(), &b"messagf"[..]), (Identity::generate(), &b"message"[..])]
        {
            assert_eq!(
                signer.public().verify_strict(message, &signature),
                Err(IdentityError::BadSignature)
            );
        }
    }

    #[test]
    fn every_bit_of_a_signature_counts() {
        let signature = identity().sign(b"message");
        for bit in 0..512 {
            let mut bytes = *signature.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let altered = Signature::from_bytes(bytes);
            assert!(identity().public().verify_strict(b"message", &altered).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn keys_of_small_order_and_second_encodings_are_refused() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut neutral_again = [0xff; 32];
        (neutral_again[0], neutral_again[31]) = (0xee, 0x7f);
        // y = 3 is on the curve; p + 3 spells the same point.
        let mut plain = [0; 32];
        plain[0] = 3;
        let mut second_encoding = [0xff; 32];
        (second_encoding[0], second_encoding[31]) = (0xf0, 0x7f);
        assert!(VerifyingKey::from_bytes(&plain).is_ok());
        assert!(VerifyingKey::from_bytes(&second_encoding).is_ok());
        assert!(PublicIdentity::from_bytes(plain).is_ok());
        for bytes in [[0; 32], neutral, neutral_again, second_encoding, [2; 32]] {
            assert_eq!(PublicIdentity::from_bytes(bytes), Err(IdentityError::BadKey));
        }
    }

    #[test]
    fn texts_survive_and_have_one_spelling() {
        let public = identity().public();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert!(public.to_string().to_uppercase().parse::<PublicIdentity>().is_err());
        let signature = identity().sign(b"m");
        let json = serde_json::to_string(&signature).unwrap();
        assert_eq!(serde_json::from_str::<Signature>(&json).unwrap(), signature);
        assert!(format!("{signature}=").parse::<Signature>().is_err());
    }

    #[test]
    fn seed_does_not_print() {
        let printed = format!("{:?} {:?}", identity(), Secret::from_bytes([7; 32]));
        assert!(!printed.contains("0707") && !printed.contains("7, 7"));
    }
}
