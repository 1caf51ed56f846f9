use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::SinkExt;
use futures::future::BoxFuture;
use iris_core::AssignmentId;
use iris_crypto::seal::Replays;
use iris_protocol::connection::{NodeConnection, NodeEvent};
use iris_protocol::frame::Frame;
use iris_protocol::message::{Certificate, NodeHeartbeat, SessionId};
use iris_protocol::transport::{Transport, TransportError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, info, warn};

use super::assignment::Assignment;
use super::connector::{ConnectError, Connector, Link};
use super::handshake::Handshake;
use super::sealing::Sealing;
use super::worker::{CREDIT, Output, Run};
use super::{AgentError, Core, Status};
use crate::backoff::Backoff;
use crate::slots::Slots;

mod work;

/// How many events are taken in before what they brought about is written.
const BURST: usize = 64;
/// How long an acceptance may wait for the first part of its answer to go with it: with a server
/// that answers at once, half of what is written then needs no write of its own.
const HOLD: Duration = Duration::from_millis(1);
/// The longest time that a task may ask for.
const LONGEST_TASK: Duration = Duration::from_hours(24);
/// How long an orderly end of a connection may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How long the acknowledgement of the last answers is waited for.
const LAST_ACK_LIMIT: Duration = Duration::from_secs(5);

/// What the agent's other tasks tell its connection.
#[derive(Debug)]
pub(super) enum Signal {
    /// A worker has made something.
    Output(AssignmentId, Run, Output),
    /// A worker's backend is at work, but had nothing to say for a while.
    Progress(AssignmentId, Run),
    /// The models have changed.
    Models,
    /// The owner lets the node do something else.
    Conduct,
}

/// Everything that one agent does towards one coordinator, in one task.
pub(super) struct Driver {
    core: Arc<Core>,
    connector: Arc<dyn Connector>,
    status: watch::Sender<Status>,
    line: Line,
    connection: NodeConnection,
    sealing: Sealing,
    /// The sealed requests that were opened.
    replays: Replays,
    handshake: Handshake,
    backoff: Backoff,
    slots: Slots,
    assignments: BTreeMap<AssignmentId, Assignment>,
    runs: u64,
    signals: mpsc::Receiver<Signal>,
    sender: mpsc::Sender<Signal>,
    /// Fires at `due`.
    timer: Pin<Box<Sleep>>,
    due: Instant,
    /// When the agent stops, finished or not; set once it drains.
    drain_until: Option<Instant>,
    /// Whether the coordinator of this connection has let the node in.
    entered: bool,
    /// Whether the models changed since they were last told.
    untold: bool,
    /// Whether what the owner lets the node do changed since it was last told.
    unsettled: bool,
    /// Events taken in since the last write.
    burst: usize,
    /// Until when acceptances wait; set while one does.
    hold: Option<Instant>,
    /// As it was last told to observers.
    round_trip: Option<Duration>,
}

/// The way to the coordinator.
enum Line {
    Connecting(BoxFuture<'static, Result<Link, ConnectError>>),
    Open(Open),
}

struct Open {
    transport: Pin<Box<dyn Transport>>,
    /// Whether something was written that may still lie in a buffer.
    unflushed: bool,
    carried: Arc<AtomicU64>,
}

enum Event {
    Shutdown,
    Opened(Result<Link, ConnectError>),
    Frame(Frame),
    Lost(AgentError),
    Signal(Signal),
    Due,
}

impl Driver {
    pub(super) fn new(
        core: Arc<Core>,
        connector: Arc<dyn Connector>,
        status: watch::Sender<Status>,
    ) -> Self {
        let capacity = (core.slots as usize + 1) * (CREDIT + 2);
        let (sender, signals) = mpsc::channel(capacity);
        let now = Instant::now();
        Self {
            line: connecting(&connector, Duration::ZERO),
            connection: NodeConnection::new(now.into_std(), core.limits),
            sealing: Sealing::default(),
            replays: Replays::new(),
            handshake: Handshake::new(core.coordinator),
            backoff: Backoff::new(core.seed),
            slots: core.places.clone(),
            assignments: BTreeMap::new(),
            runs: 0,
            signals,
            sender,
            timer: Box::pin(sleep(Duration::ZERO)),
            due: now,
            drain_until: None,
            entered: false,
            untold: false,
            unsettled: false,
            burst: 0,
            hold: None,
            round_trip: None,
            core,
            connector,
            status,
        }
    }

