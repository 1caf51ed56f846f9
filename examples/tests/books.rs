//! Books that cannot be written for a while, in virtual time.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod net;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use iris_coordinator::journal::JournalLimits;
use iris_coordinator::{Coordinator, InferenceError};
use iris_core::ModelName;
use iris_core::backend::ScriptedBackend;
use iris_core::store::{Batch, Key, MemoryStore, Record, Store, StoreError};
use iris_core::task::{Outcome, TaskError, TaskState};
use iris_crypto::{Identity, Secret};
use iris_protocol::rest::InferenceRequest;
use net::{CALLER, Net, VirtualClock, read, settlements};

const QUEUE: usize = 64;

fn model() -> ModelName {
    "m".parse().unwrap()
}

/// A store whose disk can be full.
#[derive(Debug, Default)]
struct Disk {
    store: MemoryStore,
    full: AtomicBool,
}

impl Store for Disk {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            if self.full.load(Ordering::Relaxed) {
                return Err(StoreError::Unavailable("the disk is full".to_owned()));
            }
            self.store.commit(batch).await
        }
        .boxed()
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.store.get(key)
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        self.store.scan(range)
    }
}

async fn net(disk: &Arc<Disk>) -> Net {
    let store: Arc<dyn Store> = Arc::clone(disk) as _;
    let secret = Secret::from_bytes([9; 32]);
    let coordinator = Coordinator::builder(Arc::clone(&store), Identity::generate(), secret)
        .with_clock(Arc::new(VirtualClock))
        .with_journal_limits(JournalLimits { queue: QUEUE, ..JournalLimits::default() })
        .build()
        .await
        .unwrap();
    Net { coordinator, store }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_settled_and_what_could_not_be_is_not_begun() {
    let disk = Arc::new(Disk::default());
    let net = net(&disk).await;
    let backend = ScriptedBackend::echo(model());
    net.join(backend.clone()).await;
    disk.full.store(true, Ordering::Relaxed);
    let mut answered = 0;
    let refusal = loop {
        match read(&mut net.ask("m", "hello")).await {
            (text, Outcome::Finished(_)) => assert_eq!(text, "hello"),
            (_, outcome) => break outcome,
        }
        answered += 1;
        assert!(answered < 10 * QUEUE, "work goes on that the books cannot hold");
    };
    assert_eq!(refusal, Outcome::Failed(TaskError::BooksFull));
    assert!(answered > QUEUE / 2, "{answered}");
    // However often somebody asks again, nothing gathers.
    for _ in 0..10 * QUEUE {
        read(&mut net.ask("m", "hello")).await;
    }
    assert_eq!(backend.counts().started, answered);
    assert!(!net.coordinator.is_ready().await);
    disk.full.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(net.coordinator.is_ready().await);
    read(&mut net.ask("m", "hello")).await;
    let rows = settlements(net).await;
    assert!(rows.iter().all(|row| row.state == TaskState::Finished), "{rows:?}");
    assert_eq!(rows.len(), answered + 1);
}

#[tokio::test(start_paused = true)]
async fn durable_task_is_promised_only_when_it_can_be_kept() {
    let disk = Arc::new(Disk::default());
    let net = net(&disk).await;
    net.join(ScriptedBackend::echo(model())).await;
    disk.full.store(true, Ordering::Relaxed);
    let submit = || async {
        let inference = net.coordinator.inference();
        inference.submit(CALLER, InferenceRequest::new(model(), "hello"), None).await
    };
    let begun = tokio::time::Instant::now();
    assert_eq!(submit().await, Err(InferenceError::Store));
    assert_eq!(begun.elapsed(), JournalLimits::default().patience);
    // From then on nobody has to wait to hear it.
    let begun = tokio::time::Instant::now();
    assert_eq!(submit().await, Err(InferenceError::Store));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    disk.full.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let task = submit().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = net.coordinator.inference().status(CALLER, task.id).await.unwrap();
    assert_eq!(status.status, TaskState::Finished);
    assert_eq!(settlements(net).await.len(), 1);
}
