//! A node and a coordinator whose frames travel when the test says so, and vanish when it cuts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_core::backend::{Operation, Usage};
use iris_core::terms::Terms;
use iris_core::{AssignmentId, TaskId};
use iris_protocol::connection::{
    CoordinatorConnection, CoordinatorEvent, CoordinatorSession, NodeConnection, NodeEvent,
    Resumption, Welcome,
};
use iris_protocol::frame::{Content, DataFrame, Frame, Header};
use iris_protocol::limits::Limits;
use iris_protocol::message::{
    Challenge, Hardware, Hop, NodeRegister, SessionId, TaskAssign, TaskResult, Window,
};
use iris_protocol::text::{Blob, Bytes32, Bytes64};
use iris_protocol::version::Version;

pub(crate) const KEY: Bytes32 = iris_protocol::text::FixedBytes([1; 32]);
pub(crate) const SIGNATURE: Bytes64 = iris_protocol::text::FixedBytes([2; 64]);

pub(crate) fn challenge() -> Challenge {
    Challenge {
        min_version: Version(1),
        max_version: Version(1),
        nonce: KEY,
        coordinator: KEY,
        capabilities: Vec::new(),
    }
}

pub(crate) fn register() -> NodeRegister {
    NodeRegister {
        version: Version(1),
        capabilities: Vec::new(),
        identity: KEY,
        certificate: Blob::try_from(vec![3; 10]).unwrap(),
        nonce: KEY,
        signature: SIGNATURE,
        name: None,
        agent_version: None,
        slots: 4,
        models: Vec::new(),
        datasets: Vec::new(),
        hardware: Hardware::default(),
        terms: Terms::default(),
        resume: None,
    }
}

pub(crate) fn task(id: u64) -> TaskAssign {
    TaskAssign {
        assignment: AssignmentId(id),
        task: TaskId::from_bytes([4; 16]),
        operation: Operation::Chat,
        model: "tiny".parse().unwrap(),
        enable_streaming: true,
        time_left_ms: 60_000,
        prompt_tokens: 3,
        hop_epoch: 0,
        body_bytes: 6,
        begun: None,
        sealed: false,
        caller: None,
    }
}

pub(crate) fn data(header: Header, payload: &'static [u8]) -> Bytes {
    match (DataFrame { header, payload: Bytes::from_static(payload) }).encode() {
        Frame::Binary(bytes) => bytes,
        Frame::Text(_) => unreachable!("data frames are binary"),
    }
}

pub(crate) fn body(id: u64) -> [Bytes; 2] {
    let header = |seq, last| Header::body(AssignmentId(id), seq, last);
    [data(header(0, false), b"pro"), data(header(1, true), b"mpt")]
}

pub(crate) fn chunk(id: u64, seq: u32) -> Bytes {
    data(Header::stream(AssignmentId(id), seq, Content::Text, false), b"piece")
}

/// A sealed record, as a part of an answer.
pub(crate) fn record(id: u64, seq: u32) -> Bytes {
    data(Header::stream(AssignmentId(id), seq, Content::Sealed, false), b"record")
}

pub(crate) fn result(id: u64, frames: u32) -> TaskResult {
    TaskResult {
        assignment: AssignmentId(id),
        frames,
        reason: "stop".parse().unwrap(),
        usage: Usage::default(),
        receipt: None,
    }
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) limits: Limits,
    pub(crate) node: NodeConnection,
    pub(crate) coordinator: CoordinatorConnection,
    pub(crate) to_node: VecDeque<Frame>,
    pub(crate) to_coordinator: VecDeque<Frame>,
    epoch: u32,
    sessions: u8,
}

impl Pair {
    /// Makes both ends, registered, with a window of `frames`.
    pub(crate) fn with_window(frames: u32) -> Self {
        let now = Instant::now();
        let limits = Limits { window: Window { frames, bytes: 1 << 20 }, ..Limits::default() };
        let mut pair = Self {
            now,
            limits,
            node: NodeConnection::new(now, limits),
            coordinator: CoordinatorConnection::new(now, limits, challenge()),
            to_node: VecDeque::new(),
            to_coordinator: VecDeque::new(),
            epoch: 0,
            sessions: 0,
        };
        pair.handshake(None);
        pair
    }

    pub(crate) fn new() -> Self {
        Self::with_window(8)
    }

