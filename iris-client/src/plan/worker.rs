//! Doing the assignments of a plan: each is a request of its own, as private as any other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, SinkExt, StreamExt, TryStreamExt};
use iris_core::backend::{Operation, Usage};
use iris_core::plan::{
    Assignment, Decision, Event, Output, Placed, PlanRun, Progress, Report, StepError, UnitReport,
    Worker,
};
use iris_core::task::TaskError;
use iris_protocol::openai::ChatRequest;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::client::Client;
use crate::error::{ClientError, Refusal};
use crate::policy::{Policy, Privacy};
use crate::sealed::{Choosing, Question, Traffic, now};
use crate::stream::ChatStream;

/// Does a plan's assignments for one client.
pub(super) struct ClientWorker {
    asker: Asker,
    begun: Instant,
    told: Mutex<VecDeque<Progress>>,
    decisions: Mutex<VecDeque<Decision>>,
    came: Notify,
    laid_out: Mutex<Vec<UnitReport>>,
}

/// What each assignment needs of its plan.
#[derive(Clone)]
struct Asker {
    client: Client,
    spread: bool,
    traffic: Arc<Traffic>,
    seen: Arc<Seen>,
}

/// What was seen of the nodes, beyond what the run records.
#[derive(Default)]
struct Seen {
    found: Mutex<Found>,
    fatal: Notify,
}

#[derive(Default)]
struct Found {
    /// The weakest privacy of all that was asked.
    privacy: Option<Privacy>,
    /// What the last assignment failed for, and whether the whole plan has to end for it.
    cause: Option<ClientError>,
    is_fatal: bool,
}

impl ClientWorker {
    pub(super) fn new(client: Client, spread: bool) -> Self {
        let asker =
            Asker { client, spread, traffic: Arc::default(), seen: Arc::new(Seen::default()) };
        Self {
            asker,
            begun: Instant::now(),
            told: Mutex::default(),
            decisions: Mutex::default(),
            came: Notify::new(),
            laid_out: Mutex::default(),
        }
    }

    /// Returns what followers were not told yet.
    pub(super) fn pop_told(&self) -> Option<Progress> {
        lock(&self.told).pop_front()
    }

    pub(super) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.asker.traffic)
    }

    pub(super) fn decide(&self, decision: Decision) {
        lock(&self.decisions).push_back(decision);
        self.came.notify_one();
    }

    /// Returns the units as they stood when a review told last that it waits.
    pub(super) fn laid_out(&self) -> Vec<UnitReport> {
        lock(&self.laid_out).clone()
    }

    /// Returns the weakest privacy of all that was asked.
    pub(super) fn privacy(&self) -> Option<Privacy> {
        self.asker.seen.found().privacy
    }

    /// Returns what the last assignment that failed did so for.
    pub(super) fn cause(&self) -> Option<ClientError> {
        self.asker.seen.found().cause.clone()
    }

    /// Returns why the whole plan had to end, where that is so.
    pub(super) fn fatal(&self) -> Option<ClientError> {
        let found = self.asker.seen.found();
        found.cause.clone().filter(|_| found.is_fatal)
    }
}

impl Worker for ClientWorker {
    fn start(&self, assignment: Assignment) -> BoxStream<'static, Report> {
        let (tell, told) = mpsc::channel(4);
        let (placed, text) = (Placed::default(), String::new());
        let doing = Doing { asker: self.asker.clone(), assignment, tell, placed, text };
        let silent = stream::once(doing.run()).filter_map(|()| async { None });
        stream::select(told, silent).boxed()
    }

    fn record<'a>(&'a self, _at: Duration, _event: &'a Event) -> BoxFuture<'a, bool> {
        // A client's plan ends with the client.
        async { true }.boxed()
    }

    fn tell(&self, run: &PlanRun, progress: &Progress) {
        if let Progress::Waiting { .. } = progress {
            *lock(&self.laid_out) = run.report();
        }
        lock(&self.told).push_back(progress.clone());
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn sleep_until(&self, due: Duration) -> BoxFuture<'static, ()> {
        sleep_until(self.begun + due).boxed()
    }

    fn next_event(&self) -> BoxFuture<'_, Event> {
        let next = async {
            loop {
                if let Some(decision) = lock(&self.decisions).pop_front() {
                    return Event::Decided(decision);
                }
                tokio::select! {
                    () = self.came.notified() => {}
                    () = self.asker.seen.fatal.notified() => return Event::Cancelled,
                }
            }
        };
        next.boxed()
    }
}

