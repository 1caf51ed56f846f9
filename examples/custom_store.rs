//! A store of your own: `cargo run -p iris-examples --bin custom_store`.
//!
//! This one keeps its records in a text file, one committed batch a line, and reads it from the
//! beginning when it is opened. The conformance suite proves that a coordinator can rely on it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use iris_coordinator::Coordinator;
use iris_core::backend::{Backend, ScriptedBackend};
use iris_core::conformance;
use iris_core::store::{Batch, Document, Key, MemoryStore, Record, Store, StoreError};
use iris_crypto::{Identity, Secret};

use small_network::{AnyError, SmallNetwork};

mod small_network;

/// Records in memory, and the file they are restored from.
#[derive(Clone, Debug)]
struct LogStore {
    records: MemoryStore,
    /// `None` after the file could not be written, when memory is ahead of it.
    file: Arc<Mutex<Option<File>>>,
}

/// A change of one record, as it stands in the file; `None` is a deletion.
type Line = Vec<(Key, Option<String>)>;

impl LogStore {
    fn open(path: &Path) -> Result<Self, AnyError> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A batch that a power cut tore apart was never promised to be there.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        let store = Self { records: MemoryStore::new(), file: Arc::new(Mutex::new(Some(file))) };
        for line in text[..whole].lines() {
            let changes: Line = serde_json::from_str(line)?;
            let batch = changes.into_iter().fold(Batch::new(), |batch, (key, value)| match value {
                Some(value) => batch.put(key, Document::from_text(value)),
                None => batch.delete(key),
            });
            store.apply(batch)?;
        }
        Ok(store)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.records.commit(batch).now_or_never().expect("memory never waits")
    }

    /// Checks and applies a batch, and returns once it is on the disk.
    fn append(&self, batch: Batch) -> Result<(), StoreError> {
        let line: Line = batch
            .writes
            .iter()
            .map(|write| (write.key.clone(), write.value.as_ref().map(|v| v.as_text().to_owned())))
            .collect();
        let line = serde_json::to_string(&line).expect("keys and texts have a JSON form");
        let failed = |cause: &dyn std::fmt::Display| StoreError::Unavailable(cause.to_string());
        // The lock keeps the lines in the order of the commits.
        let mut log = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = log.as_mut().ok_or_else(|| failed(&"the log could not be written before"))?;
        self.apply(batch)?;
        writeln!(file, "{line}").and_then(|()| file.sync_data()).map_err(|error| {
            *log = None;
            failed(&error)
        })
    }
}

impl Store for LogStore {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        let store = self.clone();
        async move {
            let appended = tokio::task::spawn_blocking(move || store.append(batch)).await;
            appended.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
        }
        .boxed()
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.records.get(key)
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        self.records.scan(range)
    }
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let folder = tempfile::tempdir()?;
    let trial = folder.path().join("trial.log");
    conformance::store::run_all(&LogStore::open(&trial)?).await;
    conformance::store::survives_reopening(async || {
        LogStore::open(&trial).expect("the log can be read")
    })
    .await;
    println!("The store keeps its contract.");

    let books = folder.path().join("books.log");
    let store = Arc::new(LogStore::open(&books)?);
    let builder = Coordinator::builder(store, Identity::generate(), Secret::generate());
    let parrot = Arc::new(ScriptedBackend::echo("parrot".parse()?)) as Arc<dyn Backend>;
    let network = SmallNetwork::start(builder, [parrot]).await?;
    println!("{}", network.ask("parrot", "Will you remember me?").await?);
    network.stop().await;
    let settled = std::fs::read_to_string(books)?.matches("settlement/").count();
    println!("Settlements in the log: {settled}");
    Ok(())
}
