//! What owners let their nodes do: set by real agents, kept to by a real coordinator.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::time::Duration;

use futures::FutureExt;
use iris_coordinator::{TaskEvent, TaskHandle, TaskRequest};
use iris_core::AccountId;
use iris_core::backend::{Gate, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::task::{Outcome, TaskError};
use iris_core::terms::{Callers, Rest, Terms};
use iris_crypto::Identity;
use iris_node::agent::Conduct;
use iris_protocol::rest::{CallerName, CallerRule};
use net::{CALLER, Net, Node, OWNER, read};
use tokio::sync::watch;

mod net;

const NOBODY: AccountId = AccountId::from_bytes([0; 16]);

/// Lets a node join that does what `owner` says.
async fn join(net: &Net, owner: &watch::Sender<Conduct>) -> Node {
    let backend = ScriptedBackend::echo("parrot".parse().unwrap());
    let conduct = owner.subscribe();
    net.join_of(OWNER, Identity::generate(), backend, |agent| agent.with_conduct(conduct)).await
}

/// Says something else to the node, and waits until the coordinator knows.
async fn say(net: &Net, owner: &watch::Sender<Conduct>, terms: Terms) {
    let slots = u32::from(terms.rest.is_none());
    let callers = terms.callers;
    owner.send_replace(Conduct { terms, ..Conduct::default() });
    let knows = || {
        let node = &net.coordinator.nodes()[0];
        (node.slots, node.callers) == (slots, callers)
    };
    while !knows() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn ask(net: &Net, account: AccountId) -> Outcome {
    let request = net.request("parrot", "hello", true);
    read(&mut net.coordinator.submit(TaskRequest { account, ..request })).await.1
}

async fn hindrances(net: &Net, node: &Node) -> Vec<String> {
    let why = net.coordinator.why(&node.id).await.unwrap().unwrap();
    why.hindrances.into_iter().map(|hindrance| hindrance.code).collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_answers_those_whom_its_owner_lets_ask() {
    let net = Net::new().await;
    let owner = watch::Sender::new(Conduct::default());
    let node = join(&net, &owner).await;
    for (callers, answered, hindrance) in [
        (Callers::Public, &[OWNER, CALLER, NOBODY][..], None),
        (Callers::Members, &[OWNER, CALLER], Some("members_only")),
        (Callers::Invited, &[OWNER], Some("invited_only")),
        (Callers::Own, &[OWNER], Some("own_only")),
        (Callers::Public, &[OWNER, CALLER, NOBODY], None),
    ] {
        say(&net, &owner, Terms { callers, ..Terms::default() }).await;
        for account in [OWNER, CALLER, NOBODY] {
            let outcome = ask(&net, account).await;
            if answered.contains(&account) {
                assert!(matches!(outcome, Outcome::Finished(_)), "{callers:?}: {outcome:?}");
            } else {
                let Outcome::Failed(TaskError::NoNodeAble { needs, .. }) = outcome else {
                    panic!("{callers:?}: {outcome:?}")
                };
                assert!(needs.contains("lets it answer this caller"), "{needs}");
            }
        }
        let found = hindrances(&net, &node).await;
        let found = found.iter().find(|code| code.ends_with("_only"));
        assert_eq!(found.map(String::as_str), hindrance);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_answers_the_invited_and_never_the_blocked() {
    let net = Net::new().await;
    let owner = watch::Sender::new(Conduct::default());
    let _node = join(&net, &owner).await;
    let caller = CallerName::Account(CALLER);
    let answered = async |account| matches!(ask(&net, account).await, Outcome::Finished(_));
    let invited = Terms { callers: Callers::Invited, ..Terms::default() };
    say(&net, &owner, invited).await;
    assert!(!answered(CALLER).await, "nobody has invited it yet");
    let rules = net.coordinator.admittance();
    rules.set(OWNER, &caller, CallerRule::Invited).await.unwrap();
    assert!(answered(CALLER).await && answered(OWNER).await && !answered(NOBODY).await);
    rules.set(OWNER, &caller, CallerRule::Blocked).await.unwrap();
    assert!(!answered(CALLER).await);
    say(&net, &owner, Terms::default()).await;
    assert!(!answered(CALLER).await && answered(OWNER).await && answered(NOBODY).await);
    rules.lift(OWNER, &caller).await.unwrap();
    assert!(answered(CALLER).await);
}

/// A model whose answers wait for `gate`.
fn held(gate: &Gate) -> ScriptedBackend {
    let (offer, gate) = (ModelOffer::new("parrot".parse().unwrap(), 4096), gate.clone());
    ScriptedBackend::new([offer], move |_| Script::new().wait(&gate).text("hello"))
}

/// Asks for an answer that busy nodes keep waiting.
fn stand_in_line(net: &Net) -> TaskHandle {
    let mut handle = net.coordinator.submit(net.request("parrot", "hello", true));
    assert!(handle.next().now_or_never().is_none());
    assert_eq!(handle.place_in_line(), Some(1));
    handle
}

#[tokio::test(start_paused = true)]
async fn what_an_owner_says_of_a_caller_reaches_those_who_wait() {
    let (net, gate) = (Net::new().await, Gate::new());
    let other = AccountId::from_bytes([7; 16]);
    let busy = net.join_of(other, Identity::generate(), held(&gate), |agent| agent).await;
    let mut first = net.coordinator.submit(net.request("parrot", "hello", true));
    assert_eq!(first.next().await, Some(TaskEvent::Accepted { node: busy.id }));
    let owner = watch::Sender::new(Conduct {
        terms: Terms { callers: Callers::Invited, ..Terms::default() },
        ..Conduct::default()
    });
    let _free = join(&net, &owner).await;
    let rules = net.coordinator.admittance();
    let caller = CallerName::Account(CALLER);

    let mut waiting = stand_in_line(&net);
    rules.set(OWNER, &caller, CallerRule::Invited).await.unwrap();
    let outcome = read(&mut waiting).await.1;
    assert!(matches!(outcome, Outcome::Finished(_)), "the node that is free now: {outcome:?}");

    rules.lift(OWNER, &caller).await.unwrap();
    let mut waiting = stand_in_line(&net);
    rules.set(other, &caller, CallerRule::Blocked).await.unwrap();
    let begun = tokio::time::Instant::now();
    let outcome = read(&mut waiting).await.1;
    assert!(matches!(outcome, Outcome::Failed(TaskError::NoNodeAble { .. })), "{outcome:?}");
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody is left to wait for");
    gate.open();
    assert!(matches!(read(&mut first).await.1, Outcome::Finished(_)));
}

#[tokio::test(start_paused = true)]
async fn a_resting_node_is_given_nothing_and_the_network_knows_why() {
    let net = Net::new().await;
    let owner = watch::Sender::new(Conduct::default());
    let node = join(&net, &owner).await;
    for rest in [Rest::Paused, Rest::OffHours] {
        say(&net, &owner, Terms { rest: Some(rest), ..Terms::default() }).await;
        assert!(!matches!(ask(&net, CALLER).await, Outcome::Finished(_)));
        assert_eq!(hindrances(&net, &node).await[0], rest.name());
        say(&net, &owner, Terms::default()).await;
        assert!(matches!(ask(&net, CALLER).await, Outcome::Finished(_)));
    }
}