/// One assignment on its way.
struct Doing {
    asker: Asker,
    assignment: Assignment,
    tell: mpsc::Sender<Report>,
    placed: Placed,
    text: String,
}

impl Doing {
    async fn run(mut self) {
        let limit = self.assignment.time_limit;
        let deadline = Instant::now() + limit;
        let done = timeout_at(deadline, self.ask(deadline)).await;
        let result = done.unwrap_or(Err(Failed::Client(ClientError::Timeout(limit))));
        let result = result.map_err(|failed| self.failed(failed));
        self.report(Report::Ended(self.placed.clone(), result)).await;
    }

    async fn report(&mut self, report: Report) {
        // Whoever does not listen any more has given the assignment up.
        let _ = self.tell.send(report).await;
    }

    async fn ask(&mut self, deadline: Instant) -> Result<Output, Failed> {
        match self.ask_once(deadline).await {
            Err(Failed::Client(error)) if self.is_worth_another(&error) => {
                self.assignment.exclude.extend(self.placed.node);
                self.text.clear();
                self.ask_once(deadline).await
            }
            done => done,
        }
    }

    /// Returns whether a node was lost in the middle of an answer that nobody has read yet.
    fn is_worth_another(&self, error: &ClientError) -> bool {
        let was_read = self.assignment.streams && !self.text.is_empty();
        !was_read && matches!(error, ClientError::Truncated(_)) && !error.is_about_privacy()
    }

    async fn ask_once(&mut self, deadline: Instant) -> Result<Output, Failed> {
        let stream = match self.asker.client.policy() {
            Policy::Open => self.ask_open().await?,
            Policy::Sealed | Policy::Own => self.ask_sealed(deadline).await?,
        };
        self.read(stream).await
    }

    async fn ask_open(&mut self) -> Result<ChatStream, Failed> {
        let request: ChatRequest =
            serde_json::from_slice(&self.assignment.body(true)).map_err(|error| {
                Failed::Step(StepError::Unusable {
                    what: format!("what the step asks is no chat request: {error}"),
                })
            })?;
        let stream = self.asker.client.chat_stream(request).await?;
        let head = stream.head();
        self.placed = Placed { node: head.node, task: head.task, points: None };
        self.asker.seen.asked(Privacy::Open);
        self.report(Report::Started(self.placed.clone())).await;
        Ok(stream)
    }

    async fn ask_sealed(&mut self, deadline: Instant) -> Result<ChatStream, Failed> {
        let body = self.assignment.body(true).into();
        let mut question = Question::read(Operation::Chat, body).map_err(ClientError::local)?;
        question.asked.include_usage = true;
        question.asked.abilities = question.asked.abilities.union(self.assignment.abilities);
        let (taken, mut takers) = mpsc::unbounded();
        let choosing = Choosing {
            only: self.assignment.nodes.clone(),
            exclude: self.assignment.exclude.clone(),
            apart: self.assignment.apart,
            spread: self.asker.spread,
            traffic: Arc::clone(&self.asker.traffic),
            deadline: Some(deadline),
            taken: Some(taken),
        };
        let client = self.asker.client.clone();
        let asking = async {
            let answer = client.ask_chosen(&question, &choosing).await;
            drop(choosing);
            answer
        };
        let listening = async {
            while let Some((placed, privacy)) = takers.next().await {
                self.asker.seen.asked(privacy);
                self.placed = placed;
                self.report(Report::Started(self.placed.clone())).await;
            }
        };
        let (answer, ()) = future::join(asking, listening).await;
        Ok(ChatStream::sealed(answer?, question.asked, now().as_secs()))
    }

