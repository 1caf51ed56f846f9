//! Promises to be there, and whether they are kept.
//!
//! A node declares [`Hours`] in which it will be there. What counts for an hour is what stood
//! declared a day before it began ([`NOTICE`]): so nobody promises what is over, or takes back
//! what is about to be broken. An hour of UTC counts if all of it lies within the declared hours.
//!
//! A [`Watch`] looks every minute which nodes are there, and judges each hour that it saw from
//! beginning to end. An hour that it did not see whole, because the coordinator was down or cut
//! off, is judged for nobody.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hours::Hours;
use crate::id::AccountId;
use crate::time::Timestamp;

mod watch;

pub use watch::{Verdict, Watch};

const HOUR_MILLIS: u64 = 3_600_000;

/// How long before an hour begins its promise is settled, in hours.
pub const NOTICE: u64 = 24;
/// Broken hours in a row after which a promise counts as taken back: whoever is gone for good does
/// not fill the books.
pub const LAPSE: u16 = 168;

/// An hour of the calendar, in UTC, counted from 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hour(u64);

impl Hour {
    /// Returns the hour of a moment.
    pub const fn of(at: Timestamp) -> Self {
        Self(at.as_millis() / HOUR_MILLIS)
    }

    /// Returns its first moment.
    pub const fn start(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(HOUR_MILLIS))
    }

    /// Returns its last millisecond, which still is of its month.
    pub fn last(self) -> Timestamp {
        self.start().saturating_add(Duration::from_millis(HOUR_MILLIS - 1))
    }

    /// Returns the hour before; the first one is its own.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    const fn later(self, hours: u64) -> Self {
        Self(self.0.saturating_add(hours))
    }
}

/// What a node has promised, and how it kept that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The node's owner.
    pub owner: AccountId,
    /// What was declared, in the order in which it counts; at most one entry for each hour.
    declared: Vec<Declared>,
    /// Promised hours that were kept.
    pub kept: u32,
    /// Promised hours that were broken.
    pub broken: u32,
    /// Broken hours since the last that was kept.
    #[serde(default)]
    in_a_row: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Declared {
    /// The first hour that it counts for.
    from: Hour,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hours: Option<Hours>,
}

impl Promise {
    /// Begins the promises of a node of `owner`, which has declared nothing yet.
    pub const fn new(owner: AccountId) -> Self {
        Self { owner, declared: Vec::new(), kept: 0, broken: 0, in_a_row: 0 }
    }

    /// Takes in what the node declares at `now`, `None` for nothing; returns whether that is
    /// something new.
    pub fn declare(&mut self, now: Timestamp, hours: Option<&Hours>) -> bool {
        if self.declared() == hours {
            return false;
        }
        let current = Hour::of(now);
        // What was promised for the hour before may not be judged yet.
        self.forget_before(current.previous());
        let from = current.later(NOTICE + 1);
        // What comes within the same hour counts from the same one: neither is in force before.
        self.declared.retain(|declared| declared.from < from);
        if self.declared() != hours {
            self.declared.push(Declared { from, hours: hours.cloned() });
        }
        true
    }

    /// Returns what the node has declared, whether or not that counts yet.
    pub fn declared(&self) -> Option<&Hours> {
        self.declared.last()?.hours.as_ref()
    }

    /// Returns from when on what is declared counts.
    pub fn since(&self) -> Option<Timestamp> {
        Some(self.declared.last()?.from.start())
    }

    /// Returns whether the node has promised to be there in an hour.
    pub fn holds_in(&self, hour: Hour) -> bool {
        let counts = self.declared.iter().rfind(|declared| declared.from <= hour);
        let hours = counts.and_then(|declared| declared.hours.as_ref());
        hours.is_some_and(|hours| hours.cover_hour(hour.start()))
    }

