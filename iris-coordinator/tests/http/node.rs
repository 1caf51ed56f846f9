//! A node that does what a test tells it, over a real WebSocket.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use iris_core::backend::{BackendError, Chunk, Finish, Usage};
use iris_core::model::{Abilities, ModelOffer};
use iris_core::{AssignmentId, Timestamp};
use iris_crypto::certificate::{Origin, Role};
use iris_crypto::hello::{Hello, sign_hello};
use iris_crypto::hop::Channel;
use iris_crypto::{HopRoot, Identity, PublicIdentity, SealingKey, SignedCertificate, random_bytes};
use iris_protocol::connection::{NodeConnection, NodeEvent};
use iris_protocol::frame::{Content, HEADER_LEN, Header};
use iris_protocol::limits::Limits;
use iris_protocol::message::{
    Certificate, Challenge, Hop, NodeHeartbeat, NodeRegister, RegisterAck, TaskAssign, TaskError,
    TaskResult,
};
use iris_protocol::transport::TransportError;
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};
use iris_protocol::version::Capability;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

/// One thing that a node does with a task.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Say(Chunk),
    /// Finish with `reason` and 3 + 2 tokens.
    Finish(&'static str),
    Fail(BackendError),
    /// Wait until the test opens the gate.
    Wait,
    /// Break the connection.
    Vanish,
}

impl Step {
    pub(crate) fn text(text: &str) -> Self {
        Self::Say(Chunk::Text(text.to_owned()))
    }

    pub(crate) fn json(json: &'static str) -> Self {
        Self::Say(Chunk::Json(Bytes::from_static(json.as_bytes())))
    }

    pub(crate) fn whole(json: &'static str) -> Self {
        Self::Say(Chunk::Whole(Bytes::from_static(json.as_bytes())))
    }
}

/// What a test sees of its node.
pub(crate) struct Node {
    /// The bodies that came, and whether streaming was asked for.
    pub(crate) asked: Arc<Mutex<Vec<(bool, Bytes)>>>,
    pub(crate) cancelled: mpsc::UnboundedReceiver<AssignmentId>,
    gate: watch::Sender<bool>,
    orders: mpsc::UnboundedSender<Order>,
}

/// What a test tells a node to do by itself.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Get a new certificate.
    Renew,
    /// Break the connection.
    Leave,
}

impl Node {
    pub(crate) const MODEL: &str = "org/model:q4";

    /// Connects a node with `slots` that answers every task by `steps`.
    pub(crate) async fn connect(
        server: SocketAddr,
        key: &str,
        slots: u32,
        steps: Vec<Step>,
    ) -> Self {
        Self::connect_as(server, key, slots, steps, &[]).await
    }

    /// Connects a node that names `capabilities`.
    pub(crate) async fn connect_as(
        server: SocketAddr,
        key: &str,
        slots: u32,
        steps: Vec<Step>,
        capabilities: &[&str],
    ) -> Self {
        let (gate, opened) = watch::channel(false);
        let (cancelled_sender, cancelled) = mpsc::unbounded_channel();
        let (orders, told) = mpsc::unbounded_channel();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stream = TcpStream::connect(server).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = format!("ws://{server}/nodes/connect").into_client_request().unwrap();
        let authorization = format!("Bearer {key}").parse().unwrap();
        request.headers_mut().insert("authorization", authorization);
        let socket = WebSocket::client(stream, request).await.unwrap();
        let agent = Agent {
            identity: Identity::generate(),
            sealing: SealingKey::generate(),
            connection: NodeConnection::new(Instant::now(), Limits::default()),
            root: None,
            certificate: None,
            capabilities: capabilities.iter().map(|name| name.parse().unwrap()).collect(),
            slots,
            steps,
            work: HashMap::new(),
            asked: Arc::clone(&asked),
            cancelled: cancelled_sender,
            opened,
            told,
        };
        let (registered, wait) = tokio::sync::oneshot::channel();
        tokio::spawn(agent.run(socket, registered));
        wait.await.unwrap();
        Self { asked, cancelled, gate, orders }
    }

    /// Gets a new certificate and tells the coordinator.
    pub(crate) fn renew(&self) {
        self.orders.send(Order::Renew).unwrap();
    }

    /// Breaks the connection.
    pub(crate) fn leave(self) {
        self.orders.send(Order::Leave).unwrap();
    }

