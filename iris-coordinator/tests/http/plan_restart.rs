//! A plan whose coordinator dies in the midst of it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::{BoxFuture, pending};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use iris_core::plan::{Item, Items, Plan, Work};
use iris_core::store::{Batch, Key, Record, StoreError};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::node::SOON;
use super::plan::{ask, echo, plan};
use super::*;

/// A disk that takes a number of a plan's events and then nothing more.
#[derive(Debug)]
struct Dying {
    disk: Arc<MemoryStore>,
    left: AtomicUsize,
    dead: Notify,
}

impl Store for Dying {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        let of_plan = |batch: &Batch| {
            batch.writes.iter().any(|write| {
                write.key.record_type() == "plan_event"
                    || write.key.record_type() == "inference"
                        && write.expect != iris_core::store::Expect::Absent
            })
        };
        if of_plan(&batch) {
            let left = self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_err() {
                self.dead.notify_one();
                return pending().boxed();
            }
        }
        self.disk.commit(batch)
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.disk.get(key)
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        self.disk.scan(range)
    }
}

fn identity() -> Identity {
    Identity::from_seed(&Secret::from_bytes([7; 32]))
}

/// Two parts side by side, and two steps after them: four events.
fn small() -> Plan {
    let item = |text: &str| Item { text: text.to_owned(), source: None };
    let mut parts = ask("each", "part {{ item }}");
    if let Work::Ask(ask) = parts.work {
        let items = Items::Given(vec![item("x"), item("y")]);
        parts.work = Work::Each { items, ask };
    }
    plan(vec![parts, ask("b", "b {{ each }}"), ask("c", "c {{ b }}")])
}

/// Starts the plan, and kills the coordinator after so many of its events.
fn die_after(events: usize, disk: &Arc<MemoryStore>) -> (AccountId, String) {
    let runtime = Runtime::new().unwrap();
    let store = Arc::new(Dying { disk: disk.clone(), left: events.into(), dead: Notify::new() });
    let begun = runtime.block_on(async {
        let coordinator = coordinator_of(identity(), store.clone()).await;
        let net = Net::around(coordinator, ServerSettings::default()).await;
        net.node(echo()).await;
        let id = net.plan(small()).await;
        timeout(SOON, store.dead.notified()).await.unwrap();
        (net.account, id)
    });
    runtime.shutdown_background();
    begun
}

#[test]
fn plan_goes_on_where_it_was_written_down_and_settles_each_step_once() {
    for events in 0..=4 {
        let disk = Arc::new(MemoryStore::new());
        let (account, id) = die_after(events, &disk);
        let runtime = Runtime::new().unwrap();
        let (told, status) = runtime.block_on(async {
            let coordinator = coordinator_of(identity(), disk.clone()).await;
            let mut net = Net::around(coordinator, ServerSettings::default()).await;
            net.user = key(&net.coordinator, account, KeyScope::Inference).await;
            net.account = account;
            let node = net.node(echo()).await;
            let told = net.events(&id).await;
            let asked = node.asked.lock().unwrap().len();
            assert_eq!(asked, 4 - events, "only what was not written down is asked again");
            (told, net.get(&format!("/inference/{id}")).await.json())
        });
        let answer = "<c <b <part x>\n\n<part y>>>";
        assert_eq!(status["result"]["text"], answer, "after {events}: {status}");
        assert_eq!(told.last().unwrap()["output"]["text"], answer);
        let over = told.iter().filter(|event| event["event"] == "over").count();
        assert_eq!(over, 4, "what happened before is told, too");
        let rows = runtime.block_on(disk.scan(Key::all("settlement")).collect::<Vec<_>>());
        let rows: Vec<Value> =
            rows.into_iter().map(|row| row.unwrap().value.decode().unwrap()).collect();
        let done: Vec<_> = rows.iter().filter(|row| row["state"] == "finished").collect();
        let tasks: BTreeSet<_> = done.iter().map(|row| row["task"].as_str().unwrap()).collect();
        assert_eq!((done.len(), tasks.len()), (4, 4), "after {events}: {rows:?}");
        let left = runtime.block_on(disk.scan(Key::all("plan_event")).count());
        assert_eq!(left, 0);
    }
}
