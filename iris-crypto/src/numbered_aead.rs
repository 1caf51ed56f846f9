//! AES-256-GCM with the nonce of RFC 9180: a base nonce whose last eight bytes are combined with
//! the message's number by exclusive or.

use std::fmt;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};

/// Bytes that sealing adds.
pub(crate) const TAG_LEN: usize = 16;

/// One key for one direction. Its owner makes sure that no number is sealed twice.
pub(crate) struct NumberedAead {
    cipher: Aes256Gcm,
    base_nonce: [u8; 12],
}

/// The text was altered, or sealed under another key, number or associated data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forged;

impl NumberedAead {
    pub(crate) fn new(key: &[u8; 32], base_nonce: [u8; 12]) -> Self {
        Self { cipher: Aes256Gcm::new(key.into()), base_nonce }
    }

    /// Encrypts `text` in place and returns its tag.
    pub(crate) fn seal(&self, number: u64, aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        self.cipher
            .encrypt_inout_detached(&self.nonce(number), aad, text.into())
            .expect("texts are shorter than AES-GCM's limit of 64 GiB")
            .into()
    }

    /// Appends `text`, sealed, to `out`.
    pub(crate) fn seal_into(&self, number: u64, aad: &[u8], text: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(text.len() + TAG_LEN);
        out.extend_from_slice(text);
        let tag = self.seal(number, aad, &mut out[start..]);
        out.extend_from_slice(&tag);
    }

    /// Decrypts `sealed` in place and returns the length of the text at its start.
    ///
    /// Where it fails, `sealed` is as it was.
    pub(crate) fn open(&self, number: u64, aad: &[u8], sealed: &mut [u8]) -> Result<usize, Forged> {
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(Forged)?;
        let length = text.len();
        self.cipher
            .decrypt_inout_detached(&self.nonce(number), aad, text.into(), (&*tag).into())
            .map_err(|_| Forged)?;
        Ok(length)
    }

    fn nonce(&self, number: u64) -> Nonce<aes_gcm::aead::consts::U12> {
        let mut nonce = self.base_nonce;
        for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        nonce.into()
    }
}

impl fmt::Debug for NumberedAead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NumberedAead(..)")
    }
}