    /// Lets all tasks go on that wait.
    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }
}

/// How long a node that hears nothing waits before it looks whether a heartbeat is due.
const HEARTBEAT: Duration = Duration::from_secs(5);

struct Agent {
    identity: Identity,
    sealing: SealingKey,
    connection: NodeConnection,
    root: Option<HopRoot>,
    certificate: Option<SignedCertificate>,
    capabilities: Vec<Capability>,
    slots: u32,
    steps: Vec<Step>,
    work: HashMap<AssignmentId, Task>,
    asked: Arc<Mutex<Vec<(bool, Bytes)>>>,
    cancelled: mpsc::UnboundedSender<AssignmentId>,
    opened: watch::Receiver<bool>,
    told: mpsc::UnboundedReceiver<Order>,
}

struct Task {
    assign: TaskAssign,
    channel: Channel,
    body: Vec<u8>,
    next: Option<usize>,
    frames: u32,
}

impl Agent {
    async fn run(
        mut self,
        mut socket: WebSocket<TcpStream>,
        registered: tokio::sync::oneshot::Sender<()>,
    ) {
        let mut registered = Some(registered);
        self.connection.connect(Instant::now());
        loop {
            while let Some(frame) = self.connection.poll_transmit() {
                if socket.send(frame).await.is_err() {
                    return;
                }
            }
            if self.root.is_some()
                && let Some(registered) = registered.take()
            {
                registered.send(()).unwrap();
            }
            let mut opened = self.opened.clone();
            let waits = self.work.values().any(|task| self.waits(task)) && !*opened.borrow();
            tokio::select! {
                frame = socket.next() => {
                    let Some(frame) = frame else { return };
                    let Ok(frame) = frame as Result<_, TransportError> else { return };
                    let event = self.connection.handle_frame(Instant::now(), frame).unwrap();
                    if event.is_some_and(|event| self.handle(event)) {
                        return;
                    }
                }
                () = tokio::time::sleep(HEARTBEAT) => {
                    let due = self.connection.handle_timeout(Instant::now()).unwrap();
                    due.map(|event| self.handle(event));
                }
                // A test that dropped its node tells it nothing more.
                Some(order) = self.told.recv() => match order {
                    Order::Renew => self.renew(),
                    Order::Leave => return,
                },
                changed = opened.changed(), if waits => {
                    // The test is over when the gate is gone.
                    if changed.is_err() || self.work_on() {
                        return;
                    }
                }
            }
        }
    }

    fn waits(&self, task: &Task) -> bool {
        task.next.is_some_and(|next| matches!(self.steps[next], Step::Wait))
    }

    /// Handles an event; true when the node vanishes.
    fn handle(&mut self, event: NodeEvent) -> bool {
        match event {
            NodeEvent::Challenged(challenge) => {
                let register = self.register(&challenge);
                self.connection.register(register).unwrap();
            }
            NodeEvent::Answered(ack) => {
                self.connection.enter(Instant::now(), &ack).unwrap();
                self.begin(&ack);
            }
            NodeEvent::Assigned(assign) => {
                let id = assign.assignment;
                let channel = self.root.as_mut().unwrap().channel(id.0).unwrap();
                self.connection.accept(id).unwrap();
                let task = Task { assign, channel, body: Vec::new(), next: None, frames: 0 };
                self.work.insert(id, task);
            }
            NodeEvent::Body(part) => {
                let task = self.work.get_mut(&part.header.assignment).unwrap();
                let (number, header) = (u64::from(part.header.seq), part.header.encode());
                task.body.extend(task.channel.opener.open(number, &header, &part.payload).unwrap());
                if task.body.len() + 16 * (part.header.seq as usize + 1)
                    >= task.assign.body_bytes as usize
                {
                    task.next = Some(0);
                    let body = std::mem::take(&mut task.body).into();
                    self.asked.lock().unwrap().push((task.assign.enable_streaming, body));
                    return self.work_on();
                }
            }
            NodeEvent::Cancelled(id) => {
                self.work.remove(&id);
                let _ = self.cancelled.send(id);
            }
            NodeEvent::HeartbeatDue => {
                let heartbeat = NodeHeartbeat { running: 0, models: None, slots: None };
                self.connection.heartbeat(heartbeat).unwrap();
            }
            _ => {}
        }
        false
    }

