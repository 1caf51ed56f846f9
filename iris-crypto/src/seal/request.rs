//! Sealing and opening prompts.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use iris_core::Timestamp;
use iris_core::backend::Operation;
use iris_core::model::ModelName;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::opener::AnswerOpener;
use super::sealer::AnswerSealer;
use super::{MAX_REQUEST, MAX_TTL, Prompt, SealError, Shape};
use crate::certificate::{CertificateHash, MAX_SKEW, VerifiedCertificate};
use crate::fields::{Fields, push_lp};
use crate::hpke::{self, TAG_LEN};
use crate::random::random_bytes;
use crate::sealing_key::SealingKey;

const MAGIC: [u8; 12] = *b"iris/req/v1\0";
/// Says that a request is sealed to a node.
const TO_NODE: u8 = 1;
pub(super) const AAD: &[u8] = b"req";
pub(super) const EXPORT: &[u8] = b"iris/resp/v1";
const PAD: u8 = 0x80;
/// The largest size of a padded prompt.
const MAX_PADDED: usize = 256 * 110_218;

/// What a client chooses for a request, beside the node and the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The model to run; the same as the prompt's.
    pub model: ModelName,
    /// The client's time, in whole milliseconds.
    pub issued_at: Timestamp,
    /// How long the request is good for; at most [`MAX_TTL`], which is the default.
    pub ttl: Duration,
    /// The longest answer in tokens; 0 where the prompt names none, which is the default.
    pub max_tokens: u32,
    /// What lengths and times may tell. Default: [`Shape::Paced`].
    pub shape: Shape,
}

impl Terms {
    /// Makes the terms for a request to `model` at `issued_at`, with the defaults.
    pub const fn new(model: ModelName, issued_at: Timestamp) -> Self {
        Self { model, issued_at, ttl: MAX_TTL, max_tokens: 0, shape: Shape::Paced }
    }
}

/// The clear part of a sealed request, which its seal covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The client's name for the request; random.
    pub task: [u8; 16],
    /// Names the node, and which of its keys the request is sealed to.
    pub certificate: CertificateHash,
    /// What the client chose.
    pub terms: Terms,
}

impl RequestHeader {
    /// Checks that `now` is within the request's time, give or take [`MAX_SKEW`].
    pub fn verify_time(&self, now: Timestamp) -> Result<(), SealError> {
        if self.terms.issued_at > now.saturating_add(MAX_SKEW) {
            return Err(SealError::NotYetValid);
        }
        if self.good_until() < now {
            return Err(SealError::Expired);
        }
        Ok(())
    }

    /// Returns when nobody takes the request for a new one any more, whatever their clocks.
    pub fn good_until(&self) -> Timestamp {
        self.terms.issued_at.saturating_add(self.terms.ttl).saturating_add(MAX_SKEW)
    }

    fn encode(&self) -> Vec<u8> {
        let Terms { model, issued_at, ttl, max_tokens, shape } = &self.terms;
        let ttl = u32::try_from(ttl.as_millis()).expect("the ttl is bounded");
        let mut out = Vec::with_capacity(80 + model.as_str().len());
        out.extend_from_slice(&MAGIC);
        out.push(TO_NODE);
        out.extend_from_slice(&self.task);
        out.extend_from_slice(self.certificate.as_bytes());
        push_lp(&mut out, model.as_str().as_bytes());
        out.extend_from_slice(&issued_at.as_millis().to_be_bytes());
        out.extend_from_slice(&ttl.to_be_bytes());
        out.extend_from_slice(&max_tokens.to_be_bytes());
        out.push(shape.number());
        out
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, SealError> {
        const SHORT: SealError = SealError::Malformed("too short");
        if fields.take() != Some(MAGIC) {
            return Err(SealError::Malformed("another kind or version"));
        }
        if fields.take() != Some([TO_NODE]) {
            return Err(SealError::Malformed("not sealed to a node"));
        }
        let task = fields.take().ok_or(SHORT)?;
        let certificate = CertificateHash::from_bytes(fields.take().ok_or(SHORT)?);
        let model = fields.take_lp().ok_or(SHORT)?;
        let model = std::str::from_utf8(model).ok().and_then(|name| name.parse().ok());
        let model = model.ok_or(SealError::Malformed("not a model's name"))?;
        let issued_at = Timestamp::from_millis(fields.take_u64().ok_or(SHORT)?);
        let ttl = fields.take().map(u32::from_be_bytes).ok_or(SHORT)?;
        let ttl = Duration::from_millis(ttl.into());
        if ttl > MAX_TTL {
            return Err(SealError::Malformed("good for longer than ten minutes"));
        }
        let max_tokens = fields.take().map(u32::from_be_bytes).ok_or(SHORT)?;
        let [shape] = fields.take().ok_or(SHORT)?;
        let shape = Shape::from_number(shape).ok_or(SealError::Malformed("an unknown shape"))?;
        let terms = Terms { model, issued_at, ttl, max_tokens, shape };
        Ok(Self { task, certificate, terms })
    }
}

/// A request that only the node it is sealed to can open. Cloning shares the bytes.
///
/// Nothing here gives the prompt away; [`open`](Self::open) takes the node's key.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedRequest {
    header: RequestHeader,
    header_len: usize,
    wire: Bytes,
}

