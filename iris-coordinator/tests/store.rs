//! The SQLite store keeps the contract of every store, and what its own documentation adds.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test may fail wherever its story breaks")]

use std::path::{Path, PathBuf};

use futures::stream::TryStreamExt;
use iris_coordinator::store::{OpenError, RecordView, SqliteStore};
use iris_core::conformance::store as contract;
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

const VIEWS: &[RecordView] = &[RecordView {
    record_type: "settlement",
    columns: &[("account", "$.account"), ("tokens", "$.usage.completion_tokens")],
}];

#[test]
fn it_meets_the_contract_in_any_runtime() {
    let (_folder, path) = place();
    futures::executor::block_on(contract::run_all(&open(&path)));
}

#[tokio::test]
async fn it_meets_the_contract_in_memory() {
    contract::run_all(&SqliteStore::in_memory(VIEWS).unwrap()).await;
}

#[tokio::test]
async fn it_agrees_with_a_naive_model_over_random_histories() {
    let store = SqliteStore::in_memory(&[]).unwrap();
    for seed in 100..200 {
        contract::agrees_with_a_model(&store, seed).await;
    }
}

#[tokio::test]
async fn it_survives_reopening() {
    let (_folder, path) = place();
    contract::survives_reopening(async || open(&path)).await;
}

#[tokio::test]
async fn stores_in_memory_are_apart() {
    let stores = [SqliteStore::in_memory(&[]).unwrap(), SqliteStore::in_memory(&[]).unwrap()];
    stores[0].commit(Batch::new().put(key(1), settlement(1))).await.unwrap();
    assert_eq!(stores[1].get(key(1)).await, Ok(None));
}

#[tokio::test]
async fn operators_query_records_as_views_beside_the_running_store() {
    let (_folder, path) = place();
    let store = open(&path);
    let other = Key::new("settlement-draft", "c").unwrap();
    let batch = Batch::new().put(key("a"), settlement(40)).put(key("b"), settlement(2));
    store.commit(batch.put(other, settlement(7))).await.unwrap();
    let rows = query(&path, "SELECT id || ' ' || version || ' ' || account FROM settlement");
    assert_eq!(rows, ["a 1 it's", "b 1 it's"]);
    assert_eq!(query(&path, "SELECT CAST(sum(tokens) AS TEXT) FROM settlement"), ["42"]);
}

