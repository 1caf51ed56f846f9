use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use iris_core::AssignmentId;
use iris_core::registry::NodeState;
use iris_core::reputation::Deed;
use iris_core::reward::{RewardEvent, What};
use iris_crypto::hello::{Welcome as SignedWelcome, sign_welcome};
use iris_crypto::{HopRoot, Identity};
use iris_protocol::connection::{
    CoordinatorConnection, CoordinatorEvent, CoordinatorSession, Detached, Welcome,
};
use iris_protocol::limits::Limits;
use iris_protocol::message::{ErrorCode, Hop, RefuseReason, Rekey};
use iris_protocol::text::{Bytes32, Bytes64};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, Sleep};

use super::handshake::{flush, verify_certificate};
use super::{Arrival, Assign, BoxTransport, Command, HOUR, Inquire, NodeLink, REKEY_AFTER, Report};
use crate::dispatch::{Dispatch, Lease};

/// How many commands or frames are handled before what they caused is written out.
const BATCH: usize = 64;

/// A node's session: what it works on, while it is connected and while it may come back.
pub(super) struct Session {
    dispatch: Arc<Dispatch>,
    link: Arc<NodeLink>,
    identity: Arc<Identity>,
    limits: Limits,
    /// The encapsulated key of the first epoch, until the node is told of it.
    first: Option<[u8; 32]>,
    readers: HashMap<AssignmentId, Reader>,
    /// The slots of everything that the node holds, cancelled assignments included.
    leases: HashMap<AssignmentId, Lease>,
    /// Since when the node was connected, less the hours that were credited.
    uncredited_since: std::time::Instant,
}

/// Whoever follows an assignment.
struct Reader {
    report: mpsc::Sender<Report>,
    progress: Option<Arc<AtomicBool>>,
}

/// A registered connection.
struct Attached {
    transport: BoxTransport,
    connection: CoordinatorConnection,
    node_nonce: [u8; 32],
    rekey: Pin<Box<Sleep>>,
    silence: Pin<Box<Sleep>>,
}

/// Why a session stopped using a connection.
enum Parting {
    /// The transport failed or the node broke a rule; the node may come back.
    Lost,
    /// The node has come back on another transport.
    Attach(Box<Arrival>),
    /// A new session of the node begins.
    Replaced,
    /// The coordinator stops.
    Closed,
}

impl Session {
    pub(super) fn new(
        dispatch: Arc<Dispatch>,
        link: Arc<NodeLink>,
        identity: Arc<Identity>,
        limits: Limits,
        first: [u8; 32],
    ) -> Self {
        let (readers, leases) = (HashMap::new(), HashMap::new());
        let uncredited_since = dispatch.clock.now();
        let first = Some(first);
        Self { dispatch, link, identity, limits, first, readers, leases, uncredited_since }
    }

    /// Serves the node until it is gone for good.
    pub(super) async fn run(
        mut self,
        mut arrival: Box<Arrival>,
        mut commands: UnboundedReceiver<Command>,
    ) {
        let mut kept: Option<CoordinatorSession> = None;
        loop {
            let Some(mut attached) = self.welcome(arrival, kept.take()) else {
                break;
            };
            tracing::debug!(node = %self.link.node, "node connected");
            let parting = poll_fn(|cx| self.poll(&mut attached, &mut commands, cx)).await;
            let farewell = match parting {
                Parting::Replaced => Some(ErrorCode::Replaced),
                Parting::Closed => Some(ErrorCode::ShuttingDown),
                Parting::Lost | Parting::Attach(_) => None,
            };
            kept = self.detach(attached, farewell).await;
            tracing::debug!(node = %self.link.node, "node disconnected");
            arrival = match parting {
                Parting::Attach(arrival) => arrival,
                Parting::Replaced | Parting::Closed => break,
                Parting::Lost => match self.wait(&mut commands, &mut kept).await {
                    Some(arrival) => arrival,
                    None => break,
                },
            };
        }
        self.end();
    }

