//! Data sets that lie on nodes: prompts go to them, and only answers leave.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod net;

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use iris_coordinator::{Placement, TaskHandle, TaskRequest};
use iris_core::backend::{GenerateRequest, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::store::Key;
use iris_core::task::{AttemptEnd, Outcome, TaskError};
use iris_crypto::Identity;
use iris_node::datasets::{Access, Datasets};
use iris_protocol::rest::Secret;
use net::{Net, Node, answer, read, settlements};
use serde_json::json;

const KEY: &str = "0123456789abcdef";

type Seen = Arc<Mutex<Vec<GenerateRequest>>>;

/// A node with one data set, whose model says how long its prompt is.
struct Ward {
    node: Node,
    seen: Seen,
    _folder: tempfile::TempDir,
}

impl Ward {
    async fn open(net: &Net, name: &str, data: &str, access: Access) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.csv");
        std::fs::write(&path, data).unwrap();
        let mut datasets = Datasets::new();
        datasets.add(name, path, access).unwrap();
        let seen = Seen::default();
        let asked = Arc::clone(&seen);
        let offer = ModelOffer::new("m".parse().unwrap(), 4096);
        let backend = ScriptedBackend::new([offer], move |request| {
            asked.lock().unwrap().push(request.clone());
            Script::new().text(format!("{} bytes", request.body.len()))
        });
        let set = |agent: iris_node::agent::AgentBuilder| agent.with_datasets(datasets);
        let node = net.join_as(Identity::generate(), backend, set).await;
        Self { node, seen, _folder: folder }
    }

    /// Returns the bodies that its model was asked.
    fn seen(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect()
    }
}

fn request(net: &Net, name: &str, key: Option<&str>) -> TaskRequest {
    let body = json!({
        "model": "m", "stream": true, "iris_dataset": {"name": name, "key": key},
        "messages": [{"role": "user", "content": "How many beds are free?"}],
    });
    TaskRequest {
        body: body.to_string().into(),
        placement: Placement { dataset: Some(name.to_owned()), ..Placement::default() },
        ..net.request("m", "", true)
    }
}

fn ask(net: &Net, name: &str, key: Option<&str>) -> TaskHandle {
    net.coordinator.submit(request(net, name, key))
}

fn key() -> Access {
    Access::Key(Secret::new(KEY))
}

#[tokio::test]
async fn each_prompt_meets_its_data_and_the_coordinator_keeps_none_of_them() {
    let net = Net::new().await;
    let wards = [
        Ward::open(&net, "ward-a", "bed,patient\n1,hunter2", key()).await,
        Ward::open(&net, "ward-b", "bed,patient\n2,hunter3", Access::Anyone).await,
    ];
    for node in net.coordinator.nodes() {
        let ward = if node.id == wards[0].node.id { "ward-a" } else { "ward-b" };
        assert_eq!(node.datasets, [ward]);
    }
    for _ in 0..5 {
        assert!(answer(ask(&net, "ward-a", Some(KEY))).await.ends_with("bytes"));
        assert!(answer(ask(&net, "ward-b", None)).await.ends_with("bytes"));
    }
    for (ward, patient) in wards.iter().zip(["hunter2", "hunter3"]) {
        let seen = ward.seen();
        assert_eq!(seen.len(), 5);
        for body in seen {
            assert!(body.contains(patient) && body.contains("How many beds"), "{body}");
            assert!(!body.contains("iris_dataset") && !body.contains(KEY), "{body}");
        }
    }
    // What the coordinator had in its hands, and what it has written down.
    let asked = request(&net, "ward-a", Some(KEY));
    assert!(!String::from_utf8_lossy(&asked.body).contains("hunter"));
    let store = Arc::clone(&net.store);
    assert_eq!(settlements(net).await.len(), 10);
    for kind in ["settlement", "node", "model", "deed"] {
        let records: Vec<_> = store.scan(Key::all(kind)).collect().await;
        let text = format!("{records:?}");
        assert!(!text.contains("hunter") && !text.contains(KEY), "{text}");
    }
}

#[tokio::test]
async fn wrong_key_is_the_callers_fault_and_no_other_node_is_tried() {
    let net = Net::new().await;
    let wards = [
        Ward::open(&net, "ward", "1,hunter2", key()).await,
        Ward::open(&net, "ward", "2,hunter3", key()).await,
    ];
    let before: Vec<_> = net.coordinator.nodes().iter().map(|node| node.points).collect();
    let (text, outcome) = read(&mut ask(&net, "ward", Some("0123456789abcdeF"))).await;
    let Outcome::Failed(TaskError::Rejected { status, code, message, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((status, code.as_deref()), (403, Some("dataset_forbidden")));
    assert!(text.is_empty() && !message.contains("hunter"));
    let after: Vec<_> = net.coordinator.nodes().iter().map(|node| node.points).collect();
    assert_eq!(before, after);
    assert!(wards.iter().all(|ward| ward.seen().is_empty()));
    let rows = settlements(net).await;
    assert_eq!(rows[0].attempts.len(), 1);
    assert_eq!(rows[0].attempts[0].end, AttemptEnd::CallersFault);
}

#[tokio::test]
async fn data_set_that_lies_nowhere_is_told_from_one_whose_node_lacks_the_model() {
    let net = Net::new().await;
    let _ward = Ward::open(&net, "ward", "1,2", Access::Anyone).await;
    let error = |outcome| match outcome {
        Outcome::Failed(error) => error,
        other => panic!("{other:?}"),
    };
    let absent = error(read(&mut ask(&net, "absent", None)).await.1);
    assert_eq!(absent, TaskError::NoDataset { name: "absent".to_owned() });
    let other = ScriptedBackend::echo("other".parse().unwrap());
    net.join(other).await;
    let wrong_model =
        TaskRequest { model: "other".parse().unwrap(), ..request(&net, "ward", None) };
    let wrong_model = error(read(&mut net.coordinator.submit(wrong_model)).await.1);
    assert!(matches!(&wrong_model, TaskError::NoNodeAble { needs, .. } if needs.contains("ward")));
}
