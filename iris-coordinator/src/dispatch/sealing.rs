//! What can be known of a sealed answer without being able to open it: that it is made of whole
//! records, and whether its node's receipt is for it.

use iris_core::backend::Usage;
use iris_core::store::{Document, Key, Store, StoreError};
use iris_core::{NodeId, TaskId, Timestamp};
use iris_crypto::PublicIdentity;
use iris_crypto::certificate::CertificateHash;
use iris_crypto::seal::{MAX_RECORD, Outcome, ReceiptError, SealedRequest, SignedReceipt};
use iris_protocol::rest::KeptReceipt;
use iris_protocol::text::FixedBytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The record type of receipts.
pub(crate) const RECEIPT: &str = "receipt";

/// Kinds of the records that a node writes.
const OPENING: u8 = 1;
const FRAME: u8 = 2;
/// Length of an opening's payload: the node's random bytes, and its commitment to the keys.
const OPENING_LEN: usize = 64;

/// What the coordinator keeps of a sealed request, and of its answer so far. Nothing of either is
/// among it.
#[derive(Debug)]
pub(super) struct Sealing {
    task: [u8; 16],
    certificate: CertificateHash,
    request: [u8; 32],
    transcript: Transcript,
    /// The node's receipt, once it has passed the checks.
    pub(super) receipt: Option<SignedReceipt>,
}

/// What a receipt must say of an answer that was passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transcript {
    /// The node's random bytes, once they have come.
    nonce: Option<[u8; 32]>,
    /// The chain of hashes over all frames, and the same without the last one.
    chain: [u8; 32],
    before_last: [u8; 32],
}

/// A node sent what are no records of an answer. Its fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed answer is not made of whole records")]
pub(crate) struct NotRecords;

/// A receipt as it is written down, beside the settlement of its task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReceiptRecord {
    node: NodeId,
    /// The caller's own name for the task, by which it finds the receipt.
    client_task: FixedBytes<16>,
    /// SHA-256 of the sealed request.
    request: FixedBytes<32>,
    /// What the node signed, and its signature.
    receipt: String,
    at: Timestamp,
}

impl Transcript {
    /// Takes in what a node sent: one or more whole records, the opening before all others.
    pub(crate) fn take_in(&mut self, mut bytes: &[u8]) -> Result<(), NotRecords> {
        if bytes.is_empty() {
            return Err(NotRecords);
        }
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_first_chunk().ok_or(NotRecords)?;
            let length = u32::from_be_bytes(*length) as usize;
            if length > MAX_RECORD {
                return Err(NotRecords);
            }
            let (record, rest) = rest.split_at_checked(length).ok_or(NotRecords)?;
            let (kind, payload) = record.split_first().ok_or(NotRecords)?;
            match (*kind, self.nonce) {
                (OPENING, None) if payload.len() == OPENING_LEN => {
                    self.nonce = payload.first_chunk().copied();
                }
                (FRAME, Some(_)) => {
                    self.before_last = self.chain;
                    let chained = Sha256::new().chain_update(self.chain).chain_update(payload);
                    self.chain = chained.finalize().into();
                }
                _ => return Err(NotRecords),
            }
            bytes = rest;
        }
        Ok(())
    }
}

impl Sealing {
    pub(super) fn new(request: &SealedRequest) -> Self {
        let header = request.header();
        Self {
            task: header.task,
            certificate: header.certificate,
            request: request.digest(),
            transcript: Transcript::default(),
            receipt: None,
        }
    }

    /// Returns which key of which node the request is sealed to.
    pub(super) const fn certificate(&self) -> &CertificateHash {
        &self.certificate
    }

    /// Takes in a part of the answer.
    pub(super) fn take_in(&mut self, records: &[u8]) -> Result<(), NotRecords> {
        self.transcript.take_in(records)
    }

