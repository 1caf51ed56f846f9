//! Hours of the week, as the owner of a node writes them down.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::time::Timestamp;

/// Longest text, in bytes.
const MAX_LEN: usize = 384;
/// Most entries of a text.
const MAX_SPANS: usize = 16;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const ALL_DAYS: u8 = 0b111_1111;
const DAY: u32 = 24 * 60;
const WEEK: i64 = 7 * DAY as i64;
/// 1970-01-01 was a Thursday.
const FIRST_DAY: i64 = 3 * DAY as i64;
const MINUTE_MILLIS: u64 = 60_000;
/// How far from UTC a clock on the wall may be, in minutes.
const MAX_OFFSET: i64 = 14 * 60;

/// Hours of the week, such as `mon-fri 18:00-23:00, sat-sun UTC+1`.
///
/// The text is a list with commas of days, times, or days with times. Without days a time holds on
/// every day, without a time days hold from midnight to midnight; `always` is the whole week. Times
/// are `HH:MM`, up to `24:00`; what ends before it begins ends on the next day. At the end stands how
/// far the clock on the wall is ahead of UTC, which it is taken for otherwise: `UTC+1`,
/// `UTC-03:30`. Summer time is not known: whoever keeps it changes the text twice a year.
#[derive(Clone, PartialEq, Eq)]
pub struct Hours {
    spans: Vec<Span>,
    /// Minutes that local time is ahead of UTC.
    offset: i16,
}

/// The same time on some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    /// One bit for each day on which it begins, the lowest for Monday.
    days: u8,
    /// Minutes of the day; the end is beyond 24 hours where it lies on the next one.
    from: u16,
    to: u16,
}

/// Says what is wrong with a text about hours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoursError {
    /// It has too many entries or letters, or none.
    #[error("hours have 1 to {MAX_SPANS} entries in at most {MAX_LEN} bytes")]
    Length,
    /// An entry is neither days nor a time nor both.
    #[error(
        "'{0}' is not days with a time, such as 'mon-fri 18:00-23:00', 'sat', '22:00-06:00' or \
         'always'"
    )]
    Entry(String),
    /// What stands at the end is not the distance from UTC.
    #[error("'{0}' is not a distance from UTC, such as 'UTC+1' or 'UTC-03:30'")]
    Offset(String),
}

impl Hours {
    /// Returns whether a moment lies in them.
    pub fn contains(&self, at: Timestamp) -> bool {
        let minute = i64::try_from(at.as_millis() / MINUTE_MILLIS).unwrap_or(i64::MAX / 2);
        self.holds((minute + FIRST_DAY + i64::from(self.offset)).rem_euclid(WEEK))
    }

    /// Returns whether all of the 60 minutes from `start` on lie in them.
    pub fn cover_hour(&self, start: Timestamp) -> bool {
        let minute = |after: u64| start.as_millis().saturating_add(after * MINUTE_MILLIS);
        (0..60).all(|after| self.contains(Timestamp::from_millis(minute(after))))
    }

    /// Returns whether every minute of `other` lies in them.
    pub fn cover(&self, other: &Self) -> bool {
        let ahead = i64::from(other.offset) - i64::from(self.offset);
        (0..WEEK)
            .all(|minute| !other.holds(minute) || self.holds((minute - ahead).rem_euclid(WEEK)))
    }

    /// Returns whether a minute of the local week lies in them.
    fn holds(&self, minute: i64) -> bool {
        let (day, time) = (minute / i64::from(DAY), minute % i64::from(DAY));
        let yesterday = (day + 6) % 7;
        self.spans.iter().any(|span| {
            let within = |day: i64, time: i64| {
                let begins = span.days >> day & 1 == 1;
                begins && (i64::from(span.from)..i64::from(span.to)).contains(&time)
            };
            within(day, time) || within(yesterday, time + i64::from(DAY))
        })
    }
}

impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        if text.len() > MAX_LEN {
            return Err(HoursError::Length);
        }
        let text = text.trim().to_ascii_lowercase();
        let (entries, offset) = match text.rfind("utc") {
            Some(at) => (&text[..at], offset(&text[at..])?),
            None => (text.as_str(), 0),
        };
        let spans: Vec<_> = entries.split(',').map(Span::parse).collect::<Result<_, _>>()?;
        if spans.len() > MAX_SPANS {
            return Err(HoursError::Length);
        }
        Ok(Self { spans, offset })
    }
}

