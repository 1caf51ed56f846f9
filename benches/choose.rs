//! How long it takes to choose a node, and to hold and free its slot, by the number of nodes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use iris_core::demand::Demand;
use iris_core::model::{ModelOffer, TokenRate};
use iris_core::registry::{NodeProfile, Registry};
use iris_core::reputation::Points;
use iris_core::scheduler::{Balanced, Scheduler};
use iris_core::{AccountId, NodeId};

const MODEL: &str = "mistralai/Mistral-Small-24B-Instruct";
const CONTEXTS: [u32; 4] = [4096, 8192, 32_768, 131_072];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .configure_from_args();
    for nodes in [10, 1_000, 100_000] {
        let mut registry = registry(nodes);
        choose(&mut criterion, &registry, nodes);
        hold(&mut criterion, &mut registry, nodes);
    }
    criterion.final_summary();
}

fn choose(criterion: &mut Criterion, registry: &Registry, nodes: u32) {
    let (demand, now, mut seed) = (demand(), Instant::now(), 0);
    criterion.bench_function(&format!("choose of {nodes}"), |bencher| {
        bencher.iter(|| {
            seed += 1;
            black_box(Balanced.choose(registry, black_box(&demand), now, seed))
        });
    });
}

/// Chooses, reserves and releases: the registry's share of one request.
fn hold(criterion: &mut Criterion, registry: &mut Registry, nodes: u32) {
    let (demand, now, mut seed) = (demand(), Instant::now(), 0);
    criterion.bench_function(&format!("choose, reserve, release of {nodes}"), |bencher| {
        bencher.iter(|| {
            seed += 1;
            let choice = Balanced.choose(registry, black_box(&demand), now, seed);
            let seat = choice.chosen.expect("nodes with free slots meet the demand").seat;
            assert!(registry.reserve(seat), "the chosen node had a free slot");
            registry.release(seat);
        });
    });
}

/// Half of the nodes have too short a context for this.
fn demand() -> Demand {
    let mut demand = Demand::new(MODEL.parse().expect("the text names a model"));
    demand.context_tokens = 10_000;
    demand
}

/// Makes nodes of one slot, so that holding one moves it out of the index and back.
fn registry(nodes: u32) -> Registry {
    let mut registry = Registry::default();
    for number in 0..nodes {
        let context = CONTEXTS[number as usize % CONTEXTS.len()];
        let mut offer = ModelOffer::new(MODEL.parse().expect("the text names a model"), context);
        offer.speed = Some(TokenRate::per_second(u64::from(number % 50) + 1));
        let profile = NodeProfile {
            id: node_id(number),
            owner: AccountId::from_bytes(u128::from(number).to_be_bytes()),
            name: String::new(),
            slots: 1,
            models: vec![offer],
        };
        registry.join(profile, Points::START);
    }
    registry
}

fn node_id(mut number: u32) -> NodeId {
    let mut letters = ['a'; 26];
    for letter in letters.iter_mut().rev() {
        *letter = char::from(b'a' + (number % 26) as u8);
        number /= 26;
    }
    letters.iter().collect::<String>().parse().expect("26 letters are a node's id")
}