    /// Reads the receipt for the answer that was taken in. `usage` is what the node said of it in
    /// clear, where it did; the signature is checked where a `signer` is named.
    pub(super) fn check(
        &self,
        receipt: &[u8],
        outcome: Outcome,
        usage: Option<Usage>,
        signer: Option<&PublicIdentity>,
    ) -> Result<SignedReceipt, ReceiptError> {
        let read = SignedReceipt::decode(receipt)?;
        let receipt = read.receipt();
        let fits = [
            ("task", receipt.task == self.task),
            ("certificate", receipt.certificate == self.certificate),
            ("request", receipt.request == self.request),
            ("nonce", Some(receipt.nonce) == self.transcript.nonce),
            ("answer", receipt.chain == self.transcript.before_last),
            ("outcome", receipt.outcome == outcome),
            ("usage", usage.is_none_or(|usage| receipt.usage == usage)),
        ];
        if let Some((what, _)) = fits.iter().find(|(_, fits)| !fits) {
            return Err(ReceiptError::Mismatch(what));
        }
        signer.map_or(Ok(()), |signer| read.verify(signer))?;
        Ok(read)
    }

    /// Returns the receipt of `node` as a record, if there is one.
    pub(super) fn record(&self, node: NodeId, at: Timestamp) -> Option<ReceiptRecord> {
        Some(ReceiptRecord {
            node,
            client_task: FixedBytes(self.task),
            request: FixedBytes(self.request),
            receipt: data_encoding::BASE64URL_NOPAD.encode(&self.receipt.as_ref()?.encode()),
            at,
        })
    }
}

impl ReceiptRecord {
    /// Returns the key of the receipt of `task`; there is one at most.
    pub(crate) fn key(task: &TaskId) -> Key {
        Key::new(RECEIPT, task).expect("a task id is a key segment")
    }

    pub(crate) fn document(&self) -> Document {
        Document::encode(self)
    }

    /// Reads the receipt of `task`, if it has one.
    pub(crate) async fn of(
        store: &dyn Store,
        task: TaskId,
    ) -> Result<Option<KeptReceipt>, StoreError> {
        let Some(kept) = store.get(Self::key(&task)).await? else { return Ok(None) };
        let Self { node, client_task, request, receipt, at } = kept.value.decode()?;
        Ok(Some(KeptReceipt { task, node, at: at.as_secs(), client_task, request, receipt }))
    }
}

#[cfg(test)]
mod tests {
    use iris_crypto::seal::{RecordKind, write_record};

    use super::*;

    fn records(parts: &[(RecordKind, usize)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, length) in parts {
            write_record(*kind, &vec![7; *length], &mut out);
        }
        out
    }

    #[test]
    fn answer_is_an_opening_and_frames_in_whole_records() {
        let opening = (RecordKind::Opening, OPENING_LEN);
        let frame = (RecordKind::Frame, 272);
        let read = |parts: &[&[u8]]| {
            let mut transcript = Transcript::default();
            parts.iter().try_for_each(|part| transcript.take_in(part))
        };
        let begun = records(&[opening]);
        assert_eq!(read(&[&records(&[opening, frame, frame])]), Ok(()));
        assert_eq!(read(&[&begun, &records(&[frame]), &records(&[frame])]), Ok(()));
        assert_eq!(read(&[&begun, &records(&[(RecordKind::Frame, MAX_RECORD - 1)])]), Ok(()));
        for bad in [
            records(&[frame]),
            records(&[opening, opening]),
            records(&[(RecordKind::Opening, 63)]),
            records(&[opening, (RecordKind::KeepAlive, 0)]),
            records(&[opening, (RecordKind::Receipt, SignedReceipt::LEN)]),
            records(&[opening, (RecordKind::Failure, 2)]),
            records(&[opening, (RecordKind::Other(9), 2)]),
            vec![],
            begun[..3].to_vec(),
            begun[..begun.len() - 1].to_vec(),
            [&begun[..], &[0, 0, 0, 0]].concat(),
            [&begun[..], &[0, 1, 1, 209, 2], &vec![0; MAX_RECORD]].concat(),
        ] {
            assert_eq!(read(&[&bad]), Err(NotRecords), "{} bytes", bad.len());
        }
    }
}
