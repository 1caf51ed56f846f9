//! Durable tasks: accepted once written down, resumed after a crash, ended exactly once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use iris_core::backend::{Chunk, Operation, Usage};
use iris_core::model::Abilities;
use iris_core::queue::Priority;
use iris_core::store::{Batch, Document, Key, Record, Store, StoreError, Version};
use iris_core::task::{Attempt, Outcome, TaskError, TaskState};
use iris_core::{AccountId, ModelName, NodeId, TaskId, Timestamp};
use iris_crypto::RecordKey;
use iris_protocol::rest;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dispatch::{Books, Dispatch, Placement, TaskEvent, TaskHandle, TaskRequest};
use crate::journal::CommitError;
use crate::settlement::Settlement;
use crate::turns::Turns;

const INFERENCE: &str = "inference";
const IDEMPOTENCY: &str = "idempotency";
/// How many durable tasks ask for nodes at a time, so that they leave room in the line.
const AT_WORK: usize = 256;
/// How many durable tasks may be unfinished.
const UNFINISHED: usize = 100_000;
/// How many bytes their sealed prompts may have together, not counting the last one.
const HELD: usize = 256 << 20;
/// How long a task waits before it asks for a node again when none was there.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many old records are deleted in one commit.
const DELETED_TOGETHER: usize = 256;
/// The time a task gets when its caller names none.
const TIME_LIMIT: Duration = Duration::from_mins(10);

/// The durable tasks of a coordinator.
pub struct Inference {
    shared: Arc<Shared>,
}

struct Shared {
    dispatch: Arc<Dispatch>,
    store: Arc<dyn Store>,
    key: RecordKey,
    retention: Duration,
    tasks: TaskTracker,
    at_work: Turns,
    unfinished: Mutex<HashMap<TaskId, Progress>>,
    /// Cancelled when the coordinator shuts down: unfinished tasks stay as they are.
    suspended: CancellationToken,
}

/// A task that is not over.
struct Progress {
    /// Length of the sealed prompt, which is held in memory.
    bytes: usize,
    /// Cancelled by the caller.
    cancel: CancellationToken,
    /// Cancelled when its driver has ended.
    over: CancellationToken,
    node: Option<NodeId>,
}

/// Why a durable task was not taken, or cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// There is no such task of this account, or its retention is over.
    #[error("no such task")]
    NotFound,
    /// The idempotency key was used before for a different request.
    #[error("this Idempotency-Key was used for a different request")]
    KeyReused,
    /// Too many tasks are unfinished; worth trying again later.
    #[error("too many unfinished tasks; try again later")]
    Full,
    /// The store is away; worth trying again.
    #[error("the task could not be written down; try again")]
    Store,
}

/// A durable task as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct InferenceRecord {
    account: AccountId,
    model: ModelName,
    state: TaskState,
    created: Timestamp,
    expires: Timestamp,
    prompt_tokens: u32,
    max_tokens: u32,
    /// The chat request, sealed; gone when the task is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Sealed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeId>,
    /// The result, sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Sealed>,
    /// Why there is none, sealed, since model servers quote prompts in their errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Sealed>,
}

/// Which task an idempotency key stands for.
#[derive(Debug, Serialize, Deserialize)]
struct IdempotencyRecord {
    task: TaskId,
    /// The hash of the request, sealed, because short prompts can be guessed from their hash.
    request: Sealed,
    created: Timestamp,
}

/// Sealed bytes in base64, so that they fit into a JSON document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Sealed(String);

