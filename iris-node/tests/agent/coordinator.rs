//! A coordinator that does what its test tells it to, at the other end of in-memory connections.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use iris_core::backend::{BackendError, Operation, Usage};
use iris_core::id::CallerTag;
use iris_core::{AssignmentId, TaskId, Timestamp};
use iris_crypto::certificate::{Expectation, Origin, Role};
use iris_crypto::hello::{Hello, Welcome as SignedWelcome, sign_welcome, verify_hello};
use iris_crypto::hop::{ChunkOpener, TAG_LEN};
use iris_crypto::{
    HopRoot, Identity, PublicIdentity, Signature, SignedCertificate, VerifiedCertificate,
};
use iris_node::agent::{ConnectError, Connector, Link};
use iris_protocol::Frame;
use iris_protocol::connection::{
    CoordinatorConnection, CoordinatorEvent, CoordinatorSession, Welcome,
};
use iris_protocol::frame::{Header, Part};
use iris_protocol::limits::Limits;
use iris_protocol::message::{
    BegunSize, Challenge, Hop, NodeRegister, Rekey, SessionId, TaskAssign,
};
use iris_protocol::text::{Bytes32, Bytes64};
use iris_protocol::transport::{Transport, memory};
use iris_protocol::version::{NEWEST, OLDEST};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// When all certificates of these tests are made.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Nothing takes this long; whatever does has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(10);

type Line = Pin<Box<dyn Transport>>;

pub(crate) struct Coordinator {
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) now: Timestamp,
    /// Signs its welcomes with another key than it should.
    pub(crate) forges: bool,
    /// What the node last registered with.
    pub(crate) register: Option<NodeRegister>,
    /// Who asks from now on, as the node is told.
    pub(crate) caller: Option<CallerTag>,
    lines: mpsc::UnboundedReceiver<Line>,
    line: Option<(Line, CoordinatorConnection)>,
    session: Option<CoordinatorSession>,
    sessions: u8,
    epoch: u32,
    root: Option<HopRoot>,
    openers: HashMap<AssignmentId, ChunkOpener>,
    next: u64,
}

/// What came of an assignment.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) pieces: Vec<String>,
    pub(crate) usage: Option<Usage>,
    pub(crate) error: Option<BackendError>,
}

impl Coordinator {
    /// Makes a coordinator, and what connects agents to it.
    pub(crate) fn new() -> (Self, impl Connector) {
        Self::behind("memory")
    }

    /// Makes a coordinator at `endpoint`, and what connects agents to it.
    pub(crate) fn behind(endpoint: &'static str) -> (Self, impl Connector) {
        let (sender, lines) = mpsc::unbounded_channel();
        let connector = move || {
            let (near, far) = memory::pair(4);
            let sent = sender.send(Box::pin(far) as Line);
            std::future::ready(match sent {
                Ok(()) => Ok(Link::new(endpoint, near)),
                Err(_) => Err(ConnectError::Unreachable {
                    endpoint: "memory".into(),
                    cause: "the test is over".to_owned(),
                }),
            })
        };
        (Self::at(lines), connector)
    }

    /// Makes a coordinator at the end of a connection that is open already.
    pub(crate) fn over(line: impl Transport + 'static) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        sender
            .send(Box::pin(line) as Line)
            .unwrap_or_else(|_| unreachable!("the receiver is held"));
        Self::at(lines)
    }

    fn at(lines: mpsc::UnboundedReceiver<Line>) -> Self {
        Self {
            identity: Identity::generate(),
            limits: Limits::default(),
            now: NOW,
            forges: false,
            register: None,
            lines,
            line: None,
            session: None,
            sessions: 0,
            epoch: 0,
            root: None,
            openers: HashMap::new(),
            next: 0,
            caller: None,
        }
    }

    /// Lets the next connection in and registers the node.
    pub(crate) async fn accept(&mut self) {
        self.challenge().await;
        self.welcome();
        self.flush().await;
    }

    /// Lets the next connection in as far as the node's answer, which must prove what it says.
    pub(crate) async fn challenge(&mut self) {
        self.open_line().await;
        let event = self.event().await;
        let CoordinatorEvent::Register(register) = event else { panic!("{event:?}") };
        self.check(&register);
        self.register = Some(*register);
    }

    /// Lets the next connection in, which the node leaves when it learns who is there.
    pub(crate) async fn challenge_in_vain(&mut self) {
        self.open_line().await;
        self.flush().await;
        assert!(!self.try_event().await);
    }