impl Span {
    fn parse(entry: &str) -> Result<Self, HoursError> {
        let mut words = entry.split_ascii_whitespace();
        let (first, second, more) = (words.next(), words.next(), words.next());
        let whole_day = Some((0, DAY));
        let parsed = match (first, second, more) {
            (Some("always"), None, _) => Some(ALL_DAYS).zip(whole_day),
            (Some(days), Some(time), None) => parse_days(days).zip(parse_time(time)),
            (Some(word), None, _) => {
                let days = parse_days(word).zip(whole_day);
                days.or_else(|| Some(ALL_DAYS).zip(parse_time(word)))
            }
            _ => None,
        };
        let wrong = || HoursError::Entry(entry.trim().to_owned());
        let (days, (from, to)) = parsed.ok_or_else(wrong)?;
        let minute = |minute: u32| u16::try_from(minute).map_err(|_| wrong());
        Ok(Self { days, from: minute(from)?, to: minute(to)? })
    }
}

fn parse_days(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let Some((first, last)) = text.split_once('-') else {
        return day(text).map(|day| 1 << day);
    };
    let (first, last) = (day(first)?, day(last)?);
    let length = (last + 7 - first) % 7;
    Some((0..=length).fold(0, |days, after| days | 1 << ((first + after) % 7)))
}

/// Returns the first minute and the one after the last, counted from midnight.
fn parse_time(text: &str) -> Option<(u32, u32)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (parse_clock(from)?, parse_clock(to)?);
    let to = if to <= from { to + DAY } else { to };
    (from < DAY && to - from <= DAY).then_some((from, to))
}

fn parse_clock(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY && hours <= 24).then_some(minute)
}

fn two_digits(text: &str) -> Option<u32> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Reads `utc`, `utc+1` or `utc-03:30` as minutes.
fn offset(text: &str) -> Result<i16, HoursError> {
    let wrong = || HoursError::Offset(text.trim().to_uppercase());
    let rest = text.strip_prefix("utc").unwrap_or(text);
    let (sign, rest) = match rest.as_bytes().first() {
        None => return Ok(0),
        Some(b'+') => (1, &rest[1..]),
        Some(b'-') => (-1, &rest[1..]),
        Some(_) => return Err(wrong()),
    };
    let (hours, minutes) = rest.split_once(':').unwrap_or((rest, "0"));
    let (hours, minutes) = two_digits(hours).zip(two_digits(minutes)).ok_or_else(wrong)?;
    let minutes = (minutes < 60).then(|| i64::from(hours * 60 + minutes)).ok_or_else(wrong)?;
    let minutes = (minutes <= MAX_OFFSET).then_some(sign * minutes).ok_or_else(wrong)?;
    i16::try_from(minutes).map_err(|_| wrong())
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<String> = self.spans.iter().map(ToString::to_string).collect();
        f.write_str(&entries.join(", "))?;
        if self.offset == 0 {
            return Ok(());
        }
        let (sign, minutes) = (if self.offset < 0 { '-' } else { '+' }, self.offset.unsigned_abs());
        write!(f, " UTC{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole_day = (self.from, u32::from(self.to)) == (0, DAY);
        if self.days == ALL_DAYS && whole_day {
            return f.write_str("always");
        }
        if self.days != ALL_DAYS {
            let begins =
                |day: &usize| self.days >> day & 1 == 1 && self.days >> ((day + 6) % 7) & 1 == 0;
            // Days come from one text, in which they follow each other.
            let first = (0..7).find(begins).unwrap_or_default();
            let last = (first + self.days.count_ones() as usize - 1) % 7;
            f.write_str(DAYS[first])?;
            if last != first {
                write!(f, "-{}", DAYS[last])?;
            }
        }
        if whole_day {
            return Ok(());
        }
        let space = if self.days == ALL_DAYS { "" } else { " " };
        let to = if u32::from(self.to) > DAY { u32::from(self.to) - DAY } else { self.to.into() };
        let (from, day) = (u32::from(self.from), 60);
        write!(f, "{space}{:02}:{:02}-{:02}:{:02}", from / day, from % day, to / day, to % day)
    }
}

