//! What one turn of a load came to by one way.

use std::time::Duration;

/// CPU time of the processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// This process, which makes the load.
    pub(crate) caller: Duration,
    pub(crate) mock: Duration,
    pub(crate) nginx: Duration,
    pub(crate) coordinator: Duration,
    pub(crate) node: Duration,
}

impl Cpu {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            caller: self.caller.saturating_sub(earlier.caller),
            mock: self.mock.saturating_sub(earlier.mock),
            nginx: self.nginx.saturating_sub(earlier.nginx),
            coordinator: self.coordinator.saturating_sub(earlier.coordinator),
            node: self.node.saturating_sub(earlier.node),
        }
    }
}

/// What was counted while a load ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) measured: Duration,
    /// Answers that ended within the measured time.
    pub(crate) answers: u32,
    /// Chunks that came within it.
    pub(crate) chunks: u32,
    pub(crate) failures: u32,
    /// What the first failure was.
    pub(crate) fault: Option<String>,
    pub(crate) times: Times,
    pub(crate) cpu: Cpu,
}

impl Figures {
    pub(crate) fn add(&mut self, other: Self) {
        self.measured += other.measured;
        self.answers += other.answers;
        self.chunks += other.chunks;
        self.failures += other.failures;
        self.fault = self.fault.take().or(other.fault);
        self.times.0.extend(other.times.0);
    }

    pub(crate) fn per_second(&self, count: u32) -> f64 {
        f64::from(count) / self.measured.as_secs_f64()
    }
}

/// Times of answers, or to the first token where the load is streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(pub(crate) Vec<Duration>);

impl Times {
    /// Returns the time that `percent` of the requests stayed below, in microseconds.
    pub(crate) fn micros(&self, percent: usize) -> f64 {
        let mut times = self.0.clone();
        if times.is_empty() {
            return f64::NAN;
        }
        let rank = (times.len() - 1) * percent / 100;
        let (_, time, _) = times.select_nth_unstable(rank);
        time.as_secs_f64() * 1e6
    }
}

/// Returns `time` divided by `count`, in microseconds.
pub(crate) fn micros_each(time: Duration, count: u32) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(count)
}

/// Returns the middle of `numbers`, or the mean of the two in the middle.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.retain(|number| !number.is_nan());
    numbers.sort_by(f64::total_cmp);
    match numbers.as_slice() {
        [] => f64::NAN,
        sorted if sorted.len() % 2 == 1 => sorted[sorted.len() / 2],
        sorted => f64::midpoint(sorted[sorted.len() / 2 - 1], sorted[sorted.len() / 2]),
    }
}
