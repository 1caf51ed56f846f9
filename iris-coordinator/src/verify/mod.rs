//! Finds out whether nodes run the models that they offer.
//!
//! The rules are those of [`iris_core::verify`]; here they are carried out. Once a minute, and
//! whenever a task is over, the auditor is asked whether to check a node. A check is a task like any
//! caller's, sent to that one node, at temperature zero. Its answer is scored by a reference: a
//! connected node of an owner whom the operator trusts, and not of the node's own, that offers the
//! same model and scores given texts. Where no operator trusts anybody nothing is checked.
//!
//! # What a node can tell a check by
//!
//! Its prompt, if it knows the phrases that prompts are made of, and its temperature, which is zero.
//! Nothing else: a check is written as programs write their requests, streamed or not, comes open or
//! sealed as the task did that it goes with, at some moment within the next minutes, and takes the way
//! of every other task to the node. It comes in the name of whoever asked for that task, in those of
//! the latest callers, and in those of people who are nobody; where a node answers the invited alone,
//! in the name of one of them. Whoever asked knows that it did not ask this, so a node can tell tests
//! in its friends' names. Of those that go with a stranger's task half come in the stranger's name.
//!
//! What the network asks for itself is in nobody's books: it is not counted, not limited, brings no
//! points and no pay, and does not show in the standing of nodes. Whatever goes wrong on the way (no
//! reference, a refusal, an answer that cannot be scored, time that runs out) ends the check with
//! nothing learnt.
//!
//! # Who answers no test
//!
//! What a node cannot help says nothing of it: that it was busy with others' tasks, gone before it was
//! asked, or that no reference scored its answer. Nor does an answer that cannot be scored, unless its
//! node has passed tests with that model before. One that was asked ten times in a row, and each time
//! refused, failed or fell silent, is not accused of anything: it may have a bad line. But an
//! [`Unanswered`](iris_core::reward::What::Unanswered) event says so in the books, its work with that
//! model is not paid until it passes a test, its standing suffers as by one task that it failed, and
//! owner and operator are told.
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
mod compared;
mod presence;
mod rests;
mod signs;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use iris_core::reward::{RewardEvent, What};
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::verify::{
    Audit, AuditId, AuditResult, Auditor, Canary, Check, Commitment, Conviction, Lapse, NodeRecord,
    Outcome, Phrases, Rules, Seed, Stage, Traffic,
};
use iris_core::{AccountId, ModelName, NodeId, Timestamp};
use iris_crypto::RecordKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Interval, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dispatch::{Dispatch, Worked};
use crate::inference::Sealed;
use asking::Mode;
use cases::Stand;
use compared::Compared;
use presence::Presence;
use rests::Rests;
use signs::Signs;

pub(crate) use cases::accused;
pub use cases::{CaseRecord, Cases, VerdictError};
pub use signs::Sign;

/// The record type of what is known of a node's honesty; sealed, since it holds seeds of prompts
/// that are still secret.
const AUDITED: &str = "audited";
/// The record type of what binds to prompts that were sent, in the order of their times.
const CANARY: &str = "canary";
/// How long that is kept: longer than it takes from the first of a verdict's prompts to its end.
const KEPT: Duration = Duration::from_hours(24 * 60);
/// How many of these records are deleted at a time.
const DELETED_TOGETHER: usize = 256;
/// How many nodes are checked at a time: many, since whoever says nothing holds a place.
const UNDER_WAY: usize = 64;
/// Within how many milliseconds whoever asks gives up: some sooner, as people do.
const PATIENCE: Range<u64> = 240_000..480_000;
/// How much of an answer is scored where all of it is too much, in bytes.
const BEGINNING: usize = 256;
/// How many tokens the last word before that can have been cut into, which its node never wrote.
const CUT: usize = 3;
/// How long a reference may take.
const SCORING: Duration = Duration::from_mins(5);
/// How many checks may wait for their moment.
const WAITING: usize = 1024;
/// How many completed tasks may wait to be looked at; further ones are not.
const WORKED: usize = 256;
/// How long callers' requests may take where nobody says otherwise.
const TIME_LIMIT: Duration = Duration::from_mins(10);
/// How long a node may be away before it is forgotten: longer than any error counts.
const FORGOTTEN: Duration = Duration::from_hours(24 * 400);

