//! When to ask again.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::error::ClientError;

/// How often a request that may be repeated is sent again.
pub(crate) const MAX_RETRIES: u32 = 2;

/// Reads how long the coordinator asks to wait: `retry-after-ms`, else `Retry-After` in seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
    let millis = number("retry-after-ms").map(Duration::from_millis);
    millis.or_else(|| number(RETRY_AFTER.as_str()).map(Duration::from_secs))
}

/// Returns how long to wait before retry number `attempt` (from 0), or `None` when `error` would
/// only come again.
pub(crate) fn delay(error: &ClientError, attempt: u32) -> Option<Duration> {
    if attempt >= MAX_RETRIES || !error.is_passing() {
        return None;
    }
    Some(error.retry_after().unwrap_or_else(|| jittered(Duration::from_millis(200 << attempt))))
}

/// Draws between half of `time` and all of it, so that clients refused together do not come back
/// together.
pub(crate) fn jittered(time: Duration) -> Duration {
    // Without randomness the full time is as good.
    let share = getrandom::u32().unwrap_or(u32::MAX) % 1024;
    time / 2 + time / 2 * share / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn the_finer_header_wins_and_nonsense_is_no_advice() {
        let both = headers(&[("retry-after", "2"), ("retry-after-ms", "1500")]);
        assert_eq!(retry_after(&both), Some(Duration::from_millis(1500)));
        assert_eq!(retry_after(&headers(&[("retry-after", " 2")])), Some(Duration::from_secs(2)));
        for bad in ["-1", "soon", "", "99999999999999999999"] {
            assert_eq!(retry_after(&headers(&[("retry-after", bad)])), None, "{bad}");
        }
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        let second = Duration::from_secs(1);
        for _ in 0..100 {
            let drawn = jittered(second);
            assert!(drawn >= second / 2 && drawn <= second, "{drawn:?}");
        }
    }
}
