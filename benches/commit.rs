//! How many rows a second the journal makes durable in a SQLite file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use iris_coordinator::journal::{Journal, JournalLimits};
use iris_coordinator::store::SqliteStore;
use iris_core::TaskId;
use iris_core::store::{Batch, Document, Key};
use serde_json::json;
use tokio::runtime::Runtime;

/// Rows of one sample: many groups, so that the last one's wait for company does not count.
const ROWS: u64 = 5_000;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .sample_size(10)
        .configure_from_args();
    let runtime = Runtime::new().expect("the system gives threads");
    let folder = tempfile::tempdir().expect("the system gives a folder");
    let store = SqliteStore::open(folder.path().join("iris.db"), &[]).expect("the folder is new");
    let journal = {
        let _entered = runtime.enter();
        Journal::start(Arc::new(store), JournalLimits::default())
    };
    let mut number = 0;
    let mut group = criterion.benchmark_group("group commit");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("settlements", |bencher| {
        bencher.iter_custom(|samples| {
            let begun = Instant::now();
            for _ in 0..samples {
                runtime.block_on(write(&journal, &mut number));
            }
            begun.elapsed()
        });
    });
    group.finish();
    criterion.final_summary();
    runtime.block_on(journal.shutdown()).expect("every row was flushed");
}

/// Hands rows over as finished tasks do, and waits until all are durable.
async fn write(journal: &Journal, number: &mut u64) {
    for _ in 0..ROWS {
        *number += 1;
        let row = settlement(*number);
        journal.record_when_free(row).await.expect("the journal is open");
    }
    journal.flush().await;
    assert_eq!(journal.stats().refused(), 0, "every row is new");
}

/// A row of about the size and under the kind of key that settlements have.
fn settlement(number: u64) -> Batch {
    let task = TaskId::from_bytes(u128::from(number).to_be_bytes());
    let submitted = 1_790_000_000_000 + number / 10;
    let row = json!({
        "task": task,
        "account": TaskId::from_bytes([7; 16]),
        "model": "mistralai/Mistral-Small-24B-Instruct",
        "state": "finished",
        "attempts": [{ "node": "abcdefghijklmnopqrstuvwxyz", "end": "done" }],
        "usage": { "prompt_tokens": 1500, "completion_tokens": number },
        "submitted": submitted,
        "first_chunk_ms": 120,
        "took_ms": 1000,
        "limit_ms": 600_000,
    });
    let key = Key::new("settlement", format!("{submitted:013}-{task}"));
    let key = key.expect("a number and a task id are a key segment");
    Batch::new().create(key, Document::encode(&row))
}
