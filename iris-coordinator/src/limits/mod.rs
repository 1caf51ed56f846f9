//! How much each caller may ask: a pace for every account, and what API keys are held to.
//!
//! Everything is asked of memory, so a request costs two short locks and no store access. Requests
//! are counted when they are let in, tokens when their task is settled; so tasks that run side by
//! side can pass a quota of tokens together by what they use, and the next one is refused. A key
//! that replaces another goes on with what that one has used, and with its pace.
//!
//! What keys have used is written down once a minute and at shutdown. A coordinator that is killed
//! forgets at most the last minute of it, in the callers' favour; paces begin anew at each start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::{AccountId, Timestamp};
use iris_protocol::rest::{KeyId, QuotaUse};

use crate::accounts::ApiKey;
use crate::clock::Clock;

#[cfg(feature = "http")]
mod chats;
mod pace;
mod used;

#[cfg(feature = "http")]
pub(crate) use chats::{Chats, Person, Turn};
pub use used::Period;

use pace::{Pace, Paces, Ticks};
use used::{USAGE, Used};

/// How many requests an account may make in a minute unless told otherwise.
pub(crate) const PER_MINUTE: u32 = 600;

/// What all requests are held to.
#[derive(Debug)]
pub(crate) struct Limits {
    clock: Arc<dyn Clock>,
    ticks: Ticks,
    accounts: Option<Paces>,
    keys: Mutex<HashMap<KeyId, Metered>>,
}

/// A key that was used this month, or keys that replaced one another.
#[derive(Debug)]
struct Metered {
    pace: Option<Pace>,
    used: Used,
    is_written: bool,
}

/// What a caller has left once its request was let in, or was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Requests; `None` where any number is allowed.
    pub requests: Option<Left>,
    /// Tokens; `None` where any number is allowed.
    pub tokens: Option<Left>,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// How many there are, all in all.
    pub limit: u64,
    /// How many are left.
    pub remaining: u64,
    /// How long it takes until all of it is there again.
    pub reset: Duration,
}

/// A limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Which one.
    pub bound: Bound,
    /// When to come again.
    pub wait: Duration,
    /// What is left of this limit and of others.
    pub allowance: Allowance,
}

/// What can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Requests of an account in a minute.
    AccountPace(u64),
    /// Requests of a key in a minute.
    KeyPace(u64),
    /// Requests of a key in a day or month.
    Requests(Period, u64),
    /// Tokens of a key in a day or month.
    Tokens(Period, u64),
}

impl Left {
    /// Returns the one of which less is left, and of equals the one that takes longer.
    fn tighter(self, other: Option<Self>) -> Self {
        let rank = |left: &Self| (left.remaining, std::cmp::Reverse(left.reset));
        other.filter(|other| rank(other) < rank(&self)).unwrap_or(self)
    }

    /// Returns the tightest of several.
    pub(crate) fn tightest(all: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        all.into_iter().flatten().reduce(|left, other| left.tighter(Some(other)))
    }
}

impl Limits {
    /// Reads what keys have used. Accounts may make `per_minute` requests, 0 for any number.
    pub(crate) async fn load(
        store: &dyn Store,
        clock: Arc<dyn Clock>,
        per_minute: u32,
    ) -> Result<Self, StoreError> {
        let today = clock.calendar();
        let records = store.scan(Key::all(USAGE));
        let keys = records.try_fold(HashMap::new(), |mut keys, record| async move {
            let corrupt = |_| StoreError::Corrupt("a key's usage is not under its id".to_owned());
            let key: KeyId = record.key.id().parse().map_err(corrupt)?;
            let used = record.value.decode::<Used>()?;
            keys.insert(key, Metered { pace: None, used, is_written: true });
            Ok(keys)
        });
        let mut keys = keys.await?;
        for metered in keys.values_mut() {
            metered.used.roll(today);
        }
        let ticks = Ticks::new(Arc::clone(&clock));
        let accounts = Paces::new(per_minute, ticks.clone());
        Ok(Self { clock, ticks, accounts, keys: Mutex::new(keys) })
    }