impl Inference {
    pub(crate) fn new(
        dispatch: Arc<Dispatch>,
        store: Arc<dyn Store>,
        key: RecordKey,
        retention: Duration,
        tasks: TaskTracker,
    ) -> Self {
        let shared = Shared {
            dispatch,
            store,
            key,
            retention,
            tasks,
            at_work: Turns::new(AT_WORK),
            unfinished: Mutex::new(HashMap::new()),
            suspended: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes a task and resolves once it is written down; from then on it ends exactly once,
    /// whatever happens to the coordinator.
    ///
    /// The same `idempotency_key` of the same account stands for the same task.
    pub async fn submit(
        &self,
        account: AccountId,
        request: rest::InferenceRequest,
        idempotency_key: Option<&str>,
    ) -> Result<rest::InferenceStatus, InferenceError> {
        let shared = &self.shared;
        if shared.is_full() || shared.suspended.is_cancelled() {
            return Err(InferenceError::Full);
        }
        if shared.dispatch.journal.is_away() {
            return Err(InferenceError::Store);
        }
        let id = shared.dispatch.entropy.task_id();
        let created = shared.dispatch.clock.calendar();
        let limit = request.deadline.unwrap_or(TIME_LIMIT).min(TIME_LIMIT);
        let model = request.model.clone();
        let max_tokens = request.max_tokens.unwrap_or(0);
        let body = serde_json::to_vec(&request.into_chat_request())
            .expect("a chat request has a JSON form");
        let record = InferenceRecord {
            account,
            model,
            state: TaskState::Submitted,
            created,
            expires: created.saturating_add(limit),
            prompt_tokens: u32::try_from(body.len() / 4).unwrap_or(u32::MAX),
            max_tokens,
            body: Some(shared.seal(&key(&id), &body)),
            finished: None,
            node: None,
            result: None,
            error: None,
        };
        let mut batch = Batch::new().create(key(&id), Document::encode(&record));
        let once = idempotency_key.map(|text| idempotency(&account, text));
        if let Some(once) = &once {
            let request = shared.seal(once, &Sha256::digest(&body));
            let value = IdempotencyRecord { task: id, request, created };
            batch = batch.create(once.clone(), Document::encode(&value));
        }
        let status = shared.status(id, &record);
        // A caller who leaves now leaves a task that runs, or none.
        match shared.start(id, record, Version(1), Some(batch)).await {
            Ok(Ok(())) => Ok(status),
            Ok(Err(CommitError::Store(StoreError::Conflict(_)))) if once.is_some() => {
                let once = once.expect("the guard has checked it");
                self.find_again(account, once, &body).await
            }
            Ok(Err(_)) | Err(_) => Err(InferenceError::Store),
        }
    }

    /// Returns how a task of `account` stands.
    pub async fn status(
        &self,
        account: AccountId,
        id: TaskId,
    ) -> Result<rest::InferenceStatus, InferenceError> {
        let (record, _) = self.shared.load(account, id).await?;
        Ok(self.shared.status(id, &record))
    }

    /// Cancels a task of `account` unless it is over, and returns how it stands then.
    pub async fn cancel(
        &self,
        account: AccountId,
        id: TaskId,
    ) -> Result<rest::InferenceStatus, InferenceError> {
        self.shared.load(account, id).await?;
        let over = self.shared.unfinished().get(&id).map(|progress| {
            progress.cancel.cancel();
            progress.over.clone()
        });
        if let Some(over) = over {
            over.cancelled().await;
        }
        self.status(account, id).await
    }

    /// Takes up every task that is not over and that nobody drives.
    ///
    /// That is all of them when the coordinator starts, and later those whose acceptance the
    /// store reported as failed and applied after all.
    pub(crate) async fn resume(&self) -> Result<(), StoreError> {
        let mut records = self.shared.store.scan(Key::all(INFERENCE));
        while let Some(record) = records.next().await {
            let Record { key, version, value } = record?;
            let Ok(id) = key.id().parse() else { continue };
            let record: InferenceRecord = value.decode()?;
            let driven = self.shared.unfinished().contains_key(&id);
            if !record.state.is_terminal() && !driven {
                drop(self.shared.start(id, record, version, None));
            }
        }
        Ok(())
    }

    /// Leaves unfinished tasks to the next start.
    pub(crate) fn suspend(&self) {
        self.shared.suspended.cancel();
    }

    /// Deletes results whose retention is over, and takes up tasks that nobody drives.
    pub(crate) async fn sweep(&self) {
        if let Err(error) = self.delete_old().await {
            tracing::warn!(%error, "old results could not be deleted");
        }
        if let Err(error) = self.resume().await {
            tracing::warn!(%error, "the durable tasks could not be looked through");
        }
    }

    async fn delete_old(&self) -> Result<(), CommitError> {
        let now = self.shared.dispatch.clock.calendar();
        let over = |since: Timestamp| now.saturating_since(since) >= self.shared.retention;
        let mut batch = Batch::new();
        let mut records = self.shared.store.scan(Key::all(INFERENCE));
        while let Some(record) = records.next().await {
            let record = record?;
            let decoded = record.value.decode::<InferenceRecord>();
            if decoded.is_ok_and(|decoded| decoded.finished.is_some_and(over)) {
                batch = batch.delete(record.key);
            }
        }
        let mut records = self.shared.store.scan(Key::all(IDEMPOTENCY));
        while let Some(record) = records.next().await {
            let record = record?;
            let decoded = record.value.decode::<IdempotencyRecord>();
            if decoded.is_ok_and(|decoded| over(decoded.created)) {
                batch = batch.delete(record.key);
            }
        }
        for writes in batch.writes.chunks(DELETED_TOGETHER) {
            self.shared.dispatch.journal.commit(Batch { writes: writes.to_vec() }).await?;
        }
        Ok(())
    }

    /// Returns the task that an idempotency key already stands for.
    async fn find_again(
        &self,
        account: AccountId,
        once: Key,
        body: &[u8],
    ) -> Result<rest::InferenceStatus, InferenceError> {
        let store = &self.shared.store;
        let known = store.get(once.clone()).await.map_err(|_| InferenceError::Store)?;
        let known = known.ok_or(InferenceError::Store)?;
        let known: IdempotencyRecord = known.value.decode().map_err(|_| InferenceError::Store)?;
        let request = self.shared.open(&once, &known.request).ok_or(InferenceError::Store)?;
        if request != Sha256::digest(body).as_slice() {
            return Err(InferenceError::KeyReused);
        }
        self.status(account, known.task).await
    }
}

impl fmt::Debug for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inference").finish_non_exhaustive()
    }
}

