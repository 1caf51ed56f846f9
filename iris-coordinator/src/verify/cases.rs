//! Verdicts, and what their owners and operators say of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use iris_core::id::VerdictId;
use iris_core::reward::{RewardEvent, What};
use iris_core::store::{Batch, Document, Key, Record, Store, StoreError, Version};
use iris_core::verify::{Appeal, AppealError, Case, Conviction, Ruling, Seed, Verdict};
use iris_core::{AccountId, NodeId, Timestamp};
use iris_crypto::RecordKey;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

use super::{Manner, Verification};
use crate::clock::Clock;
use crate::dispatch::Dispatch;
use crate::payouts;

/// The record type of verdicts.
const VERDICT: &str = "verdict";
/// Longest text of an appeal or a decision, in bytes.
const MAX_TEXT: usize = 4096;

/// A verdict with all that was said of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseRecord {
    #[serde(flatten)]
    case: Case,
    /// From which the prompts can be made again that confirmed it, as long as they are made of the
    /// same phrases.
    seeds: Vec<Seed>,
    /// Those prompts, as they were asked.
    prompts: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    objection: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Whether the event is written that points and money follow from.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    carried_out: bool,
}

/// Why nothing was done about a verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerdictError {
    /// There is no such verdict, or it is about another's node.
    #[error("there is no such verdict")]
    NotFound,
    /// It cannot be appealed against or decided any more, or not yet.
    #[error(transparent)]
    Appeal(#[from] AppealError),
    /// The text is missing or too long.
    #[error("a text has 1 to {MAX_TEXT} bytes, and no invisible characters but line breaks")]
    Text,
    /// Somebody else changed it in the same moment; worth another look.
    #[error("somebody else has just changed this; look at it again")]
    Changed,
    /// The books cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The verdicts of a network.
pub struct Cases {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// The coordinator that is at work on them, if it is this one.
    at_work: Option<(Arc<Dispatch>, Arc<Verification>)>,
    /// The verdicts that were read before.
    known: tokio::sync::Mutex<BTreeMap<Key, Known>>,
}

/// What a verdict came to when it was last read.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: Version,
    stand: Stand,
    is_pending: bool,
}

/// A verdict on a node, and whether it is void.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stand {
    pub(super) node: NodeId,
    pub(super) verdict: VerdictId,
    pub(super) is_void: bool,
}

impl CaseRecord {
    pub(super) fn new(conviction: Conviction, prompts: Vec<String>) -> Self {
        let Conviction { verdict, seeds } = conviction;
        let case = Case::new(verdict);
        Self { case, seeds, prompts, objection: None, reason: None, carried_out: false }
    }

    /// Writes it down; whatever else may have its id stands.
    pub(super) fn write(&self, batch: Batch) -> Batch {
        batch.create(key(self.verdict().id), Document::encode(self))
    }

    /// Returns the verdict.
    pub const fn verdict(&self) -> &Verdict {
        &self.case.verdict
    }

    /// Returns how far an appeal has come, if there is one.
    pub const fn appeal(&self) -> Option<Appeal> {
        self.case.appeal
    }

    /// Returns whether the verdict stands for good.
    pub fn is_final(&self, now: Timestamp) -> bool {
        self.carried_out || self.case.is_final(now)
    }

    /// Returns the seeds of the prompts that confirmed it, in order.
    pub fn seeds(&self) -> &[Seed] {
        &self.seeds
    }

    /// Returns those prompts, as they were asked.
    pub fn prompts(&self) -> &[String] {
        &self.prompts
    }

    /// Returns what the owner says of it.
    pub fn objection(&self) -> Option<&str> {
        self.objection.as_deref()
    }

