//! The HTTP server through real sockets, with nodes that speak the real protocol.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iris_coordinator::Coordinator;
use iris_coordinator::classify::ClassifierChain;
use iris_coordinator::http::{ApiSettings, Server, ServerSettings};
use iris_core::AccountId;
use iris_core::store::{MemoryStore, Store};
use iris_crypto::{Identity, Secret};
use iris_protocol::limits::Limits;
use iris_protocol::rest::KeyScope;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::client::{Reply, request, send};
use self::node::{Node, Step};

mod access;
mod bad_input;
mod callers;
mod chat;
mod chat_stream;
mod client;
mod divided;
mod jobs;
mod limits;
mod live;
mod members;
mod model_files;
mod money;
mod network;
mod node;
mod operation;
mod operator;
mod pages;
mod plan;
mod plan_restart;
mod rest;
mod route;
mod routing;
mod sealed;
mod secure;
mod transparency;
mod verdicts;

/// A coordinator behind a server on a free port, with one account.
struct Net {
    coordinator: Coordinator,
    address: SocketAddr,
    account: AccountId,
    user: String,
    operator: String,
    /// The coordinator's, unless a test has made that by itself.
    store: Arc<MemoryStore>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Net {
    async fn start() -> Self {
        Self::start_with(ServerSettings::default()).await
    }

    async fn with_api(api: ApiSettings) -> Self {
        Self::start_with(ServerSettings::default().with_api(api)).await
    }

    async fn start_with(settings: ServerSettings) -> Self {
        let store = Arc::new(MemoryStore::new());
        let coordinator = coordinator_over(store.clone()).await;
        Self { store, ..Self::around(coordinator, settings).await }
    }

    async fn around(coordinator: Coordinator, settings: ServerSettings) -> Self {
        let account = coordinator.accounts().create_account().await.unwrap().account;
        let user = key(&coordinator, account, KeyScope::Inference).await;
        let operator = key(&coordinator, account, KeyScope::Read).await;
        let server = Server::bind(coordinator.clone(), settings).await.unwrap();
        let address = server.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        let (store, stop) = (Arc::default(), Some(stop));
        Self { coordinator, address, account, user, operator, store, stop, server }
    }

    /// Connects a node with two slots.
    async fn node(&self, steps: Vec<Step>) -> Node {
        let key = key(&self.coordinator, self.account, KeyScope::Node).await;
        Node::connect(self.address, &key, 2, steps).await
    }

    /// Connects a node of an owner who has no other.
    async fn strangers_node(&self, steps: Vec<Step>) -> Node {
        let owner = self.coordinator.accounts().create_account().await.unwrap().account;
        let key = key(&self.coordinator, owner, KeyScope::Node).await;
        Node::connect(self.address, &key, 2, steps).await
    }

    async fn get(&self, path: &str) -> Reply {
        send(self.address, request("GET", path, &[self.bearer().as_pair()], "")).await
    }

    async fn post(&self, path: &str, body: &str) -> Reply {
        send(self.address, self.post_request(path, body)).await
    }

    /// Asks the node's model, with further members in the body.
    async fn chat(&self, members: &str) -> Reply {
        self.post("/v1/chat/completions", &chat_body(members)).await
    }

    fn post_request(&self, path: &str, body: &str) -> String {
        request("POST", path, &[self.bearer().as_pair()], body)
    }

    fn bearer(&self) -> Bearer {
        Bearer(format!("Bearer {}", self.user))
    }
}

struct Bearer(String);

impl Bearer {
    fn as_pair(&self) -> (&str, &str) {
        ("authorization", &self.0)
    }
}

async fn coordinator() -> Coordinator {
    coordinator_over(Arc::new(MemoryStore::new())).await
}

async fn coordinator_over(store: Arc<dyn Store>) -> Coordinator {
    coordinator_of(Identity::generate(), store).await
}

async fn coordinator_of(identity: Identity, store: Arc<dyn Store>) -> Coordinator {
    let secret = Secret::from_bytes([9; 32]);
    // A node that is lost is waited for only briefly, so that tests need not wait either.
    let limits = Limits { resume_grace: Duration::from_millis(50), ..Limits::default() };
    let builder = Coordinator::builder(store, identity, secret);
    builder.with_link_limits(limits).build().await.unwrap()
}

/// Makes a coordinator that asks others than the rules how hard a question is.
async fn coordinator_that_asks(classifiers: ClassifierChain) -> Coordinator {
    let secret = Secret::from_bytes([9; 32]);
    let store = Arc::new(MemoryStore::new());
    let builder = Coordinator::builder(store, Identity::generate(), secret);
    builder.with_classifiers(classifiers).build().await.unwrap()
}

async fn key(coordinator: &Coordinator, account: AccountId, scope: KeyScope) -> String {
    let created = coordinator.accounts().create_key_for(account, scope).await.unwrap();
    created.key.expose().to_owned()
}

fn chat_body(members: &str) -> String {
    let model = Node::MODEL;
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]{members}}}"#)
}