    async fn open_line(&mut self) {
        let line = timeout(PATIENCE, self.lines.recv()).await.expect("the agent connects");
        let challenge = Challenge {
            min_version: OLDEST,
            max_version: NEWEST,
            nonce: Bytes32::from([3; 32]),
            coordinator: Bytes32::from(*self.identity.public().as_bytes()),
            capabilities: Vec::new(),
        };
        let now = Instant::now().into_std();
        let connection = CoordinatorConnection::new(now, self.limits, challenge);
        self.line = Some((line.unwrap(), connection));
    }

    fn check(&self, register: &NodeRegister) {
        let origin = Origin::from(self.identity.public());
        let certificate = SignedCertificate::decode(register.certificate.as_bytes()).unwrap();
        let expected =
            Expectation { role: Role::Node, now: self.now, min_serial: 0, origin: &origin };
        certificate.verify(&expected).unwrap();
        let node = PublicIdentity::from_bytes(register.identity.0).unwrap();
        assert_eq!(certificate.unverified_claims().identity, node);
        let hello =
            Hello { challenge: &[3; 32], origin: &origin, certificate: &certificate.hash() };
        verify_hello(&node, &hello, &Signature::from_bytes(register.signature.0)).unwrap();
    }

    /// Registers the node; a session that was detached goes on.
    pub(crate) fn welcome(&mut self) {
        let register = self.register.as_ref().unwrap();
        let asked = register.resume.as_ref().map(|resume| resume.session);
        let kept = self.session.take().filter(|session| Some(session.id()) == asked);
        let session = if let Some(session) = &kept {
            self.epoch += 1;
            session.id()
        } else {
            self.sessions += 1;
            (self.epoch, self.next) = (0, 0);
            SessionId::from_bytes([self.sessions; 16])
        };
        let (enc, proof) = self.agree(session);
        let node = PublicIdentity::from_bytes(self.register.as_ref().unwrap().identity.0);
        let welcome = Welcome {
            session,
            node: node.unwrap().node_id(),
            hop: Hop { epoch: self.epoch, enc },
            proof,
        };
        let (_, connection) = self.line.as_mut().unwrap();
        connection.welcome(Instant::now().into_std(), welcome, kept);
    }

    /// Starts a new epoch of keys, to the key of `certificate`.
    pub(crate) async fn rekey(&mut self, certificate: &[u8]) {
        self.register.as_mut().unwrap().certificate = certificate.to_vec().try_into().unwrap();
        self.epoch += 1;
        let session = SessionId::from_bytes([self.sessions; 16]);
        let (enc, proof) = self.agree(session);
        let epoch = self.epoch;
        let (_, connection) = self.line.as_mut().unwrap();
        connection.rekey(Rekey { epoch, enc, proof });
        self.flush().await;
    }

    fn agree(&mut self, session: SessionId) -> (Bytes32, Bytes64) {
        let register = self.register.as_ref().unwrap();
        let binding = Hop::binding(session, self.epoch);
        let certificate = SignedCertificate::decode(register.certificate.as_bytes()).unwrap();
        let key = certificate.unverified_claims().sealing_key;
        let (encapsulated, root) = HopRoot::initiate(&key, &binding).unwrap();
        self.root = Some(root);
        let welcome = SignedWelcome {
            node_nonce: &register.nonce.0,
            encapsulated: &encapsulated,
            session: &binding,
        };
        let forger = Identity::generate();
        let signer = if self.forges { &forger } else { &self.identity };
        let proof = sign_welcome(signer, &welcome);
        (encapsulated.into(), Bytes64::from(*proof.as_bytes()))
    }

    /// Closes the connection without a word, and forgets the session unless it is kept.
    pub(crate) fn cut(&mut self) -> Vec<AssignmentId> {
        let (_, connection) = self.line.take().unwrap();
        let detached = connection.detach();
        self.session = detached.session;
        detached.lost
    }

    /// Forgets the session of the connection that was cut, and returns it.
    pub(crate) fn forget(&mut self) -> Option<CoordinatorSession> {
        self.session.take()
    }

    /// Remembers a session, which the node may resume.
    pub(crate) fn remember(&mut self, session: Option<CoordinatorSession>) {
        self.session = session;
    }

    pub(crate) fn connection(&mut self) -> &mut CoordinatorConnection {
        &mut self.line.as_mut().unwrap().1
    }

