//! A second node is asked beside one that is slow to begin, and whichever says something first
//! gives the answer: in virtual time with scripted models.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod net;

use std::sync::Arc;
use std::time::Duration;

use iris_coordinator::{Settlement, TaskEvent};
use iris_core::NodeId;
use iris_core::backend::{BackendError, Gate, Script, ScriptedBackend};
use iris_core::store::MemoryStore;
use iris_core::task::{AttemptEnd, Hedge, Outcome, RetryPolicy};
use net::{CALLER, Net, Node, read, settlements};

const AFTER: Duration = Duration::from_secs(2);

async fn network() -> Net {
    let policy = RetryPolicy { hedge: Some(Hedge::after(AFTER)), ..RetryPolicy::default() };
    Net::set_up(Arc::new(MemoryStore::default()), |builder| builder.with_retry_policy(policy)).await
}

fn model(script: Script) -> ScriptedBackend {
    let offer = iris_core::model::ModelOffer::new("m".parse().unwrap(), 4096);
    ScriptedBackend::new([offer], move |_| script.clone())
}

fn quick() -> ScriptedBackend {
    model(Script::saying(["quick ", "words"]))
}

/// A model that says nothing until its gate opens.
fn slow(gate: &Gate) -> ScriptedBackend {
    model(Script::saying(Vec::<String>::new()).wait(gate).text("slow ").text("words"))
}

/// Returns how the nodes of the only task ended, and the task's row.
async fn ends(net: Net) -> (Vec<(NodeId, AttemptEnd)>, Settlement) {
    let mut rows = settlements(net).await;
    assert_eq!(rows.len(), 1, "one settlement, however many nodes were asked");
    let row = rows.remove(0);
    (row.attempts.iter().map(|attempt| (attempt.node, attempt.end)).collect(), row)
}

/// Lets a task begin at a slow node, and then another node join.
async fn begin(
    net: &Net,
    gate: &Gate,
    second: ScriptedBackend,
) -> (iris_coordinator::TaskHandle, Node, Node) {
    let first = net.join(slow(gate)).await;
    let mut request = net.request("m", "hurry", true);
    request.time_limit = Duration::from_mins(5);
    let mut handle = net.coordinator.submit(request);
    assert_eq!(handle.next().await, Some(TaskEvent::Accepted { node: first.id }));
    let second = net.join(second).await;
    (handle, first, second)
}

#[tokio::test(start_paused = true)]
async fn second_node_answers_in_place_of_a_slow_one_and_alone_is_paid() {
    let (net, gate) = (network().await, Gate::new());
    let started = tokio::time::Instant::now();
    let (mut handle, first, second) = begin(&net, &gate, quick()).await;
    let (text, outcome) = read(&mut handle).await;
    assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
    assert_eq!(text, "quick words", "nothing of the slow node's is mixed in");
    let took = started.elapsed();
    assert!(took >= AFTER && took < AFTER + Duration::from_secs(1), "{took:?}");
    assert_eq!(handle.node(), Some(second.id));
    let explained = net.coordinator.explanation(&handle.id(), &CALLER).unwrap();
    assert_eq!(explained.node, Some(second.id), "it is explained why the one that answered");
    let points = |id| net.coordinator.nodes().iter().find(|n| n.id == id).unwrap().points;
    assert_eq!((points(first.id), points(second.id)), (100, 110));
    let (ends, row) = ends(net).await;
    assert_eq!(ends, [(first.id, AttemptEnd::Outrun), (second.id, AttemptEnd::Done)]);
    assert_eq!(row.usage.completion_tokens, 2, "one answer is counted");
}

#[tokio::test(start_paused = true)]
async fn whole_answers_race_like_streamed_ones() {
    let (net, gate) = (network().await, Gate::new());
    let first = net.join(slow(&gate)).await;
    let mut handle = net.coordinator.submit(net.request("m", "hurry", false));
    assert_eq!(handle.next().await, Some(TaskEvent::Accepted { node: first.id }));
    let second = net.join(quick()).await;
    let (_, outcome) = read(&mut handle).await;
    assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
    let (ends, _) = ends(net).await;
    assert_eq!(ends, [(first.id, AttemptEnd::Outrun), (second.id, AttemptEnd::Done)]);
}

#[tokio::test(start_paused = true)]
async fn first_node_that_begins_before_the_second_keeps_the_task() {
    let (net, gate, never) = (network().await, Gate::new(), Gate::new());
    let (mut handle, first, second) = begin(&net, &gate, slow(&never)).await;
    let opened = tokio::spawn(async move {
        tokio::time::sleep(AFTER + Duration::from_secs(1)).await;
        gate.open();
    });
    let (text, outcome) = read(&mut handle).await;
    opened.await.unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
    assert_eq!((text.as_str(), handle.node()), ("slow words", Some(first.id)));
    let explained = net.coordinator.explanation(&handle.id(), &CALLER).unwrap();
    assert_eq!(explained.node, Some(first.id));
    let (ends, _) = ends(net).await;
    assert_eq!(ends, [(second.id, AttemptEnd::Outrun), (first.id, AttemptEnd::Done)]);
}

#[tokio::test(start_paused = true)]
async fn second_node_that_fails_leaves_the_first_one_at_work() {
    let (net, gate) = (network().await, Gate::new());
    let failing = model(Script::saying(Vec::<String>::new()).fail(BackendError::Failed));
    let (mut handle, first, second) = begin(&net, &gate, failing).await;
    let opened = tokio::spawn(async move {
        tokio::time::sleep(AFTER + Duration::from_secs(3)).await;
        gate.open();
    });
    let (text, _) = read(&mut handle).await;
    opened.await.unwrap();
    assert_eq!(text, "slow words");
    let (ends, _) = ends(net).await;
    assert_eq!(ends, [(second.id, AttemptEnd::Failed), (first.id, AttemptEnd::Done)]);
}

#[tokio::test(start_paused = true)]
async fn first_node_that_is_lost_leaves_the_second_one_at_work() {
    let (net, gate, other) = (network().await, Gate::new(), Gate::new());
    let (mut handle, first, second) = begin(&net, &gate, slow(&other)).await;
    let first_id = first.id;
    let cut = tokio::spawn(async move {
        tokio::time::sleep(AFTER + Duration::from_secs(1)).await;
        first.kill();
        tokio::time::sleep(Duration::from_secs(45)).await;
        other.open();
    });
    let (text, outcome) = read(&mut handle).await;
    cut.await.unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
    assert_eq!((text.as_str(), handle.node()), ("slow words", Some(second.id)));
    let (ends, _) = ends(net).await;
    assert_eq!(ends, [(first_id, AttemptEnd::Lost), (second.id, AttemptEnd::Done)]);
}

#[tokio::test(start_paused = true)]
async fn no_second_node_is_asked_where_none_is_free() {
    let (net, gate) = (network().await, Gate::new());
    let (mut handle, first, second) = begin(&net, &gate, slow(&Gate::new())).await;
    let mut busy = net.ask("m", "another");
    assert_eq!(busy.next().await, Some(TaskEvent::Accepted { node: second.id }));
    let raced = tokio::time::timeout(AFTER * 5, handle.next()).await;
    assert!(raced.is_err(), "the first is still alone: {raced:?}");
    drop(busy);
    drop(handle);
    let rows = settlements(net).await;
    let nodes: Vec<_> = rows.iter().map(|row| row.attempts.len()).collect();
    assert_eq!(nodes, [1, 1], "{} has one task, and {} the other", first.id, second.id);
}
