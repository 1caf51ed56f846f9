//! One task, from its submission to its settlement.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use iris_core::backend::{Begun, Operation};
use iris_core::demand::Demand;
use iris_core::model::Abilities;
use iris_core::queue::Priority;
use iris_core::task::{Action, Attempt, AttemptEnd, TaskError, TaskRun};
use iris_core::{AccountId, NodeId, TaskId, Timestamp};
use iris_crypto::seal::SignedReceipt;

use super::apart::Member;
use super::passed::PassedOn;
use super::sealing::Sealing;
use super::{Dispatch, Placement, Routing, Ticketed, Turn};
use crate::link::{News, Work};
use crate::settlement::Settlement;

mod event;
mod news;
mod offer;
mod race;
mod request;
mod settle;
mod timer;

pub use event::TaskEvent;
use race::Rival;
pub use request::{SealedTask, TaskRequest};
use timer::Timer;

/// The longest time that a task may take, whatever its caller allows.
const LONGEST: Duration = Duration::from_hours(24);

/// A task that is being carried out, driven by whoever reads its events.
///
/// Dropping it before [`TaskEvent::Ended`] cancels the task; the node is told at once.
pub struct TaskHandle {
    dispatch: Arc<Dispatch>,
    request: TaskRequest,
    /// Whose request it is for the nodes: its account's, unless the network asks.
    name: AccountId,
    demand: Demand,
    run: TaskRun,
    /// How many of its attempts count in the standing of their nodes already.
    noted: usize,
    stage: Stage,
    timer: Timer,
    submitted: Instant,
    submitted_at: Timestamp,
    first_chunk: Option<Duration>,
    /// Bytes of the answer that came.
    came: u64,
    /// What the caller has of a streamed answer.
    passed: PassedOn,
    /// The same as it was when the current node was chosen, if that one has to go on from it.
    begun: Option<Begun>,
    /// The node that was asked last.
    asked: Option<NodeId>,
    /// Since when it has waited for a node.
    waiting: Option<Instant>,
    /// What keeps its nodes apart from those of other tasks.
    apart: Option<Member>,
    /// Whether the current attempt has delivered its whole answer.
    whole: bool,
    /// Whether only its caller's own nodes may serve it.
    is_lapsed: bool,
    /// The second node, while it races the first.
    rival: Option<Rival>,
    /// What made the second node the only one, until it is handled.
    won: Option<News>,
    /// What is known of a sealed request and its answer.
    sealing: Option<Box<Sealing>>,
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
    /// Nobody: what the network asks for itself is not counted and says nothing of anybody.
    Nobody,
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
        let run = TaskRun::new(submitted, deadline, request.prompt_tokens, request.stream, retry);
        Self::with_run(dispatch, request, run, submitted, books)
    }

    /// Makes a task that only one node can read.
    pub(crate) fn sealed(dispatch: Arc<Dispatch>, task: SealedTask, books: Books) -> Self {
        let submitted = dispatch.clock.now();
        let SealedTask { id, account, key, request: sealed, time_limit } = task;
        let terms = &sealed.header().terms;
        let request = TaskRequest {
            id,
            account,
            key,
            // Neither says anything; the node learns both from the prompt.
            operation: Operation::Chat,
            stream: false,
            model: terms.model.clone(),
            body: sealed.wire().clone(),
            // For how long it takes to arrive. Whether it fits is for the node to say, to its
            // caller alone.
            prompt_tokens: u32::try_from(sealed.wire().len() / 4).unwrap_or(u32::MAX),
            max_tokens: terms.max_tokens,
            abilities: Abilities::NONE,
            time_limit: time_limit.min(terms.ttl),
            priority: Priority::Interactive,
            placement: Placement::default(),
            routing: Routing::default(),
        };
        let deadline = submitted + request.time_limit;
        let retry = dispatch.settings.retry;
        let run = TaskRun::for_one_node(submitted, deadline, request.prompt_tokens, retry);
        let sealing = Some(Box::new(Sealing::new(&sealed)));
        let mut handle = Self::with_run(dispatch, request, run, submitted, books);
        (handle.demand.context_tokens, handle.sealing) = (0, sealing);
        handle
    }

    /// Has nodes take it for a request of `name`.
    pub(crate) fn in_the_name_of(mut self, name: AccountId) -> Self {
        self.name = name;
        self
    }

    fn with_run(
        dispatch: Arc<Dispatch>,
        request: TaskRequest,
        run: TaskRun,
        submitted: Instant,
        books: Books,
    ) -> Self {
        let is_lapsed = books != Books::Nobody && dispatch.is_lapsed(&request.account);
        let mut demand = request.demand(None, is_lapsed);
        let conversation = request.placement.conversation;
        demand.affinity = conversation.and_then(|c| dispatch.affinity.node(c, submitted));
        Self {
            name: request.account,
            demand,
            is_lapsed,
            run,
            noted: 0,
            asked: None,
            waiting: None,
            apart: request.placement.apart.clone().map(Member::new),
            whole: false,
            rival: None,
            won: None,
            stage: Stage::Idle,
            timer: Timer::default(),
            submitted,
            submitted_at: dispatch.clock.calendar(),
            first_chunk: None,
            came: 0,
            passed: PassedOn::default(),
            begun: None,
            sealing: None,
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

    /// Returns whether a node that was offered the task owes an answer: it is at work, or it has
    /// refused, failed or fallen silent.
    pub(crate) fn is_withheld(&self) -> bool {
        let is_owed = |attempt: &Attempt| {
            use AttemptEnd::{Done, Outrun, Stopped, Unreached};
            !matches!(attempt.end, Done | Outrun | Stopped | Unreached)
        };
        matches!(self.stage, Stage::Working(_)) || self.run.attempts().iter().any(is_owed)
    }

    /// Returns which place it has in the line for its model while it waits for a node, 1 being the
    /// next one. This costs as much as there are tasks that wait.
    pub fn place_in_line(&self) -> Option<u32> {
        let waits = matches!(self.stage, Stage::Waiting { .. });
        waits.then(|| self.dispatch.place_in_line(&self.request.id)).flatten()
    }

    /// Returns the node's receipt, once a sealed task is over and has one.
    pub fn receipt(&self) -> Option<&SignedReceipt> {
        self.sealing.as_ref()?.receipt.as_ref()
    }

    /// Returns what happens next; `None` after [`TaskEvent::Ended`]. Nothing is lost when this is
    /// dropped.
    pub async fn next(&mut self) -> Option<TaskEvent> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for what happens next; see [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        loop {
            self.note_attempts();
            while let Some(action) = self.run.poll_action() {
                match action {
                    Action::Choose => self.choose(None),
                    Action::Continue => self.choose(Some(self.passed.begun())),
                    Action::Abandon => self.abandon(),
                    Action::Hedge => self.hedge(),
                    Action::AbandonRival => self.abandon_rival(),
                    Action::Promote => {
                        if let Some(event) = self.promote() {
                            return Poll::Ready(Some(event));
                        }
                    }
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
    /// For a reader that finds the last [`Chunk`](TaskEvent::Chunk) to be malformed and has passed
    /// nothing of it on; the end follows, or another node.
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

    /// Gives the task up at once, and returns the settlement that the driver writes down.
    pub(crate) fn give_up(mut self) -> Option<Settlement> {
        self.withdraw();
        self.settlement.take()
    }

    fn withdraw(&mut self) {
        if matches!(self.stage, Stage::Over) {
            return;
        }
        self.run.handle_cancelled();
        while let Some(action) = self.run.poll_action() {
            match action {
                Action::Abandon => self.abandon(),
                Action::AbandonRival => self.abandon_rival(),
                Action::Finish(outcome) => self.end(&outcome),
                Action::Choose | Action::Continue | Action::Hedge | Action::Promote => {}
            }
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
                if self.apart.as_ref().is_some_and(|member| member.is_outdated(cx)) {
                    self.stage = Stage::Idle;
                    self.choose(self.begun.clone());
                    return Poll::Ready(None);
                }
                match ready!(ticketed.poll(cx)) {
                    Some(Turn::Served(lease)) if self.claim(&lease) => self.start(lease),
                    // A node that another of the group was faster to claim falls to whoever waits
                    // next.
                    Some(turn) => {
                        drop(turn);
                        self.stage = Stage::Idle;
                        self.choose(self.begun.clone());
                    }
                    None => self.run.handle_no_node(TaskError::ShuttingDown),
                }
                Poll::Ready(None)
            }
            Stage::Working(work) => {
                let news = match self.won.take() {
                    Some(news) => news,
                    None => match work.poll_news(cx) {
                        Poll::Ready(news) => news,
                        Poll::Pending => return self.poll_rival(cx),
                    },
                };
                Poll::Ready(match self.sealing {
                    Some(_) => self.handle_sealed_news(news),
                    None => self.handle_news(news),
                })
            }
        }
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
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("request", &self.request).finish_non_exhaustive()
    }
}
