//! The thread that writes.

use iris_core::store::{Batch, Document, Expect, StoreError, Version, Write};
use rusqlite::{Connection, Params, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::store_error;

/// A batch on its way to the disk.
pub(super) struct Submission {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Result<(), StoreError>>,
}

/// Batches that share one transaction at most.
const GROUP: usize = 128;

/// Commits what comes through `queue` until its senders are gone, then folds the log into the
/// file.
pub(super) fn run(mut connection: Connection, mut queue: mpsc::Receiver<Submission>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
        let outcomes = commit_group(&mut connection, &group);
        for (position, submission) in group.drain(..).enumerate() {
            let outcome = match &outcomes {
                Ok(outcomes) => outcomes[position].clone(),
                Err(error) => Err(store_error(error)),
            };
            // Whoever dropped the commit no longer wants to know.
            let _ = submission.answer.send(outcome);
        }
    }
    // Left to closing where this fails: the log is part of the database.
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
}

/// Commits the batches of `group` in one transaction, and returns what became of each.
///
/// An error stands for all: then none was applied. A disk that was full is tried anew by the
/// next group.
fn commit_group(
    connection: &mut Connection,
    group: &[Submission],
) -> rusqlite::Result<Vec<Result<(), StoreError>>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let outcomes = group
        .iter()
        .map(|submission| commit_batch(&transaction, &submission.batch))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    transaction.commit()?;
    Ok(outcomes)
}

/// Applies `batch` within the running transaction, or undoes it alone and says why.
fn commit_batch(
    connection: &Connection,
    batch: &Batch,
) -> rusqlite::Result<Result<(), StoreError>> {
    execute(connection, "SAVEPOINT batch", ())?;
    let mut outcome = Ok(());
    for write in &batch.writes {
        match is_met(connection, write) {
            Ok(true) => continue,
            Ok(false) => outcome = Err(StoreError::Conflict(write.key.clone())),
            // Only this batch's fault; any other error leaves the transaction in doubt.
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::TooBig) => {
                outcome = Err(store_error(&error));
            }
            Err(error) => return Err(error),
        }
        execute(connection, "ROLLBACK TO batch", ())?;
        break;
    }
    execute(connection, "RELEASE batch", ())?;
    Ok(outcome)
}

/// Applies `write` and returns whether the record was as it expects.
fn is_met(connection: &Connection, Write { key, expect, value }: &Write) -> rusqlite::Result<bool> {
    let (key, value) = (key.as_str(), value.as_ref().map(Document::as_text));
    match (expect, value) {
        (Expect::Any, Some(value)) => execute(connection, PUT, (key, value)).map(|_| true),
        (Expect::Absent, Some(value)) => {
            execute(connection, CREATE, (key, value)).map(|rows| rows == 1)
        }
        (Expect::At(version), Some(value)) => {
            execute(connection, REPLACE, (key, value, number(*version))).map(|rows| rows == 1)
        }
        (Expect::Any, None) => execute(connection, DELETE, (key,)).map(|_| true),
        (Expect::Absent, None) => connection.prepare_cached(EXISTS)?.exists((key,)).map(|is| !is),
        (Expect::At(version), None) => {
            execute(connection, DELETE_AT, (key, number(*version))).map(|rows| rows == 1)
        }
    }
}

const PUT: &str = "
    INSERT INTO records (key, version, value) VALUES (?1, 1, ?2)
    ON CONFLICT DO UPDATE SET version = version + 1, value = excluded.value
";
const CREATE: &str = "
    INSERT INTO records (key, version, value) VALUES (?1, 1, ?2) ON CONFLICT DO NOTHING
";
const REPLACE: &str = "
    UPDATE records SET version = version + 1, value = ?2 WHERE key = ?1 AND version = ?3
";
const DELETE: &str = "DELETE FROM records WHERE key = ?1";
const DELETE_AT: &str = "DELETE FROM records WHERE key = ?1 AND version = ?2";
const EXISTS: &str = "SELECT 1 FROM records WHERE key = ?1";

fn execute(connection: &Connection, sql: &str, values: impl Params) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(values)
}

fn number(Version(number): Version) -> i64 {
    // No record has a negative version, so one beyond SQLite's integers is never met.
    i64::try_from(number).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use iris_core::store::Key;

    use super::super::file::Location;
    use super::*;

    fn submission(batch: Batch) -> Submission {
        Submission { batch, answer: oneshot::channel().0 }
    }

    fn put(id: usize, bytes: usize) -> Submission {
        let value = Document::encode(&"x".repeat(bytes));
        submission(Batch::new().put(Key::new("test", id).unwrap(), value))
    }

    fn rows(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_conflict_undoes_its_own_batch_alone() {
        let mut connection = Location::Memory(u64::MAX).connect_writer(&[]).unwrap();
        let key = |id| Key::new("test", id).unwrap();
        let value = || Document::encode(&1);
        let conflicting = Batch::new().put(key("c"), value()).create(key("a"), value());
        let group = [
            submission(Batch::new().create(key("a"), value())),
            submission(conflicting),
            submission(Batch::new().replace(key("a"), Version(1), value())),
        ];
        let outcomes = commit_group(&mut connection, &group).unwrap();
        assert_eq!(outcomes, [Ok(()), Err(StoreError::Conflict(key("a"))), Ok(())]);
        assert_eq!(rows(&connection), 1);
    }

    #[test]
    fn a_full_disk_takes_nothing_and_is_forgotten_once_there_is_space() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::file(&folder.path().join("iris.db")).unwrap();
        let mut connection = location.connect_writer(&[]).unwrap();
        let limit = |pages: u32| format!("PRAGMA max_page_count = {pages}");
        connection.query_row(&limit(20), [], |_| Ok(())).unwrap();

        commit_group(&mut connection, &[put(0, 100)]).unwrap();
        let failure = commit_group(&mut connection, &[put(1, 100), put(2, 1 << 20)]).unwrap_err();
        assert_eq!(failure.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        assert_eq!(rows(&connection), 1);

        connection.query_row(&limit(10_000), [], |_| Ok(())).unwrap();
        commit_group(&mut connection, &[put(1, 100), put(2, 1 << 20)]).unwrap();
        assert_eq!(rows(&connection), 3);
    }

    #[test]
    fn a_file_locked_by_another_process_is_unavailable_until_it_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("iris.db");
        let mut connection = Location::file(&path).unwrap().connect_writer(&[]).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        let operator = Connection::open(&path).unwrap();

        operator.execute_batch("BEGIN IMMEDIATE").unwrap();
        let failure = commit_group(&mut connection, &[put(0, 100)]).unwrap_err();
        assert!(matches!(store_error(&failure), StoreError::Unavailable(_)));

        operator.execute_batch("ROLLBACK").unwrap();
        commit_group(&mut connection, &[put(0, 100)]).unwrap();
        assert_eq!(rows(&connection), 1);
    }
}
