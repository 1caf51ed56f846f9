//! Months of the calendar, in UTC: what fees are paid for and pools are shared by.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::time::Timestamp;

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// The year in which the count of months begins.
const FIRST_YEAR: u32 = 1970;
/// Days from 0000-03-01 to 1970-01-01.
const BEFORE_1970: u64 = 719_468;
/// Days of 400 years.
const ERA: u64 = 146_097;

/// A month of UTC, from 1970-01, the default, to 9999-12. The text is `YYYY-MM`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u32);

/// Says that a text is no month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a month is written YYYY-MM, such as 2026-11, from 1970-01 to 9999-12")]
pub struct EpochError;

impl Epoch {
    /// January 1970.
    pub const FIRST: Self = Self(0);
    /// The last month that has a text.
    const LAST: u32 = (9999 - FIRST_YEAR) * 12 + 11;

    /// Returns the month of a moment.
    pub fn of(at: Timestamp) -> Self {
        let (year, month, _) = date(at.as_millis() / DAY_MILLIS);
        let months = year.saturating_sub(u64::from(FIRST_YEAR)) * 12 + month - 1;
        Self(u32::try_from(months).unwrap_or(Self::LAST).min(Self::LAST))
    }

    /// Returns how many months there were before it since 1970 began.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the first moment of the month.
    pub fn start(self) -> Timestamp {
        let (year, month) = self.year_and_month();
        Timestamp::from_millis(days_before(year, month) * DAY_MILLIS)
    }

    /// Returns the first moment after the month.
    pub fn end(self) -> Timestamp {
        Self(self.0 + 1).start()
    }

    /// Returns the month after this one; the last one is its own.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.0 < Self::LAST { Self(self.0 + 1) } else { self }
    }

    /// Returns the month before this one; the first one is its own.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Returns the hours of the month.
    pub fn hours(self) -> u64 {
        self.end().saturating_since(self.start()).as_secs() / 3600
    }

    const fn year_and_month(self) -> (u64, u64) {
        ((FIRST_YEAR + self.0 / 12) as u64, (self.0 % 12 + 1) as u64)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month) = self.year_and_month();
        f.pad(&format!("{year:04}-{month:02}"))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Epoch {
    type Err = EpochError;

    fn from_str(text: &str) -> Result<Self, EpochError> {
        let (year, month) = text.split_once('-').ok_or(EpochError)?;
        let number = |text: &str, length: usize| {
            let digits = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u32>().ok()).flatten().ok_or(EpochError)
        };
        let (year, month) = (number(year, 4)?, number(month, 2)?);
        if year < FIRST_YEAR || !(1..=12).contains(&month) {
            return Err(EpochError);
        }
        Ok(Self((year - FIRST_YEAR) * 12 + month - 1))
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Timestamp {
    /// Returns the number of the moment's day of UTC, counted from 1970-01-01.
    pub const fn day(self) -> u64 {
        self.as_millis() / DAY_MILLIS
    }

    /// Returns how long the moment's day lasts yet.
    pub const fn rest_of_day(self) -> Duration {
        Duration::from_millis(DAY_MILLIS - self.as_millis() % DAY_MILLIS)
    }

    /// Returns the same time of day, so many months later; where that month is too short, on its
    /// last day.
    #[must_use]
    pub fn months_later(self, months: u32) -> Self {
        let (year, month, day) = date(self.day());
        let month = month - 1 + u64::from(months);
        let (year, month) = (year + month / 12, month % 12 + 1);
        let day = day.min(days_in(year, month));
        let days = days_before(year, month) + day - 1;
        let time = self.as_millis() % DAY_MILLIS;
        Self::from_millis(days.saturating_mul(DAY_MILLIS).saturating_add(time))
    }
}

/// Returns year, month and day, the latter two from 1, of a count of days since 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from a 1st of March in eras of 400 years, so that a leap day comes last in its year.
    let since = days + BEFORE_1970;
    let (era, day) = (since / ERA, since % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let day = day - (153 * from_march + 2) / 5 + 1;
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// Returns how many days since 1970 came before a month.
const fn days_before(year: u64, month: u64) -> u64 {
    let (year, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year / 400, year % 400);
    let day = 365 * year + year / 4 - year / 100 + (153 * from_march + 2) / 5;
    era * ERA + day - BEFORE_1970
}

const fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(year: u64, month: u64, day: u64) -> Timestamp {
        Timestamp::from_millis((days_before(year, month) + day - 1) * DAY_MILLIS + 7)
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        assert_eq!(date(0), (1970, 1, 1));
        // 2001-09-09 01:46:40 was 10^9 seconds after the epoch.
        assert_eq!(date(1_000_000_000 / 86_400), (2001, 9, 9));
        let (mut epoch, mut first) = (Epoch(0), 0);
        for year in 1970..2500_u64 {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let february = if leap { 29 } else { 28 };
            for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
                let (start, last) = (first * DAY_MILLIS, (first + days) * DAY_MILLIS - 1);
                assert_eq!(epoch.start().as_millis(), start);
                assert_eq!(epoch.hours(), days * 24);
                for moment in [start, last] {
                    assert_eq!(Epoch::of(Timestamp::from_millis(moment)), epoch);
                }
                assert_eq!(epoch.end(), epoch.next().start());
                (epoch, first) = (epoch.next(), first + days);
            }
        }
    }

    #[test]
    fn months_have_one_text() {
        assert_eq!(Epoch::of(day(2026, 11, 30)).to_string(), "2026-11");
        assert_eq!("2026-11".parse(), Ok(Epoch::of(day(2026, 11, 1))));
        assert_eq!("9999-12".parse::<Epoch>().unwrap().next().to_string(), "9999-12");
        assert_eq!(Epoch::of(Timestamp::from_millis(u64::MAX)).to_string(), "9999-12");
        for bad in
            ["", "-", "2026", "2026-13", "2026-00", "1969-12", "2026-1", "+026-11", "2026-11 "]
        {
            assert_eq!(bad.parse::<Epoch>(), Err(EpochError), "{bad}");
        }
    }

    #[test]
    fn months_end_on_the_same_day_or_the_last() {
        for (from, months, to) in [
            (day(2026, 1, 15), 1, day(2026, 2, 15)),
            (day(2026, 1, 31), 1, day(2026, 2, 28)),
            (day(2028, 1, 31), 1, day(2028, 2, 29)),
            (day(2026, 12, 31), 2, day(2027, 2, 28)),
            (day(2026, 11, 26), 120, day(2036, 11, 26)),
        ] {
            assert_eq!(from.months_later(months), to);
        }
    }

    #[test]
    fn days_last_to_midnight() {
        // 2024-02-28 23:59:59.500
        let at = Timestamp::from_millis(1_709_164_799_500);
        assert_eq!(at.rest_of_day(), Duration::from_millis(500));
        let month = Epoch::of(at).end().saturating_since(at);
        assert_eq!(month, Duration::from_hours(24) + Duration::from_millis(500));
        assert_eq!(Timestamp::from_millis(0).rest_of_day(), Duration::from_hours(24));
    }
}
