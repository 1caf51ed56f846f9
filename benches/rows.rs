//! Settlement rows, made durable in a SQLite file by the coordinator's journal.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_coordinator::journal::{Journal, JournalLimits};
use iris_coordinator::store::{OpenError, SqliteStore};
use iris_coordinator::{Histories, Settlement};
use iris_core::backend::Usage;
use iris_core::store::Batch;
use iris_core::task::{Attempt, AttemptEnd, TaskState};
use iris_core::{AccountId, NodeId, TaskId, Timestamp};

/// Accounts that ask in turns, each with a history of its own.
const ACCOUNTS: u64 = 1_000;

/// Rows of one sample: as many as a coordinator lets gather before it writes their lines.
pub const SAMPLE: u32 = 32_768;

/// A journal over a file, and the number of the last row.
#[derive(Debug)]
pub struct Rows {
    journal: Journal,
    histories: Histories,
    number: u64,
}

impl Rows {
    /// Opens a new file in `folder`.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn open(folder: &Path) -> Result<Self, OpenError> {
        let store = Arc::new(SqliteStore::open(folder.join("rows.db"), &[])?);
        let histories = Histories::open(&*store).await.expect("a new file can be read");
        Ok(Self { journal: Journal::start(store, JournalLimits::default()), histories, number: 0 })
    }

    /// Hands [`SAMPLE`] rows over as finished tasks do, and returns how long it took until all of
    /// them, and their lines, were durable.
    pub async fn write(&mut self) -> Duration {
        let begun = Instant::now();
        for _ in 0..SAMPLE {
            self.number += 1;
            let row = self.histories.write(&settlement(self.number), Batch::new());
            self.journal.record_when_free(row).await.expect("the journal is open");
        }
        self.histories.fold(&self.journal).await.expect("the journal is open");
        assert_eq!(self.journal.stats().refused(), 0, "every row is new");
        begun.elapsed()
    }

    /// Ends the journal.
    pub async fn close(self) {
        self.journal.shutdown().await.expect("every row was flushed");
    }
}

fn settlement(number: u64) -> Settlement {
    // Ids are random, so that of one moment they lie in any order.
    let id = |seed: u64| (u128::from(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64).to_be_bytes();
    let node: NodeId = "abcdefghijklmnopqrstuvwxyz".parse().expect("26 letters are an id");
    Settlement {
        task: TaskId::from_bytes(id(number)),
        account: AccountId::from_bytes(id(number % ACCOUNTS)),
        key: Some("0123456789abcdef01234567".parse().expect("24 digits are an id")),
        model: "mistralai/Mistral-Small-24B-Instruct".parse().expect("a model's name"),
        state: TaskState::Finished,
        attempts: vec![Attempt { node, end: AttemptEnd::Done }],
        usage: Usage { prompt_tokens: 1500, completion_tokens: 300 },
        submitted: Timestamp::from_millis(1_790_000_000_000 + number / 10),
        first_chunk_ms: Some(120),
        took_ms: 1000,
        limit_ms: 600_000,
        sealed: false,
        receipt: None,
        difficulty: None,
    }
}
