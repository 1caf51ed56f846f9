//! Divided tasks: plans that survive a restart.
//!
//! What happens to a plan is written down before it is acted on, together with the settlement of
//! the step that it is about, in one batch. So whoever starts the coordinator again finds either
//! both or neither, and comes to the same state.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use iris_core::plan::{
    Assignment, Decision, Driven, Event, Plan, PlanEnd, PlanRun, Progress, Report, StepError, Work,
    Worker, drive,
};
use iris_core::store::{Batch, Key, Record, StoreError};
use iris_core::task::TaskState;
use iris_core::{TaskId, Timestamp};
use iris_protocol::openai::Preferences;
use iris_protocol::rest;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::asking::{ASK_AGAIN, Manner};
use super::evidence::Evidence;
use super::live::Live;
use super::record::{
    EventRecord, InferenceRecord, PLAN_EVENT, PlanReport, event_key, events_of, key, plan_of,
};
use super::single::Ending;
use super::steps::Steps;
use super::{Shared, explain};
use crate::journal::CommitError;
use crate::settlement::Settlement;

/// How long a plan waits for a person, altogether.
pub(super) const PATIENCE: Duration = Duration::from_hours(30 * 24);

/// A person's decision on its way to the plan; resolves when it is written down.
pub(super) type Decided = (Decision, oneshot::Sender<()>);

/// What the driver of a plan has in its hands.
pub(super) struct Reins {
    pub(super) live: Arc<Live>,
    pub(super) cancel: CancellationToken,
    pub(super) decisions: mpsc::Receiver<Decided>,
}

impl Shared {
    /// Carries a plan out from where it stands; `None` when the coordinator stops before it is
    /// over.
    pub(super) async fn carry_out(
        &self,
        id: TaskId,
        record: &InferenceRecord,
        reins: Reins,
    ) -> Option<Ending> {
        let plan = record.plan.as_ref().and_then(|plan| plan.read::<Plan>(&self.key, &key(&id)));
        let wishes = match &record.wishes {
            Some(wishes) => wishes.read::<Preferences>(&self.key, &key(&id)),
            None => Some(Preferences::default()),
        };
        let happened = self.happened(id).await?;
        let (Some(plan), Some(wishes), Some(events)) = (plan, wishes, happened) else {
            return Some(Ending::unreadable());
        };
        let (written, last) = (events.len() as u64, events.last().map_or(Duration::ZERO, |e| e.0));
        let outline = explain::outline(&plan);
        let has_review = waits_for_persons(&plan);
        let run = match PlanRun::replay(plan, events) {
            Ok(run) => run,
            Err(error) => {
                tracing::error!(task = %id, %error, "a plan that was accepted cannot go on");
                return Some(Ending::unreadable());
            }
        };
        let steps = self.steps(record, wishes);
        let worker = PlanWorker::new(self, id, record, steps, reins, (written, last), has_review);
        let driven = tokio::select! {
            biased;
            () = self.suspended.cancelled() => return None,
            driven = drive(run, &worker) => driven,
        };
        let Driven::Over { end, run } = driven else { return None };
        let is_late = worker.is_late.load(Ordering::Relaxed) > 0;
        let report = PlanReport { units: run.report(), usage: run.usage(), end, outline };
        Some(Ending {
            state: if is_late { TaskState::Expired } else { report.state() },
            result: None,
            error: None,
            node: worker.live.node(),
            report: Some(report),
        })
    }

    fn steps(&self, record: &InferenceRecord, wishes: Preferences) -> Steps {
        Steps::new(
            Arc::clone(&self.dispatch),
            record.payer(),
            wishes,
            record.priority,
            Manner::Durable(Arc::clone(&self.at_work)),
            self.suspended.clone(),
        )
    }

