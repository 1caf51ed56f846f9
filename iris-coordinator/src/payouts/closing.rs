//! Closing a month.

use std::collections::HashMap;
use std::time::Duration;

use futures::TryStreamExt;
use iris_core::ledger::{Book, Cause, Money, Movement};
use iris_core::reputation::MemoryLedger;
use iris_core::reward::audit::{FORMAT, Opening};
use iris_core::reward::{Closing, Month, Outcome, State};
use iris_core::store::{Batch, Document, Key, StoreError};
use iris_core::{AccountId, Epoch};
use iris_protocol::rest::{MonthPreview, PreviewShare};
use serde_json::value::RawValue;

use super::facts::{Fact, Facts};
use super::record::{
    BOOKS, BooksRecord, MONTH, MonthRecord, ShareRecord, ShareState, month_key, movement_key,
    share_key,
};
use super::{PayoutError, Payouts};
use crate::accounts::Accounts;
use crate::link;
use crate::settlement::SETTLEMENT;

/// How long what was read of the running month's pool holds.
const POOL_HOLDS: Duration = Duration::from_secs(10);

impl Payouts {
    /// Takes in what was paid, closes every month that is due, and releases and pays what is.
    /// Called every hour.
    pub(crate) async fn keep_house(&self, accounts: &Accounts) {
        if let Err(error) = self.take_in(accounts).await {
            tracing::error!(%error, "what members paid cannot be taken in");
        }
        self.close_due().await;
        if let Err(error) = self.settle().await {
            tracing::error!(%error, "shares cannot be released or paid");
        }
    }

