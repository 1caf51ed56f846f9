//! What becomes of shares: held, owed, paid or forfeited.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;
use iris_core::ledger::{Book, Cause, Movement, PaidIn, Payout, PayoutState, SettlementError};
use iris_core::reward::RewardRules;
use iris_core::store::{Batch, Document, Key, StoreError, Version};
use iris_core::{AccountId, Epoch, Timestamp};
use iris_protocol::rest::FeeRequest;

use super::record::{
    MONTH, MonthRecord, SHARE, ShareRecord, ShareState, month_key, movement_key, share_key,
};
use super::{PayoutError, Payouts, check_reference};
use crate::accounts::Accounts;
use crate::verify;

impl Payouts {
    /// Returns an account's share of a month, if it has one.
    pub async fn share(
        &self,
        epoch: Epoch,
        owner: &AccountId,
    ) -> Result<Option<ShareRecord>, PayoutError> {
        let found = self.store.get(share_key(epoch, owner)).await?;
        Ok(found.map(|record| record.value.decode()).transpose()?)
    }

    /// Returns all shares of a month, in the order of their accounts.
    pub async fn shares(&self, epoch: Epoch) -> Result<Vec<ShareRecord>, PayoutError> {
        let found = self.versions(epoch).await?;
        Ok(found.into_iter().map(|(_, share)| share).collect())
    }

    /// Writes down that an operator paid a share that was owed. The same reference counts once.
    pub async fn mark_paid(
        &self,
        epoch: Epoch,
        owner: &AccountId,
        reference: &str,
    ) -> Result<ShareRecord, PayoutError> {
        check_reference(reference)?;
        let found = self.store.get(share_key(epoch, owner)).await?;
        let found = found.ok_or(PayoutError::NoShare(epoch))?;
        let share: ShareRecord = found.value.decode()?;
        match share.state {
            ShareState::Owed => self.paid(found.version, share, reference).await,
            ShareState::Paid if share.reference.as_deref() == Some(reference) => Ok(share),
            state => Err(PayoutError::NotOwed(state)),
        }
    }

    /// Writes down the fees that came in on the rail.
    pub(super) async fn take_in(&self, accounts: &Accounts) -> Result<(), SettlementError> {
        for PaidIn { account, months, reference } in self.rail.paid_in().await? {
            let fee = FeeRequest { months, reference };
            if let Err(error) = accounts.pay(&account, &fee).await {
                tracing::error!(%error, %account, rail = self.rail.name(), "a fee was not taken in");
            }
        }
        Ok(())
    }

    /// Releases, forfeits and pays what is due.
    pub(super) async fn settle(&self) -> Result<(), PayoutError> {
        let months = self.months().await?;
        let now = self.now();
        let due = months.iter().filter(|month| !month.done && now >= month.release);
        let (mut judge, due) = (None, due.collect::<Vec<_>>());
        for month in &due {
            let shares = self.versions(month.epoch).await?;
            let is_held = shares.iter().any(|(_, share)| share.state == ShareState::Held);
            if is_held && judge.is_none() {
                // Months are in order, the earliest last.
                let earliest = due.last().map_or(month.epoch, |earliest| earliest.epoch);
                judge = Some(self.judge(&months, earliest).await?);
            }
            self.settle_month(month, shares, judge.as_ref()).await?;
        }
        Ok(())
    }

    async fn settle_month(
        &self,
        month: &MonthRecord,
        shares: Vec<(Version, ShareRecord)>,
        judge: Option<&Judge>,
    ) -> Result<(), PayoutError> {
        let mut done = true;
        for (version, share) in shares {
            let share = match (share.state, judge) {
                (ShareState::Held, Some(judge)) => {
                    match judge.ruling(&share, &self.pseudonym(&share.owner)) {
                        Some(state) => self.turn(version, share, state).await?,
                        None => share,
                    }
                }
                (ShareState::Owed, _) => self.pay(version, share).await?,
                _ => share,
            };
            done &= matches!(share.state, ShareState::Paid | ShareState::Forfeited);
        }
        if done {
            let key = month_key(MONTH, month.epoch);
            let month = MonthRecord { done, ..month.clone() };
            self.store.commit(Batch::new().put(key, Document::encode(&month))).await?;
        }
        Ok(())
    }