    /// Returns where the agent's other tasks leave their signals.
    pub(super) fn signals(&self) -> mpsc::Sender<Signal> {
        self.sender.clone()
    }

    /// Serves the coordinator until `shutdown` resolves and the work is done, or until the
    /// coordinator turns the node away.
    pub(super) async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let outcome = loop {
            self.set_timer();
            let event = std::future::poll_fn(|cx| self.poll_event(cx, shutdown.as_mut())).await;
            if let Err(error) = self.handle(event) {
                let elsewhere = self.is_turned_away(&error);
                if error.is_final() && !elsewhere {
                    break Err(error);
                }
                self.reconnect(error);
            }
            if self.is_drained() {
                break Ok(());
            }
        };
        self.close().await;
        outcome
    }

    /// Tells the connector of a coordinator that was reached and did not let the node in;
    /// returns whether there is another one to try.
    fn is_turned_away(&self, error: &AgentError) -> bool {
        let reached = matches!(self.line, Line::Open(_));
        reached
            && !self.entered
            && self.connector.turned_away(self.handshake.endpoint(), error.is_final())
    }

    /// Takes in what is ready, up to a bound, before it writes, so that many small answers share
    /// one write.
    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Event> {
        if self.drain_until.is_none() && shutdown.poll(cx).is_ready() {
            return Poll::Ready(Event::Shutdown);
        }
        loop {
            if self.burst < BURST
                && let Poll::Ready(event) = self.poll_input(cx)
            {
                self.burst += 1;
                return Poll::Ready(event);
            }
            if !self.holds_back()
                && let Line::Open(open) = &mut self.line
                && let Poll::Ready(Err(error)) = open.poll_write(cx, &mut self.connection)
            {
                return Poll::Ready(Event::Lost(error.into()));
            }
            if std::mem::take(&mut self.burst) < BURST {
                return Poll::Pending;
            }
        }
    }

    /// Returns whether what there is to write is left to wait for more.
    fn holds_back(&mut self) -> bool {
        let waits = self.connection.can_wait() && self.hold.is_some_and(|end| Instant::now() < end);
        if !waits {
            self.hold = None;
        }
        waits
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(Some(signal)) = self.signals.poll_recv(cx) {
            return Poll::Ready(Event::Signal(signal));
        }
        let line = match &mut self.line {
            Line::Connecting(opening) => opening.as_mut().poll(cx).map(Event::Opened),
            Line::Open(open) => open.transport.as_mut().poll_next(cx).map(|item| match item {
                Some(Ok(frame)) => {
                    open.carried.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    Event::Frame(frame)
                }
                Some(Err(error)) => Event::Lost(error.into()),
                None => Event::Lost(AgentError::Ended),
            }),
        };
        if line.is_ready() {
            return line;
        }
        self.timer.as_mut().poll(cx).map(|()| Event::Due)
    }

    fn handle(&mut self, event: Event) -> Result<(), AgentError> {
        match event {
            Event::Shutdown => {
                self.begin_drain();
                Ok(())
            }
            Event::Opened(link) => {
                self.open(link?);
                Ok(())
            }
            Event::Frame(frame) => {
                let now = Instant::now().into_std();
                let event = self.connection.handle_frame(now, frame)?;
                self.note_round_trip();
                match event {
                    Some(event) => self.handle_event(event),
                    None => Ok(()),
                }
            }
            Event::Lost(error) => Err(error),
            Event::Signal(signal) => {
                self.handle_signal(signal);
                Ok(())
            }
            Event::Due => {
                let now = Instant::now();
                // What was held back is written before the next wait.
                self.hold.take_if(|end| *end <= now);
                match self.connection.handle_timeout(now.into_std())? {
                    Some(event) => self.handle_event(event),
                    None => Ok(()),
                }
            }
        }
    }