    /// Returns why the operator decided as they did.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    const fn is_overturned(&self) -> bool {
        matches!(self.case.appeal, Some(Appeal::Overturned { .. }))
    }

    /// Adds the event that points and money follow from, once.
    fn carry_out(&mut self, now: Timestamp, batch: Batch) -> (Batch, RewardEvent) {
        let Verdict { node, owner, .. } = self.case.verdict;
        let event = RewardEvent { at: now, node, owner, what: What::Convicted };
        self.carried_out = true;
        let key = payouts::event_key(now, &node, "convicted");
        (batch.create(key, Document::encode(&event)), event)
    }
}

impl Cases {
    /// Reads and decides the verdicts in `store` beside the coordinator that is at work on them: it
    /// carries out what is decided here within a minute.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, at_work: None, known: tokio::sync::Mutex::default() }
    }

    /// Takes up what the store knows of nodes and verdicts, and begins to check nodes if that is
    /// wanted.
    pub(crate) async fn load(
        store: Arc<dyn Store>,
        dispatch: Arc<Dispatch>,
        key: RecordKey,
        manner: Manner,
        tasks: TaskTracker,
    ) -> Result<Self, StoreError> {
        let verifies = manner.verifies;
        let verification = Verification::load(Arc::clone(&dispatch), &*store, key, manner, tasks);
        let verification = Arc::new(verification.await?);
        if verifies {
            verification.start();
        }
        let clock = Arc::clone(&dispatch.clock);
        let (at_work, known) = (Some((dispatch, verification)), tokio::sync::Mutex::default());
        Ok(Self { store, clock, at_work, known })
    }

    /// Returns who checks nodes, where that is the coordinator at work.
    pub(crate) fn verification(&self) -> Option<&Verification> {
        self.at_work.as_ref().map(|(_, verification)| &**verification)
    }

    /// Returns whether nodes are checked.
    pub(crate) fn checks(&self) -> bool {
        self.verification().is_some_and(Verification::checks)
    }

    /// Returns the verdict `id`; `owner` sees those on its own nodes alone.
    pub async fn case(
        &self,
        owner: Option<&AccountId>,
        id: VerdictId,
    ) -> Result<CaseRecord, VerdictError> {
        let (_, case) = self.find(id).await?;
        let is_seen = owner.is_none_or(|owner| case.verdict().owner == *owner);
        if is_seen { Ok(case) } else { Err(VerdictError::NotFound) }
    }

    /// Returns at most `limit` verdicts on nodes of `owner`, or of everybody, in the order of their
    /// ids, beginning after `after`.
    pub async fn page(
        &self,
        owner: Option<&AccountId>,
        after: Option<VerdictId>,
        limit: usize,
    ) -> Result<Vec<CaseRecord>, VerdictError> {
        let all = Key::all(VERDICT);
        let start = after.map_or(all.start, key);
        let records =
            self.store.scan(start..all.end).map(|record| decode(&record?).map(|(_, c)| c));
        let wanted = records.try_filter(|case| {
            let verdict = case.verdict();
            let wanted = owner.is_none_or(|owner| verdict.owner == *owner);
            std::future::ready(wanted && after != Some(verdict.id))
        });
        Ok(wanted.take(limit).try_collect().await?)
    }

    /// Records that `owner` objects to a verdict, and why.
    pub async fn appeal(
        &self,
        owner: &AccountId,
        id: VerdictId,
        text: &str,
    ) -> Result<CaseRecord, VerdictError> {
        check_text(text)?;
        let (version, mut case) = self.find(id).await?;
        if case.verdict().owner != *owner {
            return Err(VerdictError::NotFound);
        }
        if case.carried_out && case.appeal().is_none() {
            return Err(AppealError::TooLate.into());
        }
        case.case.appeal(self.clock.calendar())?;
        case.objection = Some(text.to_owned());
        self.replace(version, &case, Batch::new()).await?;
        Ok(case)
    }

    /// Decides an appeal.
    pub async fn decide(
        &self,
        id: VerdictId,
        ruling: Ruling,
        reason: Option<&str>,
    ) -> Result<CaseRecord, VerdictError> {
        reason.map(check_text).transpose()?;
        let (version, mut case) = self.find(id).await?;
        case.case.decide(ruling, self.clock.calendar())?;
        case.reason = reason.map(str::to_owned);
        self.replace(version, &case, Batch::new()).await?;
        self.carry_out().await?;
        Ok(case)
    }

    /// Forgets what is too old to matter. Called every hour.
    pub(crate) async fn keep_house(&self) {
        let Some((_, verification)) = &self.at_work else { return };
        verification.forget_absent();
        if let Err(error) = verification.sweep(&*self.store).await {
            tracing::error!(%error, "old checks cannot be swept");
        }
    }

    /// Carries out what was decided, wherever that was, and what nobody has objected to in time.
    /// Called every minute.
    pub(crate) async fn carry_out_all(&self) {
        if let Err(error) = self.carry_out().await {
            tracing::error!(%error, "verdicts cannot be carried out");
        }
    }

    async fn carry_out(&self) -> Result<(), VerdictError> {
        let Some((dispatch, verification)) = &self.at_work else { return Ok(()) };
        let now = self.clock.calendar();
        let (stands, pending) = self.read_anew().await?;
        verification.agree(&stands);
        for (version, mut case) in pending {
            if !case.case.is_final(now) {
                continue;
            }
            let (batch, event) = case.carry_out(now, Batch::new());
            match self.replace(version, &case, batch).await {
                Ok(()) => dispatch.apply(event.deed().as_slice()),
                // Whoever was faster did it, or an appeal came in.
                Err(VerdictError::Changed) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns how all verdicts stand, and those that may yet have consequences. What nobody has
    /// changed since it had its consequences is not read again.
    async fn read_anew(&self) -> Result<(Vec<Stand>, Vec<(Version, CaseRecord)>), StoreError> {
        let mut known = self.known.lock().await;
        let (mut seen, mut pending) = (BTreeMap::new(), Vec::new());
        let mut records = self.store.scan(Key::all(VERDICT));
        while let Some(record) = records.try_next().await? {
            let before = known.get(&record.key).filter(|known| known.version == record.version);
            let now = match before {
                Some(before) if !before.is_pending => *before,
                _ => {
                    let (version, case) = decode(&record)?;
                    let (stand, is_pending) = (case.stand(), case.is_pending());
                    pending.extend(is_pending.then_some((version, case)));
                    Known { version, stand, is_pending }
                }
            };
            seen.insert(record.key, now);
        }
        let stands = seen.values().map(|known| known.stand).collect();
        *known = seen;
        Ok((stands, pending))
    }

    async fn find(&self, id: VerdictId) -> Result<(Version, CaseRecord), VerdictError> {
        let record = self.store.get(key(id)).await?.ok_or(VerdictError::NotFound)?;
        Ok(decode(&record)?)
    }

    async fn replace(
        &self,
        version: Version,
        case: &CaseRecord,
        batch: Batch,
    ) -> Result<(), VerdictError> {
        let batch = batch.replace(key(case.verdict().id), version, Document::encode(case));
        match self.store.commit(batch).await {
            Err(StoreError::Conflict(_)) => Err(VerdictError::Changed),
            done => Ok(done?),
        }
    }
}

impl CaseRecord {
    pub(super) const fn stand(&self) -> Stand {
        let Verdict { node, id, .. } = self.case.verdict;
        Stand { node, verdict: id, is_void: self.is_overturned() }
    }

    /// Returns whether it may yet have consequences for points and money.
    const fn is_pending(&self) -> bool {
        !self.carried_out && !self.is_overturned()
    }
}

impl std::fmt::Debug for Cases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cases").finish_non_exhaustive()
    }
}

