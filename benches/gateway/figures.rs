//! What one load came to at one target.

use std::time::Duration;

/// CPU time of the processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) mock: Duration,
    pub(crate) coordinator: Duration,
    pub(crate) node: Duration,
}

impl Cpu {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            mock: self.mock.saturating_sub(earlier.mock),
            coordinator: self.coordinator.saturating_sub(earlier.coordinator),
            node: self.node.saturating_sub(earlier.node),
        }
    }
}

/// What was counted while a load ran, of what ended within the measured time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) measured: Duration,
    pub(crate) answers: u32,
    pub(crate) chunks: u32,
    pub(crate) failures: u32,
    /// What the first failure was.
    pub(crate) fault: Option<String>,
    /// Of answers, or to the first token where the load is streams.
    pub(crate) times: Vec<Duration>,
    pub(crate) cpu: Cpu,
}

impl Figures {
    pub(crate) fn add(&mut self, other: Self) {
        self.measured += other.measured;
        self.answers += other.answers;
        self.chunks += other.chunks;
        self.failures += other.failures;
        self.fault = self.fault.take().or(other.fault);
        self.times.extend(other.times);
        self.cpu.mock += other.cpu.mock;
        self.cpu.coordinator += other.cpu.coordinator;
        self.cpu.node += other.cpu.node;
    }

    /// Returns the time that `percent` of the requests stayed below, in microseconds.
    pub(crate) fn micros(&self, percent: usize) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        times.get(last * percent / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }

    pub(crate) fn per_second(&self, count: u32) -> f64 {
        f64::from(count) / self.measured.as_secs_f64()
    }
}

/// Returns `time` divided by `count`, in microseconds.
pub(crate) fn micros_each(time: Duration, count: u32) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(count)
}
