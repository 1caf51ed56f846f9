use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use iris_core::Timestamp;

/// Tells the time to a coordinator.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the time for timers. It must agree with the runtime's own timers.
    fn now(&self) -> Instant;

    /// Returns the calendar time.
    fn calendar(&self) -> Timestamp;
}

/// The machine's clocks; timers follow the runtime's, so that a paused runtime pauses them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn calendar(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
