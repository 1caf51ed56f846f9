//! What an API key has used of its quota.

use std::time::Duration;

use iris_core::{Epoch, Timestamp};
use iris_protocol::rest::{Quota, QuotaUse};
use serde::{Deserialize, Serialize};

use super::{Allowance, Bound, Left};

/// The record type of what keys have used, each under its key's id.
pub(super) const USAGE: &str = "usage";

/// What is counted of a key, in the day and the month of UTC that it was last used in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Used {
    day: u64,
    month: Epoch,
    requests_today: u64,
    requests_this_month: u64,
    tokens_today: u64,
    tokens_this_month: u64,
}

/// For how long a quota is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A day of UTC.
    Day,
    /// A month of UTC.
    Month,
}

impl Period {
    fn rest(self, now: Timestamp) -> Duration {
        match self {
            Self::Day => now.rest_of_day(),
            Self::Month => Epoch::of(now).end().saturating_since(now),
        }
    }
}

impl Used {
    pub(super) fn at(now: Timestamp) -> Self {
        Self { day: now.day(), month: Epoch::of(now), ..Self::default() }
    }

    /// Forgets what belongs to a day or month that is over. A clock that was set back makes
    /// nothing undone.
    pub(super) fn roll(&mut self, now: Timestamp) {
        let (day, month) = (now.day(), Epoch::of(now));
        if day > self.day {
            (self.day, self.requests_today, self.tokens_today) = (day, 0, 0);
        }
        if month > self.month {
            (self.month, self.requests_this_month, self.tokens_this_month) = (month, 0, 0);
        }
    }

    pub(super) const fn is_nothing(&self) -> bool {
        self.requests_this_month == 0 && self.tokens_this_month == 0
    }

    pub(super) const fn count_request(&mut self) {
        self.requests_today = self.requests_today.saturating_add(1);
        self.requests_this_month = self.requests_this_month.saturating_add(1);
    }

    pub(super) const fn uncount_request(&mut self) {
        self.requests_today = self.requests_today.saturating_sub(1);
        self.requests_this_month = self.requests_this_month.saturating_sub(1);
    }

    pub(super) const fn count_tokens(&mut self, tokens: u64) {
        self.tokens_today = self.tokens_today.saturating_add(tokens);
        self.tokens_this_month = self.tokens_this_month.saturating_add(tokens);
    }

    /// Returns what is used up of `quota`, and how long that stays so.
    pub(super) fn exceeds(&self, quota: &Quota, now: Timestamp) -> Option<(Bound, Duration)> {
        let full = |bound: fn(Period, u64) -> Bound, period: Period, limit: Option<u64>, used| {
            let limit = limit.filter(|limit| used >= *limit)?;
            Some((bound(period, limit), period.rest(now)))
        };
        let QuotaUse { requests_today, requests_this_month, tokens_today, tokens_this_month } =
            (*self).into();
        // What lasts longest is what a caller has to know.
        full(Bound::Requests, Period::Month, quota.requests_per_month, requests_this_month)
            .or_else(|| {
                full(Bound::Tokens, Period::Month, quota.tokens_per_month, tokens_this_month)
            })
            .or_else(|| full(Bound::Requests, Period::Day, quota.requests_per_day, requests_today))
            .or_else(|| full(Bound::Tokens, Period::Day, quota.tokens_per_day, tokens_today))
    }

    /// Returns what is left of `quota`.
    pub(super) fn left(&self, quota: &Quota, now: Timestamp) -> Allowance {
        if quota.is_empty() {
            return Allowance::default();
        }
        let left = |period: Period, limit: Option<u64>, used: u64| {
            limit.map(|limit| Left {
                limit,
                remaining: limit.saturating_sub(used),
                reset: period.rest(now),
            })
        };
        let requests = Left::tightest([
            left(Period::Day, quota.requests_per_day, self.requests_today),
            left(Period::Month, quota.requests_per_month, self.requests_this_month),
        ]);
        let tokens = Left::tightest([
            left(Period::Day, quota.tokens_per_day, self.tokens_today),
            left(Period::Month, quota.tokens_per_month, self.tokens_this_month),
        ]);
        Allowance { requests, tokens }
    }
}

impl From<Used> for QuotaUse {
    fn from(used: Used) -> Self {
        Self {
            requests_today: used.requests_today,
            requests_this_month: used.requests_this_month,
            tokens_today: used.tokens_today,
            tokens_this_month: used.tokens_this_month,
        }
    }
}