impl SealedRequest {
    /// Seals `prompt` to the node of `certificate`, under a new random task.
    ///
    /// Returns what opens the answer, too. Each sealing is good for one node and one attempt: for
    /// another, seal again.
    pub fn seal(
        certificate: &VerifiedCertificate,
        terms: Terms,
        prompt: &Prompt,
    ) -> Result<(Self, AnswerOpener), SealError> {
        Self::seal_with(certificate, terms, prompt, random_bytes(), &SealingKey::generate())
    }

    /// Does the same with a task and an ephemeral key that were drawn for nothing else.
    pub(super) fn seal_with(
        certificate: &VerifiedCertificate,
        terms: Terms,
        prompt: &Prompt,
        task: [u8; 16],
        ephemeral: &SealingKey,
    ) -> Result<(Self, AnswerOpener), SealError> {
        let header = RequestHeader {
            task,
            certificate: certificate.certificate().hash(),
            terms: Terms { ttl: terms.ttl.min(MAX_TTL), ..terms },
        };
        let info = header.encode();
        let (encapsulated, mut context) =
            hpke::setup_sender_with(ephemeral, &certificate.sealing_key(), &info)?;
        let sealed = context.seal(AAD, &padded(prompt)?)?;
        let mut secret = Zeroizing::new([0; 32]);
        context.export(EXPORT, &mut *secret);

        let mut wire = Vec::with_capacity(info.len() + 36 + sealed.len());
        wire.extend_from_slice(&info);
        wire.extend_from_slice(&encapsulated);
        let length = u32::try_from(sealed.len()).map_err(|_| SealError::TooLong)?;
        wire.extend_from_slice(&length.to_be_bytes());
        wire.extend_from_slice(&sealed);
        let request = Self { header, header_len: info.len(), wire: wire.into() };
        let opener = AnswerOpener::new(&request, *certificate.identity(), encapsulated, secret);
        Ok((request, opener))
    }

    /// Reads the clear part of a request that arrived.
    pub fn decode(wire: Bytes) -> Result<Self, SealError> {
        if wire.len() > MAX_REQUEST {
            return Err(SealError::TooLong);
        }
        let mut fields = Fields(&wire);
        let header = RequestHeader::decode(&mut fields)?;
        let header_len = wire.len() - fields.0.len();
        let cut = SealError::Malformed("too short");
        fields.take::<32>().ok_or(cut)?;
        let length = fields.take().map(u32::from_be_bytes).ok_or(cut)?;
        if fields.0.len() != length as usize {
            return Err(SealError::Malformed("not as long as it says"));
        }
        if fields.0.len() <= TAG_LEN {
            return Err(cut);
        }
        Ok(Self { header, header_len, wire })
    }

    /// Returns the clear part.
    pub const fn header(&self) -> &RequestHeader {
        &self.header
    }

