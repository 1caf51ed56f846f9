//! Plans that the client carries out, against a scripted coordinator.

#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use futures::StreamExt;
use iris_client::{Client, ClientError, PlanAnswer, PlanFailure, Policy, Privacy};
use iris_core::plan::{
    Agreement, Ask, Budget, Dataset, Item, Items, Join, Mode, OnFailure, Plan, Progress, Replicas,
    Step, StepError, UnitState, Work,
};
use iris_crypto::seal::SealedRequest;
use support::sealed::*;
use support::*;
use tokio::sync::Barrier;

const SECRET: &str = "the secret plan";

fn client(network: &Network) -> Client {
    Client::builder(&network.url).with_api_key("iris_k").build().expect("the url is valid")
}

fn ask(prompt: &str) -> Ask {
    Ask {
        model: MODEL.parse().expect("it is a name"),
        history: Vec::new(),
        system: None,
        prompt: Some(prompt.parse().expect("it is a template")),
        max_tokens: None,
        params: serde_json::Map::default(),
        abilities: iris_core::model::Abilities::NONE,
        dataset: None,
        nodes: Vec::new(),
        replicas: None,
    }
}

fn step(name: &str, work: Work) -> Step {
    Step {
        name: name.parse().expect("it is a name"),
        work,
        when: None,
        budget: Budget::default(),
        on_failure: OnFailure::default(),
        undo: None,
    }
}

/// A plan whose answer is its last step's.
fn plan(steps: Vec<Step>) -> Plan {
    Plan {
        mode: Mode::Chained,
        input: SECRET.to_owned(),
        answer: steps.last().expect("there is one").name.clone(),
        steps,
        budget: Budget::default(),
        side_by_side: 32,
        context_tokens: None,
    }
}

fn one(ask: Ask) -> Plan {
    plan(vec![step("answer", Work::Ask(Box::new(ask)))])
}

/// The same question to nodes of `count` owners, all of which have to answer.
fn replicas(count: u32) -> Plan {
    let agreement = Agreement::Json;
    let replicas = Replicas { count, quorum: count, agreement, weighted: false, synthesis: None };
    one(Ask { replicas: Some(replicas), ..ask("{{ input }}") })
}

/// `count` independent questions.
fn each(count: usize) -> Plan {
    let item = |number: usize| Item { text: format!("part {number}"), source: None };
    let items = Items::Given((0..count).map(item).collect());
    let of = vec!["parts_".parse().expect("it is a name")];
    plan(vec![
        step("parts_", Work::Each { items, ask: Box::new(ask("{{ item }}")) }),
        step("all", Work::Join { of, by: joined() }),
    ])
}

fn failure(failed: Result<PlanAnswer, ClientError>) -> PlanFailure {
    match failed {
        Err(ClientError::Plan(failure)) => *failure,
        other => panic!("the plan did not fail: {other:?}"),
    }
}

/// The nodes that sealed requests went to.
fn asked(network: &Network) -> Vec<usize> {
    network.with(|state| state.asked.iter().map(|request| state.addressee(request)).collect())
}

fn distinct(asked: &[usize]) -> usize {
    asked.iter().collect::<BTreeSet<_>>().len()
}

/// What a request asks.
fn prompt(state: &State, request: &SealedRequest) -> String {
    let (_, prompt, _) = state.open(request);
    let body: serde_json::Value = serde_json::from_slice(&prompt.body).expect("it is JSON");
    body["messages"][0]["content"].as_str().expect("it is a text").to_owned()
}

#[tokio::test]
async fn neither_questions_nor_answers_are_debugged() {
    let network = Network::start(1).await;
    network.on_sealed(|state, request| sealed(&state.records(&request, "confidential")));
    let client = client(&network);
    let call = client.plan(one(ask("hush {{ input }}")));
    let told = format!("{call:?} {:?}", client.ask(MODEL, "hush"));
    assert!(!told.contains("hush") && !told.contains(SECRET), "{told}");
    let whole = client.ask(MODEL, "hush").send().await.unwrap();
    let divided = call.run().await.unwrap();
    let told = format!("{whole:?} {divided:?}");
    assert!(!told.contains("confidential") && !told.contains(SECRET), "{told}");
    assert_eq!((whole.text(), divided.text.as_str()), ("confidential", "confidential"));
}

