//! A node that does what a test tells it, over a real WebSocket.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use iris_core::backend::{BackendError, Chunk, Finish, Usage};
use iris_core::id::CallerTag;
use iris_core::model::{Abilities, ModelOffer, TokenRate};
use iris_core::{AssignmentId, Timestamp};
use iris_crypto::certificate::{Origin, Role};
use iris_crypto::hello::{Hello, sign_hello};
use iris_crypto::hop::Channel;
use iris_crypto::seal::{AnswerSealer, Outcome, Pieces, SealedRequest, coarse};
use iris_crypto::{
    HopRoot, Identity, PublicIdentity, SealingKey, Secret, SignedCertificate, random_bytes,
};
use iris_protocol::connection::{NodeConnection, NodeEvent};
use iris_protocol::frame::{Content, Frame, HEADER_LEN, Header};
use iris_protocol::limits::Limits;
use iris_protocol::message::{
    Certificate, Challenge, Hop, NodeHeartbeat, NodeRegister, RefuseReason, RegisterAck, Rekey,
    SessionId, TaskAssign, TaskError, TaskResult,
};
use iris_protocol::transport::TransportError;
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};
use iris_protocol::version::SEAL;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

/// One thing that a node does with a task.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Say(Chunk),
    /// Completes the answer, and says that it took so many tokens.
    Claim(Usage),
    /// Finish with `reason` and 3 + 2 tokens.
    Finish(&'static str),
    Fail(BackendError),
    /// Wait until the test opens the gate.
    Wait,
    /// The same, if the last message holds this.
    WaitIf(&'static str),
    /// Say the last message between `<` and `>`, in the form that was asked for.
    Echo,
    /// Turn the task down; in the first place only.
    Refuse(RefuseReason),
    /// Send this in place of sealed records.
    Records(Vec<u8>),
    /// Send a part of an answer of the wrong kind: sealed for open tasks, open for sealed ones.
    Mix,
    /// Finish a sealed task with a receipt that this has changed, or none.
    Forge(fn(Vec<u8>) -> Option<Vec<u8>>),
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
    /// Who asked, as far as nodes are told.
    pub(crate) callers: Arc<Mutex<Vec<Option<CallerTag>>>>,
    pub(crate) cancelled: mpsc::UnboundedReceiver<AssignmentId>,
    certificate: watch::Receiver<Option<SignedCertificate>>,
    gate: watch::Sender<bool>,
    orders: mpsc::UnboundedSender<Order>,
}

/// What a test tells a node to do by itself.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Get a new sealing key, with a certificate for it.
    Renew,
    /// Break the connection.
    Leave,
}

/// Who a node is, and what it says it can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Persona {
    pub(crate) slots: u32,
    pub(crate) identity: [u8; 32],
    pub(crate) seals: bool,
    pub(crate) model: Offered,
}

/// A model that a node offers: its name, its parameters in billions, its speed in tokens a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered(pub(crate) &'static str, pub(crate) u64, pub(crate) u64);

