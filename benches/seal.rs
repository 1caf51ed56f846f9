//! What sealing costs on the hop between coordinator and node.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use iris_crypto::SealingKey;
use iris_crypto::hop::{Channel, HopRoot, TAG_LEN};

const HEADER: [u8; 16] = [7; 16];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .configure_from_args();
    keys(&mut criterion);
    for bytes in [64, 1024, 16 * 1024] {
        chunks(&mut criterion, bytes);
    }
    criterion.final_summary();
}

/// Both sides of a root: what a session starts with, every ten minutes anew.
fn roots() -> (HopRoot, HopRoot) {
    let key = SealingKey::generate();
    let (encapsulated, coordinator) =
        HopRoot::initiate(&key.public(), b"bench").expect("a fresh key is not weak");
    let node = HopRoot::accept(&key, &encapsulated, b"bench").expect("a fresh key is not weak");
    (coordinator, node)
}

fn keys(criterion: &mut Criterion) {
    let ((mut root, _), mut assignment) = (roots(), 0);
    criterion.bench_function("derive an assignment's keys", |bencher| {
        bencher.iter(|| {
            assignment += 1;
            black_box(root.channel(assignment).expect("each number is new"))
        });
    });
}

fn chunks(criterion: &mut Criterion, bytes: usize) {
    let (mut coordinator, mut node) = roots();
    let Channel { mut sealer, .. } = node.channel(1).expect("the number is new");
    let Channel { mut opener, .. } = coordinator.channel(1).expect("the number is new");
    let mut chunk = vec![b'x'; bytes + TAG_LEN];
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(bytes as u64));
    // A chunk opens once and in order, so opening is measured together with its sealing.
    group.bench_function(BenchmarkId::new("seal and open", bytes), |bencher| {
        bencher.iter(|| {
            let (text, tag) = chunk.split_at_mut(bytes);
            let sealed = sealer.seal_in_place(&HEADER, text).expect("chunks are left");
            tag.copy_from_slice(&sealed.1);
            let opened = opener.open_in_place(sealed.0, &HEADER, &mut chunk);
            black_box(opened.expect("it was just sealed").len())
        });
    });
    group.bench_function(BenchmarkId::new("seal", bytes), |bencher| {
        bencher.iter(|| {
            let sealed = sealer.seal_in_place(&HEADER, &mut chunk[..bytes]);
            black_box(sealed.expect("chunks are left"))
        });
    });
    group.finish();
}
