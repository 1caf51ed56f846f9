use std::collections::VecDeque;
use std::time::{Duration, Instant};

use iris_core::{AssignmentId, NodeId};

use super::Violation;
use super::allowance::Allowance;
use super::inbound::{CoordinatorSession, End, Inbound, Kind, Stage};
use crate::frame::{Acks, BinaryFrame, DataFrame, Frame};
use crate::limits::{Limits, MAX_ERROR_LEN};
use crate::message::{
    About, Certificate, Challenge, ClassifyAssign, ClassifyResult, CoordinatorMessage, Empty,
    ErrorCode, ErrorMessage, Hop, NodeHeartbeat, NodeMessage, NodeRegister, RegisterAck, Rekey,
    Resume, SessionId, TaskAssign, TaskError, TaskRefuse, TaskResult,
};
use crate::text::{Bytes64, Label};
use crate::version::Version;

/// The coordinator's end of one connection to a node.
///
/// Order of calls: [`new`](Self::new) queues the challenge; [`CoordinatorEvent::Register`]
/// brings the answer, which the caller checks and meets with [`welcome`](Self::welcome) or
/// [`reject`](Self::reject); then [`assign`](Self::assign) and the rest, until a [`Violation`]
/// or the transport's end, when [`detach`](Self::detach) saves what the node may resume.
#[derive(Debug)]
pub struct CoordinatorConnection {
    limits: Limits,
    phase: Phase,
    opened: Instant,
    heard: Instant,
    allowance: Allowance,
    outgoing: VecDeque<Frame>,
    versions: (Version, Version),
    session: CoordinatorSession,
    /// Whether the session has begun.
    registered: bool,
    /// Whether ended assignments are to be acknowledged with the next frames.
    flush_ended: bool,
}

#[derive(Debug)]
enum Phase {
    /// The challenge is out.
    Challenged,
    /// The answer is with the caller.
    Verifying {
        version: Version,
        resume: Option<Resume>,
    },
    Registered,
    /// The last message is queued.
    Closing,
}

/// What a node did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorEvent {
    /// It answered the challenge; its proof is still to be checked.
    Register(Box<NodeRegister>),
    /// It lives.
    Heartbeat(NodeHeartbeat),
    /// It took an assignment on.
    Accepted(AssignmentId),
    /// It turned an assignment down, which thereby ended.
    Refused(TaskRefuse),
    /// Its backend is at work on an assignment.
    Progress(AssignmentId),
    /// It sent the next part of an answer; [`CoordinatorConnection::consumed`] is due when it
    /// has been passed on.
    Stream(DataFrame),
    /// An assignment ended well.
    Result(TaskResult),
    /// An assignment ended with a fault.
    Failed(TaskError),
    /// A cancelled assignment occupies the node no longer.
    Cancelled(AssignmentId),
    /// It answered a question about a task, which thereby ended.
    Classified(ClassifyResult),
    /// It has a new sealing key; the certificate is still to be checked.
    Certificate(Certificate),
    /// It takes nothing more on.
    Draining,
}

/// What the caller decides about a node that has proven who it is.
#[derive(Clone, Copy, Debug)]
pub struct Welcome {
    /// The id of a new session; a resumed one keeps its own.
    pub session: SessionId,
    /// The node's id.
    pub node: NodeId,
    /// Keys for the hop.
    pub hop: Hop,
    /// The coordinator's signature over the handshake.
    pub proof: Bytes64,
}

/// What became of a session's assignments when the node came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumption {
    /// These go on where they stopped.
    pub kept: Vec<AssignmentId>,
    /// These are lost; no event will come for them.
    pub lost: Vec<AssignmentId>,
}

/// What is left of a connection.
#[derive(Debug)]
pub struct Detached {
    /// What the node may resume; `None` when it never registered.
    pub session: Option<CoordinatorSession>,
    /// Assignments that cannot be resumed, since the node had not accepted them or they were
    /// cancelled; no event will come for them.
    pub lost: Vec<AssignmentId>,
}

