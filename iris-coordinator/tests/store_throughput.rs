//! How many settlements a second the journal makes durable. Run it optimised:
//! `cargo test --release --test store_throughput -- --ignored --nocapture`.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test may fail wherever its story breaks")]

use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;
use iris_coordinator::journal::{Journal, JournalLimits};
use iris_coordinator::store::SqliteStore;
use iris_core::TaskId;
use iris_core::store::{Batch, Document, Key};
use serde_json::json;

const WRITERS: u64 = 16;
const ROWS: u64 = 10_000;
/// What the design asks of a two-core machine, in rows a second.
const TARGET: u128 = 15_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; its number means nothing unoptimised"]
async fn fifteen_thousand_settlements_a_second_become_durable() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("iris.db"), &[]).unwrap();
    let journal = Journal::start(Arc::new(store), JournalLimits::default());
    let begun = Instant::now();
    join_all((0..WRITERS).map(|writer| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for number in 0..ROWS {
                journal.record_when_free(settlement(writer, number)).await.unwrap();
            }
        })
    }))
    .await;
    journal.shutdown().await.unwrap();
    let stats = journal.stats();
    let rate = u128::from(stats.rows()) * 1_000_000 / begun.elapsed().as_micros();
    println!("{rate} rows/s, {} rows in {} commits", stats.rows(), stats.commits());
    assert_eq!(stats.rows(), WRITERS * ROWS);
    assert!(rate >= TARGET, "{rate} rows/s");
}

/// Makes a row of about 400 bytes under a random task's key.
fn settlement(writer: u64, number: u64) -> Batch {
    let mut id = [0; 16];
    getrandom::fill(&mut id).unwrap();
    let task = TaskId::from_bytes(id);
    let row = json!({
        "task": task,
        "account": TaskId::from_bytes([7; 16]),
        "node": "abcdefghijklmnopqrstuvwxyz",
        "owner": TaskId::from_bytes([9; 16]),
        "model": "mistralai/Mistral-Small-24B-Instruct",
        "usage": { "prompt_tokens": number, "completion_tokens": writer },
        "submitted": 1_790_000_000_000_u64 + number,
        "finished": 1_790_000_001_000_u64 + number,
        "outcome": "finished",
        "finish_reason": "stop",
        "tier": "MID",
        "difficulty": "COMPLEX",
    });
    Batch::new().create(Key::new("settlement", task).unwrap(), Document::encode(&row))
}
