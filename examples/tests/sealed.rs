//! Sealed chats over the whole stack: the real client, coordinator and nodes.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use iris_client::{Client, ClientBuilder, ClientError, Policy, Privacy, Shape};
use iris_coordinator::http::ServerSettings;
use iris_core::backend::{BackendError, Chunk, Finish, Gate, Script, ScriptedBackend, Step, Usage};
use iris_core::model::ModelOffer;
use iris_core::store::{Key, MemoryStore};
use iris_core::task::{AttemptEnd, TaskState};
use iris_crypto::Identity;
use iris_node::agent::Agent;
use iris_node::datasets::{Access, Datasets};
use iris_protocol::limits::Limits;
use iris_protocol::rest::Secret as DatasetKey;
use live::caller::Request;
use live::{Live, MODEL, echo, scripted};
use serde_json::Value;

/// A client of a live network. Frames leave at once, so that no test waits for the clock.
fn builder(live: &Live) -> ClientBuilder {
    Client::builder(format!("http://{}", live.address))
        .with_api_key(live.key.clone())
        .with_shape(Shape::Off)
}

fn client(live: &Live) -> Client {
    builder(live).build().unwrap()
}

#[tokio::test]
async fn chat_is_sealed_by_default_and_settled_with_its_receipt() {
    let live = Live::start().await;
    let _node = live.join(echo(), 1).await;
    let answer = client(&live).ask(MODEL, "are you there?").send().await.unwrap();
    assert_eq!((answer.text(), answer.privacy), ("are you there?", Privacy::Sealed));
    let receipt = answer.receipt.wait().await.unwrap();
    live.is_idle().await;
    let rows = live.settlements().await;
    assert_eq!((rows.len(), rows[0].state, rows[0].sealed), (1, TaskState::Finished, true));
    assert_eq!(rows[0].usage, receipt.receipt().usage);
    let kept: Vec<_> = live.store.scan(Key::all("receipt")).collect().await;
    let kept: Vec<Value> =
        kept.into_iter().map(|record| record.unwrap().value.decode().unwrap()).collect();
    let encoded = data_encoding::BASE64URL_NOPAD.encode(&receipt.encode());
    assert_eq!((kept.len(), &kept[0]["receipt"]), (1, &Value::from(encoded)));
}

#[tokio::test]
async fn padding_of_a_sealed_answer_carries_no_tokens_that_were_not_asked_for() {
    let live = Live::start().await;
    let usage = Usage { prompt_tokens: 4, completion_tokens: 4000 };
    let finish = Finish { reason: "stop".to_owned(), usage };
    let chunks = [Chunk::Text("yes".to_owned()), Chunk::Finished(finish)];
    let boasting: Script = chunks.into_iter().map(Step::Chunk).collect();
    let _node = live.join(scripted(boasting), 1).await;
    let client = builder(&live).with_shape(Shape::Paced).build().unwrap();
    let answer = client.ask(MODEL, "well?").with_max_tokens(10).send().await.unwrap();
    assert_eq!(answer.text(), "yes");
    live.is_idle().await;
    let rows = live.settlements().await;
    assert_eq!(rows[0].usage.completion_tokens, 10 + Usage::UNSEEN);
}

#[tokio::test]
async fn paced_answer_arrives_whole_and_streamed() {
    let live = Live::start().await;
    let _node = live.join(echo(), 2).await;
    let client = builder(&live).with_shape(Shape::Paced).build().unwrap();
    let whole = client.ask(MODEL, "one two three");
    let streamed =
        async { client.ask(MODEL, "four five six").stream().await?.collect_text().await };
    let (whole, streamed) = tokio::join!(whole.send(), streamed);
    assert_eq!(whole.unwrap().text(), "one two three");
    assert_eq!(streamed.unwrap().0, "four five six");
}

