//! Who has paid the monthly fee, where a network takes one.
//!
//! How every account stands is held in memory, since it is asked with every request. Fees may be
//! written down by another process; accounts whose time seems to be over are read again with every
//! housekeeping.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::time::Duration;

use futures::TryStreamExt;
use iris_core::ledger::{Money, Movement};
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::{AccountId, Epoch, Timestamp};
use iris_protocol::rest::{FeeRequest, Membership, MembershipState};

use super::record::{AccountRecord, FeeRecord, path};
use super::{AccountError, Accounts};
use crate::payouts;

/// Most months that are paid at once.
const MAX_MONTHS: u32 = 120;
/// Longest reference, in bytes.
const MAX_REFERENCE: usize = 128;
/// Accounts that are read again at a time; others wait for the next.
const MAX_DOUBTFUL: usize = 4096;
/// How often it is tried to write a fee down while the account changes.
const TRIES: usize = 8;
/// Before its end, a time counts as over where it may have been made longer.
const AHEAD: Duration = Duration::from_mins(2);

/// What a network takes for membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipPolicy {
    /// The monthly fee, in millionths of the network's unit of money; 0 for a free network.
    /// Default: 0.
    pub fee: u64,
    /// For how long a new account may try the network. Default: not at all.
    pub trial: Duration,
    /// For how long all works after a paid time has ended. Default: 7 days.
    pub grace: Duration,
    /// Hundredths of each fee that the operator keeps; the rest is shared among the owners of
    /// nodes. Default: 0.
    pub operator_percent: u8,
}

impl Default for MembershipPolicy {
    fn default() -> Self {
        Self {
            fee: 0,
            trial: Duration::ZERO,
            grace: Duration::from_hours(7 * 24),
            operator_percent: 0,
        }
    }
}

impl MembershipPolicy {
    fn membership(&self, standing: Standing, now: Timestamp) -> Membership {
        let Standing { created, paid_until } = standing;
        let holds = |state, until: Timestamp| Membership { state, until: Some(until.as_secs()) };
        if self.fee == 0 {
            return Membership { state: MembershipState::Free, until: None };
        }
        let trial = created.saturating_add(self.trial);
        match paid_until {
            Some(paid) if now < paid => holds(MembershipState::Paid, paid),
            _ if now < trial => holds(MembershipState::Trial, trial),
            Some(paid) if now < paid.saturating_add(self.grace) => {
                holds(MembershipState::Grace, paid.saturating_add(self.grace))
            }
            _ => Membership { state: MembershipState::Lapsed, until: None },
        }
    }
}

/// What membership follows from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    created: Timestamp,
    paid_until: Option<Timestamp>,
}

/// How the accounts stand; empty in a free network.
#[derive(Debug, Default)]
pub(super) struct Standings {
    known: HashMap<AccountId, Standing>,
    doubtful: HashSet<AccountId>,
}

impl Standings {
    pub(super) async fn read(
        store: &dyn Store,
        policy: &MembershipPolicy,
    ) -> Result<Self, StoreError> {
        let mut standings = Self::default();
        if policy.fee == 0 {
            return Ok(standings);
        }
        let mut records = store.scan(Key::all(AccountRecord::TYPE));
        while let Some(record) = records.try_next().await? {
            let corrupt = |_| StoreError::Corrupt("an account is not under its id".to_owned());
            let account = record.key.id().parse().map_err(corrupt)?;
            standings.known.insert(account, record.value.decode::<AccountRecord>()?.standing());
        }
        Ok(standings)
    }
}

impl AccountRecord {
    const fn standing(&self) -> Standing {
        Standing { created: self.created, paid_until: self.paid_until }
    }
}

impl Accounts {
    /// Returns how an account stands with the fee, from memory. An account that is not known
    /// counts as one that has not paid.
    pub fn membership(&self, account: &AccountId) -> Membership {
        let policy = &self.policy.membership;
        let now = self.clock.calendar();
        if policy.fee == 0 {
            let never = Standing { created: now, paid_until: None };
            return policy.membership(never, now);
        }
        let read = self.standings.read().unwrap_or_else(PoisonError::into_inner);
        let standing = read.known.get(account).copied();
        let is_noted = read.doubtful.contains(account);
        drop(read);
        let soon = now.saturating_add(AHEAD);
        let ends = standing.and_then(|standing| standing.paid_until).is_none_or(|paid| paid < soon);
        if ends && !is_noted {
            let mut standings = self.standings.write().unwrap_or_else(PoisonError::into_inner);
            if standings.doubtful.len() < MAX_DOUBTFUL {
                standings.doubtful.insert(*account);
            }
        }
        match standing {
            Some(standing) => policy.membership(standing, now),
            None => Membership { state: MembershipState::Lapsed, until: None },
        }
    }

    /// Writes down that a fee was paid. The same reference counts once for an account.
    pub async fn pay(
        &self,
        account: &AccountId,
        fee: &FeeRequest,
    ) -> Result<Membership, AccountError> {
        let FeeRequest { months, reference } = fee;
        // Its reference would be used up, and nothing would reach a pool.
        if self.policy.membership.fee == 0 {
            return Err(AccountError::NoFee);
        }
        if !(1..=MAX_MONTHS).contains(months) {
            return Err(AccountError::Terms("months"));
        }
        let printable = !reference.chars().any(iris_core::model::is_invisible);
        if !printable || !(1..=MAX_REFERENCE).contains(&reference.len()) {
            return Err(AccountError::Terms("reference"));
        }
        for _ in 0..TRIES {
            if let Some(record) = self.try_to_pay(account, fee).await? {
                self.set_standing(*account, &record);
                return Ok(self.membership_of(&record));
            }
        }
        Err(AccountError::Overloaded)
    }

