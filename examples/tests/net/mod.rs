//! A whole network in one process, over in-memory transports: the real coordinator and agents.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "this is test code")]

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_coordinator::{
    Builder, Clock, Coordinator, Placement, Routing, TaskEvent, TaskHandle, TaskRequest,
};
use iris_core::backend::{Backend, Chunk, Operation};
use iris_core::model::Abilities;
use iris_core::queue::Priority;
use iris_core::store::{MemoryStore, Store};
use iris_core::task::Outcome;
use iris_core::{AccountId, ModelName, NodeId, Timestamp};
use iris_crypto::{Identity, Secret};
use iris_node::agent::{Agent, AgentBuilder, ConnectError, Connector, Link, Status};
use iris_protocol::Frame;
use iris_protocol::transport::memory;
use tokio::sync::{oneshot, watch};

pub const OWNER: AccountId = AccountId::from_bytes([1; 16]);
pub const CALLER: AccountId = AccountId::from_bytes([2; 16]);

/// Calendar time that passes with the runtime's timers, and keeps passing from test to test.
#[derive(Debug)]
pub struct VirtualClock;

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn calendar(&self) -> Timestamp {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        Timestamp::from_millis(1_800_000_000_000)
            .saturating_add(self.now().saturating_duration_since(start))
    }
}

/// A coordinator with whatever nodes joined it.
pub struct Net {
    pub coordinator: Coordinator,
    pub store: Arc<dyn Store>,
}

/// Breaks a connection when what it holds is dropped.
type Switch = Arc<Mutex<Option<oneshot::Sender<()>>>>;

/// A node of a [`Net`].
pub struct Node {
    pub id: NodeId,
    /// Breaks the node's current connection when it is sent or dropped.
    cut: Switch,
    stop: Option<oneshot::Sender<()>>,
    agent: tokio::task::JoinHandle<()>,
}

impl Net {
    pub async fn new() -> Self {
        Self::over(Arc::new(MemoryStore::default())).await
    }

    pub async fn over(store: Arc<dyn Store>) -> Self {
        Self::set_up(store, |builder| builder).await
    }

    /// Starts a coordinator with policies of its own.
    pub async fn set_up(store: Arc<dyn Store>, set: impl FnOnce(Builder) -> Builder) -> Self {
        let secret = Secret::from_bytes([9; 32]);
        // The log in a store is that of one identity, whoever starts on it.
        let identity = Identity::from_seed(&Secret::from_bytes([8; 32]));
        let builder = Coordinator::builder(Arc::clone(&store), identity, secret)
            .with_clock(Arc::new(VirtualClock));
        Self { coordinator: set(builder).build().await.unwrap(), store }
    }

    /// Lets a node with one slot join and waits until it takes work.
    pub async fn join(&self, backend: impl Backend) -> Node {
        self.join_as(Identity::generate(), backend, |agent| agent).await
    }

    pub async fn join_as(
        &self,
        identity: Identity,
        backend: impl Backend,
        set: impl FnOnce(AgentBuilder) -> AgentBuilder,
    ) -> Node {
        self.join_of(OWNER, identity, backend, set).await
    }

    /// Lets a node of some account join.
    pub async fn join_of(
        &self,
        owner: AccountId,
        identity: Identity,
        backend: impl Backend,
        set: impl FnOnce(AgentBuilder) -> AgentBuilder,
    ) -> Node {
        let builder = Agent::builder(identity, Arc::new(backend))
            .with_measurement(false)
            .with_clock(|| VirtualClock.calendar());
        let agent = set(builder).build();
        let id = agent.node_id();
        let status = agent.status();
        let cut = Arc::new(Mutex::new(None));
        let connector = self.connector(owner, Arc::clone(&cut), |frame| frame);
        self.launch(agent, id, status, cut, connector).await
    }

    /// Lets a node join whose frames pass through `alter` on their way.
    pub async fn join_through(&self, backend: impl Backend, alter: fn(Frame) -> Frame) -> Node {
        let agent = Agent::builder(Identity::generate(), Arc::new(backend))
            .with_measurement(false)
            .with_clock(|| VirtualClock.calendar())
            .build();
        let (id, status) = (agent.node_id(), agent.status());
        let cut = Arc::new(Mutex::new(None));
        let connector = self.connector(OWNER, Arc::clone(&cut), alter);
        self.launch(agent, id, status, cut, connector).await
    }

