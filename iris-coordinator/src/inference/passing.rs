//! Divided tasks for somebody who waits: they end with their caller.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use futures::stream::BoxStream;
use iris_core::TaskId;
use iris_core::backend::Usage;
use iris_core::plan::{Assignment, Driven, Event, PlanRun, Progress, Report, Worker, drive};

use super::explain::Passed;
use super::plan::evidence;
use super::steps::Steps;
use crate::dispatch::Dispatch;

/// A plan that is carried out while somebody reads what happens. Dropping it gives up what is
/// under way; the nodes are told at once.
pub struct PlanHandle {
    /// The drive, until it is over; ends with the tokens used.
    drive: Option<BoxFuture<'static, Usage>>,
    told: Arc<Told>,
    usage: Usage,
}

type Told = Mutex<VecDeque<Progress>>;

struct PassingWorker {
    dispatch: Arc<Dispatch>,
    task: TaskId,
    steps: Steps,
    since: Instant,
    told: Arc<Told>,
    passed: Arc<Passed>,
}

impl PlanHandle {
    pub(super) fn new(
        dispatch: Arc<Dispatch>,
        task: TaskId,
        run: PlanRun,
        steps: Steps,
        passed: Arc<Passed>,
    ) -> Self {
        let (since, told) = (dispatch.clock.now(), Arc::<Told>::default());
        let worker =
            PassingWorker { dispatch, task, steps, since, told: Arc::clone(&told), passed };
        let drive = async move {
            match drive(run, &worker).await {
                Driven::Over { run, .. } => run.usage(),
                Driven::Suspended => Usage::default(),
            }
        };
        Self { drive: Some(drive.boxed()), told, usage: Usage::default() }
    }

    /// Returns what happens next, the last of which is [`Progress::Ended`]; `None` after that.
    /// Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Option<Progress> {
        future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for what happens next; see [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        loop {
            if let Some(progress) = lock(&self.told).pop_front() {
                return Poll::Ready(Some(progress));
            }
            let Some(drive) = &mut self.drive else { return Poll::Ready(None) };
            match drive.poll_unpin(cx) {
                Poll::Ready(usage) => (self.usage, self.drive) = (usage, None),
                Poll::Pending if lock(&self.told).is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
    }

    /// Returns the tokens that all steps used, once the plan is over.
    pub const fn usage(&self) -> Usage {
        self.usage
    }
}

impl std::fmt::Debug for PlanHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlanHandle").finish_non_exhaustive()
    }
}

impl Worker for PassingWorker {
    fn start(&self, assignment: Assignment) -> BoxStream<'static, Report> {
        self.steps.start(&assignment)
    }

    fn record<'a>(&'a self, _at: Duration, _event: &'a Event) -> BoxFuture<'a, bool> {
        // Each step settles itself.
        future::ready(true).boxed()
    }

    fn tell(&self, run: &PlanRun, progress: &Progress) {
        let at = self.dispatch.clock.calendar();
        if let Some(evidence) = evidence(self.task, run, progress, at) {
            evidence.write_down(&self.dispatch);
        }
        if let Progress::Started { unit, placed, .. } = progress
            && let Some(task) = placed.task
        {
            self.passed.started(self.task, unit.clone(), task);
        }
        lock(&self.told).push_back(progress.clone());
    }

    fn now(&self) -> Duration {
        self.dispatch.clock.now().saturating_duration_since(self.since)
    }

    fn sleep_until(&self, due: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(due.saturating_sub(self.now())).boxed()
    }

    fn next_event(&self) -> BoxFuture<'_, Event> {
        // Whoever leaves drops the plan.
        future::pending().boxed()
    }
}

fn lock(told: &Told) -> MutexGuard<'_, VecDeque<Progress>> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
