//! Streamed answers whose node is lost amid them go on at another: in virtual time with scripted
//! models, and with real processes and a real model.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;
mod net;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use iris_coordinator::http::ServerSettings;
use iris_coordinator::{Settlement, TaskEvent, TaskHandle};
use iris_core::backend::{
    Backend, BackendError, Chunk, Gate, GenerateRequest, Script, ScriptedBackend,
};
use iris_core::model::{Abilities, ModelOffer};
use iris_core::store::MemoryStore;
use iris_core::task::{AttemptEnd, Outcome, TaskError, TaskState};
use iris_node::agent::WebSocketConnector;
use iris_node::backend::engine::{Engine, EngineSettings};
use iris_protocol::Frame;
use iris_protocol::limits::Limits;
use live::caller::{Reply, Request};
use live::child::{Child, end_with_parent};
use live::{Live, MODEL};
use net::{CALLER, Net, Node, read, settlements};
use serde_json::{Value, json};

const WORDS: [&str; 6] = ["one ", "two ", "three,\n", "vier ", "fünf ", "six"];

/// A model that can go on from what another wrote.
fn continuing(script: Script) -> ScriptedBackend {
    let mut offer = ModelOffer::new("m".parse().unwrap(), 4096);
    offer.abilities = Abilities::CONTINUE;
    ScriptedBackend::new([offer], move |_| script.clone())
}

fn all() -> ScriptedBackend {
    continuing(Script::saying(WORDS))
}

/// A model that says some words and then nothing more.
fn halting(words: usize) -> ScriptedBackend {
    continuing(Script::saying(WORDS.into_iter().take(words)).wait(&Gate::new()))
}

/// Reads `words` words of an answer.
async fn hear(handle: &mut TaskHandle, words: usize) -> String {
    let mut text = String::new();
    let mut heard = 0;
    while heard < words {
        if let TaskEvent::Chunk(Chunk::Text(word)) = handle.next().await.unwrap() {
            text.push_str(&word);
            heard += 1;
        }
    }
    text
}

/// Asks a network of one node, hears some words, and lets another node join.
async fn begin(
    net: &Net,
    first: ScriptedBackend,
    words: usize,
    second: ScriptedBackend,
) -> (TaskHandle, String, Node, Node) {
    let first = net.join(first).await;
    let mut handle = net.ask("m", "count");
    assert_eq!(handle.next().await, Some(TaskEvent::Accepted { node: first.id }));
    let text = hear(&mut handle, words).await;
    let second = net.join(second).await;
    (handle, text, first, second)
}

fn ends(row: &Settlement) -> Vec<AttemptEnd> {
    row.attempts.iter().map(|attempt| attempt.end).collect()
}

fn interrupted(outcome: &Outcome) -> bool {
    *outcome == Outcome::Failed(TaskError::Interrupted)
}

#[tokio::test(start_paused = true)]
async fn answer_goes_on_wherever_its_node_is_killed_and_is_settled_once() {
    for cut in 1..=WORDS.len() {
        let net = Net::new().await;
        let (mut handle, text, first, second) = begin(&net, halting(cut), cut, all()).await;
        let (first_id, second_id) = (first.id, second.id);
        first.kill();
        let (rest, outcome) = read(&mut handle).await;
        assert!(matches!(outcome, Outcome::Finished(_)), "cut at {cut}: {outcome:?}");
        assert_eq!(text + &rest, WORDS.concat(), "cut at {cut}");

        let explained = net.coordinator.explanation(&handle.id(), &CALLER).unwrap();
        assert_eq!(explained.node, Some(second_id));
        assert_eq!(explained.earlier.len(), 1);
        assert_eq!(explained.earlier[0].node, Some(first_id));
        let points = |id| net.coordinator.nodes().iter().find(|n| n.id == id).unwrap().points;
        assert_eq!(points(second_id), 110);

        let rows = settlements(net).await;
        assert_eq!((rows.len(), rows[0].state), (1, TaskState::Finished));
        assert_eq!(ends(&rows[0]), [AttemptEnd::Lost, AttemptEnd::Done]);
        assert_eq!(rows[0].usage.completion_tokens, 6, "the whole answer counts");
    }
}

#[tokio::test(start_paused = true)]
async fn node_that_fails_or_stalls_is_replaced_like_one_that_is_lost() {
    let failing = || continuing(Script::saying(["one ", "two "]).fail(BackendError::Failed));
    // A model that hangs has no progress to show either; the driver is what gives up.
    for (first, end) in [(failing(), AttemptEnd::Failed), (halting(2), AttemptEnd::Stalled)] {
        let net = Net::new().await;
        let silent = end == AttemptEnd::Stalled;
        let node = if silent {
            net.join_through(first, without_progress).await
        } else {
            net.join(first).await
        };
        let mut handle = net.ask("m", "count");
        assert_eq!(handle.next().await, Some(TaskEvent::Accepted { node: node.id }));
        net.join(all()).await;
        let (text, outcome) = read(&mut handle).await;
        assert!(matches!(outcome, Outcome::Finished(_)), "{end:?}: {outcome:?}");
        assert_eq!(text, WORDS.concat(), "{end:?}");
        let rows = settlements(net).await;
        assert_eq!(ends(&rows[0]), [end, AttemptEnd::Done]);
    }
}

