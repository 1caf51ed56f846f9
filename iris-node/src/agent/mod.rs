//! The agent: offers the models of its backends to a network through one outbound connection.
//!
//! An [`Agent`] holds what a node is: its identity, backends and slots. [`Agent::run_on`] connects
//! it through any [`Connector`], such as a [`WebSocketConnector`] or a function that returns one
//! end of an in-memory transport, and reconnects until it is told to stop. Work that was accepted
//! outlives its connection: what the coordinator has not acknowledged is sent again, byte for byte.
//!
//! One task serves the connection, one more each assignment. A worker asks its backend, seals each
//! chunk and hands it to the connection, which writes whatever is ready at once. Nothing grows
//! without bound: a worker stops asking its backend when the coordinator does not keep up.
//!
//! ```
//! use std::sync::Arc;
//!
//! use iris_core::backend::ScriptedBackend;
//! use iris_crypto::Identity;
//! use iris_node::agent::{Agent, ConnectError, Link};
//! use iris_protocol::transport::memory;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let backend = ScriptedBackend::echo("parrot".parse()?);
//! let agent = Agent::builder(Identity::generate(), Arc::new(backend)).with_slots(2).build();
//! let connector = || async {
//!     let (here, _coordinator) = memory::pair(16);
//!     Ok::<_, ConnectError>(Link::new("in process", here))
//! };
//! agent.run_on(connector, std::future::ready(())).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use iris_core::backend::Backend;
use iris_core::{NodeId, Timestamp};
use iris_crypto::{Identity, PublicIdentity};
use iris_protocol::limits::{Limits, MAX_NAME_LEN, MAX_SLOTS};
use iris_protocol::message::{Hardware, SessionId};
use iris_protocol::text::Label;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

mod assignment;
mod callers;
mod catalogue;
mod classify;
mod conduct;
mod connector;
mod driver;
mod error;
mod handshake;
mod observer;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod properties;
mod sealed;
mod sealing;
mod websocket;
mod work_log;
mod worker;

pub use callers::{AskedTask, AskedTasks};
pub use conduct::{Conduct, ModelFilter};
pub use connector::{ConnectError, Connector, Link};
pub use error::AgentError;
pub use observer::Observer;
#[cfg(feature = "openai")]
pub(crate) use websocket::platform_trust;
pub use websocket::{CoordinatorUrl, UrlError, WebSocketConnector};
pub use work_log::{Done, Outcome, Privacy, Work, WorkLog};

use catalogue::Catalogue;
use driver::{Driver, Signal};

use crate::datasets::{Datasets, Informed};
use crate::slots::Slots;

/// How often the models of the backends are listed, unless set.
const LIST_INTERVAL: Duration = Duration::from_secs(30);
/// How long running work may take after a shutdown was asked for, unless set.
const DRAIN_LIMIT: Duration = Duration::from_mins(1);

/// A node, ready to be connected.
#[derive(Debug)]
pub struct Agent {
    core: Arc<Core>,
    measure: bool,
    status: watch::Sender<Status>,
}

/// How an agent stands towards its coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Not connected; trying.
    Offline {
        /// Why the last connection or attempt failed; `None` before the first.
        cause: Option<AgentError>,
    },
    /// Registered, and taking work.
    Online {
        /// The session with the coordinator.
        session: SessionId,
        /// Where the coordinator was reached.
        endpoint: Arc<str>,
        /// When it let the node in.
        since: Timestamp,
    },
    /// Finishing its work, and taking no more.
    Draining,
    /// Done.
    Stopped,
}

impl Agent {
    /// Begins a node that is known by `identity` and runs what `backend` offers.
    pub fn builder(identity: Identity, backend: Arc<dyn Backend>) -> AgentBuilder {
        AgentBuilder {
            identity,
            backends: vec![backend],
            name: None,
            slots: 1,
            datasets: Datasets::default(),
            hardware: Hardware::default(),
            conduct: watch::channel(Conduct::default()).1,
            work_log: None,
            coordinator: None,
            limits: Limits::default(),
            list_interval: LIST_INTERVAL,
            drain_limit: DRAIN_LIMIT,
            measure: true,
            clock: Arc::new(calendar),
            seed: None,
        }
    }

