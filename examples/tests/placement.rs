//! Which nodes a task goes to when its caller says which.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod net;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use iris_coordinator::{Apart, Placement, TaskEvent, TaskHandle, TaskRequest};
use iris_core::backend::{BackendError, Gate, Script, ScriptedBackend};
use iris_core::explain::Reason;
use iris_core::model::ModelOffer;
use iris_core::queue::Priority;
use iris_core::task::{Outcome, TaskError};
use iris_core::{AccountId, NodeId};
use iris_crypto::Identity;
use net::{CALLER, Net, Node, answer, read};

fn scripted(script: Script) -> ScriptedBackend {
    let offer = ModelOffer::new("m".parse().unwrap(), 4096);
    ScriptedBackend::new([offer], move |_| script.clone())
}

fn saying(text: &str) -> ScriptedBackend {
    scripted(Script::new().text(text))
}

async fn join(net: &Net, owner: u8, backend: ScriptedBackend) -> Node {
    let owner = AccountId::from_bytes([owner; 16]);
    net.join_of(owner, Identity::generate(), backend, |agent| agent).await
}

fn ask(net: &Net, placement: Placement) -> TaskHandle {
    net.coordinator.submit(TaskRequest { placement, ..net.request("m", "hi", true) })
}

fn only(nodes: &[&Node]) -> Placement {
    Placement { nodes: nodes.iter().map(|node| node.id).collect(), ..Placement::default() }
}

fn apart(group: &Arc<Apart>) -> Placement {
    Placement { apart: Some(Arc::clone(group)), ..Placement::default() }
}

/// Waits until a node has accepted the task, and returns it.
async fn accepted(handle: &mut TaskHandle) -> NodeId {
    match handle.next().await {
        Some(TaskEvent::Accepted { node }) => node,
        other => panic!("{other:?}"),
    }
}

/// Polls a task once and expects that nothing comes of it.
async fn waits(handle: &mut TaskHandle) {
    let event = futures::poll!(std::pin::pin!(handle.next()));
    assert!(event.is_pending(), "{event:?}");
}

