//! Taking durable tasks: each is written down before its caller hears of it, and once.

use std::time::Duration;

use iris_core::backend::Operation;
use iris_core::demand::Difficulty;
use iris_core::plan::{Plan, PlanError};
use iris_core::queue::Priority;
use iris_core::store::{Batch, Document, Key, StoreError, Version};
use iris_core::{AccountId, ModelName, TaskId};
use iris_protocol::openai::{Asked, Preferences, with_model};
use iris_protocol::rest;
use sha2::{Digest, Sha256};

use super::plan::PATIENCE;
use super::record::{IdempotencyRecord, InferenceRecord, Sealed, idempotency, key};
use super::{Inference, InferenceError, plan};
use crate::dispatch::{Payer, Routing};
use crate::journal::CommitError;

/// The time a task gets when its caller names none.
const TIME_LIMIT: Duration = Duration::from_mins(10);
/// The longest time of a plan, but for what it waits for persons.
const LONGEST_PLAN: Duration = Duration::from_hours(24);

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

impl Inference {
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