/// Withholds a node's marks of progress.
fn without_progress(frame: Frame) -> Frame {
    match &frame {
        Frame::Text(text) if text.as_bytes().windows(13).any(|w| w == b"TASK_PROGRESS") => {
            Frame::Text(r#"{"type":"LATER"}"#.to_owned().into())
        }
        _ => frame,
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_one_alternate_and_then_a_typed_partial_answer() {
    let net = Net::new().await;
    let failing = continuing(Script::saying(WORDS.into_iter().take(4)).fail(BackendError::Failed));
    let (mut handle, text, first, second) = begin(&net, halting(2), 2, failing).await;
    first.kill();
    let more = hear(&mut handle, 2).await;
    assert_eq!(text + &more, WORDS[..4].concat());
    let third = all();
    net.join(third.clone()).await;
    let (rest, outcome) = read(&mut handle).await;
    assert!(interrupted(&outcome) && rest.is_empty(), "{outcome:?} after {rest:?}");
    assert_eq!(third.counts().started, 0);
    assert_eq!(net.coordinator.nodes().iter().find(|n| n.id == second.id).unwrap().points, 80);
    let rows = settlements(net).await;
    assert_eq!((rows.len(), rows[0].state), (1, TaskState::Failed));
    assert_eq!(ends(&rows[0]), [AttemptEnd::Lost, AttemptEnd::Failed]);
}

#[tokio::test(start_paused = true)]
async fn alternate_that_is_busy_is_waited_for_ten_seconds() {
    for (patience, complete) in [(8, true), (30, false)] {
        let net = Net::new().await;
        let gate = Gate::new();
        let busy = ScriptedBackend::new(all().models().await.unwrap(), move |request| {
            let waits = request.begun.is_none();
            let script = if waits { Script::new().wait(&gate) } else { Script::new() };
            script.text("one ").text("two ").text("three")
        });
        let opener = busy.clone();
        let (mut handle, text, first, _second) = begin(&net, halting(2), 2, busy).await;
        let mut occupant = net.ask("m", "occupy");
        assert!(matches!(occupant.next().await, Some(TaskEvent::Accepted { .. })));
        first.kill();
        let reading = tokio::spawn(async move { read(&mut handle).await });
        tokio::time::sleep(Duration::from_secs(patience)).await;
        assert_eq!(opener.counts().started, 1);
        drop(occupant);
        let (rest, outcome) = reading.await.unwrap();
        if complete {
            assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
            assert_eq!(text + &rest, "one two three");
        } else {
            assert!(interrupted(&outcome) && rest.is_empty(), "{outcome:?} after {rest:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_more_than_text_ends_with_its_node() {
    let speaks = json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "one "},
        "finish_reason": null}], "system_fingerprint": "b1"});
    let calls = json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]});
    let with = |step: &Value| Script::new().json(step).text("two ").wait(&Gate::new());
    for (step, goes_on) in [(&speaks, true), (&calls, false)] {
        let net = Net::new().await;
        let first = continuing(with(step));
        let (mut handle, _, first, _second) = begin(&net, first, 1, all()).await;
        first.kill();
        let (rest, outcome) = read(&mut handle).await;
        if goes_on {
            assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
            assert_eq!(rest, WORDS[2..].concat());
        } else {
            assert!(interrupted(&outcome) && rest.is_empty(), "{outcome:?} after {rest:?}");
        }
        let rows = settlements(net).await;
        assert_eq!(rows.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_cannot_go_on_are_not_asked() {
    let plain = |frame: Frame| match &frame {
        Frame::Text(text) => {
            let text = String::from_utf8(text.as_bytes().to_vec()).unwrap();
            Frame::Text(
                text.replace(r#""capabilities":["continue","#, r#""capabilities":["#).into(),
            )
        }
        Frame::Binary(_) => frame,
    };
    let unable = ScriptedBackend::saying("m".parse().unwrap(), WORDS);
    let older = all();
    for is_older in [false, true] {
        let net = Net::new().await;
        let first = net.join(halting(2)).await;
        let mut handle = net.ask("m", "count");
        hear(&mut handle, 2).await;
        if is_older {
            net.join_through(older.clone(), plain).await;
        } else {
            net.join(unable.clone()).await;
        }
        first.kill();
        let (rest, outcome) = read(&mut handle).await;
        assert!(interrupted(&outcome) && rest.is_empty(), "{outcome:?} after {rest:?}");
    }
    assert_eq!((unable.counts().started, older.counts().started), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn request_that_no_node_can_continue_is_no_fault_of_its_caller() {
    let net = Net::new().await;
    let models = all().models().await.unwrap();
    let refusing = ScriptedBackend::new(models, |_| {
        Script::new().fail(BackendError::Rejected {
            status: 400,
            code: None,
            param: Some("response_format".to_owned()),
            message: "such an answer cannot be continued elsewhere".to_owned(),
        })
    });
    let (mut handle, _, first, second) = begin(&net, halting(3), 3, refusing).await;
    first.kill();
    let (rest, outcome) = read(&mut handle).await;
    assert!(interrupted(&outcome) && rest.is_empty(), "{outcome:?} after {rest:?}");
    assert_eq!(net.coordinator.nodes().iter().find(|n| n.id == second.id).unwrap().points, 100);
}

#[tokio::test(start_paused = true)]
async fn caller_who_leaves_between_two_nodes_costs_neither_of_them_work() {
    let net = Net::new().await;
    let second = all();
    let (handle, _, first, _second) = begin(&net, halting(2), 2, second.clone()).await;
    first.kill();
    drop(handle);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((second.counts().started, net.coordinator.stats().slots_in_use), (0, 0));
    let rows = settlements(net).await;
    assert_eq!((rows.len(), rows[0].state), (1, TaskState::Cancelled));
}

const COORDINATOR: &str = "IRIS_TEST_COORDINATOR";
const NODE_KEY: &str = "IRIS_TEST_NODE_KEY";
const AFTER: &str = "IRIS_TEST_AFTER";

/// The bundled model, which falls silent after a number of chunks.
#[derive(Debug)]
struct Falters {
    engine: Engine,
    after: usize,
}

impl Backend for Falters {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        self.engine.models()
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        let answer = self.engine.generate(request).take(self.after);
        answer.chain(futures::stream::pending()).boxed()
    }
}

fn bundled() -> Engine {
    Engine::load(EngineSettings::bundled().with_name(MODEL.parse().unwrap())).unwrap()
}

#[tokio::test]
async fn killed_process_leaves_an_answer_that_another_completes_word_for_word() {
    let limits = Limits { resume_grace: Duration::from_millis(200), ..Limits::default() };
    let set = |builder: iris_coordinator::Builder| builder.with_link_limits(limits);
    let store = Arc::new(MemoryStore::new());
    let live = Live::start_with(store, ServerSettings::default(), set).await;
    let questions = ["What is a node?", "What can you do?", "Tell me about Iris."];
    let expected = {
        let _node = live.join(bundled(), 1).await;
        let mut answers = Vec::new();
        for question in questions {
            answers.push(events(&mut live.send(chat(&live, question)).await).await);
        }
        answers
    };
    for ((question, expected), cut) in questions.into_iter().zip(expected).zip([1, 7, 20]) {
        let mut doomed = start_node(&live, cut);
        doomed.says("online").await;
        let mut reply = live.send(chat(&live, question)).await;
        let mut heard = Vec::new();
        // The role comes first, then a chunk for each of the model's.
        while heard.len() < 1 + cut {
            heard.push(comparable(&reply.event().await.unwrap().unwrap()));
        }
        let mut other = start_node(&live, 1 << 20);
        other.says("online").await;
        doomed.kill();
        heard.extend(events(&mut reply).await);
        assert_eq!(heard, expected, "{question} cut after {cut} chunks");
        other.kill();
    }
    live.is_idle().await;
    let rows = live.settlements().await;
    assert_eq!(rows.len(), 2 * questions.len());
    let cut: Vec<_> = rows.iter().filter(|row| row.attempts.len() == 2).collect();
    assert_eq!(cut.len(), questions.len());
    for row in cut {
        assert_eq!(row.state, TaskState::Finished);
        assert_eq!(ends(row), [AttemptEnd::Lost, AttemptEnd::Done]);
    }
}

fn chat(live: &Live, question: &str) -> Request {
    let mut body = live::chat(question, true);
    body["stream_options"] = json!({"include_usage": true});
    Request::post("/v1/chat/completions", body).bearer(&live.key)
}

/// Reads the rest of a stream, its end mark included.
async fn events(reply: &mut Reply) -> Vec<Value> {
    let mut events = Vec::new();
    while let Some(event) = reply.event().await.unwrap() {
        events.push(comparable(&event));
    }
    events
}

/// An event without what differs from request to request.
fn comparable(event: &str) -> Value {
    let mut event = serde_json::from_str(event).unwrap_or_else(|_| json!(event));
    if let Value::Object(members) = &mut event {
        members.remove("id");
        members.remove("created");
    }
    event
}

fn start_node(live: &Live, after: usize) -> Child {
    let (url, after) = (format!("http://{}", live.address), after.to_string());
    let settings = [(COORDINATOR, &*url), (NODE_KEY, &live.node_key), (AFTER, &after)];
    Child::start("node_until_it_is_killed", &settings)
}

#[tokio::test]
#[ignore = "runs as a child process of the test above"]
async fn node_until_it_is_killed() {
    let setting = |name| std::env::var(name);
    let (Ok(url), Ok(key), Ok(after)) = (setting(COORDINATOR), setting(NODE_KEY), setting(AFTER))
    else {
        return;
    };
    end_with_parent();
    let backend = Falters { engine: bundled(), after: after.parse().unwrap() };
    let connector = WebSocketConnector::new(url.parse().unwrap(), key);
    let node = live::join(backend, 1, connector).await;
    println!("online");
    node.await.unwrap();
}
