//! The coordinator's host and the program that runs there.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iris_core::store::Store;
use iris_crypto::{Identity, PublicIdentity, Secret};
use iris_protocol::limits::Limits;
use tokio_util::sync::CancellationToken;
use turmoil::net::{TcpListener, TcpStream};

use super::clock::HostClock;
use super::disk::Disk;
use super::{COORDINATOR, PORT};
use crate::http::{ApiSettings, Listener, Server, ServerSettings};
use crate::simulation::trace::Trace;
use crate::{Builder, Coordinator};

/// How long a coordinator that could not start waits before it is started again.
const START_AGAIN: Duration = Duration::from_millis(500);
/// How long a coordinator that stops waits for running requests.
const DRAIN: Duration = Duration::from_secs(5);

/// What the coordinator of a simulation is made of.
pub(super) struct Parts {
    pub(super) store: Box<dyn Fn(Disk) -> Arc<dyn Store>>,
    pub(super) coordinator: Box<dyn Fn(Builder) -> Builder>,
    pub(super) api: ApiSettings,
}

/// The coordinator's host.
pub(super) struct Host {
    pub(super) parts: Parts,
    pub(super) disk: Disk,
    pub(super) clock: HostClock,
    pub(super) trace: Trace,
    pub(super) seed: u64,
    pub(super) starts: AtomicU32,
    running: Mutex<Running>,
    /// When it began to serve, each time it was started.
    serves: Mutex<Vec<Duration>>,
}

/// The coordinator that runs now.
#[derive(Default)]
struct Running {
    coordinator: Option<Coordinator>,
    limits: Limits,
    stop: CancellationToken,
}

/// Returns who the coordinator is, in every simulation.
fn identity() -> Identity {
    Identity::from_seed(&Secret::from_bytes([0xc0; 32]))
}

/// Returns the half of [`identity`] that nodes know.
pub(super) fn public_identity() -> PublicIdentity {
    identity().public()
}

/// Returns what protects the coordinator's records.
pub(super) const fn secret() -> Secret {
    Secret::from_bytes([0x5e; 32])
}

impl Host {
    pub(super) fn new(parts: Parts, disk: Disk, trace: Trace, seed: u64) -> Self {
        let clock = HostClock::new(trace.clone());
        let (running, serves) = Default::default();
        Self { parts, disk, clock, trace, seed, starts: AtomicU32::new(0), running, serves }
    }

    /// Returns the coordinator, while it runs.
    pub(super) fn coordinator(&self) -> Option<Coordinator> {
        self.running().coordinator.clone()
    }

    /// Returns what the coordinator that was started last holds nodes to.
    pub(super) fn limits(&self) -> Limits {
        self.running().limits
    }

    /// Returns when the coordinator began to serve, each time it was started.
    pub(super) fn serves(&self) -> Vec<Duration> {
        self.serves.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of the coordinator before its host crashes.
    pub(super) fn forget(&self) {
        self.running().coordinator = None;
    }

    /// Asks the coordinator to stop in good order.
    pub(super) fn stop(&self) {
        self.running().stop.cancel();
    }

    /// Runs the coordinator's program; a crash drops it.
    pub(super) async fn run(self: Rc<Self>) -> turmoil::Result {
        let starts = self.starts.fetch_add(1, Ordering::Relaxed);
        self.trace.note(COORDINATOR, format_args!("start {starts}"));
        let coordinator = loop {
            match self.builder(starts).build().await {
                Ok(coordinator) => break coordinator,
                Err(error) => self.trace.note(COORDINATOR, format_args!("cannot start: {error}")),
            }
            tokio::time::sleep(START_AGAIN).await;
        };
        let stop = CancellationToken::new();
        {
            let mut running = self.running();
            running.coordinator = Some(coordinator.clone());
            running.stop = stop.clone();
        }
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        let settings = ServerSettings::default().with_api(self.parts.api.clone()).with_drain(DRAIN);
        let server = Server::over(listener, coordinator.clone(), settings)?;
        self.trace.note(COORDINATOR, "serves");
        self.serves.lock().unwrap_or_else(PoisonError::into_inner).push(self.trace.now());
        server.run(stop.cancelled()).await;
        coordinator.shutdown().await;
        self.forget();
        self.trace.note(COORDINATOR, "stopped");
        Ok(())
    }

    fn builder(&self, starts: u32) -> Builder {
        let store = (self.parts.store)(self.disk.clone());
        let builder = Coordinator::builder(store, identity(), secret())
            .with_clock(Arc::new(self.clock.clone()))
            .with_seed(self.seed.wrapping_add(u64::from(starts)));
        let builder = (self.parts.coordinator)(builder);
        self.running().limits = builder.link_limits();
        builder
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("starts", &self.starts).finish_non_exhaustive()
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}
