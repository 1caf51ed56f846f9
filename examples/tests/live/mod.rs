//! A network over real sockets: the coordinator's server on a free port, agents that reach it by
//! WebSocket, callers that speak HTTP.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use iris_coordinator::http::{Server, ServerSettings};
use iris_coordinator::{Builder, Coordinator, Settlement};
use iris_core::AccountId;
use iris_core::backend::{Backend, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::store::{Key, MemoryStore, Store};
use iris_crypto::{Identity, Secret};
use iris_node::agent::{Agent, Connector, Status, WebSocketConnector};
use iris_protocol::rest::KeyScope;
use serde_json::{Value, json};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

pub(crate) mod caller;
pub(crate) mod child;
pub(crate) mod dice;

use caller::{Reply, Request};

pub(crate) const MODEL: &str = "m";

/// How long a condition may take to become true on a machine that is busy with other things.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A coordinator behind its server; nodes belong to another account than the caller.
pub(crate) struct Live {
    pub(crate) coordinator: Coordinator,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) secret: Secret,
    pub(crate) address: SocketAddr,
    pub(crate) caller: AccountId,
    pub(crate) key: String,
    pub(crate) node_key: String,
    _server: AbortOnDropHandle<()>,
}

impl Live {
    pub(crate) async fn start() -> Self {
        let store = Arc::new(MemoryStore::new());
        Self::start_with(store, ServerSettings::default(), |builder| builder).await
    }

    pub(crate) async fn start_with(
        store: Arc<dyn Store>,
        settings: ServerSettings,
        set: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let secret = Secret::generate();
        let builder =
            Coordinator::builder(Arc::clone(&store), Identity::generate(), secret.clone());
        let coordinator = set(builder).build().await.unwrap();
        let server = Server::bind(coordinator.clone(), settings).await.unwrap();
        let address = server.local_addr().unwrap();
        let server = AbortOnDropHandle::new(tokio::spawn(server.run(pending())));
        let (caller, key) = account(&coordinator, KeyScope::Inference).await;
        let (_, node_key) = account(&coordinator, KeyScope::Node).await;
        Self { coordinator, store, secret, address, caller, key, node_key, _server: server }
    }

    /// Lets a node join by WebSocket and waits until it takes work. It leaves with the handle.
    pub(crate) async fn join(&self, backend: impl Backend, slots: u32) -> AbortOnDropHandle<()> {
        join(backend, slots, self.connector()).await
    }

    pub(crate) fn connector(&self) -> WebSocketConnector {
        let url = format!("http://{}", self.address).parse().unwrap();
        WebSocketConnector::new(url, self.node_key.clone())
    }

    /// A chat request of the caller's.
    pub(crate) fn chat(&self, prompt: &str, stream: bool) -> Request {
        Request::post("/v1/chat/completions", chat(prompt, stream)).bearer(&self.key)
    }

    pub(crate) async fn send(&self, request: Request) -> Reply {
        caller::send(self.address, &request).await.unwrap()
    }

    /// Sends on a connection that was used before, if there is one.
    pub(crate) async fn send_on(
        &self,
        connection: &mut Option<BufReader<TcpStream>>,
        request: Request,
    ) -> Reply {
        match connection.take() {
            Some(open) => caller::send_on(open, &request).await.unwrap(),
            None => self.send(request).await,
        }
    }

    /// Asks without streaming and returns the answer.
    pub(crate) async fn ask(&self, prompt: &str) -> String {
        let mut reply = self.send(self.chat(prompt, false)).await;
        let answer = reply.json().await;
        assert_eq!(reply.status, 200, "{answer}");
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    pub(crate) fn slots_in_use(&self) -> u64 {
        self.coordinator.stats().slots_in_use
    }

    /// Waits until no slot is taken, which is what every test leaves behind.
    pub(crate) async fn is_idle(&self) {
        until("no slot is in use", || self.slots_in_use() == 0).await;
    }

    /// Writes everything down and returns all settlements.
    pub(crate) async fn settlements(&self) -> Vec<Settlement> {
        self.coordinator.shutdown().await;
        settlements(&*self.store).await
    }
}

/// Runs a node that connects by `connector`; resolves once it takes work.
pub(crate) async fn join(
    backend: impl Backend,
    slots: u32,
    connector: impl Connector,
) -> AbortOnDropHandle<()> {
    let agent = Agent::builder(Identity::generate(), Arc::new(backend))
        .with_measurement(false)
        .with_slots(slots);
    run(agent.build(), connector).await
}

/// Runs an agent that connects by `connector`; resolves once it takes work.
pub(crate) async fn run(agent: Agent, connector: impl Connector) -> AbortOnDropHandle<()> {
    let mut status = agent.status();
    let agent = tokio::spawn(async move {
        agent.run_on(connector, pending()).await.unwrap();
    });
    let online = |status: &Status| matches!(status, Status::Online { .. });
    tokio::time::timeout(SOON, status.wait_for(online)).await.unwrap().unwrap();
    AbortOnDropHandle::new(agent)
}

pub(crate) async fn settlements(store: &dyn Store) -> Vec<Settlement> {
    let records = store.scan(Key::all("settlement"));
    records.map(|record| record.unwrap().value.decode().unwrap()).collect().await
}

/// A backend that answers every request by `script`.
pub(crate) fn scripted(script: Script) -> ScriptedBackend {
    let offers = [ModelOffer::new(MODEL.parse().unwrap(), 8192)];
    ScriptedBackend::new(offers, move |_| script.clone())
}

pub(crate) fn echo() -> ScriptedBackend {
    ScriptedBackend::echo(MODEL.parse().unwrap())
}

pub(crate) fn chat(prompt: &str, stream: bool) -> Value {
    json!({"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": prompt}]})
}

/// Looks at `condition` until it is true.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < patience, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Opens an account with one key.
async fn account(coordinator: &Coordinator, scope: KeyScope) -> (AccountId, String) {
    let accounts = coordinator.accounts();
    let account = accounts.create_account().await.unwrap().account;
    let created = accounts.create_key_for(account, scope).await.unwrap();
    (account, created.key.expose().to_owned())
}
