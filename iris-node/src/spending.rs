//! How much the node has carried, kept in a file beside its identity.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iris_core::Timestamp;
use iris_node::limits::{Allowance, Spent};

use crate::private;

/// How often the file is written, at most: so much is forgotten by a crash.
const WRITTEN_EVERY: Duration = Duration::from_mins(1);

/// Counts what is carried, from start to start.
#[derive(Debug)]
pub(crate) struct Spending {
    path: PathBuf,
    spent: Spent,
    carried: Arc<AtomicU64>,
    counted: u64,
    written: Option<Instant>,
}

impl Spending {
    /// Goes on from what was counted for the node with this identity.
    pub(crate) fn load(key: &Path, carried: Arc<AtomicU64>) -> Self {
        let path = key.with_extension("carried.json");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let spent = serde_json::from_str(&text).unwrap_or_else(|_| {
            if !text.is_empty() {
                tracing::warn!(path = %path.display(), "this cannot be read; counting begins anew");
            }
            Spent::default()
        });
        Self { path, spent, carried, counted: 0, written: None }
    }

    /// Counts what was carried since the last time, and returns whether that is all that may be.
    pub(crate) fn is_all(&mut self, now: Timestamp, allowance: &Allowance) -> bool {
        let carried = self.carried.load(Ordering::Relaxed);
        self.spent.add(now, carried.saturating_sub(self.counted));
        self.counted = carried;
        if *allowance != Allowance::default() {
            self.write();
        }
        self.spent.is_all(now, allowance)
    }

    fn write(&mut self) {
        if self.written.is_some_and(|at| at.elapsed() < WRITTEN_EVERY) {
            return;
        }
        self.written = Some(Instant::now());
        let text = serde_json::to_string(&self.spent).unwrap_or_default();
        if let Err(error) = private::write_soon(&self.path, &text) {
            tracing::warn!(%error, "how much was carried is not written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_carried_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("node.key");
        let (now, allowance) =
            (Timestamp::from_millis(7), Allowance { day: Some(10), month: None });
        let carried = Arc::new(AtomicU64::new(9));
        let mut first = Spending::load(&key, Arc::clone(&carried));
        assert!(!first.is_all(now, &allowance));
        carried.store(10, Ordering::Relaxed);
        assert!(first.is_all(now, &allowance));
        // The last byte was carried within the minute, and is forgotten.
        let carried = Arc::new(AtomicU64::new(0));
        let mut second = Spending::load(&key, Arc::clone(&carried));
        assert!(!second.is_all(now, &allowance));
        carried.store(1, Ordering::Relaxed);
        assert!(second.is_all(now, &allowance));
        std::fs::write(key.with_extension("carried.json"), "{").unwrap();
        let mut third = Spending::load(&key, Arc::default());
        assert!(!third.is_all(now, &allowance));
    }
}