#[tokio::test]
async fn each_step_is_sealed_on_its_own() {
    let network = Network::start(3).await;
    network.on_sealed(|state, request| {
        let text = format!("<{}>", prompt(state, &request));
        sealed(&state.records(&request, &text))
    });
    let steps = vec![
        step("first", Work::Ask(Box::new(ask("1 {{ input }}")))),
        step("second", Work::Ask(Box::new(ask("2 {{ first }}")))),
    ];
    let answer = client(&network).plan(plan(steps)).run().await.unwrap();
    assert_eq!(answer.text, format!("<2 <1 {SECRET}>>"));
    assert_eq!((answer.privacy, answer.usage.total()), (Some(Privacy::Sealed), 22));
    let names: Vec<_> = answer.units.iter().map(|unit| unit.unit.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    network.with(|state| {
        assert_eq!(state.calls, ["GET /roster", "POST /sealed", "POST /sealed"]);
        for (unit, sent) in answer.units.iter().zip(&state.asked) {
            let wire = sent.wire();
            assert!(!wire.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()));
            let placed = &unit.placed[0];
            assert_eq!(placed.node, Some(state.nodes[state.addressee(sent)].id()));
            assert_eq!(placed.task.unwrap().as_bytes(), &sent.header().task);
            assert_eq!(placed.points, Some(100));
        }
    });
}

#[tokio::test]
async fn progress_tells_where_each_step_is_and_streams_the_answer() {
    let network = Network::start(1).await;
    let steps = vec![
        step("first", Work::Ask(Box::new(ask("a")))),
        step("second", Work::Ask(Box::new(ask("b {{ first }}")))),
    ];
    let mut stream = client(&network).plan(plan(steps)).stream().unwrap();
    let (mut text, mut started, mut over) = (String::new(), Vec::new(), Vec::new());
    while let Some(progress) = stream.next().await {
        match progress {
            Progress::Text { text: more } => text.push_str(&more),
            Progress::Started { unit, placed, .. } => started.push((unit, placed.node)),
            Progress::Over { unit, state } => over.push((unit, state)),
            _ => {}
        }
    }
    let node = network.with(|state| Some(state.nodes[0].id()));
    assert_eq!(started, [("first".to_owned(), node), ("second".to_owned(), node)]);
    assert!(over.iter().all(|(_, state)| *state == UnitState::Finished), "{over:?}");
    assert_eq!(stream.finish().await.unwrap().text, text);
    assert_eq!(text, "hello there");
}

#[tokio::test]
async fn replicas_go_to_different_owners() {
    let network = Network::start(3).await;
    network.on_sealed(|state, request| sealed(&state.records(&request, "42")));
    let answer = client(&network).plan(replicas(3)).run().await.unwrap();
    assert_eq!(answer.text, "42");
    assert_eq!(distinct(&asked(&network)), 3);
}

#[tokio::test]
async fn where_the_guards_have_too_few_owners_the_failure_says_what_would_help() {
    let network = Network::start(6).await;
    network.with(|state| {
        for (place, node) in state.nodes.iter_mut().enumerate() {
            node.owner = format!("{:032x}", place % 4);
        }
    });
    network.on_sealed(|state, request| sealed(&state.records(&request, "42")));
    let client = client(&network);
    let failed = failure(client.plan(replicas(4)).run().await);
    assert_eq!(failed.cause, Some(ClientError::TooFewOwners { limited: true }), "{failed:?}");
    assert!(matches!(failed.error, StepError::NoQuorum { .. }), "{failed:?}");
    assert!(distinct(&asked(&network)) <= 3, "nobody but the guards was asked");
    let answer = client.plan(replicas(4)).with_spread(true).run().await.unwrap();
    assert_eq!(answer.text, "42");
    let owners = asked(&network)[network.asked() - 4..].to_vec();
    assert_eq!(owners.iter().map(|node| node % 4).collect::<BTreeSet<_>>().len(), 4);
}

#[tokio::test]
async fn no_spreading_makes_owners_of_which_there_are_none() {
    let network = Network::start(4).await;
    network.with(|state| {
        for node in &mut state.nodes {
            node.owner = format!("{:032x}", 7);
        }
    });
    let failed = client(&network).plan(replicas(2)).with_spread(true).run().await;
    assert_eq!(failure(failed).cause, Some(ClientError::TooFewOwners { limited: false }));
}

#[tokio::test]
async fn only_guards_are_asked_unless_steps_are_spread() {
    let network = Network::start(8).await;
    let client = client(&network);
    client.plan(each(16)).run().await.unwrap();
    assert!(distinct(&asked(&network)) <= 3, "{:?}", asked(&network));
    network.with(|state| state.asked.clear());
    client.plan(each(8)).with_spread(true).run().await.unwrap();
    assert_eq!(distinct(&asked(&network)), 8, "{:?}", asked(&network));
}

