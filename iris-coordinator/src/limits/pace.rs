//! Requests a minute, by the generic cell rate algorithm: evenly, and with as many at once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::clock::Clock as _;
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};
use iris_core::AccountId;

use super::Left;
use crate::clock::Clock;

/// The pace of one key.
pub(super) type Pace = Paced<NotKeyed, InMemoryState>;
/// The same pace for every account.
pub(super) type Paces = Paced<AccountId, HashMapStateStore<AccountId>>;

/// What is checked for each request.
#[derive(Debug)]
pub(super) struct Paced<K, S>
where
    S: governor::state::StateStore<Key = K>,
{
    rate: NonZeroU32,
    limiter: RateLimiter<K, S, Ticks, StateInformationMiddleware>,
}

/// A coordinator's clock as the limiter reads it.
#[derive(Clone, Debug)]
pub(super) struct Ticks {
    clock: Arc<dyn Clock>,
    start: Instant,
}

impl Ticks {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { start: clock.now(), clock }
    }
}

impl governor::clock::Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.start)
    }
}

impl Pace {
    /// Allows `rate` requests a minute, and at least one.
    pub(super) fn new(rate: u32, ticks: Ticks) -> Self {
        let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
        let limiter = RateLimiter::direct_with_clock(Quota::per_minute(rate), ticks);
        Self { rate, limiter: limiter.with_middleware() }
    }

    /// Counts a request, or says how long to wait.
    pub(super) fn check(&self) -> Result<Left, (Left, Duration)> {
        self.read(self.limiter.check())
    }
}

impl Paces {
    /// Allows `rate` requests a minute; `None` for a rate of 0.
    pub(super) fn new(rate: u32, ticks: Ticks) -> Option<Self> {
        let rate = NonZeroU32::new(rate)?;
        let limiter = RateLimiter::hashmap_with_clock(Quota::per_minute(rate), ticks);
        Some(Self { rate, limiter: limiter.with_middleware() })
    }

    /// Counts a request of `account`, or says how long to wait.
    pub(super) fn check(&self, account: &AccountId) -> Result<Left, (Left, Duration)> {
        self.read(self.limiter.check_key(account))
    }

    /// Returns how many accounts are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.limiter.len()
    }

    /// Forgets accounts that have all their requests left.
    pub(super) fn forget_idle(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

impl<K, S: governor::state::StateStore<Key = K>> Paced<K, S> {
    fn read(
        &self,
        checked: Result<StateSnapshot, NotUntil<Duration>>,
    ) -> Result<Left, (Left, Duration)> {
        match checked {
            Ok(state) => Ok(self.left(state.remaining_burst_capacity())),
            Err(until) => {
                let wait = until.wait_time_from(self.limiter.clock().now());
                Err((self.left(0), wait))
            }
        }
    }

    fn left(&self, remaining: u32) -> Left {
        let rate = self.rate.get();
        let missing = u64::from(rate.saturating_sub(remaining));
        let reset = Duration::from_millis(missing * 60_000 / u64::from(rate));
        Left { limit: rate.into(), remaining: remaining.into(), reset }
    }
}
