//! Nodes that do what a simulation tells them, by the real protocol.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iris_core::NodeId;
use iris_core::backend::Backend;
use iris_crypto::{Identity, PublicIdentity, Secret};

use super::clock::HostClock;
use super::dice::Dice;
use super::trace::Trace;

mod mischief;
mod session;
mod work;

pub use mischief::Mischief;

/// A node to be: what it runs and how it behaves.
#[derive(Clone)]
pub struct NodePlan {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) slots: u32,
    pub(super) mischief: Vec<Mischief>,
    pub(super) once_in: u64,
}

impl NodePlan {
    /// Plans a node that serves `backend` honestly in one slot.
    pub fn new(backend: impl Backend) -> Self {
        let backend = Arc::new(backend);
        Self { backend, slots: 1, mischief: Vec::new(), once_in: 0 }
    }

    /// Sets how many tasks the node works on at once. Default: 1.
    pub const fn with_slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Lets the node misbehave in one task of `times`, each time in one of these ways.
    pub fn with_mischief(mut self, ways: impl IntoIterator<Item = Mischief>, times: u64) -> Self {
        self.mischief = ways.into_iter().collect();
        self.once_in = times;
        self
    }

    /// Returns whether the node keeps to the protocol always.
    pub fn is_honest(&self) -> bool {
        self.once_in == 0 || self.mischief.is_empty()
    }
}

impl fmt::Debug for NodePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePlan")
            .field("slots", &self.slots)
            .field("mischief", &self.mischief)
            .field("once_in", &self.once_in)
            .finish_non_exhaustive()
    }
}

/// A node of a simulation, seen from outside.
#[derive(Clone, Debug)]
pub struct ScriptedNode {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) name: String,
    pub(super) plan: NodePlan,
    pub(super) identity: Identity,
    pub(super) key: String,
    pub(super) coordinator: PublicIdentity,
    pub(super) clock: HostClock,
    pub(super) trace: Trace,
    pub(super) dice: Mutex<Dice>,
    /// Assignments that the node works on.
    pub(super) running: AtomicU32,
    /// Assignments that the node was offered.
    pub(super) offered: AtomicU64,
    /// When the node was last seen to be alive and registered, in milliseconds of the run.
    pub(super) alive: AtomicU64,
}

impl ScriptedNode {
    pub(super) fn new(
        name: &str,
        plan: NodePlan,
        key: String,
        coordinator: PublicIdentity,
        mut dice: Dice,
        trace: Trace,
    ) -> Self {
        let shared = Shared {
            name: name.to_owned(),
            plan,
            identity: Identity::from_seed(&Secret::from_bytes(dice.bytes())),
            key,
            coordinator,
            clock: HostClock::new(trace.clone()),
            trace,
            dice: Mutex::new(dice),
            running: AtomicU32::new(0),
            offered: AtomicU64::new(0),
            alive: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the node's id.
    pub fn id(&self) -> NodeId {
        self.shared.identity.node_id()
    }

    /// Returns how many assignments the node works on.
    pub fn running(&self) -> u32 {
        self.shared.running.load(Ordering::Relaxed)
    }

    /// Returns how many assignments the node was offered so far.
    pub fn offered(&self) -> u64 {
        self.shared.offered.load(Ordering::Relaxed)
    }

    /// Returns when the node last heard from the coordinator as a registered node.
    pub fn last_alive(&self) -> Duration {
        Duration::from_millis(self.shared.alive.load(Ordering::Relaxed))
    }

    /// Returns whether the node keeps to the protocol always.
    pub fn is_honest(&self) -> bool {
        self.shared.plan.is_honest()
    }

    /// Runs the node's program; a crash drops it.
    pub(super) async fn run(self) -> turmoil::Result {
        self.shared.running.store(0, Ordering::Relaxed);
        let mut session = session::Session::new(Arc::clone(&self.shared));
        loop {
            session.connect().await;
            let pause = Duration::from_millis(100)..=Duration::from_secs(2);
            let pause = self.shared.dice().time(&pause);
            tokio::time::sleep(pause).await;
        }
    }
}

impl Shared {
    pub(super) fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: impl fmt::Display) {
        self.trace.note(&self.name, what);
    }

    fn mark_alive(&self) {
        let millis = u64::try_from(self.trace.now().as_millis()).unwrap_or(u64::MAX);
        self.alive.store(millis, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}
