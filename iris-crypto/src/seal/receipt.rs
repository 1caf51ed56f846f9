//! What the node signs of an answer: evidence without content.

use iris_core::backend::Usage;
use iris_core::id::ReceiptId;
use sha2::{Digest, Sha256};

use super::record::{RecordKind, write_record};
use crate::certificate::CertificateHash;
use crate::fields::Fields;
use crate::identity::{Identity, PublicIdentity, Signature};

const MAGIC: [u8; 16] = *b"iris/receipt/v1\0";

/// How many tokens are told apart in clear.
const TOKENS: u32 = 64;

/// How an answer ended, as far as anybody but the client may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is complete.
    Complete,
    /// It failed; the client knows why.
    Failed,
}

/// What a node says of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The client's name for the request.
    pub task: [u8; 16],
    /// The certificate that the request was sealed to.
    pub certificate: CertificateHash,
    /// SHA-256 of the wire request.
    pub request: [u8; 32],
    /// The node's random bytes for this answer.
    pub nonce: [u8; 32],
    /// The chain of hashes over all sealed frames before the last.
    pub chain: [u8; 32],
    /// Tokens read and written, rounded up: see [`coarse`].
    pub usage: Usage,
    /// SHA-256 of the model's file; zeros where the node does not state it.
    pub model_digest: [u8; 32],
    /// The root over the answer's log probabilities; zeros where the node commits to none.
    pub logprob_root: [u8; 32],
    /// How the answer ended.
    pub outcome: Outcome,
}

/// A receipt and the node's signature, which nobody may have checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedReceipt {
    receipt: Receipt,
    signature: Signature,
}

/// Why a receipt is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The bytes are no receipt of this version.
    #[error("the bytes are no receipt")]
    Malformed,
    /// The node did not sign it.
    #[error("the receipt's signature does not hold")]
    BadSignature,
    /// It is for another request, or tells another story than the answer did.
    #[error("the receipt does not fit the answer: another {0}")]
    Mismatch(&'static str),
}

/// Rounds usage up to multiples of 64 tokens, which is all that is said of it in clear.
pub const fn coarse(usage: Usage) -> Usage {
    Usage {
        prompt_tokens: round_up(usage.prompt_tokens),
        completion_tokens: round_up(usage.completion_tokens),
    }
}

const fn round_up(tokens: u32) -> u32 {
    match tokens.checked_next_multiple_of(TOKENS) {
        Some(rounded) => rounded,
        None => u32::MAX - (TOKENS - 1),
    }
}

impl Receipt {
    /// The length of what is signed.
    const LEN: usize = 16 + 16 + 4 * 32 + 8 + 2 * 32 + 1;

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.task);
        out.extend_from_slice(self.certificate.as_bytes());
        for hash in [&self.request, &self.nonce, &self.chain] {
            out.extend_from_slice(hash);
        }
        out.extend_from_slice(&self.usage.prompt_tokens.to_be_bytes());
        out.extend_from_slice(&self.usage.completion_tokens.to_be_bytes());
        out.extend_from_slice(&self.model_digest);
        out.extend_from_slice(&self.logprob_root);
        out.push(match self.outcome {
            Outcome::Complete => 1,
            Outcome::Failed => 2,
        });
        out
    }

    /// Returns the SHA-256 of what is signed, which the answer's last frame carries.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }

    pub(super) fn sign(self, identity: &Identity) -> SignedReceipt {
        SignedReceipt { receipt: self, signature: identity.sign(&self.encode()) }
    }
}

impl SignedReceipt {
    /// The length of a receipt with its signature.
    pub const LEN: usize = Receipt::LEN + 64;

    /// Reads a receipt that a peer sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReceiptError> {
        Self::read(bytes).ok_or(ReceiptError::Malformed)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.take() != Some(MAGIC) {
            return None;
        }
        let receipt = Receipt {
            task: fields.take()?,
            certificate: CertificateHash::from_bytes(fields.take()?),
            request: fields.take()?,
            nonce: fields.take()?,
            chain: fields.take()?,
            usage: Usage {
                prompt_tokens: u32::from_be_bytes(fields.take()?),
                completion_tokens: u32::from_be_bytes(fields.take()?),
            },
            model_digest: fields.take()?,
            logprob_root: fields.take()?,
            outcome: match fields.take()? {
                [1] => Outcome::Complete,
                [2] => Outcome::Failed,
                _ => return None,
            },
        };
        let signature = Signature::from_bytes(fields.take()?);
        let is_whole = fields.0.is_empty() && coarse(receipt.usage) == receipt.usage;
        is_whole.then_some(Self { receipt, signature })
    }

    /// Returns the bytes to send or keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.receipt.encode();
        out.extend_from_slice(self.signature.as_bytes());
        out
    }

    /// Appends the record that ends an answer.
    pub fn write_record(&self, out: &mut Vec<u8>) {
        write_record(RecordKind::Receipt, &self.encode(), out);
    }

    /// Returns what the books name it by.
    pub fn id(&self) -> ReceiptId {
        ReceiptId::from_bytes(self.receipt.digest())
    }

    /// Returns what the receipt says, which may be a lie before it is [verified](Self::verify).
    pub const fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Checks that `node` signed it.
    pub fn verify(&self, node: &PublicIdentity) -> Result<(), ReceiptError> {
        node.verify_strict(&self.receipt.encode(), &self.signature)
            .map_err(|_| ReceiptError::BadSignature)
    }
}