impl Persona {
    /// Makes somebody who takes sealed requests, too.
    pub(crate) fn sealing(slots: u32) -> Self {
        Self { slots, identity: random_bytes(), seals: true, model: Offered(Node::MODEL, 0, 0) }
    }
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
        let persona = Persona { seals: false, ..Persona::sealing(slots) };
        Self::connect_as(server, key, persona, steps).await
    }

    /// Connects a node that is somebody in particular.
    pub(crate) async fn connect_as(
        server: SocketAddr,
        key: &str,
        persona: Persona,
        steps: Vec<Step>,
    ) -> Self {
        Self::try_to_connect(server, key, persona, steps).await.unwrap()
    }

    /// The same; `None` where the node is turned away.
    pub(crate) async fn try_to_connect(
        server: SocketAddr,
        key: &str,
        persona: Persona,
        steps: Vec<Step>,
    ) -> Option<Self> {
        let (gate, opened) = watch::channel(false);
        let (orders, told) = mpsc::unbounded_channel();
        let (certified, certificate) = watch::channel(None);
        let (cancelled_sender, cancelled) = mpsc::unbounded_channel();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let callers = Arc::new(Mutex::new(Vec::new()));
        let stream = TcpStream::connect(server).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = format!("ws://{server}/nodes/connect").into_client_request().unwrap();
        let authorization = format!("Bearer {key}").parse().unwrap();
        request.headers_mut().insert("authorization", authorization);
        let socket = WebSocket::client(stream, request).await.unwrap();
        let agent = Agent {
            identity: Identity::from_seed(&Secret::from_bytes(persona.identity)),
            seals: persona.seals,
            model: persona.model,
            origin: None,
            sealing: vec![SealingKey::generate()],
            session: None,
            extra: Vec::new(),
            certified,
            told,
            connection: NodeConnection::new(Instant::now(), Limits::default()),
            root: None,
            slots: persona.slots,
            steps,
            work: HashMap::new(),
            asked: Arc::clone(&asked),
            callers: Arc::clone(&callers),
            cancelled: cancelled_sender,
            opened,
        };
        let (registered, wait) = tokio::sync::oneshot::channel();
        tokio::spawn(agent.run(socket, registered));
        wait.await.ok()?;
        Some(Self { asked, callers, cancelled, certificate, gate, orders })
    }

    /// Returns the node's current certificate.
    pub(crate) fn certificate(&self) -> SignedCertificate {
        self.certificate.borrow().clone().unwrap()
    }

    /// Gives the node a new sealing key, beside the old ones, and tells the coordinator.
    pub(crate) async fn renew(&mut self) {
        assert!(self.certificate.borrow_and_update().is_some(), "the node has a key");
        self.orders.send(Order::Renew).unwrap();
        self.certificate.changed().await.unwrap();
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
    seals: bool,
    model: Offered,
    origin: Option<Origin>,
    /// The current key comes last.
    sealing: Vec<SealingKey>,
    session: Option<SessionId>,
    /// Frames that the connection would not send.
    extra: Vec<Frame>,
    certified: watch::Sender<Option<SignedCertificate>>,
    told: mpsc::UnboundedReceiver<Order>,
    connection: NodeConnection,
    root: Option<HopRoot>,
    slots: u32,
    steps: Vec<Step>,
    work: HashMap<AssignmentId, Task>,
    callers: Arc<Mutex<Vec<Option<CallerTag>>>>,
    asked: Arc<Mutex<Vec<(bool, Bytes)>>>,
    cancelled: mpsc::UnboundedSender<AssignmentId>,
    opened: watch::Receiver<bool>,
}

