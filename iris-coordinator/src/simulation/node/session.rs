use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use iris_core::AssignmentId;
use iris_core::backend::{BackendError, Chunk, Finish, Usage};
use iris_crypto::certificate::{Origin, Role};
use iris_crypto::hello::{Hello, Welcome, sign_hello, verify_welcome};
use iris_crypto::seal::coarse;
use iris_crypto::{HopRoot, SealingKey, Signature, SignedCertificate, random_bytes};
use iris_protocol::Frame;
use iris_protocol::connection::{NodeConnection, NodeEvent, SendError};
use iris_protocol::frame::Content;
use iris_protocol::limits::{Limits, MAX_NAME_LEN};
use iris_protocol::message::{
    Challenge, Hardware, Hop, NodeHeartbeat, NodeMessage, NodeRegister, RefuseReason, RegisterAck,
    SessionId, TaskAssign, TaskError, TaskResult,
};
use iris_protocol::text::{Bytes32, Bytes64, Label};
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};
use iris_protocol::version::{CONTINUE, SEAL};
use tokio::time::{Instant, sleep_until, timeout};
use turmoil::net::TcpStream;

use super::Shared;
use super::mischief::Mischief;
use super::work::{Arrived, Work};
use crate::Clock;
use crate::simulation::{COORDINATOR, PORT};

/// How long a node tries to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a node shows that its backend is at work.
const PROGRESS: Duration = Duration::from_secs(1);
/// How many epochs of keys a node remembers.
const EPOCHS: usize = 2;
/// How many messages are too many.
const FLOOD: usize = 200;

/// A node's program: its connections, one after another, and what it works on.
pub(super) struct Session {
    shared: Arc<Shared>,
    sealing: SealingKey,
    connection: NodeConnection,
    nonce: [u8; 32],
    resumable: Option<SessionId>,
    /// The keys of the latest epochs; assignments may cross the message that begins one.
    roots: BTreeMap<u32, HopRoot>,
    /// How long a node may be silent.
    lost: Duration,
    work: BTreeMap<AssignmentId, Work>,
    /// Frames beside those of the connection: misbehaviour.
    extra: VecDeque<Frame>,
    /// Whether the node has misbehaved, so that the coordinator may answer as it likes.
    cheated: bool,
}