/// Says why nothing can be assigned. The caller's fault, except for `Full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// The node is not registered.
    #[error("the node is not registered")]
    NotRegistered,
    /// The session holds as many assignments as it may.
    #[error("the session holds as many assignments as it may")]
    Full,
    /// The id is not higher than those before it.
    #[error("assignment ids must ascend")]
    NotAscending,
}

impl CoordinatorConnection {
    /// Opens a connection with a challenge.
    pub fn new(now: Instant, limits: Limits, challenge: Challenge) -> Self {
        let versions = (challenge.min_version, challenge.max_version);
        let challenge = CoordinatorMessage::Challenge(challenge).encode();
        Self {
            limits,
            phase: Phase::Challenged,
            opened: now,
            heard: now,
            allowance: Allowance::new(now, limits.heartbeat),
            outgoing: VecDeque::from([challenge]),
            versions,
            session: CoordinatorSession::new(SessionId::from_bytes([0; 16])),
            registered: false,
            flush_ended: false,
        }
    }

    /// Takes in a frame that arrived at `now`; `None` when it asks nothing of the caller.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        frame: Frame,
    ) -> Result<Option<CoordinatorEvent>, Violation> {
        self.heard = now;
        match frame {
            Frame::Binary(bytes) => self.handle_binary(BinaryFrame::decode(bytes)?),
            Frame::Text(text) => match NodeMessage::decode(text.as_bytes())? {
                Some(message) => self.handle_message(now, message),
                None => self.spend(now).map(|()| None),
            },
        }
    }

    /// Acts on the time; an error when the node has run out of it.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Violation> {
        match self.poll_timeout() {
            Some(due) if due <= now => match self.phase {
                Phase::Registered | Phase::Closing => Err(Violation::Silent),
                _ => Err(Violation::RegistrationTimeout),
            },
            _ => Ok(()),
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Registered | Phase::Closing => self.heard.checked_add(self.limits.lost),
            _ => self.opened.checked_add(self.limits.registration),
        }
    }

    /// Returns the next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        self.outgoing.pop_front().or_else(|| self.acknowledge())
    }

    /// Registers the node, and goes on with `session` if the node asked for that one.
    ///
    /// The caller has checked the node's proof, and that the session belongs to the same node.
    ///
    /// # Panics
    /// If the connection is not waiting for the answer to a [`CoordinatorEvent::Register`].
    pub fn welcome(
        &mut self,
        now: Instant,
        welcome: Welcome,
        session: Option<CoordinatorSession>,
    ) -> Resumption {
        let Phase::Verifying { version, resume } =
            std::mem::replace(&mut self.phase, Phase::Registered)
        else {
            panic!("only a node that has just answered its challenge can be welcomed");
        };
        let resume = resume.as_ref();
        let (resumed, lost) = match (session, resume) {
            (Some(session), Some(resume)) if session.id == resume.session => {
                self.session = session;
                self.session.resume(resume)
            }
            (session, _) => {
                self.session = CoordinatorSession::new(welcome.session);
                (Vec::new(), session.map_or_else(Vec::new, |old| old.assignments().collect()))
            }
        };
        let kept = resumed.iter().map(|kept| kept.assignment).collect();
        self.heard = now;
        self.registered = true;
        self.send(&CoordinatorMessage::RegisterAck(Box::new(RegisterAck {
            version,
            session: self.session.id,
            node: welcome.node,
            heartbeat_ms: millis(self.limits.heartbeat),
            lost_ms: millis(self.limits.lost),
            hop: welcome.hop,
            proof: welcome.proof,
            window: self.limits.window,
            resumed,
        })));
        Resumption { kept, lost }
    }

    /// Queues the message that says why the connection ends; nothing is accepted after it.
    pub fn reject(&mut self, code: ErrorCode, message: Option<Label<MAX_ERROR_LEN>>) {
        self.outgoing.clear();
        self.send(&CoordinatorMessage::Error(ErrorMessage { code, message }));
        self.phase = Phase::Closing;
    }

    /// Offers a task to the node.
    ///
    /// `body` yields whole `BODY` frames, header and sealed payload, whose payloads add up to
    /// the task's `body_bytes`.
    pub fn assign(
        &mut self,
        task: TaskAssign,
        body: impl IntoIterator<Item = bytes::Bytes>,
    ) -> Result<(), AssignError> {
        let kind = if task.sealed { Kind::Sealed } else { Kind::Task };
        self.open(task.assignment, kind)?;
        self.send(&CoordinatorMessage::TaskAssign(task));
        self.outgoing.extend(body.into_iter().map(Frame::Binary));
        Ok(())
    }

    /// Asks the node how difficult a task is; `body` as for [`assign`](Self::assign).
    pub fn classify(
        &mut self,
        question: ClassifyAssign,
        body: impl IntoIterator<Item = bytes::Bytes>,
    ) -> Result<(), AssignError> {
        self.open(question.assignment, Kind::Classify)?;
        self.send(&CoordinatorMessage::ClassifyAssign(question));
        self.outgoing.extend(body.into_iter().map(Frame::Binary));
        Ok(())
    }

    /// Takes an assignment back. [`CoordinatorEvent::Cancelled`] follows when the node is free
    /// of it; nothing follows when it has ended already.
    pub fn cancel(&mut self, assignment: AssignmentId) {
        let Some(inbound) = self.session.table.get_mut(&assignment) else {
            return;
        };
        if inbound.stage != Stage::Cancelled {
            inbound.stage = Stage::Cancelled;
            self.send(&CoordinatorMessage::TaskCancel(About { assignment }));
        }
    }

    /// Starts a new epoch of hop keys.
    pub fn rekey(&mut self, rekey: Rekey) {
        self.send(&CoordinatorMessage::Rekey(rekey));
    }

    /// Announces that nothing more will be assigned.
    pub fn drain(&mut self) {
        self.send(&CoordinatorMessage::Drain(Empty {}));
    }

    /// Records that `frames` of an assignment, `bytes` long with their headers, have left the
    /// coordinator's memory, so that the node may send as many more.
    pub fn consumed(&mut self, assignment: AssignmentId, frames: u32, bytes: usize) {
        let Some(inbound) = self.session.table.get_mut(&assignment) else {
            return;
        };
        let was_due = inbound.ack_is_due(self.limits.window);
        inbound.consume(frames, bytes);
        if !was_due && inbound.ack_is_due(self.limits.window) {
            self.session.due.push(assignment);
        }
    }

    /// Returns how many assignments the node holds, cancelled ones it has not confirmed included.
    pub fn assignments(&self) -> usize {
        self.session.table.len()
    }

    /// Ends the connection and returns what the node may resume.
    pub fn detach(mut self) -> Detached {
        let resumable =
            |inbound: &Inbound| inbound.kind.is_task() && inbound.stage == Stage::Accepted;
        let mut lost: Vec<_> = self
            .session
            .table
            .extract_if(|_, inbound| !resumable(inbound))
            .map(|(id, _)| id)
            .collect();
        lost.sort_unstable();
        Detached { session: self.registered.then_some(self.session), lost }
    }

    fn handle_message(
        &mut self,
        now: Instant,
        message: NodeMessage,
    ) -> Result<Option<CoordinatorEvent>, Violation> {
        match (&self.phase, message) {
            (Phase::Challenged, NodeMessage::NodeRegister(register)) => {
                self.handle_register(register).map(Some)
            }
            (Phase::Registered, message) => self.handle_registered(now, message),
            (Phase::Closing, _) => Ok(None),
            (_, message) => Err(Violation::OutOfOrder(message.name())),
        }
    }

    fn handle_register(
        &mut self,
        register: Box<NodeRegister>,
    ) -> Result<CoordinatorEvent, Violation> {
        let (oldest, newest) = self.versions;
        if !(oldest..=newest).contains(&register.version) || !register.version.is_supported() {
            return Err(Violation::Version);
        }
        self.phase =
            Phase::Verifying { version: register.version, resume: register.resume.clone() };
        Ok(CoordinatorEvent::Register(register))
    }

    fn handle_registered(
        &mut self,
        now: Instant,
        message: NodeMessage,
    ) -> Result<Option<CoordinatorEvent>, Violation> {
        let name = message.name();
        match message {
            NodeMessage::NodeRegister(_) => Err(Violation::OutOfOrder(name)),
            NodeMessage::NodeHeartbeat(heartbeat) => {
                self.spend(now)?;
                self.send(&CoordinatorMessage::HeartbeatAck(Empty {}));
                self.flush_ended = true;
                Ok(Some(CoordinatorEvent::Heartbeat(heartbeat)))
            }
            NodeMessage::TaskAccept(About { assignment }) => self.handle_accept(assignment),
            NodeMessage::TaskRefuse(refuse) => self.handle_refuse(refuse),
            NodeMessage::TaskProgress(About { assignment }) => {
                self.spend(now)?;
                match self.held(assignment)?.stage {
                    Stage::Offered => Err(Violation::AssignmentOrder { assignment, what: name }),
                    Stage::Accepted => Ok(Some(CoordinatorEvent::Progress(assignment))),
                    Stage::Cancelled => Ok(None),
                }
            }
            NodeMessage::TaskResult(result) => {
                let (assignment, frames) = (result.assignment, result.frames);
                let end = End { assignment, frames, what: name, well: true };
                self.handle_end(&end, CoordinatorEvent::Result(result))
            }
            NodeMessage::TaskError(error) => {
                let (assignment, frames) = (error.assignment, error.frames);
                let end = End { assignment, frames, what: name, well: false };
                self.handle_end(&end, CoordinatorEvent::Failed(error))
            }
            NodeMessage::TaskCancelled(About { assignment }) => {
                if self.held(assignment)?.stage != Stage::Cancelled {
                    return Err(Violation::AssignmentOrder { assignment, what: name });
                }
                self.session.table.remove(&assignment);
                Ok(Some(CoordinatorEvent::Cancelled(assignment)))
            }
            NodeMessage::ClassifyResult(result) => self.handle_classified(result),
            NodeMessage::Certificate(certificate) => {
                self.spend(now)?;
                Ok(Some(CoordinatorEvent::Certificate(certificate)))
            }
            NodeMessage::Drain(Empty {}) => {
                self.spend(now)?;
                Ok(Some(CoordinatorEvent::Draining))
            }
        }
    }

    fn handle_accept(
        &mut self,
        assignment: AssignmentId,
    ) -> Result<Option<CoordinatorEvent>, Violation> {
        let inbound = self.held(assignment)?;
        let order = Violation::AssignmentOrder { assignment, what: "TASK_ACCEPT" };
        match (inbound.kind, inbound.stage) {
            (Kind::Task | Kind::Sealed, Stage::Offered) => {
                inbound.stage = Stage::Accepted;
                Ok(Some(CoordinatorEvent::Accepted(assignment)))
            }
            (Kind::Task | Kind::Sealed, Stage::Cancelled) => Ok(None),
            _ => Err(order),
        }
    }

    fn handle_refuse(&mut self, refuse: TaskRefuse) -> Result<Option<CoordinatorEvent>, Violation> {
        let assignment = refuse.assignment;
        let event = match self.held(assignment)?.stage {
            Stage::Offered => CoordinatorEvent::Refused(refuse),
            Stage::Cancelled => CoordinatorEvent::Cancelled(assignment),
            Stage::Accepted => {
                return Err(Violation::AssignmentOrder { assignment, what: "TASK_REFUSE" });
            }
        };
        self.session.table.remove(&assignment);
        Ok(Some(event))
    }

    fn handle_end(
        &mut self,
        end: &End,
        event: CoordinatorEvent,
    ) -> Result<Option<CoordinatorEvent>, Violation> {
        let inbound = self.held(end.assignment)?;
        inbound.end(end)?;
        let (kind, stage) = (inbound.kind, inbound.stage);
        self.session.table.remove(&end.assignment);
        if kind.is_task() {
            self.session.ended.push((end.assignment, end.frames + 1));
            self.flush_ended |= self.session.ended.len() >= self.limits.terminal_acks;
        }
        match stage {
            Stage::Cancelled => Ok(Some(CoordinatorEvent::Cancelled(end.assignment))),
            Stage::Offered | Stage::Accepted => Ok(Some(event)),
        }
    }

    fn handle_classified(
        &mut self,
        result: ClassifyResult,
    ) -> Result<Option<CoordinatorEvent>, Violation> {
        let assignment = result.assignment;
        let inbound = self.held(assignment)?;
        let event = match (inbound.kind, inbound.stage) {
            (Kind::Classify, Stage::Cancelled) => CoordinatorEvent::Cancelled(assignment),
            (Kind::Classify, _) => CoordinatorEvent::Classified(result),
            (Kind::Task | Kind::Sealed, _) => {
                return Err(Violation::AssignmentOrder { assignment, what: "CLASSIFY_RESULT" });
            }
        };
        self.session.table.remove(&assignment);
        Ok(Some(event))
    }

    fn handle_binary(&mut self, frame: BinaryFrame) -> Result<Option<CoordinatorEvent>, Violation> {
        let BinaryFrame::Data(data) = frame else {
            return Err(Violation::WrongSide);
        };
        match self.phase {
            Phase::Registered => {}
            Phase::Closing => return Ok(None),
            _ => return Err(Violation::OutOfOrder("STREAM")),
        }
        let window = self.limits.window;
        let inbound = self.held(data.header.assignment)?;
        inbound.receive(&data, window)?;
        Ok((inbound.stage == Stage::Accepted).then_some(CoordinatorEvent::Stream(data)))
    }

    fn held(&mut self, assignment: AssignmentId) -> Result<&mut Inbound, Violation> {
        let held = self.session.table.get_mut(&assignment);
        held.ok_or(Violation::UnknownAssignment(assignment))
    }

    fn open(&mut self, assignment: AssignmentId, kind: Kind) -> Result<(), AssignError> {
        if !matches!(self.phase, Phase::Registered) {
            return Err(AssignError::NotRegistered);
        }
        if self.session.table.len() >= self.limits.assignments as usize {
            return Err(AssignError::Full);
        }
        if self.session.highest >= Some(assignment) {
            return Err(AssignError::NotAscending);
        }
        self.session.highest = Some(assignment);
        self.session.table.insert(assignment, Inbound::new(kind));
        Ok(())
    }

    fn acknowledge(&mut self) -> Option<Frame> {
        let session = &mut self.session;
        if session.due.is_empty() && !self.flush_ended {
            return None;
        }
        self.flush_ended = false;
        let table = &mut session.table;
        let due =
            session.due.drain(..).filter_map(|id| Some((id, table.get_mut(&id)?.acknowledge())));
        let entries: Vec<_> = due.chain(session.ended.drain(..)).collect();
        let mut entries = entries.into_iter();
        let first = Acks::encode(&mut entries);
        while let Some(frame) = Acks::encode(&mut entries) {
            self.outgoing.push_back(frame);
        }
        first
    }

    fn spend(&mut self, now: Instant) -> Result<(), Violation> {
        let held = u32::try_from(self.session.table.len()).unwrap_or(u32::MAX);
        let most = self.limits.unsolicited.saturating_add(held.saturating_mul(4));
        self.allowance.spend(now, most)
    }

    fn send(&mut self, message: &CoordinatorMessage) {
        self.outgoing.push_back(message.encode());
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
