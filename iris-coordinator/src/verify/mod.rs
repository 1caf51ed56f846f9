//! Finds out whether nodes run the models that they offer.
//!
//! The rules are those of [`iris_core::verify`]; here they are carried out. Once a minute, and
//! whenever a task is over, the auditor is asked whether to check a node. A check is a task like any
//! caller's, sent to that one node, at temperature zero. Its answer is scored by a reference: a
//! connected node of an owner whom the operator trusts, and not of the node's own, that offers the
//! same model and scores given texts. Where no operator trusts anybody nothing is checked.
//!
//! What the network asks for itself is in nobody's books: it is not counted, not limited, brings no
//! points and no pay, and does not show in the standing of nodes. Whatever goes wrong on the way (no
//! reference, a refusal, an answer that cannot be scored, time that runs out) ends the check with
//! nothing learnt, and is never held against the node.
//!
//! # What follows from a verdict
//!
//! - At once: the [`Case`](iris_core::verify::Case) is written down with the seeds of the prompts,
//!   the node stands as low as a node can, is trusted no more, whoever owns it, and scores nobody's
//!   answers. Shares of its owner that would be released are held.
//! - Once nobody objected for seven days, or an operator upheld it: a
//!   [`Convicted`](iris_core::reward::What::Convicted) event. Points, the month's work and held
//!   shares follow from that as from all events of the books, which are only ever added to. So a
//!   verdict that is overturned leaves nothing to take back, in no month, closed or not.

mod asking;
mod cases;
mod presence;
mod rests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use iris_core::id::VerdictId;
use iris_core::reward::{RewardEvent, What};
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::verify::{
    Audit, AuditResult, Auditor, Canary, Check, Commitment, Conviction, NodeRecord, Outcome,
    Phrases, Rules, Seed, Stage, Traffic,
};
use iris_core::{AccountId, ModelName, NodeId, Timestamp};
use iris_crypto::RecordKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dispatch::{Dispatch, Worked};
use crate::inference::Sealed;
use presence::Presence;
use rests::Rests;

pub(crate) use cases::accused;
pub use cases::{CaseRecord, Cases, VerdictError};

/// The record type of what is known of a node's honesty; sealed, since it holds seeds of prompts
/// that are still secret.
const AUDITED: &str = "audited";
/// The record type of what binds to prompts that were sent, in the order of their times.
const CANARY: &str = "canary";
/// How long that is kept: longer than it takes from the first of a verdict's prompts to its end.
const KEPT: Duration = Duration::from_hours(24 * 60);
/// How many of these records are deleted at a time.
const DELETED_TOGETHER: usize = 256;
/// How many nodes are checked at a time.
const UNDER_WAY: usize = 8;
/// How many completed tasks may wait to be looked at; further ones are not.
const WORKED: usize = 1024;
/// How often nodes are looked at that get no work.
const TICK: Duration = Duration::from_mins(1);
/// How long a node may be away before it is forgotten: longer than any error counts.
const FORGOTTEN: Duration = Duration::from_hours(24 * 400);

/// Checks nodes, as long as the coordinator lives.
pub(crate) struct Verification {
    dispatch: Arc<Dispatch>,
    key: RecordKey,
    phrases: Phrases,
    state: Mutex<State>,
    under_way: Arc<Semaphore>,
    tasks: TaskTracker,
    suspended: CancellationToken,
}

struct State {
    auditor: Auditor,
    presence: Presence,
    rests: Rests,
}

impl Verification {
    /// Takes up what the store knows of nodes.
    pub(crate) async fn load(
        dispatch: Arc<Dispatch>,
        store: &dyn Store,
        key: RecordKey,
        tasks: TaskTracker,
    ) -> Result<Self, StoreError> {
        let mut auditor = Auditor::new(Rules::default());
        let mut records = store.scan(Key::all(AUDITED));
        while let Some(record) = records.next().await {
            let record = record?;
            let Ok(node) = record.key.id().parse() else { continue };
            let sealed: Sealed = record.value.decode()?;
            if let Some(known) = sealed.read::<NodeRecord>(&key, &record.key) {
                auditor.restore(node, known);
            } else {
                tracing::warn!(%node, "what is known of a node's honesty does not open");
            }
        }
        let now = dispatch.clock.calendar();
        for case in cases::all(store).await? {
            let verdict = case.verdict();
            if case.is_overturned() {
                auditor.handle_overturned(&verdict.node, verdict.id, now);
            } else {
                dispatch.set_convicted(verdict.node, true);
            }
        }
        Ok(Self {
            dispatch,
            key,
            phrases: Phrases::default(),
            state: Mutex::new(State {
                auditor,
                presence: Presence::default(),
                rests: Rests::default(),
            }),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
            tasks,
            suspended: CancellationToken::new(),
        })
    }

