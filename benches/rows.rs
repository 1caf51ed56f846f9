//! Settlement rows, made durable in a SQLite file by the coordinator's journal.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_coordinator::journal::{Journal, JournalLimits};
use iris_coordinator::store::{OpenError, SqliteStore};
use iris_core::TaskId;
use iris_core::store::{Batch, Document, Key};
use serde_json::json;

/// Rows of one sample: many groups, so that the last one's wait for company does not count.
pub const SAMPLE: u32 = 5_000;

/// A journal over a file, and the number of the last row.
#[derive(Debug)]
pub struct Rows {
    journal: Journal,
    number: u64,
}

impl Rows {
    /// Opens a new file in `folder`.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let store = SqliteStore::open(folder.join("rows.db"), &[])?;
        Ok(Self { journal: Journal::start(Arc::new(store), JournalLimits::default()), number: 0 })
    }

    /// Hands [`SAMPLE`] rows over as finished tasks do, and returns how long it took until all
    /// were durable.
    pub async fn write(&mut self) -> Duration {
        let begun = Instant::now();
        for _ in 0..SAMPLE {
            self.number += 1;
            let row = settlement(self.number);
            self.journal.record_when_free(row).await.expect("the journal is open");
        }
        self.journal.flush().await;
        assert_eq!(self.journal.stats().refused(), 0, "every row is new");
        begun.elapsed()
    }

    /// Ends the journal.
    pub async fn close(self) {
        self.journal.shutdown().await.expect("every row was flushed");
    }
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