    async fn launch(
        &self,
        agent: Agent,
        id: NodeId,
        mut status: watch::Receiver<Status>,
        cut: Switch,
        connector: impl Connector,
    ) -> Node {
        let (stop, stopped) = oneshot::channel::<()>();
        let agent = tokio::spawn(async move {
            let stopped = async {
                // A node whose handle was dropped stays.
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let _ = agent.run_on(connector, stopped).await;
        });
        let online = |status: &Status| matches!(status, Status::Online { .. });
        status.wait_for(online).await.unwrap();
        Node { id, cut, stop: Some(stop), agent }
    }

    fn connector(
        &self,
        owner: AccountId,
        cut: Switch,
        alter: fn(Frame) -> Frame,
    ) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = Result<Link, ConnectError>> + Send>>
    + Send
    + Sync
    + 'static {
        let coordinator = self.coordinator.clone();
        move || {
            let (here, there) = memory::pair(64);
            let (sender, cut_off) = oneshot::channel::<()>();
            *cut.lock().unwrap() = Some(sender);
            let coordinator = coordinator.clone();
            Box::pin(async move {
                let (near, far) = wire(here, cut_off, alter);
                tokio::spawn(far);
                tokio::spawn(async move {
                    let _ = coordinator.serve_node(there, owner).await;
                });
                Ok(Link::new("in process", near))
            })
        }
    }

    pub fn request(&self, model: &str, prompt: &str, stream: bool) -> TaskRequest {
        let body = serde_json::json!({
            "model": model, "stream": stream,
            "messages": [{"role": "user", "content": prompt}],
        });
        TaskRequest {
            id: self.coordinator.new_task_id(),
            account: CALLER,
            key: None,
            operation: Operation::Chat,
            model: model.parse::<ModelName>().unwrap(),
            body: Bytes::from(body.to_string()),
            stream,
            prompt_tokens: 10,
            max_tokens: 0,
            abilities: Abilities::NONE,
            time_limit: Duration::from_mins(1),
            priority: Priority::Interactive,
            placement: Placement::default(),
            routing: Routing::default(),
        }
    }

    pub fn ask(&self, model: &str, prompt: &str) -> TaskHandle {
        self.coordinator.submit(self.request(model, prompt, true))
    }
}

impl Node {
    /// Breaks the connection; the agent comes back.
    pub fn cut(&self) {
        self.cut.lock().unwrap().take();
    }

    /// Ends the node without a word, as a crash does.
    pub fn kill(self) {
        self.cut.lock().unwrap().take();
        self.agent.abort();
    }

    /// Asks the node to finish its work and leave.
    pub async fn stop(mut self) {
        let _ = self.stop.take().expect("a node stops once").send(());
        let _ = (&mut self.agent).await;
    }
}

/// Puts a switch into a transport: both ends close when `cut_off` resolves.
fn wire(
    transport: memory::Memory,
    cut_off: oneshot::Receiver<()>,
    alter: fn(Frame) -> Frame,
) -> (memory::Memory, impl Future<Output = ()>) {
    use futures::{SinkExt, StreamExt};
    let (near, far) = memory::pair(64);
    let pump = async move {
        let (mut out_sink, mut out_stream) = transport.split();
        let (mut in_sink, mut in_stream) = far.split();
        let outward = async {
            while let Some(Ok(frame)) = in_stream.next().await {
                if out_sink.send(alter(frame)).await.is_err() {
                    break;
                }
            }
        };
        let inward = async {
            while let Some(Ok(frame)) = out_stream.next().await {
                if in_sink.send(frame).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = outward => {}
            () = inward => {}
            _ = cut_off => {}
        }
    };
    (near, pump)
}

/// Reads a task to its end: its text, and how it ended.
pub async fn read(handle: &mut TaskHandle) -> (String, Outcome) {
    let mut text = String::new();
    loop {
        match handle.next().await.expect("a task has an end") {
            TaskEvent::Chunk(Chunk::Text(more)) => text.push_str(&more),
            TaskEvent::Ended(outcome) => return (text, outcome),
            TaskEvent::Chunk(_) | TaskEvent::Sealed(_) | TaskEvent::Accepted { .. } => {}
        }
    }
}

/// Reads a task to its end and expects a complete answer.
pub async fn answer(mut handle: TaskHandle) -> String {
    let (text, outcome) = read(&mut handle).await;
    assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?} after {text:?}");
    text
}

/// Writes everything down and returns all settlements.
pub async fn settlements(net: Net) -> Vec<iris_coordinator::Settlement> {
    use futures::StreamExt;
    net.coordinator.shutdown().await;
    let records: Vec<_> = net.store.scan(iris_core::store::Key::all("settlement")).collect().await;
    records.into_iter().map(|record| record.unwrap().value.decode().unwrap()).collect()
}