#[tokio::test]
async fn ones_own_node_is_filled_first_and_makes_the_label_no_stronger_than_it_is() {
    let network = Network::start(4).await;
    let client = client(&network);
    client.pin(network.with(|state| state.nodes[2].id())).unwrap();
    let answer = client.plan(each(4)).run().await.unwrap();
    assert_eq!((answer.privacy, asked(&network)), (Some(Privacy::Own), vec![2; 4]));
    network.with(|state| state.asked.clear());
    // Its four slots are taken; the fifth part goes to a guard.
    let barrier = Arc::new(Barrier::new(5));
    network.on_sealed(move |state, request| held(state, &request, &barrier, &Arc::default()));
    let answer = client.plan(each(5)).run().await.unwrap();
    assert_eq!(answer.privacy, Some(Privacy::Sealed));
    assert_eq!(asked(&network).iter().filter(|node| **node == 2).count(), 4);
    network.with(|state| state.asked.clear());
    network.on_sealed(|state, request| sealed(&state.records(&request, "x")));
    let answer = client.with_policy(Policy::Own).plan(each(9)).run().await.unwrap();
    assert_eq!((answer.privacy, asked(&network)), (Some(Privacy::Own), vec![2; 9]));
}

/// An answer that ends when `barrier` opens; `open` counts those that have not ended, now and at
/// most.
fn held(
    state: &State,
    request: &SealedRequest,
    barrier: &Arc<Barrier>,
    open: &Arc<(AtomicUsize, AtomicUsize)>,
) -> axum::http::Response<Body> {
    let records = state.records(request, "done").concat();
    let (barrier, open) = (Arc::clone(barrier), Arc::clone(open));
    let now = open.0.fetch_add(1, Ordering::SeqCst) + 1;
    open.1.fetch_max(now, Ordering::SeqCst);
    let body = futures::stream::once(async move {
        barrier.wait().await;
        open.0.fetch_sub(1, Ordering::SeqCst);
        Ok::<_, std::io::Error>(records)
    });
    let mut answer = sealed(&[]);
    *answer.body_mut() = Body::from_stream(body);
    answer
}

#[tokio::test]
async fn no_node_gets_more_at_a_time_than_it_has_slots() {
    let network = Network::start(1).await;
    let open: Arc<(AtomicUsize, AtomicUsize)> = Arc::default();
    let (barrier, counted) = (Arc::new(Barrier::new(4)), Arc::clone(&open));
    network.on_sealed(move |state, request| held(state, &request, &barrier, &counted));
    client(&network).plan(each(12)).run().await.unwrap();
    assert_eq!((network.asked(), open.1.load(Ordering::SeqCst)), (12, 4));
}

#[tokio::test]
async fn dropping_a_plan_gives_up_what_is_under_way() {
    let network = Network::start(1).await;
    let (left, gone) = tokio::sync::oneshot::channel::<()>();
    let left = Mutex::new(Some(left));
    network.on_sealed(move |state, request| {
        // Dropped with the response, when the caller has gone.
        let guard = left.lock().unwrap().take();
        let begin = state.records(&request, "hello there")[..2].concat();
        let pieces = futures::stream::iter([Ok::<_, std::io::Error>(begin)]);
        let rest = futures::stream::once(async move {
            let _guard = guard;
            std::future::pending().await
        });
        let mut answer = sealed(&[]);
        *answer.body_mut() = Body::from_stream(pieces.chain(rest));
        answer
    });
    let mut stream = client(&network).plan(one(ask("x"))).stream().unwrap();
    while let Some(progress) = stream.next().await {
        if matches!(progress, Progress::Text { .. }) {
            break;
        }
    }
    drop(stream);
    assert!(gone.await.is_err(), "the response is dropped");
}

#[tokio::test]
async fn half_an_answer_that_was_passed_on_is_a_failure() {
    let network = Network::start(1).await;
    network.on_sealed(|state, request| sealed(&state.records(&request, "half an")[..2]));
    let failed = failure(client(&network).plan(one(ask("x"))).run().await);
    assert_eq!(failed.text, "half ");
    assert!(matches!(failed.cause, Some(ClientError::Truncated(_))), "{failed:?}");
    let told = format!("{failed:?} {:?}", ClientError::Plan(Box::new(failed.clone())));
    assert!(!told.contains("half "), "{told}");
}

