//! The loop that carries a plan out with whatever does its assignments.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use futures::future::{AbortHandle, BoxFuture};
use futures::stream::{self, BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};

use super::{
    Action, Assignment, Event, Number, Placed, PlanEnd, PlanRun, Progress, Report, StepError,
};

/// Does the assignments of a plan.
///
/// Used by one [`drive`] at a time. Its streams are polled side by side in the task that drives.
pub trait Worker: Send + Sync {
    /// Starts an assignment and tells what becomes of it. Dropping the stream gives it up.
    fn start(&self, assignment: Assignment) -> BoxStream<'static, Report>;

    /// Writes `event` down, which happened `at` after the plan began. It is acted on afterwards
    /// only, so that whoever replays the events comes to the same state. Resolves to `false` where
    /// nothing can be written down any more; the drive then stops.
    fn record<'a>(&'a self, at: Duration, event: &'a Event) -> BoxFuture<'a, bool>;

    /// Tells those who follow the plan, in order. `run` is the state after what is told. Must not
    /// block.
    fn tell(&self, run: &PlanRun, progress: &Progress);

    /// Returns how long ago the plan began.
    fn now(&self) -> Duration;

    /// Resolves `due` after the plan began.
    fn sleep_until(&self, due: Duration) -> BoxFuture<'static, ()>;

    /// Resolves when a person has decided something, or the caller has given the plan up. Called
    /// again after each.
    fn next_event(&self) -> BoxFuture<'_, Event>;
}

/// How a [`drive`] ended.
#[derive(Debug)]
pub enum Driven {
    /// The plan is over.
    Over {
        /// How.
        end: PlanEnd,
        /// The run in its last state.
        run: Box<PlanRun>,
    },
    /// Nothing can be written down any more; the plan stays as it was written.
    Suspended,
}

/// Carries a plan out. Dropping it gives up what is under way.
pub async fn drive(mut run: PlanRun, worker: &dyn Worker) -> Driven {
    let mut inbox = Inbox::new(worker);
    loop {
        while let Some(action) = run.poll_action() {
            match action {
                Action::Assign(assignment) => inbox.start(*assignment),
                Action::Withdraw(number) => inbox.withdraw(number),
                Action::Tell(progress) => worker.tell(&run, &progress),
                Action::Finish(end) => return Driven::Over { end, run: Box::new(run) },
            }
        }
        let event = match inbox.next(run.poll_timeout()).await {
            News::Timeout => {
                run.handle_timeout(worker.now());
                continue;
            }
            News::Report(number, Report::Text(text)) => {
                run.handle_text(number, &text);
                continue;
            }
            News::Report(number, Report::Started(placed)) if !run.records_start(number) => {
                run.handle_started(number, placed);
                continue;
            }
            News::Report(number, Report::Started(placed)) => Event::Placed { number, placed },
            News::Report(number, Report::Ended(placed, result)) => {
                inbox.running.remove(&number);
                Event::Ended { number, placed, result }
            }
            News::Event(event) => event,
        };
        let at = worker.now();
        if !worker.record(at, &event).await {
            return Driven::Suspended;
        }
        run.handle_event(at, event);
    }
}

/// Where a drive waits for whatever comes first.
struct Inbox<'a> {
    worker: &'a dyn Worker,
    reports: SelectAll<BoxStream<'static, (Number, Report)>>,
    running: BTreeMap<Number, AbortHandle>,
    events: BoxFuture<'a, Event>,
    timer: Option<(Duration, BoxFuture<'static, ()>)>,
}

enum News {
    Report(Number, Report),
    Event(Event),
    Timeout,
}

impl<'a> Inbox<'a> {
    fn new(worker: &'a dyn Worker) -> Self {
        Self {
            worker,
            reports: SelectAll::new(),
            running: BTreeMap::new(),
            events: worker.next_event(),
            timer: None,
        }
    }

    fn start(&mut self, assignment: Assignment) {
        let number = assignment.number;
        let (reports, handle) = stream::abortable(self.worker.start(assignment));
        self.running.insert(number, handle);
        // A worker that says no more has lost its node.
        let lost =
            || Report::Ended(Placed::default(), Err(StepError::Partial { text: String::new() }));
        let reports = reports.chain(stream::once(async move { lost() }));
        self.reports.push(reports.map(move |report| (number, report)).boxed());
    }

    fn withdraw(&mut self, number: Number) {
        if let Some(handle) = self.running.remove(&number) {
            handle.abort();
        }
    }

    async fn next(&mut self, due: Option<Duration>) -> News {
        if self.timer.as_ref().map(|(armed, _)| *armed) != due {
            self.timer = due.map(|due| (due, self.worker.sleep_until(due)));
        }
        poll_fn(|cx| {
            if let Poll::Ready(event) = self.events.poll_unpin(cx) {
                self.events = self.worker.next_event();
                return Poll::Ready(News::Event(event));
            }
            while let Poll::Ready(Some((number, report))) = self.reports.poll_next_unpin(cx) {
                if self.running.contains_key(&number) {
                    return Poll::Ready(News::Report(number, report));
                }
            }
            if let Some((_, timer)) = &mut self.timer
                && timer.poll_unpin(cx).is_ready()
            {
                self.timer = None;
                return Poll::Ready(News::Timeout);
            }
            Poll::Pending
        })
        .await
    }
}
