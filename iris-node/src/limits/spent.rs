use iris_core::{Epoch, Timestamp};
use serde::{Deserialize, Serialize};

/// How many bytes a node may carry, by days and months of UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// In a day. Default: any number.
    pub day: Option<u64>,
    /// In a month. Default: any number.
    pub month: Option<u64>,
}

/// How many bytes a node has carried, both ways, without what TCP and TLS add to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    day: u64,
    of_day: u64,
    month: Epoch,
    of_month: u64,
}

impl Spent {
    /// Takes in that so many bytes more were carried.
    pub fn add(&mut self, now: Timestamp, bytes: u64) {
        let (of_day, of_month) = self.at(now);
        (self.day, self.month) = (now.day(), Epoch::of(now));
        self.of_day = of_day.saturating_add(bytes);
        self.of_month = of_month.saturating_add(bytes);
    }

    /// Returns what this and another part of the same node have carried together.
    pub fn with(&self, now: Timestamp, other: &Self) -> Self {
        let ((of_day, of_month), (other_day, other_month)) = (self.at(now), other.at(now));
        Self {
            day: now.day(),
            of_day: of_day.saturating_add(other_day),
            month: Epoch::of(now),
            of_month: of_month.saturating_add(other_month),
        }
    }

    /// Returns how many bytes may still be carried; `None` where any number may.
    pub fn left(&self, now: Timestamp, allowance: &Allowance) -> Option<u64> {
        let (of_day, of_month) = self.at(now);
        let left = |spent: u64, most: Option<u64>| most.map(|most| most.saturating_sub(spent));
        [left(of_day, allowance.day), left(of_month, allowance.month)].into_iter().flatten().min()
    }

    /// Returns whether nothing is left of what may be carried.
    pub fn is_all(&self, now: Timestamp, allowance: &Allowance) -> bool {
        self.left(now, allowance) == Some(0)
    }

    /// Returns what was carried on the day, and in the month, of a moment.
    fn at(&self, now: Timestamp) -> (u64, u64) {
        let of_day = if self.day == now.day() { self.of_day } else { 0 };
        let of_month = if self.month == Epoch::of(now) { self.of_month } else { 0 };
        (of_day, of_month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_months_are_counted_to_the_byte() {
        let month: Epoch = "2026-11".parse().unwrap();
        let day =
            |day: u64| Timestamp::from_millis(month.start().as_millis() + (day - 1) * 86_400_000);
        let allowance = Allowance { day: Some(100), month: Some(250) };
        let mut spent = Spent::default();
        spent.add(day(1), 99);
        assert!(!spent.is_all(day(1), &allowance));
        assert_eq!(spent.left(day(1), &allowance), Some(1));
        spent.add(day(1), 1);
        assert!(spent.is_all(day(1), &allowance));
        assert!(!spent.is_all(day(2), &allowance), "the next day is another");
        spent.add(day(2), 99);
        spent.add(day(3), 50);
        assert!(!spent.is_all(day(3), &allowance));
        spent.add(day(3), 1);
        assert!(spent.is_all(day(3), &allowance) && spent.is_all(day(30), &allowance));
        assert!(!spent.is_all(day(31), &allowance), "December begins");
        let mut other = Spent::default();
        other.add(day(3), 20);
        assert_eq!(other.with(day(4), &spent).left(day(4), &allowance), Some(0));
        assert_eq!(other.left(day(4), &allowance), Some(100));
        assert_eq!(other.left(day(4), &Allowance::default()), None);
        assert!(!spent.is_all(day(30), &Allowance::default()));
        spent.add(day(31), u64::MAX);
        spent.add(day(31), u64::MAX);
        assert!(spent.is_all(day(31), &allowance));
    }
}
