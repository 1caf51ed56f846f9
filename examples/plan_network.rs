//! A network within this process whose nodes belong to different owners, and a client of it.

#![allow(dead_code, reason = "each example uses its own part")]

use std::error::Error;
use std::future::pending;
use std::sync::Arc;

use futures::StreamExt;
use iris_client::{Client, PlanAnswer, PlanStream};
use iris_coordinator::Coordinator;
use iris_coordinator::http::{Server, ServerSettings};
use iris_core::NodeId;
use iris_core::plan::{Plan, Progress};
use iris_core::store::MemoryStore;
use iris_crypto::{Identity, Secret};
use iris_node::agent::{AgentBuilder, Status, WebSocketConnector};
use iris_protocol::rest::KeyScope;

/// What went wrong, for programs that only print it.
pub(crate) type AnyError = Box<dyn Error + Send + Sync>;

/// A coordinator on a free port of this machine, and nodes that live as long as this process.
pub(crate) struct PlanNetwork {
    coordinator: Coordinator,
    url: String,
    /// Seals what it asks, each step on its own: the coordinator reads none of it.
    pub(crate) client: Client,
}

impl PlanNetwork {
    pub(crate) async fn start() -> Result<Self, AnyError> {
        let store = Arc::new(MemoryStore::new());
        let coordinator =
            Coordinator::builder(store, Identity::generate(), Secret::generate()).build().await?;
        let server = Server::bind(coordinator.clone(), ServerSettings::default()).await?;
        let url = format!("http://{}", server.local_addr()?);
        tokio::spawn(server.run(pending()));
        let accounts = coordinator.accounts();
        let caller = accounts.create_account().await?.account;
        let key = accounts.create_key_for(caller, KeyScope::Inference).await?.key;
        let client = Client::builder(&url).with_api_key(key.expose()).build()?;
        Ok(Self { coordinator, url, client })
    }

    /// Lets a node of one more owner join, and waits until it takes work.
    pub(crate) async fn join(&self, node: AgentBuilder) -> Result<NodeId, AnyError> {
        let accounts = self.coordinator.accounts();
        let owner = accounts.create_account().await?.account;
        let key = accounts.create_key_for(owner, KeyScope::Node).await?.key;
        let connector = WebSocketConnector::new(self.url.parse()?, key.expose().to_owned());
        let agent = node.with_measurement(false).build();
        let (id, mut status) = (agent.node_id(), agent.status());
        tokio::spawn(agent.run_on(connector, pending()));
        status.wait_for(|status| matches!(status, Status::Online { .. })).await?;
        Ok(id)
    }

    /// Carries a plan out and prints which node did what.
    pub(crate) async fn run(&self, plan: Plan) -> Result<PlanAnswer, AnyError> {
        let mut running = self.begin(plan)?;
        while let Some(progress) = running.next().await {
            self.print(&progress);
        }
        Ok(running.finish().await?)
    }

    /// Begins a plan that all nodes may work on, not only the few that the client stays with.
    pub(crate) fn begin(&self, plan: Plan) -> Result<PlanStream, AnyError> {
        Ok(self.client.plan(plan).with_spread(true).stream()?)
    }

    pub(crate) fn print(&self, progress: &Progress) {
        match progress {
            Progress::Answered { unit, placed, .. } => {
                println!("{unit:<14} answered by {}", self.name_of(placed.node));
            }
            Progress::Failed { unit, placed, error, .. } => {
                println!("{unit:<14} failed on {}: {error}", self.name_of(placed.node));
            }
            Progress::Agreed { unit, agreed, dissent } => {
                let names = |nodes: &[NodeId]| {
                    let names: Vec<_> = nodes.iter().map(|id| self.name_of(Some(*id))).collect();
                    names.join(", ")
                };
                println!("{unit:<14} agreed: {}; against: {}", names(agreed), names(dissent));
            }
            _ => {}
        }
    }

    fn name_of(&self, node: Option<NodeId>) -> String {
        let nodes = self.coordinator.nodes();
        let found = nodes.into_iter().find(|known| Some(known.id) == node);
        found.map_or_else(|| "nobody".to_owned(), |known| known.name.unwrap_or_default())
    }

    pub(crate) async fn stop(self) {
        self.coordinator.shutdown().await;
    }
}
