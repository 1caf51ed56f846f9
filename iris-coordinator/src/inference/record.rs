//! How durable tasks are written down.

use std::ops::Range;
use std::time::Duration;

use iris_core::plan::{Event, Mode, PlanEnd, UnitReport};
use iris_core::queue::Priority;
use iris_core::store::{Document, Key};
use iris_core::task::{TaskError, TaskState};
use iris_core::{AccountId, ModelName, NodeId, TaskId, Timestamp};
use iris_crypto::RecordKey;
use iris_protocol::rest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::dispatch::{Payer, Routing};

/// The record type of durable tasks.
pub(super) const INFERENCE: &str = "inference";
/// The record type of idempotency keys.
pub(super) const IDEMPOTENCY: &str = "idempotency";
/// The record type of what happened to plans that are not over.
pub(super) const PLAN_EVENT: &str = "plan_event";

/// A durable task as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InferenceRecord {
    pub(super) account: AccountId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<rest::KeyId>,
    pub(super) model: ModelName,
    pub(super) state: TaskState,
    #[serde(default = "batch")]
    pub(super) priority: Priority,
    pub(super) created: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) prompt_tokens: u32,
    pub(super) max_tokens: u32,
    /// How it came to its model, where its caller named none.
    #[serde(default, skip_serializing_if = "Routing::is_default")]
    pub(super) routing: Routing,
    /// The chat request, sealed; gone when the task is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<Sealed>,
    /// Which way the task is divided, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<Mode>,
    /// The plan of a divided task, sealed; gone when the task is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plan: Option<Sealed>,
    /// Which nodes its steps may go to, sealed; gone when the task is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wishes: Option<Sealed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) finished: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<NodeId>,
    /// The result, sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Sealed>,
    /// Why there is none, sealed, since model servers quote prompts in their errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Sealed>,
    /// What came of a plan, sealed: a [`PlanReport`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) report: Option<Sealed>,
}

const fn batch() -> Priority {
    Priority::Batch
}

/// What is kept of a plan that is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PlanReport {
    pub(super) units: Vec<UnitReport>,
    pub(super) usage: iris_core::backend::Usage,
    pub(super) end: PlanEnd,
    pub(super) outline: rest::Outline,
}

/// What happened to a plan, sealed, and when.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EventRecord {
    /// Milliseconds since the plan began.
    at_ms: u64,
    event: Sealed,
}

/// Which task an idempotency key stands for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IdempotencyRecord {
    pub(super) task: TaskId,
    /// The hash of the request, sealed, because short prompts can be guessed from their hash.
    pub(super) request: Sealed,
    pub(super) created: Timestamp,
}

/// Sealed bytes in base64, so that they fit into a JSON document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sealed(String);

impl InferenceRecord {
    /// Makes the record of a task that asks nothing yet.
    pub(super) fn new(
        payer: Payer,
        model: ModelName,
        created: Timestamp,
        expires: Timestamp,
    ) -> Self {
        Self {
            account: payer.account,
            key: payer.key,
            model,
            state: TaskState::Submitted,
            priority: Priority::Batch,
            created,
            expires,
            prompt_tokens: 0,
            max_tokens: 0,
            routing: Routing::default(),
            body: None,
            mode: None,
            plan: None,
            wishes: None,
            finished: None,
            node: None,
            result: None,
            error: None,
            report: None,
        }
    }

    /// Returns who it is for.
    pub(super) const fn payer(&self) -> Payer {
        Payer { account: self.account, key: self.key }
    }

    /// Returns how many bytes of sealed prompts it holds.
    pub(super) fn held(&self) -> usize {
        let length = |sealed: &Option<Sealed>| sealed.as_ref().map_or(0, |sealed| sealed.0.len());
        length(&self.body) + length(&self.plan) + length(&self.wishes)
    }

    /// Returns the record of a task that is over: without what was asked.
    pub(super) fn over(self, state: TaskState, finished: Timestamp) -> Self {
        Self { state, body: None, plan: None, wishes: None, finished: Some(finished), ..self }
    }
}

impl EventRecord {
    pub(super) fn new(records: &RecordKey, key: &Key, at: Duration, event: &Event) -> Self {
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        Self { at_ms, event: Sealed::json(records, key, event) }
    }

    pub(super) fn read(&self, records: &RecordKey, key: &Key) -> Option<(Duration, Event)> {
        Some((Duration::from_millis(self.at_ms), self.event.read(records, key)?))
    }

    pub(super) fn document(&self) -> Document {
        Document::encode(self)
    }
}

impl Sealed {
    pub(super) fn new(records: &RecordKey, place: &Key, text: &[u8]) -> Self {
        Self(data_encoding::BASE64_NOPAD.encode(&records.seal(place.as_str(), text)))
    }

    pub(crate) fn json(records: &RecordKey, place: &Key, value: &impl Serialize) -> Self {
        let text = serde_json::to_vec(value).expect("what is sealed has a JSON form");
        Self::new(records, place, &text)
    }

    pub(super) fn open(&self, records: &RecordKey, place: &Key) -> Option<Vec<u8>> {
        let sealed = data_encoding::BASE64_NOPAD.decode(self.0.as_bytes()).ok()?;
        records.open(place.as_str(), &sealed).ok()
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, records: &RecordKey, place: &Key) -> Option<T> {
        serde_json::from_slice(&self.open(records, place)?).ok()
    }
}

pub(super) fn key(id: &TaskId) -> Key {
    Key::new(INFERENCE, id).expect("a task id is a key segment")
}

pub(super) fn event_key(id: &TaskId, number: u64) -> Key {
    Key::new(PLAN_EVENT, format!("{id}-{number:06}")).expect("an id and digits are a key segment")
}

/// Returns the plan that something happened to.
pub(super) fn plan_of(event: &Key) -> Option<TaskId> {
    event.id().rsplit_once('-')?.0.parse().ok()
}

/// Returns the range of all that happened to a plan.
pub(super) fn events_of(id: &TaskId) -> Range<Key> {
    // '.' is the character after '-'.
    let border = |end: char| Key::new(PLAN_EVENT, format!("{id}{end}"));
    let [start, end] = ['-', '.'].map(|end| border(end).expect("an id is a key segment"));
    start..end
}

pub(super) fn idempotency(account: &AccountId, text: &str) -> Key {
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()));
    Key::new(IDEMPOTENCY, format!("{account}-{hash}")).expect("digits are a key segment")
}

/// Returns why a task has no answer, for its caller.
pub(super) fn explained(error: &TaskError) -> rest::InferenceError {
    rest::InferenceError { code: error.code().to_owned(), message: error.to_string() }
}