#[tokio::test]
async fn a_node_that_is_lost_within_a_step_is_replaced_once() {
    let network = Network::start(3).await;
    network.on_sealed(|state, request| {
        let records = state.records(&request, "hello there");
        let whole = state.asked.len() != 1;
        sealed(if whole { &records } else { &records[..2] })
    });
    let steps = vec![
        step("first", Work::Ask(Box::new(ask("a")))),
        step("second", Work::Ask(Box::new(ask("b {{ first }}")))),
    ];
    let answer = client(&network).plan(plan(steps.clone())).run().await.unwrap();
    assert_eq!(answer.text, "hello there");
    let asked = asked(&network);
    assert!(asked.len() == 3 && asked[0] != asked[1], "{asked:?}");
    network.on_sealed(|state, request| {
        let records = state.records(&request, "hello there");
        sealed(&records[..2])
    });
    let failed = failure(client(&network).plan(plan(steps)).run().await);
    assert_eq!((failed.step.as_deref(), network.asked()), (Some("first"), 5));
}

#[tokio::test]
async fn ones_own_node_that_fails_at_a_step_is_replaced_by_a_guard() {
    let network = Network::start(3).await;
    let client = client(&network);
    client.pin(network.with(|state| state.nodes[2].id())).unwrap();
    network.on_sealed(|state, request| {
        let records = state.records(&request, "hello there");
        sealed(if state.addressee(&request) == 2 { &records[..2] } else { &records })
    });
    let steps = vec![
        step("first", Work::Ask(Box::new(ask("a")))),
        step("second", Work::Join { of: vec!["first".parse().unwrap()], by: joined() }),
    ];
    let answer = client.plan(plan(steps.clone())).run().await.unwrap();
    assert_eq!((answer.text.as_str(), answer.privacy), ("hello there", Some(Privacy::Sealed)));
    let first = asked(&network);
    assert!(first.len() == 2 && first[0] == 2 && first[1] != 2, "{first:?}");
    // Where nobody else may be asked, it is asked again.
    network.with(|state| state.asked.clear());
    let own = client.with_policy(Policy::Own).plan(plan(steps.clone())).run().await;
    failure(own);
    assert!(asked(&network).len() > 1 && asked(&network).iter().all(|node| *node == 2));
    network.with(|state| {
        state.asked.clear();
        state.nodes.swap(0, 2);
        state.nodes.truncate(1);
        state.on_sealed = Arc::new(|state, request| {
            let records = state.records(&request, "hello there");
            sealed(if state.asked.len() == 1 { &records[..2] } else { &records })
        });
    });
    let alone = self::client(&network);
    alone.pin(network.with(|state| state.nodes[0].id())).unwrap();
    let answer = alone.plan(plan(steps)).run().await.unwrap();
    assert_eq!((answer.privacy, asked(&network)), (Some(Privacy::Own), vec![0, 0]));
}

#[tokio::test]
async fn ones_own_node_that_failed_is_passed_over_while_another_of_ones_own_is_taken() {
    let network = Network::start(4).await;
    let client = client(&network);
    for own in 0..2 {
        client.pin(network.with(|state| state.nodes[own].id())).unwrap();
    }
    network.on_sealed(|state, request| {
        let records = state.records(&request, "42");
        sealed(if state.addressee(&request) == 0 { &records[..2] } else { &records })
    });
    let answer = client.plan(replicas(2)).run().await.unwrap();
    let asked = asked(&network);
    assert_eq!((answer.text.as_str(), asked.len()), ("42", 3), "{asked:?}");
    assert_eq!(asked.iter().filter(|node| **node == 0).count(), 1, "{asked:?}");
}

fn joined() -> Join {
    Join::Concat { separator: "\n".to_owned(), headings: Vec::new() }
}

#[tokio::test]
async fn a_plan_ends_at_once_where_privacy_cannot_be_vouched_for() {
    let network = Network::start(2).await;
    network.on_sealed(|_, _| json(200, &[], &answer("in the clear")));
    let failed = client(&network).plan(each(20)).run().await.unwrap_err();
    assert!(matches!(failed, ClientError::Downgrade { .. }), "{failed:?}");
    let other = Network::start(0).await;
    let failed = client(&other).with_policy(Policy::Own).plan(each(3)).run().await.unwrap_err();
    assert_eq!(failed, ClientError::NoOwnNode);
}