/// Checks nodes, as long as the coordinator lives.
pub(crate) struct Verification {
    dispatch: Arc<Dispatch>,
    key: RecordKey,
    manner: Manner,
    state: Mutex<State>,
    /// How long callers' requests may take, in milliseconds.
    time_limit_ms: AtomicU64,
    waiting: Arc<Semaphore>,
    under_way: Semaphore,
    tasks: TaskTracker,
    suspended: CancellationToken,
}

/// How a coordinator checks.
#[derive(Debug)]
pub(crate) struct Manner {
    /// Whether it does.
    pub(crate) verifies: bool,
    /// What prompts are made of.
    pub(crate) phrases: Phrases,
    /// Whether open chats may be given to a second node.
    pub(crate) compares: bool,
    /// How often nodes are looked at that get no work.
    pub(crate) tick: Duration,
    /// Within which time a check is sent, so that nothing tells it by its moment.
    pub(crate) within: Duration,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            verifies: false,
            phrases: Phrases::default(),
            compares: false,
            tick: Duration::from_mins(1),
            within: Duration::from_secs(150),
        }
    }
}

struct State {
    auditor: Auditor,
    /// The prompts of second tests under way, as they were asked: what prompts are made of may
    /// change before there is a verdict.
    asked: BTreeMap<NodeId, Asked>,
    presence: Presence,
    rests: Rests,
    signs: Signs,
}

/// The prompts of one node's second tests, in order.
type Asked = BTreeMap<ModelName, Vec<String>>;

/// What is written down of a node.
#[derive(Serialize, Deserialize)]
struct Audited {
    record: NodeRecord,
    asked: Asked,
}

/// A check that is to be made.
struct Due {
    audit: Audit,
    mode: Mode,
    /// Who asked for the task that it goes with, where its question may come from the same.
    caller: Option<AccountId>,
    /// What was asked and answered, where that is compared.
    compared: Option<Compared>,
}

impl Verification {
    /// Takes up what the store knows of nodes.
    pub(crate) async fn load(
        dispatch: Arc<Dispatch>,
        store: &dyn Store,
        key: RecordKey,
        manner: Manner,
        tasks: TaskTracker,
    ) -> Result<Self, StoreError> {
        let (mut auditor, mut asked) = (Auditor::new(Rules::default()), BTreeMap::new());
        let mut records = store.scan(Key::all(AUDITED));
        while let Some(record) = records.next().await {
            let record = record?;
            let Ok(node) = record.key.id().parse() else { continue };
            let sealed: Sealed = record.value.decode()?;
            if let Some(Audited { record, asked: own }) = sealed.read(&key, &record.key) {
                auditor.restore(node, record);
                if !own.is_empty() {
                    asked.insert(node, own);
                }
            } else {
                tracing::warn!(%node, "what is known of a node's honesty does not open");
            }
        }
        let verification = Self {
            dispatch,
            key,
            manner,
            state: Mutex::new(State {
                auditor,
                asked,
                presence: Presence::default(),
                rests: Rests::default(),
                signs: Signs::default(),
            }),
            time_limit_ms: AtomicU64::new(
                u64::try_from(TIME_LIMIT.as_millis()).unwrap_or(u64::MAX),
            ),
            waiting: Arc::new(Semaphore::new(WAITING)),
            under_way: Semaphore::new(UNDER_WAY),
            tasks,
            suspended: CancellationToken::new(),
        };
        let cases = cases::all(store).await?;
        verification.agree(&cases.iter().map(CaseRecord::stand).collect::<Vec<_>>());
        Ok(verification)
    }

    /// Begins to check nodes.
    pub(crate) fn start(self: &Arc<Self>) {
        let (listener, worked) = mpsc::channel(WORKED);
        self.dispatch.tell_of_work(listener, self.manner.compares);
        let tick = tokio::time::interval(self.manner.tick);
        tokio::spawn(drive(Arc::downgrade(self), tick, worked, self.suspended.clone()));
    }