    /// Begins to check nodes.
    pub(crate) fn start(self: &Arc<Self>) {
        let (listener, worked) = mpsc::channel(WORKED);
        self.dispatch.tell_of_work(listener);
        tokio::spawn(drive(Arc::downgrade(self), worked, self.suspended.clone()));
    }

    /// Ends what is under way; it is made up for later.
    pub(crate) fn suspend(&self) {
        self.suspended.cancel();
    }

    /// Makes a verdict void.
    pub(crate) fn overturn(&self, node: NodeId, verdict: VerdictId) {
        let now = self.dispatch.clock.calendar();
        self.state().auditor.handle_overturned(&node, verdict, now);
        self.dispatch.set_convicted(node, false);
        self.write_down(&node);
    }

    /// Forgets nodes that have been away for more than a year.
    pub(crate) fn forget_absent(&self) {
        let now = self.dispatch.clock.calendar().as_millis();
        let longest = u64::try_from(FORGOTTEN.as_millis()).unwrap_or(u64::MAX);
        let before = Timestamp::from_millis(now.saturating_sub(longest));
        let forgotten = self.state().auditor.forget_absent(before);
        let batch = forgotten.iter().map(audited_key).fold(Batch::new(), Batch::delete);
        if !batch.writes.is_empty() {
            self.dispatch.record(batch);
        }
    }

    /// Deletes what is too old to count for any verdict.
    pub(crate) async fn sweep(&self, store: &dyn Store) -> Result<(), StoreError> {
        let now = self.dispatch.clock.calendar().as_millis();
        let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        let end = Key::new(CANARY, format!("{:013}", now.saturating_sub(kept)));
        let end = end.expect("a number is a key segment");
        let mut old = store.scan(Key::all(CANARY).start..end).chunks(DELETED_TOGETHER);
        while let Some(records) = old.next().await {
            let mut batch = Batch::new();
            for record in records {
                batch = batch.delete(record?.key);
            }
            store.commit(batch).await?;
        }
        Ok(())
    }

    /// Looks at who is there, and starts the checks that are due.
    fn tick(self: &Arc<Self>) {
        let (now, offers) = (self.dispatch.clock.calendar(), self.dispatch.offers());
        let mut state = self.state();
        let State { auditor, presence, rests } = &mut *state;
        presence.see(&offers, auditor, now);
        rests.forget(now);
        drop(state);
        while let Ok(turn) = Arc::clone(&self.under_way).try_acquire_owned() {
            let seed = self.seed();
            let Some(audit) = self.state().auditor.poll_audit(now, seed) else { return };
            self.begin(audit, turn);
        }
    }

    /// Looks at a node that has just completed a task.
    fn handle_worked(self: &Arc<Self>, worked: &Worked) {
        let Ok(turn) = Arc::clone(&self.under_way).try_acquire_owned() else { return };
        let (now, seed) = (self.dispatch.clock.calendar(), self.seed());
        let Worked { node, model } = worked;
        let mut state = self.state();
        if state.rests.holds(node, model, now) {
            return;
        }
        let audit = state.auditor.handle_task(node, model, Traffic::Private, now, seed);
        drop(state);
        if let Some(audit) = audit {
            self.begin(audit, turn);
        }
    }

