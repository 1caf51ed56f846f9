//! Durable tasks: accepted once written down, resumed after a crash, ended exactly once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use iris_core::backend::Operation;
use iris_core::demand::Difficulty;
use iris_core::plan::{Decision, DecisionError, Plan, PlanError, PlanRun, Progress};
use iris_core::queue::Priority;
use iris_core::store::{Batch, Document, Key, Record, Store, StoreError, Version};
use iris_core::task::TaskState;
use iris_core::{AccountId, ModelName, NodeId, TaskId, Timestamp};
use iris_crypto::RecordKey;
use iris_protocol::openai::{Asked, Preferences, RequestError, with_model};
use iris_protocol::rest;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dispatch::{Dispatch, Payer, Routing};
use crate::journal::CommitError;
use crate::settlement::Settlement;
use crate::turns::Turns;

mod asking;
mod evidence;
mod explain;
mod latest;
mod live;
mod passing;
mod plan;
mod record;
mod single;
mod steps;

pub use evidence::Evidence;
pub use live::{Events, Followed};
pub use passing::PlanHandle;
pub(crate) use record::Sealed;

use asking::{ASK_AGAIN, Manner};
use explain::Passed;
use latest::Latest;
use live::Live;
use plan::{Decided, PATIENCE, Reins};
use record::{
    IDEMPOTENCY, INFERENCE, IdempotencyRecord, InferenceRecord, PlanReport, explained, idempotency,
    key,
};
use single::Ending;
use steps::Steps;

/// How many durable tasks, or steps of such, ask for nodes at a time, so that they leave room in
/// the line.
const AT_WORK: usize = 256;
/// The same for the steps of plans that end with their callers.
const PASSING: usize = 256;
/// How many durable tasks may be unfinished.
const UNFINISHED: usize = 100_000;
/// How many bytes their sealed prompts may have together, not counting the last one.
const HELD: usize = 256 << 20;
/// How many old records are deleted in one commit.
const DELETED_TOGETHER: usize = 256;
/// The time a task gets when its caller names none.
const TIME_LIMIT: Duration = Duration::from_mins(10);
/// The longest time of a plan, but for what it waits for persons.
const LONGEST_PLAN: Duration = Duration::from_hours(24);
/// How many decisions may be on their way to one plan.
const DECISIONS: usize = 4;

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
    at_work: Arc<Turns>,
    passing: Arc<Turns>,
    passed: Arc<Passed>,
    unfinished: Mutex<HashMap<TaskId, Unfinished>>,
    latest: Latest,
    /// Cancelled when the coordinator shuts down: unfinished tasks stay as they are.
    suspended: CancellationToken,
}

/// A task that is not over.
struct Unfinished {
    /// Length of the sealed prompt, which is held in memory.
    bytes: usize,
    /// Cancelled by the caller.
    cancel: CancellationToken,
    /// Cancelled when its driver has ended.
    over: CancellationToken,
    live: Arc<Live>,
    decisions: mpsc::Sender<Decided>,
}

/// The model of a task whose caller names none, and how it came to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The model.
    pub model: ModelName,
    /// How hard the task is, and which nodes may serve it.
    pub routing: Routing,
}

