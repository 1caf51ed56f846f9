use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_core::backend::{BackendError, Begun, Chunk, Finish, Operation, Usage};
use iris_core::demand::Demand;
use iris_core::explain::{Explanation, Reason};
use iris_core::model::Abilities;
use iris_core::queue::Priority;
use iris_core::task::{Action, Attempt, AttemptEnd, Outcome, TaskError, TaskRun};
use iris_core::{AccountId, ModelName, NodeId, TaskId, Timestamp};
use iris_crypto::PublicIdentity;
use iris_crypto::seal::{Outcome as Told, ReceiptError, SealedRequest, SignedReceipt};
use iris_protocol::message::RefuseReason;
use iris_protocol::rest::KeyId;
use tokio::time::Sleep;

use super::apart::Member;
use super::passed::PassedOn;
use super::sealing::{ReceiptRecord, Sealing};
use super::{Acquired, Asker, Dispatch, Exchange, Lease, Placement, Routing, Ticketed, Turn};
use crate::link::{News, NodeLink, Receipt, Work, fits};
use crate::settlement::Settlement;

mod race;

use race::Rival;

/// Longest request and longest answer that may be compared with another node's, in bytes.
const MAX_COMPARED: usize = 16 << 10;
/// The longest time that a task may take, whatever its caller allows.
const LONGEST: Duration = Duration::from_hours(24);

/// What a caller wants done.
#[derive(Clone)]
pub struct TaskRequest {
    /// Names the task; random.
    pub id: TaskId,
    /// Who asks.
    pub account: AccountId,
    /// The key it asks with, by its [`meter`](crate::ApiKey::meter): whose quota the tokens count
    /// against.
    pub key: Option<KeyId>,
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
    /// Which nodes it may go to.
    pub placement: Placement,
    /// How it came to its model, where the caller named none.
    pub routing: Routing,
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
            key: None,
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
            placement: Placement::default(),
            routing: Routing::default(),
        }
    }

    /// Returns what a node has to have, for the answer from its start or from where it stands.
    fn demand(&self, begun: Option<&Begun>, is_lapsed: bool) -> Demand {
        let (written, more) =
            begun.map_or((0, Abilities::NONE), |begun| (begun.tokens, Abilities::CONTINUE));
        let answer = self.max_tokens.max(written);
        let mut demand = Demand {
            context_tokens: self.prompt_tokens.saturating_add(answer),
            abilities: self.abilities.union(more),
            ..Demand::new(self.model.clone())
        };
        self.placement.apply(&mut demand, self.account);
        demand.min_tier = demand.min_tier.max(self.routing.min_tier);
        if is_lapsed {
            (demand.own_first, demand.owner_only) = (None, Some(self.account));
        }
        demand
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

/// What a caller wants done that only one node can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedTask {
    /// Names the task here; random. Its caller's own name for it is in the request.
    pub id: TaskId,
    /// Who asks.
    pub account: AccountId,
    /// The key it asks with, by its [`meter`](crate::ApiKey::meter): whose quota the tokens count
    /// against.
    pub key: Option<KeyId>,
    /// What is asked, of which node and under which terms.
    pub request: SealedRequest,
    /// How long the whole task may take; the request may allow less.
    pub time_limit: Duration,
}

/// What happens to a task.
#[derive(Clone, PartialEq, Eq)]
pub enum TaskEvent {
    /// A node accepted it; when it comes again, another one did, and goes on from the chunks so
    /// far. A whole answer comes anew.
    Accepted {
        /// The node that works on it from now on.
        node: NodeId,
    },
    /// The next piece of the answer; never [`Chunk::Finished`].
    Chunk(Chunk),
    /// The next records of a sealed answer: whole ones, and unread.
    Sealed(Bytes),
    /// It is over; comes once, and last.
    Ended(Outcome),
}