    fn begin(self: &Arc<Self>, audit: Audit, turn: OwnedSemaphorePermit) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let owner = this.dispatch.owner_of_offer(&audit.id.node, &audit.id.model);
            let carried = this.suspended.run_until_cancelled(this.carry_out(&audit)).await;
            let result = carried.unwrap_or(AuditResult::ReferenceFailed);
            this.conclude(&audit, owner, &result);
            drop(turn);
        });
    }

    async fn carry_out(&self, audit: &Audit) -> AuditResult {
        // Nothing keeps what callers ask, so nothing can be asked a second time.
        let Check::Canary { seed, commitment } = audit.check else {
            return AuditResult::ReferenceFailed;
        };
        let (model, reference) = (&audit.id.model, &audit.reference);
        if self.dispatch.owner_of_offer(&reference.node, model) != Some(reference.owner) {
            return AuditResult::ReferenceFailed;
        }
        if !self.commit(audit, commitment).await {
            return AuditResult::ReferenceFailed;
        }
        let canary = Canary::draw(&self.phrases, seed);
        let Some(answer) = self.ask(&canary, model, audit.id.node).await else {
            return AuditResult::NoAnswer;
        };
        let scored = self.score(&canary, model, &answer, reference.node).await;
        scored.map_or(AuditResult::ReferenceFailed, AuditResult::Scored)
    }

    /// Writes down what binds to a prompt before it is sent, so that nobody can say that it was made
    /// up for a verdict.
    async fn commit(&self, audit: &Audit, commitment: Commitment) -> bool {
        let now = self.dispatch.clock.calendar();
        let id = format!("{:013}-{}-{}", now.as_millis(), audit.id.node, audit.id.number);
        let key = Key::new(CANARY, id).expect("numbers and ids are a key segment");
        let batch = Batch::new().put(key, Document::encode(&commitment));
        let batch = match self.record(&audit.id.node) {
            Some((key, record)) => batch.put(key, record),
            None => batch,
        };
        self.dispatch.journal.commit(batch).await.is_ok()
    }

    /// Takes in what came of a check of a node of `owner`.
    fn conclude(&self, audit: &Audit, owner: Option<AccountId>, result: &AuditResult) {
        let (now, node) = (self.dispatch.clock.calendar(), audit.id.node);
        let mut state = self.state();
        let outcome = state.auditor.handle_result(&audit.id, result, now);
        state.rests.see(node, &audit.id.model, result, now);
        drop(state);
        tracing::debug!(%node, model = %audit.id.model, ?outcome, "a node was checked");
        match outcome {
            Ok(Outcome::Convicted(conviction)) => return self.convict(*conviction),
            Ok(Outcome::Passed) => {
                if let Some(owner) = owner {
                    let what = What::Checked { passed: true, weight: 1000 };
                    self.dispatch.credit(&RewardEvent { at: now, node, owner, what }, "checked");
                }
            }
            Ok(Outcome::Suspected { is_confirming }) => {
                tracing::warn!(%node, is_confirming, "a node does not seem to run its model");
            }
            Ok(Outcome::Cleared { doubted: Some(doubted) }) => {
                tracing::warn!(%node, %doubted, "an owner's reference suspected an honest node");
            }
            _ => {}
        }
        self.write_down(&node);
    }

    fn convict(&self, conviction: Conviction) {
        let node = conviction.verdict.node;
        tracing::warn!(%node, verdict = %conviction.verdict.id, "{}", conviction.verdict);
        let batch = CaseRecord::new(conviction).write(Batch::new());
        let batch = self
            .record(&node)
            .into_iter()
            .fold(batch, |batch, (key, record)| batch.put(key, record));
        if let Err(error) = self.dispatch.journal.record_surely(batch) {
            tracing::error!(%node, %error, "a verdict was lost");
        }
        self.dispatch.set_convicted(node, true);
    }

    fn write_down(&self, node: &NodeId) {
        if let Some((key, record)) = self.record(node) {
            self.dispatch.record(Batch::new().put(key, record));
        }
    }

    fn record(&self, node: &NodeId) -> Option<(Key, Document)> {
        let key = audited_key(node);
        let state = self.state();
        let sealed = Sealed::json(&self.key, &key, state.auditor.record(node)?);
        Some((key, Document::encode(&sealed)))
    }

    fn seed(&self) -> Seed {
        Seed::from_bytes(self.dispatch.entropy.bytes())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how far a node has come with a model.
    pub(crate) fn stage(&self, node: &NodeId, model: &ModelName) -> Stage {
        self.state().auditor.stage(node, model, self.dispatch.clock.calendar())
    }
}

/// Asks the auditor whenever there is something to ask.
async fn drive(
    verification: Weak<Verification>,
    mut worked: mpsc::Receiver<Worked>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let worked = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => None,
            worked = worked.recv() => match worked {
                Some(worked) => Some(worked),
                None => return,
            },
        };
        let Some(verification) = verification.upgrade() else { return };
        match worked {
            Some(worked) => verification.handle_worked(&worked),
            None => verification.tick(),
        }
    }
}

fn audited_key(node: &NodeId) -> Key {
    Key::new(AUDITED, node).expect("an id is a key segment")
}
