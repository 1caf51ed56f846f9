use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// How many minutes are kept.
const KEPT: usize = 180;
/// Classes of time: four for each doubling of milliseconds, up to a day.
const CLASSES: usize = 108;

/// How long tasks took, in classes that are a fifth wide.
#[derive(Debug)]
pub(crate) struct Took([AtomicU64; CLASSES]);

impl Default for Took {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; CLASSES])
    }
}

impl Took {
    pub(crate) fn add(&self, millis: u64) {
        self.0[class(millis)].fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> [u64; CLASSES] {
        std::array::from_fn(|class| self.0[class].load(Ordering::Relaxed))
    }
}

/// One minute of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Minute {
    /// When it was over, in seconds since the Unix epoch.
    pub(crate) at: u64,
    /// Tasks that ended with a complete answer in it.
    pub(crate) finished: u64,
    /// Tasks that ended without one.
    pub(crate) failed: u64,
    /// Tokens that were written.
    pub(crate) tokens: u64,
    /// The time within which half of the tasks were finished; nothing where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50_ms: Option<u64>,
    /// The time within which all but a twentieth of them were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p95_ms: Option<u64>,
}

impl Minute {
    /// Leaves out what operators alone may see.
    pub(crate) const fn without_times(self) -> Self {
        Self { p50_ms: None, p95_ms: None, ..self }
    }
}

/// The last minutes, made out of counts that only grow.
#[derive(Debug)]
pub(crate) struct Minutes {
    kept: VecDeque<Minute>,
    before: (u64, u64, u64),
    took: [u64; CLASSES],
}

impl Default for Minutes {
    fn default() -> Self {
        Self { kept: VecDeque::new(), before: (0, 0, 0), took: [0; CLASSES] }
    }
}

impl Minutes {
    /// Ends a minute `at` which so many tasks had finished and failed, and so many tokens were
    /// written, since the start.
    pub(crate) fn end(&mut self, at: u64, counts: (u64, u64, u64), took: &Took) {
        let took = took.read();
        let within: [u64; CLASSES] = std::array::from_fn(|class| took[class] - self.took[class]);
        let (finished, failed, tokens) = counts;
        let (were_finished, had_failed, were_written) = self.before;
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Minute {
            at,
            finished: finished.saturating_sub(were_finished),
            failed: failed.saturating_sub(had_failed),
            tokens: tokens.saturating_sub(were_written),
            p50_ms: quantile(&within, 50),
            p95_ms: quantile(&within, 95),
        });
        (self.before, self.took) = (counts, took);
    }

    /// Returns the minutes that are kept, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Minute> + '_ {
        self.kept.iter().copied()
    }

    /// Returns when the latest minute was over.
    pub(crate) fn latest(&self) -> Option<Minute> {
        self.kept.back().copied()
    }
}

fn class(millis: u64) -> usize {
    if millis < 4 {
        return usize::try_from(millis).expect("less than four");
    }
    let doublings = millis.ilog2();
    let quarter = (millis >> (doublings - 2)) & 3;
    let class = u64::from(doublings - 1) * 4 + quarter;
    usize::try_from(class).unwrap_or(CLASSES).min(CLASSES - 1)
}

/// Returns the longest time of a class, in milliseconds.
fn longest(class: usize) -> u64 {
    let class = class as u64;
    if class < 4 {
        return class;
    }
    let doublings = class / 4 + 1;
    ((class % 4 + 5) << (doublings - 2)) - 1
}

fn quantile(counts: &[u64; CLASSES], percent: u64) -> Option<u64> {
    let all: u64 = counts.iter().sum();
    let wanted = (all * percent).div_ceil(100).max(1);
    let mut seen = 0;
    let found = counts.iter().position(|count| {
        seen += count;
        seen >= wanted
    });
    found.map(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_each_other_and_hold_their_longest_time() {
        for millis in 0..100_000_u64 {
            let class = class(millis);
            assert!(longest(class) >= millis || class == CLASSES - 1, "{millis}");
            assert!(class == 0 || longest(class - 1) < millis, "{millis}");
        }
        assert_eq!(class(u64::MAX), CLASSES - 1);
    }

    #[test]
    fn minute_holds_what_was_added_in_it() {
        let (took, mut minutes) = (Took::default(), Minutes::default());
        (1..=100).for_each(|n| took.add(n * 10));
        minutes.end(60, (100, 1, 5000), &took);
        took.add(8000);
        minutes.end(120, (101, 1, 5007), &took);
        minutes.end(180, (101, 1, 5007), &took);
        let told: Vec<Minute> = minutes.iter().collect();
        assert_eq!((told[0].finished, told[0].failed, told[0].tokens), (100, 1, 5000));
        assert!((500..=640).contains(&told[0].p50_ms.unwrap()), "{told:?}");
        assert!((950..=1100).contains(&told[0].p95_ms.unwrap()), "{told:?}");
        assert_eq!((told[1].finished, told[1].tokens), (1, 7));
        assert!((8000..=9600).contains(&told[1].p95_ms.unwrap()), "{told:?}");
        assert_eq!((told[2].finished, told[2].p50_ms), (0, None));
        (0..KEPT as u64).for_each(|n| minutes.end(n, (101, 1, 5007), &took));
        assert_eq!(minutes.iter().count(), KEPT);
    }
}
