use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use iris_core::backend::Usage;
use iris_core::{TaskId, Timestamp};

use super::*;
use crate::agent::{Outcome, Privacy};

const PATIENCE: Duration = Duration::from_mins(1);

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap())
}

fn done(number: u64, begun: Timestamp) -> Done {
    let mut task = [0; 16];
    task[8..].copy_from_slice(&number.to_be_bytes());
    let work = Work {
        number,
        task: TaskId::from_bytes(task),
        model: "m".parse().unwrap(),
        privacy: Privacy::Sealed,
        caller: Some("a-tag".to_owned()),
        begun,
    };
    let usage = Usage { prompt_tokens: 64, completion_tokens: 128 };
    let (took, outcome) = (Duration::from_millis(250), Outcome::Finished);
    Done { work, took, outcome, usage, receipt: Some(Bytes::from_static(b"signed")) }
}

fn all(path: &Path) -> Vec<Entry> {
    read(path, Timestamp::from_millis(0), usize::MAX).unwrap()
}

fn writer(path: &Path, bounds: Bounds) -> Writer {
    Writer::new(path.to_owned(), bounds, Arc::default())
}

#[test]
fn what_was_done_is_read_again_the_latest_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.history.db");
    assert!(matches!(read(&path, now(), 1), Err(HistoryError::Missing(_))));
    let history = History::keep(&path, Bounds::default()).unwrap();
    let begun = now();
    for number in 0..3 {
        history.ended(done(number, begun));
    }
    assert!(history.flush(PATIENCE));
    let entries = all(&path);
    let tasks: Vec<_> = entries.iter().map(|entry| entry.task).collect();
    assert_eq!(tasks, [2, 1, 0].map(|number| done(number, begun).work.task));
    let expected = done(2, begun);
    let Entry { ended, model, caller, privacy, outcome, usage, took, receipt, .. } = &entries[0];
    assert_eq!((model, caller), (&expected.work.model, &expected.work.caller));
    assert_eq!((*privacy, *outcome), (Privacy::Sealed, Outcome::Finished));
    assert_eq!((*usage, *took), (expected.usage, expected.took));
    assert_eq!(*ended, begun.saturating_add(expected.took));
    assert_eq!(receipt.as_deref(), Some(&b"signed"[..]));
    assert_eq!(read(&path, *ended, 1).unwrap().len(), 1);
    let later = ended.saturating_add(Duration::from_millis(1));
    assert!(read(&path, later, 9).unwrap().is_empty());
    drop(history);
    let again = History::keep(&path, Bounds::default()).unwrap();
    again.ended(done(3, begun));
    assert!(again.flush(PATIENCE));
    assert_eq!(all(&path).len(), 4, "a history outlives its process");
}

#[cfg(unix)]
#[test]
fn a_history_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/node.history.db");
    let history = History::keep(&path, Bounds::default()).unwrap();
    history.ended(done(0, now()));
    assert!(history.flush(PATIENCE));
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", file.path());
    }
}

#[test]
fn what_is_too_old_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let day = Duration::from_hours(24);
    let mut writer = writer(&path, Bounds { age: 7 * day, ..Bounds::default() });
    let now = now();
    let days_ago = |days: u64| Timestamp::from_millis(now.as_millis() - days * 86_400_000);
    for days in [9, 8, 6, 0] {
        writer.take(done(days, days_ago(days)));
    }
    writer.write();
    let left: Vec<_> = all(&path).iter().map(|entry| entry.task).collect();
    assert_eq!(left, [0, 6].map(|days| done(days, now).work.task));
}

#[test]
fn a_file_stays_as_small_as_it_is_to() {
    const TASKS: u64 = 4000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let size = 256 << 10;
    let mut writer = writer(&path, Bounds { size, ..Bounds::default() });
    for number in 0..TASKS {
        writer.take(done(number, now()));
    }
    writer.write();
    drop(writer);
    let left = all(&path);
    assert!((100..TASKS).contains(&(left.len() as u64)), "{}", left.len());
    assert_eq!(left[0].task, done(TASKS - 1, now()).work.task, "the oldest are given up first");
    let held = std::fs::metadata(&path).unwrap().len();
    assert!(held <= size, "{held}");
}

#[test]
fn a_full_disk_costs_old_tasks_and_is_got_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let mut writer = writer(&path, Bounds::default());
    writer.write();
    let full = writer.connection.as_ref().unwrap();
    full.sqlite.pragma_update(None, "max_page_count", 8).unwrap();
    for number in 0..1000 {
        writer.take(done(number, now()));
    }
    writer.write();
    assert!(writer.connection.is_none(), "it did not fail");
    let before = all(&path).len();
    assert!(before < 1000);
    // The next connection has room again.
    writer.write();
    assert_eq!(all(&path).len(), 1000, "what waited is written once");
}

#[cfg(unix)]
#[test]
fn a_history_that_was_removed_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let history = History::keep(&path, Bounds::default()).unwrap();
    history.ended(done(0, now()));
    assert!(history.flush(PATIENCE));
    std::fs::remove_file(&path).unwrap();
    history.ended(done(1, now()));
    assert!(history.flush(PATIENCE));
    let tasks: Vec<_> = all(&path).iter().map(|entry| entry.task).collect();
    assert_eq!(tasks, [done(1, now()).work.task]);
}

#[test]
fn nobody_waits_for_a_disk_that_stands_still() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let history = History::keep(&path, Bounds::default()).unwrap();
    assert!(history.flush(PATIENCE));
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    for number in 0..3 * QUEUE as u64 {
        history.ended(done(number, now()));
    }
    // The writer's own wait for the lock is five seconds.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(history.left_out.load(Ordering::Relaxed) > 0, "there is a bound");
    holder.execute_batch("ROLLBACK").unwrap();
    // While the queue is full it takes no order to flush either.
    while !history.flush(PATIENCE) {
        assert!(begun.elapsed() < PATIENCE, "it does not go on");
        thread::yield_now();
    }
    assert!(!all(&path).is_empty());
}

#[test]
fn a_file_of_somebody_else_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "a".repeat(4096)).unwrap();
    let other = folder.path().join("other.db");
    let database = rusqlite::Connection::open(&other).unwrap();
    database.execute_batch("CREATE TABLE t (a)").unwrap();
    drop(database);
    let newer = folder.path().join("newer.db");
    writer(&newer, Bounds::default()).write();
    let database = rusqlite::Connection::open(&newer).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    for path in [&text, &other, &newer] {
        let before = std::fs::read(path).unwrap();
        let mut writer = writer(path, Bounds::default());
        writer.take(done(0, now()));
        writer.write();
        assert!(writer.connection.is_none(), "{}", path.display());
        assert_eq!(std::fs::read(path).unwrap(), before, "{}", path.display());
        assert!(read(path, now(), 1).is_err());
    }
}
