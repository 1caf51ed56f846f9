//! Times and amounts, in the few letters that a table has room for.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Says how long before `now` something was, both in seconds since the Unix epoch.
pub(super) fn ago(now: u64, then: u64) -> String {
    // A clock that is a little behind says nothing else than "now".
    match now.saturating_sub(then) {
        0..MINUTE => "just now".to_owned(),
        secs => format!("{} ago", span(secs)),
    }
}

/// Says how long after `now` something will be, to the nearest minute: what was made a moment ago
/// for 30 days is good for 30 days.
pub(super) fn until(now: u64, then: u64) -> String {
    match then.checked_sub(now) {
        None | Some(0) => "over".to_owned(),
        Some(secs @ 1..MINUTE) => format!("in {}", span(secs)),
        Some(secs) => format!("in {}", span(secs.saturating_add(MINUTE / 2))),
    }
}

/// Writes a length of time in its largest unit.
pub(super) fn span(secs: u64) -> String {
    let (count, unit) = match secs {
        0..MINUTE => (secs, "s"),
        MINUTE..HOUR => (secs / MINUTE, "min"),
        HOUR..DAY => (secs / HOUR, "h"),
        _ => (secs / DAY, "day"),
    };
    let plural = if unit == "day" && count != 1 { "s" } else { "" };
    format!("{count} {unit}{plural}")
}

/// Reads a length of time such as `90s`, `30min`, `12h`, `7d` or `4w`.
pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_start().bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.trim().split_at(digits);
    let unit = match unit.trim() {
        "s" => 1,
        "m" | "min" => MINUTE,
        "h" => HOUR,
        "d" => DAY,
        "w" => 7 * DAY,
        _ => return Err("say it as 90s, 30min, 12h, 7d or 4w".to_owned()),
    };
    let secs = count.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    secs.filter(|secs| *secs <= 100 * 366 * DAY)
        .map(Duration::from_secs)
        .ok_or_else(|| "it is no time, or longer than a century".to_owned())
}

/// Writes an amount with three or four digits.
pub(super) fn amount(number: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")];
    if number < 10_000 {
        return number.to_string();
    }
    let (unit, letter) = UNITS.into_iter().find(|(unit, _)| number >= *unit).unwrap_or((1, ""));
    let (whole, tenth) = (number / unit, number % unit * 10 / unit);
    if whole < 100 { format!("{whole}.{tenth} {letter}") } else { format!("{whole} {letter}") }
}

/// Writes a number of things, with their name.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    let name = if number == 1 { one } else { many };
    format!("{} {name}", amount(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_one_unit() {
        let now = 10 * DAY;
        for (secs, said) in [
            (0, "just now"),
            (59, "just now"),
            (60, "1 min ago"),
            (3599, "59 min ago"),
            (3600, "1 h ago"),
            (2 * DAY - 1, "1 day ago"),
            (2 * DAY, "2 days ago"),
        ] {
            assert_eq!(ago(now, now - secs), said);
        }
        assert_eq!(ago(now, now + 5), "just now");
        for (secs, said) in [
            (30, "in 30 s"),
            (80, "in 1 min"),
            (10 * MINUTE - 5, "in 10 min"),
            (30 * DAY - 5, "in 30 days"),
            (30 * DAY - MINUTE, "in 29 days"),
            (u64::MAX - now, "in 213503982334591 days"),
        ] {
            assert_eq!(until(now, now + secs), said);
        }
        assert_eq!(until(now, now), "over");
        assert_eq!(ago(u64::MAX, 0), format!("{} days ago", u64::MAX / DAY));
    }

    #[test]
    fn lengths_of_time_are_read_with_their_unit() {
        for (text, secs) in
            [("90s", 90), ("30min", 1800), ("12 h", 43200), ("7d", 604_800), ("2w", 1_209_600)]
        {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        for bad in
            ["", "7", "d", "-1d", "7 years", "99999999999999999999d", "200000000w", "1.5h", "ü"]
        {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_are_short_and_never_too_high() {
        for (number, said) in [
            (0, "0"),
            (9999, "9999"),
            (10_000, "10.0 k"),
            (99_999, "99.9 k"),
            (999_999, "999 k"),
            (1_234_567, "1.2 M"),
            (u64::MAX, "18446744 T"),
        ] {
            assert_eq!(amount(number), said);
        }
    }
}
