//! Real processes, killed by SIGKILL at any moment.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use iris_coordinator::http::{Server, ServerSettings};
use iris_coordinator::store::SqliteStore;
use iris_coordinator::{Accounts, Coordinator};
use iris_core::backend::{Gate, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::store::{Key, MemoryStore, Store};
use iris_core::task::{AttemptEnd, TaskState};
use iris_crypto::{Identity, Secret};
use iris_node::agent::{ConnectError, Connector, WebSocketConnector};
use iris_protocol::limits::Limits;
use iris_protocol::rest::KeyScope;
use live::caller::{self, Request};
use live::child::{Child, end_with_parent};
use live::dice::Dice;
use live::{Live, MODEL, echo, settlements, until};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

const STORE: &str = "IRIS_TEST_STORE";
const COORDINATOR: &str = "IRIS_TEST_COORDINATOR";
const NODE_KEY: &str = "IRIS_TEST_NODE_KEY";
const WORDS: &str = "IRIS_TEST_WORDS";

const KILLS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_tasks_end_exactly_once_though_the_coordinator_is_killed_50_times() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = Story::begin(&folder.path().join("iris.db")).await;
    let backend = story.backend();
    let join = || live::join(backend.clone(), 4, story.connector());
    let coordinator = story.start().await;
    let _nodes = [join().await, join().await];
    // From the first accepted task on, the model is known to whatever comes after.
    story.asked = 1;
    story.submit(0..1).join_all().await;
    coordinator.kill();
    for _ in 1..KILLS {
        story.round(&backend).await;
    }
    let coordinator = story.start().await;
    // Whoever asks again, having heard nothing or no more, hears of the same task.
    let submissions = story.submit(0..story.asked);
    assert_eq!(submissions.join_all().await.iter().flatten().count(), story.asked);
    story.check_answers().await;
    coordinator.kill();
    story.check_books().await;
    println!("{} tasks, {} generations", story.asked, backend.counts().started);
}

/// A coordinator that is killed again and again, and what it has promised so far.
struct Story {
    dice: Dice,
    path: PathBuf,
    key: String,
    node_key: String,
    /// Where the coordinator listens, while it lives.
    address: watch::Sender<Option<SocketAddr>>,
    /// Holds some generations back until the coordinator they work for is dead.
    hold: Arc<Mutex<Hold>>,
    /// How many questions were asked; they are numbered.
    asked: usize,
    /// The task of each question that was accepted.
    accepted: Arc<Mutex<BTreeMap<usize, String>>>,
}

#[derive(Default)]
struct Hold {
    gate: Gate,
    count: usize,
}

impl Story {
    async fn begin(path: &Path) -> Self {
        let store = Arc::new(SqliteStore::open(path, &[]).unwrap());
        let accounts = Accounts::load(store, secret()).await.unwrap();
        let account = accounts.create_account().await.unwrap().account;
        let key = async |scope| {
            let created = accounts.create_key_for(account, scope).await.unwrap();
            created.key.expose().to_owned()
        };
        Self {
            dice: Dice::seeded(),
            path: path.to_owned(),
            key: key(KeyScope::Inference).await,
            node_key: key(KeyScope::Node).await,
            address: watch::Sender::new(None),
            hold: Arc::default(),
            asked: 0,
            accepted: Arc::default(),
        }
    }

