//! Tasks of one question.

use std::sync::Arc;

use bytes::Bytes;
use iris_core::backend::{Chunk, Operation};
use iris_core::model::Abilities;
use iris_core::plan::{Number, Output, Placed, PlanEnd, Progress, StepError};
use iris_core::task::{Outcome, TaskError, TaskState};
use iris_core::{NodeId, TaskId};
use iris_protocol::openai::Asked;
use iris_protocol::rest;
use tokio_util::sync::CancellationToken;

use super::asking::{Asking, Manner, Said};
use super::live::Live;
use super::record::{InferenceRecord, PlanReport, key};
use super::{Shared, steps};
use crate::dispatch::{Placement, TaskRequest};
use crate::settlement::Settlement;

/// What the only unit of an undivided task is called.
pub(super) const UNIT: &str = "answer";

/// How a task ended, as far as its record shows.
pub(super) struct Ending {
    pub(super) state: TaskState,
    pub(super) result: Option<rest::InferenceResult>,
    pub(super) error: Option<TaskError>,
    pub(super) node: Option<NodeId>,
    /// What came of the plan of a divided task.
    pub(super) report: Option<PlanReport>,
}

impl Shared {
    /// Carries a task of one question out; `None` when the coordinator stops before it is over.
    pub(super) async fn ask(
        &self,
        id: TaskId,
        record: &InferenceRecord,
        live: &Live,
        cancel: &CancellationToken,
    ) -> Option<(Ending, Option<Settlement>)> {
        let body = record.body.as_ref().and_then(|body| body.open(&self.key, &key(&id)));
        let Some(body) = body.map(Bytes::from) else { return Some((Ending::unreadable(), None)) };
        let mut asking = Asking::new(
            Arc::clone(&self.dispatch),
            request(id, record, &body),
            Manner::Durable(Arc::clone(&self.at_work)),
            record.created,
            record.expires,
        );
        let mut answer = None;
        loop {
            let said = tokio::select! {
                biased;
                () = self.suspended.cancelled() => return None,
                () = cancel.cancelled(), if !asking.is_cancelled() => {
                    asking.cancel();
                    continue;
                }
                said = asking.next() => said,
            };
            match said {
                Said::Accepted(node) => live.tell(None, &accepted(id, record, node)),
                Said::Chunk(Chunk::Whole(whole)) => match steps::read(&whole) {
                    Some(message) => answer = message.content,
                    None => asking.reject(),
                },
                Said::Chunk(_) => asking.reject(),
                Said::Over(outcome, settlement) => {
                    let row = settlement.map(|row| *row);
                    return Some((Ending::new(outcome, answer, asking.node()), row));
                }
            }
        }
    }
}

fn request(id: TaskId, record: &InferenceRecord, body: &Bytes) -> TaskRequest {
    // Which nodes may answer, and what data set it takes, lies sealed with the prompt.
    let asked = Asked::read(Operation::Chat, body).ok();
    let body = asked.as_ref().map_or_else(|| body.clone(), |asked| asked.body_for_nodes(body));
    let placement = asked.map(|asked| Placement::new(asked.preferences, asked.dataset));
    TaskRequest {
        id,
        account: record.account,
        key: record.key,
        operation: Operation::Chat,
        model: record.model.clone(),
        body,
        stream: false,
        prompt_tokens: record.prompt_tokens,
        max_tokens: record.max_tokens,
        abilities: Abilities::NONE,
        time_limit: std::time::Duration::ZERO,
        priority: record.priority,
        placement: placement.unwrap_or_default(),
        routing: record.routing,
    }
}

fn accepted(id: TaskId, record: &InferenceRecord, node: NodeId) -> Progress {
    Progress::Started {
        unit: UNIT.to_owned(),
        number: Number(0),
        model: record.model.clone(),
        placed: Placed { node: Some(node), task: Some(id), points: None },
    }
}

impl Ending {
    fn new(outcome: Outcome, answer: Option<String>, node: Option<NodeId>) -> Self {
        let state = outcome.state();
        let (result, error) = match outcome {
            Outcome::Finished(finish) => {
                let (text, usage) = (answer.unwrap_or_default(), steps::usage_of(finish.usage));
                let finish_reason = finish.reason;
                (Some(rest::InferenceResult { text, finish_reason, usage }), None)
            }
            Outcome::Failed(error) => (None, Some(error)),
            Outcome::Cancelled | Outcome::Expired => (None, None),
        };
        Self { state, result, error, node, report: None }
    }

    /// The end of a task whose prompt does not open any more.
    pub(super) fn unreadable() -> Self {
        let message = "the prompt cannot be opened; the coordinator's key has changed".to_owned();
        let error = TaskError::Rejected { status: 410, code: None, param: None, message };
        Self {
            state: TaskState::Failed,
            result: None,
            error: Some(error),
            node: None,
            report: None,
        }
    }

    /// Returns the end as followers are told it.
    pub(super) fn as_end(&self) -> PlanEnd {
        match &self.report {
            Some(report) => report.end.clone(),
            None => end(self.state, self.result.clone(), self.error.clone()),
        }
    }
}

/// Returns the end of an undivided task as those of divided ones are told.
pub(super) fn end(
    state: TaskState,
    result: Option<rest::InferenceResult>,
    error: Option<TaskError>,
) -> PlanEnd {
    let failed = |error| PlanEnd::Failed { step: UNIT.to_owned(), error };
    let tokens = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    match (state, result, error) {
        (_, Some(result), _) => PlanEnd::Finished {
            output: Output {
                text: result.text,
                finish_reason: result.finish_reason,
                usage: iris_core::backend::Usage {
                    prompt_tokens: tokens(result.usage.prompt_tokens),
                    completion_tokens: tokens(result.usage.completion_tokens),
                },
            },
        },
        (_, None, Some(error)) => failed(StepError::Task { error }),
        (TaskState::Expired, None, None) => failed(StepError::Expired),
        (_, None, None) => PlanEnd::Cancelled,
    }
}
