//! Having nodes do the assignments of a plan.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use iris_core::NodeId;
use iris_core::backend::{Chunk, Finish, Operation, Usage};
use iris_core::plan::{Assignment, Number, Output, Placed, Plan, Report, StepError};
use iris_core::queue::Priority;
use iris_core::task::{Outcome, TaskError};
use iris_protocol::openai::Preferences;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::asking::{Asking, Manner, Said};
use crate::dispatch::{Apart, Dispatch, Payer, Placement, Routing, TaskRequest};
use crate::settlement::Settlement;

/// Starts the assignments of one plan: each is a task of its own.
pub(super) struct Steps {
    dispatch: Arc<Dispatch>,
    payer: Payer,
    /// Which nodes the caller wants.
    wishes: Preferences,
    priority: Priority,
    manner: Manner,
    /// Cancelled when the coordinator stops: nothing is settled then.
    suspended: CancellationToken,
    groups: Mutex<BTreeMap<u32, Arc<Apart>>>,
    rows: Rows,
}

/// The rows of assignments that have ended, until they are written.
type Rows = Arc<Mutex<BTreeMap<Number, Settlement>>>;

impl Steps {
    pub(super) fn new(
        dispatch: Arc<Dispatch>,
        payer: Payer,
        wishes: Preferences,
        priority: Priority,
        manner: Manner,
        suspended: CancellationToken,
    ) -> Self {
        let (groups, rows) = (Mutex::default(), Rows::default());
        Self { dispatch, payer, wishes, priority, manner, suspended, groups, rows }
    }

    /// Starts an assignment; dropping the stream gives it up.
    pub(super) fn start(&self, assignment: &Assignment) -> BoxStream<'static, Report> {
        let number = assignment.number;
        let (request, limit) = (self.request(assignment), assignment.time_limit);
        let created = self.dispatch.clock.calendar();
        let expires = created.saturating_add(limit);
        let placed = Placed { task: Some(request.id), ..Placed::default() };
        let asking =
            Asking::new(Arc::clone(&self.dispatch), request, self.manner.clone(), created, expires);
        let step = Step {
            dispatch: Arc::clone(&self.dispatch),
            asking,
            number,
            streams: assignment.streams,
            placed,
            answer: Answer::default(),
            rows: Arc::clone(&self.rows),
            suspended: self.suspended.clone(),
            over: false,
        };
        stream::unfold(step, |mut step| async move { Some((step.next().await?, step)) }).boxed()
    }

    /// Takes the row of an assignment that has ended, for its driver to write.
    pub(super) fn take_row(&self, number: Number) -> Option<Settlement> {
        lock(&self.rows).remove(&number)
    }

    fn request(&self, assignment: &Assignment) -> TaskRequest {
        let body = assignment.body(assignment.streams);
        // As for any chat. Pieces of documents are cut by a more careful estimate, and fit.
        let prompt_tokens = u32::try_from(body.len() / 4).unwrap_or(u32::MAX);
        TaskRequest {
            id: self.dispatch.entropy.task_id(),
            account: self.payer.account,
            key: self.payer.key,
            operation: Operation::Chat,
            model: assignment.model.clone(),
            body: body.into(),
            stream: assignment.streams,
            prompt_tokens,
            max_tokens: assignment.max_tokens.unwrap_or(0),
            abilities: assignment.abilities,
            time_limit: assignment.time_limit,
            priority: self.priority,
            placement: self.placement(assignment),
            routing: Routing::default(),
        }
    }

    /// Returns where an assignment may go: what its plan says and what its caller wants count both.
    fn placement(&self, assignment: &Assignment) -> Placement {
        let dataset = assignment.dataset.as_ref().map(|dataset| dataset.name.clone());
        let mut placement = Placement::new(self.wishes.clone(), dataset);
        if !assignment.nodes.is_empty() {
            let allowed = std::mem::replace(&mut placement.nodes, assignment.nodes.clone());
            let is_refused = |node: &&NodeId| !allowed.is_empty() && !allowed.contains(node);
            placement.denied.extend(assignment.nodes.iter().filter(is_refused).copied());
        }
        placement.exclude.clone_from(&assignment.exclude);
        placement.apart = assignment.apart.map(|group| self.apart(group));
        placement
    }

    /// Returns what keeps the assignments of a group on nodes of different owners.
    fn apart(&self, group: u32) -> Arc<Apart> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(groups.entry(group).or_default())
    }
}

/// One assignment on its way.
struct Step {
    dispatch: Arc<Dispatch>,
    asking: Asking,
    number: Number,
    streams: bool,
    placed: Placed,
    answer: Answer,
    rows: Rows,
    suspended: CancellationToken,
    over: bool,
}

/// What came of an answer.
#[derive(Default)]
struct Answer {
    text: String,
    /// Whether all of it came at once.
    whole: bool,
    calls_tools: bool,
}

impl Step {
    async fn next(&mut self) -> Option<Report> {
        while !self.over {
            match self.asking.next().await {
                Said::Accepted(node) => {
                    if !self.streams {
                        self.answer = Answer::default();
                    }
                    self.placed.node = Some(node);
                    self.placed.points = self.dispatch.points_of(&node);
                    return Some(Report::Started(self.placed.clone()));
                }
                Said::Chunk(chunk) => match self.answer.take_in(&chunk, self.streams) {
                    Ok(Some(text)) => return Some(Report::Text(text)),
                    Ok(None) => {}
                    Err(NoAnswer) => self.asking.reject(),
                },
                Said::Over(outcome, row) => {
                    self.over = true;
                    if let Some(row) = row {
                        lock(&self.rows).insert(self.number, *row);
                    }
                    let answer = std::mem::take(&mut self.answer);
                    return Some(Report::Ended(self.placed.clone(), answer.conclude(outcome)));
                }
            }
        }
        None
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // Whoever is resumed asks anew, and settles that.
        if self.over || self.suspended.is_cancelled() {
            return;
        }
        if let Some(row) = self.asking.give_up() {
            self.dispatch.settled(&row);
            self.dispatch.write_down(&row, None);
        }
    }
}

