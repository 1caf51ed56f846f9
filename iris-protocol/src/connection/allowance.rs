use std::time::{Duration, Instant};

use super::Violation;

/// Bounds the messages that a peer sends of its own accord.
#[derive(Debug)]
pub(super) struct Allowance {
    interval: Duration,
    since: Instant,
    used: u32,
    /// The highest bound of this interval.
    most: u32,
}

impl Allowance {
    pub(super) const fn new(now: Instant, interval: Duration) -> Self {
        Self { interval, since: now, used: 0, most: 0 }
    }

    /// Takes one message off this interval's bound: the highest `most` that was named in it, since
    /// what was sent for many assignments is not too much when they have ended.
    pub(super) fn spend(&mut self, now: Instant, most: u32) -> Result<(), Violation> {
        if now.saturating_duration_since(self.since) >= self.interval {
            self.since = now;
            (self.used, self.most) = (0, 0);
        }
        self.most = self.most.max(most);
        self.used += 1;
        if self.used > self.most { Err(Violation::Flood) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_of_an_interval_is_the_highest_that_was_named_in_it() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now, Duration::from_secs(10));
        for _ in 0..8 {
            assert_eq!(allowance.spend(now, 8), Ok(()));
        }
        assert_eq!(allowance.spend(now, 2), Err(Violation::Flood));
        let later = now + Duration::from_secs(10);
        for _ in 0..2 {
            assert_eq!(allowance.spend(later, 2), Ok(()));
        }
        assert_eq!(allowance.spend(later, 2), Err(Violation::Flood));
        let last = later + Duration::from_secs(10);
        for _ in 0..6 {
            assert_eq!(allowance.spend(last, 8), Ok(()));
        }
        assert_eq!(allowance.spend(last, 2), Ok(()), "assignments that ended had sent their share");
    }
}