    /// Writes a fee down unless the account changes meanwhile.
    async fn try_to_pay(
        &self,
        account: &AccountId,
        fee: &FeeRequest,
    ) -> Result<Option<AccountRecord>, AccountError> {
        let place = path(AccountRecord::TYPE, account);
        let found = self.store.get(place.clone()).await?.ok_or(AccountError::NoAccount)?;
        let mut record: AccountRecord = found.value.decode()?;
        let payment = payouts::payment(&fee.reference);
        let row = path(FeeRecord::TYPE, format_args!("{account}/{payment}"));
        if let Some(paid) = self.store.get(row.clone()).await? {
            let same = paid.value.decode::<FeeRecord>()?.months == fee.months;
            return if same { Ok(Some(record)) } else { Err(AccountError::FeeReused) };
        }
        let now = self.clock.calendar();
        let from = record.paid_until.map_or(now, |paid| paid.max(now));
        let paid_until = from.months_later(fee.months);
        record.paid_until = Some(paid_until);
        let (months, reference) = (fee.months, fee.reference.clone());
        let fee = FeeRecord { months, reference, at: now, paid_until };
        let paid = self.moved(*account, payment, from, &fee)?;
        let batch = Batch::new()
            .create(row, Document::encode(&fee))
            .create(payouts::movement_key(paid.cause()), Document::encode(&paid))
            .replace(place, found.version, Document::encode(&record));
        match self.store.commit(batch).await {
            Ok(()) => Ok(Some(record)),
            Err(StoreError::Conflict(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns what a fee adds to the pools of the months that it pays for.
    fn moved(
        &self,
        account: AccountId,
        payment: String,
        from: Timestamp,
        fee: &FeeRecord,
    ) -> Result<Movement, AccountError> {
        let MembershipPolicy { fee: monthly, operator_percent, .. } = self.policy.membership;
        let amount = monthly.checked_mul(fee.months.into()).and_then(|sum| sum.try_into().ok());
        let amount = Money::micros(amount.ok_or(AccountError::Terms("months"))?);
        let (months, first) = (fee.months, Epoch::of(from));
        let moved =
            Movement::fee(account, payment, fee.at, amount, first, months, operator_percent);
        Ok(moved.expect("a hash names it, and it is balanced"))
    }

    /// Reads those accounts again that may have paid in another process.
    pub(super) async fn keep_standings(&self) -> Result<(), StoreError> {
        let doubtful = {
            let mut standings = self.standings.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut standings.doubtful)
        };
        for account in doubtful {
            self.read_standing(&account).await?;
        }
        Ok(())
    }

    /// Makes sure that memory knows how an account stands that another process may have opened.
    pub(super) async fn learn_standing(&self, account: &AccountId) -> Result<(), StoreError> {
        if self.policy.membership.fee == 0 {
            return Ok(());
        }
        let known = {
            let standings = self.standings.read().unwrap_or_else(PoisonError::into_inner);
            standings.known.contains_key(account)
        };
        if known { Ok(()) } else { self.read_standing(account).await }
    }

    async fn read_standing(&self, account: &AccountId) -> Result<(), StoreError> {
        if let Some(record) = self.store.get(path(AccountRecord::TYPE, account)).await? {
            self.set_standing(*account, &record.value.decode()?);
        }
        Ok(())
    }

    pub(super) fn set_standing(&self, account: AccountId, record: &AccountRecord) {
        if self.policy.membership.fee > 0 {
            let mut standings = self.standings.write().unwrap_or_else(PoisonError::into_inner);
            standings.known.insert(account, record.standing());
        }
    }

    pub(super) fn membership_of(&self, record: &AccountRecord) -> Membership {
        self.policy.membership.membership(record.standing(), self.clock.calendar())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_goes_from_trial_over_paid_and_grace_to_lapsed() {
        let days = |days: u64| Timestamp::from_millis(days * 86_400_000);
        let policy = MembershipPolicy {
            fee: 5_000_000,
            trial: Duration::from_hours(14 * 24),
            grace: Duration::from_hours(7 * 24),
            operator_percent: 0,
        };
        let never = Standing { created: days(100), paid_until: None };
        let paid = Standing { created: days(100), paid_until: Some(days(150)) };
        for (standing, now, state, until) in [
            (never, 100, MembershipState::Trial, Some(114)),
            (never, 113, MembershipState::Trial, Some(114)),
            (never, 114, MembershipState::Lapsed, None),
            (paid, 101, MembershipState::Paid, Some(150)),
            (paid, 149, MembershipState::Paid, Some(150)),
            (paid, 150, MembershipState::Grace, Some(157)),
            (paid, 157, MembershipState::Lapsed, None),
        ] {
            let until = until.map(|until| days(until).as_secs());
            assert_eq!(policy.membership(standing, days(now)), Membership { state, until });
        }
        let free = MembershipPolicy::default().membership(paid, days(999));
        assert_eq!(free, Membership { state: MembershipState::Free, until: None });
    }
}