    /// Registers an arrived node: on the keys that its link was made with, then on new ones.
    ///
    /// What is large is boxed, so that the task of an idle node holds it once.
    fn welcome(
        &mut self,
        arrival: Box<Arrival>,
        kept: Option<CoordinatorSession>,
    ) -> Option<Box<Attached>> {
        let Arrival { transport, mut connection, register, certificate } = *arrival;
        let returns = kept.is_some();
        self.dispatch.take_terms(&self.link, &register.terms);
        let epoch = self.link.keys().epoch + u32::from(returns);
        let (hop, proof) = if let Some(enc) = self.first.take() {
            self.prove(epoch, enc, &register.nonce.0)
        } else {
            self.dispatch.certify(&self.link, certificate);
            self.rekey(epoch, &register.nonce.0)?
        };
        let welcome = Welcome { session: self.link.session, node: self.link.node, hop, proof };
        let resumption = connection.welcome(self.dispatch.clock.now(), welcome, kept);
        self.lose(&resumption.lost);
        if returns {
            let (slots, models) = (register.slots, register.models);
            self.dispatch.update(self.link.seat, Some(slots), Some(models));
            self.dispatch.set_state(self.link.seat, NodeState::Ready);
        }
        Some(Box::new(Attached {
            transport,
            connection,
            node_nonce: register.nonce.0,
            rekey: Box::pin(tokio::time::sleep(REKEY_AFTER)),
            silence: Box::pin(tokio::time::sleep(self.limits.lost)),
        }))
    }

    /// Agrees on the keys of `epoch` and returns what the node has to know of them.
    fn rekey(&self, epoch: u32, node_nonce: &[u8; 32]) -> Option<(Hop, Bytes64)> {
        let info = Hop::binding(self.link.session, epoch);
        let (enc, root) = HopRoot::initiate(&self.link.certificate().sealing_key(), &info).ok()?;
        let mut keys = self.link.keys();
        keys.epoch = epoch;
        keys.root = root;
        drop(keys);
        Some(self.prove(epoch, enc, node_nonce))
    }

    /// Returns what the node has to know of an epoch.
    fn prove(&self, epoch: u32, enc: [u8; 32], node_nonce: &[u8; 32]) -> (Hop, Bytes64) {
        let info = Hop::binding(self.link.session, epoch);
        let signed = SignedWelcome { node_nonce, encapsulated: &enc, session: &info };
        let proof = sign_welcome(&self.identity, &signed);
        (Hop { epoch, enc: Bytes32::from(enc) }, Bytes64::from(*proof.as_bytes()))
    }

