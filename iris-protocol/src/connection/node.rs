use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_core::AssignmentId;

use super::Violation;
use super::allowance::Allowance;
use super::outbox::{Kind, Outbox, Stage};
use crate::frame::{Acks, BinaryFrame, DataFrame, Frame};
use crate::limits::{Limits, MAX_BODY, MAX_HELD, MAX_WINDOW};
use crate::message::{
    About, Buffered, Certificate, Challenge, ClassifyAssign, ClassifyResult, CoordinatorMessage,
    Empty, ErrorMessage, NodeHeartbeat, NodeMessage, NodeRegister, RefuseReason, RegisterAck,
    Rekey, Resume, SessionId, TaskAssign, TaskError, TaskRefuse, TaskResult, Window,
};

/// The node's end of its connections to one coordinator.
///
/// Lives as long as the agent and outlasts its sockets. Order of calls: [`connect`](Self::connect)
/// when a transport is open; [`NodeEvent::Challenged`] asks for [`register`](Self::register),
/// [`NodeEvent::Answered`] for a check of its proof and [`enter`](Self::enter), which opens
/// everything else; [`disconnect`](Self::disconnect) after a
/// [`Violation`] or when the transport has ended, and so on from the start. Answers may be
/// [sent](Self::stream) at any time; without a connection they wait within the window.
#[derive(Debug)]
pub struct NodeConnection {
    limits: Limits,
    phase: Phase,
    opened: Instant,
    heard: Instant,
    /// When the next heartbeat is due.
    heartbeat: Instant,
    pings: Pings,
    allowance: Allowance,
    outgoing: VecDeque<Frame>,
    /// Whether something waits to be sent that somebody waits for.
    urgent: bool,
    session: Option<SessionId>,
    epoch: u32,
    window: Window,
    highest: Option<AssignmentId>,
    outboxes: BTreeMap<AssignmentId, Outbox>,
}

/// Times answers to heartbeats, which come in the order of what they answer. One is timed at a time.
#[derive(Debug, Default)]
struct Pings {
    /// When a heartbeat fell due that was not sent yet.
    due: Option<Instant>,
    sent: u64,
    answered: u64,
    /// Which heartbeat is timed, and since when.
    timed: Option<(u64, Instant)>,
    round_trip: Option<Duration>,
}

impl Pings {
    fn sent(&mut self) {
        self.sent += 1;
        if let Some(due) = self.due.take() {
            self.timed.get_or_insert((self.sent, due));
        }
    }

    /// Answers to what was never sent time nothing.
    fn answered(&mut self, now: Instant) {
        self.answered = self.sent.min(self.answered + 1);
        if let Some((_, since)) = self.timed.take_if(|(number, _)| *number == self.answered) {
            self.round_trip = Some(now.saturating_duration_since(since));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Disconnected,
    /// The transport is open; the challenge is due.
    Opened,
    /// The challenge is with the caller.
    Challenged,
    /// The answer is out.
    Registering,
    /// The coordinator's answer is with the caller.
    Answered,
    Registered,
}

/// What a coordinator did, or what the node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// The coordinator wants proof; [`NodeConnection::register`] is due.
    Challenged(Challenge),
    /// The coordinator lets the node in on these terms. The caller checks its proof, and then
    /// [`NodeConnection::enter`] is due; until then nothing has changed.
    Answered(Box<RegisterAck>),
    /// The coordinator offers a task.
    Assigned(TaskAssign),
    /// The coordinator asks how difficult a task is.
    Classify(ClassifyAssign),
    /// The next part of a prompt.
    Body(DataFrame),
    /// The coordinator has taken in parts of answers, so there may be room for more.
    Acknowledged(Acks),
    /// An assignment was taken back; its work is to be stopped. The confirmation is queued.
    Cancelled(AssignmentId),
    /// New keys for the hop, once the caller has checked the coordinator's proof.
    Rekey(Rekey),
    /// The coordinator assigns nothing more.
    Draining,
    /// The coordinator closes the connection.
    Closing(ErrorMessage),
    /// [`NodeConnection::heartbeat`] is due.
    HeartbeatDue,
}

/// Says why nothing can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The window is used up; worth a try after the next [`NodeEvent::Acknowledged`].
    #[error("the window is used up")]
    Full,
    /// The assignment was cancelled or dropped; its work is to be stopped.
    #[error("the assignment is gone")]
    Gone,
    /// The call has no place in the life of the assignment or connection. The caller's fault.
    #[error("the call comes out of order")]
    OutOfOrder,
}