    /// Reads what has happened to a plan. `None` when the coordinator stops, `Some(None)` when it
    /// cannot be read.
    async fn happened(&self, id: TaskId) -> Option<Option<Vec<(Duration, Event)>>> {
        loop {
            match self.read_events(id).await {
                Ok(events) => return Some(events),
                Err(error) => {
                    tracing::error!(%error, task = %id, "what happened to a plan is not readable");
                    tokio::select! {
                        biased;
                        () = self.suspended.cancelled() => return None,
                        () = tokio::time::sleep(ASK_AGAIN) => {}
                    }
                }
            }
        }
    }

    async fn read_events(&self, id: TaskId) -> Result<Option<Vec<(Duration, Event)>>, StoreError> {
        let mut events = Vec::new();
        let mut records = self.store.scan(events_of(&id));
        while let Some(record) = records.next().await {
            let Record { key, value, .. } = match record {
                Err(StoreError::Corrupt(_)) => return Ok(None),
                record => record?,
            };
            let event = value.decode::<EventRecord>().ok();
            let Some(event) = event.and_then(|event| event.read(&self.key, &key)) else {
                return Ok(None);
            };
            events.push(event);
        }
        Ok(Some(events))
    }

    /// Adds the deletion of all that happened to a plan, however long it takes to find that;
    /// `None` when the coordinator stops before.
    pub(super) async fn forget_events(&self, id: TaskId, batch: Batch) -> Option<Batch> {
        loop {
            match self.events_forgotten(id, batch.clone()).await {
                Ok(batch) => return Some(batch),
                // What is behind that record is deleted once it is readable.
                Err(StoreError::Corrupt(_)) => return Some(batch),
                Err(error) => {
                    tracing::error!(%error, task = %id, "what happened to a plan is not readable");
                    tokio::select! {
                        biased;
                        () = self.suspended.cancelled() => return None,
                        () = tokio::time::sleep(ASK_AGAIN) => {}
                    }
                }
            }
        }
    }

    async fn events_forgotten(&self, id: TaskId, mut batch: Batch) -> Result<Batch, StoreError> {
        let mut records = self.store.scan(events_of(&id));
        while let Some(record) = records.next().await {
            batch = batch.delete(record?.key);
        }
        Ok(batch)
    }

    /// Adds the deletion of what happened to plans that are over or gone.
    pub(super) async fn forget_stray_events(&self, mut batch: Batch) -> Result<Batch, StoreError> {
        let mut records = self.store.scan(Key::all(PLAN_EVENT));
        // All that happened to one plan lies together.
        let mut last = None;
        while let Some(record) = records.next().await {
            let place = record?.key;
            let Some(id) = plan_of(&place) else { continue };
            let is_stray = match last {
                Some((known, is_stray)) if known == id => is_stray,
                _ => self.is_over(&id).await?,
            };
            last = Some((id, is_stray));
            if is_stray {
                batch = batch.delete(place);
            }
        }
        Ok(batch)
    }

    /// Returns whether a task is over or gone. Nothing happens to it before it is written down.
    async fn is_over(&self, id: &TaskId) -> Result<bool, StoreError> {
        if self.unfinished().contains_key(id) {
            return Ok(false);
        }
        let Some(found) = self.store.get(key(id)).await? else { return Ok(true) };
        // What cannot be read may go on one day.
        Ok(found.value.decode::<InferenceRecord>().is_ok_and(|task| task.state.is_terminal()))
    }
}

/// Does the assignments of one durable plan, and writes down what happens to it.
struct PlanWorker<'a> {
    shared: &'a Shared,
    id: TaskId,
    steps: Steps,
    live: Arc<Live>,
    cancel: CancellationToken,
    decisions: tokio::sync::Mutex<mpsc::Receiver<Decided>>,
    /// Who waits until a decision is written down.
    deciders: Mutex<VecDeque<oneshot::Sender<()>>>,
    /// How long ago the plan had begun, at `since`.
    began: Duration,
    since: Instant,
    /// When nobody waits for a person any more.
    due: Duration,
    /// Counts whether that has come.
    is_late: AtomicU64,
    /// How many events were written.
    written: AtomicU64,
}

