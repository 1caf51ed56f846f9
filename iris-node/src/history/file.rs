use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use iris_core::backend::Usage;
use iris_core::{ModelName, TaskId, Timestamp};
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use serde::Serialize;

use super::Bounds;
use crate::agent::{Done, Outcome, Privacy};

/// By which SQLite files of this kind are known: `IrNH` in ASCII.
const APPLICATION: i64 = 0x4972_4e48;
/// The form of the tables.
const VERSION: i64 = 1;
/// How long a lock of another process is waited for. Nobody but the writer's thread waits.
const BUSY: Duration = Duration::from_secs(5);
/// The part of a file that is given up at once when it is too large: one in this many.
const SHRINK: u64 = 10;

const TABLES: &str = "
    CREATE TABLE tasks (
        number INTEGER PRIMARY KEY,
        ended INTEGER NOT NULL,
        task TEXT NOT NULL,
        model TEXT NOT NULL,
        caller TEXT,
        privacy TEXT NOT NULL,
        outcome TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        took_ms INTEGER NOT NULL,
        receipt BLOB
    );
    CREATE INDEX tasks_by_end ON tasks (ended);
";

/// Why a history cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// There is no file yet.
    #[error("{0} does not exist: no task has ended here since the node keeps a history")]
    Missing(PathBuf),
    /// The file cannot be made or entered.
    #[error("{path} cannot be opened: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{0} is not the history of a node; move it away")]
    Foreign(PathBuf),
    /// A newer version of Iris wrote it.
    #[error("{0} was written by a newer version of Iris; move it away, or use that version")]
    TooNew(PathBuf),
    /// SQLite failed, such as on a full disk.
    #[error("the history cannot be read or written: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// A task that a node has worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// When it ended.
    pub ended: Timestamp,
    /// The task.
    pub task: TaskId,
    /// The model that was asked.
    pub model: ModelName,
    /// The tag by which its caller is told from others, where the node was given one.
    pub caller: Option<String>,
    /// Who could read it on its way.
    pub privacy: Privacy,
    /// How it ended.
    pub outcome: Outcome,
    /// Tokens read and written, as in [`Done::usage`].
    pub usage: Usage,
    /// How long it took.
    pub took: Duration,
    /// What the node signed of it.
    #[serde(skip)]
    pub receipt: Option<Vec<u8>>,
}

/// Reads at most `limit` tasks of the history at `path` that ended at `since` or later, the latest
/// first. A node may be writing it meanwhile.
pub fn read(path: &Path, since: Timestamp, limit: usize) -> Result<Vec<Entry>, HistoryError> {
    if !path.exists() {
        return Err(HistoryError::Missing(path.to_owned()));
    }
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    match kind(&connection, path)? {
        Kind::Known => {}
        // Made, and not written yet.
        Kind::Empty => return Ok(Vec::new()),
    }
    let mut query = connection.prepare(
        "SELECT ended, task, model, caller, privacy, outcome, prompt_tokens, completion_tokens,
                took_ms, receipt
         FROM tasks WHERE ended >= ?1 ORDER BY number DESC LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query.query_map(params![whole(since.as_millis()), limit], |row| {
        let text = |at: usize| row.get::<_, String>(at);
        let number = |at: usize| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)?.unsigned_abs());
        let tokens =
            |at: usize| Ok::<_, rusqlite::Error>(u32::try_from(number(at)?).unwrap_or(u32::MAX));
        let unreadable = |at: usize| {
            rusqlite::Error::InvalidColumnType(at, "tasks".to_owned(), rusqlite::types::Type::Text)
        };
        Ok(Entry {
            ended: Timestamp::from_millis(number(0)?),
            task: text(1)?.parse().map_err(|_| unreadable(1))?,
            model: text(2)?.parse().map_err(|_| unreadable(2))?,
            caller: row.get(3)?,
            privacy: if text(4)? == Privacy::Sealed.name() {
                Privacy::Sealed
            } else {
                Privacy::Open
            },
            outcome: Outcome::named(&text(5)?),
            usage: Usage { prompt_tokens: tokens(6)?, completion_tokens: tokens(7)? },
            took: Duration::from_millis(number(8)?),
            receipt: row.get(9)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A history that is open to be written.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) sqlite: Connection,
    mark: Option<Mark>,
}

impl OpenFile {
    /// Returns whether this is still the file at `path`: one that was removed can be written for
    /// ever, and read by nobody.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.mark == mark(path)
    }
}

/// By what a file is told from another one of its name: device and number.
type Mark = (u64, u64);

#[cfg(unix)]
fn mark(path: &Path) -> Option<Mark> {
    use std::os::unix::fs::MetadataExt;

    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn mark(_: &Path) -> Option<Mark> {
    None
}

/// Opens a history to write it, and makes it where it is missing.
pub(super) fn open(path: &Path) -> Result<OpenFile, HistoryError> {
    create(path).map_err(|source| HistoryError::File { path: path.to_owned(), source })?;
    let mark = mark(path);
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Whose file it is is known before anything is written to it.
    if let Kind::Empty = kind(&connection, path)? {
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    // The last second may be lost with the machine's power, which is no harm to a history.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA journal_size_limit = 1048576;
         PRAGMA trusted_schema = OFF;",
    )?;
    if let Kind::Empty = kind(&connection, path)? {
        connection.execute_batch(&format!(
            "BEGIN; {TABLES} PRAGMA user_version = {VERSION}; PRAGMA application_id = {APPLICATION};
             COMMIT;"
        ))?;
    }
    Ok(OpenFile { sqlite: connection, mark })
}

/// Writes tasks, all or none.
pub(super) fn append<'a>(
    connection: &mut Connection,
    tasks: impl Iterator<Item = &'a Done>,
) -> Result<(), HistoryError> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO tasks (ended, task, model, caller, privacy, outcome, prompt_tokens,
                                completion_tokens, took_ms, receipt)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        for Done { work, took, outcome, usage, receipt } in tasks {
            insert.execute(params![
                whole(work.begun.saturating_add(*took).as_millis()),
                work.task.to_string(),
                work.model.as_str(),
                work.caller,
                work.privacy.name(),
                outcome.name(),
                usage.prompt_tokens,
                usage.completion_tokens,
                i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
                receipt.as_deref(),
            ])?;
        }
    }
    Ok(transaction.commit()?)
}

