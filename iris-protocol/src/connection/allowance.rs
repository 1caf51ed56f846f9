use std::time::{Duration, Instant};

use super::Violation;

/// Bounds the messages that a peer sends of its own accord.
#[derive(Debug)]
pub(super) struct Allowance {
    interval: Duration,
    since: Instant,
    used: u32,
}

impl Allowance {
    pub(super) const fn new(now: Instant, interval: Duration) -> Self {
        Self { interval, since: now, used: 0 }
    }

    /// Takes one message off the `most` of this interval.
    pub(super) fn spend(&mut self, now: Instant, most: u32) -> Result<(), Violation> {
        if now.saturating_duration_since(self.since) >= self.interval {
            self.since = now;
            self.used = 0;
        }
        self.used += 1;
        if self.used > most { Err(Violation::Flood) } else { Ok(()) }
    }
}