async fn failure(mut handle: TaskHandle) -> TaskError {
    match read(&mut handle).await.1 {
        Outcome::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn task_goes_to_the_nodes_that_are_named_and_to_no_other() {
    let net = Net::new().await;
    let gate = Gate::new();
    let meant = join(&net, 1, scripted(Script::new().wait(&gate).text("meant"))).await;
    let other = join(&net, 1, saying("other")).await;
    let mut first = ask(&net, only(&[&meant]));
    assert_eq!(accepted(&mut first).await, meant.id);
    // The other one is free, and yet this waits.
    let mut second = ask(&net, only(&[&meant]));
    waits(&mut second).await;
    assert_eq!(answer(ask(&net, Placement::default())).await, "other");
    gate.open();
    assert_eq!(answer(first).await, "meant");
    let id = second.id();
    assert_eq!(answer(second).await, "meant");
    let told = net.coordinator.explanation(&id, &CALLER).unwrap();
    let told = serde_json::to_string(&told).unwrap();
    assert!(told.contains(Reason::NotNamed.name()), "{told}");
    assert_eq!(answer(ask(&net, only(&[&meant, &other]))).await.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_cannot_do_it_are_told_from_nodes_that_are_away() {
    let net = Net::new().await;
    let here = join(&net, 1, saying("here")).await;
    let gone = join(&net, 1, saying("gone")).await;
    let nobody = only(&[&gone]);
    gone.stop().await;
    assert_eq!(failure(ask(&net, nobody)).await, TaskError::NodeOffline);
    let long = TaskRequest {
        prompt_tokens: 10_000,
        placement: only(&[&here]),
        ..net.request("m", "hi", true)
    };
    let error = failure(net.coordinator.submit(long)).await;
    assert!(matches!(error, TaskError::NoNodeAble { too_long: true, .. }), "{error}");
    let excluded = Placement { exclude: vec![here.id], ..Placement::default() };
    let error = failure(ask(&net, excluded)).await;
    assert!(matches!(error, TaskError::NoNodeAble { too_long: false, .. }), "{error}");
    let data = Placement { dataset: Some("ward".to_owned()), ..Placement::default() };
    let error = failure(ask(&net, data)).await;
    assert_eq!(error, TaskError::NoDataset { name: "ward".to_owned() });
}

#[tokio::test(start_paused = true)]
async fn replicas_go_to_nodes_of_different_owners() {
    for _ in 0..20 {
        let net = Net::new().await;
        let gate = Gate::new();
        let mut nodes = Vec::new();
        for owner in [1, 1, 1, 2, 2, 3] {
            nodes.push((owner, join(&net, owner, scripted(Script::new().wait(&gate))).await));
        }
        let group = Arc::new(Apart::new());
        let mut owners = BTreeSet::new();
        let mut replicas = Vec::new();
        for _ in 0..3 {
            let mut replica = ask(&net, apart(&group));
            let node = accepted(&mut replica).await;
            owners.insert(nodes.iter().find(|(_, known)| known.id == node).unwrap().0);
            replicas.push(replica);
        }
        assert_eq!(owners, [1, 2, 3].into());
        // Three nodes are free, but there is no fourth owner: nothing is worth waiting for.
        let mut fourth = ask(&net, apart(&group));
        let ended = futures::poll!(std::pin::pin!(fourth.next()));
        let expected = TaskEvent::Ended(Outcome::Failed(TaskError::TooFewOwners));
        assert_eq!(ended, std::task::Poll::Ready(Some(expected)));
        // Another question may have them all.
        accepted(&mut ask(&net, apart(&Arc::new(Apart::new())))).await;
        gate.open();
    }
}

#[tokio::test(start_paused = true)]
async fn owner_of_an_answer_stays_claimed_and_that_of_a_failure_does_not() {
    let net = Net::new().await;
    join(&net, 1, saying("answer")).await;
    let group = Arc::new(Apart::new());
    assert_eq!(answer(ask(&net, apart(&group))).await, "answer");
    assert_eq!(failure(ask(&net, apart(&group))).await, TaskError::TooFewOwners);
    let group = Arc::new(Apart::new());
    let mut cancelled = ask(&net, apart(&group));
    accepted(&mut cancelled).await;
    drop(cancelled);
    assert_eq!(answer(ask(&net, apart(&group))).await, "answer");
}

#[tokio::test(start_paused = true)]
async fn more_replicas_than_owners_are_told_so_while_the_others_wait() {
    let net = Net::new().await;
    let gates = [Gate::new(), Gate::new()];
    let first = join(&net, 1, scripted(Script::new().wait(&gates[0]).text("one"))).await;
    let second = join(&net, 2, scripted(Script::new().wait(&gates[1]).text("two"))).await;
    let mut busy = [ask(&net, only(&[&first])), ask(&net, only(&[&second]))];
    for task in &mut busy {
        accepted(task).await;
    }
    let group = Arc::new(Apart::new());
    let mut replicas = [(); 3].map(|()| {
        let request = TaskRequest {
            placement: apart(&group),
            priority: Priority::Batch,
            ..net.request("m", "hi", true)
        };
        net.coordinator.submit(request)
    });
    waits(&mut replicas[0]).await;
    waits(&mut replicas[1]).await;
    let [one, two, three] = replicas;
    assert_eq!(failure(three).await, TaskError::TooFewOwners);
    let replicas = tokio::spawn(async { tokio::join!(answer(one), answer(two)) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    for gate in &gates {
        gate.open();
    }
    let texts = replicas.await.unwrap();
    assert!(texts == ("one".into(), "two".into()) || texts == ("two".into(), "one".into()));
    for task in busy {
        answer(task).await;
    }
}

#[tokio::test(start_paused = true)]
async fn replica_that_waits_goes_where_another_has_failed() {
    let net = Net::new().await;
    let (gate, fails) = (Gate::new(), Gate::new());
    let lasting = join(&net, 2, scripted(Script::new().wait(&gate))).await;
    let mut busy = ask(&net, only(&[&lasting]));
    accepted(&mut busy).await;
    let failing = scripted(Script::new().wait(&fails).fail(BackendError::Failed));
    join(&net, 1, failing).await;
    let group = Arc::new(Apart::new());
    let mut first = ask(&net, apart(&group));
    accepted(&mut first).await;
    let mut second = ask(&net, apart(&group));
    waits(&mut second).await;
    let first = tokio::spawn(async move { read(&mut first).await.1 });
    fails.open();
    // The first one is behind: what is left is one owner, and the second one has waited for it.
    let ended = first.await.unwrap();
    assert!(matches!(ended, Outcome::Failed(_)), "{ended:?}");
    accepted(&mut second).await;
    gate.open();
}
