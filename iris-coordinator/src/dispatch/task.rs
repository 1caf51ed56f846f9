use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_core::backend::{Begun, Chunk, Operation, Usage};
use iris_core::demand::Demand;
use iris_core::model::Abilities;
use iris_core::queue::Priority;
use iris_core::task::{Action, Attempt, Outcome, TaskError, TaskRun};
use iris_core::tier::Tier;
use iris_core::{AccountId, ModelName, NodeId, TaskId, Timestamp};
use tokio::time::Sleep;

use super::passed::PassedOn;
use super::{Acquired, Dispatch, Lease, Ticketed};
use crate::link::{News, Work, fits};
use crate::settlement::Settlement;

/// The longest time that a task may take, whatever its caller allows.
const LONGEST: Duration = Duration::from_hours(24);

/// What a caller wants done.
#[derive(Clone, PartialEq, Eq)]
pub struct TaskRequest {
    /// Names the task; random.
    pub id: TaskId,
    /// Who asks.
    pub account: AccountId,
    /// What the body is.
    pub operation: Operation,
    /// The model to run; the same as the body's.
    pub model: ModelName,
    /// The caller's JSON, unchanged.
    pub body: Bytes,
    /// Whether chunks are wanted as they come.
    pub stream: bool,
    /// Estimated length of the prompt, in tokens.
    pub prompt_tokens: u32,
    /// The longest answer asked for, in tokens; 0 where the caller names none.
    pub max_tokens: u32,
    /// What the model's server must be able to do.
    pub abilities: Abilities,
    /// How long the whole task may take.
    pub time_limit: Duration,
    /// How soon it is served when nodes are busy.
    pub priority: Priority,
}

impl TaskRequest {
    /// Makes a chat of one message by the user, for somebody who waits and reads along, under a
    /// new id. It may take ten minutes.
    pub fn chat(account: AccountId, model: ModelName, message: &str) -> Self {
        let body = serde_json::json!({
            "model": model.as_str(),
            "messages": [{ "role": "user", "content": message }],
            "stream": true,
        });
        Self {
            id: TaskId::from_bytes(iris_crypto::random_bytes()),
            account,
            operation: Operation::Chat,
            model,
            body: body.to_string().into(),
            stream: true,
            // English has four bytes to a token, about.
            prompt_tokens: u32::try_from(message.len() / 4 + 1).unwrap_or(u32::MAX),
            max_tokens: 0,
            abilities: Abilities::default(),
            time_limit: Duration::from_mins(10),
            priority: Priority::Interactive,
        }
    }

    /// Returns what a node has to have, for the answer from its start or from where it stands.
    fn demand(&self, begun: Option<&Begun>) -> Demand {
        let (written, more) =
            begun.map_or((0, Abilities::NONE), |begun| (begun.tokens, Abilities::CONTINUE));
        let answer = self.max_tokens.max(written);
        Demand {
            model: self.model.clone(),
            context_tokens: self.prompt_tokens.saturating_add(answer),
            abilities: self.abilities.union(more),
            min_tier: Tier::Basic,
            exclude: Vec::new(),
        }
    }
}

impl fmt::Debug for TaskRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskRequest")
            .field("id", &self.id)
            .field("operation", &self.operation)
            .field("model", &self.model)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// A node accepted it; when it comes again, another one did, and goes on from the chunks so
    /// far. A whole answer comes anew.
    Accepted {
        /// The node that works on it from now on.
        node: NodeId,
    },
    /// The next piece of the answer; never [`Chunk::Finished`].
    Chunk(Chunk),
    /// It is over; comes once, and last.
    Ended(Outcome),
}

/// A task that is being carried out, driven by whoever reads its events.
///
/// Dropping it before [`TaskEvent::Ended`] cancels the task; the node is told at once.
pub struct TaskHandle {
    dispatch: Arc<Dispatch>,
    request: TaskRequest,
    demand: Demand,
    run: TaskRun,
    stage: Stage,
    timer: Timer,
    submitted: Instant,
    submitted_at: Timestamp,
    first_chunk: Option<Duration>,
    /// What the caller has of a streamed answer.
    passed: PassedOn,
    /// The same as it was when the current node was chosen, if that one has to go on from it.
    begun: Option<Begun>,
    /// The node that was asked last.
    asked: Option<NodeId>,
    /// Whether the current attempt has delivered its whole answer.
    whole: bool,
    settlement: Option<Settlement>,
    books: Books,
}

/// Who writes a task's settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Books {
    /// The task's own end; the row may lag by one group commit.
    Journal,
    /// Whoever drives the task, together with what else must become durable.
    Caller,
}

#[expect(clippy::large_enum_variant, reason = "the usual stage is the large one")]
#[derive(Debug)]
enum Stage {
    Idle,
    Waiting { ticketed: Ticketed, until: Option<Instant> },
    Working(Work),
    Over,
}

