//! Making and opening the database file.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::schema::{self, RecordView};
use super::{OpenError, store_error};

/// Time that a connection waits for a lock held by another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a database is.
pub(super) enum Location {
    File(PathBuf),
    Memory(u64),
}

impl Location {
    /// Makes the file and its folder where they are missing.
    pub(super) fn file(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::File { path: path.to_owned(), source };
        // An absolute path keeps its meaning, and is never one of SQLite's special names.
        let path = std::path::absolute(path).map_err(failed)?;
        create(&path).map_err(failed)?;
        Ok(Self::File(path))
    }

    /// Opens the connection that writes, and brings the schema up to date.
    pub(super) fn connect_writer(&self, views: &[RecordView]) -> Result<Connection, OpenError> {
        let mut connection =
            self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|error| unusable(&error))?;
        // The file's owner is known before anything is written to it.
        match schema::found(&connection) {
            Ok(Some(found)) if found > schema::known() => {
                return Err(OpenError::TooNew { found, known: schema::known() });
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err(OpenError::Foreign(self.path())),
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
                return Err(OpenError::Foreign(self.path()));
            }
            Err(error) => return Err(unusable(&error)),
        }
        connection.execute_batch(Self::WRITER_SETTINGS).map_err(|error| unusable(&error))?;
        schema::prepare(&mut connection, views).map_err(|error| unusable(&error))?;
        Ok(connection)
    }

    /// Opens a connection that only reads.
    pub(super) fn connect_reader(&self) -> Result<Connection, OpenError> {
        let connection =
            self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| unusable(&error))?;
        connection.execute_batch("PRAGMA cache_size = -2048").map_err(|error| unusable(&error))?;
        Ok(connection)
    }

    /// A larger log than usual is folded in less often, so that pages written many times over
    /// are copied once; the limit gives space back after a burst. The caches hold what one log
    /// changes; what is older the system keeps, without the process growing with its books.
    const WRITER_SETTINGS: &str = "
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = FULL;
        PRAGMA fullfsync = ON;
        PRAGMA wal_autocheckpoint = 4000;
        PRAGMA journal_size_limit = 67108864;
        PRAGMA cache_size = -16384;
        PRAGMA trusted_schema = OFF;
    ";

    fn connect(&self, mode: OpenFlags) -> rusqlite::Result<Connection> {
        let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = match self {
            Self::File(path) => Connection::open_with_flags(path, flags)?,
            Self::Memory(number) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
                    | OpenFlags::SQLITE_OPEN_CREATE
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX
                    | OpenFlags::SQLITE_OPEN_URI;
                // The leading slash makes the connections of this process share it.
                Connection::open_with_flags(format!("file:/iris-{number}?vfs=memdb"), flags)?
            }
        };
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Memory(_) => ":memory:".into(),
        }
    }
}

fn create(path: &Path) -> io::Result<()> {
    let mut folders = DirBuilder::new();
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        std::os::unix::fs::DirBuilderExt::mode(&mut folders, 0o700);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    if let Some(parent) = path.parent() {
        folders.recursive(true).create(parent)?;
    }
    // SQLite gives the files beside it the same mode.
    options.write(true).create(true).truncate(false).open(path).map(drop)
}

fn unusable(error: &rusqlite::Error) -> OpenError {
    OpenError::Unusable(store_error(error).to_string())
}
