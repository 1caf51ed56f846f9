//! Counts wrong account keys and passwords.
//!
//! An account key has 53 bits, and a password what its owner thought of, so what protects them
//! online is how seldom one can be tried: by one caller, for one name, and by all callers together,
//! since addresses are cheap.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::logins::LoginIndex;

/// Attempts of one caller.
const PER_CALLER: Limit = Limit { count: 5, within: Duration::from_mins(1) };
/// Attempts for one name, whoever makes them.
const PER_NAME: Limit = Limit { count: 10, within: Duration::from_mins(15) };
/// Attempts of all callers.
const GLOBAL: Limit = Limit { count: 50, within: Duration::from_secs(1) };

/// Failed attempts in fixed windows of time.
#[derive(Debug)]
pub(super) struct Attempts {
    all: Option<Window>,
    callers: Windows<IpAddr>,
    names: Windows<LoginIndex>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { all: None, callers: Windows::new(PER_CALLER), names: Windows::new(PER_NAME) }
    }
}

/// An attempt that counts as failed unless it is taken back.
#[derive(Debug)]
pub(super) struct Attempt {
    caller: Option<IpAddr>,
    name: Option<LoginIndex>,
}

impl Attempts {
    /// Counts an attempt, or says how long to wait for the next one.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        caller: Option<IpAddr>,
        name: Option<LoginIndex>,
    ) -> Result<Attempt, Duration> {
        let caller = caller.map(network);
        let all = Window::at(self.all, now, GLOBAL);
        all.check(now, GLOBAL)?;
        self.callers.check(now, caller)?;
        self.names.check(now, name)?;
        self.all = Some(all.counted());
        self.callers.count(now, caller);
        self.names.count(now, name);
        Ok(Attempt { caller, name })
    }

    /// Forgets an attempt that turned out good.
    pub(super) fn take_back(&mut self, Attempt { caller, name }: Attempt) {
        if let Some(all) = &mut self.all {
            all.count = all.count.saturating_sub(1);
        }
        self.callers.take_back(caller);
        self.names.take_back(name);
    }
}

/// How many attempts there may be in a window of time.
#[derive(Clone, Copy, Debug)]
struct Limit {
    count: u32,
    within: Duration,
}

/// The windows of those that attempts are told apart by.
#[derive(Debug)]
struct Windows<K> {
    limit: Limit,
    known: HashMap<K, Window>,
}

impl<K: Copy + Eq + Hash> Windows<K> {
    fn new(limit: Limit) -> Self {
        Self { limit, known: HashMap::new() }
    }

    fn check(&self, now: Instant, key: Option<K>) -> Result<(), Duration> {
        let Some(key) = key else { return Ok(()) };
        Window::at(self.known.get(&key).copied(), now, self.limit).check(now, self.limit)
    }

    fn count(&mut self, now: Instant, key: Option<K>) {
        let Some(key) = key else { return };
        if self.known.len() >= self.most() {
            let within = self.limit.within;
            self.known.retain(|_, window| now.saturating_duration_since(window.since) < within);
        }
        let window = Window::at(self.known.get(&key).copied(), now, self.limit);
        self.known.insert(key, window.counted());
    }

    fn take_back(&mut self, key: Option<K>) {
        if let Some(window) = key.and_then(|key| self.known.get_mut(&key)) {
            window.count = window.count.saturating_sub(1);
        }
    }

    /// How many are remembered: more cannot fail within the window, by the limit over all.
    fn most(&self) -> usize {
        let windows = usize::try_from(self.limit.within.as_secs() + 1).unwrap_or(usize::MAX);
        windows.saturating_mul(GLOBAL.count as usize)
    }
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    count: u32,
}

impl Window {
    /// Returns the window that `now` falls into.
    fn at(known: Option<Self>, now: Instant, limit: Limit) -> Self {
        match known {
            Some(window) if now.saturating_duration_since(window.since) < limit.within => window,
            _ => Self { since: now, count: 0 },
        }
    }

    fn check(self, now: Instant, limit: Limit) -> Result<(), Duration> {
        if self.count < limit.count {
            return Ok(());
        }
        Err(limit.within.saturating_sub(now.saturating_duration_since(self.since)))
    }

    const fn counted(self) -> Self {
        Self { since: self.since, count: self.count + 1 }
    }
}

/// Returns what one caller can be told by: an IPv4 address, or an IPv6 network of 64 bits, since
/// a household has as many IPv6 addresses as it likes.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "it is what attempts are counted by")]
    fn caller(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn name(n: u32) -> LoginIndex {
        let mut index = [0; 32];
        index[..4].copy_from_slice(&n.to_be_bytes());
        LoginIndex::from_bytes(index)
    }

    #[test]
    fn one_name_has_ten_attempts_in_a_quarter_of_an_hour_from_anywhere() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let from = |n: u8| Some(IpAddr::from([10, 0, n, 1]));
        for n in 0..10 {
            let now = start + Duration::from_secs(n.into());
            assert!(attempts.begin(now, from(n), Some(name(1))).is_ok());
        }
        let now = start + Duration::from_mins(14);
        assert_eq!(attempts.begin(now, from(99), Some(name(1))).unwrap_err().as_secs(), 60);
        assert!(attempts.begin(now, from(99), Some(name(2))).is_ok());
        assert!(attempts.begin(start + Duration::from_mins(15), from(99), Some(name(1))).is_ok());
    }

    #[test]
    fn one_caller_has_five_attempts_a_minute() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        for n in 0..5 {
            let now = start + Duration::from_secs(n);
            assert!(attempts.begin(now, caller("2001:db8::1"), None).is_ok());
        }
        let now = start + Duration::from_secs(20);
        let wait = attempts.begin(now, caller("2001:db8::2"), None).unwrap_err();
        assert_eq!(wait, Duration::from_secs(40));
        assert!(attempts.begin(now, caller("2001:db8:0:1::1"), None).is_ok());
        assert!(
            attempts.begin(start + Duration::from_mins(1), caller("2001:db8::1"), None).is_ok()
        );
    }

    #[test]
    fn all_callers_together_have_fifty_a_second_and_memory_stays_bounded() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let mut allowed = 0;
        for n in 0..20_000_u32 {
            now += Duration::from_millis(5);
            let [_, b, c, d] = n.to_be_bytes();
            allowed +=
                u32::from(attempts.begin(now, Some([10, b, c, d].into()), Some(name(n))).is_ok());
        }
        assert!((4_900..=5_050).contains(&allowed), "{allowed}");
        assert!(attempts.callers.known.len() <= attempts.callers.most());
        assert!(attempts.names.known.len() <= attempts.names.most());
    }

    #[test]
    fn good_attempts_do_not_count() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..100 {
            let attempt = attempts.begin(now, caller("192.0.2.1"), Some(name(1))).unwrap();
            attempts.take_back(attempt);
        }
    }
}