    fn renew(&mut self) {
        let mut claims = self.certificate.as_ref().unwrap().unverified_claims().clone();
        claims.serial += 1;
        let renewed = SignedCertificate::sign(&self.identity, claims);
        let certificate = renewed.encoded().to_vec().try_into().unwrap();
        self.connection.certificate(Certificate { certificate }).unwrap();
        self.certificate = Some(renewed);
    }

    fn register(&mut self, challenge: &Challenge) -> NodeRegister {
        let coordinator = PublicIdentity::from_bytes(challenge.coordinator.0).unwrap();
        let origin = Origin::from(coordinator);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = Timestamp::from_millis(now.as_millis().try_into().unwrap());
        let public = self.sealing.public();
        let certificate =
            SignedCertificate::issue(&self.identity, Role::Node, public, &origin, now, 1);
        self.certificate = Some(certificate.clone());
        let hello = Hello {
            challenge: &challenge.nonce.0,
            origin: &origin,
            certificate: &certificate.hash(),
        };
        let mut offer = ModelOffer::new(Self::model(), 4096);
        offer.abilities = Abilities::TOOLS;
        NodeRegister {
            version: challenge.max_version,
            capabilities: self.capabilities.clone(),
            identity: (*self.identity.public().as_bytes()).into(),
            certificate: certificate.encoded().to_vec().try_into().unwrap(),
            nonce: random_bytes::<32>().into(),
            signature: (*sign_hello(&self.identity, &hello).as_bytes()).into(),
            name: None,
            agent_version: None,
            slots: self.slots,
            models: vec![offer],
            hardware: iris_protocol::message::Hardware::default(),
            resume: None,
        }
    }

    fn model() -> iris_core::ModelName {
        Node::MODEL.parse().unwrap()
    }

    fn begin(&mut self, ack: &RegisterAck) {
        let binding = Hop::binding(ack.session, ack.hop.epoch);
        self.root = Some(HopRoot::accept(&self.sealing, &ack.hop.enc.0, &binding).unwrap());
    }

    /// Takes every task as far as it goes now; true when the node vanishes.
    fn work_on(&mut self) -> bool {
        let open = *self.opened.borrow();
        let ids: Vec<_> = self.work.keys().copied().collect();
        for id in ids {
            let task = self.work.get_mut(&id).unwrap();
            while let Some(step) = task.next.and_then(|next| self.steps.get(next)).cloned() {
                match step {
                    Step::Wait if !open => break,
                    Step::Wait => {}
                    Step::Vanish => return true,
                    Step::Say(chunk) => {
                        let frame = task.seal(&chunk);
                        self.connection.stream(frame).unwrap();
                    }
                    Step::Finish(reason) => {
                        let usage = Usage { prompt_tokens: 3, completion_tokens: 2 };
                        let finish = Finish { reason: reason.to_owned(), usage };
                        let result = TaskResult::new(id, task.frames, &finish);
                        self.connection.finish(result).unwrap();
                    }
                    Step::Fail(error) => {
                        let error = TaskError::new(id, task.frames, error);
                        self.connection.fail(error).unwrap();
                    }
                }
                task.next = task.next.map(|next| next + 1);
            }
            if task.next.is_some_and(|next| next >= self.steps.len()) {
                self.work.remove(&id);
            }
        }
        false
    }
}

impl Task {
    fn seal(&mut self, chunk: &Chunk) -> Bytes {
        let (content, bytes) = match chunk {
            Chunk::Text(text) => (Content::Text, text.as_bytes()),
            Chunk::Json(json) => (Content::Json, &json[..]),
            Chunk::Whole(json) => (Content::Whole, &json[..]),
            Chunk::Finished(_) => unreachable!("an end is a message"),
        };
        let header = Header::stream(self.assign.assignment, self.frames, content, false).encode();
        let mut frame = Vec::with_capacity(HEADER_LEN + bytes.len() + 16);
        frame.extend_from_slice(&header);
        self.channel.sealer.seal_into(&header, bytes, &mut frame).unwrap();
        self.frames += 1;
        frame.into()
    }
}

/// How long a test waits for what must happen before it counts as failed.
pub(crate) const SOON: Duration = Duration::from_secs(20);
