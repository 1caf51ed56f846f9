//! What must be true of the books when everything is over.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use iris_coordinator::store::SqliteStore;
use iris_core::store::{Key, Store};
use iris_core::task::{AttemptEnd, TaskState};
use serde_json::Value;

use crate::live::settlements;
use crate::load::question;
use crate::network::Network;

/// How long what was accepted may take to end.
const ENDED: Duration = Duration::from_mins(1);

/// Waits until every accepted task is over and checks its answer; returns how many finished.
pub(crate) async fn ended(network: &Network, accepted: &BTreeMap<usize, String>) -> usize {
    let begun = Instant::now();
    let mut finished = 0;
    for (number, id) in accepted {
        let status = loop {
            let status = network.get(&format!("/inference/{id}")).await;
            let state: TaskState = serde_json::from_value(status["status"].clone())
                .unwrap_or_else(|_| panic!("{status}"));
            if state.is_terminal() {
                break status;
            }
            assert!(begun.elapsed() < ENDED, "not over in {ENDED:?}: {status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        if status["status"] == "finished" {
            assert_eq!(status["result"]["text"], question(*number), "{status}");
            finished += 1;
        } else {
            assert_eq!(status["error"]["code"], "nodes_failed", "{status}");
        }
    }
    finished
}

/// Checks that every durable task has one end and one settlement; returns how many rows there are.
pub(crate) async fn check(path: &Path, accepted: &BTreeMap<usize, String>) -> usize {
    let store = SqliteStore::open(path, &[]).unwrap();
    let mut rows: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for row in settlements(&store).await {
        rows.entry(row.task.to_string()).or_default().push(row);
    }
    let mut durable = BTreeMap::new();
    let mut records = store.scan(Key::all("inference"));
    while let Some(record) = records.next().await {
        let record = record.unwrap();
        let value: Value = record.value.decode().unwrap();
        let state: TaskState = serde_json::from_value(value["state"].clone()).unwrap();
        assert!(state.is_terminal(), "{value}");
        durable.insert(record.key.id().to_owned(), state);
    }
    for id in accepted.values() {
        assert!(durable.contains_key(id), "{id} was accepted and is lost");
    }
    for (id, state) in durable {
        let settled = rows.get(&id).map_or(&[][..], Vec::as_slice);
        assert_eq!(settled.len(), 1, "{id}: {settled:?}");
        assert_eq!(settled[0].state, state);
        let done = settled[0].attempts.iter().filter(|attempt| attempt.end == AttemptEnd::Done);
        assert_eq!(done.count(), usize::from(state == TaskState::Finished), "{:?}", settled[0]);
    }
    assert!(rows.values().all(|settled| settled.len() == 1), "one settlement for each task");
    rows.len()
}