#[tokio::test]
async fn steps_for_named_nodes_go_nowhere_else() {
    let network = Network::start(6).await;
    let client = client(&network);
    client.plan(one(ask("x"))).run().await.unwrap();
    let guards: Vec<_> = client.trust().unwrap().guard_sets().flat_map(|(_, set)| set).collect();
    let ids: Vec<_> = network.with(|state| state.nodes.iter().map(Node::id).collect());
    let stranger = *ids.iter().find(|id| !guards.contains(id)).unwrap();
    let for_node = |node| one(Ask { nodes: vec![node], ..ask("x") });
    let answer = client.plan(for_node(guards[0])).run().await.unwrap();
    assert_eq!(answer.units[0].placed[0].node, Some(guards[0]));
    let asked = network.asked();
    let refused = client.plan(for_node(stranger)).run().await.unwrap_err();
    assert_eq!(refused, ClientError::BeyondGuards);
    assert_eq!(network.asked(), asked);
    let answer = client.plan(for_node(stranger)).with_spread(true).run().await.unwrap();
    assert_eq!(answer.units[0].placed[0].node, Some(stranger));
}

#[tokio::test]
async fn data_set_of_a_stranger_makes_it_no_guard() {
    let network = Network::start(6).await;
    network.with(|state| {
        for (place, node) in state.nodes.iter_mut().enumerate() {
            node.datasets = vec![format!("set-{place}")];
        }
    });
    let client = client(&network);
    client.plan(one(ask("x"))).run().await.unwrap();
    let guards =
        || -> Vec<_> { client.trust().unwrap().guard_sets().flat_map(|(_, set)| set).collect() };
    let before = guards();
    let ids: Vec<_> = network.with(|state| state.nodes.iter().map(Node::id).collect());
    let about = |place: usize| {
        let dataset =
            Some(Dataset { name: format!("set-{place}"), key: Some("secret".to_owned()) });
        one(Ask { dataset, ..ask("x") })
    };
    let asked = network.asked();
    let stranger = ids.iter().position(|id| !before.contains(id)).unwrap();
    let refused = client.plan(about(stranger)).run().await.unwrap_err();
    assert_eq!(refused, ClientError::BeyondGuards);
    assert_eq!((network.asked(), guards()), (asked, before.clone()));
    let named = |place: usize, node| {
        let mut plan = about(place);
        if let Work::Ask(ask) = &mut plan.steps[0].work {
            ask.nodes = vec![node];
        }
        plan
    };
    let answer = client.plan(named(stranger, ids[stranger])).run().await.unwrap();
    assert_eq!(answer.units[0].placed[0].node, Some(ids[stranger]));
    assert_eq!(guards(), before);
    let guard = ids.iter().position(|id| *id == before[0]).unwrap();
    let answer = client.plan(about(guard)).run().await.unwrap();
    assert_eq!(answer.units[0].placed[0].node, Some(before[0]));
    let answer = client.plan(about(stranger)).with_spread(true).run().await.unwrap();
    assert_eq!(answer.units[0].placed[0].node, Some(ids[stranger]));
}

#[tokio::test]
async fn tools_cannot_be_called_within_a_plan() {
    let network = Network::start(1).await;
    network.on_sealed(|state, request| {
        let (node, _, sealer) = state.open(&request);
        let call = serde_json::json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [
            { "index": 0, "id": "c", "function": { "name": "f", "arguments": "{}" } }] },
            "finish_reason": null }] });
        sealed(&state.write(node, sealer, &[Piece::Json(call.to_string())], "tool_calls", USAGE))
    });
    let failed = failure(client(&network).plan(one(ask("x"))).run().await);
    assert_eq!(failed.error, StepError::ToolCalls);
}

#[tokio::test]
async fn in_the_open_steps_are_open_chats_and_nodes_cannot_be_chosen() {
    let coordinator = Scripted::always(|| {
        let usage = r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
        events(vec![chunk("hi"), finish("stop"), format!("{usage}\n\n"), DONE.to_owned()])
    })
    .await;
    let client = Client::builder(&coordinator.url).with_policy(Policy::Open).build().unwrap();
    let answer = client.plan(one(ask("x {{ input }}"))).run().await.unwrap();
    assert_eq!((answer.text.as_str(), answer.privacy), ("hi", Some(Privacy::Open)));
    assert_eq!((answer.usage.total(), answer.units[0].placed[0].node), (5, NODE.parse().ok()));
    let seen = coordinator.seen();
    assert_eq!(seen[0].call, "POST /v1/chat/completions");
    assert_eq!(seen[0].body["messages"][0]["content"], format!("x {SECRET}"));
    let named = one(Ask { nodes: vec![NODE.parse().unwrap()], ..ask("x") });
    for (plan, at) in [(replicas(3), "steps[0].replicas"), (named, "steps[0].nodes")] {
        match client.plan(plan).run().await {
            Err(ClientError::InvalidPlan(error)) => assert_eq!(error.at, at),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(coordinator.seen().len(), 1);
}
