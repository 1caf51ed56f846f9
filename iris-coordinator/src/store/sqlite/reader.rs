//! The threads that read.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use iris_core::store::{Document, Key, Record, StoreError, Version};
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::{mpsc, oneshot};

use super::store_error;

/// A question to a reader.
pub(super) enum Read {
    Get { key: Key, answer: Answer<Option<Record>> },
    Page { range: Range<String>, after: bool, answer: Answer<Page> },
}

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// The next records of a scan.
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    /// Whether there are no more.
    pub(super) complete: bool,
}

impl Page {
    /// A page ends after this many records, or with the one that reaches this many bytes.
    const RECORDS: usize = 256;
    const BYTES: usize = 1 << 20;

    fn is_full(&self, bytes: usize) -> bool {
        self.records.len() >= Self::RECORDS || bytes >= Self::BYTES
    }
}

/// Answers what comes through `queue` until its senders are gone.
pub(super) fn run(connection: &Connection, queue: &Mutex<mpsc::Receiver<Read>>) {
    while let Some(read) = next(queue) {
        // Nobody minds an answer that is no longer waited for.
        match read {
            Read::Get { answer, .. } if answer.is_closed() => {}
            Read::Page { answer, .. } if answer.is_closed() => {}
            Read::Get { key, answer } => drop(answer.send(get(connection, &key))),
            Read::Page { range, after, answer } => {
                drop(answer.send(page(connection, &range, after)));
            }
        }
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Read>>) -> Option<Read> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
}

fn get(connection: &Connection, key: &Key) -> Result<Option<Record>, StoreError> {
    let failed = |error| store_error(&error);
    let sql = "SELECT key, version, value FROM records WHERE key = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let found = statement.query_row([key.as_str()], |row| Ok(record(row))).optional();
    found.map_err(failed)?.transpose()
}

fn page(connection: &Connection, range: &Range<String>, after: bool) -> Result<Page, StoreError> {
    let failed = |error| store_error(&error);
    let sql = if after { AFTER } else { FROM };
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query([&range.start, &range.end]).map_err(failed)?;
    let (mut page, mut bytes) = (Page { records: Vec::new(), complete: false }, 0);
    while !page.is_full(bytes) {
        let Some(row) = rows.next().map_err(failed)? else {
            page.complete = true;
            break;
        };
        let record = record(row)?;
        bytes += record.value.as_text().len();
        page.records.push(record);
    }
    Ok(page)
}

const FROM: &str =
    "SELECT key, version, value FROM records WHERE key >= ?1 AND key < ?2 ORDER BY key";
const AFTER: &str =
    "SELECT key, version, value FROM records WHERE key > ?1 AND key < ?2 ORDER BY key";

fn record(row: &Row<'_>) -> Result<Record, StoreError> {
    let failed = |error| store_error(&error);
    let key: String = row.get(0).map_err(failed)?;
    let version: i64 = row.get(1).map_err(failed)?;
    let value: String = row.get(2).map_err(failed)?;
    let corrupt = |what| StoreError::Corrupt(format!("{what} of a record is not one of ours"));
    Ok(Record {
        key: key.parse().map_err(|_| corrupt("the key"))?,
        version: Version(version.try_into().map_err(|_| corrupt("the version"))?),
        value: Document::from_text(value),
    })
}