    /// A backend that repeats the question, sooner or later.
    fn backend(&self) -> ScriptedBackend {
        let hold = Arc::clone(&self.hold);
        let offers = [ModelOffer::new(MODEL.parse().unwrap(), 8192)];
        ScriptedBackend::new(offers, move |request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let mut hold = hold.lock().unwrap();
            let waits = hold.count > 0;
            hold.count = hold.count.saturating_sub(1);
            let script = if waits { Script::new().wait(&hold.gate) } else { Script::new() };
            script.text(body["messages"][0]["content"].as_str().unwrap())
        })
    }

    /// A way to the coordinator, wherever it listens now.
    fn connector(&self) -> impl Connector {
        let (address, key) = (self.address.subscribe(), self.node_key.clone());
        move || {
            let (mut address, key) = (address.clone(), key.clone());
            async move {
                let gone = |_| ConnectError::Unreachable {
                    endpoint: "nowhere".into(),
                    cause: "the test is over".to_owned(),
                };
                let address = address.wait_for(Option::is_some).await.map_err(gone)?.unwrap();
                let url = format!("http://{address}").parse().unwrap();
                WebSocketConnector::new(url, key).connect().await
            }
        }
    }

    async fn start(&self) -> Child {
        let path = self.path.to_str().unwrap();
        let mut child = Child::start("coordinator_until_it_is_killed", &[(STORE, path)]);
        let address = child.says("address ").await;
        self.address.send_replace(Some(address.parse().unwrap()));
        child
    }

    /// Asks some questions and kills the coordinator after some of them were accepted.
    async fn round(&mut self, backend: &ScriptedBackend) {
        let coordinator = self.start().await;
        let gate = Gate::new();
        let hold = Hold { gate: gate.clone(), count: self.dice.below(4) };
        *self.hold.lock().unwrap() = hold;
        if self.dice.below(2) == 0 {
            self.nodes_are_back().await;
        }
        // Some questions are asked for the first time, some again.
        let new = 2 + self.dice.below(4);
        let first = self.asked.saturating_sub(3);
        self.asked += new;
        let mut submissions = self.submit(first..self.asked);
        for _ in 0..=self.dice.below(submissions.len()) {
            submissions.join_next().await.unwrap().unwrap().expect("the coordinator is alive");
        }
        let started = backend.counts().started;
        match self.dice.below(3) {
            0 => {}
            1 => {
                let work = until("work begins", || backend.counts().started > started);
                let _ = tokio::time::timeout(Duration::from_millis(300), work).await;
            }
            // The kill itself comes at a random moment.
            _ => tokio::time::sleep(Duration::from_micros(self.dice.below(200_000) as u64)).await,
        }
        self.address.send_replace(None);
        coordinator.kill();
        gate.open();
        submissions.join_all().await;
    }

    async fn nodes_are_back(&self) {
        let address = self.address.borrow().unwrap();
        let back = async || {
            let mut reply = caller::send(address, &Request::get("/healthz")).await.unwrap();
            reply.json().await["nodes"] == 2
        };
        let wait = async {
            while !back().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(live::SOON, wait).await.expect("the nodes come back");
    }

    /// Submits questions side by side; each resolves to its task, or to nothing when the
    /// coordinator died meanwhile.
    fn submit(&self, questions: std::ops::Range<usize>) -> JoinSet<Option<String>> {
        let address = self.address.borrow().unwrap();
        let submissions = questions.map(|number| {
            let body = json!({"model": MODEL, "prompt": question(number)});
            let request = Request::post("/inference", body)
                .bearer(&self.key)
                .header("idempotency-key", &format!("key {number}"));
            let accepted = Arc::clone(&self.accepted);
            async move {
                let mut reply = caller::send(address, &request).await.ok()?;
                assert_eq!(reply.status, 202);
                let status: Value = serde_json::from_str(&reply.text().await.ok()?).unwrap();
                let id = status["id"].as_str().unwrap().to_owned();
                let known = accepted.lock().unwrap().insert(number, id.clone());
                assert!(known.is_none_or(|known| known == id), "one task for one key");
                Some(id)
            }
        });
        submissions.collect()
    }

    async fn check_answers(&self) {
        let address = self.address.borrow().unwrap();
        let accepted = self.accepted.lock().unwrap().clone();
        let check = async {
            for (number, id) in accepted {
                let request = Request::get(&format!("/inference/{id}")).bearer(&self.key);
                let status = loop {
                    let status = caller::send(address, &request).await.unwrap().json().await;
                    let state: TaskState = serde_json::from_value(status["status"].clone())
                        .unwrap_or_else(|_| panic!("{status}"));
                    if state.is_terminal() {
                        break status;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                };
                assert_eq!(status["status"], "finished", "{status}");
                assert_eq!(status["result"]["text"], question(number), "{status}");
            }
        };
        tokio::time::timeout(Duration::from_secs(30), check).await.expect("every task ends");
    }

    /// Checks that what is written down is one end and one settlement for each accepted task.
    async fn check_books(&self) {
        let accepted: BTreeSet<_> = self.accepted.lock().unwrap().values().cloned().collect();
        assert_eq!(accepted.len(), self.asked);
        let store = SqliteStore::open(&self.path, &[]).unwrap();
        let records: Vec<_> = store.scan(Key::all("inference")).collect().await;
        let ended = records.into_iter().map(|record| {
            let record = record.unwrap();
            let value: Value = record.value.decode().unwrap();
            assert_eq!(value["state"], "finished", "{value}");
            record.key.id().to_owned()
        });
        assert_eq!(ended.collect::<BTreeSet<_>>(), accepted);
        let rows = settlements(&store).await;
        assert_eq!(rows.len(), accepted.len());
        let settled: BTreeSet<_> = rows.iter().map(|row| row.task.to_string()).collect();
        assert_eq!(settled, accepted);
        let done = |row: &iris_coordinator::Settlement| {
            row.attempts.iter().filter(|attempt| attempt.end == AttemptEnd::Done).count()
        };
        assert!(rows.iter().all(|row| row.state == TaskState::Finished && done(row) == 1));
    }
}

fn question(number: usize) -> String {
    format!("question {number}")
}

/// What an operator keeps in a file beside the database.
fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as a child process of the test above"]
async fn coordinator_until_it_is_killed() {
    let Some(path) = std::env::var_os(STORE) else { return };
    end_with_parent();
    let store = Arc::new(SqliteStore::open(path, &[]).unwrap());
    let builder = Coordinator::builder(store, Identity::from_seed(&secret()), secret());
    let coordinator = builder.build().await.unwrap();
    let server = Server::bind(coordinator, ServerSettings::default()).await.unwrap();
    println!("address {}", server.local_addr().unwrap());
    server.run(pending()).await;
}

#[tokio::test]
async fn node_killed_amid_its_answer_leaves_its_caller_a_typed_error_and_no_done() {
    let live = impatient().await;
    let mut node = start_node(&live, "one two three");
    node.says("online").await;
    let mut reply = live.send(live.chat("count", true)).await;
    for word in ["one ", "two ", "three"] {
        assert_eq!(reply.word().await.unwrap().as_deref(), Some(word));
    }
    node.kill();
    let event = reply.event().await.unwrap().expect("the stream ends with an error");
    let error: Value = serde_json::from_str(&event).unwrap();
    assert_eq!(error["error"]["code"], "interrupted", "{error}");
    assert_eq!(error["error"]["type"], "server_error", "{error}");
    assert_eq!(reply.event().await.unwrap(), None, "and with nothing after it");
    live.is_idle().await;
    let rows = live.settlements().await;
    assert_eq!((rows.len(), rows[0].state), (1, TaskState::Failed));
    assert_eq!(rows[0].attempts[0].end, AttemptEnd::Lost);
}

#[tokio::test]
async fn node_killed_before_its_first_word_is_replaced_unnoticed() {
    let live = impatient().await;
    let mut node = start_node(&live, "");
    node.says("online").await;
    let asked = tokio::spawn(caller::send(live.address, &live.chat("still there?", true)));
    node.says("asked").await;
    let _other = live.join(echo(), 1).await;
    node.kill();
    let mut reply = asked.await.unwrap().unwrap();
    let mut answer = String::new();
    while let Some(word) = reply.word().await.unwrap() {
        answer.push_str(&word);
    }
    assert_eq!((reply.status, answer.as_str()), (200, "still there?"));
    live.is_idle().await;
    let rows = live.settlements().await;
    let ends: Vec<_> = rows[0].attempts.iter().map(|attempt| attempt.end).collect();
    assert_eq!((rows.len(), ends.len(), ends[1]), (1, 2, AttemptEnd::Done));
    assert!(DIES_EARLY.contains(&ends[0]), "{ends:?}");
}

/// A node may die before its acceptance is on its way, which then nobody holds against it.
const DIES_EARLY: [AttemptEnd; 2] = [AttemptEnd::Lost, AttemptEnd::Unreached];

#[tokio::test]
async fn only_node_killed_before_its_first_word_leaves_a_typed_error() {
    let live = impatient().await;
    let mut node = start_node(&live, "");
    node.says("online").await;
    let asked = tokio::spawn(caller::send(live.address, &live.chat("hi", true)));
    node.says("asked").await;
    node.kill();
    let mut reply = asked.await.unwrap().unwrap();
    let error = reply.json().await;
    live.is_idle().await;
    let rows = live.settlements().await;
    assert_eq!((rows.len(), rows[0].attempts.len()), (1, 1));
    let expected = match rows[0].attempts[0].end {
        AttemptEnd::Lost => (502, json!("nodes_failed")),
        AttemptEnd::Unreached => (503, json!("no_node_online")),
        end => panic!("{end:?}"),
    };
    assert_eq!((reply.status, error["error"]["code"].clone()), expected);
}

/// A network that does not wait long for what is gone.
async fn impatient() -> Live {
    let limits = Limits { resume_grace: Duration::from_millis(200), ..Limits::default() };
    let set = |builder: iris_coordinator::Builder| {
        builder.with_link_limits(limits).with_max_wait(Duration::from_millis(500))
    };
    Live::start_with(Arc::new(MemoryStore::new()), ServerSettings::default(), set).await
}

/// Starts a node in a process of its own that says `words` and then nothing more.
fn start_node(live: &Live, words: &str) -> Child {
    let url = format!("http://{}", live.address);
    let settings = [(COORDINATOR, &*url), (NODE_KEY, &live.node_key), (WORDS, words)];
    Child::start("node_until_it_is_killed", &settings)
}

#[tokio::test]
#[ignore = "runs as a child process of the tests above"]
async fn node_until_it_is_killed() {
    let setting = |name| std::env::var(name);
    let (Ok(url), Ok(key), Ok(words)) = (setting(COORDINATOR), setting(NODE_KEY), setting(WORDS))
    else {
        return;
    };
    end_with_parent();
    let offers = [ModelOffer::new(MODEL.parse().unwrap(), 8192)];
    let backend = ScriptedBackend::new(offers, move |_| {
        println!("asked");
        Script::saying(words.split_inclusive(' ')).wait(&Gate::new())
    });
    let connector = WebSocketConnector::new(url.parse().unwrap(), key);
    let node = live::join(backend, 1, connector).await;
    println!("online");
    node.await.unwrap();
}