    /// Lets a request of `account` in that came with `key`, and counts it.
    pub(crate) fn admit(
        &self,
        account: &AccountId,
        key: Option<&ApiKey>,
    ) -> Result<Allowance, Exceeded> {
        // A key that is exhausted does not slow down its account's other keys.
        let own = key.map(|key| self.admit_key(key)).transpose()?.unwrap_or_default();
        let Some(accounts) = &self.accounts else { return Ok(own) };
        match accounts.check(account) {
            Ok(left) => Ok(Allowance { requests: Some(left.tighter(own.requests)), ..own }),
            Err((left, wait)) => {
                key.inspect(|key| self.take_back(&key.meter));
                let allowance = Allowance { requests: Some(left), ..own };
                Err(Exceeded { bound: Bound::AccountPace(left.limit), wait, allowance })
            }
        }
    }

    fn admit_key(&self, key: &ApiKey) -> Result<Allowance, Exceeded> {
        let now = self.clock.calendar();
        let mut keys = self.keys();
        let metered = keys.entry(key.meter).or_insert_with(|| Metered::new(now));
        let Metered { pace, used, is_written } = metered;
        used.roll(now);
        let quota = &key.terms.quota;
        if let Some((bound, wait)) = used.exceeds(quota, now) {
            return Err(Exceeded { bound, wait, allowance: used.left(quota, now) });
        }
        let paced = match key.terms.requests_per_minute {
            Some(rate) => {
                let pace = pace.get_or_insert_with(|| Pace::new(rate, self.ticks.clone()));
                let checked = pace.check();
                Some(checked.map_err(|(left, wait)| {
                    let allowance = Allowance { requests: Some(left), ..used.left(quota, now) };
                    Exceeded { bound: Bound::KeyPace(left.limit), wait, allowance }
                })?)
            }
            None => None,
        };
        used.count_request();
        *is_written = false;
        let left = used.left(quota, now);
        Ok(Allowance { requests: Left::tightest([left.requests, paced]), ..left })
    }

    /// Takes a request back that was sent away after all.
    pub(crate) fn take_back(&self, meter: &KeyId) {
        if let Some(metered) = self.keys().get_mut(meter) {
            metered.used.uncount_request();
        }
    }

    /// Counts the tokens of a task that a key of this `meter` asked for.
    pub(crate) fn spend(&self, meter: &KeyId, tokens: u64) {
        if tokens == 0 {
            return;
        }
        let now = self.clock.calendar();
        let mut keys = self.keys();
        let metered = keys.entry(*meter).or_insert_with(|| Metered::new(now));
        metered.used.roll(now);
        metered.used.count_tokens(tokens);
        metered.is_written = false;
    }

    /// Returns what the keys of this `meter` have used.
    pub(crate) fn used(&self, meter: &KeyId) -> QuotaUse {
        let now = self.clock.calendar();
        let mut used = self.keys().get(meter).map(|metered| metered.used).unwrap_or_default();
        used.roll(now);
        used.into()
    }