impl fmt::Debug for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 1970-01-05 was a Monday.
    fn at(day: u64, hour: u64, minute: u64) -> Timestamp {
        Timestamp::from_millis((((4 + day) * 24 + hour) * 60 + minute) * MINUTE_MILLIS)
    }

    fn hours(text: &str) -> Hours {
        text.parse().unwrap()
    }

    #[test]
    fn hours_begin_and_end_as_they_are_written() {
        let evenings = hours("mon-fri 18:00-23:00, sat-sun");
        for (moment, expected) in [
            (at(0, 17, 59), false),
            (at(0, 18, 0), true),
            (at(0, 22, 59), true),
            (at(0, 23, 0), false),
            (at(4, 18, 0), true),
            (at(4, 23, 30), false),
            (at(5, 0, 0), true),
            (at(6, 23, 59), true),
            (at(7, 0, 0), false),
        ] {
            assert_eq!(evenings.contains(moment), expected, "{moment:?}");
        }
    }

    #[test]
    fn nights_and_weeks_go_on_past_midnight() {
        let nights = hours("sun 22:00-06:00");
        assert!(!nights.contains(at(6, 21, 59)) && nights.contains(at(6, 22, 0)));
        assert!(nights.contains(at(7, 5, 59)) && !nights.contains(at(7, 6, 0)));
        let weekend = hours("fri-mon");
        assert!(weekend.contains(at(4, 0, 0)) && weekend.contains(at(0, 23, 59)));
        assert!(!weekend.contains(at(1, 0, 0)) && !weekend.contains(at(3, 23, 59)));
    }

    #[test]
    fn clocks_on_walls_are_ahead_of_utc_or_behind() {
        let here = hours("mon 18:00-20:00 UTC+1");
        assert!(here.contains(at(0, 17, 0)) && !here.contains(at(0, 19, 0)));
        let there = hours("mon 22:00-24:00 utc-03:30");
        assert!(!there.contains(at(1, 1, 29)) && there.contains(at(1, 1, 30)));
        assert!(there.contains(at(1, 3, 29)) && !there.contains(at(1, 3, 30)));
    }

    #[test]
    fn an_hour_counts_if_all_of_it_is_meant() {
        let evenings = hours("18:00-20:00 UTC+05:30");
        assert!(!evenings.cover_hour(at(0, 12, 0)) && evenings.cover_hour(at(0, 13, 0)));
        assert!(!evenings.cover_hour(at(0, 14, 0)));
    }

    #[test]
    fn one_text_covers_another_minute_by_minute() {
        let day = hours("06:00-22:00 UTC+2");
        assert!(day.cover(&hours("mon-fri 18:00-20:00 UTC")));
        assert!(!day.cover(&hours("mon-fri 18:00-20:01 UTC")));
        assert!(hours("always").cover(&day) && !day.cover(&hours("always")));
    }

    #[test]
    fn hours_have_one_text() {
        for (written, text) in [
            ("Mon-Fri  18:00-23:00 ,SAT-sun utc+1", "mon-fri 18:00-23:00, sat-sun UTC+01:00"),
            ("always", "always"),
            ("mon-sun", "always"),
            ("00:00-24:00 UTC", "always"),
            ("22:00-6:00", "22:00-06:00"),
            ("fri-mon 0:00-00:30", "fri-mon 00:00-00:30"),
            ("wed UTC-03:30", "wed UTC-03:30"),
        ] {
            let parsed = hours(written);
            assert_eq!(parsed.to_string(), text);
            assert_eq!(hours(text), parsed);
        }
        let longest = hours(&["sun-sat 9:00-8:59"; MAX_SPANS].join(","));
        assert_eq!(hours(&longest.to_string()), longest);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("", "''"),
            ("mon-", "mon-"),
            ("mon-fri 18-23", "18-23"),
            ("mon,,tue", "''"),
            ("25:00-26:00", "25:00"),
            ("24:00-08:00", "24:00"),
            ("18:00-18:60", "18:60"),
            ("mon 18:00 - 20:00", "18:00 - 20:00"),
            ("always 18:00-20:00", "always"),
            ("mon UTC+15", "UTC+15"),
            ("mon UTC+1 tue", "UTC+1 TUE"),
            ("mon UTC1", "UTC1"),
            ("UTC+1", "''"),
        ] {
            let error = text.parse::<Hours>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        let many = ["mon"; MAX_SPANS + 1].join(",");
        assert_eq!(many.parse::<Hours>(), Err(HoursError::Length));
        assert_eq!(" ".repeat(MAX_LEN + 1).parse::<Hours>(), Err(HoursError::Length));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}|[a-z0-9:,+\\- ]{0,60}") {
            if let Ok(hours) = text.parse::<Hours>() {
                let again: Hours = hours.to_string().parse().unwrap();
                prop_assert_eq!(again, hours);
            }
        }

        #[test]
        fn any_moment_is_in_or_out(moment in any::<u64>()) {
            let moment = Timestamp::from_millis(moment);
            prop_assert!(hours("always").contains(moment));
            let halves = (hours("00:00-12:00 UTC+9"), hours("12:00-24:00 UTC+9"));
            prop_assert_ne!(halves.0.contains(moment), halves.1.contains(moment));
        }
    }
}
