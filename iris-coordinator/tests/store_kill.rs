//! A coordinator that is killed at any moment has lost nothing that it had acknowledged.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test may fail wherever its story breaks")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use futures::stream::TryStreamExt;
use iris_coordinator::journal::{Journal, JournalLimits};
use iris_coordinator::store::SqliteStore;
use iris_core::store::{Batch, Document, Key, Store};

/// Tells the child process which store to write to, and which round it is.
const PATH: &str = "IRIS_TEST_KILLED_STORE";
const ROUND: &str = "IRIS_TEST_KILLED_ROUND";
const WRITERS: usize = 16;

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_at_any_point() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("iris.db");
    let mut acknowledged = BTreeSet::new();
    for round in 0..10 {
        let after = getrandom::u32().unwrap() as usize % 500;
        let before = acknowledged.len();
        acknowledged.extend(acknowledged_by_killed_child(&path, round, after));
        assert!(acknowledged.len() >= before + after, "the child was killed at work");
        check(&path, &acknowledged, round, after).await;
    }
}

/// Runs a child until it has acknowledged `after` keys, kills it, and returns all it has
/// acknowledged by then.
fn acknowledged_by_killed_child(path: &Path, round: u32, after: usize) -> Vec<String> {
    let mut child = spawn(path, round);
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    for line in stdout.lines() {
        let Ok(line) = line else { break };
        let Some((_, key)) = line.split_once("acknowledged ") else {
            continue;
        };
        // A line that the kill has cut is no acknowledgement.
        acknowledged.extend(key.strip_suffix('.').map(str::to_owned));
        if acknowledged.len() == after + 1 {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(!status.success(), "the child ends by the kill alone");
    acknowledged
}

fn spawn(path: &Path, round: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "commits_until_it_is_killed", "--ignored", "--nocapture"])
        .env(PATH, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

async fn check(path: &Path, acknowledged: &BTreeSet<String>, round: u32, after: usize) {
    let store = SqliteStore::open(path, &[]).unwrap();
    let rows = ids(&store, "row").await;
    let lost: Vec<_> = acknowledged.difference(&rows).collect();
    assert!(lost.is_empty(), "round {round}, killed after {after}: {lost:?} are lost");
    assert_eq!(rows, ids(&store, "twin").await, "a batch is there as a whole or not at all");
}

async fn ids(store: &SqliteStore, kind: &str) -> BTreeSet<String> {
    let records = store.scan(Key::all(kind));
    records.map_ok(|record| record.key.id().to_owned()).try_collect().await.unwrap()
}

/// The child's part: never ends by itself.
#[tokio::test]
#[ignore = "runs as the child process of the test above"]
async fn commits_until_it_is_killed() {
    let (Some(path), Ok(round)) = (std::env::var_os(PATH), std::env::var(ROUND)) else {
        return;
    };
    let store = SqliteStore::open(path, &[]).unwrap();
    let journal = Journal::start(Arc::new(store), JournalLimits::default());
    let writers = (0..WRITERS).map(|writer| write(&journal, format!("{round}-{writer}")));
    futures::future::join_all(writers).await;
}

async fn write(journal: &Journal, name: String) {
    for number in 0_u64.. {
        let id = format!("{name}-{number:06}");
        let value = Document::encode(&"x".repeat(400));
        let row = Key::new("row", &id).unwrap();
        let twin = Key::new("twin", &id).unwrap();
        journal.commit(Batch::new().create(row, value.clone()).create(twin, value)).await.unwrap();
        println!("acknowledged {id}.");
    }
}
