use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use iris_core::Timestamp;

use super::trace::Trace;
use crate::Clock;

/// When every simulation begins: a moment of the year 2027.
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Returns the right calendar time of the simulation that runs in this thread, for the programs of
/// its hosts; outside of one, the moment at which every simulation begins.
pub fn calendar() -> Timestamp {
    START.saturating_add(turmoil::sim_elapsed().unwrap_or_default())
}

/// A host's clock: virtual time, and a calendar that may be wrong.
#[derive(Clone, Debug)]
pub(super) struct HostClock {
    trace: Trace,
    skew: Arc<AtomicI64>,
}

impl HostClock {
    pub(super) fn new(trace: Trace) -> Self {
        Self { trace, skew: Arc::default() }
    }

    /// Sets by how many milliseconds the calendar is ahead, or behind where negative.
    pub(super) fn set_skew(&self, millis: i64) {
        self.skew.store(millis, Ordering::Relaxed);
    }
}

impl Clock for HostClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn calendar(&self) -> Timestamp {
        let right = START.saturating_add(self.trace.now());
        let skew = self.skew.load(Ordering::Relaxed);
        let distance = Duration::from_millis(skew.unsigned_abs());
        if skew < 0 {
            Timestamp::from_millis(right.as_millis().saturating_sub(skew.unsigned_abs()))
        } else {
            right.saturating_add(distance)
        }
    }
}