impl NodeConnection {
    /// Makes the end of connections to come.
    pub fn new(now: Instant, limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Disconnected,
            opened: now,
            heard: now,
            heartbeat: now,
            pings: Pings::default(),
            allowance: Allowance::new(now, limits.heartbeat),
            outgoing: VecDeque::new(),
            urgent: false,
            session: None,
            epoch: 0,
            window: limits.window,
            highest: None,
            outboxes: BTreeMap::new(),
        }
    }

    /// Begins a connection over a new transport.
    pub fn connect(&mut self, now: Instant) {
        self.phase = Phase::Opened;
        self.opened = now;
        self.heard = now;
        self.pings = Pings::default();
        self.allowance = Allowance::new(now, self.limits.heartbeat);
        self.outgoing.clear();
    }

    /// Ends the connection; answers to accepted tasks wait for the next one.
    ///
    /// Returns the assignments that cannot be resumed; their work is to be stopped.
    pub fn disconnect(&mut self) -> Vec<AssignmentId> {
        self.phase = Phase::Disconnected;
        self.outgoing.clear();
        self.drop_all(|_, outbox| !outbox.is_resumable())
    }

    /// Takes in a frame that arrived at `now`; `None` when it asks nothing of the caller.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        frame: Frame,
    ) -> Result<Option<NodeEvent>, Violation> {
        self.heard = now;
        match frame {
            Frame::Binary(bytes) => self.handle_binary(BinaryFrame::decode(bytes)?),
            Frame::Text(text) => match CoordinatorMessage::decode(text.as_bytes())? {
                Some(message) => self.handle_message(now, message),
                None => self.spend(now).map(|()| None),
            },
        }
    }

    /// Acts on the time; an error when the coordinator has run out of it.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<Option<NodeEvent>, Violation> {
        match self.phase {
            Phase::Registered if now >= self.heard + self.limits.lost => Err(Violation::Silent),
            Phase::Registered if now >= self.heartbeat => {
                self.heartbeat = now + self.limits.heartbeat;
                self.pings.due = Some(now);
                Ok(Some(NodeEvent::HeartbeatDue))
            }
            Phase::Disconnected | Phase::Registered => Ok(None),
            _ if now >= self.opened + self.limits.registration => {
                Err(Violation::RegistrationTimeout)
            }
            _ => Ok(None),
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Disconnected => None,
            Phase::Registered => Some(self.heartbeat.min(self.heard + self.limits.lost)),
            _ => Some(self.opened + self.limits.registration),
        }
    }

    /// Returns the next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        let frame = self.outgoing.pop_front();
        self.urgent &= frame.is_some();
        frame
    }

    /// Returns whether all that waits to be sent may wait a millisecond longer, for a part of an
    /// answer to go with it. So it is with acceptances, for which coordinators allow seconds.
    pub const fn can_wait(&self) -> bool {
        !self.urgent
    }

    /// Answers the challenge. The connection itself fills in what there is to resume.
    pub fn register(&mut self, mut register: NodeRegister) -> Result<(), SendError> {
        if self.phase != Phase::Challenged {
            return Err(SendError::OutOfOrder);
        }
        register.resume = self.session.map(|session| Resume {
            session,
            assignments: self
                .outboxes
                .iter()
                .map(|(id, outbox)| Buffered { assignment: *id, buffered_from: outbox.first() })
                .collect(),
        });
        self.phase = Phase::Registering;
        self.send(&NodeMessage::NodeRegister(Box::new(register)));
        Ok(())
    }

    /// Registers on the terms of a coordinator that has proven itself, and sends again what it
    /// lacks.
    ///
    /// Returns the assignments that do not go on; their work is to be stopped. A violation is for
    /// [`disconnect`](Self::disconnect), as one of [`handle_frame`](Self::handle_frame).
    ///
    /// # Panics
    ///
    /// Unless [`NodeEvent::Answered`] was the last event.
    pub fn enter(
        &mut self,
        now: Instant,
        ack: &RegisterAck,
    ) -> Result<Vec<AssignmentId>, Violation> {
        assert_eq!(self.phase, Phase::Answered, "only an answered node enters");
        let same = self.session == Some(ack.session);
        self.window = ack.window;
        self.limits.heartbeat = ack.heartbeat();
        self.limits.lost = ack.lost();
        self.session = Some(ack.session);
        self.epoch = ack.hop.epoch;
        self.heartbeat = now + self.limits.heartbeat;
        self.phase = Phase::Registered;
        if !same {
            self.highest = None;
        }
        let resumed = |id: &AssignmentId| same && ack.resumed.iter().any(|r| r.assignment == *id);
        let dropped = self.drop_all(|id, outbox| !resumed(id) || !outbox.is_resumable());
        self.send_again(ack)?;
        Ok(dropped)
    }

    /// Sends a heartbeat; also right away when models or slots have changed.
    pub fn heartbeat(&mut self, heartbeat: NodeHeartbeat) -> Result<(), SendError> {
        self.send_registered(&NodeMessage::NodeHeartbeat(heartbeat))?;
        self.pings.sent();
        Ok(())
    }

    /// Returns how long the coordinator took to answer the last heartbeat that was due, as far as
    /// one was answered since [`connect`](Self::connect).
    pub const fn round_trip(&self) -> Option<Duration> {
        self.pings.round_trip
    }

    /// Takes an assignment on.
    pub fn accept(&mut self, assignment: AssignmentId) -> Result<(), SendError> {
        let outbox = self.outboxes.get_mut(&assignment).ok_or(SendError::Gone)?;
        if outbox.stage != Stage::Offered || outbox.kind == Kind::Classify {
            return Err(SendError::OutOfOrder);
        }
        outbox.stage = Stage::Accepted;
        let urgent = self.urgent;
        let sent = self.send_registered(&NodeMessage::TaskAccept(About { assignment }));
        self.urgent = urgent;
        sent
    }

    /// Turns an assignment down, which thereby ends. What still comes of its prompt is dropped.
    pub fn refuse(
        &mut self,
        assignment: AssignmentId,
        reason: RefuseReason,
    ) -> Result<(), SendError> {
        let outbox = self.outboxes.get(&assignment).ok_or(SendError::Gone)?;
        if outbox.stage != Stage::Offered {
            return Err(SendError::OutOfOrder);
        }
        self.outboxes.remove(&assignment);
        self.send_registered(&NodeMessage::TaskRefuse(TaskRefuse { assignment, reason }))
    }

    /// Shows that a backend is at work on an assignment. Dropped while there is no connection.
    pub fn progress(&mut self, assignment: AssignmentId) -> Result<(), SendError> {
        let outbox = self.outboxes.get(&assignment).ok_or(SendError::Gone)?;
        if outbox.stage != Stage::Accepted || outbox.has_ended() {
            return Err(SendError::OutOfOrder);
        }
        if self.phase == Phase::Registered {
            self.send(&NodeMessage::TaskProgress(About { assignment }));
        }
        Ok(())
    }

    /// Returns whether [`stream`](Self::stream) would take a frame of the assignment now.
    pub fn has_room(&self, assignment: AssignmentId) -> bool {
        self.outboxes.get(&assignment).is_some_and(|outbox| outbox.has_room(self.window))
    }

    /// Sends a whole `STREAM` frame, header and sealed payload, and keeps it until it is
    /// acknowledged. Without a connection it only keeps it.
    pub fn stream(&mut self, frame: Bytes) -> Result<(), SendError> {
        let Ok(BinaryFrame::Data(data)) = BinaryFrame::decode(frame.clone()) else {
            return Err(SendError::OutOfOrder);
        };
        let outbox = self.outboxes.get_mut(&data.header.assignment).ok_or(SendError::Gone)?;
        outbox.push(&data, frame.clone(), self.window)?;
        if self.phase == Phase::Registered {
            self.push(Frame::Binary(frame));
        }
        Ok(())
    }

    /// Ends an assignment well, and keeps the message until it is acknowledged.
    pub fn finish(&mut self, result: TaskResult) -> Result<(), SendError> {
        let (assignment, frames) = (result.assignment, result.frames);
        self.end(assignment, frames, &NodeMessage::TaskResult(result))
    }

    /// Ends an assignment with a fault, and keeps the message until it is acknowledged.
    pub fn fail(&mut self, error: TaskError) -> Result<(), SendError> {
        let (assignment, frames) = (error.assignment, error.frames);
        self.end(assignment, frames, &NodeMessage::TaskError(error))
    }

    /// Answers a question about a task, which thereby ends.
    pub fn classified(&mut self, result: ClassifyResult) -> Result<(), SendError> {
        let outbox = self.outboxes.get(&result.assignment).ok_or(SendError::Gone)?;
        if outbox.kind != Kind::Classify {
            return Err(SendError::OutOfOrder);
        }
        self.outboxes.remove(&result.assignment);
        self.send_registered(&NodeMessage::ClassifyResult(result))
    }

    /// Replaces the certificate of the node's sealing key.
    pub fn certificate(&mut self, certificate: Certificate) -> Result<(), SendError> {
        self.send_registered(&NodeMessage::Certificate(certificate))
    }

    /// Announces that the node takes nothing more on; to be repeated after a reconnect.
    pub fn drain(&mut self) -> Result<(), SendError> {
        self.send_registered(&NodeMessage::Drain(Empty {}))
    }

    /// Returns whether anything is left to do or to be acknowledged.
    pub fn is_idle(&self) -> bool {
        self.outboxes.is_empty()
    }

    fn handle_message(
        &mut self,
        now: Instant,
        message: CoordinatorMessage,
    ) -> Result<Option<NodeEvent>, Violation> {
        match (self.phase, message) {
            (_, CoordinatorMessage::Error(error)) => Ok(Some(NodeEvent::Closing(error))),
            (Phase::Opened, CoordinatorMessage::Challenge(challenge)) => {
                self.phase = Phase::Challenged;
                Ok(Some(NodeEvent::Challenged(challenge)))
            }
            (Phase::Registering, CoordinatorMessage::RegisterAck(ack)) => {
                self.handle_ack(ack).map(Some)
            }
            (Phase::Registered, message) => self.handle_registered(now, message),
            (_, message) => Err(Violation::OutOfOrder(message.name())),
        }
    }

    fn handle_ack(&mut self, ack: Box<RegisterAck>) -> Result<NodeEvent, Violation> {
        let window = ack.window;
        let fits = (1..=MAX_WINDOW.frames).contains(&window.frames)
            && (1..=MAX_WINDOW.bytes).contains(&window.bytes)
            && !ack.heartbeat().is_zero()
            && ack.heartbeat() < ack.lost();
        if !fits {
            return Err(Violation::Terms);
        }
        if !ack.version.is_supported() {
            return Err(Violation::Version);
        }
        if self.session == Some(ack.session) && ack.hop.epoch <= self.epoch {
            return Err(Violation::Epoch);
        }
        self.phase = Phase::Answered;
        Ok(NodeEvent::Answered(ack))
    }

    fn send_again(&mut self, ack: &RegisterAck) -> Result<(), Violation> {
        for resumed in &ack.resumed {
            let outbox = self
                .outboxes
                .get(&resumed.assignment)
                .ok_or(Violation::UnknownAssignment(resumed.assignment))?;
            let frames =
                outbox.from(resumed.next).ok_or(Violation::AckBeyondEnd(resumed.assignment))?;
            self.urgent = true;
            self.outgoing.extend(frames);
        }
        Ok(())
    }

    fn handle_registered(
        &mut self,
        now: Instant,
        message: CoordinatorMessage,
    ) -> Result<Option<NodeEvent>, Violation> {
        match message {
            CoordinatorMessage::HeartbeatAck(Empty {}) => {
                self.pings.answered(now);
                self.spend(now).map(|()| None)
            }
            CoordinatorMessage::TaskAssign(task) => {
                if task.begun.is_some_and(|begun| !(1..task.body_bytes).contains(&begun.bytes)) {
                    return Err(Violation::Length(task.assignment));
                }
                if task.sealed && task.begun.is_some() {
                    return Err(Violation::Sealing(task.assignment));
                }
                let kind = if task.sealed { Kind::Sealed } else { Kind::Task };
                let held = self.open(task.assignment, task.hop_epoch, task.body_bytes, kind)?;
                Ok(held.then_some(NodeEvent::Assigned(task)))
            }
            CoordinatorMessage::ClassifyAssign(question) => {
                let (id, epoch) = (question.assignment, question.hop_epoch);
                let held = self.open(id, epoch, question.body_bytes, Kind::Classify)?;
                Ok(held.then_some(NodeEvent::Classify(question)))
            }
            CoordinatorMessage::TaskCancel(About { assignment }) => self.handle_cancel(assignment),
            CoordinatorMessage::Rekey(rekey) => {
                self.spend(now)?;
                if self.epoch.checked_add(1) != Some(rekey.epoch) {
                    return Err(Violation::Epoch);
                }
                self.epoch = rekey.epoch;
                Ok(Some(NodeEvent::Rekey(rekey)))
            }
            CoordinatorMessage::Drain(Empty {}) => {
                self.spend(now)?;
                Ok(Some(NodeEvent::Draining))
            }
            CoordinatorMessage::Error(error) => Ok(Some(NodeEvent::Closing(error))),
            CoordinatorMessage::Challenge(_) | CoordinatorMessage::RegisterAck(_) => {
                Err(Violation::OutOfOrder(message.name()))
            }
        }
    }

    /// Takes an offer in; false when the node holds too much already and has refused it.
    fn open(
        &mut self,
        assignment: AssignmentId,
        epoch: u32,
        body_bytes: u32,
        kind: Kind,
    ) -> Result<bool, Violation> {
        if self.highest >= Some(assignment) {
            let classify = kind == Kind::Classify;
            let what = if classify { "CLASSIFY_ASSIGN" } else { "TASK_ASSIGN" };
            return Err(Violation::AssignmentOrder { assignment, what });
        }
        if !(1..=MAX_BODY).contains(&(body_bytes as usize)) {
            return Err(Violation::Length(assignment));
        }
        if epoch > self.epoch {
            return Err(Violation::Epoch);
        }
        self.highest = Some(assignment);
        if self.outboxes.len() >= MAX_HELD {
            let reason = RefuseReason::Busy;
            self.send(&NodeMessage::TaskRefuse(TaskRefuse { assignment, reason }));
            return Ok(false);
        }
        self.outboxes.insert(assignment, Outbox::new(body_bytes, kind));
        Ok(true)
    }

    fn handle_cancel(&mut self, assignment: AssignmentId) -> Result<Option<NodeEvent>, Violation> {
        if self.highest < Some(assignment) {
            return Err(Violation::UnknownAssignment(assignment));
        }
        // Whatever ended the assignment before tells the coordinator as much as a confirmation.
        match self.outboxes.remove(&assignment) {
            Some(outbox) if !outbox.has_ended() => {
                self.send(&NodeMessage::TaskCancelled(About { assignment }));
                Ok(Some(NodeEvent::Cancelled(assignment)))
            }
            _ => Ok(None),
        }
    }

    fn handle_binary(&mut self, frame: BinaryFrame) -> Result<Option<NodeEvent>, Violation> {
        if self.phase != Phase::Registered {
            return Err(Violation::OutOfOrder("BODY or ACK"));
        }
        match frame {
            BinaryFrame::Data(data) => {
                let assignment = data.header.assignment;
                match self.outboxes.get_mut(&assignment) {
                    Some(outbox) => {
                        outbox.receive(&data)?;
                        Ok(Some(NodeEvent::Body(data)))
                    }
                    // The rest of a prompt that crossed its refusal.
                    None if self.highest >= Some(assignment) => Ok(None),
                    None => Err(Violation::UnknownAssignment(assignment)),
                }
            }
            BinaryFrame::Ack(acks) => {
                for (assignment, next) in acks.iter() {
                    let Some(outbox) = self.outboxes.get_mut(&assignment) else {
                        continue;
                    };
                    if outbox.acknowledge(assignment, next)? {
                        self.outboxes.remove(&assignment);
                    }
                }
                Ok(Some(NodeEvent::Acknowledged(acks)))
            }
        }
    }

    fn end(
        &mut self,
        assignment: AssignmentId,
        frames: u32,
        message: &NodeMessage,
    ) -> Result<(), SendError> {
        let outbox = self.outboxes.get_mut(&assignment).ok_or(SendError::Gone)?;
        let frame = message.encode();
        if outbox.kind == Kind::Classify {
            self.outboxes.remove(&assignment);
        } else {
            outbox.finish(frames, frame.clone())?;
        }
        if self.phase == Phase::Registered {
            self.push(frame);
        }
        Ok(())
    }

    /// Forgets assignments and returns those of them that are still worked on.
    fn drop_all(
        &mut self,
        mut which: impl FnMut(&AssignmentId, &Outbox) -> bool,
    ) -> Vec<AssignmentId> {
        let gone = self.outboxes.extract_if(.., |id, outbox| which(id, outbox));
        gone.filter(|(_, outbox)| !outbox.has_ended()).map(|(id, _)| id).collect()
    }

    fn spend(&mut self, now: Instant) -> Result<(), Violation> {
        self.allowance.spend(now, self.limits.unsolicited)
    }

    fn send_registered(&mut self, message: &NodeMessage) -> Result<(), SendError> {
        if self.phase != Phase::Registered {
            return Err(SendError::OutOfOrder);
        }
        self.send(message);
        Ok(())
    }

    fn send(&mut self, message: &NodeMessage) {
        self.push(message.encode());
    }

    fn push(&mut self, frame: Frame) {
        self.urgent = true;
        self.outgoing.push_back(frame);
    }
}
