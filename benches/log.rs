//! What the public log costs at a million entries: to whoever keeps it, and to whoever checks it.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use iris_crypto::log::{
    Checkpoint, Frontier, ProofPlan, SignedCheckpoint, Tile, TileId, TreeHash, leaf_hash,
    verify_consistency, verify_inclusion,
};
use iris_crypto::{Identity, Secret};

const ENTRIES: u64 = 1_000_000;
const INDEX: u64 = 654_321;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .configure_from_args();
    let log = Log::of(ENTRIES);
    appending(&mut criterion, &log);
    proving(&mut criterion, &log);
    checking(&mut criterion, &log);
    criterion.final_summary();
}

/// A log with its tiles in memory.
struct Log {
    frontier: Frontier,
    tiles: BTreeMap<TileId, Tile>,
}

impl Log {
    fn of(entries: u64) -> Self {
        let leaves: Vec<_> = (0..entries).map(leaf).collect();
        let mut frontier = Frontier::new();
        let tiles = frontier.append_all(&leaves).expect("far from the bound");
        Self { frontier, tiles: tiles.into_iter().collect() }
    }

    fn prove(&self, plan: &ProofPlan) -> Vec<TreeHash> {
        plan.compute(|id| self.tiles.get(&id)).expect("every tile is kept")
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { size: self.frontier.size(), root: self.frontier.root() }
    }
}

fn leaf(number: u64) -> TreeHash {
    leaf_hash(&number.to_be_bytes())
}

/// One entry, the root after it and the tiles to write, as the store takes them.
fn appending(criterion: &mut Criterion, log: &Log) {
    criterion.bench_function("append an entry to a log of a million", |bencher| {
        bencher.iter_batched_ref(
            || log.frontier.clone(),
            |frontier| {
                let tiles = frontier.append_all(&[leaf(ENTRIES)]).expect("far from the bound");
                let bytes: usize = tiles.iter().map(|(_, tile)| tile.encode().len()).sum();
                black_box((bytes, frontier.root()))
            },
            criterion::BatchSize::SmallInput,
        );
    });
    let identity = Identity::from_seed(&Secret::from_bytes([7; 32]));
    let Checkpoint { size, root } = log.checkpoint();
    criterion.bench_function("sign a checkpoint", |bencher| {
        bencher.iter(|| black_box(SignedCheckpoint::sign(&identity, size, root)));
    });
}

/// The computing only; a proof takes some six reads of the store beside it.
fn proving(criterion: &mut Criterion, log: &Log) {
    criterion.bench_function("compute a proof of inclusion in a million", |bencher| {
        bencher.iter(|| {
            let plan = ProofPlan::inclusion(black_box(INDEX), ENTRIES).expect("an entry");
            black_box(log.prove(&plan))
        });
    });
    criterion.bench_function("compute a proof of consistency with a million", |bencher| {
        bencher.iter(|| {
            let plan = ProofPlan::consistency(black_box(INDEX), ENTRIES).expect("sizes in order");
            black_box(log.prove(&plan))
        });
    });
}

/// What a client does with every roster.
fn checking(criterion: &mut Criterion, log: &Log) {
    let identity = Identity::from_seed(&Secret::from_bytes([7; 32]));
    let new = log.checkpoint();
    let text = SignedCheckpoint::sign(&identity, new.size, new.root).text().to_owned();
    criterion.bench_function("read and verify a checkpoint", |bencher| {
        bencher.iter(|| {
            let signed = SignedCheckpoint::decode(black_box(&text)).expect("it was just signed");
            black_box(signed.verify(&identity.public()).expect("it was just signed"))
        });
    });
    let plan = ProofPlan::inclusion(INDEX, ENTRIES).expect("an entry");
    let (proof, hash) = (log.prove(&plan), leaf(INDEX));
    criterion.bench_function("verify a proof of inclusion in a million", |bencher| {
        bencher.iter(|| verify_inclusion(&hash, INDEX, new.size, black_box(&proof), &new.root));
    });
    let root = log.prove(&ProofPlan::root(INDEX).expect("a size of the log"))[0];
    let old = Checkpoint { size: INDEX, root };
    let proof = log.prove(&ProofPlan::consistency(INDEX, ENTRIES).expect("sizes in order"));
    criterion.bench_function("verify a proof of consistency with a million", |bencher| {
        bencher.iter(|| verify_consistency(&old, &new, black_box(&proof)));
    });
}