    /// Takes in whether a promised hour was kept, and forgets what counted before it only.
    pub fn judge(&mut self, hour: Hour, kept: bool) {
        if kept {
            self.kept = self.kept.saturating_add(1);
            self.in_a_row = 0;
        } else {
            self.broken = self.broken.saturating_add(1);
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        self.forget_before(hour);
        if self.in_a_row >= LAPSE {
            self.declared.clear();
        }
    }

    /// Returns whether nothing is promised, nor was for any hour from `hour` on.
    pub fn is_over(&self, hour: Hour) -> bool {
        let counts = self.declared.iter().rposition(|declared| declared.from <= hour);
        self.declared[counts.unwrap_or(0)..].iter().all(|declared| declared.hours.is_none())
    }

    /// Forgets what counts for no hour from `hour` on.
    fn forget_before(&mut self, hour: Hour) {
        let counts = self.declared.iter().rposition(|declared| declared.from <= hour);
        self.declared.drain(..counts.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(hour: u64) -> Timestamp {
        Hour(1000 + hour).start().saturating_add(Duration::from_mins(20))
    }

    fn promise() -> Promise {
        Promise::new(AccountId::from_bytes([1; 16]))
    }

    fn always() -> Hours {
        "always".parse().unwrap()
    }

    /// Returns in which of the first hours something is promised.
    fn promised(promise: &Promise) -> Vec<u64> {
        (0..100).filter(|hour| promise.holds_in(Hour(1000 + hour))).collect()
    }

    #[test]
    fn a_promise_counts_from_a_day_later_on() {
        let mut promise = promise();
        assert!(promise.declare(at(0), Some(&always())));
        assert!(!promise.declare(at(3), Some(&always())));
        assert_eq!(promised(&promise), (25..100).collect::<Vec<_>>());
        assert_eq!(promise.since(), Some(Hour(1025).start()));
    }

    #[test]
    fn what_is_taken_back_is_owed_for_a_day() {
        let mut promise = promise();
        promise.declare(at(0), Some(&always()));
        assert!(promise.declare(at(30), None));
        assert_eq!(promised(&promise), (25..55).collect::<Vec<_>>());
        assert!(!promise.is_over(Hour(1054)) && promise.is_over(Hour(1055)));
    }

    #[test]
    fn a_withdrawal_that_is_taken_back_in_time_leaves_its_gap() {
        let mut promise = promise();
        promise.declare(at(0), Some(&always()));
        promise.declare(at(30), None);
        promise.declare(at(40), Some(&always()));
        let expected: Vec<u64> = (25..55).chain(65..100).collect();
        assert_eq!(promised(&promise), expected);
    }

    #[test]
    fn the_last_word_of_an_hour_counts() {
        let mut promise = promise();
        promise.declare(at(0), Some(&always()));
        promise.declare(at(30), None);
        assert!(promise.declare(at(30), Some(&always())));
        assert_eq!(promised(&promise), (25..100).collect::<Vec<_>>());
        assert_eq!(promise.declared.len(), 1);
    }

    #[test]
    fn who_is_gone_for_good_has_promised_nothing_any_more() {
        let mut promise = promise();
        promise.declare(at(0), Some(&always()));
        for hour in 25..u64::from(LAPSE) + 24 {
            promise.judge(Hour(1000 + hour), false);
        }
        assert!(!promise.is_over(Hour(2000)));
        promise.judge(Hour(2000), false);
        assert!(promise.is_over(Hour(2001)));
        assert_eq!((promise.kept, promise.broken), (0, u32::from(LAPSE)));
        assert!(promise.declare(at(1001), Some(&always())));
    }

    #[test]
    fn what_is_written_down_can_be_read_again() {
        let mut promise = promise();
        promise.declare(at(0), Some(&"sat 10:00-12:00 UTC+2".parse().unwrap()));
        promise.declare(at(9), None);
        let text = serde_json::to_string(&promise).unwrap();
        assert_eq!(serde_json::from_str::<Promise>(&text).unwrap(), promise);
    }

    proptest! {
        /// Whatever is declared, and when: an hour has the promise that stood a day before.
        #[test]
        fn an_hour_has_the_promise_that_stood_a_day_before(
            steps in proptest::collection::vec((0_u64..6, any::<Option<bool>>()), 1..60)
        ) {
            let texts = ["00:00-12:00", "always"].map(|text| text.parse::<Hours>().unwrap());
            let (mut promise, mut stood, mut hour) = (promise(), vec![None; 500], 0_usize);
            for (wait, choice) in steps {
                hour += usize::try_from(wait).unwrap();
                let hours = choice.map(|all| &texts[usize::from(all)]);
                promise.declare(at(hour as u64), hours);
                stood[hour..].fill(hours);
                prop_assert!(promise.declared.len() <= 27, "{}", promise.declared.len());
                // The past is forgotten; what counts is what comes.
                for later in hour..hour + 60 {
                    let counts = later.checked_sub(25).and_then(|before| stood[before]);
                    let expected = Hour(1000 + later as u64);
                    let covered = counts.is_some_and(|hours| hours.cover_hour(expected.start()));
                    prop_assert_eq!(promise.holds_in(expected), covered, "{}", later);
                }
            }
        }
    }
}