/// How a task ended, as far as its record shows.
struct Ending {
    state: TaskState,
    result: Option<rest::InferenceResult>,
    error: Option<TaskError>,
    node: Option<NodeId>,
}

impl Shared {
    /// Writes a task down, where that is still to be done, and drives it to its end, in a task of
    /// its own. Resolves when it is written down.
    fn start(
        self: &Arc<Self>,
        id: TaskId,
        record: InferenceRecord,
        version: Version,
        acceptance: Option<Batch>,
    ) -> oneshot::Receiver<Result<(), CommitError>> {
        let (cancel, over) = (CancellationToken::new(), CancellationToken::new());
        let bytes = record.body.as_ref().map_or(0, |body| body.0.len());
        let progress = Progress { bytes, cancel: cancel.clone(), over: over.clone(), node: None };
        self.unfinished().insert(id, progress);
        let (accepted, acceptance_of_caller) = oneshot::channel();
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let _over = over.drop_guard();
            let written = match acceptance {
                Some(batch) => shared.accept(id, version, batch).await,
                None => shared.still_at(id, version).await,
            };
            let go_on = written.is_ok();
            // The caller may have left; the task stays.
            let _ = accepted.send(written);
            if go_on && let Some((ended, settlement)) = shared.drive(id, &record, &cancel).await {
                shared.end(id, record, version, ended, settlement).await;
            }
            shared.unfinished().remove(&id);
        });
        acceptance_of_caller
    }

    /// Writes a new task down. A store may have applied what it did not live to confirm, and then
    /// refuses it the second time; so what stands there decides.
    async fn accept(&self, id: TaskId, version: Version, batch: Batch) -> Result<(), CommitError> {
        match self.dispatch.journal.commit(batch).await {
            Err(error @ CommitError::Store(_)) => {
                self.still_at(id, version).await.map_err(|_| error)
            }
            written => written,
        }
    }

    /// Checks that nobody has ended a task since its record was read.
    async fn still_at(&self, id: TaskId, version: Version) -> Result<(), CommitError> {
        match self.store.get(key(&id)).await? {
            Some(record) if record.version == version => Ok(()),
            _ => Err(StoreError::Conflict(key(&id)).into()),
        }
    }

    /// Carries a task out; `None` when the coordinator stops before it is over.
    async fn drive(
        &self,
        id: TaskId,
        record: &InferenceRecord,
        cancel: &CancellationToken,
    ) -> Option<(Ending, Option<Settlement>)> {
        let body = record.body.as_ref().and_then(|body| self.open(&key(&id), body));
        let Some(body) = body.map(Bytes::from) else { return Some((Ending::unreadable(), None)) };
        let mut attempts = Vec::new();
        loop {
            let turn = tokio::select! {
                biased;
                () = self.suspended.cancelled() => return None,
                // A task that is cancelled, or whose time is over, needs no turn to end.
                () = cancel.cancelled() => None,
                () = tokio::time::sleep(self.time_left(record)) => None,
                turn = self.at_work.take(self.dispatch.clock.now(), Priority::Batch) => Some(turn),
            };
            let request = self.request(id, record, body.clone());
            let mut handle = TaskHandle::new(Arc::clone(&self.dispatch), request, Books::Caller);
            let followed = tokio::select! {
                biased;
                () = self.suspended.cancelled() => return None,
                () = cancel.cancelled() => None,
                followed = self.follow(id, &mut handle) => Some(followed),
            };
            let (outcome, answer) = if let Some(followed) = followed {
                followed
            } else {
                handle.cancel();
                self.follow(id, &mut handle).await
            };
            let settlement =
                handle.take_settlement().map(|row| self.whole_row(row, record, &mut attempts));
            if !is_worth_another_try(&outcome) {
                return Some((ending(outcome, answer.as_deref(), handle.node()), settlement));
            }
            drop((turn, handle));
            // Nodes come back; the deadline ends the wait.
            tokio::select! {
                biased;
                () = tokio::time::sleep(ASK_AGAIN) => {}
                () = cancel.cancelled() => {}
                () = self.suspended.cancelled() => return None,
            }
        }
    }

    /// Makes the row of the last try the row of the task: its attempts, and its time since it was
    /// accepted.
    fn whole_row(
        &self,
        row: Settlement,
        record: &InferenceRecord,
        attempts: &mut Vec<Attempt>,
    ) -> Settlement {
        attempts.extend_from_slice(&row.attempts);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = self.dispatch.clock.calendar();
        Settlement {
            attempts: attempts.clone(),
            submitted: record.created,
            took_ms: millis(now.saturating_since(record.created)),
            limit_ms: millis(record.expires.saturating_since(record.created)),
            ..row
        }
    }

    fn time_left(&self, record: &InferenceRecord) -> Duration {
        record.expires.saturating_since(self.dispatch.clock.calendar())
    }

    fn request(&self, id: TaskId, record: &InferenceRecord, body: Bytes) -> TaskRequest {
        TaskRequest {
            id,
            account: record.account,
            operation: Operation::Chat,
            model: record.model.clone(),
            body,
            stream: false,
            prompt_tokens: record.prompt_tokens,
            max_tokens: record.max_tokens,
            abilities: Abilities::NONE,
            time_limit: self.time_left(record),
            priority: Priority::Batch,
            placement: Placement::default(),
        }
    }

    /// Reads a task to its end and returns its answer.
    async fn follow(&self, id: TaskId, handle: &mut TaskHandle) -> (Outcome, Option<Bytes>) {
        let mut answer = None;
        loop {
            match handle.next().await {
                Some(TaskEvent::Accepted { node }) => {
                    if let Some(progress) = self.unfinished().get_mut(&id) {
                        progress.node = Some(node);
                    }
                }
                Some(TaskEvent::Chunk(Chunk::Whole(whole))) => {
                    if Answer::read(&whole).is_some() {
                        answer = Some(whole);
                    } else {
                        handle.reject_answer();
                    }
                }
                Some(TaskEvent::Chunk(_) | TaskEvent::Sealed(_)) => handle.reject_answer(),
                Some(TaskEvent::Ended(outcome)) => return (outcome, answer),
                None => return (Outcome::Cancelled, answer),
            }
        }
    }

    /// Writes the end of a task down together with its settlement, however long that takes.
    async fn end(
        &self,
        id: TaskId,
        record: InferenceRecord,
        version: Version,
        ended: Ending,
        settlement: Option<Settlement>,
    ) {
        let result = ended.result.map(|result| {
            let text = serde_json::to_vec(&result).expect("a result has a JSON form");
            self.seal(&key(&id), &text)
        });
        let error = ended.error.map(|error| {
            let text = serde_json::to_vec(&error).expect("an error has a JSON form");
            self.seal(&key(&id), &text)
        });
        let record = InferenceRecord {
            state: ended.state,
            body: None,
            finished: Some(self.dispatch.clock.calendar()),
            node: ended.node,
            result,
            error,
            ..record
        };
        let mut batch = Batch::new().replace(key(&id), version, Document::encode(&record));
        if let Some(settlement) = &settlement {
            batch = batch.put(settlement.key(), settlement.document());
        }
        while let Err(error) = self.dispatch.journal.commit(batch.clone()).await {
            tracing::error!(%error, task = %id, "the end of a task could not be written down");
            match error {
                // An earlier attempt, reported as failed, was applied after all.
                CommitError::Store(StoreError::Conflict(_)) => break,
                // The task is left to the next start.
                CommitError::Closed => return,
                CommitError::Store(_) => {}
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        if let Some(settlement) = &settlement {
            self.dispatch.settled(settlement);
        }
    }

    async fn load(
        &self,
        account: AccountId,
        id: TaskId,
    ) -> Result<(InferenceRecord, Version), InferenceError> {
        let found = self.store.get(key(&id)).await.map_err(|_| InferenceError::Store)?;
        let found = found.ok_or(InferenceError::NotFound)?;
        let record: InferenceRecord = found.value.decode().map_err(|_| InferenceError::Store)?;
        // Another member's task does not exist.
        if record.account == account {
            Ok((record, found.version))
        } else {
            Err(InferenceError::NotFound)
        }
    }

    fn status(&self, id: TaskId, record: &InferenceRecord) -> rest::InferenceStatus {
        let running = self.unfinished().get(&id).and_then(|progress| progress.node);
        let state = match running {
            Some(_) if !record.state.is_terminal() => TaskState::Running,
            _ => record.state,
        };
        let opened = |sealed: &Option<Sealed>| self.open(&key(&id), sealed.as_ref()?);
        let error = opened(&record.error).and_then(|text| serde_json::from_slice(&text).ok());
        rest::InferenceStatus {
            id,
            status: state,
            created: record.created.as_secs(),
            finished: record.finished.map(Timestamp::as_secs),
            model: record.model.clone(),
            node: record.node.or(running),
            result: opened(&record.result).and_then(|text| serde_json::from_slice(&text).ok()),
            error: error.map(|error: TaskError| rest::InferenceError {
                code: error.code().to_owned(),
                message: error.to_string(),
            }),
        }
    }

    /// Returns whether as many tasks are unfinished as there is room for.
    fn is_full(&self) -> bool {
        let unfinished = self.unfinished();
        unfinished.len() >= UNFINISHED
            || unfinished.values().map(|progress| progress.bytes).sum::<usize>() >= HELD
    }

    fn seal(&self, place: &Key, text: &[u8]) -> Sealed {
        Sealed(data_encoding::BASE64_NOPAD.encode(&self.key.seal(place.as_str(), text)))
    }

    fn open(&self, place: &Key, sealed: &Sealed) -> Option<Vec<u8>> {
        let sealed = data_encoding::BASE64_NOPAD.decode(sealed.0.as_bytes()).ok()?;
        self.key.open(place.as_str(), &sealed).ok()
    }

    fn unfinished(&self) -> MutexGuard<'_, HashMap<TaskId, Progress>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ending {
    /// The end of a task whose prompt does not open any more.
    fn unreadable() -> Self {
        let message = "the prompt cannot be opened; the coordinator's key has changed".to_owned();
        let error = TaskError::Rejected { status: 410, code: None, param: None, message };
        Self { state: TaskState::Failed, result: None, error: Some(error), node: None }
    }
}

/// Returns whether a task should wait for other nodes.
const fn is_worth_another_try(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Failed(
            TaskError::NoNodeOnline { .. }
                | TaskError::NoNodeAble { .. }
                | TaskError::Busy { .. }
                | TaskError::ShuttingDown
                | TaskError::BooksFull
        )
    )
}