    /// Returns the bytes to send.
    pub const fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// Returns the SHA-256 of the bytes to send, which the receipt names.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.wire).into()
    }

    /// Returns the encapsulated key, by which a node knows a request that it has seen.
    pub fn encapsulated(&self) -> [u8; 32] {
        let field = self.wire[self.header_len..].first_chunk();
        *field.expect("the length was checked when it was read")
    }

    /// Opens the request with the key that its certificate is for, and returns what seals the
    /// answer.
    ///
    /// Neither the request's [time](RequestHeader::verify_time) nor whether it was
    /// [seen before](super::Replays) is looked at here.
    pub fn open(&self, key: &SealingKey) -> Result<(Prompt, AnswerSealer), SealError> {
        self.open_with(key, random_bytes())
    }

    /// Does the same with random bytes for the answer that were drawn for nothing else.
    pub(super) fn open_with(
        &self,
        key: &SealingKey,
        nonce: [u8; 32],
    ) -> Result<(Prompt, AnswerSealer), SealError> {
        let encapsulated = self.encapsulated();
        let info = &self.wire[..self.header_len];
        let mut context = hpke::setup_receiver(key, &encapsulated, info)?;
        let text = context.open(AAD, &self.wire[self.header_len + 36..])?;
        let prompt = unpadded(text)?;
        let mut secret = Zeroizing::new([0; 32]);
        context.export(EXPORT, &mut *secret);
        Ok((prompt, AnswerSealer::new(self, &encapsulated, &secret, nonce)))
    }
}

impl fmt::Debug for SealedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedRequest")
            .field("header", &self.header)
            .field("bytes", &self.wire.len())
            .finish_non_exhaustive()
    }
}

/// Returns a prompt's bytes, padded.
pub(super) fn padded(prompt: &Prompt) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let length = prompt.body.len() + 2;
    let size = padded_len(length + 1).ok_or(SealError::TooLong)?;
    let mut text = Zeroizing::new(Vec::with_capacity(size));
    text.push(match prompt.operation {
        Operation::Chat => 1,
        Operation::Completion => 2,
        Operation::Embedding => 3,
    });
    text.push(u8::from(prompt.stream));
    text.extend_from_slice(&prompt.body);
    text.push(PAD);
    text.resize(size, 0);
    Ok(text)
}

/// Returns the size that `length` bytes are padded to; `None` where there is none.
fn padded_len(length: usize) -> Option<usize> {
    const ROOTS: [u64; 4] = [65536, 77936, 92682, 110_218];
    let mut octave = 1024_u64;
    while octave <= MAX_PADDED as u64 {
        for root in ROOTS {
            let size = usize::try_from((octave * root).div_ceil(65536)).ok()?;
            let size = size.next_multiple_of(64);
            if (length..=MAX_PADDED).contains(&size) {
                return Some(size);
            }
        }
        octave *= 2;
    }
    None
}

fn unpadded(mut text: Vec<u8>) -> Result<Prompt, SealError> {
    let end = text.iter().rposition(|byte| *byte != 0).ok_or(SealError::Rejected)?;
    // Only the one size that a sender would choose is an encoding.
    let canonical = text[end] == PAD && padded_len(end + 1) == Some(text.len());
    if !canonical || end < 2 {
        return Err(SealError::Rejected);
    }
    text.truncate(end);
    let operation = match text[0] {
        1 => Operation::Chat,
        2 => Operation::Completion,
        3 => Operation::Embedding,
        _ => return Err(SealError::Rejected),
    };
    let stream = match text[1] {
        0 => false,
        1 => true,
        _ => return Err(SealError::Rejected),
    };
    Ok(Prompt { operation, stream, body: Bytes::from(text).slice(2..) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_grows_by_a_quarter_at_most_and_opens_to_what_it_was() {
        let mut last = 0;
        for length in (1..200_000).step_by(7).chain([MAX_PADDED - 1, MAX_PADDED]) {
            let size = padded_len(length).unwrap();
            assert!(size >= length && size.is_multiple_of(64) && size >= last, "{length}: {size}");
            assert!(size <= 1024.max(length + length / 4), "{length}: {size}");
            last = size;
        }
        assert_eq!(padded_len(MAX_PADDED + 1), None);
        for length in [0, 1, 1021, 1022, 5000] {
            let body = Bytes::from(vec![b'x'; length]);
            let prompt = Prompt { operation: Operation::Completion, stream: false, body };
            assert_eq!(unpadded(padded(&prompt).unwrap().to_vec()), Ok(prompt));
        }
    }

    #[test]
    fn padding_has_one_form() {
        let prompt = Prompt { operation: Operation::Chat, stream: true, body: "{}".into() };
        let good = padded(&prompt).unwrap();
        assert_eq!(good.len(), 1024);
        let longer = [&good[..], &[0; 256]].concat();
        let shorter = good[..512].to_vec();
        let mut unmarked = good.to_vec();
        unmarked[4] = 0;
        for bad in [longer, shorter, unmarked, vec![], vec![0; 1024]] {
            assert_eq!(unpadded(bad), Err(SealError::Rejected));
        }
    }
}
