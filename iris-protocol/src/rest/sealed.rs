use iris_core::{NodeId, TaskId};
use serde::{Deserialize, Serialize};

use crate::limits::MAX_CERTIFICATE;
use crate::openai::ErrorDetail;
use crate::text::{Blob, Bytes16, Bytes32};

/// The body of a refusal of `POST /sealed`.
///
/// | status | code | what helps |
/// |---|---|---|
/// | 409 | `stale_key` | sealing again, to the key of `certificate` once that is verified |
/// | 429 | `node_busy` | the time of `Retry-After`, or another node |
/// | 503 | `node_offline` | another node |
/// | 404 | `model_not_found` | another node |
/// | 400 | `seal_rejected` | nothing: the node cannot open the request, or must not act on it |
/// | 400 | `bad_sealed_request` | a newer client, maybe: the request has no header that is known |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedRefusal {
    /// What went wrong.
    pub error: ErrorDetail,
    /// The current certificate of the node that the request was sealed to, beside `stale_key`;
    /// absent when nobody is known by the hash that the request names. Proves nothing until it
    /// is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Blob<MAX_CERTIFICATE>>,
}

/// What nodes signed for an account's sealed tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptPage {
    /// The receipts, the latest first.
    pub receipts: Vec<KeptReceipt>,
    /// What to ask for `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A receipt as the coordinator keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReceipt {
    /// The coordinator's name for the task.
    pub task: TaskId,
    /// The node that signed it.
    pub node: NodeId,
    /// When it came.
    pub at: u64,
    /// The caller's own name for the task.
    pub client_task: Bytes16,
    /// SHA-256 of the sealed request.
    pub request: Bytes32,
    /// What the node signed, and its signature, in base64url.
    pub receipt: String,
}
