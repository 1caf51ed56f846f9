use std::time::Duration;

/// The longest first wait.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait of all.
const LONGEST: Duration = Duration::from_secs(30);

/// How long to wait before the next try: up to twice as long each time, and never quite the same,
/// so that nodes that were cut off together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    state: u64,
}

impl Backoff {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { next: FIRST, state: seed }
    }

    /// Returns the next wait: between half of the current limit and all of it.
    pub(crate) fn wait(&mut self) -> Duration {
        let limit = self.next;
        self.next = (limit * 2).min(LONGEST);
        let half = limit / 2;
        half + half.mul_f64(self.fraction())
    }

    /// Starts over, after a try that succeeded.
    pub(crate) const fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Draws from 0 to 1, by `SplitMix64`.
    fn fraction(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        f64::from(u32::try_from(z >> 32).expect("the upper half of 64 bits")) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_over() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(seed);
            let mut limit = FIRST;
            for _ in 0..12 {
                let wait = backoff.wait();
                assert!((limit / 2..=limit).contains(&wait), "{wait:?} of {limit:?}");
                limit = (limit * 2).min(LONGEST);
            }
            assert_eq!(limit, LONGEST);
            backoff.reset();
            assert!(backoff.wait() <= FIRST);
        }
    }

    #[test]
    fn two_nodes_wait_differently() {
        assert_ne!(Backoff::new(1).wait(), Backoff::new(2).wait());
    }
}