    /// Reads an answer to its end.
    async fn read(&mut self, mut stream: ChatStream) -> Result<Output, Failed> {
        let (mut usage, mut reason) = (None, None);
        while let Some(chunk) = stream.try_next().await? {
            if chunk.choices.iter().any(|choice| !choice.delta.tool_calls.is_empty()) {
                return Err(Failed::Step(StepError::ToolCalls));
            }
            if !chunk.text().is_empty() {
                self.text.push_str(chunk.text());
                if self.assignment.streams {
                    self.report(Report::Text(chunk.text().to_owned())).await;
                }
            }
            reason = chunk.finish_reason().map(str::to_owned).or(reason);
            usage = chunk.usage.or(usage);
        }
        let count = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        let usage = usage.map(|usage| Usage {
            prompt_tokens: count(usage.prompt_tokens),
            completion_tokens: count(usage.completion_tokens),
        });
        Ok(Output {
            text: std::mem::take(&mut self.text),
            finish_reason: reason.unwrap_or_else(|| "stop".to_owned()),
            usage: usage.unwrap_or_default(),
        })
    }

    /// Says what an assignment failed for.
    fn failed(&mut self, failed: Failed) -> StepError {
        let error = match failed {
            Failed::Step(error) => return error,
            Failed::Client(error) => error,
        };
        let step = step_error(&error, &self.assignment);
        self.asker.seen.failed(error);
        // What followers have read already cannot be taken back by another node's answer.
        match std::mem::take(&mut self.text) {
            text if self.assignment.streams && !text.is_empty() => StepError::Partial { text },
            _ => step,
        }
    }
}

/// Why an assignment has no output.
enum Failed {
    Step(StepError),
    Client(ClientError),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Seen {
    fn found(&self) -> MutexGuard<'_, Found> {
        lock(&self.found)
    }

    fn asked(&self, privacy: Privacy) {
        let mut found = self.found();
        found.privacy = found.privacy.max(Some(privacy));
    }

    fn failed(&self, error: ClientError) {
        let mut found = self.found();
        if found.is_fatal {
            return;
        }
        found.is_fatal = is_fatal(&error);
        // That there are too few owners explains more than what else went wrong.
        let told = matches!(found.cause, Some(ClientError::TooFewOwners { .. }));
        if found.is_fatal || !told {
            found.cause = Some(error);
        }
        if found.is_fatal {
            self.fatal.notify_one();
        }
    }
}

/// Returns whether no other step could fare better, or none should try.
fn is_fatal(error: &ClientError) -> bool {
    error.is_about_privacy()
        || matches!(
            error,
            ClientError::Unauthorized(_)
                | ClientError::SessionEnded
                | ClientError::SessionFile { .. }
                | ClientError::PaymentDue(_)
                | ClientError::Forbidden(_)
                | ClientError::PlainHttp
                | ClientError::Unreachable(_)
        )
}

/// Returns what a plan can make of an error.
fn step_error(error: &ClientError, assignment: &Assignment) -> StepError {
    let model = assignment.model.to_string();
    let rejected = |refusal: &Refusal| TaskError::Rejected {
        status: refusal.status,
        code: refusal.detail.code.clone(),
        param: refusal.detail.param.clone(),
        message: refusal.detail.message.clone(),
    };
    let error = match error {
        ClientError::TooFewOwners { .. } => return StepError::TooFewOwners,
        ClientError::Timeout(_) => return StepError::Expired,
        ClientError::ModelNotFound(_) => TaskError::ModelNotFound { model },
        ClientError::NoNode(_) => TaskError::NoNodeOnline { model },
        ClientError::RateLimited(refusal) => {
            let wait = refusal.retry_after.map_or(1, |wait| wait.as_secs().max(1));
            TaskError::Busy { retry_after_secs: u32::try_from(wait).unwrap_or(u32::MAX) }
        }
        ClientError::BadRequest(refusal)
        | ClientError::TooLarge(refusal)
        | ClientError::NotFound(refusal) => rejected(refusal),
        ClientError::Truncated(_) => TaskError::Interrupted,
        _ => TaskError::NodesFailed { attempts: 1 },
    };
    StepError::Task { error }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
