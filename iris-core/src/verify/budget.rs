//! How much error a node may be exposed to in a year.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::schedule::Rules;
use crate::time::Timestamp;

const YEAR: Duration = Duration::from_hours(365 * 24);
/// How much of what is left a test may use, so that there is always something left for another.
const PART: u32 = 4;

/// The error bounds of the tests that were started within a year.
///
/// Whatever else happens, an honest node is found lying by a test with a probability of at most
/// the test's bound, given all that was before. So the number of false verdicts within a year has
/// an expectation of at most the sum of the bounds, and that is kept below
/// [`Rules::yearly_error`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorBudget {
    spent: Vec<(Timestamp, u32)>,
}

impl ErrorBudget {
    /// Takes the bound of a test that starts at `now`: the usual one, less when little is left,
    /// none when nothing is.
    pub(super) fn take(&mut self, rules: &Rules, now: Timestamp) -> Option<u32> {
        self.spent.retain(|(at, _)| now.saturating_since(*at) < YEAR);
        let left = rules.yearly_error.saturating_sub(self.sum());
        let bound = rules.confirming_error.min(left / PART);
        (bound > 0).then(|| {
            self.spent.push((now, bound));
            bound
        })
    }

    /// Returns what has been taken, in millionths; what is older than a year goes with the next
    /// test.
    pub fn sum(&self) -> u32 {
        self.spent.iter().fold(0, |sum, (_, spent)| sum.saturating_add(*spent))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(number: u32) -> Timestamp {
        Timestamp::from_millis(0).saturating_add(Duration::from_hours(24) * number)
    }

    #[test]
    fn tests_shrink_as_the_budget_does_and_come_back_after_a_year() {
        let (rules, mut budget) = (Rules::default(), ErrorBudget::default());
        let bounds: Vec<_> = (0..40).map_while(|_| budget.take(&rules, day(0))).collect();
        assert_eq!(bounds[..6], [100, 100, 75, 56, 42, 31]);
        assert!((15..40).contains(&bounds.len()), "{}", bounds.len());
        assert_eq!(budget.take(&rules, day(364)), None);
        assert_eq!(budget.take(&rules, day(365)), Some(100));
    }

    proptest! {
        #[test]
        fn no_year_holds_more_than_the_budget(
            gaps in proptest::collection::vec(0_u32..60, 1..200),
        ) {
            let (rules, mut budget, mut today) = (Rules::default(), ErrorBudget::default(), 0);
            let mut taken = Vec::new();
            for gap in gaps {
                today += gap;
                taken.extend(budget.take(&rules, day(today)).map(|bound| (today, bound)));
            }
            for (first, _) in &taken {
                let year = taken.iter().filter(|(at, _)| (*first..first + 365).contains(at));
                prop_assert!(year.map(|(_, bound)| bound).sum::<u32>() <= rules.yearly_error);
            }
        }
    }
}