/// Why a connection is left.
enum Parting {
    /// It has ended, or is to.
    Over,
    /// The node loses its memory.
    Forget,
    /// The node is silent first.
    Freeze,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let limits = Limits::default();
        Self {
            shared,
            sealing: SealingKey::generate(),
            connection: NodeConnection::new(now(), limits),
            nonce: [0; 32],
            resumable: None,
            roots: BTreeMap::new(),
            lost: limits.lost,
            work: BTreeMap::new(),
            extra: VecDeque::new(),
            cheated: false,
        }
    }

    /// Connects once and serves until the connection is over.
    pub(super) async fn connect(&mut self) {
        let Some(mut socket) = self.open().await else { return };
        self.connection.connect(now());
        self.extra.clear();
        let parting = self.serve(&mut socket).await;
        if let Parting::Freeze = parting {
            tokio::time::sleep(self.lost * 2).await;
        }
        drop(socket);
        for lost in self.connection.disconnect() {
            self.work.remove(&lost);
        }
        if let Parting::Forget = parting {
            *self = Self::new(Arc::clone(&self.shared));
        }
        self.count();
    }

    async fn open(&self) -> Option<WebSocket<TcpStream>> {
        let connecting = async {
            let stream = TcpStream::connect((COORDINATOR, PORT)).await.ok()?;
            let url = format!("ws://{COORDINATOR}:{PORT}/nodes/connect");
            let mut request = url.into_client_request().ok()?;
            let bearer = format!("Bearer {}", self.shared.key).parse().ok()?;
            request.headers_mut().insert("authorization", bearer);
            WebSocket::client(stream, request).await.ok()
        };
        timeout(CONNECT, connecting).await.ok().flatten()
    }

    async fn serve(&mut self, socket: &mut WebSocket<TcpStream>) -> Parting {
        let mut progress = Instant::now() + PROGRESS;
        loop {
            while let Some(frame) = self.connection.poll_transmit() {
                if socket.feed(frame).await.is_err() {
                    return Parting::Over;
                }
            }
            while let Some(frame) = self.extra.pop_front() {
                if socket.feed(frame).await.is_err() {
                    return Parting::Over;
                }
            }
            if socket.flush().await.is_err() {
                return Parting::Over;
            }
            let due = self.connection.poll_timeout().map(Instant::from_std);
            let due = due.map_or(progress, |due| due.min(progress));
            let Self { work, connection, .. } = &mut *self;
            let parting = tokio::select! {
                biased;
                frame = socket.next() => match frame {
                    Some(Ok(frame)) => self.receive(frame),
                    _ => Some(Parting::Over),
                },
                (id, item) = poll_fn(|cx| poll_work(work, connection, cx)) => self.carry_on(id, item),
                () = sleep_until(due) => {
                    if Instant::now() >= progress {
                        progress = Instant::now() + PROGRESS;
                        self.mark_progress();
                    }
                    self.check_time()
                }
            };
            self.count();
            if let Some(parting) = parting {
                return parting;
            }
        }
    }

    /// Shows the work to who looks from outside.
    fn count(&self) {
        let running = u32::try_from(self.work.len()).unwrap_or(u32::MAX);
        self.shared.running.store(running, Ordering::Relaxed);
    }

    fn check_time(&mut self) -> Option<Parting> {
        match self.connection.handle_timeout(now()) {
            Ok(Some(NodeEvent::HeartbeatDue)) => {
                let running = u32::try_from(self.work.len()).unwrap_or(u32::MAX);
                let _ = self.connection.heartbeat(NodeHeartbeat { running, ..Default::default() });
                None
            }
            Ok(_) => None,
            Err(_) => Some(Parting::Over),
        }
    }

    fn mark_progress(&mut self) {
        for (id, work) in &self.work {
            if !work.silent {
                // Work whose end is sent makes no progress any more.
                let _ = self.connection.progress(*id);
            }
        }
    }

    fn receive(&mut self, frame: Frame) -> Option<Parting> {
        let handled = self.connection.handle_frame(now(), frame);
        if self.resumable.is_some() {
            self.shared.mark_alive();
        }
        match handled {
            Ok(event) => event.and_then(|event| self.handle(event)),
            Err(violation) => {
                if !self.cheated {
                    let broken = format_args!("the coordinator broke a rule: {violation}");
                    self.shared.trace.broken(&self.shared.name, broken);
                }
                Some(Parting::Over)
            }
        }
    }

    /// Begins or resumes a session with a coordinator that has proven itself.
    fn enter(&mut self, ack: &RegisterAck) -> Option<Parting> {
        let resumed = self.resumable == Some(ack.session);
        if !resumed {
            self.roots.clear();
        }
        self.resumable = Some(ack.session);
        if let Some(parting) = self.take_keys(ack.hop.epoch, &ack.hop.enc, &ack.proof) {
            return Some(parting);
        }
        let dropped = match self.connection.enter(now(), ack) {
            Ok(dropped) => dropped,
            Err(violation) => {
                let broken = format_args!("the coordinator broke a rule: {violation}");
                self.shared.trace.broken(&self.shared.name, broken);
                return Some(Parting::Over);
            }
        };
        for id in dropped {
            self.work.remove(&id);
        }
        self.lost = ack.lost();
        self.cheated = !self.shared.plan.is_honest();
        self.shared.note(if resumed { "resumed" } else { "registered" });
        self.shared.mark_alive();
        None
    }

    fn handle(&mut self, event: NodeEvent) -> Option<Parting> {
        match event {
            NodeEvent::Challenged(challenge) => {
                let register = self.register(&challenge);
                self.connection.register(register).ok()?;
            }
            NodeEvent::Answered(ack) => return self.enter(&ack),
            NodeEvent::Rekey(rekey) => {
                return self.take_keys(rekey.epoch, &rekey.enc, &rekey.proof);
            }
            NodeEvent::Assigned(assign) => return self.take_on(assign),
            NodeEvent::Body(part) => {
                let id = part.header.assignment;
                let work = self.work.get_mut(&id)?;
                match work.receive(&self.shared, &self.sealing, &part) {
                    Ok(Arrived::Whole) if work.is_sealed() => self.connection.accept(id).ok()?,
                    Ok(Arrived::InPart | Arrived::Whole) => {}
                    Ok(Arrived::Sealed) => {
                        self.work.remove(&id);
                        let _ = self.connection.refuse(id, RefuseReason::StaleKey);
                    }
                    Err(_) => {
                        self.shared.trace.broken(&self.shared.name, "a prompt does not open");
                        return Some(Parting::Over);
                    }
                }
            }
            NodeEvent::Cancelled(id) => {
                self.work.remove(&id);
                self.shared.note(format_args!("{id} cancelled"));
            }
            NodeEvent::Closing(error) => {
                self.shared.note(format_args!("turned away: {:?}", error.code));
                return Some(Parting::Over);
            }
            NodeEvent::Classify(question) => {
                let _ = self.connection.refuse(question.assignment, RefuseReason::BadRequest);
            }
            NodeEvent::Acknowledged(_) | NodeEvent::Draining | NodeEvent::HeartbeatDue => {}
        }
        None
    }

    fn register(&mut self, challenge: &Challenge) -> NodeRegister {
        let Shared { identity, coordinator, clock, plan, name, .. } = &*self.shared;
        self.nonce = random_bytes();
        let origin = Origin::from(*coordinator);
        let public = self.sealing.public();
        let certificate =
            SignedCertificate::issue(identity, Role::Node, public, &origin, clock.calendar(), 1);
        let hello = Hello {
            challenge: &challenge.nonce.0,
            origin: &origin,
            certificate: &certificate.hash(),
        };
        let models = futures::FutureExt::now_or_never(plan.backend.models());
        NodeRegister {
            version: challenge.max_version,
            capabilities: [CONTINUE, SEAL].into_iter().filter_map(Label::lossy).collect(),
            identity: (*identity.public().as_bytes()).into(),
            certificate: certificate.encoded().to_vec().try_into().expect("it is short"),
            nonce: self.nonce.into(),
            signature: (*sign_hello(identity, &hello).as_bytes()).into(),
            name: Label::<MAX_NAME_LEN>::lossy(name),
            agent_version: None,
            slots: plan.slots,
            models: models.and_then(Result::ok).unwrap_or_default(),
            datasets: Vec::new(),
            hardware: Hardware::default(),
            terms: iris_core::terms::Terms::default(),
            resume: None,
        }
    }

    /// Takes in the keys of an epoch, if the coordinator's proof holds.
    fn take_keys(&mut self, epoch: u32, enc: &Bytes32, proof: &Bytes64) -> Option<Parting> {
        let binding = Hop::binding(self.resumable?, epoch);
        let welcome = Welcome { node_nonce: &self.nonce, encapsulated: &enc.0, session: &binding };
        let proof = Signature::from_bytes(proof.0);
        let proven = verify_welcome(&self.shared.coordinator, &welcome, &proof).is_ok();
        match HopRoot::accept(&self.sealing, &enc.0, &binding) {
            Ok(root) if proven => {
                self.roots.insert(epoch, root);
                while self.roots.len() > EPOCHS {
                    self.roots.pop_first();
                }
            }
            _ => {
                self.shared.trace.broken(&self.shared.name, "the coordinator's proof fails");
                return Some(Parting::Over);
            }
        }
        None
    }

    fn take_on(&mut self, assign: TaskAssign) -> Option<Parting> {
        let id = assign.assignment;
        self.shared.offered.fetch_add(1, Ordering::Relaxed);
        let mischief = self.draw_mischief();
        self.shared.note(format_args!("{id} offered{}", named(mischief)));
        if mischief == Some(Mischief::Refuses) || self.work.len() >= self.shared.plan.slots as usize
        {
            let _ = self.connection.refuse(id, RefuseReason::Busy);
            return None;
        }
        if mischief == Some(Mischief::Ignores) {
            return None;
        }
        let root = self.roots.get_mut(&assign.hop_epoch);
        let Some(channel) = root.and_then(|root| root.channel(id.0).ok()) else {
            let _ = self.connection.refuse(id, RefuseReason::StaleKey);
            return None;
        };
        // A sealed prompt is taken on once it has opened.
        if !assign.sealed {
            self.connection.accept(id).ok()?;
        }
        self.work.insert(id, Work::new(assign, channel, mischief));
        None
    }

    fn draw_mischief(&self) -> Option<Mischief> {
        let plan = &self.shared.plan;
        let mut dice = self.shared.dice();
        let misbehaves = dice.once_in(plan.once_in) && !plan.mischief.is_empty();
        misbehaves.then(|| *dice.pick(&plan.mischief))
    }

    /// Passes a step of an answer on, or what the node makes of it.
    fn carry_on(&mut self, id: AssignmentId, item: Result<Chunk, BackendError>) -> Option<Parting> {
        let work = self.work.get_mut(&id)?;
        let begun = work.chunks > 0 || !work.assign.enable_streaming;
        let sent = match item {
            Ok(Chunk::Finished(finish)) => return self.finish(id, &finish),
            Err(error) => {
                let receipt = self.end(id, Err(&error));
                let work = self.work.remove(&id)?;
                self.shared.note(format_args!("{id} failed"));
                let mut error = TaskError::new(id, work.frames, error);
                error.receipt = receipt.and_then(|receipt| receipt.try_into().ok());
                let _ = self.connection.fail(error);
                return None;
            }
            Ok(chunk) => self.send(id, &chunk),
        };
        if sent.is_err() {
            self.work.remove(&id);
            return None;
        }
        if begun { self.misbehave(id) } else { None }
    }

    fn send(&mut self, id: AssignmentId, chunk: &Chunk) -> Result<(), SendError> {
        let work = self.work.get_mut(&id).ok_or(SendError::Gone)?;
        work.chunks += 1;
        let babble = Bytes::from_static(b"{\"choices\":[}\n\ndata: [DONE]");
        if work.is_sealed() {
            let records = match work.mischief {
                Some(Mischief::Babbles) => babble.to_vec(),
                _ => work.records(chunk).map_err(|_| SendError::Gone)?,
            };
            return self.send_content(id, Content::Sealed, &records);
        }
        let (content, text) = match (work.mischief, chunk) {
            (Some(Mischief::Babbles), Chunk::Whole(_)) => (Content::Whole, babble),
            (Some(Mischief::Babbles), _) => (Content::Json, babble),
            (Some(Mischief::Confuses), Chunk::Whole(json)) | (_, Chunk::Json(json)) => {
                (Content::Json, json.clone())
            }
            (Some(Mischief::Confuses), Chunk::Text(text)) => {
                (Content::Whole, Bytes::from(text.clone()))
            }
            (_, Chunk::Text(text)) => (Content::Text, Bytes::from(text.clone())),
            (_, Chunk::Whole(json)) => (Content::Whole, json.clone()),
            (_, Chunk::Finished(_)) => return Err(SendError::OutOfOrder),
        };
        self.send_content(id, content, &text)
    }

    fn send_content(
        &mut self,
        id: AssignmentId,
        content: Content,
        text: &[u8],
    ) -> Result<(), SendError> {
        let work = self.work.get_mut(&id).ok_or(SendError::Gone)?;
        let repeats = work.mischief == Some(Mischief::Repeats);
        for frame in work.seal(content, text).map_err(|_| SendError::Gone)? {
            self.connection.stream(frame.clone())?;
            if repeats {
                self.extra.push_back(Frame::Binary(frame));
            }
        }
        Ok(())
    }

    /// Sends the last records of a sealed answer and returns its receipt; `None` for an open one.
    fn end(&mut self, id: AssignmentId, end: Result<&Finish, &BackendError>) -> Option<Vec<u8>> {
        let (records, receipt) = self.work.get_mut(&id)?.end(&self.shared.identity, end)?;
        self.send_content(id, Content::Sealed, &records).ok()?;
        Some(receipt)
    }

    fn finish(&mut self, id: AssignmentId, finish: &Finish) -> Option<Parting> {
        let receipt = self.end(id, Ok(finish));
        let work = self.work.remove(&id)?;
        self.shared.note(format_args!("{id} finished"));
        let mut result = TaskResult::new(id, work.frames, finish);
        if let Some(receipt) = receipt {
            result.usage = coarse(finish.usage);
            result.receipt = receipt.try_into().ok();
        }
        if work.mischief == Some(Mischief::EndsTwice) {
            self.extra.push_back(NodeMessage::TaskResult(result.clone()).encode());
        }
        if work.mischief == Some(Mischief::Miscounts) {
            let result = TaskResult { frames: work.frames + 1, ..result };
            self.extra.push_back(NodeMessage::TaskResult(result).encode());
            return None;
        }
        let _ = self.connection.finish(result);
        None
    }

    /// Does what the node has in mind for the midst of an answer.
    fn misbehave(&mut self, id: AssignmentId) -> Option<Parting> {
        let work = self.work.get_mut(&id)?;
        let mischief = work.mischief?;
        match mischief {
            Mischief::Stalls => work.silent = true,
            Mischief::Vanishes => {
                work.mischief = None;
                return Some(Parting::Over);
            }
            Mischief::Forgets => return Some(Parting::Forget),
            Mischief::Freezes => {
                work.mischief = None;
                return Some(Parting::Freeze);
            }
            Mischief::Floods => {
                let heartbeat = NodeMessage::NodeHeartbeat(NodeHeartbeat::default()).encode();
                self.extra.extend(std::iter::repeat_n(heartbeat, FLOOD));
                work.mischief = None;
            }
            Mischief::Invents => {
                let (reason, usage) = ("stop".to_owned(), Usage::default());
                let result =
                    TaskResult::new(AssignmentId(id.0 + 1000), 0, &Finish { reason, usage });
                self.extra.push_back(NodeMessage::TaskResult(result).encode());
                work.mischief = None;
            }
            _ => {}
        }
        None
    }
}

/// Polls for the next step of any answer that has room.
fn poll_work(
    work: &mut BTreeMap<AssignmentId, Work>,
    connection: &NodeConnection,
    cx: &mut Context<'_>,
) -> Poll<(AssignmentId, Result<Chunk, BackendError>)> {
    for (id, work) in work {
        if connection.has_room(*id)
            && let Poll::Ready(item) = work.poll(cx)
        {
            return Poll::Ready((*id, item));
        }
    }
    Poll::Pending
}

fn named(mischief: Option<Mischief>) -> String {
    mischief.map_or_else(String::new, |mischief| format!(", {mischief:?}"))
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
