//! Checks of nodes over real sockets, with a real model: who lies is found out, objects, and is
//! answered. The calendar runs ahead of the clock.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use iris_coordinator::http::{Server, ServerSettings};
use iris_coordinator::{Clock, Coordinator, SystemClock};
use iris_core::backend::{Backend, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::reward::{RewardEvent, What};
use iris_core::store::{Key, MemoryStore, Store};
use iris_core::{AccountId, NodeId, Timestamp};
use iris_crypto::{Identity, Secret};
use iris_node::agent::{Agent, WebSocketConnector};
use iris_node::backend::engine::{BUNDLED_MODEL, Engine};
use iris_protocol::rest::KeyScope;
use live::caller::{self, Request};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// A calendar that is set ahead now and then.
#[derive(Clone, Debug)]
struct Ahead {
    begun: Instant,
    minutes: Arc<AtomicU32>,
}

impl Clock for Ahead {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn calendar(&self) -> Timestamp {
        let start = Timestamp::from_millis(1_800_000_000_000);
        let ahead = Duration::from_mins(1) * self.minutes.load(Ordering::Relaxed);
        start.saturating_add(self.begun.elapsed() + ahead)
    }
}

/// A member who has machines: an account, with one key for them and one to ask with.
struct Owner {
    account: AccountId,
    nodes: String,
    asks: String,
}

impl Owner {
    async fn register(coordinator: &Coordinator, scope: KeyScope) -> Self {
        let accounts = coordinator.accounts();
        let account = accounts.create_account().await.unwrap().account;
        let key = async |scope| {
            accounts.create_key_for(account, scope).await.unwrap().key.expose().to_owned()
        };
        Self { account, nodes: key(KeyScope::Node).await, asks: key(scope).await }
    }
}

struct Network {
    address: std::net::SocketAddr,
    clock: Ahead,
    store: Arc<dyn Store>,
    coordinator: Coordinator,
    _server: AbortOnDropHandle<()>,
}

impl Network {
    /// Lets a node of `owner` join by WebSocket.
    async fn join(&self, owner: &Owner, backend: impl Backend) -> (NodeId, AbortOnDropHandle<()>) {
        let clock = self.clock.clone();
        let agent = Agent::builder(Identity::generate(), Arc::new(backend))
            .with_measurement(false)
            .with_clock(move || clock.calendar())
            .build();
        let url = format!("http://{}", self.address).parse().unwrap();
        let node = agent.node_id();
        let connector = WebSocketConnector::new(url, owner.nodes.clone());
        (node, live::run(agent, connector).await)
    }

    async fn ask(&self, request: Request) -> Value {
        let mut reply = caller::send(self.address, &request).await.unwrap();
        let body = reply.json().await;
        assert_eq!(reply.status, 200, "{body}");
        body
    }

    /// Lets five minutes pass where no node is at work.
    async fn wait(&self) {
        if self.coordinator.stats().slots_in_use == 0 {
            self.clock.minutes.fetch_add(5, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// Asks until there is a verdict that `owner` can see.
    async fn verdict(&self, owner: &Owner) -> Value {
        let begun = Instant::now();
        loop {
            let list = self.ask(Request::get("/verdicts").bearer(&owner.asks)).await;
            if let Some(verdict) = list["verdicts"].get(0) {
                return verdict.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "nobody was found lying");
            self.wait().await;
        }
    }

    async fn events(&self) -> Vec<RewardEvent> {
        use futures::StreamExt;
        let records: Vec<_> = self.store.scan(Key::all("event")).collect().await;
        records.into_iter().map(|record| record.unwrap().value.decode().unwrap()).collect()
    }
}

/// A node that says it runs the bundled model, and makes words up.
fn made_up() -> ScriptedBackend {
    let offer = ModelOffer::new(BUNDLED_MODEL.parse().unwrap(), 4096);
    ScriptedBackend::new([offer], |_| {
        Script::saying((0..60).map(|word: u32| format!(" {}", word.wrapping_mul(2_654_435_761))))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn liar_over_real_sockets_is_found_by_a_real_model_and_heard() {
    let (store, secret): (Arc<dyn Store>, _) = (Arc::new(MemoryStore::new()), Secret::generate());
    let clock = Ahead { begun: Instant::now(), minutes: Arc::default() };
    let begin = |identity| {
        let builder = Coordinator::builder(Arc::clone(&store), identity, secret.clone());
        builder.with_clock(Arc::new(clock.clone()))
    };
    let seed = Secret::generate();
    // The operator opens accounts, and then trusts one.
    let before = begin(Identity::from_seed(&seed)).build().await.unwrap();
    let trusted = Owner::register(&before, KeyScope::Admin).await;
    let honest = Owner::register(&before, KeyScope::Inference).await;
    let liar = Owner::register(&before, KeyScope::Inference).await;
    before.shutdown().await;
    let coordinator = begin(Identity::from_seed(&seed))
        .with_trusted_owners([trusted.account])
        .with_check_times(Duration::from_millis(50), Duration::from_millis(100))
        .build()
        .await
        .unwrap();
    let server = Server::bind(coordinator.clone(), ServerSettings::default()).await.unwrap();
    let address = server.local_addr().unwrap();
    let server = AbortOnDropHandle::new(tokio::spawn(server.run(std::future::pending())));
    let clock = clock.clone();
    let network = Network { address, clock, store, coordinator, _server: server };
    let _reference = network.join(&trusted, Engine::bundled().unwrap()).await;
    let (good, _good) = network.join(&honest, Engine::bundled().unwrap()).await;
    let (bad, _bad) = network.join(&liar, made_up()).await;

    let found = network.verdict(&liar).await;
    assert_eq!((&found["node"], &found["model"]), (&json!(bad), &json!(BUNDLED_MODEL)));
    let id = found["id"].as_str().unwrap();
    let shown = Request::get(&format!("/verdicts/{id}")).bearer(&liar.asks);
    let shown = network.ask(shown).await;
    assert!(shown["text"].as_str().unwrap().contains("were not what"), "{shown}");
    assert!(!shown["prompts"].as_array().unwrap().is_empty(), "{shown}");
    let text = json!({"text": "It was another file."});
    let path = format!("/verdicts/{id}/appeal");
    let appealed = network.ask(Request::post(&path, text).bearer(&liar.asks)).await;
    assert_eq!(appealed["state"], "appealed");
    let ruling = json!({"ruling": "uphold", "reason": "It was made up."});
    let path = format!("/verdicts/{id}/decision");
    let upheld = network.ask(Request::post(&path, ruling).bearer(&trusted.asks)).await;
    assert_eq!((&upheld["state"], &upheld["reason"]), (&json!("final"), &json!("It was made up.")));

    let heard = Instant::now();
    let passed = loop {
        let events = network.events().await;
        let passed =
            |event: &&RewardEvent| matches!(event.what, What::Checked { passed: true, .. });
        let passed: Vec<_> = events.iter().filter(passed).map(|event| event.node).collect();
        if !passed.is_empty() {
            assert!(events.iter().any(|event| event.node == bad && event.what == What::Convicted));
            break passed;
        }
        assert!(heard.elapsed() < PATIENCE, "no honest node passed");
        network.wait().await;
    };
    assert!(passed.iter().all(|node| *node == good), "only one runs what it says");
    let theirs = network.ask(Request::get("/verdicts").bearer(&honest.asks)).await;
    assert_eq!(theirs, json!({"verdicts": []}));
}