/// Reads all verdicts there ever were.
pub(super) async fn all(store: &dyn Store) -> Result<Vec<CaseRecord>, StoreError> {
    let records =
        store.scan(Key::all(VERDICT)).map(|record| decode(&record?).map(|(_, case)| case));
    records.try_collect().await
}

/// Returns the owners of nodes about which a verdict may yet become final.
pub(crate) async fn accused(store: &dyn Store) -> Result<HashSet<AccountId>, StoreError> {
    let cases = all(store).await?.into_iter();
    Ok(cases.filter(CaseRecord::is_pending).map(|case| case.verdict().owner).collect())
}

fn decode(record: &Record) -> Result<(Version, CaseRecord), StoreError> {
    Ok((record.version, record.value.decode()?))
}

fn check_text(text: &str) -> Result<(), VerdictError> {
    let is_plain = |c: char| matches!(c, '\n' | '\r' | '\t') || !iris_core::model::is_invisible(c);
    let is_good = (1..=MAX_TEXT).contains(&text.len()) && text.chars().all(is_plain);
    if is_good && !text.trim().is_empty() { Ok(()) } else { Err(VerdictError::Text) }
}

fn key(id: VerdictId) -> Key {
    Key::new(VERDICT, id).expect("an id is a key segment")
}

#[cfg(test)]
mod tests {
    use iris_core::store::MemoryStore;
    use serde_json::json;