/// Forgets what is older than it may be, and the oldest where the file is larger than it may be.
pub(super) fn prune(connection: &mut Connection, bounds: Bounds) -> Result<(), HistoryError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let oldest = now.saturating_sub(bounds.age).as_millis();
    let oldest = i64::try_from(oldest).unwrap_or(i64::MAX);
    connection.execute("DELETE FROM tasks WHERE ended < ?1", [oldest])?;
    while size(connection)? > bounds.size {
        let count: i64 =
            connection.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0))?;
        if count == 0 {
            break;
        }
        let fewer = (count.unsigned_abs() / SHRINK).max(1);
        connection.execute(
            "DELETE FROM tasks WHERE number IN (SELECT number FROM tasks ORDER BY number LIMIT ?1)",
            [whole(fewer)],
        )?;
    }
    // What is free goes back to the disk, a page with each row.
    let mut vacuum = connection.prepare("PRAGMA incremental_vacuum")?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    Ok(())
}

/// Returns how many bytes of the file are in use.
fn size(connection: &Connection) -> Result<u64, HistoryError> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = number("page_count")?.saturating_sub(number("freelist_count")?);
    Ok(pages.unsigned_abs().saturating_mul(number("page_size")?.unsigned_abs()))
}

enum Kind {
    Empty,
    Known,
}

fn kind(connection: &Connection, path: &Path) -> Result<Kind, HistoryError> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let found = number("application_id").and_then(|application| {
        let tables = "SELECT count(*) FROM sqlite_schema";
        let tables: i64 = connection.query_row(tables, [], |row| row.get(0))?;
        Ok((application, number("user_version")?, tables))
    });
    match found {
        Ok((0, 0, 0)) => Ok(Kind::Empty),
        Ok((APPLICATION, VERSION, _)) => Ok(Kind::Known),
        Ok((APPLICATION, version, _)) if version > VERSION => {
            Err(HistoryError::TooNew(path.to_owned()))
        }
        Ok(_) => Err(HistoryError::Foreign(path.to_owned())),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            Err(HistoryError::Foreign(path.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

fn connect(path: &Path, mode: OpenFlags) -> Result<Connection, HistoryError> {
    let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // An absolute path is never one of SQLite's special names.
    let absolute = std::path::absolute(path);
    let absolute =
        absolute.map_err(|source| HistoryError::File { path: path.to_owned(), source })?;
    let connection = Connection::open_with_flags(absolute, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Makes the file for its user alone; SQLite gives those beside it the same mode.
fn create(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create(true).truncate(false).open(path).map(drop)
}

/// SQLite's integers have a sign.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