    /// Offers a task, streamed and with a minute's time.
    pub(crate) async fn assign(&mut self, model: &str) -> AssignmentId {
        self.assign_with(model, |_| {}).await
    }

    pub(crate) async fn assign_with(
        &mut self,
        model: &str,
        alter: impl FnOnce(&mut TaskAssign),
    ) -> AssignmentId {
        let (mut task, prompt) = self.task(model);
        alter(&mut task);
        self.offer(task, prompt).await
    }

    /// Offers a task and leaves out the end of its prompt.
    pub(crate) async fn assign_in_part(&mut self, model: &str) -> AssignmentId {
        let (task, mut prompt) = self.task(model);
        prompt.pop();
        self.offer(task, prompt).await
    }

    /// Offers a task whose prompt was altered on its way.
    pub(crate) async fn assign_altered(&mut self, model: &str) -> AssignmentId {
        let (task, mut prompt) = self.task(model);
        let mut altered = prompt[1].to_vec();
        *altered.last_mut().unwrap() ^= 1;
        prompt[1] = altered.into();
        self.offer(task, prompt).await
    }

    /// Offers a task whose prompt ends with `begun`, and says that so much of it is an answer's
    /// beginning.
    pub(crate) async fn assign_begun(
        &mut self,
        model: &str,
        begun: &[u8],
        bytes: u32,
    ) -> AssignmentId {
        let (mut task, prompt) = self.task_ending(model, begun);
        task.begun = Some(BegunSize { bytes, tokens: 1 });
        self.offer(task, prompt).await
    }

    async fn offer(&mut self, task: TaskAssign, prompt: Vec<Bytes>) -> AssignmentId {
        let assignment = task.assignment;
        self.connection().assign(task, prompt).unwrap();
        self.flush().await;
        assignment
    }

    /// Makes a task with the frames of its prompt: two, so that parts are met everywhere.
    fn task(&mut self, model: &str) -> (TaskAssign, Vec<Bytes>) {
        self.task_ending(model, b"")
    }