    /// Returns the id by which the network knows the node.
    pub fn node_id(&self) -> NodeId {
        self.core.identity.node_id()
    }

    /// Returns the node's places for work, of which some are taken.
    pub fn places(&self) -> Slots {
        self.core.places.clone()
    }

    /// Returns how many bytes the node has carried since it was made, both ways, without what TCP
    /// and TLS add to them; it grows.
    pub fn carried(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.core.carried)
    }

    /// Returns the latest tasks that the node took on, with what their callers are known by.
    pub fn asked(&self) -> Arc<AskedTasks> {
        Arc::clone(&self.core.asked)
    }

    /// Returns what to call when the models of a backend may be others than a moment ago, such as
    /// when its server has ended or was started again: they are listed again within a second or so.
    pub fn relisting(&self) -> impl Fn() + Send + Sync + use<> {
        let catalogue = Arc::clone(&self.core.catalogue);
        move || catalogue.doubt()
    }

    /// Returns how the agent stands, now and later.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Returns what looks at the agent while it runs.
    pub fn observer(&self) -> Observer {
        Observer { core: Arc::clone(&self.core), status: self.status.subscribe() }
    }

    /// Serves a coordinator until `shutdown` resolves and running work is done.
    ///
    /// Reconnects for as long as that may help; an error is final. Dropping the future drops the
    /// running work.
    pub async fn run_on(
        self,
        connector: impl Connector,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let catalogue = Arc::clone(&self.core.catalogue);
        // Nothing that changes from now on is missed.
        let mut conduct = self.core.conduct.clone();
        catalogue.allow(conduct.borrow_and_update().models.clone());
        let mut shutdown = std::pin::pin!(shutdown);
        let prepared = async {
            catalogue.refresh().await;
            if self.measure {
                catalogue.measure().await;
            }
        };
        tokio::select! {
            biased;
            () = &mut shutdown => {
                self.status.send_replace(Status::Stopped);
                return Ok(());
            }
            () = prepared => {}
        }
        let driver = Driver::new(self.core, Arc::new(connector), self.status);
        let signals = driver.signals();
        let _lister = AbortOnDropHandle::new(tokio::spawn(async move {
            catalogue.keep_fresh(signals).await;
        }));
        let signals = driver.signals();
        let _owner = AbortOnDropHandle::new(tokio::spawn(async move {
            while conduct.changed().await.is_ok() {
                if signals.send(Signal::Conduct).await.is_err() {
                    return;
                }
            }
        }));
        driver.run(shutdown).await
    }
}

/// What an agent is from its start to its end.
struct Core {
    identity: Identity,
    catalogue: Arc<Catalogue>,
    name: Option<Label<MAX_NAME_LEN>>,
    slots: u32,
    places: Slots,
    carried: Arc<AtomicU64>,
    asked: Arc<AskedTasks>,
    /// Tokens that were written.
    written: Arc<AtomicU64>,
    round_trip: watch::Sender<Option<Duration>>,
    work_log: Option<Arc<dyn WorkLog>>,
    datasets: Arc<Datasets>,
    hardware: Hardware,
    conduct: watch::Receiver<Conduct>,
    coordinator: Option<PublicIdentity>,
    limits: Limits,
    drain_limit: Duration,
    clock: Clock,
    seed: u64,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("identity", &self.identity)
            .field("name", &self.name)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Settings of an [`Agent`]; each has a default.
pub struct AgentBuilder {
    identity: Identity,
    backends: Vec<Arc<dyn Backend>>,
    name: Option<Label<MAX_NAME_LEN>>,
    slots: u32,
    datasets: Datasets,
    hardware: Hardware,
    conduct: watch::Receiver<Conduct>,
    work_log: Option<Arc<dyn WorkLog>>,
    coordinator: Option<PublicIdentity>,
    limits: Limits,
    list_interval: Duration,
    drain_limit: Duration,
    measure: bool,
    clock: Clock,
    seed: Option<u64>,
}

impl AgentBuilder {
    /// Adds a backend; where two offer the same model, the first serves it.
    pub fn with_backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.backends.push(backend);
        self
    }

