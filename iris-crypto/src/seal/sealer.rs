//! The node's side of an answer.

use hkdf::Hkdf;
use iris_core::backend::{BackendError, Finish, Usage};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::frame::{Kind, Pieces};
use super::receipt::{Outcome, Receipt, SignedReceipt, coarse};
use super::record::{self, RecordKind, write_record};
use super::request::SealedRequest;
use super::{MAX_FRAMES, SealError, Shape};
use crate::certificate::CertificateHash;
use crate::identity::Identity;
use crate::numbered_aead::{NumberedAead, TAG_LEN};

/// The keys of an answer.
pub(super) struct AnswerKeys {
    pub(super) aead: NumberedAead,
    pub(super) commit: [u8; 32],
}

impl AnswerKeys {
    /// The response derivation of RFC 9458, section 4.4, and a commitment.
    pub(super) fn derive(
        encapsulated: &[u8; 32],
        nonce: &[u8; 32],
        secret: &Zeroizing<[u8; 32]>,
    ) -> Self {
        let mut salt = [0; 64];
        salt[..32].copy_from_slice(encapsulated);
        salt[32..].copy_from_slice(nonce);
        let prk = Hkdf::<Sha256>::new(Some(&salt), &secret[..]);
        let mut key = Zeroizing::new([0; 32]);
        let (mut base_nonce, mut commit) = ([0; 12], [0; 32]);
        let expand = |label: &[u8], out: &mut [u8]| {
            prk.expand(label, out).expect("a block is expanded");
        };
        expand(b"key", &mut *key);
        expand(b"nonce", &mut base_nonce);
        expand(b"commit", &mut commit);
        Self { aead: NumberedAead::new(&key, base_nonce), commit }
    }
}

/// Returns the associated data of a frame.
pub(super) fn frame_aad(is_last: bool, number: u64) -> [u8; 9] {
    let mut aad = [0; 9];
    aad[0] = u8::from(is_last);
    aad[1..].copy_from_slice(&number.to_be_bytes());
    aad
}

/// Continues the chain of sealed frames that a receipt names.
pub(super) fn chained(chain: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(chain).chain_update(sealed).finalize().into()
}

/// Seals the answer to one request.
///
/// Order of calls: [`opening`](Self::opening); [`seal`](Self::seal) for each frame of content;
/// [`end`](Self::end) or [`fault`](Self::fault); further frames without content as the shape has
/// it; [`finish`](Self::finish). All append whole records.
pub struct AnswerSealer {
    keys: AnswerKeys,
    nonce: [u8; 32],
    shape: Shape,
    task: [u8; 16],
    certificate: CertificateHash,
    request: [u8; 32],
    next: u64,
    pub(super) chain: [u8; 32],
    pub(super) content: Sha256,
}

impl AnswerSealer {
    pub(super) fn new(
        request: &SealedRequest,
        encapsulated: &[u8; 32],
        secret: &Zeroizing<[u8; 32]>,
        nonce: [u8; 32],
    ) -> Self {
        let header = request.header();
        Self {
            keys: AnswerKeys::derive(encapsulated, &nonce, secret),
            nonce,
            shape: header.terms.shape,
            task: header.task,
            certificate: header.certificate,
            request: request.digest(),
            next: 0,
            chain: [0; 32],
            content: Sha256::new(),
        }
    }

    /// Returns the shape that the client asked for.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Appends the record that an answer begins with.
    pub fn opening(&self, out: &mut Vec<u8>) {
        let mut payload = [0; 64];
        payload[..32].copy_from_slice(&self.nonce);
        payload[32..].copy_from_slice(&self.keys.commit);
        write_record(RecordKind::Opening, &payload, out);
    }

    /// Appends the next frame.
    pub fn seal(&mut self, pieces: &Pieces, out: &mut Vec<u8>) -> Result<(), SealError> {
        let mut rest = &pieces.text[..];
        // The digest is over data alone, however it was cut.
        while let [kind, high, low, after @ ..] = rest {
            let (data, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            // Text, a whole answer or a step, with or without more to come.
            if matches!(kind & 0x7f, 1 | 2 | 5) {
                self.content.update(data);
            }
            rest = after;
        }
        self.append(pieces, false, out)
    }

    /// Appends the frames that say that the answer is complete.
    pub fn end(&mut self, finish: &Finish, out: &mut Vec<u8>) -> Result<(), SealError> {
        let mut data = Vec::with_capacity(40 + finish.reason.len());
        data.extend_from_slice(&finish.usage.prompt_tokens.to_be_bytes());
        data.extend_from_slice(&finish.usage.completion_tokens.to_be_bytes());
        data.extend_from_slice(&self.content.clone().finalize());
        let reason = &finish.reason[..finish.reason.floor_char_boundary(MAX_REASON)];
        data.extend_from_slice(reason.as_bytes());
        self.append_all(Kind::End, &data, out)
    }

    /// Appends the frames that say that the answer failed.
    pub fn fault(&mut self, error: &BackendError, out: &mut Vec<u8>) -> Result<(), SealError> {
        let json = serde_json::to_vec(error).expect("an error has a JSON form");
        self.append_all(Kind::Fault, &json, out)
    }

    /// Appends the last frame and returns the receipt, whose record comes last of all.
    pub fn finish(
        mut self,
        identity: &Identity,
        outcome: Outcome,
        usage: Usage,
        out: &mut Vec<u8>,
    ) -> Result<SignedReceipt, SealError> {
        let receipt = Receipt {
            task: self.task,
            certificate: self.certificate,
            request: self.request,
            nonce: self.nonce,
            chain: self.chain,
            usage: coarse(usage),
            model_digest: [0; 32],
            logprob_root: [0; 32],
            outcome,
        };
        let mut pieces = Pieces::new(self.shape);
        pieces.push_part(Kind::Receipt, &receipt.digest());
        self.append(&pieces, true, out)?;
        Ok(receipt.sign(identity))
    }

    fn append_all(&mut self, kind: Kind, data: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let mut rest = data;
        while !rest.is_empty() {
            let mut pieces = Pieces::new(self.shape);
            let taken = pieces.push_part(kind, rest);
            self.append(&pieces, false, out)?;
            rest = &rest[taken..];
        }
        Ok(())
    }

    pub(super) fn append(
        &mut self,
        pieces: &Pieces,
        is_last: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        if self.next >= MAX_FRAMES {
            return Err(SealError::TooLong);
        }
        let length = pieces.frame_len();
        out.reserve(5 + length + TAG_LEN);
        out.extend_from_slice(&record::length(1 + length + TAG_LEN));
        out.push(2);
        let start = out.len();
        out.extend_from_slice(&pieces.text);
        out.resize(start + length, 0);
        let aad = frame_aad(is_last, self.next);
        let tag = self.keys.aead.seal(self.next, &aad, &mut out[start..]);
        out.extend_from_slice(&tag);
        if !is_last {
            self.chain = chained(&self.chain, &out[start..]);
        }
        self.next += 1;
        Ok(())
    }
}

/// The longest finish reason, in bytes.
pub(super) const MAX_REASON: usize = 64;

impl std::fmt::Debug for AnswerSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerSealer")
            .field("shape", &self.shape)
            .field("frames", &self.next)
            .finish_non_exhaustive()
    }
}
