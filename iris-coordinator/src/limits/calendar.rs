//! Days and months of UTC, by which quotas are counted.

use std::time::Duration;

use iris_core::Timestamp;

const DAY: Duration = Duration::from_hours(24);

/// Returns the number of the day since 1970-01-01.
pub(super) const fn day(at: Timestamp) -> u64 {
    at.as_secs() / DAY.as_secs()
}

/// Returns the number of the month since January 1970.
pub(super) fn month(at: Timestamp) -> u64 {
    month_of(day(at))
}

/// Returns how long the day lasts yet.
pub(super) fn rest_of_day(at: Timestamp) -> Duration {
    DAY.saturating_sub(since(day(at), at))
}

/// Returns how long the month lasts yet.
pub(super) fn rest_of_month(at: Timestamp) -> Duration {
    let next = first_day(month(at) + 1);
    let days = u32::try_from(next.saturating_sub(day(at))).unwrap_or(u32::MAX);
    DAY.saturating_mul(days).saturating_sub(since(day(at), at))
}

fn since(day: u64, at: Timestamp) -> Duration {
    Duration::from_millis(at.as_millis() - day * DAY.as_secs() * 1000)
}

/// Counts days in years that begin in March, so that a leap day is a year's last.
fn month_of(day: u64) -> u64 {
    // Between 0000-03-01 and the epoch; an era has 400 years.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    (era * 400 + year) * 12 + month + 2 - 1970 * 12
}

/// Returns the first day of a month.
fn first_day(month: u64) -> u64 {
    let march = month + 1970 * 12 - 2;
    let (year, month) = (march / 12, march % 12);
    let (era, year) = (year / 400, year % 400);
    era * 146_097 + year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        let mut month = 0;
        let mut first = 0;
        for year in 1970..2500_u64 {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let february = if leap { 29 } else { 28 };
            for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
                assert_eq!(first_day(month), first, "{year}");
                assert_eq!((month_of(first), month_of(first + days - 1)), (month, month), "{year}");
                first += days;
                month += 1;
            }
        }
    }

    #[test]
    fn rests_reach_to_midnight() {
        // 2024-02-28 23:59:59.500
        let at = Timestamp::from_millis(1_709_164_799_500);
        assert_eq!(rest_of_day(at), Duration::from_millis(500));
        assert_eq!(rest_of_month(at), DAY + Duration::from_millis(500));
        assert_eq!(rest_of_day(Timestamp::from_millis(0)), DAY);
        rest_of_month(Timestamp::from_millis(u64::MAX));
    }
}