    /// Sets what the owner calls the node; cut to 64 printable bytes. Default: nothing.
    pub fn with_name(mut self, name: &str) -> Self {
        self.name = Label::lossy(name);
        self
    }

    /// Sets how many tasks the node works on at once, at most 1024. Default: 1.
    pub fn with_slots(mut self, slots: u32) -> Self {
        self.slots = slots.min(MAX_SLOTS);
        self
    }

    /// Sets the data sets that prompts may be about. Default: none.
    pub fn with_datasets(mut self, datasets: Datasets) -> Self {
        self.datasets = datasets;
        self
    }

    /// Sets what the node says about its machine. Default: nothing.
    pub fn with_hardware(mut self, hardware: Hardware) -> Self {
        self.hardware = hardware;
        self
    }

    /// Lets the owner say what the node does, from the start and whenever `conduct` changes.
    /// Default: whatever it can.
    pub fn with_conduct(mut self, conduct: watch::Receiver<Conduct>) -> Self {
        self.conduct = conduct;
        self
    }

    /// Tells `log` of each task, as it begins and ends. Default: nobody is told.
    pub fn with_work_log(mut self, log: Arc<dyn WorkLog>) -> Self {
        self.work_log = Some(log);
        self
    }

    /// Accepts this coordinator only. Default: whoever answers first at an endpoint, until the
    /// agent ends.
    pub const fn with_coordinator(mut self, coordinator: PublicIdentity) -> Self {
        self.coordinator = Some(coordinator);
        self
    }

    /// Sets the bounds that the node puts on its connection.
    pub const fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how often backends are asked for their models. Default: 30 s.
    pub const fn with_list_interval(mut self, interval: Duration) -> Self {
        self.list_interval = interval;
        self
    }

    /// Sets how long running work may take after a shutdown was asked for. Default: 60 s.
    pub const fn with_drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// Sets whether models are measured before the node connects: one answer of 32 tokens each,
    /// at most 5 s a model and 15 s in all. Without it, a model's speed is unknown until it has
    /// worked. Default: true.
    pub const fn with_measurement(mut self, measure: bool) -> Self {
        self.measure = measure;
        self
    }

    /// Sets the calendar that certificates follow. Default: the machine's.
    pub fn with_clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets what the pauses between attempts to connect are drawn from. Default: random.
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the agent.
    pub fn build(self) -> Agent {
        let datasets = Arc::new(self.datasets);
        let informed = |backend| -> Arc<dyn Backend> {
            Arc::new(Informed::new(backend, Arc::clone(&datasets)))
        };
        let backends = self.backends.into_iter().map(informed).collect();
        let slots = self.conduct.borrow().slots(self.slots);
        let core = Core {
            identity: self.identity,
            catalogue: Arc::new(Catalogue::new(backends, self.list_interval)),
            datasets,
            name: self.name,
            slots: self.slots,
            places: Slots::new(slots),
            carried: Arc::default(),
            asked: Arc::default(),
            written: Arc::default(),
            round_trip: watch::Sender::new(None),
            work_log: self.work_log,
            hardware: self.hardware,
            conduct: self.conduct,
            coordinator: self.coordinator,
            limits: self.limits,
            drain_limit: self.drain_limit,
            clock: self.clock,
            seed: self.seed.unwrap_or_else(|| u64::from_be_bytes(iris_crypto::random_bytes())),
        };
        Agent {
            core: Arc::new(core),
            measure: self.measure,
            status: watch::Sender::new(Status::Offline { cause: None }),
        }
    }
}

impl fmt::Debug for AgentBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentBuilder")
            .field("identity", &self.identity)
            .field("backends", &self.backends)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

fn calendar() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
