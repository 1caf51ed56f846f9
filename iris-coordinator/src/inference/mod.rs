//! Durable tasks: accepted once written down, resumed after a crash, ended exactly once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iris_core::plan::{Decision, DecisionError, PlanError, PlanRun};
use iris_core::queue::Priority;
use iris_core::store::{Store, Version};
use iris_core::{AccountId, TaskId};
use iris_crypto::RecordKey;
use iris_protocol::openai::{Preferences, RequestError};
use iris_protocol::rest;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dispatch::{Dispatch, Payer};
use crate::turns::Turns;

mod asking;
mod describe;
mod drive;
mod evidence;
mod explain;
mod latest;
mod live;
mod passing;
mod plan;
mod record;
mod single;
mod steps;
mod submission;
mod sweep;

pub use evidence::Evidence;
pub use live::{Events, Followed};
pub use passing::PlanHandle;
pub(crate) use record::Sealed;
pub use submission::{Chosen, Once};

use asking::Manner;
use explain::Passed;
use latest::Latest;
use live::Live;
use plan::Decided;
use record::{InferenceRecord, key};
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

    /// Leaves unfinished tasks to the next start.
    pub(crate) fn suspend(&self) {
        self.shared.suspended.cancel();
    }
}

impl fmt::Debug for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inference").finish_non_exhaustive()
    }
}

impl Shared {
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
