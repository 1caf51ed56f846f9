//! How long it takes to choose a node, and to hold and free its slot, by the number of nodes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use iris_benches::choice;
use iris_core::registry::Registry;
use iris_core::scheduler::{Balanced, Scheduler};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .configure_from_args();
    for nodes in choice::SIZES {
        let mut registry = choice::registry(nodes);
        choose(&mut criterion, &registry, nodes);
        hold(&mut criterion, &mut registry, nodes);
    }
    criterion.final_summary();
}

fn choose(criterion: &mut Criterion, registry: &Registry, nodes: u32) {
    let (demand, now, mut seed) = (choice::demand(), Instant::now(), 0);
    criterion.bench_function(&format!("choose of {nodes}"), |bencher| {
        bencher.iter(|| {
            seed += 1;
            black_box(Balanced.choose(registry, black_box(&demand), now, seed))
        });
    });
}

/// Chooses, reserves and releases: the registry's share of one request.
fn hold(criterion: &mut Criterion, registry: &mut Registry, nodes: u32) {
    let (demand, now, mut seed) = (choice::demand(), Instant::now(), 0);
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