    /// Drives a connection; resolves when it is over.
    fn poll(
        &mut self,
        attached: &mut Attached,
        commands: &mut UnboundedReceiver<Command>,
        cx: &mut Context<'_>,
    ) -> Poll<Parting> {
        loop {
            let mut busy = false;
            for _ in 0..BATCH {
                match commands.poll_recv(cx) {
                    Poll::Ready(Some(command)) => {
                        busy = true;
                        if let Some(parting) = self.handle_command(attached, command) {
                            return Poll::Ready(parting);
                        }
                    }
                    Poll::Ready(None) => return Poll::Ready(Parting::Replaced),
                    Poll::Pending => break,
                }
            }
            for _ in 0..BATCH {
                match attached.transport.as_mut().poll_next(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        busy = true;
                        let now = self.dispatch.clock.now();
                        match attached.connection.handle_frame(now, frame) {
                            Ok(Some(event)) => self.handle_event(attached, event),
                            Ok(None) => {}
                            Err(violation) => return self.expel(attached, &violation, cx),
                        }
                    }
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Parting::Lost),
                    Poll::Pending => break,
                }
            }
            self.poll_rekey(attached, cx);
            if poll_silence(attached, self.dispatch.clock.now(), cx).is_ready() {
                return Poll::Ready(Parting::Lost);
            }
            // A transport that takes nothing now wakes this task when it does.
            if let Poll::Ready(Err(_)) =
                flush(&mut attached.transport, &mut attached.connection, cx)
            {
                return Poll::Ready(Parting::Lost);
            }
            if !busy {
                return Poll::Pending;
            }
        }
    }

    fn handle_command(&mut self, attached: &mut Attached, command: Command) -> Option<Parting> {
        let connection = &mut attached.connection;
        match command {
            Command::Assign(assign) => {
                let Assign { task, body, report, progress, lease } = *assign;
                let assignment = task.assignment;
                match connection.assign(task, body) {
                    Ok(()) => {
                        self.readers.insert(assignment, Reader { report, progress });
                        self.leases.insert(assignment, lease);
                    }
                    // The channel is new and holds nothing yet.
                    Err(_) => drop(report.try_send(Report::Refused(RefuseReason::Busy))),
                }
            }
            Command::Inquire(inquire) => {
                let Inquire { question, body, report, lease } = *inquire;
                let assignment = question.assignment;
                match connection.classify(question, body) {
                    Ok(()) => {
                        self.readers.insert(assignment, Reader { report, progress: None });
                        self.leases.insert(assignment, lease);
                    }
                    Err(_) => drop(report.try_send(Report::Refused(RefuseReason::Busy))),
                }
            }
            Command::Cancel { assignment } => {
                if self.readers.remove(&assignment).is_some() {
                    connection.cancel(assignment);
                }
            }
            Command::Consumed { assignment, frames, bytes } => {
                connection.consumed(assignment, frames, bytes);
            }
            Command::Attach(arrival) => return Some(Parting::Attach(arrival)),
            Command::Replace => return Some(Parting::Replaced),
            Command::Drain => connection.drain(),
            Command::Close => return Some(Parting::Closed),
        }
        None
    }

    fn handle_event(&mut self, attached: &mut Attached, event: CoordinatorEvent) {
        match event {
            CoordinatorEvent::Stream(frame) => {
                let assignment = frame.header.assignment;
                self.report(assignment, Report::Stream(frame));
            }
            CoordinatorEvent::Accepted(assignment) => {
                if let Some(lease) = self.leases.get_mut(&assignment) {
                    lease.accepted();
                }
                self.report(assignment, Report::Accepted);
            }
            CoordinatorEvent::Progress(assignment) => self.report(assignment, Report::Progress),
            CoordinatorEvent::Refused(refuse) => {
                self.report_end(refuse.assignment, Report::Refused(refuse.reason));
            }
            CoordinatorEvent::Result(result) => {
                let report = Report::Finished(result.finish(), result.receipt);
                self.report_end(result.assignment, report);
            }
            CoordinatorEvent::Failed(error) => {
                self.report_end(error.assignment, Report::Failed(error.error, error.receipt));
            }
            CoordinatorEvent::Cancelled(assignment) => drop(self.leases.remove(&assignment)),
            CoordinatorEvent::Heartbeat(heartbeat) => {
                self.credit_uptime();
                if heartbeat.models.is_some() || heartbeat.slots.is_some() {
                    self.dispatch.update(self.link.seat, heartbeat.slots, heartbeat.models);
                }
                if let Some(terms) = heartbeat.terms {
                    self.dispatch.take_terms(&self.link, &terms);
                }
            }
            CoordinatorEvent::Certificate(certificate) => {
                let renewed = verify_certificate(
                    certificate.certificate.as_bytes(),
                    &self.link.identity,
                    &self.identity.public().into(),
                    self.dispatch.clock.calendar(),
                    self.link.certificate().claims().serial.saturating_add(1),
                );
                if let Ok(renewed) = renewed {
                    self.dispatch.certify(&self.link, Arc::new(renewed));
                    attached.rekey.as_mut().reset(Instant::now());
                }
            }
            CoordinatorEvent::Draining => {
                self.link.note_leaving();
                self.dispatch.set_state(self.link.seat, NodeState::Draining);
            }
            CoordinatorEvent::Classified(result) => {
                self.report_end(result.assignment, Report::Classified(result.difficulty));
            }
            // Registration is over.
            CoordinatorEvent::Register(_) => {}
        }
    }

    /// Credits the hours that the node was connected.
    fn credit_uptime(&mut self) {
        let now = self.dispatch.clock.now();
        while now.saturating_duration_since(self.uncredited_since) >= HOUR {
            self.uncredited_since += HOUR;
            let at = self.dispatch.clock.calendar();
            let (node, owner) = (self.link.node, self.link.owner);
            let what = What::Deed { deed: Deed::Uptime };
            self.dispatch.credit(&RewardEvent { at, node, owner, what }, "uptime");
        }
    }

    /// Changes the hop's keys when they are due.
    fn poll_rekey(&mut self, attached: &mut Attached, cx: &mut Context<'_>) {
        if attached.rekey.as_mut().poll(cx).is_pending() {
            return;
        }
        attached.rekey.as_mut().reset(Instant::now() + REKEY_AFTER);
        // The new timer has to be polled once to be armed.
        cx.waker().wake_by_ref();
        let epoch = self.link.keys().epoch + 1;
        if let Some((hop, proof)) = self.rekey(epoch, &attached.node_nonce) {
            attached.connection.rekey(Rekey { epoch, enc: hop.enc, proof });
        }
    }

    /// Tells a node which rule it broke, as far as it still listens.
    fn expel(
        &self,
        attached: &mut Attached,
        violation: &iris_protocol::connection::Violation,
        cx: &mut Context<'_>,
    ) -> Poll<Parting> {
        tracing::warn!(node = %self.link.node, %violation, "node broke a rule of the protocol");
        let message = iris_protocol::text::Label::lossy(&violation.to_string());
        attached.connection.reject(ErrorCode::Violation, message);
        let _ = flush(&mut attached.transport, &mut attached.connection, cx);
        Poll::Ready(Parting::Lost)
    }

    /// Keeps what the node may resume and closes the rest, with a last word where there is one.
    async fn detach(
        &mut self,
        mut attached: Box<Attached>,
        farewell: Option<ErrorCode>,
    ) -> Option<CoordinatorSession> {
        self.dispatch.set_state(self.link.seat, NodeState::Away);
        let Some(code) = farewell else {
            let Detached { session, lost } = attached.connection.detach();
            self.lose(&lost);
            return session;
        };
        // Whoever waits for this session's work need not wait for its farewell.
        report_lost(&mut self.readers);
        self.leases.clear();
        let Attached { transport, connection, .. } = &mut *attached;
        connection.reject(code, None);
        let sent = poll_fn(|cx| flush(transport, connection, cx));
        let _ = tokio::time::timeout(self.limits.registration, sent).await;
        None
    }

    /// Waits for the node to come back; `None` when it does not.
    async fn wait(
        &mut self,
        commands: &mut UnboundedReceiver<Command>,
        kept: &mut Option<CoordinatorSession>,
    ) -> Option<Box<Arrival>> {
        let kept = kept.as_mut()?;
        let until = Instant::now() + self.limits.resume_grace;
        while let Ok(command) = tokio::time::timeout_at(until, commands.recv()).await {
            match command? {
                Command::Attach(arrival) => return Some(arrival),
                Command::Replace | Command::Close => return None,
                // The channel is new and holds nothing yet.
                Command::Assign(assign) => drop(assign.report.try_send(Report::Lost)),
                Command::Inquire(inquire) => drop(inquire.report.try_send(Report::Lost)),
                Command::Cancel { assignment } => {
                    self.readers.remove(&assignment);
                    self.leases.remove(&assignment);
                    kept.cancel(assignment);
                }
                Command::Consumed { assignment, frames, bytes } => {
                    kept.consumed(assignment, frames, bytes);
                }
                Command::Drain => {}
            }
        }
        None
    }

    fn end(self) {
        let Self { mut readers, dispatch, link, .. } = self;
        report_lost(&mut readers);
        dispatch.leave(link.seat);
    }

    fn lose(&mut self, assignments: &[AssignmentId]) {
        for assignment in assignments {
            self.report_end(*assignment, Report::Lost);
        }
    }

    fn report(&mut self, assignment: AssignmentId, report: Report) {
        let Some(Reader { report: reports, progress }) = self.readers.get(&assignment) else {
            return;
        };
        // While anything waits to be read, a mark of progress says nothing new, except beside
        // what is sealed; everything else is bounded by the window, for which the channel has
        // room.
        let idle = reports.capacity() == reports.max_capacity();
        if idle || !matches!(report, Report::Progress) {
            let _ = reports.try_send(report);
        } else if let Some(progress) = progress {
            progress.store(true, Ordering::Relaxed);
        }
    }

    fn report_end(&mut self, assignment: AssignmentId, report: Report) {
        self.leases.remove(&assignment);
        if let Some(reader) = self.readers.remove(&assignment) {
            let _ = reader.report.try_send(report);
        }
    }
}

/// Ends all assignments, in the order in which they were made.
fn report_lost(readers: &mut HashMap<AssignmentId, Reader>) {
    let mut ended: Vec<_> = readers.drain().collect();
    ended.sort_unstable_by_key(|(assignment, _)| *assignment);
    for (_, reader) in ended {
        // A full channel ends with its sender, which its reader takes for the same.
        let _ = reader.report.try_send(Report::Lost);
    }
}

/// Resolves when nothing was heard of the node for too long.
fn poll_silence(
    attached: &mut Attached,
    now: std::time::Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while attached.silence.as_mut().poll(cx).is_ready() {
        match attached.connection.poll_timeout() {
            Some(due) if due > now => attached.silence.as_mut().reset(Instant::from_std(due)),
            _ => return Poll::Ready(()),
        }
    }
    Poll::Pending
}