/// A node sent what is no part of an answer.
struct NoAnswer;

impl Answer {
    /// Takes a piece in; returns what of it is new text, where that is passed on.
    fn take_in(&mut self, chunk: &Chunk, streams: bool) -> Result<Option<String>, NoAnswer> {
        match chunk {
            Chunk::Text(text) if streams => {
                self.push(text)?;
                Ok((!text.is_empty()).then(|| text.clone()))
            }
            Chunk::Json(json) if streams => {
                let delta: Deltas = serde_json::from_slice(json).map_err(|_| NoAnswer)?;
                let delta = delta.choices.into_iter().next().and_then(|choice| choice.delta);
                let delta = delta.unwrap_or_default();
                self.calls_tools |= delta.tool_calls.is_some_and(|calls| !calls.is_empty());
                let text = delta.content.filter(|text| !text.is_empty());
                self.push(text.as_deref().unwrap_or_default())?;
                Ok(text)
            }
            Chunk::Whole(whole) if !streams => {
                let message = read(whole).ok_or(NoAnswer)?;
                self.calls_tools = message.tool_calls.is_some_and(|calls| !calls.is_empty());
                (self.text, self.whole) = (message.content.unwrap_or_default(), true);
                Ok(None)
            }
            _ => Err(NoAnswer),
        }
    }

    /// Adds text, unless the answer becomes longer than any step can use.
    fn push(&mut self, text: &str) -> Result<(), NoAnswer> {
        if self.text.len() + text.len() > Plan::MAX_TEXT {
            return Err(NoAnswer);
        }
        self.text.push_str(text);
        Ok(())
    }

    fn conclude(self, outcome: Outcome) -> Result<Output, StepError> {
        let partial = |text: String, error| {
            if text.is_empty() { error } else { StepError::Partial { text } }
        };
        match outcome {
            Outcome::Finished(_) if self.calls_tools => Err(StepError::ToolCalls),
            Outcome::Finished(Finish { reason, .. }) if reason == "tool_calls" => {
                Err(StepError::ToolCalls)
            }
            Outcome::Finished(Finish { reason, usage }) => {
                Ok(Output { text: self.text, finish_reason: reason, usage })
            }
            Outcome::Failed(TaskError::NoDataset { name }) => Err(StepError::NoDataset { name }),
            Outcome::Failed(TaskError::TooFewOwners) => Err(StepError::TooFewOwners),
            // A whole answer whose end is missing is none.
            Outcome::Failed(error) if self.whole => Err(StepError::Task { error }),
            Outcome::Failed(error) => Err(partial(self.text, StepError::Task { error })),
            Outcome::Cancelled => {
                Err(partial(self.text, StepError::Task { error: TaskError::ShuttingDown }))
            }
            Outcome::Expired if self.whole => Err(StepError::Expired),
            Outcome::Expired => Err(partial(self.text, StepError::Expired)),
        }
    }
}

/// The part of a chat completion that is kept.
#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Deltas {
    #[serde(default)]
    choices: Vec<DeltaChoice>,
}

#[derive(Deserialize)]
struct DeltaChoice {
    #[serde(default)]
    delta: Option<Message>,
}

/// What a model says.
#[derive(Default, Deserialize)]
pub(super) struct Message {
    #[serde(default)]
    pub(super) content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<serde_json::Value>>,
}

/// Reads the first choice of a chat completion; `None` when this is no answer, or too long a one.
pub(super) fn read(whole: &[u8]) -> Option<Message> {
    let answer: Completion = serde_json::from_slice(whole).ok()?;
    let message = answer.choices.into_iter().next()?.message;
    let fits = message.content.as_ref().is_none_or(|text| text.len() <= Plan::MAX_TEXT);
    fits.then_some(message)
}

/// Returns tokens in the form of the HTTP API.
pub(super) fn usage_of(usage: Usage) -> iris_protocol::openai::Usage {
    usage.into()
}

fn lock(
    rows: &Mutex<BTreeMap<Number, Settlement>>,
) -> MutexGuard<'_, BTreeMap<Number, Settlement>> {
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_kept_up_to_the_longest_text_and_no_further() {
        let half = "x".repeat(Plan::MAX_TEXT / 2);
        let chunks = [
            Chunk::Text(half.clone()),
            Chunk::Json(
                serde_json::json!({ "choices": [{ "delta": { "content": half } }] })
                    .to_string()
                    .into(),
            ),
        ];
        let mut answer = Answer::default();
        for chunk in &chunks {
            assert!(answer.take_in(chunk, true).is_ok());
        }
        for more in [Chunk::Text("x".to_owned()), chunks[1].clone()] {
            assert!(answer.take_in(&more, true).is_err());
            assert_eq!(answer.text.len(), Plan::MAX_TEXT);
        }
        let whole = |text: &str| {
            let body = serde_json::json!({ "choices": [{ "message": { "content": text } }] });
            read(body.to_string().as_bytes()).is_some()
        };
        let longest = "x".repeat(Plan::MAX_TEXT);
        assert!(whole(&longest) && !whole(&(longest + "x")));
    }
}