    /// Plays a whole registration and returns what each side made of the session.
    fn handshake(
        &mut self,
        session: Option<CoordinatorSession>,
    ) -> (Resumption, Vec<AssignmentId>) {
        self.node.connect(self.now);
        let Some(NodeEvent::Challenged(_)) = self.node_hears() else { panic!("no challenge") };
        self.node.register(register()).unwrap();
        let Some(CoordinatorEvent::Register(_)) = self.coordinator_hears() else {
            panic!("no registration")
        };
        self.sessions += 1;
        let welcome = Welcome {
            session: SessionId::from_bytes([self.sessions; 16]),
            node: "abcdefghijklmnopqrstuvwx27".parse().unwrap(),
            hop: Hop { epoch: self.epoch, enc: KEY },
            proof: SIGNATURE,
        };
        self.epoch += 1;
        let resumption = self.coordinator.welcome(self.now, welcome, session);
        let Some(NodeEvent::Answered(ack)) = self.node_hears() else {
            panic!("no acknowledgement")
        };
        (resumption, self.node.enter(self.now, &ack).unwrap())
    }

    /// Breaks the connection: what was on its way is gone. The node comes back at once.
    ///
    /// Returns the assignments that the coordinator lost and those that the node dropped.
    pub(crate) fn cut(&mut self) -> (Vec<AssignmentId>, Vec<AssignmentId>) {
        self.to_node.clear();
        self.to_coordinator.clear();
        let fresh = CoordinatorConnection::new(self.now, self.limits, challenge());
        let detached = std::mem::replace(&mut self.coordinator, fresh).detach();
        let mut dropped = self.node.disconnect();
        let (resumption, also_dropped) = self.handshake(detached.session);
        let mut lost = detached.lost;
        lost.extend(resumption.lost);
        dropped.extend(also_dropped);
        (lost, dropped)
    }

    /// Breaks the connection and brings up a coordinator that knows no session.
    ///
    /// Returns the assignments that the node dropped.
    pub(crate) fn restart_coordinator(&mut self) -> Vec<AssignmentId> {
        self.coordinator = CoordinatorConnection::new(self.now, self.limits, challenge());
        let mut dropped = self.node.disconnect();
        self.epoch = 0;
        dropped.extend(self.handshake(None).1);
        dropped
    }

    /// Puts what both sides want to send on its way.
    pub(crate) fn transmit(&mut self) {
        while let Some(frame) = self.node.poll_transmit() {
            self.to_coordinator.push_back(frame);
        }
        while let Some(frame) = self.coordinator.poll_transmit() {
            self.to_node.push_back(frame);
        }
    }

    /// Delivers one frame to the node, if one is on its way.
    pub(crate) fn node_hears(&mut self) -> Option<NodeEvent> {
        self.transmit();
        let frame = self.to_node.pop_front()?;
        self.node.handle_frame(self.now, frame).expect("the coordinator keeps the rules")
    }

    /// Delivers one frame to the coordinator, if one is on its way.
    pub(crate) fn coordinator_hears(&mut self) -> Option<CoordinatorEvent> {
        self.transmit();
        let frame = self.to_coordinator.pop_front()?;
        self.coordinator.handle_frame(self.now, frame).expect("the node keeps the rules")
    }

    /// Delivers everything and returns what the coordinator heard.
    pub(crate) fn settle(&mut self) -> Vec<CoordinatorEvent> {
        let mut events = Vec::new();
        loop {
            self.transmit();
            if self.to_node.is_empty() && self.to_coordinator.is_empty() {
                return events;
            }
            self.node_hears();
            events.extend(self.coordinator_hears());
        }
    }

    /// Assigns a task and lets the node accept it.
    pub(crate) fn start(&mut self, id: u64) {
        self.accepted(task(id));
    }

    /// Assigns a task whose caller sealed it, and lets the node accept it.
    pub(crate) fn start_sealed(&mut self, id: u64) {
        self.accepted(TaskAssign { sealed: true, ..task(id) });
    }

    fn accepted(&mut self, task: TaskAssign) {
        let id = task.assignment.0;
        self.coordinator.assign(task, body(id)).unwrap();
        self.settle();
        self.node.accept(AssignmentId(id)).unwrap();
        assert_eq!(self.settle(), [CoordinatorEvent::Accepted(AssignmentId(id))]);
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        self.now += time;
    }
}