impl<'a> PlanWorker<'a> {
    fn new(
        shared: &'a Shared,
        id: TaskId,
        record: &InferenceRecord,
        steps: Steps,
        reins: Reins,
        (written, last): (u64, Duration),
        has_review: bool,
    ) -> Self {
        let dispatch = &shared.dispatch;
        // Clocks may have been set back, and what happened stays before what happens.
        let began = dispatch.clock.calendar().saturating_since(record.created).max(last);
        let limit = record.expires.saturating_since(record.created);
        Self {
            shared,
            id,
            steps,
            live: reins.live,
            cancel: reins.cancel,
            decisions: tokio::sync::Mutex::new(reins.decisions),
            deciders: Mutex::default(),
            began,
            since: dispatch.clock.now(),
            due: if has_review { limit } else { Duration::MAX },
            is_late: AtomicU64::new(0),
            written: AtomicU64::new(written),
        }
    }

    /// Writes an event down, however long that takes; false when the coordinator stops.
    async fn write(&self, at: Duration, event: &Event, row: Option<&Settlement>) -> bool {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let place = event_key(&self.id, number);
        let written = EventRecord::new(&self.shared.key, &place, at, event).document();
        let mut batch = Batch::new().create(place, written);
        if let Some(row) = row {
            batch = self.shared.dispatch.histories.write(row, batch);
        }
        loop {
            match self.shared.dispatch.journal.commit(batch.clone()).await {
                // Where there is a conflict, an earlier attempt, reported as failed, was applied
                // after all.
                Ok(()) | Err(CommitError::Store(StoreError::Conflict(_))) => return true,
                Err(CommitError::Closed) => return false,
                Err(error @ CommitError::Store(_)) => {
                    tracing::error!(%error, task = %self.id, "a step could not be written down");
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

impl Worker for PlanWorker<'_> {
    fn start(&self, assignment: Assignment) -> BoxStream<'static, Report> {
        self.steps.start(&assignment)
    }

    fn record<'b>(&'b self, at: Duration, event: &'b Event) -> BoxFuture<'b, bool> {
        let written = async move {
            let row = match event {
                Event::Ended { number, .. } => self.steps.take_row(*number),
                _ => None,
            };
            let is_written = self.write(at, event, row.as_ref()).await;
            if is_written && let Some(row) = &row {
                self.shared.dispatch.settled(row);
            }
            if let Event::Decided(_) = event {
                let mut deciders = self.deciders.lock().unwrap_or_else(PoisonError::into_inner);
                let decider = deciders.pop_front();
                if is_written && let Some(decider) = decider {
                    // Who has decided may have left.
                    let _ = decider.send(());
                }
            }
            is_written
        };
        written.boxed()
    }

    fn tell(&self, run: &PlanRun, progress: &Progress) {
        let dispatch = &self.shared.dispatch;
        if let Some(evidence) = evidence(self.id, run, progress, dispatch.clock.calendar()) {
            evidence.write_down(dispatch);
        }
        // The end is told when it is written down.
        if !matches!(progress, Progress::Ended(_)) {
            self.live.tell(Some(run), progress);
        }
    }

    fn now(&self) -> Duration {
        let passed = self.shared.dispatch.clock.now().saturating_duration_since(self.since);
        // As it is written down.
        let millis = self.began.saturating_add(passed).as_millis();
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    fn sleep_until(&self, due: Duration) -> BoxFuture<'static, ()> {
        // A moment later than rounding may make it.
        let left = due.saturating_sub(self.now()).saturating_add(Duration::from_millis(1));
        tokio::time::sleep(left).boxed()
    }

    fn next_event(&self) -> BoxFuture<'_, Event> {
        let late = self.sleep_until(self.due);
        let next = async move {
            let mut decisions = self.decisions.lock().await;
            let next = async {
                match decisions.recv().await {
                    Some(next) => next,
                    None => futures::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Event::Cancelled,
                (decision, decider) = next => {
                    let mut deciders = self.deciders.lock().unwrap_or_else(PoisonError::into_inner);
                    deciders.push_back(decider);
                    Event::Decided(decision)
                }
                () = late => {
                    self.is_late.fetch_add(1, Ordering::Relaxed);
                    Event::Cancelled
                }
            }
        };
        next.boxed()
    }
}

/// Returns what progress gives evidence of, if nodes disagreed.
pub(super) fn evidence(
    task: TaskId,
    run: &PlanRun,
    progress: &Progress,
    at: Timestamp,
) -> Option<Evidence> {
    let Progress::Agreed { unit, .. } = progress else { return None };
    Evidence::of(task, run.unit(unit)?.model, progress, at)
}

/// Returns whether a plan has a step that a person decides.
pub(super) fn waits_for_persons(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step.work, Work::Review { .. }))
}

impl PlanReport {
    /// Returns the state of the task.
    pub(super) fn state(&self) -> TaskState {
        match &self.end {
            PlanEnd::Finished { .. } => TaskState::Finished,
            PlanEnd::Cancelled => TaskState::Cancelled,
            PlanEnd::Partial { error: StepError::Budget { what }, .. } if what == "seconds" => {
                TaskState::Expired
            }
            _ => TaskState::Failed,
        }
    }

