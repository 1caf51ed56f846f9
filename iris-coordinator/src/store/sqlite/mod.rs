//! A store in one SQLite file.
//!
//! One thread owns the connection that commits. While it waits for the disk the next batches
//! queue up, so the busier the store, the more batches share one transaction and one `fsync`; an
//! idle store commits at once. Reads run beside it on a few threads of their own: in WAL mode
//! they neither wait for the writer nor hold it up.
//!
//! `synchronous` is `FULL`: with `NORMAL` a power cut could take back commits that had resolved,
//! and resolving is this project's word for durable.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use iris_core::store::{Batch, Key, Record, Store, StoreError};
use rusqlite::ErrorCode;
use tokio::sync::{mpsc, oneshot};

mod file;
mod reader;
mod schema;
mod url;
mod writer;

pub use schema::RecordView;
pub use url::DatabaseUrlError;

use file::Location;
use reader::{Page, Read};
use writer::Submission;

/// Keeps records in one SQLite file, which operators can query while it is in use.
///
/// Clones share the file's connections. Dropping the last one finishes what was handed over and
/// folds the log into the file, which blocks for as long as the disk needs. Works in any
/// asynchronous runtime.
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

/// Why a file cannot be used as a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file or its folder cannot be made or entered.
    #[error("the database file {path} cannot be opened: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file belongs to another program, or is no database.
    #[error("{0} is not an Iris database; choose another path, so that it is not overwritten")]
    Foreign(PathBuf),
    /// The file was written by a newer version of Iris.
    #[error(
        "the database has schema {found}, but this version of Iris knows schemas up to {known}; \
         start the newer version again, or restore the backup made before it first ran"
    )]
    TooNew {
        /// The file's schema.
        found: i64,
        /// The newest schema this version knows.
        known: i64,
    },
    /// The database cannot be read or prepared.
    #[error("the database cannot be prepared: {0}")]
    Unusable(String),
}

impl SqliteStore {
    /// Batches and reads that may wait for a thread, each; further ones wait to be handed over.
    const QUEUE: usize = 256;

    /// Opens the store in the file `path`, and makes it where there is none.
    ///
    /// A new file can be read by its owner only, and so can folders made on the way to it. Older
    /// schemas are brought up to date; `views` are laid over the records. Blocks for as long as
    /// the disk needs.
    pub fn open(path: impl AsRef<Path>, views: &[RecordView]) -> Result<Self, OpenError> {
        Self::start(&Location::file(path.as_ref())?, views)
    }

    /// Makes an empty store in memory, which is gone with its last clone. Meant for tests.
    pub fn in_memory(views: &[RecordView]) -> Result<Self, OpenError> {
        static STORES: AtomicU64 = AtomicU64::new(0);
        Self::start(&Location::Memory(STORES.fetch_add(1, Ordering::Relaxed)), views)
    }

    /// Returns the file that a `DATABASE_URL` means.
    ///
    /// As in `SQLAlchemy`, `sqlite:///data/iris.db` is relative to the working directory and
    /// `sqlite:////data/iris.db` is absolute.
    pub fn path_of_url(url: &str) -> Result<PathBuf, DatabaseUrlError> {
        url::path_of(url)
    }

    fn start(location: &Location, views: &[RecordView]) -> Result<Self, OpenError> {
        let writing = location.connect_writer(views)?;
        let (commits, queue) = mpsc::channel(Self::QUEUE);
        let writer = spawn("iris-store-writer", move || writer::run(writing, queue))?;
        let (reads, queue) = mpsc::channel(Self::QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let mut readers = Vec::new();
        for _ in 0..thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4)) {
            let (reading, queue) = (location.connect_reader()?, Arc::clone(&queue));
            readers.push(spawn("iris-store-reader", move || {
                reader::run(&reading, &queue);
            })?);
        }
        let (writer, commits, reads) = (Some(writer), Some(commits), Some(reads));
        let shared = Shared { commits, reads, writer, readers };
        Ok(Self { shared: Arc::new(shared) })
    }

    async fn page(&self, range: Range<String>, after: bool) -> Result<Page, StoreError> {
        self.shared.read(|answer| Read::Page { range, after, answer }).await
    }
}

impl Store for SqliteStore {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let (answer, settled) = oneshot::channel();
            let commits = self.shared.commits.as_ref().ok_or_else(stopped)?;
            commits.send(Submission { batch, answer }).await.map_err(|_| stopped())?;
            settled.await.map_err(|_| stopped())?
        }
        .boxed()
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.shared.read(|answer| Read::Get { key, answer }).boxed()
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        // Each page is a read of its own: a slow consumer must not keep an old snapshot alive,
        // which would keep the log from being folded into the file.
        let end = String::from(range.end);
        let first = Some((String::from(range.start), false));
        stream::try_unfold(first, move |position| {
            let end = end.clone();
            async move {
                let Some((start, after)) = position else {
                    return Ok(None);
                };
                let page = self.page(start..end, after).await?;
                let last = page.records.last().filter(|_| !page.complete);
                let next = last.map(|record| (record.key.as_str().to_owned(), true));
                Ok(Some((stream::iter(page.records.into_iter().map(Ok)), next)))
            }
        })
        .try_flatten()
        .boxed()
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

/// What the clones of a store have in common; everything in it is there until it is dropped.
struct Shared {
    commits: Option<mpsc::Sender<Submission>>,
    reads: Option<mpsc::Sender<Read>>,
    writer: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
}

impl Shared {
    async fn read<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Read,
    ) -> Result<T, StoreError> {
        let (answer, read) = oneshot::channel();
        let reads = self.reads.as_ref().ok_or_else(stopped)?;
        reads.send(ask(answer)).await.map_err(|_| stopped())?;
        read.await.map_err(|_| stopped())?
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The last connection to close must be the writer's, for it alone can fold the log in.
        self.reads = None;
        self.readers.drain(..).for_each(join);
        self.commits = None;
        if let Some(writer) = self.writer.take() {
            join(writer);
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| OpenError::Unusable(format!("a thread cannot be started: {error}")))
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the SQLite store panicked");
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the store has stopped".to_owned())
}

/// Says whether waiting can help against `error`.
fn store_error(error: &rusqlite::Error) -> StoreError {
    use rusqlite::Error;
    match (error, error.sqlite_error_code()) {
        (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig))
        | (
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..),
            _,
        ) => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_waiting_helps() {
        let failure = |code| {
            store_error(&rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
        };
        for code in [
            rusqlite::ffi::SQLITE_FULL,
            rusqlite::ffi::SQLITE_BUSY,
            rusqlite::ffi::SQLITE_LOCKED,
            rusqlite::ffi::SQLITE_IOERR,
            rusqlite::ffi::SQLITE_CANTOPEN,
        ] {
            assert!(matches!(failure(code), StoreError::Unavailable(_)), "{code}");
        }
        for code in [rusqlite::ffi::SQLITE_CORRUPT, rusqlite::ffi::SQLITE_NOTADB] {
            assert!(matches!(failure(code), StoreError::Corrupt(_)), "{code}");
        }
    }
}
