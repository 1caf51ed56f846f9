//! Ways to choose a node: Iris' own, and the simpler rules that it is compared with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use iris_benches::chart::Series;
use iris_core::demand::Demand;
use iris_core::registry::{Candidate, Registry};
use iris_core::scheduler::{Balanced, Choice, Scheduler};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    RoundRobin,
    LeastBusy,
    PowerOfTwo,
    Iris,
}

impl Way {
    pub(crate) const ALL: [Self; 4] =
        [Self::RoundRobin, Self::LeastBusy, Self::PowerOfTwo, Self::Iris];

    pub(crate) const fn series(self) -> Series {
        let (name, colour) = match self {
            Self::RoundRobin => ("round robin", "#a8b2bd"),
            Self::LeastBusy => ("least busy", "#c98f3c"),
            Self::PowerOfTwo => ("power of two choices", "#5b8c5a"),
            Self::Iris => ("Iris", "#3f5fbf"),
        };
        Series { name, colour }
    }

    pub(crate) fn scheduler(self) -> Arc<dyn Scheduler> {
        match self {
            Self::RoundRobin => Arc::new(RoundRobin::default()),
            Self::LeastBusy => Arc::new(LeastBusy),
            Self::PowerOfTwo => Arc::new(PowerOfTwo),
            Self::Iris => Arc::new(Balanced),
        }
    }
}

/// Returns the free nodes that nothing speaks against, in the order of their ids.
fn able(registry: &Registry, demand: &Demand) -> Vec<Candidate> {
    let groups: Vec<_> = registry.groups(demand).collect();
    let able = groups.iter().filter(|group| group.refusal.is_none());
    let all = able.flat_map(|group| (0..group.free()).map(|position| group.candidate(position)));
    let mut able: Vec<_> = all.filter(|found| demand.objection(found).is_none()).collect();
    able.sort_by_key(|candidate| candidate.node);
    able
}

fn choice(chosen: Option<Candidate>) -> Choice {
    Choice { chosen, ..Choice::default() }
}

/// Each node in its turn.
#[derive(Debug, Default)]
struct RoundRobin {
    turn: AtomicU64,
}

impl Scheduler for RoundRobin {
    fn choose(&self, registry: &Registry, demand: &Demand, _: Instant, _: u64) -> Choice {
        let able = able(registry, demand);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let position = turn.checked_rem(able.len() as u64).unwrap_or(0);
        choice(usize::try_from(position).ok().and_then(|position| able.get(position)).copied())
    }
}

/// The node with the smallest share of its slots in use; one of several at random.
#[derive(Debug)]
struct LeastBusy;

impl Scheduler for LeastBusy {
    fn choose(&self, registry: &Registry, demand: &Demand, _: Instant, seed: u64) -> Choice {
        let able = able(registry, demand);
        let least = able.iter().map(load).fold(f64::INFINITY, f64::min);
        let least: Vec<_> = able.iter().filter(|found| load(found) <= least).collect();
        let mut random = StdRng::seed_from_u64(seed);
        choice((!least.is_empty()).then(|| *least[random.random_range(0..least.len())]))
    }
}

/// The less busy of two nodes at random.
#[derive(Debug)]
struct PowerOfTwo;

impl Scheduler for PowerOfTwo {
    fn choose(&self, registry: &Registry, demand: &Demand, _: Instant, seed: u64) -> Choice {
        let able = able(registry, demand);
        let mut random = StdRng::seed_from_u64(seed);
        if able.is_empty() {
            return Choice::default();
        }
        let mut draw = || able[random.random_range(0..able.len())];
        let (first, second) = (draw(), draw());
        choice(Some(if load(&second) < load(&first) { second } else { first }))
    }
}

fn load(candidate: &Candidate) -> f64 {
    f64::from(candidate.in_use) / f64::from(candidate.slots.max(1))
}
