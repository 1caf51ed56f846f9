//! Sealing to a public key: HPKE (RFC 9180) in base mode, with the one suite that Iris uses.
//!
//! X25519 with HKDF-SHA256 agrees on a key, HKDF-SHA256 derives from it, AES-256-GCM seals. Each
//! side gets a context that seals or opens messages in order, and exports further secrets. Base
//! mode does not say who sealed; where that matters a signature does.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::numbered_aead::NumberedAead;
use crate::sealing_key::{SealingKey, SealingPublicKey};

mod labeled;
#[cfg(test)]
mod tests;

/// The number of DHKEM(X25519, HKDF-SHA256).
pub const KEM_ID: u16 = 0x0020;
/// The number of HKDF-SHA256.
pub const KDF_ID: u16 = 0x0001;
/// The number of AES-256-GCM.
pub const AEAD_ID: u16 = 0x0002;

/// The bytes that sealing adds to a message.
pub const TAG_LEN: usize = crate::numbered_aead::TAG_LEN;

/// The longest secret that can be exported, in bytes.
pub const MAX_EXPORT_LEN: usize = 255 * 32;

/// Why something could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HpkeError {
    /// The peer's key is of small order: everybody would know the result.
    #[error("the public key is of small order")]
    WeakKey,
    /// The message was altered, or sealed to another key, at another place, or for another purpose.
    #[error("the message does not open")]
    Rejected,
    /// The context has sealed or opened all the messages that it may.
    #[error("the context has reached its message limit")]
    Exhausted,
}

/// Begins to seal to `recipient`, for a purpose that `info` names.
///
/// Returns the encapsulated key that the recipient needs, and the context to seal with.
pub fn setup_sender(
    recipient: &SealingPublicKey,
    info: &[u8],
) -> Result<([u8; 32], SenderContext), HpkeError> {
    setup_sender_with(&SealingKey::generate(), recipient, info)
}

/// Does the same with an ephemeral key that the caller drew, and uses for nothing else.
pub(crate) fn setup_sender_with(
    ephemeral: &SealingKey,
    recipient: &SealingPublicKey,
    info: &[u8],
) -> Result<([u8; 32], SenderContext), HpkeError> {
    let encapsulated = *ephemeral.public().as_bytes();
    let dh = ephemeral.agree(recipient.as_bytes()).ok_or(HpkeError::WeakKey)?;
    let shared = shared_secret(dh.as_bytes(), &encapsulated, recipient);
    Ok((encapsulated, SenderContext(Context::schedule(&shared, info))))
}

/// Begins to open what was sealed to `key` with the same `info`.
pub fn setup_receiver(
    key: &SealingKey,
    encapsulated: &[u8; 32],
    info: &[u8],
) -> Result<ReceiverContext, HpkeError> {
    let dh = key.agree(encapsulated).ok_or(HpkeError::WeakKey)?;
    let shared = shared_secret(dh.as_bytes(), encapsulated, &key.public());
    Ok(ReceiverContext(Context::schedule(&shared, info)))
}

/// Seals messages, in order.
#[derive(Debug)]
pub struct SenderContext(Context);

impl SenderContext {
    /// Seals the next message; `aad` is authenticated with it but not contained in it.
    pub fn seal(&mut self, aad: &[u8], text: &[u8]) -> Result<Vec<u8>, HpkeError> {
        let number = self.0.next_number()?;
        let mut sealed = Vec::new();
        self.0.aead.seal_into(number, aad, text, &mut sealed);
        self.0.messages += 1;
        Ok(sealed)
    }

    /// Derives a further secret, the same on both sides, for the purpose that `context` names.
    ///
    /// # Panics
    ///
    /// When `out` is longer than [`MAX_EXPORT_LEN`].
    pub fn export(&self, context: &[u8], out: &mut [u8]) {
        self.0.export(context, out);
    }
}

/// Opens messages, in the order in which they were sealed.
#[derive(Debug)]
pub struct ReceiverContext(Context);

impl ReceiverContext {
    /// Opens the next message. After an error the same message is still the next one.
    pub fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, HpkeError> {
        let number = self.0.next_number()?;
        let mut text = sealed.to_vec();
        let length = self.0.aead.open(number, aad, &mut text).map_err(|_| HpkeError::Rejected)?;
        text.truncate(length);
        self.0.messages += 1;
        Ok(text)
    }

    /// Derives a further secret, the same on both sides, for the purpose that `context` names.
    ///
    /// # Panics
    ///
    /// When `out` is longer than [`MAX_EXPORT_LEN`].
    pub fn export(&self, context: &[u8], out: &mut [u8]) {
        self.0.export(context, out);
    }
}

struct Context {
    aead: NumberedAead,
    exporter: Hkdf<Sha256>,
    messages: u64,
}

impl Context {
    /// The key schedule of RFC 9180, section 5.1, in base mode: without a pre-shared key.
    fn schedule(shared_secret: &[u8; 32], info: &[u8]) -> Self {
        const MODE_BASE: u8 = 0;
        let psk_id_hash = labeled::extract(labeled::SUITE, &[], b"psk_id_hash", &[]).0;
        let info_hash = labeled::extract(labeled::SUITE, &[], b"info_hash", info).0;
        let context = [&[MODE_BASE], &psk_id_hash[..], &info_hash[..]];

        let (_, secret) = labeled::extract(labeled::SUITE, shared_secret, b"secret", &[]);
        let mut key = Zeroizing::new([0; 32]);
        labeled::expand(labeled::SUITE, &secret, b"key", context, &mut *key);
        let mut base_nonce = [0; 12];
        labeled::expand(labeled::SUITE, &secret, b"base_nonce", context, &mut base_nonce);
        let mut exporter = Zeroizing::new([0; 32]);
        labeled::expand(labeled::SUITE, &secret, b"exp", context, &mut *exporter);
        Self {
            aead: NumberedAead::new(&key, base_nonce),
            exporter: labeled::from_prk(&exporter),
            messages: 0,
        }
    }

    fn next_number(&self) -> Result<u64, HpkeError> {
        // The last number stays unused, so that counting never wraps.
        if self.messages == u64::MAX { Err(HpkeError::Exhausted) } else { Ok(self.messages) }
    }

    fn export(&self, context: &[u8], out: &mut [u8]) {
        labeled::expand(labeled::SUITE, &self.exporter, b"sec", [context, &[], &[]], out);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("messages", &self.messages).finish_non_exhaustive()
    }
}

/// `ExtractAndExpand` of RFC 9180, section 4.1.
fn shared_secret(
    dh: &[u8; 32],
    encapsulated: &[u8; 32],
    recipient: &SealingPublicKey,
) -> Zeroizing<[u8; 32]> {
    let (_, prk) = labeled::extract(labeled::KEM_SUITE, &[], b"eae_prk", dh);
    let context = [&encapsulated[..], recipient.as_bytes(), &[]];
    let mut secret = Zeroizing::new([0; 32]);
    labeled::expand(labeled::KEM_SUITE, &prk, b"shared_secret", context, &mut *secret);
    secret
}