#[tokio::test]
async fn request_goes_to_another_node_when_its_own_is_lost_before_it_said_anything() {
    let live = impatient().await;
    let gate = Gate::new();
    let silent = scripted(Script::new().wait(&gate));
    let node = live.join(silent.clone(), 1).await;
    let client = client(&live);
    let asked = tokio::spawn(async move { client.ask(MODEL, "still there?").send().await });
    live::until("the node works", || silent.counts().running == 1).await;
    let _other = live.join(echo(), 1).await;
    node.abort();
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(answer.text(), "still there?");
    live.is_idle().await;
    let rows = live.settlements().await;
    let ends: Vec<_> = rows.iter().map(|row| row.attempts[0].end).collect();
    assert_eq!(rows.len(), 2, "each sealing is a task of its own");
    assert!(ends.contains(&AttemptEnd::Done) && ends.contains(&AttemptEnd::Lost), "{ends:?}");
}

#[tokio::test]
async fn node_lost_amid_its_answer_leaves_a_typed_error_and_the_text_so_far() {
    let live = impatient().await;
    let gate = Gate::new();
    let node = live.join(scripted(Script::saying(["half of "]).wait(&gate)), 1).await;
    let _other = live.join(echo(), 1).await;
    let mut partial = None;
    // Whichever node a question goes to; the other one answers whole.
    for _ in 0..20 {
        let mut answer = client(&live).ask(MODEL, "all of it").stream().await.unwrap();
        let first = answer.next().await.unwrap().unwrap();
        if first.text() == "half of " {
            node.abort();
            partial = answer.next().await;
            break;
        }
    }
    let error = partial.expect("a question went to the node").unwrap_err();
    let ClientError::Truncated(partial) = error else { panic!("{error:?}") };
    assert_eq!(partial.text, "half of ");
}

#[tokio::test]
async fn sealed_prompt_meets_its_data_on_the_node() {
    let live = Live::start().await;
    let folder = tempfile::tempdir().unwrap();
    let seen: Arc<Mutex<Vec<(&str, String)>>> = Arc::default();
    let mut nodes = Vec::new();
    for (name, data) in [("ward-a", "bed\nhunter2"), ("ward-b", "bed\nhunter3")] {
        let path = folder.path().join(format!("{name}.csv"));
        std::fs::write(&path, data).unwrap();
        let mut datasets = Datasets::new();
        let access = Access::Key(DatasetKey::new("0123456789abcdef"));
        datasets.add(name, path, access).unwrap();
        let asked = Arc::clone(&seen);
        let offers = [ModelOffer::new(MODEL.parse().unwrap(), 8192)];
        let backend = ScriptedBackend::new(offers, move |request| {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            asked.lock().unwrap().push((name, body));
            Script::saying(["counted"])
        });
        let agent = Agent::builder(Identity::generate(), Arc::new(backend));
        let agent = agent.with_measurement(false).with_datasets(datasets).build();
        nodes.push(live::run(agent, live.connector()).await);
    }
    let client = client(&live);
    let ask = |name: &str, key: &str| {
        let mut chat = client.ask(MODEL, "How many beds?");
        let wish = serde_json::json!({"name": name, "key": key});
        chat.request_mut().extra.insert("iris_dataset".to_owned(), wish);
        chat.send()
    };
    for name in ["ward-a", "ward-b", "ward-a", "ward-b"] {
        let answer = ask(name, "0123456789abcdef").await.unwrap();
        assert_eq!((answer.text(), answer.privacy), ("counted", Privacy::Sealed));
    }
    let error = ask("ward-a", "0123456789abcdeF").await.unwrap_err();
    assert!(error.to_string().contains("key"), "{error}");
    let error = ask("ward-c", "0123456789abcdef").await.unwrap_err();
    assert!(error.to_string().contains("ward-c"), "{error}");
    // The coordinator's own endpoint finds the node by the same member.
    let open = |body| Request::post("/v1/chat/completions", body).bearer(&live.key);
    let mut body = live::chat("How many beds?", false);
    for (key, status) in [("0123456789abcdef", 200), ("0123456789abcdeF", 403)] {
        body["iris_dataset"] = serde_json::json!({"name": "ward-b", "key": key});
        let mut reply = live.send(open(body.clone())).await;
        let text = reply.json().await.to_string();
        assert_eq!(reply.status, status, "{text}");
        assert!(!text.contains("hunter"), "{text}");
    }
    body["iris_dataset"] = serde_json::json!({"name": "ward-c"});
    assert_eq!(live.send(open(body)).await.status, 404);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let names: Vec<_> = seen.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["ward-a", "ward-b", "ward-a", "ward-b", "ward-b"]);
    for (name, body) in seen {
        let data = if name == "ward-a" { "hunter2" } else { "hunter3" };
        assert!(body.contains(data) && !body.contains("0123456789"), "{body}");
    }
    let rows = live.settlements().await;
    assert!(
        rows.iter()
            .flat_map(|row| &row.attempts)
            .all(|attempt| { matches!(attempt.end, AttemptEnd::Done | AttemptEnd::CallersFault) })
    );
    for kind in ["settlement", "receipt", "node", "model"] {
        let records: Vec<_> = live.store.scan(Key::all(kind)).collect().await;
        assert!(!format!("{records:?}").contains("hunter"));
    }
}