struct Task {
    assign: TaskAssign,
    channel: Channel,
    body: Vec<u8>,
    /// The last message of an open task.
    prompt: String,
    next: Option<usize>,
    frames: u32,
    /// Seals the answer to a sealed task.
    answer: Option<AnswerSealer>,
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
            while let Some(frame) = self.connection.poll_transmit().or_else(|| self.extra.pop()) {
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
                // A test that dropped its node tells it nothing more.
                Some(order) = self.told.recv() => match order {
                    Order::Renew => self.renew(),
                    Order::Leave => return,
                },
                () = tokio::time::sleep(HEARTBEAT) => {
                    let due = self.connection.handle_timeout(Instant::now()).unwrap();
                    due.map(|event| self.handle(event));
                }
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
        task.next.is_some_and(|next| match self.steps[next] {
            Step::Wait => true,
            Step::WaitIf(text) => task.prompt.contains(text),
            _ => false,
        })
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
                self.callers.lock().unwrap().push(assign.caller);
                let channel = self.root.as_mut().unwrap().channel(id.0).unwrap();
                if let Some(Step::Refuse(reason)) = self.steps.first() {
                    self.connection.refuse(id, *reason).unwrap();
                    return false;
                }
                if !assign.sealed {
                    self.connection.accept(id).unwrap();
                }
                let (body, next, frames, answer) = (Vec::new(), None, 0, None);
                let prompt = String::new();
                self.work.insert(id, Task { assign, channel, body, prompt, next, frames, answer });
            }
            NodeEvent::Rekey(Rekey { epoch, enc, .. }) => {
                self.agree(self.session.unwrap(), Hop { epoch, enc });
            }
            NodeEvent::Body(part) => {
                let Some(task) = self.work.get_mut(&part.header.assignment) else { return false };
                let (number, header) = (u64::from(part.header.seq), part.header.encode());
                task.body.extend(task.channel.opener.open(number, &header, &part.payload).unwrap());
                if task.body.len() + 16 * (part.header.seq as usize + 1)
                    >= task.assign.body_bytes as usize
                {
                    task.next = Some(0);
                    let body = Bytes::from(std::mem::take(&mut task.body));
                    if task.assign.sealed {
                        let id = task.assign.assignment;
                        let request = SealedRequest::decode(body.clone()).unwrap();
                        let mut keys = self.sealing.iter();
                        let opened = keys.find_map(|key| request.open(key).ok());
                        let Some((_, answer)) = opened else {
                            self.work.remove(&id);
                            self.connection.refuse(id, RefuseReason::StaleKey).unwrap();
                            return false;
                        };
                        task.answer = Some(answer);
                        self.connection.accept(id).unwrap();
                    } else {
                        task.prompt = last_message(&body);
                    }
                    self.asked.lock().unwrap().push((task.assign.enable_streaming, body));
                    return self.work_on();
                }
            }
            NodeEvent::Cancelled(id) => {
                self.work.remove(&id);
                let _ = self.cancelled.send(id);
            }
            NodeEvent::HeartbeatDue => {
                let heartbeat = NodeHeartbeat::default();
                self.connection.heartbeat(heartbeat).unwrap();
            }
            _ => {}
        }
        false
    }

    fn certify(&mut self) -> SignedCertificate {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = Timestamp::from_millis(now.as_millis().try_into().unwrap());
        let (public, serial) = (self.sealing.last().unwrap().public(), self.sealing.len() as u64);
        let origin = self.origin.as_ref().unwrap();
        let certificate =
            SignedCertificate::issue(&self.identity, Role::Node, public, origin, now, serial);
        self.certified.send_replace(Some(certificate.clone()));
        certificate
    }

    fn renew(&mut self) {
        self.sealing.push(SealingKey::generate());
        let certificate = self.certify().encoded().to_vec().try_into().unwrap();
        self.connection.certificate(Certificate { certificate }).unwrap();
    }

    fn register(&mut self, challenge: &Challenge) -> NodeRegister {
        let coordinator = PublicIdentity::from_bytes(challenge.coordinator.0).unwrap();
        let origin = Origin::from(coordinator);
        self.origin = Some(origin.clone());
        let certificate = self.certify();
        let hello = Hello {
            challenge: &challenge.nonce.0,
            origin: &origin,
            certificate: &certificate.hash(),
        };
        let Offered(name, billions, speed) = self.model;
        let mut offer = ModelOffer::new(name.parse().unwrap(), 4096);
        offer.abilities = Abilities::TOOLS.union(Abilities::EMBEDDINGS);
        offer.parameters = (billions > 0).then_some(billions * 1_000_000_000);
        offer.speed = (speed > 0).then(|| TokenRate::per_second(speed));
        NodeRegister {
            version: challenge.max_version,
            capabilities: self.seals.then(|| SEAL.parse().unwrap()).into_iter().collect(),
            identity: (*self.identity.public().as_bytes()).into(),
            certificate: certificate.encoded().to_vec().try_into().unwrap(),
            nonce: random_bytes::<32>().into(),
            signature: (*sign_hello(&self.identity, &hello).as_bytes()).into(),
            name: None,
            agent_version: None,
            slots: self.slots,
            models: vec![offer],
            datasets: Vec::new(),
            hardware: iris_protocol::message::Hardware::default(),
            terms: iris_core::terms::Terms::default(),
            resume: None,
        }
    }

    fn begin(&mut self, ack: &RegisterAck) {
        self.session = Some(ack.session);
        self.agree(ack.session, ack.hop);
    }

    fn agree(&mut self, session: SessionId, hop: Hop) {
        let binding = Hop::binding(session, hop.epoch);
        let key = self.sealing.last().unwrap();
        self.root = Some(HopRoot::accept(key, &hop.enc.0, &binding).unwrap());
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
                    Step::WaitIf(text) if !open && task.prompt.contains(text) => break,
                    Step::Wait | Step::WaitIf(_) => {}
                    Step::Echo => {
                        let text = format!("<{}>", task.prompt);
                        let chunk = if task.assign.enable_streaming {
                            Chunk::Text(text)
                        } else {
                            let message = serde_json::json!({ "content": text });
                            let choice = serde_json::json!({ "message": message });
                            let whole = serde_json::json!({ "choices": [choice] });
                            Chunk::Whole(whole.to_string().into())
                        };
                        let frame = task.seal(&chunk);
                        self.connection.stream(frame).unwrap();
                    }
                    Step::Vanish => return true,
                    Step::Refuse(_) => panic!("a task is refused in the first place"),
                    Step::Say(chunk) => {
                        let frame = task.seal(&chunk);
                        self.connection.stream(frame).unwrap();
                    }
                    Step::Records(records) => {
                        let frame = task.frame(Content::Sealed, &records);
                        self.connection.stream(frame).unwrap();
                    }
                    Step::Mix if task.assign.sealed => {
                        self.extra.push(Frame::Binary(task.frame(Content::Text, b"in the open")));
                    }
                    Step::Mix => {
                        self.extra.push(Frame::Binary(task.frame(Content::Sealed, b"sealed")));
                    }
                    Step::Claim(usage) => {
                        let finish = Finish { reason: "stop".to_owned(), usage };
                        let result = TaskResult::new(id, task.frames, &finish);
                        self.connection.finish(result).unwrap();
                    }
                    Step::Finish(reason) => {
                        let usage = Usage { prompt_tokens: 3, completion_tokens: 2 };
                        let finish = Finish { reason: reason.to_owned(), usage };
                        if let Some((frame, receipt)) = task.end(&self.identity, Ok(&finish)) {
                            self.connection.stream(frame).unwrap();
                            let finish = Finish { reason: "stop".to_owned(), usage: coarse(usage) };
                            let result = TaskResult::new(id, task.frames, &finish);
                            let receipt = receipt.try_into().unwrap();
                            self.connection.finish(result.with_receipt(receipt)).unwrap();
                        } else {
                            let result = TaskResult::new(id, task.frames, &finish);
                            self.connection.finish(result).unwrap();
                        }
                    }
                    Step::Forge(forge) => {
                        let usage = Usage { prompt_tokens: 64, completion_tokens: 64 };
                        let finish = Finish { reason: "stop".to_owned(), usage };
                        let (frame, receipt) = task.end(&self.identity, Ok(&finish)).unwrap();
                        self.connection.stream(frame).unwrap();
                        let mut result = TaskResult::new(id, task.frames, &finish);
                        result.receipt = forge(receipt).map(|forged| forged.try_into().unwrap());
                        self.connection.finish(result).unwrap();
                    }
                    Step::Fail(error) => {
                        let sealed = task.end(&self.identity, Err(&error));
                        if let Some((frame, receipt)) = sealed {
                            self.connection.stream(frame).unwrap();
                            let error = TaskError::new(id, task.frames, BackendError::Failed);
                            let receipt = receipt.try_into().unwrap();
                            self.connection.fail(error.with_receipt(receipt)).unwrap();
                        } else {
                            let error = TaskError::new(id, task.frames, error);
                            self.connection.fail(error).unwrap();
                        }
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

fn last_message(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let message = body["messages"].as_array().and_then(|messages| messages.last());
    message.and_then(|message| message["content"].as_str()).unwrap_or_default().to_owned()
}

impl Task {
    fn seal(&mut self, chunk: &Chunk) -> Bytes {
        if let Some(answer) = &mut self.answer {
            let Chunk::Text(text) = chunk else { panic!("sealed steps say text") };
            let mut records = Vec::new();
            if self.frames == 0 {
                answer.opening(&mut records);
            }
            let mut pieces = Pieces::new(answer.shape());
            assert_eq!(pieces.push_text(text), text.len());
            answer.seal(&pieces, &mut records).unwrap();
            return self.frame(Content::Sealed, &records);
        }
        let (content, bytes) = match chunk {
            Chunk::Text(text) => (Content::Text, text.as_bytes()),
            Chunk::Json(json) => (Content::Json, &json[..]),
            Chunk::Whole(json) => (Content::Whole, &json[..]),
            Chunk::Finished(_) => unreachable!("an end is a message"),
        };
        self.frame(content, bytes)
    }

    /// Ends a sealed answer by its last records, and a receipt; `None` for an open task.
    fn end(
        &mut self,
        identity: &Identity,
        end: Result<&Finish, &BackendError>,
    ) -> Option<(Bytes, Vec<u8>)> {
        let mut answer = self.answer.take()?;
        let mut records = Vec::new();
        if self.frames == 0 {
            answer.opening(&mut records);
        }
        let (outcome, usage) = match end {
            Ok(finish) => {
                answer.end(finish, &mut records).unwrap();
                (Outcome::Complete, finish.usage)
            }
            Err(error) => {
                answer.fault(error, &mut records).unwrap();
                (Outcome::Failed, Usage::default())
            }
        };
        let receipt = answer.finish(identity, outcome, usage, &mut records).unwrap();
        Some((self.frame(Content::Sealed, &records), receipt.encode()))
    }

    fn frame(&mut self, content: Content, bytes: &[u8]) -> Bytes {
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
