//! Sealing what lies on disk.
//!
//! A sealed record is `version u8 = 1 | nonce[12] | AES-256-GCM(text) | tag[16]`, with a random
//! nonce and `"iris/record/v1\0" | place` as associated data. The place, which is the key that the
//! record is kept under, is authenticated: a record moved or copied to another place does not open.
//! An older version of the same record does; a store that must refuse that keeps its own versions.

use std::fmt;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};

use crate::random::random_bytes;
use crate::secret::Secret;

/// The bytes that sealing adds to a record.
pub const OVERHEAD: usize = 1 + NONCE_LEN + TAG_LEN;

const VERSION: u8 = 1;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// A record does not open: it was altered, moved, or sealed under another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed record does not open: altered, moved, or sealed under another key")]
pub struct RecordError;

/// The key that a process seals its records under; usually out of a
/// [`SecretFile`](crate::keyfile::SecretFile).
///
/// Good for four thousand million records; random nonces begin to be at risk of repeating beyond.
pub struct RecordKey {
    cipher: Aes256Gcm,
}

impl RecordKey {
    /// Makes the key that belongs to `secret`.
    pub fn new(secret: &Secret) -> Self {
        Self { cipher: Aes256Gcm::new(secret.reveal().into()) }
    }

    /// Seals `text` for `place`.
    pub fn seal(&self, place: &str, text: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = random_bytes();
        let mut sealed = Vec::with_capacity(text.len() + OVERHEAD);
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(text);
        let tag = self
            .cipher
            .encrypt_inout_detached(
                &nonce.into(),
                &associated_data(place),
                (&mut sealed[1 + NONCE_LEN..]).into(),
            )
            .expect("texts are shorter than AES-GCM's limit of 64 GiB");
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// Opens what was sealed for `place`.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, RecordError> {
        let (&VERSION, sealed) = sealed.split_first().ok_or(RecordError)? else {
            return Err(RecordError);
        };
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(RecordError)?;
        let (text, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(RecordError)?;
        let mut text = text.to_vec();
        self.cipher
            .decrypt_inout_detached(
                &Nonce::from(*nonce),
                &associated_data(place),
                text.as_mut_slice().into(),
                tag.into(),
            )
            .map_err(|_| RecordError)?;
        Ok(text)
    }
}

fn associated_data(place: &str) -> Vec<u8> {
    [b"iris/record/v1\0", place.as_bytes()].concat()
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> RecordKey {
        RecordKey::new(&Secret::from_bytes([5; 32]))
    }

    #[test]
    fn record_opens_in_its_place_under_its_key_only() {
        let sealed = key().seal("task/1", b"prompt");
        assert_eq!(sealed.len(), b"prompt".len() + OVERHEAD);
        assert_eq!(key().open("task/1", &sealed).unwrap(), b"prompt");
        assert_eq!(key().open("task/2", &sealed), Err(RecordError));
        let other = RecordKey::new(&Secret::from_bytes([6; 32]));
        assert_eq!(other.open("task/1", &sealed), Err(RecordError));
    }

    #[test]
    fn same_record_is_never_sealed_to_the_same_bytes() {
        let (first, second) = (key().seal("p", b"text"), key().seal("p", b"text"));
        assert_ne!(first[1..13], second[1..13]);
        assert_ne!(first[13..], second[13..]);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let sealed = key().seal("p", b"text");
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key().open("p", &altered), Err(RecordError), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(key().open("p", &sealed[..length]), Err(RecordError));
        }
    }

    proptest! {
        #[test]
        fn opening_anything_never_panics(
            place: String,
            mut sealed in proptest::collection::vec(any::<u8>(), 1..80),
        ) {
            prop_assert!(key().open(&place, &sealed).is_err());
            sealed[0] = VERSION;
            prop_assert!(key().open(&place, &sealed).is_err());
        }

        #[test]
        fn any_record_survives(place: String, text: Vec<u8>) {
            prop_assert_eq!(key().open(&place, &key().seal(&place, &text)), Ok(text));
        }
    }
}