    /// Adds what came of the plan to what is said of its task.
    pub(super) fn describe(self, status: &mut rest::InferenceStatus) {
        let usage: iris_protocol::openai::Usage = self.usage.into();
        (status.steps, status.usage) = (self.units, Some(usage.clone()));
        let failed = |code: &str, message: String| {
            Some(rest::InferenceError { code: code.to_owned(), message })
        };
        match self.end {
            PlanEnd::Finished { output } => {
                let (text, finish_reason) = (output.text, output.finish_reason);
                status.result = Some(rest::InferenceResult { text, finish_reason, usage });
            }
            PlanEnd::Partial { error, text } => {
                let finish_reason = "partial".to_owned();
                status.error = failed(error.code(), error.to_string());
                status.result = Some(rest::InferenceResult { text, finish_reason, usage });
            }
            PlanEnd::Failed { step, error } => {
                status.error = failed(error.code(), format!("step `{step}`: {error}"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use iris_core::AccountId;
    use iris_core::store::{Document, MemoryStore, Store};
    use iris_crypto::{Identity, Secret};

    use super::*;
    use crate::Coordinator;

    #[tokio::test]
    async fn what_happened_to_plans_that_are_over_or_gone_is_swept_out() {
        let store = Arc::new(MemoryStore::new());
        let secret = Secret::from_bytes([9; 32]);
        let builder = Coordinator::builder(store.clone(), Identity::generate(), secret);
        let coordinator = builder.build().await.unwrap();
        let [open, over, gone] = [(); 3].map(|()| coordinator.new_task_id());
        let now = Timestamp::from_millis(1 << 50);
        let record = |state| {
            let (account, model) = (AccountId::from_bytes([1; 16]), "m".parse().unwrap());
            InferenceRecord { state, ..InferenceRecord::new(account.into(), model, now, now) }
        };
        let mut batch = Batch::new()
            .create(key(&open), Document::encode(&record(TaskState::Submitted)))
            .create(key(&over), Document::encode(&record(TaskState::Finished)));
        for id in [open, over, gone] {
            for number in 0..2 {
                batch = batch.create(event_key(&id, number), Document::encode(&number));
            }
        }
        store.commit(batch).await.unwrap();
        coordinator.inference().sweep().await;
        let left: Vec<_> = store.scan(Key::all(PLAN_EVENT)).collect().await;
        let left: BTreeSet<_> = left.into_iter().map(|event| event.unwrap().key).collect();
        assert_eq!(left, BTreeSet::from([0, 1].map(|number| event_key(&open, number))));
    }
}
