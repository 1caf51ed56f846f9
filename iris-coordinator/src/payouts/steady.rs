//! Whether this machine's clock can be believed, and by which rules the network pays.
//!
//! A month is closed once and for ever, so a clock that is a month ahead must not close one. No
//! record of work can tell: a network may have been idle for a month. So the coordinator writes
//! down every hour what its clock says, work or none. Where that does not go on from what it said
//! before, because the clock was set or the coordinator was off, months are not closed by
//! themselves for two days: time for somebody to set it right, or for nobody to mind.

use std::time::Duration;

use iris_core::store::{Batch, Document, Key, StoreError};
use iris_core::{Epoch, Timestamp};
use serde::{Deserialize, Serialize};

use super::record::{BOOKS, month_key};
use super::{PayoutError, Payouts};

/// A clock that says so much more than an hour ago was set, or the coordinator was off.
const GAP: Duration = Duration::from_hours(24);
/// A clock that says so much less than before was set back.
const BACK: Duration = Duration::from_hours(1);
/// How long no month is closed after that.
const HELD: Duration = Duration::from_hours(48);

/// What the clock said.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct ClockRecord {
    /// When it was last looked at.
    seen: Timestamp,
    /// Since when it has gone on without a gap; 1970 where there never was one.
    steady: Timestamp,
}

impl ClockRecord {
    fn goes_on(&self, now: Timestamp) -> bool {
        now.saturating_since(self.seen) <= GAP && self.seen.saturating_since(now) <= BACK
    }
}

/// The rules by which the coordinator pays.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RulesRecord {
    policy: String,
}

impl Payouts {
    /// Writes down by which rules the network pays, for those who close a month beside it.
    pub(crate) async fn declare(&self) -> Result<(), StoreError> {
        let rules = RulesRecord { policy: self.policy.name.clone() };
        self.store.commit(Batch::new().put(rules_key(), Document::encode(&rules))).await
    }

    /// Fails where the first month would be closed by other rules than the coordinator's.
    pub(super) async fn check_rules(&self, epoch: Epoch) -> Result<(), PayoutError> {
        if self.store.get(month_key(BOOKS, epoch.previous())).await?.is_some() {
            // Rules that cannot go on from what the last month left say so themselves.
            return Ok(());
        }
        let Some(found) = self.store.get(rules_key()).await? else { return Ok(()) };
        let rules: RulesRecord = found.value.decode()?;
        if rules.policy == self.policy.name {
            return Ok(());
        }
        let (chosen, network) = (self.policy.name.clone(), rules.policy);
        Err(PayoutError::OtherRules { chosen, network })
    }

    /// Takes note of what the clock says. Returns from when on months may be closed, where that is
    /// not yet. Called every hour.
    pub(super) async fn look_at_clock(&self) -> Result<Option<Timestamp>, StoreError> {
        let now = self.now();
        let before = self.clock_record().await?;
        let steady = match before {
            Some(before) if before.goes_on(now) => before.steady,
            Some(before) => {
                let (before, seconds) = (before.seen.as_secs(), now.as_secs());
                tracing::warn!(before, now = seconds, "the clock was set, or the coordinator off");
                now
            }
            None => Timestamp::from_millis(0),
        };
        let record = ClockRecord { seen: now, steady };
        self.store.commit(Batch::new().put(clock_key(), Document::encode(&record))).await?;
        let until = steady.saturating_add(HELD);
        Ok((now < until).then_some(until))
    }

    /// Fails where the coordinator's clock last said something quite different from this one, or was
    /// set less than two days ago. Whoever closes a month by hand, and knows that the clock is
    /// right, need not ask.
    pub async fn check_clock(&self) -> Result<(), PayoutError> {
        let now = self.now();
        let Some(before) = self.clock_record().await? else { return Ok(()) };
        if !before.goes_on(now) {
            let (now, seen) = (now.as_secs(), before.seen.as_secs());
            return Err(PayoutError::Clock { now, seen });
        }
        if now < before.steady.saturating_add(HELD) {
            return Err(PayoutError::ClockSet { since: before.steady.as_secs() });
        }
        Ok(())
    }

    async fn clock_record(&self) -> Result<Option<ClockRecord>, StoreError> {
        let found = self.store.get(clock_key()).await?;
        found.map(|record| record.value.decode()).transpose()
    }
}

fn clock_key() -> Key {
    Key::new("steady", "clock").expect("a word is a key segment")
}

fn rules_key() -> Key {
    Key::new("steady", "rules").expect("a word is a key segment")
}