/// Makes a repeated submission the same task.
#[derive(Clone, Copy, Debug)]
pub struct Once<'a> {
    /// What the caller calls the submission.
    pub key: &'a str,
    /// The request, by which a different one under the same key is found out.
    pub request: &'a [u8],
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
    /// The question makes no sense.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The plan cannot be carried out.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The decision was not taken.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// Too many tasks are unfinished; worth trying again later.
    #[error("too many unfinished tasks; try again later")]
    Full,
    /// The store is away; worth trying again.
    #[error("the task could not be written down; try again")]
    Store,
}

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
            at_work: Arc::new(Turns::new(AT_WORK)),
            passing: Arc::new(Turns::new(PASSING)),
            passed: Arc::default(),
            unfinished: Mutex::new(HashMap::new()),
            latest: Latest::default(),
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
        payer: impl Into<Payer>,
        request: rest::InferenceRequest,
        idempotency_key: Option<&str>,
    ) -> Result<rest::InferenceStatus, InferenceError> {
        let (model, routing) = (request.model.clone(), Routing::default());
        self.submit_to(payer, request, Chosen { model, routing }, idempotency_key).await
    }

    /// Takes a task that is for another model than its request says, which names none; see
    /// [`submit`](Self::submit). The same request under the same key stays the same task, whatever
    /// model is chosen the second time.
    pub async fn submit_to(
        &self,
        payer: impl Into<Payer>,
        request: rest::InferenceRequest,
        chosen: Chosen,
        idempotency_key: Option<&str>,
    ) -> Result<rest::InferenceStatus, InferenceError> {
        let shared = &self.shared;
        let id = shared.dispatch.entropy.task_id();
        let created = shared.dispatch.clock.calendar();
        let Chosen { model, routing } = chosen;
        let usual = routing.difficulty.map_or(TIME_LIMIT, Difficulty::time_limit);
        let limit = request.deadline.unwrap_or(usual).min(TIME_LIMIT);
        let priority = request.priority;
        let max_tokens = request.max_tokens.unwrap_or(0);
        let body = serde_json::to_vec(&request.into_chat_request())
            .expect("a chat request has a JSON form");
        Asked::read(Operation::Chat, &body)?;
        let named = with_model(&body, &model)?;
        let record = InferenceRecord {
            prompt_tokens: u32::try_from(body.len() / 4).unwrap_or(u32::MAX),
            max_tokens,
            routing,
            body: Some(Sealed::new(&shared.key, &key(&id), &named)),
            priority: priority.unwrap_or(Priority::Batch),
            ..InferenceRecord::new(payer.into(), model, created, created.saturating_add(limit))
        };
        let once = idempotency_key.map(|key| Once { key, request: &body });
        self.accept(id, record, once).await
    }

    /// Takes a task that is divided; see [`submit`](Self::submit).
    ///
    /// Each step goes to nodes that meet the caller's `wishes`. A plan that names no time gets ten
    /// minutes, and no plan more than a day. What it waits for persons does not count; for them it
    /// waits up to 30 days.
    pub async fn submit_plan(
        &self,
        payer: impl Into<Payer>,
        mut plan: Plan,
        wishes: &Preferences,
        priority: Priority,
        once: Option<Once<'_>>,
    ) -> Result<rest::InferenceStatus, InferenceError> {
        plan.check()?;
        let shared = &self.shared;
        let id = shared.dispatch.entropy.task_id();
        let created = shared.dispatch.clock.calendar();
        let seconds = plan.budget.seconds.unwrap_or(TIME_LIMIT.as_secs());
        let seconds = seconds.min(LONGEST_PLAN.as_secs());
        plan.budget.seconds = Some(seconds);
        let limit = Duration::from_secs(seconds);
        let limit = if plan::waits_for_persons(&plan) { limit + PATIENCE } else { limit };
        let model = plan.models().next().cloned().ok_or_else(|| PlanError {
            at: "steps".to_owned(),
            what: "no step asks a model; at least one has to".to_owned(),
        })?;
        let record = InferenceRecord {
            mode: Some(plan.mode),
            plan: Some(Sealed::json(&shared.key, &key(&id), &plan)),
            wishes: Some(Sealed::json(&shared.key, &key(&id), wishes)),
            priority,
            ..InferenceRecord::new(payer.into(), model, created, created.saturating_add(limit))
        };
        self.accept(id, record, once).await
    }

    /// Starts a plan for somebody who waits for it.
    pub(crate) fn pass(
        &self,
        task: TaskId,
        payer: Payer,
        run: PlanRun,
        wishes: Preferences,
    ) -> PlanHandle {
        let shared = &self.shared;
        let (dispatch, turns) = (Arc::clone(&shared.dispatch), Arc::clone(&shared.passing));
        shared.passed.begun(task, payer.account, explain::outline(run.plan()));
        let steps = Steps::new(
            Arc::clone(&dispatch),
            payer,
            wishes,
            // Its parts stand in line for as long as the plan may take.
            Priority::High,
            Manner::Passing(turns),
            CancellationToken::new(),
        );
        PlanHandle::new(dispatch, task, run, steps, Arc::clone(&shared.passed))
    }

    async fn accept(
        &self,
        id: TaskId,
        record: InferenceRecord,
        once: Option<Once<'_>>,
    ) -> Result<rest::InferenceStatus, InferenceError> {
        let shared = &self.shared;
        if shared.is_full() || shared.suspended.is_cancelled() {
            return Err(InferenceError::Full);
        }
        if shared.dispatch.journal.is_away() {
            return Err(InferenceError::Store);
        }
        let (account, created) = (record.account, record.created);
        let mut batch = Batch::new().create(key(&id), Document::encode(&record));
        let place = once.map(|once| idempotency(&account, once.key));
        if let (Some(place), Some(once)) = (&place, once) {
            let request = Sealed::new(&shared.key, place, &Sha256::digest(once.request));
            let value = IdempotencyRecord { task: id, request, created };
            batch = batch.create(place.clone(), Document::encode(&value));
        }
        let status = shared.status(id, &record);
        // A caller who leaves now leaves a task that runs, or none.
        match (shared.start(id, record, Version(1), Some(batch)).await, place, once) {
            (Ok(Ok(())), ..) => Ok(status),
            (Ok(Err(CommitError::Store(StoreError::Conflict(_)))), Some(place), Some(once)) => {
                self.find_again(account, place, once.request).await
            }
            _ => Err(InferenceError::Store),
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

    /// Returns the tasks of `account` that are known, the latest first, at most a hundred.
    pub async fn list(&self, account: AccountId) -> Result<Vec<rest::TaskSummary>, InferenceError> {
        let mut tasks = Vec::new();
        for id in self.shared.latest.of(account) {
            match self.shared.load(account, id).await {
                Ok((record, _)) => tasks.push(self.shared.summary(id, &record)),
                // Its retention is over, or its acceptance was never written down.
                Err(InferenceError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(tasks)
    }

    /// Tells what happens to a task of `account`, from its beginning.
    pub async fn follow(&self, account: AccountId, id: TaskId) -> Result<Events, InferenceError> {
        let (record, _) = self.shared.load(account, id).await?;
        let live = self.shared.live(&id);
        match live {
            Some(live) if !record.state.is_terminal() => Ok(live.follow()),
            _ => {
                // It may have ended since it was read.
                let (record, _) = self.shared.load(account, id).await?;
                Ok(Events::over(self.shared.retold(id, &record)))
            }
        }
    }

    /// Hands a person's decision to a plan of `account`; resolves once it is written down.
    pub async fn decide(
        &self,
        account: AccountId,
        id: TaskId,
        decision: Decision,
    ) -> Result<rest::InferenceStatus, InferenceError> {
        self.shared.load(account, id).await?;
        let (written, is_written) = oneshot::channel();
        let decisions = {
            let unfinished = self.shared.unfinished();
            let task = unfinished.get(&id).ok_or(DecisionError::NotWaiting)?;
            task.live.take_review(&decision)?;
            task.decisions.clone()
        };
        let sent = decisions.send((decision, written)).await;
        sent.map_err(|_| InferenceError::Store)?;
        is_written.await.map_err(|_| InferenceError::Store)?;
        self.status(account, id).await
    }

    /// Returns why a task of `account` was carried out as it was.
    pub async fn explain(
        &self,
        account: AccountId,
        id: TaskId,
    ) -> Result<rest::Explanation, InferenceError> {
        let shared = &self.shared;
        let choices = shared.dispatch.explanations(&id, &account);
        if let Some(explanation) = rest::Explanation::new(id, &choices) {
            return Ok(explanation);
        }
        let (outline, tasks) = if let Some(found) = shared.passed.find(&id, &account) {
            found
        } else {
            let (record, _) = shared.load(account, id).await?;
            let found = shared.outline(id, &record).ok_or(InferenceError::NotFound)?;
            (found.0, explain::tasks(&found.1))
        };
        let steps = explain::steps(&shared.dispatch, &account, tasks);
        Ok(rest::Explanation::of_plan(id, outline, steps))
    }

    /// Cancels a task of `account` unless it is over, and returns how it stands then.
    pub async fn cancel(
        &self,
        account: AccountId,
        id: TaskId,
    ) -> Result<rest::InferenceStatus, InferenceError> {
        self.shared.load(account, id).await?;
        let over = self.shared.unfinished().get(&id).map(|task| {
            task.cancel.cancel();
            task.over.clone()
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
            self.shared.latest.add(record.account, record.created, id);
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
            let Ok(decoded) = decoded else { continue };
            if decoded.finished.is_some_and(over) {
                if let Ok(id) = record.key.id().parse() {
                    self.shared.latest.forget(decoded.account, decoded.created, id);
                }
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
        let batch = self.shared.forget_stray_events(batch).await?;
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
        let request = known.request.open(&self.shared.key, &once).ok_or(InferenceError::Store)?;
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
        let (live, (decide, decisions)) = (Live::new(), mpsc::channel(DECISIONS));
        let task = Unfinished {
            bytes: record.held(),
            cancel: cancel.clone(),
            over: over.clone(),
            live: Arc::clone(&live),
            decisions: decide,
        };
        self.unfinished().insert(id, task);
        let (account, created) = (record.account, record.created);
        self.latest.add(account, created, id);
        let (accepted, acceptance_of_caller) = oneshot::channel();
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let _over = over.drop_guard();
            let written = match acceptance {
                Some(batch) => shared.accept(id, version, batch).await,
                None => shared.still_at(id, version).await,
            };
            let go_on = written.is_ok();
            if !go_on {
                shared.latest.forget(account, created, id);
            }
            // The caller may have left; the task stays.
            let _ = accepted.send(written);
            if go_on {
                let reins = Reins { live: Arc::clone(&live), cancel, decisions };
                shared.carry_through(id, record, version, reins).await;
            }
            shared.unfinished().remove(&id);
            live.close();
        });
        acceptance_of_caller
    }

    /// Carries a task to its end, unless the coordinator stops before.
    async fn carry_through(
        &self,
        id: TaskId,
        record: InferenceRecord,
        version: Version,
        reins: Reins,
    ) {
        let live = Arc::clone(&reins.live);
        let ended = if record.plan.is_some() {
            self.carry_out(id, &record, reins).await.map(|ending| (ending, None))
        } else {
            self.ask(id, &record, &live, &reins.cancel).await
        };
        let Some((ending, settlement)) = ended else { return };
        let end = ending.as_end();
        if self.end(id, record, version, ending, settlement).await {
            live.tell(None, &Progress::Ended(end));
        }
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

    /// Writes the end of a task down together with its settlement, however long that takes; false
    /// when the coordinator stops before.
    async fn end(
        &self,
        id: TaskId,
        record: InferenceRecord,
        version: Version,
        ended: Ending,
        settlement: Option<Settlement>,
    ) -> bool {
        let (place, divided) = (key(&id), record.plan.is_some());
        let record = InferenceRecord {
            node: ended.node,
            result: ended.result.map(|result| Sealed::json(&self.key, &place, &result)),
            error: ended.error.map(|error| Sealed::json(&self.key, &place, &error)),
            report: ended.report.map(|report| Sealed::json(&self.key, &place, &report)),
            ..record.over(ended.state, self.dispatch.clock.calendar())
        };
        let mut batch = Batch::new().replace(place, version, Document::encode(&record));
        if let Some(settlement) = &settlement {
            batch = self.dispatch.histories.write(settlement, batch);
        }
        if divided {
            let Some(forgetting) = self.forget_events(id, batch).await else { return false };
            batch = forgetting;
        }
        while let Err(error) = self.dispatch.journal.commit(batch.clone()).await {
            tracing::error!(%error, task = %id, "the end of a task could not be written down");
            match error {
                // An earlier attempt, reported as failed, was applied after all.
                CommitError::Store(StoreError::Conflict(_)) => break,
                // The task is left to the next start.
                CommitError::Closed => return false,
                CommitError::Store(_) => {}
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        if let Some(settlement) = &settlement {
            self.dispatch.settled(settlement);
        }
        true
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

    /// Returns a task as its followers see it, and how far it is.
    fn standing(
        &self,
        id: TaskId,
        record: &InferenceRecord,
    ) -> (Option<Arc<Live>>, Option<NodeId>, TaskState) {
        let live = self.live(&id).filter(|_| !record.state.is_terminal());
        let node = live.as_ref().and_then(|live| live.node());
        let state = match node {
            Some(_) => TaskState::Running,
            None if live.is_some() && record.mode.is_some() => TaskState::Planned,
            None => record.state,
        };
        (live, record.node.or(node), state)
    }

    fn summary(&self, id: TaskId, record: &InferenceRecord) -> rest::TaskSummary {
        let (live, node, status) = self.standing(id, record);
        rest::TaskSummary {
            id,
            status,
            created: record.created.as_secs(),
            finished: record.finished.map(Timestamp::as_secs),
            model: record.model.clone(),
            node,
            mode: record.mode,
            waits: live.is_some_and(|live| live.waits()),
        }
    }

    fn status(&self, id: TaskId, record: &InferenceRecord) -> rest::InferenceStatus {
        let place = key(&id);
        let (live, node, status) = self.standing(id, record);
        let error = record.error.as_ref().and_then(|error| error.read(&self.key, &place));
        let mut status = rest::InferenceStatus {
            id,
            status,
            created: record.created.as_secs(),
            finished: record.finished.map(Timestamp::as_secs),
            model: record.model.clone(),
            node,
            result: record.result.as_ref().and_then(|result| result.read(&self.key, &place)),
            error: error.as_ref().map(explained),
            mode: record.mode,
            steps: Vec::new(),
            usage: None,
            partial: None,
            reviews: Vec::new(),
            place_in_line: live.as_ref().and_then(|_| self.dispatch.place_in_line(&id)),
        };
        if let Some(report) = self.report(id, record) {
            report.describe(&mut status);
        } else if let Some(live) = live.filter(|_| record.mode.is_some()) {
            live.describe(&mut status);
        }
        status
    }

    /// Returns what came of a plan that is over.
    fn report(&self, id: TaskId, record: &InferenceRecord) -> Option<PlanReport> {
        record.report.as_ref()?.read(&self.key, &key(&id))
    }

    /// Returns a plan as a person reads it, and its units as they stand.
    fn outline(
        &self,
        id: TaskId,
        record: &InferenceRecord,
    ) -> Option<(rest::Outline, Vec<iris_core::plan::UnitReport>)> {
        if let Some(report) = self.report(id, record) {
            return Some((report.outline, report.units));
        }
        let plan: Plan = record.plan.as_ref()?.read(&self.key, &key(&id))?;
        let units = self.live(&id).map(|live| live.units()).unwrap_or_default();
        Some((explain::outline(&plan), units))
    }

    /// Tells of a task that is over what is still known.
    fn retold(&self, id: TaskId, record: &InferenceRecord) -> Vec<Progress> {
        if let Some(report) = self.report(id, record) {
            let end = Progress::Ended(report.end);
            return live::retold(&report.units).chain([end]).collect();
        }
        if !record.state.is_terminal() {
            return Vec::new();
        }
        let place = key(&id);
        let result = record.result.as_ref().and_then(|result| result.read(&self.key, &place));
        let error = record.error.as_ref().and_then(|error| error.read(&self.key, &place));
        vec![Progress::Ended(single::end(record.state, result, error))]
    }

    fn live(&self, id: &TaskId) -> Option<Arc<Live>> {
        self.unfinished().get(id).map(|task| Arc::clone(&task.live))
    }

    /// Returns whether as many tasks are unfinished as there is room for.
    fn is_full(&self) -> bool {
        let unfinished = self.unfinished();
        unfinished.len() >= UNFINISHED
            || unfinished.values().map(|task| task.bytes).sum::<usize>() >= HELD
    }

    fn unfinished(&self) -> MutexGuard<'_, HashMap<TaskId, Unfinished>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