    /// Returns what is to be written down, and forgets what does not matter any more.
    pub(crate) fn keep(&self) -> Batch {
        let now = self.clock.calendar();
        if let Some(accounts) = &self.accounts {
            accounts.forget_idle();
        }
        let mut batch = Batch::new();
        let mut keys = self.keys();
        keys.retain(|key, metered| {
            metered.used.roll(now);
            let place = Key::new(USAGE, key).expect("a key's id is hexadecimal");
            if metered.used.is_nothing() {
                batch.writes.extend(Batch::new().delete(place).writes);
                return false;
            }
            if !metered.is_written {
                metered.is_written = true;
                let row = Batch::new().put(place, Document::encode(&metered.used));
                batch.writes.extend(row.writes);
            }
            true
        });
        batch
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<KeyId, Metered>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metered {
    fn new(now: Timestamp) -> Self {
        Self { pace: None, used: Used::at(now), is_written: true }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use iris_core::store::MemoryStore;
    use iris_protocol::rest::{KeyScope, KeyTerms, Quota};

    use super::*;

    /// A clock that a test sets: seconds since its start, at noon of 2024-02-28.
    #[derive(Debug)]
    struct Dial {
        start: Instant,
        secs: AtomicU64,
    }

    const NOON: u64 = 1_709_121_600;
    const DAY: u64 = 86_400;

    impl Clock for Dial {
        fn now(&self) -> Instant {
            self.start + Duration::from_secs(self.secs.load(Ordering::Relaxed))
        }

        fn calendar(&self) -> Timestamp {
            Timestamp::from_millis((NOON + self.secs.load(Ordering::Relaxed)) * 1000)
        }
    }

    fn dial() -> Arc<Dial> {
        Arc::new(Dial { start: Instant::now(), secs: AtomicU64::new(0) })
    }

    const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);

    async fn limits(store: &MemoryStore, dial: &Arc<Dial>, per_minute: u32) -> Limits {
        let clock = Arc::clone(dial) as Arc<dyn Clock>;
        Limits::load(store, clock, per_minute).await.unwrap()
    }

    fn key(digit: &str, terms: KeyTerms) -> ApiKey {
        let (id, scope) = (digit.repeat(24).parse().unwrap(), KeyScope::Inference);
        ApiKey { id, meter: id, account: ACCOUNT, scope, terms: Arc::new(terms) }
    }

    fn quota(quota: Quota) -> KeyTerms {
        KeyTerms { quota, ..KeyTerms::default() }
    }

    fn secs(allowance: Allowance) -> Option<(u64, u64, u64)> {
        allowance.requests.map(|left| (left.limit, left.remaining, left.reset.as_secs()))
    }

    #[tokio::test]
    async fn account_has_its_requests_at_once_and_then_evenly() {
        let dial = dial();
        let limits = limits(&MemoryStore::new(), &dial, 6).await;
        for left in (0..6).rev() {
            let allowed = limits.admit(&ACCOUNT, None).unwrap();
            assert_eq!(secs(allowed), Some((6, left, (6 - left) * 10)));
        }
        let refused = limits.admit(&ACCOUNT, None).unwrap_err();
        assert_eq!((refused.bound, refused.wait), (Bound::AccountPace(6), Duration::from_secs(10)));
        assert!(limits.admit(&AccountId::from_bytes([2; 16]), None).is_ok());
        dial.secs.store(9, Ordering::Relaxed);
        assert!(limits.admit(&ACCOUNT, None).is_err());
        dial.secs.store(10, Ordering::Relaxed);
        assert!(limits.admit(&ACCOUNT, None).is_ok());
        assert!(limits.admit(&ACCOUNT, None).is_err());
    }

    #[tokio::test]
    async fn key_that_is_exhausted_leaves_its_account_alone() {
        let dial = dial();
        let limits = limits(&MemoryStore::new(), &dial, 3).await;
        let slow = key("a", KeyTerms { requests_per_minute: Some(1), ..KeyTerms::default() });
        assert_eq!(secs(limits.admit(&ACCOUNT, Some(&slow)).unwrap()), Some((1, 0, 60)));
        for _ in 0..9 {
            let refused = limits.admit(&ACCOUNT, Some(&slow)).unwrap_err();
            assert_eq!(refused.bound, Bound::KeyPace(1));
        }
        assert_eq!(secs(limits.admit(&ACCOUNT, None).unwrap()), Some((3, 1, 40)));
        assert_eq!(limits.used(&slow.id).requests_today, 1);
    }

    #[tokio::test]
    async fn request_that_the_account_may_not_make_is_not_the_keys() {
        let limits = limits(&MemoryStore::new(), &dial(), 1).await;
        let key = key("a", KeyTerms::default());
        assert!(limits.admit(&ACCOUNT, Some(&key)).is_ok());
        assert!(limits.admit(&ACCOUNT, Some(&key)).is_err());
        assert_eq!(limits.used(&key.id).requests_today, 1);
    }

    #[tokio::test]
    async fn quotas_are_counted_by_days_and_months_of_utc() {
        let dial = dial();
        let limits = limits(&MemoryStore::new(), &dial, 0).await;
        let key = key(
            "b",
            quota(Quota {
                requests_per_day: Some(2),
                requests_per_month: Some(3),
                ..Quota::default()
            }),
        );
        let admit = || limits.admit(&ACCOUNT, Some(&key));
        assert_eq!(secs(admit().unwrap()), Some((2, 1, DAY / 2)));
        assert_eq!(secs(admit().unwrap()), Some((2, 0, DAY / 2)));
        let refused = admit().unwrap_err();
        assert_eq!(refused.bound, Bound::Requests(Period::Day, 2));
        assert_eq!(refused.wait.as_secs(), DAY / 2);
        // 2024 has a 29th of February.
        dial.secs.store(DAY, Ordering::Relaxed);
        assert_eq!(secs(admit().unwrap()), Some((3, 0, DAY / 2)));
        let refused = admit().unwrap_err();
        assert_eq!(refused.bound, Bound::Requests(Period::Month, 3));
        dial.secs.store(2 * DAY, Ordering::Relaxed);
        assert!(admit().is_ok());
        // A clock that is set back gives nothing back.
        dial.secs.store(0, Ordering::Relaxed);
        assert_eq!(limits.used(&key.id).requests_this_month, 1);
    }

    #[tokio::test]
    async fn tokens_count_when_their_task_is_settled() {
        let dial = dial();
        let limits = limits(&MemoryStore::new(), &dial, 0).await;
        let key = key("c", quota(Quota { tokens_per_day: Some(10), ..Quota::default() }));
        let admit = || limits.admit(&ACCOUNT, Some(&key));
        assert_eq!(admit().unwrap().tokens.unwrap().remaining, 10);
        limits.spend(&key.id, 9);
        assert_eq!(admit().unwrap().tokens.unwrap().remaining, 1);
        limits.spend(&key.id, u64::MAX);
        let refused = admit().unwrap_err();
        assert_eq!(refused.bound, Bound::Tokens(Period::Day, 10));
        assert_eq!(refused.allowance.tokens.unwrap().remaining, 0);
        dial.secs.store(DAY / 2, Ordering::Relaxed);
        assert!(admit().is_ok());
    }

    #[tokio::test]
    async fn what_was_written_down_outlives_a_restart_until_its_month_is_over() {
        let (store, dial) = (MemoryStore::new(), dial());
        let first = limits(&store, &dial, 0).await;
        let key = key("d", quota(Quota { requests_per_month: Some(2), ..Quota::default() }));
        first.admit(&ACCOUNT, Some(&key)).unwrap();
        first.spend(&key.id, 7);
        store.commit(first.keep()).await.unwrap();
        assert_eq!(first.keep(), Batch::new());
        // Nobody writes this one down.
        first.admit(&ACCOUNT, Some(&key)).unwrap();
        let second = limits(&store, &dial, 0).await;
        let used = second.used(&key.id);
        assert_eq!((used.requests_today, used.tokens_this_month), (1, 7));
        second.admit(&ACCOUNT, Some(&key)).unwrap();
        assert!(second.admit(&ACCOUNT, Some(&key)).is_err());
        dial.secs.store(2 * DAY, Ordering::Relaxed);
        store.commit(second.keep()).await.unwrap();
        assert_eq!(limits(&store, &dial, 0).await.keys().len(), 0);
    }

    #[tokio::test]
    async fn idle_accounts_take_no_memory() {
        let dial = dial();
        let limits = limits(&MemoryStore::new(), &dial, 60).await;
        for n in 0..=255 {
            limits.admit(&AccountId::from_bytes([n; 16]), None).unwrap();
        }
        let known = || limits.accounts.as_ref().unwrap().len();
        limits.keep();
        assert_eq!(known(), 256);
        dial.secs.store(61, Ordering::Relaxed);
        limits.keep();
        assert_eq!(known(), 0);
    }
}