    use super::*;

    fn case(owner: u8) -> CaseRecord {
        let id = |number: u8| format!("{number:02x}").repeat(16);
        let trial = json!({"tokens": 90, "mismatches": 30, "likelihood": 13_000_000});
        let case = json!({
            "verdict": {
                "id": id(7), "node": "a".repeat(26), "owner": id(owner), "model": "m",
                "offence": "another_model", "at": 1, "appeal_until": 2,
                "evidence": {
                    "suspicion": trial, "suspecting": id(1), "confirmation": trial, "answers": 1,
                    "confirming": [id(2)], "error": 100, "prompts": [],
                },
            },
            "appeal": null,
            "seeds": [],
            "prompts": [],
        });
        serde_json::from_value(case).unwrap()
    }

    #[tokio::test]
    async fn a_case_is_written_over_no_other() {
        let store = MemoryStore::new();
        store.commit(case(3).write(Batch::new())).await.unwrap();
        let again = store.commit(case(4).write(Batch::new())).await;
        assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
        assert_eq!(all(&store).await.unwrap(), [case(3)]);
    }

    #[tokio::test]
    async fn verdicts_that_came_to_an_end_are_read_once() {
        let store = Arc::new(MemoryStore::new());
        let (mut done, open) = (case(3), case(3));
        done.carried_out = true;
        let other = |case: &CaseRecord| {
            Key::new(VERDICT, "f".repeat(32)).map(|key| (key, Document::encode(case)))
        };
        let (key, document) = other(&open).unwrap();
        let batch = done.write(Batch::new()).put(key, document);
        store.commit(batch).await.unwrap();
        let cases = Cases::new(store.clone(), Arc::new(crate::clock::SystemClock));
        for _ in 0..2 {
            let (stands, pending) = cases.read_anew().await.unwrap();
            assert_eq!((stands.len(), pending.len()), (2, 1), "what is pending is looked at anew");
        }
        let known = cases.known.lock().await.clone();
        assert_eq!(known.values().filter(|known| known.is_pending).count(), 1);
        // Of the version that was read, so it would be seen if it were decoded again.
        let broken = Document::from_text("{".to_owned());
        let changed = Key::new(VERDICT, done.verdict().id).unwrap();
        store.commit(Batch::new().delete(changed.clone())).await.unwrap();
        store.commit(Batch::new().put(changed.clone(), broken.clone())).await.unwrap();
        assert_eq!(cases.read_anew().await.unwrap().0.len(), 2);
        store.commit(Batch::new().put(changed, broken)).await.unwrap();
        assert!(cases.read_anew().await.is_err(), "what has changed is read");
    }
}
