//! How much the node has carried, kept in files beside its identity: what passes between it and its
//! coordinator, and what downloads bring, which run in processes of their own.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iris_core::Timestamp;
use iris_node::limits::{Allowance, Spent};

use crate::private;

/// How the file ends that downloads are counted in.
const DOWNLOADED: &str = "downloaded.json";
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
    /// What downloads have brought, where that is written, and what was read there last.
    downloaded: Spent,
    downloads: PathBuf,
    seen: String,
}

impl Spending {
    /// Goes on from what was counted for the node with this identity.
    pub(crate) fn load(key: &Path, carried: Arc<AtomicU64>) -> Self {
        let path = key.with_extension("carried.json");
        let (spent, downloads) = (read(&path), key.with_extension(DOWNLOADED));
        let (downloaded, seen) = (Spent::default(), String::new());
        Self { path, spent, carried, counted: 0, written: None, downloaded, downloads, seen }
    }

    /// Counts what was carried since the last time, and returns whether that is all that may be.
    pub(crate) fn is_all(&mut self, now: Timestamp, allowance: &Allowance) -> bool {
        let carried = self.carried.load(Ordering::Relaxed);
        self.spent.add(now, carried.saturating_sub(self.counted));
        self.counted = carried;
        if *allowance != Allowance::default() {
            self.write();
            self.look();
        }
        self.spent.with(now, &self.downloaded).is_all(now, allowance)
    }

    /// Reads what downloads have brought. The file's time may be the same after a change.
    fn look(&mut self) {
        let text = std::fs::read_to_string(&self.downloads).unwrap_or_default();
        if text != self.seen {
            self.downloaded = parse(&self.downloads, &text);
            self.seen = text;
        }
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

/// Counts what downloads bring, from start to start. What is not written down yet is when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct Downloads {
    path: PathBuf,
    /// What the node itself has carried.
    node: PathBuf,
    /// How many bytes of this process were received by when, and how many of them are written down.
    received: u64,
    at: Timestamp,
    written: u64,
}

impl Downloads {
    /// How many bytes may be received before that is written down.
    const WRITTEN_EVERY: u64 = 16 << 20;

    /// Goes on from what was counted for the node with this identity.
    pub(crate) fn of(key: &Path) -> Self {
        let (path, node) = (key.with_extension(DOWNLOADED), key.with_extension("carried.json"));
        Self { path, node, received: 0, at: Timestamp::from_millis(0), written: 0 }
    }

    /// Returns how many bytes may still be received, by what all have written down.
    pub(crate) fn left(&self, now: Timestamp, allowance: &Allowance) -> u64 {
        let spent = read(&self.path).with(now, &read(&self.node));
        spent.left(now, allowance).unwrap_or(u64::MAX)
    }

    /// Takes in how many bytes were received by now; returns whether all of them are written down.
    pub(crate) fn count(&mut self, now: Timestamp, received: u64) -> bool {
        (self.received, self.at) = (received, now);
        let is_due = self.received.saturating_sub(self.written) >= Self::WRITTEN_EVERY;
        if is_due {
            self.write();
        }
        is_due
    }

    fn write(&mut self) {
        let more = self.received.saturating_sub(self.written);
        if more == 0 {
            return;
        }
        self.written = self.received;
        if let Err(error) = self.add(more) {
            tracing::warn!(%error, "how much was downloaded is not written down");
        }
    }

    fn add(&self, more: u64) -> io::Result<()> {
        let _lock = self.lock()?;
        let mut spent = read(&self.path);
        spent.add(self.at, more);
        private::write_soon(&self.path, &serde_json::to_string(&spent)?)
    }

    /// Waits until no other download changes the file, which is replaced and so holds no lock.
    fn lock(&self) -> io::Result<File> {
        let path = self.path.with_extension("lock");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.lock()?;
        Ok(file)
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.write();
    }
}

/// Reads what was spent; nothing where that cannot be read.
fn read(path: &Path) -> Spent {
    parse(path, &std::fs::read_to_string(path).unwrap_or_default())
}

fn parse(path: &Path, text: &str) -> Spent {
    serde_json::from_str(text).unwrap_or_else(|_| {
        if !text.is_empty() {
            tracing::warn!(path = %path.display(), "this cannot be read; counting begins anew");
        }
        Spent::default()
    })
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
        assert_eq!(Downloads::of(&key).left(now, &allowance), 1, "the node itself has carried 9");
        std::fs::write(key.with_extension("carried.json"), "{").unwrap();
        let mut third = Spending::load(&key, Arc::default());
        assert!(!third.is_all(now, &allowance));
    }

    #[test]
    fn downloads_and_the_nodes_work_have_one_limit() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("node.key");
        let (now, allowance) =
            (Timestamp::from_millis(7), Allowance { day: Some(100 << 20), month: None });
        let mut node = Spending::load(&key, Arc::new(AtomicU64::new(10 << 20)));
        assert!(!node.is_all(now, &allowance));
        let mut first = Downloads::of(&key);
        let mut second = Downloads::of(&key);
        assert_eq!(first.left(now, &allowance), 90 << 20);
        assert!(first.count(now, 40 << 20));
        assert!(second.count(now, 49 << 20));
        assert_eq!(first.left(now, &allowance), 1 << 20, "the other one's counts, too");
        assert!(!node.is_all(now, &allowance));
        assert!(!first.count(now, 41 << 20));
        drop(first);
        assert!(node.is_all(now, &allowance));
        assert_eq!(Downloads::of(&key).left(now, &allowance), 0);
        assert_eq!(Downloads::of(&key).left(now, &Allowance::default()), u64::MAX);
    }
}
