use std::time::Duration;

use iris_core::TaskId;
use iris_core::plan::{Decision, Plan};
use iris_core::queue::Priority;
use iris_protocol::rest::{Explanation, InferenceRequest, InferenceStatus};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::following::TaskEvents;
use crate::retry;

const FIRST_POLL: Duration = Duration::from_millis(100);
/// The longest wait that a caller may ask for; clocks do not reach much further.
const LONGEST: Duration = Duration::from_hours(365 * 24);
const SLOWEST_POLL: Duration = Duration::from_secs(2);

/// Operations on tasks, from [`Client::tasks`].
///
/// A task is durable: once submitted it is carried out even if the coordinator crashes or the
/// caller goes away, and it ends in exactly one way.
#[derive(Clone, Copy, Debug)]
pub struct Tasks<'a> {
    client: &'a Client,
}

impl<'a> Tasks<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Submits a task. A fresh idempotency key makes retries within this call one task.
    pub async fn submit(&self, request: &InferenceRequest) -> Result<InferenceStatus, ClientError> {
        self.hand_in(request, None).await
    }

    /// Submits a plan, which the coordinator carries out, and reads.
    pub async fn submit_plan(
        &self,
        plan: &Plan,
        priority: Priority,
    ) -> Result<InferenceStatus, ClientError> {
        self.hand_in(&json!({ "plan": plan, "priority": priority }), None).await
    }

    /// Submits a task that `key` stands for: whoever submits with the same key again, even after
    /// a restart, gets the same task.
    pub async fn submit_once(
        &self,
        request: &InferenceRequest,
        key: &str,
    ) -> Result<InferenceStatus, ClientError> {
        self.hand_in(request, Some(key)).await
    }

    /// Submits a task in its form on the wire.
    pub(crate) async fn hand_in(
        &self,
        request: &impl Serialize,
        key: Option<&str>,
    ) -> Result<InferenceStatus, ClientError> {
        let call = Call::post("inference", request);
        let mut fresh = [0; 16];
        let call = match (key, getrandom::fill(&mut fresh)) {
            (Some(key), _) => call.with_idempotency_key(key),
            (None, Ok(())) => call.with_idempotency_key(TaskId::from_bytes(fresh).to_string()),
            // Without randomness two tasks could share a key; one attempt is safer.
            (None, Err(_)) => call,
        };
        Ok(self.client.call(call).await?.0)
    }

    /// Returns where a task stands.
    pub async fn status(&self, task: TaskId) -> Result<InferenceStatus, ClientError> {
        Ok(self.client.call(Call::get(format!("inference/{task}"))).await?.0)
    }

    /// Withdraws a task. One that has ended stays as it is.
    pub async fn cancel(&self, task: TaskId) -> Result<InferenceStatus, ClientError> {
        Ok(self.client.call(Call::delete(format!("inference/{task}"))).await?.0)
    }

    /// Returns why a task went to its node.
    pub async fn explain(&self, task: TaskId) -> Result<Explanation, ClientError> {
        Ok(self.client.call(Call::get(format!("inference/{task}/explain"))).await?.0)
    }

    /// Decides a step that waits for a person, and returns where the task stands then.
    pub async fn review(
        &self,
        task: TaskId,
        decision: &Decision,
    ) -> Result<InferenceStatus, ClientError> {
        let call = Call::post(format!("inference/{task}/review"), decision);
        Ok(self.client.call(call).await?.0)
    }

    /// Tells what happens to a task, as it happens, from its beginning on.
    pub async fn follow(&self, task: TaskId) -> Result<TaskEvents, ClientError> {
        let response =
            self.client.event_stream(Call::get(format!("inference/{task}/events"))).await?;
        Ok(TaskEvents::new(response, self.client.settings().idle_timeout))
    }

    /// Waits until a task has ended, at most for `limit`; the task goes on after that.
    ///
    /// Asks for the status, at first after a tenth of a second, later every two seconds, or as
    /// the coordinator's `Retry-After` says. Passing failures are waited out.
    pub async fn wait(
        &self,
        task: TaskId,
        limit: Duration,
    ) -> Result<InferenceStatus, ClientError> {
        let deadline = Instant::now() + limit.min(LONGEST);
        let waited = timeout_at(deadline, self.poll(task)).await;
        waited.unwrap_or(Err(ClientError::Timeout(limit)))
    }

    async fn poll(&self, task: TaskId) -> Result<InferenceStatus, ClientError> {
        let mut pause = FIRST_POLL;
        loop {
            let call = Call::get(format!("inference/{task}")).once();
            let advice = match self.client.call::<InferenceStatus>(call).await {
                Ok((status, _)) if status.status.is_terminal() => return Ok(status),
                Ok((_, headers)) => retry::retry_after(&headers),
                Err(error) if error.is_passing() => error.retry_after(),
                Err(error) => return Err(error),
            };
            sleep(advice.unwrap_or_else(|| retry::jittered(pause))).await;
            pause = (pause * 3 / 2).min(SLOWEST_POLL);
        }
    }
}