    /// Closes every month that is due, unless the clock cannot be believed yet.
    pub(super) async fn close_due(&self) {
        match self.look_at_clock().await {
            Ok(None) => {}
            Ok(Some(until)) => {
                let until = until.as_secs();
                tracing::warn!(
                    until,
                    "no month is closed before the clock has gone on for two days"
                );
                return;
            }
            Err(error) => {
                tracing::error!(%error, "months are not closed: what the clock said is not known");
                return;
            }
        }
        loop {
            match self.close_next().await {
                Ok(Some(month)) => tracing::info!(
                    month = %month.epoch, pool = %month.pool, owners = month.owners,
                    "a month was closed"
                ),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "a month cannot be closed");
                    break;
                }
            }
        }
    }

    /// Closes the first month that is not closed, if it is due.
    async fn close_next(&self) -> Result<Option<MonthRecord>, PayoutError> {
        let Some(epoch) = self.first_open().await? else { return Ok(None) };
        let due = epoch.end().saturating_add(self.policy.close_after);
        if self.now() < due {
            return Ok(None);
        }
        self.close(epoch).await.map(Some)
    }

    /// Returns the closed months, the latest first.
    pub async fn months(&self) -> Result<Vec<MonthRecord>, PayoutError> {
        let records = self.store.scan(Key::all(MONTH));
        let months = records.and_then(|record| async move { record.value.decode() });
        let mut months: Vec<MonthRecord> = months.try_collect().await?;
        months.reverse();
        Ok(months)
    }

    /// Returns the month that runs and what is in its pool so far, or was ten seconds ago: all
    /// movements are read for it, and every member may ask.
    pub async fn running(&self) -> Result<(Epoch, Money), PayoutError> {
        let (now, mut known) = (self.now(), self.pool.lock().await);
        if let Some((at, epoch, pool)) = *known
            && epoch == Epoch::of(now)
            && now.saturating_since(at) < POOL_HOLDS
        {
            return Ok((epoch, pool));
        }
        let epoch = Epoch::of(now);
        let pool = self.pool_before(epoch).await?;
        *known = Some((now, epoch, pool));
        Ok((epoch, pool))
    }

    /// Returns a closed month.
    pub async fn month(&self, epoch: Epoch) -> Result<MonthRecord, PayoutError> {
        let found = self.store.get(month_key(MONTH, epoch)).await?;
        Ok(found.ok_or(PayoutError::NotClosed(epoch))?.value.decode()?)
    }

    /// Shares the pool of a month that has been over for [`PayPolicy::close_after`]; of one that is
    /// closed already, says how.
    ///
    /// [`PayPolicy::close_after`]: super::PayPolicy::close_after
    pub async fn close(&self, epoch: Epoch) -> Result<MonthRecord, PayoutError> {
        if let Some(closed) = self.store.get(month_key(MONTH, epoch)).await? {
            return Ok(closed.value.decode()?);
        }
        if let Some(first) = self.first_open().await?.filter(|first| *first < epoch) {
            return Err(PayoutError::Order(first));
        }
        let due = epoch.end().saturating_add(self.policy.close_after);
        if self.now() < due {
            return Err(PayoutError::TooEarly(epoch, due.as_secs()));
        }
        self.check_rules(epoch).await?;
        let opening = self.opening(epoch).await?;
        let pool = self.pool_before(epoch).await?;
        let outcome = self.compute(&opening, pool).await?;
        match self.store.commit(self.closed(opening, outcome).await?).await {
            // Another replica closed it meanwhile, or this one before a crash.
            Ok(()) | Err(StoreError::Conflict(_)) => self.month(epoch).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Shares the pool of the first month that is not closed as if it were closed now, and writes
    /// nothing down; `None` where there has been neither money nor work.
    pub async fn preview(&self) -> Result<Option<MonthPreview>, PayoutError> {
        let Some(epoch) = self.first_open().await? else { return Ok(None) };
        self.check_rules(epoch).await?;
        let opening = self.opening(epoch).await?;
        let pool = self.pool_before(epoch).await?;
        let Closing { pool, carried, shares, .. } = self.compute(&opening, pool).await?.closing;
        let owners = self.owners().await?;
        let shares = shares.into_iter().map(|share| {
            let account = owners.get(&share.owner).copied().unwrap_or(share.owner);
            PreviewShare { account, amount: share.amount, weight: share.weight.weight }
        });
        let mut shares: Vec<_> = shares.collect();
        shares.sort_by_key(|share| share.account);
        let due = epoch.end().saturating_add(self.policy.close_after);
        let (is_due, due) = (self.now() >= due, due.as_secs());
        Ok(Some(MonthPreview { epoch, policy: opening.policy, pool, carried, due, is_due, shares }))
    }

    /// Returns the owners of nodes by their pseudonyms.
    async fn owners(&self) -> Result<HashMap<AccountId, AccountId>, StoreError> {
        let owners = link::owners(&*self.store).await?;
        Ok(owners.into_values().map(|owner| (self.pseudonym(&owner), owner)).collect())
    }

    /// Returns the first month that is not closed and has money or tasks; `None` where there are
    /// neither.
    async fn first_open(&self) -> Result<Option<Epoch>, PayoutError> {
        if let Some(last) = self.months().await?.first() {
            return Ok(Some(last.epoch.next()));
        }
        let mut rows = self.store.scan(Key::all(SETTLEMENT));
        let row = rows.try_next().await?.and_then(|row| {
            let millis = row.key.id().split('-').next()?.parse().ok()?;
            Some(Epoch::of(iris_core::Timestamp::from_millis(millis)))
        });
        let movements = self.movements().await?;
        let pools = movements.iter().flat_map(Movement::postings);
        let pools = pools.filter_map(|posting| match posting.book {
            Book::Pool(epoch) => Some(epoch),
            _ => None,
        });
        Ok(pools.chain(row).min())
    }

    /// Returns what a month begins with.
    pub(super) async fn opening(&self, epoch: Epoch) -> Result<Opening, PayoutError> {
        let last = self.store.get(month_key(BOOKS, epoch.previous())).await?;
        let state = if let Some(last) = last {
            last.value.decode::<BooksRecord>()?.outcome.state
        } else {
            let fresh = (self.policy.make)(None).ok_or_else(|| self.no_rules())?;
            let rules = RawValue::from_string(fresh.state().as_text().to_owned());
            let rules = rules.expect("a document is JSON");
            State { points: MemoryLedger::default(), rules }
        };
        let (policy, rates) = (self.policy.name.clone(), self.policy.rates.clone());
        Ok(Opening { format: FORMAT, epoch, policy, rates, state })
    }

    /// Returns what was in a month's pool before it was shared.
    pub(super) async fn pool_before(&self, epoch: Epoch) -> Result<Money, PayoutError> {
        let closed = Cause::Closed { epoch };
        let movements = self.movements().await?;
        let others = movements.iter().filter(|movement| *movement.cause() != closed);
        let mut sum = Money::ZERO;
        for amount in others.map(|movement| movement.adds_to(Book::Pool(epoch))) {
            let beyond = || StoreError::Corrupt(format!("the pool of {epoch} is beyond numbers"));
            sum = sum.checked_add(amount).ok_or_else(beyond)?;
        }
        Ok(sum)
    }

    /// Folds a month's facts and shares its pool.
    pub(super) async fn compute(
        &self,
        opening: &Opening,
        pool: Money,
    ) -> Result<Outcome, PayoutError> {
        let mut month = self.begin(opening)?;
        let mut facts = Facts::of(self, opening.epoch).await?;
        while let Some(fact) = facts.next().await? {
            match fact {
                Fact::Task(task) => month.task(&task),
                Fact::Event(event) => month.event(&event),
            }
        }
        Ok(month.close(pool))
    }

    pub(super) fn begin(&self, opening: &Opening) -> Result<Month, PayoutError> {
        let State { points, rules } = &opening.state;
        let rules = (self.policy.make)(Some(rules)).ok_or_else(|| self.no_rules())?;
        Ok(Month::begin(opening.epoch, opening.rates.clone(), points.clone(), rules))
    }

    fn no_rules(&self) -> PayoutError {
        PayoutError::Rules(self.policy.name.clone())
    }

    /// Returns the one commit that closes a month.
    async fn closed(&self, opening: Opening, outcome: Outcome) -> Result<Batch, PayoutError> {
        let (epoch, now) = (opening.epoch, self.now());
        let known = self.owners().await?;
        let name = |pseudonym: &AccountId| known.get(pseudonym).copied();
        let unknown = || StoreError::Corrupt("a share is nobody's".to_owned());
        let closing = &outcome.closing;
        let mut batch = Batch::new();
        for share in &closing.shares {
            let owner = name(&share.owner).ok_or_else(unknown)?;
            let share = ShareRecord {
                epoch,
                owner,
                amount: share.amount,
                weight: share.weight.clone(),
                state: ShareState::Held,
                at: now,
                reference: None,
                rail: None,
            };
            batch = batch.create(share_key(epoch, &owner), Document::encode(&share));
        }
        let movement = closing.movement(now, |owner| name(owner).unwrap_or(*owner));
        let movement = movement.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        batch = batch.create(movement_key(movement.cause()), Document::encode(&movement));
        let weights = closing.shares.iter().map(|share| share.weight.weight);
        let month = MonthRecord {
            epoch,
            policy: opening.policy,
            pool: closing.pool,
            carried: closing.carried,
            owners: closing.shares.len() as u64,
            weight: weights.fold(0, u64::saturating_add),
            closed: now,
            release: epoch.end().saturating_add(self.policy.hold),
            done: closing.shares.is_empty(),
        };
        let books = BooksRecord { rates: opening.rates, opening: opening.state, outcome };
        Ok(batch
            .create(month_key(MONTH, epoch), Document::encode(&month))
            .create(month_key(BOOKS, epoch), Document::encode(&books)))
    }
}