impl TaskHandle {
    pub(crate) fn new(dispatch: Arc<Dispatch>, request: TaskRequest, books: Books) -> Self {
        let submitted = dispatch.clock.now();
        let limit = request.time_limit.min(LONGEST);
        let retry = dispatch.settings.retry;
        let deadline = submitted + limit;
        Self {
            demand: request.demand(None),
            run: TaskRun::new(submitted, deadline, request.prompt_tokens, request.stream, retry),
            asked: None,
            whole: false,
            stage: Stage::Idle,
            timer: Timer::default(),
            submitted,
            submitted_at: dispatch.clock.calendar(),
            first_chunk: None,
            passed: PassedOn::default(),
            begun: None,
            settlement: None,
            books,
            request,
            dispatch,
        }
    }

    /// Returns the task's id.
    pub const fn id(&self) -> TaskId {
        self.request.id
    }

    /// Returns the node that was asked last, if any was.
    pub fn node(&self) -> Option<NodeId> {
        self.asked
    }

    /// Returns what happens next; `None` after [`TaskEvent::Ended`]. Nothing is lost when this is
    /// dropped.
    pub async fn next(&mut self) -> Option<TaskEvent> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for what happens next; see [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        loop {
            while let Some(action) = self.run.poll_action() {
                match action {
                    Action::Choose => self.choose(None),
                    Action::Continue => self.choose(Some(self.passed.begun())),
                    Action::Abandon => self.abandon(),
                    Action::Finish(outcome) => {
                        self.end(&outcome);
                        return Poll::Ready(Some(TaskEvent::Ended(outcome)));
                    }
                }
            }
            if let Stage::Over = self.stage {
                return Poll::Ready(None);
            }
            if let Poll::Ready(event) = self.poll_stage(cx) {
                match event {
                    Some(event) => return Poll::Ready(Some(event)),
                    None => continue,
                }
            }
            ready!(self.poll_timer(cx));
        }
    }

    /// Declares that the node's answer is not one, which is held against the node.
    ///
    /// For a reader that finds the last [`Chunk`] to be malformed and has passed nothing of it on;
    /// the end follows, or another node.
    pub fn reject_answer(&mut self) {
        self.passed.remove_last();
        self.run.handle_invalid_chunk();
    }

    /// Gives the task up; its end follows.
    pub fn cancel(&mut self) {
        self.run.handle_cancelled();
    }

    /// Takes the settlement that the driver writes down, once the task is over.
    pub(crate) const fn take_settlement(&mut self) -> Option<Settlement> {
        self.settlement.take()
    }

    fn choose(&mut self, begun: Option<Begun>) {
        let written = begun.as_ref().map_or(0, |begun| begun.text.len());
        if !fits(self.request.body.len() + written) {
            return self.run.handle_no_node(too_large());
        }
        if begun != self.begun {
            self.demand = self.request.demand(begun.as_ref());
            self.begun = begun;
        }
        self.demand.exclude.clear();
        self.demand.exclude.extend_from_slice(self.run.tried());
        let TaskRequest { account, priority, .. } = self.request;
        let begun = !self.run.attempts().is_empty();
        match self.dispatch.acquire(&self.demand, account, priority, begun) {
            Acquired::Now(lease) => self.start(lease),
            Acquired::Later(ticketed) => {
                // Nobody waits in front of a batch task; its deadline is all that ends its wait.
                let until = match priority {
                    Priority::Interactive => {
                        Some(self.dispatch.clock.now() + self.dispatch.settings.admission.longest)
                    }
                    Priority::Batch => None,
                };
                self.stage = Stage::Waiting { ticketed, until };
            }
            Acquired::Never(error) => self.run.handle_no_node(error),
        }
    }

    /// Offers the task to the node of `lease`.
    fn start(&mut self, mut lease: Lease) {
        let now = self.dispatch.clock.now();
        let explanation = std::mem::take(&mut lease.explanation);
        self.dispatch.explain(self.request.id, self.request.account, explanation);
        self.run.handle_offered(now, lease.node);
        (self.asked, self.whole) = (Some(lease.node), false);
        let left = self.request.time_limit.saturating_sub(now - self.submitted);
        if let Some(work) = Work::offer(lease, &self.request, self.begun.as_ref(), left) {
            self.stage = Stage::Working(work);
        } else {
            self.stage = Stage::Idle;
            self.run.handle_lost();
        }
    }

    fn abandon(&mut self) {
        if let Stage::Working(work) = std::mem::replace(&mut self.stage, Stage::Idle) {
            work.cancel();
        }
    }

