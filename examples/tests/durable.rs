//! Durable tasks over in-memory transports, in virtual time.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod net;

use std::sync::Arc;
use std::time::Duration;

use iris_coordinator::InferenceError;
use iris_core::backend::{Gate, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::store::MemoryStore;
use iris_core::task::TaskState;
use iris_core::{ModelName, TaskId};
use iris_protocol::rest::{InferenceRequest, InferenceStatus};
use net::{CALLER, Net, OWNER, settlements};

fn model() -> ModelName {
    "m".parse().unwrap()
}

fn question(text: &str) -> InferenceRequest {
    InferenceRequest::new(model(), text)
}

async fn ended(net: &Net, id: TaskId) -> InferenceStatus {
    loop {
        let status = net.coordinator.inference().status(CALLER, id).await.unwrap();
        if status.status.is_terminal() {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn task_is_carried_out_once_for_the_same_idempotency_key() {
    let net = Net::new().await;
    net.join(ScriptedBackend::echo(model())).await;
    let submit = |text: &'static str| {
        let inference = net.coordinator.inference();
        async move { inference.submit(CALLER, question(text), Some("once")).await }
    };
    let first = submit("hello").await.unwrap();
    let second = submit("hello").await.unwrap();
    assert_eq!(first.id, second.id);
    assert_eq!(submit("other").await, Err(InferenceError::KeyReused));
    let status = ended(&net, first.id).await;
    assert_eq!(status.status, TaskState::Finished);
    assert_eq!(status.result.unwrap().text, "hello");
    assert_eq!(settlements(net).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn task_of_another_account_does_not_exist() {
    let net = Net::new().await;
    net.join(ScriptedBackend::echo(model())).await;
    let task = net.coordinator.inference().submit(CALLER, question("hi"), None).await.unwrap();
    let seen = net.coordinator.inference().status(OWNER, task.id).await;
    assert_eq!(seen, Err(InferenceError::NotFound));
}

#[tokio::test(start_paused = true)]
async fn cancelled_task_ends_once_and_frees_its_node() {
    let net = Net::new().await;
    let gate = Gate::new();
    let script = Script::new().wait(&gate);
    let offers = [ModelOffer::new(model(), 4096)];
    let backend = ScriptedBackend::new(offers, move |_| script.clone());
    let counts = backend.clone();
    net.join(backend).await;
    let task = net.coordinator.inference().submit(CALLER, question("hi"), None).await.unwrap();
    while counts.counts().running == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = net.coordinator.inference().cancel(CALLER, task.id).await.unwrap();
    assert_eq!(status.status, TaskState::Cancelled);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(counts.counts().running, 0);
    let rows = settlements(net).await;
    assert_eq!((rows.len(), rows[0].state), (1, TaskState::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn tasks_that_wait_know_their_place_and_move_up() {
    let (net, gate) = (Net::new().await, Gate::new());
    let script = Script::saying(["done"]).wait(&gate);
    let offers = [ModelOffer::new(model(), 4096)];
    net.join(ScriptedBackend::new(offers, move |_| script.clone())).await;
    let mut tasks = Vec::new();
    for text in ["first", "second", "third"] {
        tasks.push(net.coordinator.inference().submit(CALLER, question(text), None).await.unwrap());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let inference = net.coordinator.inference();
    let mut places = Vec::new();
    for task in &tasks {
        places.push(inference.status(CALLER, task.id).await.unwrap().place_in_line);
    }
    assert_eq!(places, [None, Some(1), Some(2)]);
    inference.cancel(CALLER, tasks[1].id).await.unwrap();
    let third = inference.status(CALLER, tasks[2].id).await.unwrap();
    assert_eq!(third.place_in_line, Some(1));
    gate.open();
    assert_eq!(ended(&net, tasks[2].id).await.place_in_line, None);
}

#[tokio::test(start_paused = true)]
async fn task_waits_for_a_node_of_a_known_model() {
    let net = Net::new().await;
    net.join(ScriptedBackend::echo(model())).await.stop().await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    let task = net.coordinator.inference().submit(CALLER, question("hi"), None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    net.join(ScriptedBackend::echo(model())).await;
    assert_eq!(ended(&net, task.id).await.status, TaskState::Finished);
}

#[tokio::test(start_paused = true)]
async fn task_survives_its_coordinator_and_its_prompt_is_sealed() {
    let store = Arc::new(MemoryStore::default());
    let net = Net::over(store.clone()).await;
    net.join(ScriptedBackend::echo(model())).await.stop().await;
    net.coordinator.shutdown().await;
    let net = Net::over(store.clone()).await;
    let marker = "a prompt that nobody else may read";
    let task = net.coordinator.inference().submit(CALLER, question(marker), None).await.unwrap();
    let key = iris_core::store::Key::new("inference", task.id).unwrap();
    let record = iris_core::store::Store::get(&*store, key.clone()).await.unwrap().unwrap();
    assert!(!record.value.as_text().contains("nobody"));
    net.coordinator.shutdown().await;
    let net = Net::over(store.clone()).await;
    net.join(ScriptedBackend::echo(model())).await;
    let status = ended(&net, task.id).await;
    assert_eq!(status.result.unwrap().text, marker);
    let record = iris_core::store::Store::get(&*store, key).await.unwrap().unwrap();
    assert!(!record.value.as_text().contains("nobody"), "results are sealed too");
    assert!(!record.value.as_text().contains("\"body\""), "the prompt is gone");
}
