//! A scheduler of your own: `cargo run -p iris-examples --bin custom_scheduler`.
//!
//! This one saves electricity: it fills one node before it wakes the next. Of three nodes that
//! could answer, one does all the work.

use std::sync::Arc;
use std::time::Instant;

use iris_coordinator::Coordinator;
use iris_core::backend::{Backend, ScriptedBackend};
use iris_core::demand::Demand;
use iris_core::explain::{Explanation, Reason};
use iris_core::registry::Registry;
use iris_core::scheduler::{Choice, Scheduler};
use iris_core::store::MemoryStore;
use iris_crypto::{Identity, Secret};

use small_network::{AnyError, SmallNetwork};

mod small_network;

/// How many nodes are looked at. More would cost time under the registry's lock.
const LOOKED_AT: usize = Explanation::MAX_COMPARED;

/// Takes the busiest node that still has a free slot; of equals, the one with the lowest id.
#[derive(Debug)]
struct Thrifty;

impl Scheduler for Thrifty {
    fn choose(&self, registry: &Registry, demand: &Demand, _now: Instant, _seed: u64) -> Choice {
        let mut explanation = Explanation::default();
        let mut able = Vec::new();
        for group in registry.groups(demand) {
            let free = u32::try_from(group.free()).unwrap_or(u32::MAX);
            if let Some(reason) = group.refusal {
                explanation.skip(reason, free.saturating_add(group.occupied()));
                continue;
            }
            explanation.skip(Reason::NoFreeSlot, group.occupied());
            let candidates = (0..group.free()).map(|position| group.candidate(position));
            let untried = candidates.filter(|candidate| demand.objection(candidate).is_none());
            let before = able.len();
            able.extend(untried.take(LOOKED_AT - before));
            let looked_at = u32::try_from(able.len() - before).unwrap_or(u32::MAX);
            explanation.skip(Reason::NotCompared, free.saturating_sub(looked_at));
        }
        able.sort_by_key(|candidate| (std::cmp::Reverse(candidate.in_use), candidate.node));
        let reasons = std::iter::once(Reason::Chosen).chain(std::iter::repeat(Reason::Outscored));
        let nodes = able.iter().map(|candidate| candidate.node);
        explanation.compared = nodes.zip(reasons).collect();
        Choice { chosen: able.first().copied(), explanation }
    }
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let parrot = || -> Result<_, AnyError> { Ok(ScriptedBackend::echo("parrot".parse()?)) };
    let parrots = [parrot()?, parrot()?, parrot()?];
    let store = Arc::new(MemoryStore::new());
    let builder = Coordinator::builder(store, Identity::generate(), Secret::generate())
        .with_scheduler(Arc::new(Thrifty));
    let backends = parrots.clone().map(|parrot| Arc::new(parrot) as Arc<dyn Backend>);
    let network = SmallNetwork::start(builder, backends).await?;
    for question in ["Who is awake?", "Still you?", "And now?"] {
        println!("{}", network.ask("parrot", question).await?);
    }
    let mut answered = parrots.map(|parrot| parrot.counts().finished);
    answered.sort_unstable();
    println!("Answers by node: {answered:?}");
    network.stop().await;
    Ok(())
}