#[tokio::test]
async fn views_follow_their_definition_when_the_file_is_opened_again() {
    let (_folder, path) = place();
    let store = open(&path);
    store.commit(Batch::new().put(key("a"), settlement(40))).await.unwrap();
    drop(store);
    let view = RecordView { record_type: "settlement", columns: &[("owner's \"x\"", "$.account")] };
    drop(SqliteStore::open(&path, &[view]).unwrap());
    assert_eq!(query(&path, r#"SELECT "owner's ""x""" FROM settlement"#), ["it's"]);
    drop(open(&path));
    assert_eq!(query(&path, "SELECT account FROM settlement"), ["it's"]);
}

#[tokio::test]
async fn commits_do_not_wait_for_an_unfinished_scan() {
    let (_folder, path) = place();
    let store = open(&path);
    let all = (0..1000).fold(Batch::new(), |batch, id| batch.put(key(id), settlement(id)));
    store.commit(all).await.unwrap();
    let mut scan = store.scan(Key::all("settlement"));
    assert!(scan.try_next().await.unwrap().is_some());
    store.commit(Batch::new().put(key("z"), settlement(0))).await.unwrap();
    let rest: Vec<_> = scan.try_collect().await.unwrap();
    assert_eq!(rest.len(), 1000, "a later page sees what was committed meanwhile");
}

#[tokio::test]
async fn commits_that_nobody_waits_for_are_finished_before_closing() {
    let (_folder, path) = place();
    let store = open(&path);
    for id in 0..100 {
        // The first poll hands the batch over; the future is dropped at once.
        let _ = futures::poll!(store.commit(Batch::new().put(key(id), settlement(id))));
    }
    drop(store);
    assert_eq!(query(&path, "SELECT CAST(count(*) AS TEXT) FROM settlement"), ["100"]);
}

#[tokio::test]
async fn closing_folds_the_log_into_the_file() {
    let (folder, path) = place();
    let store = open(&path);
    let clone = store.clone();
    store.commit(Batch::new().put(key(1), settlement(1))).await.unwrap();
    drop(store);
    assert_eq!(clone.get(key(1)).await.unwrap().unwrap().value, settlement(1));
    assert!(folder.path().join("iris.db-wal").exists());
    drop(clone);
    let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["iris.db"]);
}

#[tokio::test]
async fn records_that_another_hand_has_broken_are_reported_as_corrupt() {
    let (_folder, path) = place();
    let store = open(&path);
    let broken = "INSERT INTO records VALUES ('settlement/a b', 1, '{}'),
        ('settlement/c', -1, '{}'), ('settlement/d', 1, CAST(x'ff' AS TEXT))";
    Connection::open(&path).unwrap().execute_batch(broken).unwrap();
    for id in ["c", "d"] {
        let read = store.get(key(id)).await;
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{id}: {read:?}");
    }
    let scan: Result<Vec<_>, _> = store.scan(Key::all("settlement")).try_collect().await;
    assert!(matches!(scan, Err(StoreError::Corrupt(_))));
}

#[test]
fn files_of_other_programs_are_refused_and_left_alone() {
    let (_folder, path) = place();
    std::fs::write(&path, "a text too long to be taken for an empty file ".repeat(99)).unwrap();
    assert_left_alone(&path);
    std::fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    assert_left_alone(&path);
}

fn assert_left_alone(path: &Path) {
    let before = std::fs::read(path).unwrap();
    let refused = SqliteStore::open(path, VIEWS).unwrap_err();
    assert!(matches!(refused, OpenError::Foreign(_)), "{refused}");
    assert_eq!(std::fs::read(path).unwrap(), before);
}

#[test]
fn a_newer_schema_is_refused_with_what_to_do() {
    let (_folder, path) = place();
    drop(open(&path));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = SqliteStore::open(&path, VIEWS).unwrap_err();
    assert!(matches!(refused, OpenError::TooNew { found: 99, .. }));
    assert!(refused.to_string().contains("start the newer version again"));
}

#[test]
fn a_view_that_is_no_sql_is_a_typed_error_and_leaves_no_half_schema() {
    let (_folder, path) = place();
    let view = RecordView { record_type: "records", columns: &[] };
    let refused = SqliteStore::open(&path, &[view]).unwrap_err();
    assert!(matches!(refused, OpenError::Unusable(_)), "{refused}");
    assert_eq!(query(&path, "SELECT name FROM sqlite_schema"), [""; 0]);
}

#[test]
fn a_folder_that_cannot_be_made_is_a_typed_error() {
    let (folder, _) = place();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let refused = SqliteStore::open(folder.path().join("file/iris.db"), VIEWS).unwrap_err();
    assert!(matches!(refused, OpenError::File { .. }), "{refused}");
}

#[test]
fn a_path_that_looks_like_a_name_of_sqlite_is_a_file() {
    let (folder, _) = place();
    let path = folder.path().join(":memory:");
    drop(open(&path));
    assert!(path.exists());
}

#[cfg(unix)]
#[tokio::test]
async fn new_files_and_folders_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;

    let (folder, _) = place();
    let store = open(&folder.path().join("made/data/iris.db"));
    store.commit(Batch::new().put(key(1), settlement(1))).await.unwrap();
    for (name, expected) in [
        ("made", 0o700),
        ("made/data", 0o700),
        ("made/data/iris.db", 0o600),
        ("made/data/iris.db-wal", 0o600),
        ("made/data/iris.db-shm", 0o600),
    ] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, expected, "{name}");
    }
}

/// Makes a folder for one store, and names the file to keep it in.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("iris.db");
    (folder, path)
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, VIEWS).unwrap()
}

fn key(id: impl std::fmt::Display) -> Key {
    Key::new("settlement", id).unwrap()
}

fn settlement(tokens: u32) -> Document {
    Document::encode(&json!({ "account": "it's", "usage": { "completion_tokens": tokens } }))
}

fn query(path: &Path, sql: &str) -> Vec<String> {
    let operator = Connection::open(path).unwrap();
    let mut statement = operator.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}
