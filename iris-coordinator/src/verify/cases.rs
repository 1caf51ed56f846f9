//! Verdicts, and what their owners and operators say of them.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use iris_core::id::VerdictId;
use iris_core::reward::{RewardEvent, What};
use iris_core::store::{Batch, Document, Key, Record, Store, StoreError, Version};
use iris_core::verify::{Appeal, AppealError, Case, Conviction, Ruling, Seed, Verdict};
use iris_core::{AccountId, Timestamp};
use serde::{Deserialize, Serialize};

use super::Verification;
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
    /// From which the prompts can be made again that confirmed it.
    seeds: Vec<Seed>,
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
    dispatch: Arc<Dispatch>,
    store: Arc<dyn Store>,
    verification: Arc<Verification>,
}

impl CaseRecord {
    pub(super) fn new(conviction: Conviction) -> Self {
        let Conviction { verdict, seeds } = conviction;
        let case = Case::new(verdict);
        Self { case, seeds, objection: None, reason: None, carried_out: false }
    }

    pub(super) fn write(&self, batch: Batch) -> Batch {
        batch.put(key(self.verdict().id), Document::encode(self))
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

    /// Returns what the owner says of it.
    pub fn objection(&self) -> Option<&str> {
        self.objection.as_deref()
    }

    /// Returns why the operator decided as they did.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(super) const fn is_overturned(&self) -> bool {
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
    pub(crate) fn new(
        dispatch: Arc<Dispatch>,
        store: Arc<dyn Store>,
        verification: Arc<Verification>,
    ) -> Self {
        Self { dispatch, store, verification }
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
        case.case.appeal(self.dispatch.clock.calendar())?;
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
        let now = self.dispatch.clock.calendar();
        case.case.decide(ruling, now)?;
        case.reason = reason.map(str::to_owned);
        match ruling {
            Ruling::Uphold => self.carry_out(version, &mut case, now).await?,
            Ruling::Overturn => {
                self.replace(version, &case, Batch::new()).await?;
                self.verification.overturn(case.verdict().node, id);
            }
        }
        Ok(case)
    }

    /// Carries out what nobody has objected to in time. Called every hour.
    pub(crate) async fn keep_house(&self) {
        self.verification.forget_absent();
        if let Err(error) = self.verification.sweep(&*self.store).await {
            tracing::error!(%error, "old checks cannot be swept");
        }
        if let Err(error) = self.carry_out_all().await {
            tracing::error!(%error, "verdicts cannot be carried out");
        }
    }

    async fn carry_out_all(&self) -> Result<(), VerdictError> {
        let now = self.dispatch.clock.calendar();
        let cases = self.store.scan(Key::all(VERDICT)).map(|record| decode(&record?));
        let is_due = |(_, case): &(_, CaseRecord)| case.is_pending() && case.case.is_final(now);
        let due = cases.try_filter(|found| std::future::ready(is_due(found)));
        for (version, mut case) in due.try_collect::<Vec<_>>().await? {
            match self.carry_out(version, &mut case, now).await {
                // Whoever was faster did it, or an appeal came in.
                Ok(()) | Err(VerdictError::Changed) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        version: Version,
        case: &mut CaseRecord,
        now: Timestamp,
    ) -> Result<(), VerdictError> {
        let (batch, event) = case.carry_out(now, Batch::new());
        self.replace(version, case, batch).await?;
        self.dispatch.apply(event.deed().as_slice());
        Ok(())
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