    /// Ends what is under way; it is made up for later.
    pub(crate) fn suspend(&self) {
        self.suspended.cancel();
    }

    /// Sets how long callers' requests may take; those of checks take as long.
    pub(crate) fn set_time_limit(&self, limit: Duration) {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.time_limit_ms.store(limit, Ordering::Relaxed);
    }

    /// Takes in what the books say of all verdicts, whoever wrote it there.
    fn agree(&self, verdicts: &[Stand]) {
        let standing = verdicts.iter().filter(|verdict| !verdict.is_void);
        let standing: BTreeSet<_> = standing.map(|verdict| verdict.node).collect();
        for node in &standing {
            self.dispatch.set_convicted(*node, true);
        }
        for Stand { node, verdict, .. } in verdicts.iter().filter(|verdict| verdict.is_void) {
            let now = self.dispatch.clock.calendar();
            let mut state = self.state();
            let is_convicted =
                |auditor: &Auditor| auditor.record(node).is_some_and(NodeRecord::is_convicted);
            let was = is_convicted(&state.auditor);
            state.auditor.handle_overturned(node, *verdict, now);
            let is = is_convicted(&state.auditor);
            drop(state);
            if was && !is {
                self.write_down(node);
            }
            // A verdict of this moment may not be in the books yet.
            if !is && !standing.contains(node) {
                self.dispatch.set_convicted(*node, false);
            }
        }
    }

    /// Forgets nodes that have been away for more than a year.
    pub(crate) fn forget_absent(&self) {
        let now = self.dispatch.clock.calendar().as_millis();
        let longest = u64::try_from(FORGOTTEN.as_millis()).unwrap_or(u64::MAX);
        let before = Timestamp::from_millis(now.saturating_sub(longest));
        let mut state = self.state();
        let forgotten = state.auditor.forget_absent(before);
        state.asked.retain(|node, _| !forgotten.contains(node));
        drop(state);
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
        let State { auditor, presence, rests, signs, .. } = &mut *state;
        for (node, owner) in presence.see(&offers, auditor, now) {
            signs.see_new_node(node, owner, now);
        }
        rests.forget(now);
        drop(state);
        while let Ok(turn) = Arc::clone(&self.waiting).try_acquire_owned() {
            let seed = self.seed();
            let Some(audit) = self.state().auditor.poll_audit(now, seed) else { return };
            let mode = if self.draw(0..2) == 0 { Mode::Open } else { Mode::Sealed };
            self.begin(Due { audit, mode, caller: None, compared: None }, turn);
        }
    }

    /// Looks at a node that has just completed a task.
    fn handle_worked(self: &Arc<Self>, worked: Worked) {
        let Worked { node, model, caller, sealed, pace, exchange } = worked;
        let (now, seed) = (self.dispatch.clock.calendar(), self.seed());
        if let Some((pace, bytes)) = pace.zip(self.dispatch.weights_of(&node, &model)) {
            self.state().signs.see_speed(node, pace, bytes, now);
        }
        let Ok(turn) = Arc::clone(&self.waiting).try_acquire_owned() else { return };
        let compared = exchange.and_then(Compared::read);
        let traffic = if compared.is_some() { Traffic::Comparable } else { Traffic::Private };
        let mut state = self.state();
        if state.rests.holds(&node, &model, now) {
            return;
        }
        let audit = state.auditor.handle_task(&node, &model, traffic, now, seed);
        drop(state);
        if let Some(audit) = audit {
            let mode = if sealed { Mode::Sealed } else { Mode::Open };
            // Half of them; who asked knows that it did not ask this, and may be the node's friend.
            let caller = (self.draw(0..2) == 0).then_some(caller);
            self.begin(Due { audit, mode, caller, compared }, turn);
        }
    }