    /// Moves the current stage on; `Ready(None)` when there may be an action to take.
    fn poll_stage(&mut self, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        match &mut self.stage {
            Stage::Idle | Stage::Over => Poll::Pending,
            Stage::Waiting { ticketed, .. } => {
                match ready!(ticketed.poll(cx)) {
                    Some(lease) => self.start(lease),
                    None => self.run.handle_no_node(TaskError::ShuttingDown),
                }
                Poll::Ready(None)
            }
            Stage::Working(work) => {
                let news = ready!(work.poll_news(cx));
                Poll::Ready(self.handle_news(news))
            }
        }
    }

    fn handle_news(&mut self, news: News) -> Option<TaskEvent> {
        let Stage::Working(work) = &mut self.stage else {
            return None;
        };
        let now = self.dispatch.clock.now();
        match news {
            News::Accepted => {
                self.run.handle_accepted(now);
                return Some(TaskEvent::Accepted { node: work.node() });
            }
            News::Progress | News::Part => self.run.handle_progress(now),
            // A node sends what it was asked for, and a whole answer once.
            News::Chunk(chunk) if self.is_out_of_place(&chunk) => self.run.handle_invalid(),
            News::Chunk(chunk) => {
                self.whole = !self.request.stream;
                self.first_chunk.get_or_insert_with(|| now - self.submitted);
                let passed = self.passed.add(self.request.operation, &chunk);
                self.run.handle_chunk(now, passed);
                return Some(TaskEvent::Chunk(chunk));
            }
            News::Invalid => self.run.handle_invalid(),
            // In all that follows the node holds the task no longer.
            News::Refused => {
                self.stage = Stage::Idle;
                self.run.handle_refused();
            }
            News::Finished(_) if !self.request.stream && !self.whole => self.run.handle_invalid(),
            News::Finished(finish) => {
                self.stage = Stage::Idle;
                self.run.handle_finished(finish);
            }
            News::Failed(error) => {
                self.stage = Stage::Idle;
                self.run.handle_failed(now, error);
            }
            News::Lost => {
                self.stage = Stage::Idle;
                self.run.handle_lost();
            }
        }
        None
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.run.poll_timeout() else {
            return Poll::Ready(());
        };
        let wait_ends = match &self.stage {
            Stage::Waiting { until, .. } => *until,
            _ => None,
        };
        ready!(self.timer.poll(wait_ends.map_or(due, |until| until.min(due)), cx));
        let now = self.dispatch.clock.now();
        self.run.handle_timeout(now);
        if let Stage::Waiting { until: Some(until), .. } = self.stage
            && now >= until
        {
            self.stage = Stage::Idle;
            self.run
                .handle_no_node(self.dispatch.waited_in_vain(&self.demand, self.request.account));
        }
        Poll::Ready(())
    }

    fn is_out_of_place(&self, chunk: &Chunk) -> bool {
        match chunk {
            Chunk::Whole(_) => self.request.stream || self.whole,
            Chunk::Text(_) | Chunk::Json(_) => !self.request.stream,
            Chunk::Finished(_) => true,
        }
    }

    /// Settles the task.
    fn end(&mut self, outcome: &Outcome) {
        self.stage = Stage::Over;
        let usage = match outcome {
            Outcome::Finished(finish) => finish.usage,
            _ => Usage::default(),
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let attempts: Vec<Attempt> = self.run.attempts().to_vec();
        let settlement = Settlement {
            task: self.request.id,
            account: self.request.account,
            model: self.request.model.clone(),
            state: outcome.state(),
            attempts,
            usage,
            submitted: self.submitted_at,
            first_chunk_ms: self.first_chunk.map(millis),
            took_ms: millis(self.dispatch.clock.now().saturating_duration_since(self.submitted)),
            limit_ms: millis(self.request.time_limit),
        };
        self.dispatch.counters.chunks(self.run.chunks());
        match self.books {
            Books::Journal => {
                self.dispatch.settled(&settlement);
                self.dispatch.write_down(&settlement);
            }
            Books::Caller => self.settlement = Some(settlement),
        }
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Over) {
            return;
        }
        self.run.handle_cancelled();
        while let Some(action) = self.run.poll_action() {
            match action {
                Action::Abandon => self.abandon(),
                Action::Finish(outcome) => self.end(&outcome),
                Action::Choose | Action::Continue => {}
            }
        }
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Sleeps until a deadline that mostly moves into the future, and is then not worth rearming.
#[derive(Debug, Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Resolves when `due` is reached.
    fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let due = tokio::time::Instant::from_std(due);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= due {
                self.sleep = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

fn too_large() -> TaskError {
    TaskError::Rejected {
        status: 413,
        code: Some("request_too_large".to_owned()),
        param: None,
        message: "a request has 1 byte to 32 MiB, less what sealing adds".to_owned(),
    }
}
