use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines that are kept, the latest ones.
const KEPT: usize = 20_000;

/// What happened in a run, in order; clones share it.
///
/// Lines hold nothing that differs between two runs of one seed, so two runs are the same when
/// their hashes are.
#[derive(Clone, Debug)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    /// The time for lines that are written from outside of a host.
    now: Duration,
    hash: u64,
    count: u64,
    lines: VecDeque<String>,
    broken: Vec<String>,
    /// What is broken, without the time.
    said: BTreeSet<String>,
}

impl Trace {
    pub(super) fn new() -> Self {
        // The offset basis of FNV-1a.
        let hash = 0xcbf2_9ce4_8422_2325;
        let (lines, broken, said) = (VecDeque::new(), Vec::new(), BTreeSet::new());
        let inner = Inner { now: Duration::ZERO, hash, count: 0, lines, broken, said };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Adds a line about `who`, at the present time of the simulation.
    pub fn note(&self, who: &str, what: impl fmt::Display) {
        self.inner().note(who, what);
    }

    /// Declares a promise broken: the run has failed. What was said of `who` before is not
    /// repeated.
    pub fn broken(&self, who: &str, what: impl fmt::Display) {
        let mut inner = self.inner();
        let what = format!("BROKEN: {what}");
        if inner.said.insert(format!("{who}: {what}")) {
            let line = inner.note(who, what);
            inner.broken.push(line);
        }
    }

    /// Returns the promises that were broken.
    pub fn failures(&self) -> Vec<String> {
        self.inner().broken.clone()
    }

    /// Returns a number that two runs share when all their lines are the same.
    pub fn hash(&self) -> u64 {
        self.inner().hash
    }

    /// Returns how many lines there were.
    pub fn len(&self) -> u64 {
        self.inner().count
    }

    /// Returns whether nothing has happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the latest lines, at most twenty thousand.
    pub fn lines(&self) -> Vec<String> {
        self.inner().lines.iter().cloned().collect()
    }

    pub(super) fn set_now(&self, now: Duration) {
        self.inner().now = now;
    }

    pub(super) fn now(&self) -> Duration {
        self.inner().now()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or(self.now)
    }

    fn note(&mut self, who: &str, what: impl fmt::Display) -> String {
        let now = self.now();
        let line = format!("{:>4}.{:03} {who}: {what}", now.as_secs(), now.subsec_millis());
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.count += 1;
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line.clone());
        line
    }
}
