//! How many rows a second the journal makes durable in a SQLite file.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use iris_benches::rows::{Rows, SAMPLE};
use tokio::runtime::Runtime;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .sample_size(10)
        .configure_from_args();
    let runtime = Runtime::new().expect("the system gives threads");
    let folder = tempfile::tempdir().expect("the system gives a folder");
    let mut rows = runtime.block_on(Rows::open(folder.path())).expect("the folder is new");
    let mut group = criterion.benchmark_group("group commit");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(u64::from(SAMPLE)));
    group.bench_function("settlements", |bencher| {
        bencher.iter_custom(|samples| (0..samples).map(|_| runtime.block_on(rows.write())).sum());
    });
    group.finish();
    criterion.final_summary();
    runtime.block_on(rows.close());
}