impl fmt::Debug for TaskEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { node } => f.debug_struct("Accepted").field("node", node).finish(),
            Self::Chunk(chunk) => f.debug_tuple("Chunk").field(chunk).finish(),
            // Answers never reach logs, not even sealed ones.
            Self::Sealed(records) => write!(f, "Sealed({} bytes)", records.len()),
            Self::Ended(outcome) => f.debug_tuple("Ended").field(outcome).finish(),
        }
    }
}

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

    fn choose(&mut self, begun: Option<Begun>) {
        let written = begun.as_ref().map_or(0, |begun| begun.text.len());
        if !fits(self.request.body.len() + written) {
            return self.run.handle_no_node(too_large());
        }
        if let Some(sealing) = &self.sealing {
            let owners = self.dispatch.admittance.owners(&self.name);
            (self.demand.barred, self.demand.invited) = owners;
            let (certificate, account) = (sealing.certificate(), self.request.account);
            return match self.dispatch.acquire_named(certificate, &self.demand, account) {
                Ok(lease) => self.start(lease),
                Err(error) => self.turn_away(error),
            };
        }
        if begun != self.begun {
            self.demand = self.request.demand(begun.as_ref(), self.is_lapsed);
            self.begun = begun;
        }
        self.request.placement.restrict(&mut self.demand, self.run.tried());
        loop {
            let mut owners = 0;
            if let Some(member) = &mut self.apart {
                let room = member.ask();
                (self.demand.not_of, owners) = (room.taken, room.ahead + 1);
            }
            let TaskRequest { id: task, account, priority, .. } = self.request;
            let begun = !self.run.attempts().is_empty();
            let (name, since) = (self.name, self.waiting);
            let asker = Asker { task, account, name, priority, begun, since, owners };
            match self.dispatch.acquire(&mut self.demand, asker) {
                Acquired::Now(lease) if self.claim(&lease) => self.start(lease),
                // Another task of the group was faster.
                Acquired::Now(_) => continue,
                Acquired::Later(ticketed) => self.wait(ticketed),
                Acquired::Never(error) => self.turn_away(error),
            }
            return;
        }
    }

    /// Ends a task for which there is no node.
    fn turn_away(&mut self, why: TaskError) {
        let lacks_node = matches!(why, TaskError::NoNodeAble { .. } | TaskError::NodeOffline);
        let why = if self.is_lapsed && lacks_node { TaskError::MembershipLapsed } else { why };
        self.run.handle_no_node(why);
    }

    /// Stands in line.
    fn wait(&mut self, ticketed: Ticketed) {
        let now = self.dispatch.clock.now();
        let since = *self.waiting.get_or_insert(now);
        // Nobody waits in front of any other task; its deadline is all that ends its wait.
        let is_interactive = self.request.priority == Priority::Interactive;
        let until = is_interactive.then(|| since + self.dispatch.settings.admission.longest);
        self.stage = Stage::Waiting { ticketed, until };
    }

    /// Claims the owner of a node for this task alone, where that matters.
    fn claim(&mut self, lease: &Lease) -> bool {
        self.apart.as_mut().is_none_or(|member| member.claim(lease.link.owner))
    }

    /// Offers the task to the node of `lease`.
    fn start(&mut self, mut lease: Lease) {
        let now = self.dispatch.clock.now();
        let why = self.sealing.is_none().then(|| self.explained(&mut lease));
        let TaskRequest { id, account, model, .. } = &self.request;
        self.dispatch.live.assigned(*account, *id, model, lease.node, why.as_ref());
        if let Some(explanation) = why {
            self.dispatch.explain(*id, *account, explanation);
        }
        self.waiting = None;
        self.run.handle_offered(now, lease.node);
        (self.asked, self.whole) = (Some(lease.node), false);
        let left = self.time_left(now);
        let sealed = self.sealing.is_some();
        if self.books != Books::Nobody {
            self.dispatch.admittance.see(self.name);
        }
        let caller = self.dispatch.admittance.tag(&lease.link.owner, self.name);
        let begun = self.begun.as_ref();
        if let Some(work) = Work::offer(lease, &self.request, caller, sealed, begun, left) {
            self.stage = Stage::Working(work);
        } else {
            self.stage = Stage::Idle;
            self.run.handle_lost();
        }
        if sealed {
            // Nobody is offered it a second time.
            self.request.body = Bytes::new();
        }
    }

    /// Takes from a lease why its node was chosen, and adds what routing knows of that.
    fn explained(&self, lease: &mut Lease) -> Explanation {
        let mut explanation = std::mem::take(&mut lease.explanation);
        if self.request.routing.tier_lowered {
            let compared = &mut explanation.compared;
            if compared.len() == Explanation::MAX_COMPARED {
                let other = compared.iter().rposition(|(node, _)| *node != lease.node);
                compared.remove(other.unwrap_or_default());
            }
            compared.push((lease.node, Reason::TierLowered));
        }
        explanation
    }

    fn time_left(&self, now: Instant) -> Duration {
        self.request.time_limit.saturating_sub(now - self.submitted)
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
                self.came = self.came.saturating_add(chunk.len() as u64);
                let passed = self.passed.add(self.request.operation, &chunk);
                self.run.handle_chunk(now, passed);
                return Some(TaskEvent::Chunk(chunk));
            }
            News::Invalid | News::Sealed(_) => self.run.handle_invalid(),
            // In all that follows the node holds the task no longer.
            News::Refused(_) => {
                self.stage = Stage::Idle;
                self.run.handle_refused();
            }
            News::Finished(..) if !self.request.stream && !self.whole => self.run.handle_invalid(),
            News::Finished(finish, _) => {
                self.stage = Stage::Idle;
                self.run.handle_finished(finish);
            }
            News::Failed(error, _) => {
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

    /// Handles what the one node does that can read the task.
    fn handle_sealed_news(&mut self, news: News) -> Option<TaskEvent> {
        let (Stage::Working(work), Some(sealing)) = (&mut self.stage, &mut self.sealing) else {
            return None;
        };
        let (now, node) = (self.dispatch.clock.now(), work.node());
        match news {
            News::Accepted => {
                self.run.handle_accepted(now);
                return Some(TaskEvent::Accepted { node });
            }
            News::Progress => self.run.handle_progress(now),
            News::Sealed(records) => {
                if sealing.take_in(&records).is_ok() {
                    self.came = self.came.saturating_add(records.len() as u64);
                    self.run.handle_sealed();
                    return Some(TaskEvent::Sealed(records));
                }
                tracing::warn!(%node, "node sent what are no sealed records");
                self.run.handle_invalid();
            }
            News::Invalid | News::Chunk(_) | News::Part => self.run.handle_invalid(),
            // In all that follows the node holds the task no longer.
            News::Refused(reason) => {
                self.stage = Stage::Idle;
                let why = self.turned_down(node, reason);
                self.run.handle_turned_down(why);
            }
            News::Finished(Finish { usage, .. }, receipt) => {
                let receipt = receipt.as_ref().ok_or(ReceiptError::Malformed);
                let audits = audits(&self.dispatch, work.link());
                let check =
                    |r: &Receipt| sealing.check(r.as_bytes(), Told::Complete, Some(usage), audits);
                match receipt.and_then(check) {
                    Ok(receipt) => {
                        sealing.receipt = Some(receipt);
                        self.stage = Stage::Idle;
                        let reason = "stop".to_owned();
                        self.run.handle_finished(Finish { reason, usage });
                    }
                    Err(error) => self.refuse_receipt(node, &error),
                }
            }
            News::Failed(error, receipt) => {
                let audits = audits(&self.dispatch, work.link());
                let check = |r: Receipt| sealing.check(r.as_bytes(), Told::Failed, None, audits);
                match receipt.map(check).transpose() {
                    Ok(receipt) => {
                        sealing.receipt = receipt;
                        self.stage = Stage::Idle;
                        self.run.handle_failed(now, without_texts(error));
                    }
                    Err(error) => self.refuse_receipt(node, &error),
                }
            }
            News::Lost => {
                self.stage = Stage::Idle;
                self.run.handle_lost();
            }
        }
        None
    }

    /// Says why the only node turned the task down.
    fn turned_down(&self, node: NodeId, reason: RefuseReason) -> TaskError {
        let model = &self.request.model;
        match reason {
            RefuseReason::Busy => self.dispatch.node_busy(&node, model, self.request.account),
            RefuseReason::ModelNotFound => TaskError::NotOffered { model: model.to_string() },
            RefuseReason::BadRequest | RefuseReason::SealRejected => TaskError::SealRejected,
            // Where the node's current key is meant, the keys of the hop were lost.
            RefuseReason::StaleKey
                if self
                    .sealing
                    .as_ref()
                    .is_some_and(|sealing| !self.dispatch.is_current(sealing.certificate())) =>
            {
                TaskError::StaleKey
            }
            _ => TaskError::NodeOffline,
        }
    }

    fn refuse_receipt(&mut self, node: NodeId, error: &ReceiptError) {
        tracing::warn!(%node, task = %self.request.id, %error, "node's receipt is refused");
        self.run.handle_invalid();
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

    /// Has attempts that are over count in the standing of their nodes, each of them at once.
    fn note_attempts(&mut self) {
        if self.books == Books::Nobody {
            return;
        }
        let attempts = self.run.attempts();
        self.dispatch.note_attempts(self.request.account, &attempts[self.noted..]);
        self.noted = attempts.len();
    }

    /// Returns how many tokens its answer was to have at most; zero where nobody knows.
    const fn most_written(&self) -> u32 {
        match self.request.operation {
            Operation::Chat => self.request.max_tokens,
            // It may be several prompts in one, each with an answer of this length.
            Operation::Completion => 0,
            // Vectors are no text.
            Operation::Embedding => 1,
        }
    }

    /// Settles the task.
    fn end(&mut self, outcome: &Outcome) {
        self.stage = Stage::Over;
        self.note_attempts();
        if let (Outcome::Finished(_), Some(node), Some(conversation)) =
            (outcome, self.asked, self.request.placement.conversation)
        {
            self.dispatch.affinity.remember(conversation, node, self.dispatch.clock.now());
        }
        match (self.apart.take(), outcome) {
            (Some(member), Outcome::Finished(_)) => member.keep(),
            (member, _) => drop(member),
        }
        let usage = match outcome {
            Outcome::Finished(finish) => {
                let asked = self.request.body.len() as u64;
                finish.usage.carried_by(asked, self.came, self.most_written())
            }
            _ => Usage::default(),
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let attempts: Vec<Attempt> = self.run.attempts().to_vec();
        let settlement = Settlement {
            task: self.request.id,
            account: self.request.account,
            key: self.request.key,
            model: self.request.model.clone(),
            state: outcome.state(),
            attempts,
            usage,
            submitted: self.submitted_at,
            first_chunk_ms: self.first_chunk.map(millis),
            took_ms: millis(self.dispatch.clock.now().saturating_duration_since(self.submitted)),
            limit_ms: millis(self.request.time_limit),
            sealed: self.sealing.is_some(),
            receipt: self.receipt().map(SignedReceipt::id),
            difficulty: self.request.routing.difficulty,
        };
        if self.books != Books::Nobody {
            self.dispatch.counters.chunks(self.run.chunks());
            self.dispatch.tell_of(&settlement, || self.exchange());
        }
        match self.books {
            Books::Nobody => {}
            Books::Journal => {
                self.dispatch.settled(&settlement);
                let receipt = self.receipt_record();
                self.dispatch.write_down(&settlement, receipt.as_ref());
            }
            Books::Caller => self.settlement = Some(settlement),
        }
    }

    /// Returns what was asked and answered, if any node might have been asked, and may yet be.
    fn exchange(&self) -> Option<Exchange> {
        let TaskRequest { operation, body, placement, .. } = &self.request;
        let is_anybodys = self.sealing.is_none() && !self.is_lapsed && placement.is_anybodys();
        if !is_anybodys || *operation != Operation::Chat || body.len() > MAX_COMPARED {
            return None;
        }
        let answer = self.passed.answer().filter(|answer| answer.len() <= MAX_COMPARED)?;
        Some(Exchange { body: body.clone(), answer })
    }

    fn receipt_record(&self) -> Option<ReceiptRecord> {
        self.sealing.as_ref()?.record(self.asked?, self.dispatch.clock.calendar())
    }
}

/// Returns who must have signed a receipt, if that is to be checked: the first of a session, and
/// a sample that no node can foresee.
fn audits<'a>(dispatch: &Dispatch, link: &'a NodeLink) -> Option<&'a PublicIdentity> {
    (link.is_first_audit() || dispatch.draws_audit()).then(|| link.identity())
}

/// Returns a failure without what the node says of it in words, which its caller alone may read.
fn without_texts(error: BackendError) -> BackendError {
    match error {
        BackendError::Rejected { .. } => BackendError::Rejected {
            status: 400,
            code: None,
            param: None,
            message: "the node's model server rejected the request".to_owned(),
        },
        other => other,
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
