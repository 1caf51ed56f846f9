//! Real coordinator and agents over in-memory transports, in virtual time.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod net;

use std::time::Duration;

use iris_coordinator::{Clock, TaskEvent, TaskRequest};
use iris_core::backend::{BackendError, Chunk, Gate, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::queue::Priority;
use iris_core::task::{AttemptEnd, Outcome, TaskError, TaskState};
use iris_crypto::Identity;
use iris_node::agent::AgentError;
use iris_protocol::Frame;
use iris_protocol::message::ErrorCode;
use net::{CALLER, Net, VirtualClock, answer, read, settlements};

fn offer() -> [ModelOffer; 1] {
    [ModelOffer::new("m".parse().unwrap(), 4096)]
}

fn scripted(script: Script) -> ScriptedBackend {
    ScriptedBackend::new(offer(), move |_| script.clone())
}

fn echo() -> ScriptedBackend {
    ScriptedBackend::echo("m".parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn question_is_answered_and_settled_once() {
    let net = Net::new().await;
    let node = net.join(echo()).await;
    assert_eq!(answer(net.ask("m", "one two three")).await, "one two three");
    let rows = settlements(net).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].state, TaskState::Finished);
    assert_eq!(rows[0].usage.completion_tokens, 3);
    assert_eq!(rows[0].attempts[0].node, node.id);
}

#[tokio::test(start_paused = true)]
async fn answer_that_is_not_streamed_comes_as_one_chunk() {
    let net = Net::new().await;
    net.join(echo()).await;
    let mut handle = net.coordinator.submit(net.request("m", "one two", false));
    let mut wholes = Vec::new();
    loop {
        match handle.next().await.unwrap() {
            TaskEvent::Chunk(Chunk::Whole(whole)) => wholes.push(whole),
            TaskEvent::Ended(outcome) => {
                assert!(matches!(outcome, Outcome::Finished(_)));
                break;
            }
            TaskEvent::Accepted { .. } => {}
            TaskEvent::Chunk(other) => panic!("{other:?}"),
            TaskEvent::Sealed(_) => panic!("nothing was sealed"),
        }
    }
    let json: serde_json::Value = serde_json::from_slice(&wholes[0]).unwrap();
    assert_eq!(wholes.len(), 1);
    assert_eq!(json["choices"][0]["message"]["content"], "one two");
}

#[tokio::test(start_paused = true)]
async fn unknown_model_and_absent_node_are_told_apart() {
    let net = Net::new().await;
    let (_, outcome) = read(&mut net.ask("m", "hi")).await;
    assert!(matches!(outcome, Outcome::Failed(TaskError::ModelNotFound { .. })));
    let node = net.join(echo()).await;
    node.stop().await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    let (_, outcome) = read(&mut net.ask("m", "hi")).await;
    assert!(matches!(outcome, Outcome::Failed(TaskError::NoNodeOnline { .. })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn task_waits_for_a_busy_node_and_is_served_when_it_is_free() {
    let net = Net::new().await;
    let gate = Gate::new();
    net.join(scripted(Script::new().wait(&gate).text("done"))).await;
    let mut first = net.ask("m", "a");
    assert!(matches!(first.next().await, Some(TaskEvent::Accepted { .. })));
    let second = net.ask("m", "b");
    let second = tokio::spawn(answer(second));
    tokio::time::sleep(Duration::from_secs(5)).await;
    gate.open();
    assert_eq!(answer(first).await, "done");
    assert_eq!(second.await.unwrap(), "done");
}

#[tokio::test(start_paused = true)]
async fn task_that_waits_is_served_by_the_node_that_joins() {
    let net = Net::new().await;
    let gate = Gate::new();
    net.join(scripted(Script::new().wait(&gate).text("done"))).await;
    let mut first = net.ask("m", "a");
    assert!(matches!(first.next().await, Some(TaskEvent::Accepted { .. })));
    let second = tokio::spawn(answer(net.ask("m", "b")));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = net.join(echo()).await;
    assert_eq!(second.await.unwrap(), "b");
    gate.open();
    assert_eq!(answer(first).await, "done");
    let rows = settlements(net).await;
    let attempts = rows.iter().flat_map(|row| &row.attempts).filter(|a| a.node == other.id);
    assert_eq!(attempts.map(|a| a.end).collect::<Vec<_>>(), [AttemptEnd::Done]);
}

#[tokio::test(start_paused = true)]
async fn interactive_task_waits_ten_seconds_and_then_hears_when_to_come_back() {
    let net = Net::new().await;
    let gate = Gate::new();
    net.join(scripted(Script::new().wait(&gate))).await;
    let mut first = net.ask("m", "a");
    first.next().await;
    let before = tokio::time::Instant::now();
    let (_, outcome) = read(&mut net.ask("m", "b")).await;
    assert!(matches!(outcome, Outcome::Failed(TaskError::Busy { retry_after_secs: 1.. })));
    let waited = before.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_millis(10_100)).contains(&waited));
}

#[tokio::test(start_paused = true)]
async fn node_whose_server_is_busy_passes_the_task_on() {
    let net = Net::new().await;
    let busy = net.join(scripted(Script::new().fail(BackendError::Busy))).await;
    let able = net.join(echo()).await;
    for _ in 0..8 {
        assert_eq!(answer(net.ask("m", "hi")).await, "hi");
    }
    let rows = settlements(net).await;
    let ends = |node| rows.iter().flat_map(|row| &row.attempts).filter(move |a| a.node == node);
    assert_eq!(ends(able.id).filter(|a| a.end == AttemptEnd::Done).count(), 8);
    assert!(ends(busy.id).all(|a| a.end == AttemptEnd::Refused));
}

#[tokio::test(start_paused = true)]
async fn node_lost_before_its_first_chunk_is_replaced() {
    let net = Net::new().await;
    let gate = Gate::new();
    let doomed = net.join(scripted(Script::new().wait(&gate))).await;
    let mut handle = net.ask("m", "hello");
    assert_eq!(handle.next().await, Some(TaskEvent::Accepted { node: doomed.id }));
    let other = net.join(echo()).await;
    let doomed_id = doomed.id;
    doomed.kill();
    assert_eq!(answer(handle).await, "hello");
    let rows = settlements(net).await;
    let ends: Vec<_> = rows[0].attempts.iter().map(|a| (a.node, a.end)).collect();
    assert_eq!(ends, [(doomed_id, AttemptEnd::Lost), (other.id, AttemptEnd::Done)]);
}

#[tokio::test(start_paused = true)]
async fn node_lost_amid_its_answer_leaves_a_typed_partial_answer() {
    let net = Net::new().await;
    let gate = Gate::new();
    let node = net.join(scripted(Script::new().text("half ").wait(&gate).text("more"))).await;
    let mut handle = net.ask("m", "hello");
    while !matches!(handle.next().await.unwrap(), TaskEvent::Chunk(_)) {}
    node.kill();
    let (rest, outcome) = read(&mut handle).await;
    assert_eq!((rest.as_str(), outcome), ("", Outcome::Failed(TaskError::Interrupted)));
    let rows = settlements(net).await;
    assert_eq!((rows.len(), rows[0].state), (1, TaskState::Failed));
}

#[tokio::test(start_paused = true)]
async fn cut_at_every_chunk_loses_and_doubles_nothing() {
    let words: Vec<String> = (0..20).map(|n| format!("{n} ")).collect();
    for cut_at in 0..words.len() {
        let net = Net::new().await;
        let gate = Gate::new();
        let mut script = Script::new();
        for (number, word) in words.iter().enumerate() {
            if number == cut_at {
                script = script.wait(&gate);
            }
            script = script.text(word.clone());
        }
        let node = net.join(scripted(script)).await;
        let mut handle = net.ask("m", "count");
        let mut text = String::new();
        while text.split_whitespace().count() < cut_at {
            if let Some(TaskEvent::Chunk(Chunk::Text(more))) = handle.next().await {
                text.push_str(&more);
            }
        }
        node.cut();
        gate.open();
        let (rest, outcome) = read(&mut handle).await;
        assert!(matches!(outcome, Outcome::Finished(_)), "cut at {cut_at}: {outcome:?}");
        assert_eq!(text + &rest, words.concat(), "cut at {cut_at}");
    }
}

#[tokio::test(start_paused = true)]
async fn caller_who_leaves_frees_the_node_within_a_second() {
    let net = Net::new().await;
    let gate = Gate::new();
    let backend = scripted(Script::new().text("a").wait(&gate));
    let counts = backend.clone();
    net.join(backend).await;
    let mut handle = net.ask("m", "hello");
    while !matches!(handle.next().await.unwrap(), TaskEvent::Chunk(_)) {}
    assert_eq!(counts.counts().running, 1);
    drop(handle);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((counts.counts().running, counts.counts().cancelled), (0, 1));
    assert_eq!(net.coordinator.stats().slots_in_use, 0);
    let rows = settlements(net).await;
    assert_eq!((rows.len(), rows[0].state), (1, TaskState::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn two_failing_nodes_end_a_task_and_cost_each_a_timeout() {
    let net = Net::new().await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(net.join(scripted(Script::new().fail(BackendError::Failed))).await.id);
    }
    let (_, outcome) = read(&mut net.ask("m", "hi")).await;
    assert_eq!(outcome, Outcome::Failed(TaskError::NodesFailed { attempts: 2 }));
    let mut points: Vec<_> = net.coordinator.nodes().iter().map(|node| node.points).collect();
    points.sort_unstable();
    assert_eq!(points, [80, 80, 100]);
}

#[tokio::test(start_paused = true)]
async fn callers_fault_reaches_the_caller_and_costs_the_node_nothing() {
    let net = Net::new().await;
    let rejected = BackendError::Rejected {
        status: 400,
        code: Some("context_length_exceeded".to_owned()),
        param: Some("messages".to_owned()),
        message: "too long".to_owned(),
    };
    net.join(scripted(Script::new().fail(rejected))).await;
    let (_, outcome) = read(&mut net.ask("m", "hi")).await;
    let Outcome::Failed(TaskError::Rejected { status, code, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((status, code.as_deref()), (400, Some("context_length_exceeded")));
    assert_eq!(net.coordinator.nodes()[0].points, 100);
}

#[tokio::test(start_paused = true)]
async fn stopping_node_finishes_what_it_has() {
    let net = Net::new().await;
    let gate = Gate::new();
    let node = net.join(scripted(Script::new().text("a").wait(&gate).text("b"))).await;
    let mut handle = net.ask("m", "hello");
    while !matches!(handle.next().await.unwrap(), TaskEvent::Chunk(_)) {}
    let stopping = tokio::spawn(node.stop());
    tokio::time::sleep(Duration::from_secs(3)).await;
    gate.open();
    assert_eq!(answer(handle).await, "b");
    stopping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn node_of_another_account_is_turned_away() {
    let net = Net::new().await;
    let seed = iris_crypto::Secret::from_bytes([7; 32]);
    let node = net.join_as(Identity::from_seed(&seed), echo(), |agent| agent).await;
    node.stop().await;
    let agent =
        iris_node::agent::Agent::builder(Identity::from_seed(&seed), std::sync::Arc::new(echo()))
            .with_measurement(false)
            .with_clock(|| VirtualClock.calendar())
            .build();
    let coordinator = net.coordinator.clone();
    let connector = move || {
        let (here, there) = iris_protocol::transport::memory::pair(16);
        let coordinator = coordinator.clone();
        tokio::spawn(async move { coordinator.serve_node(there, CALLER).await.map(|_| ()) });
        async { Ok(iris_node::agent::Link::new("elsewhere", here)) }
    };
    let ended = agent.run_on(connector, std::future::pending()).await;
    let Err(AgentError::Closed { code, .. }) = ended else { panic!("{ended:?}") };
    assert_eq!(code, ErrorCode::Forbidden, "the agent learns that trying again is in vain");
}

#[tokio::test(start_paused = true)]
async fn account_brings_only_so_many_nodes_and_is_told_what_to_do() {
    let store: std::sync::Arc<dyn iris_core::store::Store> =
        std::sync::Arc::new(iris_core::store::MemoryStore::new());
    let few = |builder: iris_coordinator::Builder| builder.with_most_nodes_of_one(2);
    let identity = |seed| Identity::from_seed(&iris_crypto::Secret::from_bytes([seed; 32]));
    let net = Net::set_up(std::sync::Arc::clone(&store), few).await;
    net.join_as(identity(1), echo(), |agent| agent).await.stop().await;
    net.coordinator.shutdown().await;

    let net = Net::set_up(store, few).await;
    net.join_as(identity(2), echo(), |agent| agent).await.stop().await;
    let agent = iris_node::agent::Agent::builder(identity(3), std::sync::Arc::new(echo()))
        .with_measurement(false)
        .with_clock(|| VirtualClock.calendar())
        .build();
    let coordinator = net.coordinator.clone();
    let connector = move || {
        let (here, there) = iris_protocol::transport::memory::pair(16);
        let coordinator = coordinator.clone();
        tokio::spawn(async move { coordinator.serve_node(there, net::OWNER).await.map(|_| ()) });
        async { Ok(iris_node::agent::Link::new("here", here)) }
    };
    let ended = agent.run_on(connector, std::future::pending()).await;
    let Err(AgentError::Closed { code, message }) = ended else { panic!("{ended:?}") };
    assert_eq!(code, ErrorCode::Forbidden, "trying again is in vain");
    let message = message.unwrap();
    assert!(message.contains("2 nodes already"), "{message}");
    assert!(message.contains("ask the operator"), "{message}");
    net.join_as(identity(1), echo(), |agent| agent).await.stop().await;
    net.join_of(CALLER, identity(3), echo(), |agent| agent).await.stop().await;
}

#[tokio::test(start_paused = true)]
async fn reputation_is_rebuilt_from_the_books() {
    let net = Net::new().await;
    let store = std::sync::Arc::clone(&net.store);
    let seed = iris_crypto::Secret::from_bytes([8; 32]);
    net.join_as(Identity::from_seed(&seed), echo(), |agent| agent).await;
    for _ in 0..3 {
        answer(net.ask("m", "hi")).await;
    }
    let before = net.coordinator.nodes()[0].points;
    assert_eq!(before, 100 + 3 * 15);
    net.coordinator.shutdown().await;
    let again = Net::over(store).await;
    again.join_as(Identity::from_seed(&seed), echo(), |agent| agent).await;
    assert_eq!(again.coordinator.nodes()[0].points, before);
}

#[tokio::test(start_paused = true)]
async fn whole_answer_may_take_minutes_while_its_node_reports_progress() {
    let net = Net::new().await;
    let gate = Gate::new();
    net.join(scripted(Script::new().wait(&gate).text("late"))).await;
    let handle = net.coordinator.submit(TaskRequest {
        time_limit: Duration::from_mins(10),
        ..net.request("m", "hi", false)
    });
    let reading = tokio::spawn(async move {
        let mut handle = handle;
        read(&mut handle).await.1
    });
    tokio::time::sleep(Duration::from_mins(4)).await;
    gate.open();
    assert!(matches!(reading.await.unwrap(), Outcome::Finished(_)));
    assert_eq!(net.coordinator.nodes()[0].points, 110);
}

#[tokio::test(start_paused = true)]
async fn batch_task_waits_for_longer_than_an_interactive_one() {
    let net = Net::new().await;
    let gate = Gate::new();
    net.join(scripted(Script::new().wait(&gate).text("done"))).await;
    let mut first = net.ask("m", "a");
    first.next().await;
    let batch = TaskRequest { priority: Priority::Batch, ..net.request("m", "b", true) };
    let batch = tokio::spawn(answer(net.coordinator.submit(batch)));
    let first = tokio::spawn(answer(first));
    tokio::time::sleep(Duration::from_secs(40)).await;
    gate.open();
    assert_eq!(first.await.unwrap(), "done");
    assert_eq!(batch.await.unwrap(), "done");
}

#[tokio::test(start_paused = true)]
async fn long_prompts_in_line_keep_nobody_from_nodes_that_are_free_for_short_ones() {
    let net = Net::new().await;
    let gate = Gate::new();
    let script = Script::new().wait(&gate);
    let large = [ModelOffer::new("m".parse().unwrap(), 131_072)];
    net.join(ScriptedBackend::new(large, move |_| script.clone())).await;
    let long = || TaskRequest { prompt_tokens: 100_000, ..net.request("m", "long", true) };
    let mut waiting = Vec::new();
    for _ in 0..30 {
        let mut handle = net.coordinator.submit(long());
        waiting.push(tokio::spawn(async move { read(&mut handle).await }));
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    net.join(echo()).await;
    assert_eq!(answer(net.ask("m", "short")).await, "short");
}

#[tokio::test(start_paused = true)]
async fn alternate_that_is_busy_is_waited_for() {
    let net = Net::new().await;
    let (busy_gate, doomed_gate) = (Gate::new(), Gate::new());
    let doomed = net.join(scripted(Script::new().wait(&doomed_gate))).await;
    let mut handle = net.ask("m", "hello");
    assert_eq!(handle.next().await, Some(TaskEvent::Accepted { node: doomed.id }));
    net.join(scripted(Script::new().wait(&busy_gate).text("served"))).await;
    let mut occupant = net.ask("m", "occupy");
    occupant.next().await;
    doomed.kill();
    let handle = tokio::spawn(answer(handle));
    let occupant = tokio::spawn(answer(occupant));
    tokio::time::sleep(Duration::from_secs(8)).await;
    busy_gate.open();
    assert_eq!(occupant.await.unwrap(), "served");
    assert_eq!(handle.await.unwrap(), "served");
}

#[tokio::test(start_paused = true)]
async fn reader_who_stops_reading_does_not_hold_the_nodes_slot() {
    let net = Net::new().await;
    net.join(echo()).await;
    let mut stopped = net.ask("m", "one two three");
    assert!(matches!(stopped.next().await, Some(TaskEvent::Accepted { .. })));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(net.coordinator.stats().slots_in_use, 0);
    assert_eq!(answer(net.ask("m", "next")).await, "next");
    assert_eq!(answer(stopped).await, "one two three", "what was sent can still be read");
}

#[tokio::test(start_paused = true)]
async fn prompt_that_cannot_travel_is_refused_before_any_node_sees_it() {
    let net = Net::new().await;
    net.join(echo()).await;
    for length in [0, 32 << 20] {
        let body = bytes::Bytes::from(vec![b' '; length]);
        let request = TaskRequest { body, ..net.request("m", "", true) };
        let (_, outcome) = read(&mut net.coordinator.submit(request)).await;
        assert!(matches!(outcome, Outcome::Failed(TaskError::Rejected { status: 413, .. })));
    }
    assert_eq!(net.coordinator.nodes()[0].points, 100);
}

#[tokio::test(start_paused = true)]
async fn model_is_remembered_across_a_crash_from_its_first_moment() {
    let net = Net::new().await;
    let store = std::sync::Arc::clone(&net.store);
    net.join(echo()).await;
    // The group commit is all that lags.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let again = Net::over(store).await;
    let (_, outcome) = read(&mut again.ask("m", "hi")).await;
    assert!(matches!(outcome, Outcome::Failed(TaskError::NoNodeOnline { .. })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn node_that_stays_for_an_hour_earns_a_point_and_changed_keys_earn_none() {
    let net = Net::new().await;
    net.join(echo()).await;
    tokio::time::sleep(Duration::from_mins(59)).await;
    assert_eq!(net.coordinator.nodes()[0].points, 100);
    assert_eq!(answer(net.ask("m", "hi")).await, "hi", "keys have changed five times by now");
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(net.coordinator.nodes()[0].points, 116);
}

/// Changes one bit of what a node sends of its answers.
fn forge(frame: Frame) -> Frame {
    match frame {
        Frame::Binary(bytes) => {
            let mut bytes = bytes.to_vec();
            *bytes.last_mut().expect("a frame has a header") ^= 1;
            Frame::Binary(bytes.into())
        }
        text @ Frame::Text(_) => text,
    }
}

#[tokio::test(start_paused = true)]
async fn answer_that_was_altered_on_its_way_is_none_and_another_node_answers() {
    let net = Net::new().await;
    let liar = net.join_through(echo(), forge).await;
    let mut handle = net.ask("m", "hello");
    assert_eq!(handle.next().await, Some(TaskEvent::Accepted { node: liar.id }));
    net.join(echo()).await;
    assert_eq!(answer(handle).await, "hello");
    let rows = settlements(net).await;
    assert_eq!(rows[0].attempts[0].end, AttemptEnd::Invalid);
}
