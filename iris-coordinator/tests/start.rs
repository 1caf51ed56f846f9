//! How long a start takes over books of a year. Run it optimised:
//! `cargo test --release --test start -- --ignored --nocapture`, with `IRIS_TEST_ROWS` settlements.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test may fail wherever its story breaks")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_coordinator::store::SqliteStore;
use iris_coordinator::{Clock, Coordinator, Settlement, SystemClock};
use iris_core::backend::Usage;
use iris_core::store::{Batch, Key, Store};
use iris_core::task::{Attempt, AttemptEnd, TaskState};
use iris_core::{AccountId, TaskId, Timestamp};
use iris_crypto::{Identity, Secret};

const YEAR: u64 = 365 * 24 * 3_600_000;
/// Rows of one commit.
const TOGETHER: u64 = 5000;

fn settlement(number: u64, submitted: Timestamp) -> Settlement {
    let id = |number: u64| (u128::from(number) << 64).to_be_bytes();
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap());
    let node = letter.to_string().repeat(26).parse().unwrap();
    Settlement {
        task: TaskId::from_bytes(id(number)),
        account: AccountId::from_bytes(id(number % 1000)),
        key: None,
        model: "mistralai/Mistral-Small-24B-Instruct".parse().unwrap(),
        state: TaskState::Finished,
        attempts: vec![Attempt { node, end: AttemptEnd::Done }],
        usage: Usage { prompt_tokens: 1500, completion_tokens: 300 },
        submitted,
        first_chunk_ms: Some(120),
        took_ms: 1000,
        limit_ms: 600_000,
        sealed: false,
        receipt: None,
        difficulty: None,
    }
}

async fn start(store: &Arc<SqliteStore>) -> Duration {
    let secret = Secret::from_bytes([7; 32]);
    let identity = Identity::from_seed(&secret);
    let begun = Instant::now();
    let coordinator = Coordinator::builder(store.clone(), identity, secret).build().await.unwrap();
    let took = begun.elapsed();
    coordinator.shutdown().await;
    took
}

#[tokio::test]
#[ignore = "measures"]
async fn start_that_goes_on_takes_a_fraction_of_one_that_reads_a_year_of_books_anew() {
    let rows = std::env::var("IRIS_TEST_ROWS").map_or(1_000_000, |rows| rows.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(folder.path().join("iris.db"), &[]).unwrap());
    let begin = SystemClock.calendar().as_millis() - YEAR;
    for first in (0..rows).step_by(usize::try_from(TOGETHER).unwrap()) {
        let some = first..rows.min(first + TOGETHER);
        let rows = some.map(|number| {
            settlement(number, Timestamp::from_millis(begin + number * (YEAR / rows)))
        });
        let batch = rows.fold(Batch::new(), |batch, row| row.write(batch));
        store.commit(batch).await.unwrap();
    }
    // The first start writes the lines of all histories.
    start(&store).await;
    let key = Key::new("folded", "deeds").unwrap();
    store.commit(Batch::new().delete(key)).await.unwrap();
    let (anew, gone_on) = (start(&store).await, start(&store).await);
    println!("{rows} rows: {anew:?} anew, {gone_on:?} gone on");
    assert!(gone_on * 5 < anew, "{anew:?} anew, {gone_on:?} gone on");
}