#[tokio::test]
async fn own_nodes_alone_read_what_is_asked_of_them() {
    let live = Live::start().await;
    let _mine = live.join(scripted(Script::saying(["mine"])), 1).await;
    let before = client(&live).network().nodes().next().await.unwrap().unwrap().id;
    let _others = live.join(scripted(Script::saying(["theirs"])), 1).await;
    let own = builder(&live).with_policy(Policy::Own).with_own_node(before).build().unwrap();
    for _ in 0..5 {
        let answer = own.ask(MODEL, "whose are you?").send().await.unwrap();
        assert_eq!((answer.text(), answer.privacy), ("mine", Privacy::Own));
        answer.receipt.wait().await.unwrap();
    }
    let none = builder(&live).with_policy(Policy::Own).build().unwrap();
    let error = none.ask(MODEL, "whose are you?").send().await.unwrap_err();
    assert!(error.is_about_privacy(), "{error:?}");
}

#[tokio::test]
async fn fault_of_the_model_server_reaches_its_caller_and_nobody_else() {
    let live = Live::start().await;
    let fault = BackendError::Rejected {
        status: 400,
        code: Some("context_length_exceeded".to_owned()),
        param: None,
        message: "a prompt of many secret words".to_owned(),
    };
    let _node = live.join(scripted(Script::new().fail(fault)), 1).await;
    let error = client(&live).ask(MODEL, "long").send().await.unwrap_err();
    let refusal = error.refusal().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(refusal.code(), Some("context_length_exceeded"));
    assert!(refusal.detail.message.contains("secret words"));
    live.is_idle().await;
    let rows = live.settlements().await;
    assert_eq!(rows[0].attempts[0].end, AttemptEnd::CallersFault);
    let books: Vec<_> = live.store.scan(Key::all("settlement")).collect().await;
    let text = format!("{books:?}");
    assert!(!text.contains("secret words") && !text.contains("context_length"));
}

#[tokio::test]
async fn caller_who_leaves_frees_the_node() {
    let live = Live::start().await;
    let gate = Gate::new();
    let busy = scripted(Script::saying(["word "]).wait(&gate));
    let _node = live.join(busy.clone(), 1).await;
    let mut answer = client(&live).ask(MODEL, "hold on").stream().await.unwrap();
    assert_eq!(answer.next().await.unwrap().unwrap().text(), "word ");
    drop(answer);
    live.is_idle().await;
    live::until("the node is free", || busy.counts().running == 0).await;
}

/// A network that does not wait long for what is gone.
async fn impatient() -> Live {
    let limits = Limits { resume_grace: Duration::from_millis(200), ..Limits::default() };
    let set = |builder: iris_coordinator::Builder| builder.with_link_limits(limits);
    Live::start_with(Arc::new(MemoryStore::new()), ServerSettings::default(), set).await
}