    fn begin(self: &Arc<Self>, due: Due, turn: OwnedSemaphorePermit) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let audit = &due.audit;
            let owner = this.dispatch.owner_of_offer(&audit.id.node, &audit.id.model);
            let carried = this.suspended.run_until_cancelled(this.carry_out(&due)).await;
            let result = carried.unwrap_or(AuditResult::Unasked);
            this.conclude(audit, owner, &result);
            drop(turn);
        });
    }

    async fn carry_out(&self, due: &Due) -> AuditResult {
        let Audit { id, check, reference } = &due.audit;
        let within = u64::try_from(self.manner.within.as_millis()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_millis(self.draw(0..within))).await;
        let Ok(_turn) = self.under_way.acquire().await else { return AuditResult::Unasked };
        if self.dispatch.owner_of_offer(&reference.node, &id.model) != Some(reference.owner) {
            return AuditResult::Unasked;
        }
        match (check, &due.compared) {
            (Check::Canary { seed, commitment }, _) => self.send(due, *seed, *commitment).await,
            (Check::Duplicate, Some(compared)) => self.compare(&due.audit, compared).await,
            (Check::Duplicate, None) => AuditResult::Unasked,
        }
    }

    /// Sends a canary, and has the answer scored.
    async fn send(&self, due: &Due, seed: Seed, commitment: Commitment) -> AuditResult {
        let Due { audit, mode, caller, .. } = due;
        let AuditId { node, model, .. } = &audit.id;
        let drawn = self.dispatch.entropy.seed();
        let Some(name) = self.dispatch.name_for(node, model, *caller, drawn) else {
            return AuditResult::Unasked;
        };
        if !self.commit(audit, commitment).await {
            return AuditResult::Unasked;
        }
        let canary = Canary::draw(&self.manner.phrases, seed);
        let answer = match self.ask(&canary, model, *node, *mode, name).await {
            Ok(answer) => answer,
            Err(result) => return result,
        };
        let now = self.dispatch.clock.calendar();
        if let Some(owner) = self.dispatch.owner_of_offer(node, model) {
            self.state().signs.see_answer(*node, owner, &canary.prompt, &answer, now);
        }
        let messages = vec![json!({ "role": "user", "content": canary.prompt })];
        self.scored(messages, model, &answer, audit.reference.node).await
    }

    /// Has an answer to `messages` scored by a reference; one that is more than it can take, by its
    /// beginning, so that nobody gets out of this by saying too much.
    async fn scored(
        &self,
        messages: Vec<Value>,
        model: &ModelName,
        answer: &str,
        reference: NodeId,
    ) -> AuditResult {
        let beginning = &answer[..answer.floor_char_boundary(BEGINNING)];
        let scored = async {
            match self.score(messages.clone(), model, answer, reference).await {
                None if answer.len() > BEGINNING => {
                    let scores = self.score(messages, model, beginning, reference).await;
                    scores.map(|mut scores| {
                        // The last ones are of pieces of a word that was cut.
                        scores.truncate(scores.len().saturating_sub(CUT));
                        scores
                    })
                }
                scored => scored,
            }
        };
        match timeout(SCORING, scored).await {
            Ok(Some(scored)) => AuditResult::Scored(scored),
            Ok(None) | Err(_) => AuditResult::Unscored,
        }
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
        let asked =
            outcome.as_ref().map_or(Vec::new(), |outcome| self.note(&mut state, audit, outcome));
        drop(state);
        tracing::debug!(%node, model = %audit.id.model, ?outcome, "a node was checked");
        match outcome {
            Ok(Outcome::Convicted(conviction)) => return self.convict(*conviction, asked),
            Ok(Outcome::Passed) => {
                // What two others asked may be a word that anybody would answer.
                if let (Some(owner), Check::Canary { commitment, .. }) = (owner, &audit.check) {
                    let model = audit.id.model.clone();
                    let what = What::Checked { model, passed: true, weight: 1000 };
                    // By its cause, since two models may be done in the same millisecond.
                    let kind = format!("checked-{commitment}");
                    self.dispatch.credit(&RewardEvent { at: now, node, owner, what }, &kind);
                }
            }
            Ok(Outcome::Unanswered) => self.tell_silence(audit, owner, now),
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

    /// Returns whether it tests nodes, or only carries out what was found before.
    pub(crate) const fn checks(&self) -> bool {
        self.manner.verifies
    }

    /// Keeps what a second test asked until it has come to an end, and returns it then.
    fn note(&self, state: &mut State, audit: &Audit, outcome: &Outcome) -> Vec<String> {
        let AuditId { node, model, .. } = &audit.id;
        if let (Outcome::Confirming | Outcome::Convicted(_), Check::Canary { seed, .. }) =
            (outcome, &audit.check)
        {
            let prompts = state.asked.entry(*node).or_default().entry(model.clone()).or_default();
            prompts.push(Canary::draw(&self.manner.phrases, *seed).prompt);
        }
        let is_over = matches!(outcome, Outcome::Cleared { .. } | Outcome::Convicted(_));
        // One that begins takes the place of one that never came to an end.
        if !is_over && !matches!(outcome, Outcome::Suspected { is_confirming: true }) {
            return Vec::new();
        }
        let Some(asked) = state.asked.get_mut(node) else { return Vec::new() };
        let prompts = asked.remove(model).unwrap_or_default();
        if asked.is_empty() {
            state.asked.remove(node);
        }
        prompts
    }

    /// Writes down that a node answers no tests with a model; nobody is accused of anything.
    fn tell_silence(&self, audit: &Audit, owner: Option<AccountId>, now: Timestamp) {
        let AuditId { node, model, .. } = &audit.id;
        self.state().signs.see_silence(*node, now);
        let (Some(owner), Check::Canary { commitment, .. }) = (owner, &audit.check) else { return };
        let what = What::Unanswered { model: model.clone() };
        let event = RewardEvent { at: now, node: *node, owner, what };
        self.dispatch.credit(&event, &format!("unanswered-{commitment}"));
        self.dispatch.note_silence(&event);
    }

    fn convict(&self, conviction: Conviction, prompts: Vec<String>) {
        let node = conviction.verdict.node;
        tracing::warn!(%node, verdict = %conviction.verdict.id, "{}", conviction.verdict);
        let batch = CaseRecord::new(conviction, prompts).write(Batch::new());
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
        let record = state.auditor.record(node)?.clone();
        let asked = state.asked.get(node).cloned().unwrap_or_default();
        drop(state);
        let sealed = Sealed::json(&self.key, &key, &Audited { record, asked });
        Some((key, Document::encode(&sealed)))
    }

    fn seed(&self) -> Seed {
        Seed::from_bytes(self.dispatch.entropy.bytes())
    }

    /// Returns a number of the range, by chance.
    fn draw(&self, range: Range<u64>) -> u64 {
        let width = u128::from(range.end.saturating_sub(range.start));
        let drawn = (u128::from(self.dispatch.entropy.seed()) * width) >> 64;
        range.start + u64::try_from(drawn).expect("it is below the width")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what of late was odd about nodes.
    pub(crate) fn signs(&self) -> Vec<Sign> {
        self.state().signs.latest()
    }

    /// Returns the models of a node that no test vouches for any more, and why.
    pub(crate) fn lapses(&self, node: &NodeId) -> Vec<(ModelName, Lapse)> {
        self.state().auditor.lapses(node, self.dispatch.clock.calendar())
    }

    /// Returns how far a node has come with a model.
    pub(crate) fn stage(&self, node: &NodeId, model: &ModelName) -> Stage {
        self.state().auditor.stage(node, model, self.dispatch.clock.calendar())
    }
}

/// Asks the auditor whenever there is something to ask.
async fn drive(
    verification: Weak<Verification>,
    mut tick: Interval,
    mut worked: mpsc::Receiver<Worked>,
    stop: CancellationToken,
) {
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            Some(worked) => verification.handle_worked(worked),
            None => verification.tick(),
        }
    }
}

fn audited_key(node: &NodeId) -> Key {
    Key::new(AUDITED, node).expect("an id is a key segment")
}
