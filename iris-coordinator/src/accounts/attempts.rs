//! Counts wrong account keys.
//!
//! An account key has 53 bits, so what protects it online is how seldom one can be tried: by one
//! caller, and by all callers together, since addresses are cheap.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Attempts of one caller within [`CALLER_WINDOW`].
const PER_CALLER: u32 = 5;
const CALLER_WINDOW: Duration = Duration::from_mins(1);
/// Attempts of all callers within [`GLOBAL_WINDOW`].
const GLOBAL: u32 = 50;
const GLOBAL_WINDOW: Duration = Duration::from_secs(1);
/// Callers that are remembered. The global limit keeps them from becoming more.
const MAX_CALLERS: usize = GLOBAL as usize * 61;

/// Failed attempts in fixed windows of time.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    all: Option<Window>,
    callers: HashMap<IpAddr, Window>,
}

/// An attempt that counts as failed unless it is taken back.
#[derive(Debug)]
pub(super) struct Attempt {
    caller: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    count: u32,
}

impl Attempts {
    /// Counts an attempt, or says how long to wait for the next one.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        caller: Option<IpAddr>,
    ) -> Result<Attempt, Duration> {
        let caller = caller.map(network);
        let all = Window::at(self.all, now, GLOBAL_WINDOW);
        all.check(now, GLOBAL, GLOBAL_WINDOW)?;
        if let Some(caller) = caller {
            if self.callers.len() >= MAX_CALLERS {
                self.callers.retain(|_, window| now - window.since < CALLER_WINDOW);
            }
            let own = Window::at(self.callers.get(&caller).copied(), now, CALLER_WINDOW);
            own.check(now, PER_CALLER, CALLER_WINDOW)?;
            self.callers.insert(caller, own.counted());
        }
        self.all = Some(all.counted());
        Ok(Attempt { caller })
    }

    /// Forgets an attempt that turned out good.
    pub(super) fn take_back(&mut self, Attempt { caller }: Attempt) {
        if let Some(all) = &mut self.all {
            all.count = all.count.saturating_sub(1);
        }
        let own = caller.and_then(|caller| self.callers.get_mut(&caller));
        if let Some(own) = own {
            own.count = own.count.saturating_sub(1);
        }
    }
}

impl Window {
    /// Returns the window that `now` falls into.
    fn at(known: Option<Self>, now: Instant, length: Duration) -> Self {
        match known {
            Some(window) if now.saturating_duration_since(window.since) < length => window,
            _ => Self { since: now, count: 0 },
        }
    }

    fn check(self, now: Instant, limit: u32, length: Duration) -> Result<(), Duration> {
        if self.count < limit {
            return Ok(());
        }
        Err(length.saturating_sub(now.saturating_duration_since(self.since)))
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

    #[test]
    fn one_caller_has_five_attempts_a_minute() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        for n in 0..5 {
            let now = start + Duration::from_secs(n);
            assert!(attempts.begin(now, caller("2001:db8::1")).is_ok());
        }
        let now = start + Duration::from_secs(20);
        let wait = attempts.begin(now, caller("2001:db8::2")).unwrap_err();
        assert_eq!(wait, Duration::from_secs(40));
        assert!(attempts.begin(now, caller("2001:db8:0:1::1")).is_ok());
        assert!(attempts.begin(start + Duration::from_mins(1), caller("2001:db8::1")).is_ok());
    }

    #[test]
    fn all_callers_together_have_fifty_a_second_and_memory_stays_bounded() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let mut allowed = 0;
        for n in 0..20_000_u32 {
            now += Duration::from_millis(5);
            let [_, b, c, d] = n.to_be_bytes();
            allowed += u32::from(attempts.begin(now, Some([10, b, c, d].into())).is_ok());
        }
        assert!((4_900..=5_050).contains(&allowed), "{allowed}");
        assert!(attempts.callers.len() <= MAX_CALLERS);
    }

    #[test]
    fn good_attempts_do_not_count() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..100 {
            let attempt = attempts.begin(now, caller("192.0.2.1")).unwrap();
            attempts.take_back(attempt);
        }
    }
}