/// Turns an outcome into what the record says of it.
fn ending(outcome: Outcome, answer: Option<&[u8]>, node: Option<NodeId>) -> Ending {
    let state = outcome.state();
    match outcome {
        Outcome::Finished(finish) => {
            let text = answer.and_then(Answer::read).unwrap_or_default();
            let usage = finish.usage;
            let result = rest::InferenceResult {
                text,
                finish_reason: finish.reason,
                usage: usage_of(usage),
            };
            Ending { state, result: Some(result), error: None, node }
        }
        Outcome::Failed(error) => Ending { state, result: None, error: Some(error), node },
        Outcome::Cancelled | Outcome::Expired => Ending { state, result: None, error: None, node },
    }
}

fn usage_of(usage: Usage) -> iris_protocol::openai::Usage {
    usage.into()
}

/// The part of a chat completion that a durable task keeps.
#[derive(Deserialize)]
struct Answer {
    choices: Vec<AnswerChoice>,
}

#[derive(Deserialize)]
struct AnswerChoice {
    message: AnswerMessage,
}

#[derive(Deserialize)]
struct AnswerMessage {
    #[serde(default)]
    content: Option<String>,
}

impl Answer {
    /// Returns the text of the first choice; `None` when this is no answer.
    fn read(whole: &[u8]) -> Option<String> {
        let answer: Self = serde_json::from_slice(whole).ok()?;
        let choice = answer.choices.into_iter().next()?;
        Some(choice.message.content.unwrap_or_default())
    }
}

fn key(id: &TaskId) -> Key {
    Key::new(INFERENCE, id).expect("a task id is a key segment")
}

fn idempotency(account: &AccountId, text: &str) -> Key {
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()));
    Key::new(IDEMPOTENCY, format!("{account}-{hash}")).expect("digits are a key segment")
}
