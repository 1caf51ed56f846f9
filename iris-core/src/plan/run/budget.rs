//! What a plan has used, and what it may still use.

use std::time::Duration;

use super::super::{Budget, StepError};

/// The plan's time.
#[derive(Debug, Default)]
pub(super) struct Clock {
    now: Duration,
    /// How long nothing but a person was waited for.
    paused: Duration,
    since: Option<Duration>,
}

impl Clock {
    pub(super) const fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Begins or ends a time that does not count.
    pub(super) fn pause(&mut self, paused: bool) {
        match (paused, self.since) {
            (true, None) => self.since = Some(self.now),
            (false, Some(since)) => {
                self.paused += self.now.saturating_sub(since);
                self.since = None;
            }
            _ => {}
        }
    }

    /// Returns when the plan's time runs out; `None` while it does not run.
    pub(super) fn due(&self, budget: Budget) -> Option<Duration> {
        let counts = self.since.is_none();
        budget.due(self.paused).filter(|_| counts)
    }
}

impl Budget {
    /// Returns when the time of what began at `began` runs out.
    pub(super) fn due(self, began: Duration) -> Option<Duration> {
        Some(began.saturating_add(Duration::from_secs(self.seconds?)))
    }

    /// Returns how many tokens are left beside what is spent; `None` where any number is.
    pub(super) fn tokens_left(self, spent: Spent) -> Option<u64> {
        Some(self.tokens?.saturating_sub(spent.tokens))
    }

    pub(super) fn allows_assignment(self, spent: Spent) -> bool {
        self.assignments.is_none_or(|most| spent.assignments < most)
    }
}

/// What was used, or is set aside for what runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    pub(super) tokens: u64,
    pub(super) assignments: u32,
}

impl Spent {
    pub(super) fn reserve(&mut self, tokens: u64) {
        self.tokens += tokens;
        self.assignments += 1;
    }

    /// Replaces what was set aside by what was used.
    pub(super) const fn settle(&mut self, reserved: u64, used: u64) {
        self.tokens = self.tokens.saturating_sub(reserved).saturating_add(used);
    }
}

pub(super) fn used_up(what: &str) -> StepError {
    StepError::Budget { what: what.to_owned() }
}