    fn handle_event(&mut self, event: NodeEvent) -> Result<(), AgentError> {
        match event {
            NodeEvent::Challenged(challenge) => {
                (self.untold, self.unsettled) = (false, false);
                let register = self.handshake.answer(&challenge, &self.core, &mut self.sealing)?;
                Ok(self.connection.register(register)?)
            }
            NodeEvent::Answered(ack) => {
                // Whoever cannot prove itself has no say in what becomes of running work.
                self.handshake.finish(&ack, &self.core, &mut self.sealing)?;
                let dropped = self.connection.enter(Instant::now().into_std(), &ack)?;
                self.drop_all(&dropped);
                self.registered(ack.session)
            }
            NodeEvent::Assigned(task) => Ok(self.assigned(task)?),
            NodeEvent::Classify(question) => Ok(self.questioned(question)?),
            NodeEvent::Body(part) => Ok(self.receive(&part)?),
            NodeEvent::Acknowledged(acks) => {
                for (assignment, _) in acks.iter() {
                    self.pass_on(assignment);
                }
                Ok(())
            }
            NodeEvent::Cancelled(assignment) => {
                self.drop_all(&[assignment]);
                Ok(())
            }
            NodeEvent::Rekey(rekey) => self.handshake.rekey(&rekey, &mut self.sealing),
            NodeEvent::Draining => {
                info!("the coordinator assigns nothing more for now");
                Ok(())
            }
            NodeEvent::Closing(message) => Err(AgentError::closed(message)),
            NodeEvent::HeartbeatDue => self.heartbeat(),
        }
    }