    fn task_ending(&mut self, model: &str, end: &[u8]) -> (TaskAssign, Vec<Bytes>) {
        let body = format!(r#"{{"model":"{model}","stream":true,"messages":[]}}"#);
        self.task_of(model, &[body.as_bytes(), end].concat())
    }

    /// Offers a task with this body, as only the command's tests do.
    #[cfg(all(unix, feature = "cli", feature = "engine", feature = "openai"))]
    pub(crate) async fn assign_body(&mut self, model: &str, body: &str) -> AssignmentId {
        let (task, prompt) = self.task_of(model, body.as_bytes());
        self.offer(task, prompt).await
    }

    /// Offers a request that its caller sealed.
    pub(crate) async fn assign_sealed(&mut self, model: &str, wire: &[u8]) -> AssignmentId {
        let (mut task, prompt) = self.task_of(model, wire);
        task.sealed = true;
        self.offer(task, prompt).await
    }

    /// Returns the certificate that the node registered with, as a caller trusts it.
    pub(crate) fn certificate(&self) -> VerifiedCertificate {
        let origin = Origin::from(self.identity.public());
        let register = self.register.as_ref().unwrap();
        let certificate = SignedCertificate::decode(register.certificate.as_bytes()).unwrap();
        let expected =
            Expectation { role: Role::Node, now: self.now, min_serial: 0, origin: &origin };
        certificate.verify(&expected).unwrap()
    }

    fn task_of(&mut self, model: &str, body: &[u8]) -> (TaskAssign, Vec<Bytes>) {
        let assignment = AssignmentId(self.next);
        self.next += 1;
        let mut channel = self.root.as_mut().unwrap().channel(assignment.0).unwrap();
        let (head, tail) = body.split_at(10);
        let frames = [(0, head, false), (1, tail, true)].map(|(seq, text, last)| {
            let header = Header::body(assignment, seq, last).encode();
            let mut frame = header.to_vec();
            channel.sealer.seal_into(&header, text, &mut frame).unwrap();
            frame.into()
        });
        self.openers.insert(assignment, channel.opener);
        let task = TaskAssign {
            assignment,
            task: TaskId::from_bytes([7; 16]),
            operation: Operation::Chat,
            model: model.parse().unwrap(),
            enable_streaming: true,
            time_left_ms: 60_000,
            prompt_tokens: 10,
            hop_epoch: self.epoch,
            body_bytes: u32::try_from(body.len() + 2 * TAG_LEN).unwrap(),
            begun: None,
            sealed: false,
            caller: self.caller,
        };
        (task, frames.into())
    }

    pub(crate) async fn cancel(&mut self, assignment: AssignmentId) {
        self.connection().cancel(assignment);
        self.flush().await;
    }

    /// Returns what the node does next, heartbeats left out.
    pub(crate) async fn next(&mut self) -> CoordinatorEvent {
        // As many as a node sends in nine hours, the longest that a test waits.
        for _ in 0..3240 {
            match self.event().await {
                CoordinatorEvent::Heartbeat(_) => {}
                event => return event,
            }
        }
        panic!("the agent says nothing but that it lives");
    }

    /// Returns what the node does next.
    pub(crate) async fn event(&mut self) -> CoordinatorEvent {
        self.event_or_end().await.expect("the agent stays connected")
    }

    /// Waits for what the node does next; false when it has left.
    pub(crate) async fn try_event(&mut self) -> bool {
        self.event_or_end().await.is_some()
    }

    async fn event_or_end(&mut self) -> Option<CoordinatorEvent> {
        loop {
            self.flush().await;
            let (line, connection) = self.line.as_mut().unwrap();
            let frame = timeout(PATIENCE, line.next()).await.expect("the agent says something");
            let frame = frame?.ok()?;
            let now = Instant::now().into_std();
            if let Some(event) = connection.handle_frame(now, frame).unwrap() {
                return Some(event);
            }
        }
    }

    /// Sends a frame of the test's own, whatever the protocol says.
    pub(crate) async fn say(&mut self, frame: Frame) {
        // The node may have left already.
        let _ = self.try_say(frame).await;
    }

    /// Sends a frame of the test's own; false when the node has left.
    pub(crate) async fn try_say(&mut self, frame: Frame) -> bool {
        let (line, _) = self.line.as_mut().unwrap();
        line.send(frame).await.is_ok()
    }

    /// Answers the node's next heartbeat, which acknowledges everything that has ended.
    pub(crate) async fn answer_heartbeat(&mut self) {
        while !matches!(self.event().await, CoordinatorEvent::Heartbeat(_)) {}
        self.flush().await;
    }

    /// Returns whether the node closes the connection, reading what comes before.
    pub(crate) async fn is_left(&mut self) -> bool {
        let (line, _) = self.line.as_mut().unwrap();
        let ended = timeout(PATIENCE, async { while line.next().await.is_some() {} }).await;
        ended.is_ok()
    }

    /// Opens a part of an answer and makes room for the next.
    pub(crate) fn open(&mut self, event: CoordinatorEvent) -> String {
        String::from_utf8(self.open_bytes(event)).unwrap()
    }

    pub(crate) fn open_bytes(&mut self, event: CoordinatorEvent) -> Vec<u8> {
        let CoordinatorEvent::Stream(part) = event else { panic!("{event:?}") };
        let assignment = part.header.assignment;
        self.connection().consumed(assignment, 1, part.wire_len());
        let opener = self.openers.get_mut(&assignment).unwrap();
        let (number, header) = (u64::from(part.header.seq), part.header.encode());
        let text = opener.open(number, &header, &part.payload).unwrap();
        assert!(matches!(part.header.part, Part::Stream { .. }));
        text
    }

    /// Adds what comes of an assignment to `answer`, until its end or until it has `pieces`.
    pub(crate) async fn read(&mut self, answer: &mut Answer, pieces: usize) {
        while answer.pieces.len() < pieces {
            match self.next().await {
                CoordinatorEvent::Accepted(_) | CoordinatorEvent::Progress(_) => {}
                CoordinatorEvent::Result(result) => {
                    assert_eq!(result.frames as usize, answer.pieces.len());
                    answer.usage = Some(result.usage);
                    return;
                }
                CoordinatorEvent::Failed(error) => {
                    answer.error = Some(error.error);
                    return;
                }
                event => answer.pieces.push(self.open(event)),
            }
        }
    }

    /// Returns what comes of an assignment.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = Answer::default();
        self.read(&mut answer, usize::MAX).await;
        answer
    }

    /// Sends what is queued, as far as the node is still there.
    pub(crate) async fn flush(&mut self) {
        let (line, connection) = self.line.as_mut().unwrap();
        while let Some(frame) = connection.poll_transmit() {
            if line.send(frame).await.is_err() {
                return;
            }
        }
    }
}
