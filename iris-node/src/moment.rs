//! Moments and times as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use iris_core::{Epoch, Timestamp};

const DAY: u64 = 24 * 60 * 60;

/// Returns what time it is.
pub(crate) fn now() -> Timestamp {
    of(SystemTime::now())
}

/// Returns the moment of a file's time.
pub(crate) fn of(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Writes a moment by the clock of UTC, to the minute.
pub(crate) fn minute(at: Timestamp) -> String {
    let month = Epoch::of(at);
    let within = at.saturating_since(month.start()).as_secs();
    let (day, of_day) = (within / DAY + 1, within % DAY);
    format!("{month}-{day:02} {:02}:{:02}", of_day / 3600, of_day / 60 % 60)
}

/// Writes how long something took or takes, with as many digits as a glance wants.
pub(crate) fn span(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{secs} s"),
        60..3600 => format!("{} min", secs / 60),
        3600..DAY => format!("{} h {} min", secs / 3600, secs / 60 % 60),
        _ => format!("{} d {} h", secs / DAY, secs / 3600 % 24),
    }
}

/// From when on something is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// From a moment on.
    At(Timestamp),
    /// So long ago.
    Ago(Duration),
}

impl Since {
    /// Reads `2026-11`, `2026-11-26`, or a number with `m`, `h` or `d` behind it.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is neither a day (2026-11-26), a month (2026-11) nor a time ago (30m, 12h, 7d)"
            )
        };
        if let Ok(month) = text.parse::<Epoch>() {
            return Ok(Self::At(month.start()));
        }
        if let Some((month, day)) = text.rsplit_once('-') {
            let month: Epoch = month.parse().map_err(|_| wrong())?;
            let day: u64 = day.parse().map_err(|_| wrong())?;
            let before = day.checked_sub(1).filter(|before| *before < 31).ok_or_else(wrong)?;
            let at = month.start().saturating_add(Duration::from_secs(before * DAY));
            return if at < month.end() { Ok(Self::At(at)) } else { Err(wrong()) };
        }
        let unit = match text.chars().last() {
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => DAY,
            _ => return Err(wrong()),
        };
        let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        Ok(Self::Ago(Duration::from_secs(u64::from(count) * unit)))
    }

    /// Returns the moment that is meant.
    pub(crate) fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                Timestamp::from_millis(now.as_millis().saturating_sub(millis))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_by_the_calendar() {
        let at = |secs: u64| minute(Timestamp::from_millis(secs * 1000));
        assert_eq!(at(0), "1970-01-01 00:00");
        assert_eq!(at(1_709_164_859), "2024-02-29 00:00");
        assert_eq!(at(1_764_172_799), "2025-11-26 15:59");
    }

    #[test]
    fn spans_have_as_many_digits_as_a_glance_wants() {
        for (millis, written) in [
            (40, "0.0 s"),
            (9_940, "9.9 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (3_660_000, "1 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), written);
        }
    }

    #[test]
    fn beginnings_are_days_months_or_times_ago() {
        let november: Epoch = "2026-11".parse().unwrap();
        let day = Duration::from_secs(DAY);
        assert_eq!(Since::read("2026-11"), Ok(Since::At(november.start())));
        let second = Since::At(november.start().saturating_add(day));
        assert_eq!(Since::read("2026-11-02"), Ok(second));
        assert_eq!(Since::read("7d"), Ok(Since::Ago(7 * day)));
        assert_eq!(
            Since::read("30m").unwrap().moment(november.end()).as_millis(),
            november.end().as_millis() - 1_800_000
        );
        assert_eq!(Since::read("9d").unwrap().moment(Timestamp::from_millis(5)).as_millis(), 0);
        for wrong in [
            "",
            "d",
            "7",
            "-7d",
            "7w",
            "2026-11-00",
            "2026-11-31",
            "2026-13",
            "2026-13-01",
            "1-2-3",
            "€",
            "99999999999d",
            "2026-11-18446744073709551615",
        ] {
            assert!(Since::read(wrong).is_err(), "{wrong}");
        }
    }
}
