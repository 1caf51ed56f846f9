//! What healthy callers notice of an attack.

use std::time::{Duration, Instant};

use crate::target::Target;

/// Requests of a healthy caller, one after the other, that make one measurement.
const ASKED: usize = 40;
/// How much longer than in quiet times an answer may take, beside a fixed allowance for machines
/// that are busy with the attack itself.
const FACTOR: u32 = 20;
const ALLOWANCE: Duration = Duration::from_millis(500);

/// A coordinator that was measured in quiet times.
pub(crate) struct Siege<'a> {
    target: &'a Target,
    quiet: Times,
    memory: u64,
}

/// How long answers took.
#[derive(Clone, Copy)]
struct Times {
    median: Duration,
    p90: Duration,
}

impl<'a> Siege<'a> {
    pub(crate) async fn lay(target: &'a Target) -> Self {
        Times::measure(target).await;
        let quiet = Times::measure(target).await;
        Self { target, quiet, memory: target.memory().0 }
    }

    /// Measures again, now that the attack is under way, and holds the figures to their bounds:
    /// the memory to `growth` MiB more than in quiet times.
    pub(crate) async fn stand(&self, attack: &str, growth: u64) {
        let times = Times::measure(self.target).await;
        let (_, peak) = self.target.memory();
        println!(
            "{attack}: median {:.1?} to {:.1?}, p90 {:.1?} to {:.1?}, memory {} to {peak} MiB",
            self.quiet.median, times.median, self.quiet.p90, times.p90, self.memory,
        );
        assert!(times.p90 <= self.quiet.p90 * FACTOR + ALLOWANCE, "{attack} holds callers up");
        assert!(peak <= self.memory + growth, "{attack} takes {peak} MiB");
    }
}

impl Times {
    async fn measure(target: &Target) -> Self {
        let mut times = Vec::with_capacity(ASKED);
        for _ in 0..ASKED {
            let begun = Instant::now();
            let reply = target.chat().await;
            times.push(begun.elapsed());
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        times.sort_unstable();
        Self { median: times[ASKED / 2], p90: times[ASKED * 9 / 10] }
    }
}