    /// Reads what decides over held shares of `earliest` and of later months.
    async fn judge(&self, months: &[MonthRecord], earliest: Epoch) -> Result<Judge, PayoutError> {
        let next = months.first().map_or(Epoch::FIRST, |month| month.epoch.next());
        let opening = self.opening(next).await?;
        let rules = (self.policy.make)(Some(&opening.state.rules));
        let rules = rules.ok_or_else(|| PayoutError::Rules(self.policy.name.clone()))?;
        // In this order, so that a verdict that becomes final meanwhile is among one or the other.
        let accused = verify::accused(&*self.store).await?;
        let convicted = self.convicted_since(earliest.end()).await?;
        Ok(Judge { rules, convicted, accused })
    }

    /// Asks the rail to pay a share.
    async fn pay(&self, version: Version, share: ShareRecord) -> Result<ShareRecord, PayoutError> {
        let payout = Payout { epoch: share.epoch, owner: share.owner, amount: share.amount };
        match self.rail.pay_out(payout).await {
            Ok(PayoutState::Paid { reference }) => self.paid(version, share, &reference).await,
            Ok(_) => Ok(share),
            Err(error) => {
                tracing::warn!(%error, rail = self.rail.name(), "a share was not paid");
                Ok(share)
            }
        }
    }

    async fn paid(
        &self,
        version: Version,
        mut share: ShareRecord,
        reference: &str,
    ) -> Result<ShareRecord, PayoutError> {
        share.reference = Some(reference.to_owned());
        share.rail = Some(self.rail.name().to_owned());
        self.turn(version, share, ShareState::Paid).await
    }

    /// Changes what has become of a share and moves its money, in one commit; where another did so
    /// meanwhile, says what it did.
    async fn turn(
        &self,
        version: Version,
        mut share: ShareRecord,
        state: ShareState,
    ) -> Result<ShareRecord, PayoutError> {
        let (epoch, owner, now) = (share.epoch, share.owner, self.now());
        let (cause, from, into) = match state {
            ShareState::Forfeited => {
                let cause = Cause::Forfeited { epoch, owner };
                (cause, Book::Held(owner), Book::Pool(Epoch::of(now)))
            }
            ShareState::Paid => (Cause::PaidOut { epoch, owner }, Book::Owed(owner), Book::Outside),
            ShareState::Owed | ShareState::Held => {
                (Cause::Released { epoch, owner }, Book::Held(owner), Book::Owed(owner))
            }
        };
        let movement = Movement::between(cause, now, from, into, share.amount);
        let movement = movement.expect("an amount and its negative add up to nothing");
        (share.state, share.at) = (state, now);
        let batch = Batch::new()
            .replace(share_key(epoch, &owner), version, Document::encode(&share))
            .create(movement_key(movement.cause()), Document::encode(&movement));
        match self.store.commit(batch).await {
            Ok(()) => Ok(share),
            Err(StoreError::Conflict(_)) => {
                self.share(epoch, &owner).await?.ok_or(PayoutError::NoShare(epoch))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn versions(&self, epoch: Epoch) -> Result<Vec<(Version, ShareRecord)>, PayoutError> {
        let key =
            |end: char| Key::new(SHARE, format!("{epoch}{end}")).expect("a month is a key segment");
        // '.' is the character after '-'.
        let found = self.store.scan(key('-')..key('.'));
        let shares = found.and_then(|record| async move {
            Ok((record.version, record.value.decode::<ShareRecord>()?))
        });
        Ok(shares.try_collect().await?)
    }
}

/// What decides over shares that are held.
struct Judge {
    rules: Box<dyn RewardRules>,
    /// When owners were last found lying.
    convicted: HashMap<AccountId, Timestamp>,
    /// Of whose nodes verdicts can still be appealed against, or decided.
    accused: HashSet<AccountId>,
}

impl Judge {
    /// Returns what becomes of a share whose time has come, if anything.
    fn ruling(&self, share: &ShareRecord, pseudonym: &AccountId) -> Option<ShareState> {
        let lied = self.convicted.get(&share.owner).is_some_and(|at| *at >= share.epoch.end());
        if lied {
            return Some(ShareState::Forfeited);
        }
        // Nothing is released that an appeal may decide about.
        let may_release = !self.accused.contains(&share.owner) && self.rules.may_release(pseudonym);
        may_release.then_some(ShareState::Owed)
    }
}
