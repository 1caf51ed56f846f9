//! Choosing nodes: the trait and its output.

use std::fmt;
use std::time::Instant;

use crate::demand::Demand;
use crate::explain::Explanation;
use crate::registry::{Candidate, Registry};

mod balanced;

pub use balanced::Balanced;

/// Chooses the node for a step.
///
/// Called under the registry's lock, once for each assignment, so it should cost a few
/// microseconds whatever the number of nodes. The same arguments give the same choice.
pub trait Scheduler: fmt::Debug + Send + Sync + 'static {
    /// Chooses among the nodes of `registry` with a free slot that meet `demand`.
    ///
    /// `seed` is random to the caller; it breaks ties and picks samples.
    fn choose(&self, registry: &Registry, demand: &Demand, now: Instant, seed: u64) -> Choice;
}

/// What a scheduler decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The node to take; `None` when none will do now.
    pub chosen: Option<Candidate>,
    /// Why this one and not the others.
    pub explanation: Explanation,
}
