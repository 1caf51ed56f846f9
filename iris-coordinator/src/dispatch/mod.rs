//! Finds a node for every task and keeps count of what is free.
//!
//! One short lock, taken when a task starts and ends; chunks never see it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use iris_core::AccountId;
use iris_core::admission::{Admission, AdmissionPolicy};
use iris_core::queue::{Ticket, WaitQueue};
use iris_core::registry::{Registry, Seat};
use iris_core::reputation::ReputationLedger;
use iris_core::scheduler::Scheduler;
use iris_core::standing::Standings;
use iris_core::task::RetryPolicy;
use iris_protocol::rest::MembershipState;

use crate::accounts::{Accounts, NOBODY};
use crate::admittance::Admittance;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::history::Histories;
use crate::holds::Holds;
use crate::journal::Journal;
use crate::limits::Limits;
use crate::link::NodeLink;
use crate::live::Live;
use crate::promises::Promises;

mod acquire;
mod affinity;
mod apart;
mod audits;
mod certificates;
mod explanations;
mod held;
mod joining;
mod judges;
mod lease;
mod line;
mod listing;
mod models;
mod named;
mod nodes;
mod passed;
mod payer;
mod placement;
mod records;
mod reputation;
mod routing;
mod sealing;
mod stats;
mod task;
mod wanted;
mod why;

pub(crate) use acquire::{Acquired, Asker};
use affinity::Affinity;
pub use affinity::Conversation;
pub use apart::Apart;
use audits::Listener;
pub(crate) use audits::{Exchange, Offers, Pace, Worked};
use certificates::Certificates;
use explanations::Explanations;
use judges::Judges;
use lease::Hold;
pub(crate) use lease::{Lease, Ticketed, Turn};
use line::Waiter;
pub(crate) use listing::{Listed, Listing};
pub use models::ModelSummary;
pub(crate) use models::{KnownModels, MODEL, ModelRecord};
pub use payer::Payer;
pub use placement::Placement;
pub use routing::Routing;
pub(crate) use sealing::ReceiptRecord;
#[cfg(any(all(test, feature = "http"), fuzzing))]
pub(crate) use sealing::Transcript;
pub(crate) use stats::Counters;
pub use stats::Stats;
pub(crate) use task::Books;
pub use task::{SealedTask, TaskEvent, TaskHandle, TaskRequest};
use wanted::Wanted;
#[cfg(feature = "http")]
pub(crate) use why::hide_reason;

/// The policies a dispatcher works by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DispatchSettings {
    pub(crate) retry: RetryPolicy,
    pub(crate) queue_capacity: usize,
    pub(crate) admission: AdmissionPolicy,
}

/// What a dispatcher is put together from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) admittance: Admittance,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) ledger: Box<dyn ReputationLedger>,
    pub(crate) registry: Registry,
    pub(crate) standings: Standings,
    pub(crate) journal: Journal,
    pub(crate) histories: Histories,
    pub(crate) settings: DispatchSettings,
    pub(crate) entropy: Entropy,
    pub(crate) limits: Arc<Limits>,
    pub(crate) members: Arc<Accounts>,
    pub(crate) promises: Promises,
    pub(crate) holds: Holds,
}

/// What all tasks and links of a coordinator share.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Counters,
    pub(crate) journal: Journal,
    pub(crate) histories: Histories,
    pub(crate) settings: DispatchSettings,
    pub(crate) entropy: Entropy,
    pub(crate) limits: Arc<Limits>,
    pub(crate) promises: Promises,
    pub(crate) holds: Holds,
    pub(crate) live: Live,
    pub(crate) admittance: Admittance,
    members: Arc<Accounts>,
    scheduler: Arc<dyn Scheduler>,
    seeds: AtomicU64,
    /// Counts what changes a roster.
    changes: AtomicU64,
    floor: Mutex<Floor>,
    ledger: Mutex<Box<dyn ReputationLedger>>,
    explanations: Mutex<Explanations>,
    affinity: Affinity,
    /// Who is told of completed tasks.
    worked: OnceLock<Listener>,
}

#[derive(Debug)]
struct Floor {
    registry: Registry,
    queue: WaitQueue,
    waiting: HashMap<Ticket, Waiter>,
    links: HashMap<Seat, Arc<NodeLink>>,
    judges: Judges,
    certificates: Certificates,
    models: KnownModels,
    standings: Standings,
    wanted: Wanted,
    admission: Admission,
    draining: bool,
}

impl Dispatch {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { registry, standings, settings, entropy, .. } = parts;
        Self {
            admittance: parts.admittance,
            members: parts.members,
            clock: parts.clock,
            counters: Counters::default(),
            journal: parts.journal,
            histories: parts.histories,
            settings,
            scheduler: parts.scheduler,
            seeds: AtomicU64::new(entropy.seed()),
            entropy,
            limits: parts.limits,
            promises: parts.promises,
            holds: parts.holds,
            live: Live::default(),
            changes: AtomicU64::new(0),
            floor: Mutex::new(Floor {
                registry,
                queue: WaitQueue::new(settings.queue_capacity),
                waiting: HashMap::new(),
                links: HashMap::new(),
                judges: Judges::default(),
                certificates: Certificates::default(),
                models: KnownModels::default(),
                standings,
                wanted: Wanted::default(),
                admission: Admission::new(settings.admission),
                draining: false,
            }),
            ledger: Mutex::new(parts.ledger),
            explanations: Mutex::default(),
            affinity: Affinity::default(),
            worked: OnceLock::new(),
        }
    }

    /// Returns whether an account has not paid its fee, so that its own nodes alone serve it.
    pub(crate) fn is_lapsed(&self, account: &AccountId) -> bool {
        // Those without an account are let in, or not, before they become a task.
        *account != NOBODY && self.members.membership(account).state == MembershipState::Lapsed
    }

    /// Takes no new task any more.
    pub(crate) fn begin_drain(&self) {
        self.floor().draining = true;
    }

    /// Returns whether no new task is taken any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.floor().draining
    }

    /// Returns whether a receipt's signature is to be checked: one in sixteen, at random.
    fn draws_audit(&self) -> bool {
        // The seeds are a known distance apart; mixing hides where they began.
        let seed = self.seed();
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 60 == 0
    }

    fn seed(&self) -> u64 {
        self.seeds.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    fn floor(&self) -> MutexGuard<'_, Floor> {
        // A panic under the lock leaves counts that are at worst too high for one node.
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
