//! The tables and views of the file, and how older files reach them.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

/// Lays columns over the records of one type, so that operators can query them with SQL.
///
/// The view has the record type's name and, before `columns`, the columns `id` and `version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView {
    /// The record type: the first segment of its keys.
    pub record_type: &'static str,
    /// Names of columns, each with a path into the document such as `$.usage.prompt_tokens`.
    pub columns: &'static [(&'static str, &'static str)],
}

/// "IRIS": tells our files from those of other programs.
const APPLICATION_ID: i64 = 0x4952_4953;

/// Each entry brings the file to the next schema. Entries are only ever added at the end.
///
/// The table keeps its row ids: rows are then appended and only the small index is written at
/// random, which makes random keys twice as fast to insert as in a table without row ids.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE records (
        key TEXT NOT NULL PRIMARY KEY,
        version INTEGER NOT NULL,
        value TEXT NOT NULL
    ) STRICT;
"];

/// Returns the newest schema of this version of Iris.
pub(super) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).expect("there are few migrations")
}

/// Returns the schema of the file, 0 for an empty one; `None` where it is another program's.
pub(super) fn found(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let schema = pragma(connection, "user_version")?;
    let application = pragma(connection, "application_id")?;
    let count = "SELECT count(*) FROM sqlite_schema";
    let objects: i64 = connection.query_row(count, [], |row| row.get(0))?;
    let empty = application == 0 && schema == 0 && objects == 0;
    Ok((application == APPLICATION_ID || empty).then_some(schema))
}

/// Runs the migrations that the file has not seen and brings its views up to date, or does
/// nothing at all.
pub(super) fn prepare(connection: &mut Connection, views: &[RecordView]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Read again under the lock: another process may have prepared the file meanwhile.
    let done = pragma(&transaction, "user_version")?;
    for (schema, migration) in (1_i64..).zip(MIGRATIONS) {
        if schema > done {
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", schema)?;
        }
    }
    if done == 0 {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    for view in views {
        view.lay(&transaction)?;
    }
    transaction.commit()
}

impl RecordView {
    fn lay(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let wanted = self.definition();
        let existing: Option<String> = transaction
            .query_row(
                "SELECT sql FROM sqlite_schema WHERE type = 'view' AND name = ?1",
                [self.record_type],
                |row| row.get(0),
            )
            .optional()?;
        if existing.as_deref() == Some(wanted.as_str()) {
            return Ok(());
        }
        let name = quote(self.record_type, '"');
        transaction.execute_batch(&format!("DROP VIEW IF EXISTS {name}; {wanted}"))
    }

    fn definition(&self) -> String {
        let columns = self.columns.iter().map(|(name, path)| {
            format!(", json_extract(value, {}) AS {}", quote(path, '\''), quote(name, '"'))
        });
        let range = iris_core::store::Key::all(self.record_type);
        format!(
            "CREATE VIEW {} AS SELECT substr(key, {}) AS id, version{} FROM records \
             WHERE key >= {} AND key < {}",
            quote(self.record_type, '"'),
            range.start.as_str().len() + 1,
            columns.collect::<String>(),
            quote(range.start.as_str(), '\''),
            quote(range.end.as_str(), '\''),
        )
    }
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn quote(text: &str, mark: char) -> String {
    format!("{mark}{}{mark}", text.replace(mark, &format!("{mark}{mark}")))
}