    fn handle_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Output(assignment, run, output) => self.output(assignment, run, output),
            Signal::Progress(assignment, run) => self.progress(assignment, run),
            Signal::Models => {
                self.untold = true;
                self.tell_news();
            }
            Signal::Conduct => {
                let conduct = self.core.conduct.borrow().clone();
                self.slots.set_total(conduct.slots(self.core.slots));
                self.untold |= self.core.catalogue.allow(conduct.models);
                self.unsettled = true;
                info!(slots = self.slots.total(), rests = ?conduct.terms.rest, "the owner's limits");
                self.tell_news();
            }
        }
    }

    fn open(&mut self, link: Link) {
        debug!(endpoint = &*link.endpoint, "connection open");
        self.handshake.begin(link.endpoint);
        self.entered = false;
        self.connection.connect(Instant::now().into_std());
        self.note_round_trip();
        self.line = Line::Open(Open {
            transport: link.transport,
            unflushed: false,
            carried: Arc::clone(&self.core.carried),
        });
    }

    fn registered(&mut self, session: SessionId) -> Result<(), AgentError> {
        info!(%session, endpoint = self.handshake.endpoint(), "registered");
        self.backoff.reset();
        self.entered = true;
        if self.drain_until.is_some() {
            self.connection.drain()?;
            self.heartbeat()?;
        } else {
            let (endpoint, since) = (self.handshake.endpoint().into(), (self.core.clock)());
            self.status.send_replace(Status::Online { session, endpoint, since });
            self.tell_news();
        }
        let waiting: Vec<_> = self.assignments.keys().copied().collect();
        for assignment in waiting {
            self.pass_on(assignment);
        }
        Ok(())
    }

    fn note_round_trip(&mut self) {
        let measured = self.connection.round_trip();
        if measured != self.round_trip {
            self.round_trip = measured;
            debug!(?measured, "round trip");
            self.core.round_trip.send_replace(measured);
        }
    }

    fn heartbeat(&mut self) -> Result<(), AgentError> {
        let now = (self.core.clock)();
        if let Some(certificate) = self.sealing.rotate(&self.core.identity, now) {
            let certificate = Certificate { certificate: super::handshake::blob(certificate) };
            self.connection.certificate(certificate)?;
        }
        self.give_up_late_prompts()?;
        self.connection
            .heartbeat(NodeHeartbeat { running: self.slots.taken(), ..NodeHeartbeat::default() })?;
        Ok(())
    }

    /// Tells the coordinator what it does not know of the models and of the owner's limits.
    fn tell_news(&mut self) {
        if !self.is_online() || !(self.untold || self.unsettled) {
            return;
        }
        let models = std::mem::take(&mut self.untold).then(|| self.core.catalogue.offers());
        let settled = std::mem::take(&mut self.unsettled);
        let heartbeat = NodeHeartbeat {
            running: self.slots.taken(),
            models,
            slots: settled.then(|| self.slots.total()),
            terms: settled.then(|| self.core.conduct.borrow().terms.clone()),
        };
        // Whoever is not registered tells it when it registers.
        let _ = self.connection.heartbeat(heartbeat);
    }

    fn is_online(&self) -> bool {
        matches!(*self.status.borrow(), Status::Online { .. })
    }

    /// Goes back to connecting; answers that were accepted go on meanwhile.
    fn reconnect(&mut self, cause: AgentError) {
        let lost = self.connection.disconnect();
        self.drop_all(&lost);
        let wait = self.backoff.wait();
        warn!(%cause, retry_in_ms = wait.as_millis(), "not connected");
        self.line = connecting(&self.connector, wait);
        if self.drain_until.is_none() {
            self.status.send_replace(Status::Offline { cause: Some(cause) });
        }
    }

    fn begin_drain(&mut self) {
        info!(running = self.slots.taken(), "draining");
        self.drain_until = Some(Instant::now() + self.core.drain_limit);
        self.status.send_replace(Status::Draining);
        // A node that is not registered says so when it is.
        let _ = self.connection.drain();
        if self.assignments.is_empty() {
            self.ask_for_acks();
        }
    }

    /// Sends a heartbeat, whose answer acknowledges everything that has ended, and no longer
    /// waits for more than that.
    fn ask_for_acks(&mut self) {
        if let Some(until) = &mut self.drain_until {
            *until = (*until).min(Instant::now() + LAST_ACK_LIMIT);
            let _ = self.connection.heartbeat(NodeHeartbeat::default());
        }
    }

    fn is_drained(&self) -> bool {
        self.drain_until.is_some_and(|until| {
            let done = self.assignments.is_empty() && self.connection.is_idle();
            done || Instant::now() >= until
        })
    }

    fn set_timer(&mut self) {
        let connection = self.connection.poll_timeout().map(Instant::from_std);
        let next = [connection, self.drain_until, self.hold].into_iter().flatten().min();
        let next = next.unwrap_or_else(|| Instant::now() + LONGEST_TASK);
        // A timer that is early costs less than one that is moved with every frame.
        if next < self.due || self.timer.is_elapsed() {
            self.due = next;
            self.timer.as_mut().reset(next);
        }
    }

    async fn close(self) {
        if !self.assignments.is_empty() {
            warn!(unfinished = self.assignments.len(), "stopped before all work was done");
        }
        drop(self.assignments);
        if let Line::Open(mut open) = self.line {
            // The coordinator notices the end of the connection either way.
            let mut connection = self.connection;
            let _ = timeout(CLOSE_LIMIT, async {
                poll_fn(|cx| open.poll_write(cx, &mut connection)).await?;
                open.transport.close().await
            })
            .await;
        }
        self.status.send_replace(Status::Stopped);
    }
}

impl Open {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut NodeConnection,
    ) -> Poll<Result<(), TransportError>> {
        loop {
            ready!(self.transport.as_mut().poll_ready(cx))?;
            let Some(frame) = connection.poll_transmit() else { break };
            self.carried.fetch_add(frame.len() as u64, Ordering::Relaxed);
            self.transport.as_mut().start_send(frame)?;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(self.transport.as_mut().poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn connecting(connector: &Arc<dyn Connector>, wait: Duration) -> Line {
    let connector = Arc::clone(connector);
    Line::Connecting(Box::pin(async move {
        sleep(wait).await;
        connector.connect().await
    }))
}
