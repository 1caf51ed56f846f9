//! What it costs to hold a request to its limits: the pace of its account and the quota of its key.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use iris_coordinator::{ApiKey, Coordinator};
use iris_core::AccountId;
use iris_core::store::MemoryStore;
use iris_crypto::{Identity, Secret};
use iris_protocol::rest::{KeyScope, KeyTerms, Quota};
use tokio::runtime::Runtime;

/// Callers who ask in turns.
const CALLERS: u32 = 10_000;
/// More than anybody asks here.
const PLENTY: u32 = 1_000_000_000;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let runtime = Runtime::new().expect("the system gives threads");
    let _entered = runtime.enter();
    let quota = Quota {
        requests_per_day: Some(PLENTY.into()),
        tokens_per_month: Some(PLENTY.into()),
        ..Quota::default()
    };
    let held = KeyTerms { quota, requests_per_minute: Some(PLENTY), ..KeyTerms::default() };
    for (name, terms) in [("without limits", KeyTerms::default()), ("with quota and pace", held)] {
        admit(&mut criterion, &runtime, name, &Arc::new(terms));
    }
    criterion.final_summary();
}

fn admit(criterion: &mut Criterion, runtime: &Runtime, name: &str, terms: &Arc<KeyTerms>) {
    let store = Arc::new(MemoryStore::new());
    let builder = Coordinator::builder(store, Identity::generate(), Secret::generate());
    let building = builder.with_rate_per_minute(PLENTY).build();
    let coordinator = runtime.block_on(building).expect("the books are empty");
    let keys: Vec<ApiKey> = (0..CALLERS).map(|number| key(number, terms)).collect();
    let mut callers = keys.iter().cycle();
    criterion.bench_function(&format!("admit a request by a key {name}"), |bencher| {
        bencher.iter(|| {
            let key = callers.next().expect("they come again");
            let admitted = coordinator.admit(&key.account, Some(black_box(key)));
            black_box(admitted).expect("there is plenty left")
        });
    });
}

fn key(number: u32, terms: &Arc<KeyTerms>) -> ApiKey {
    let id = format!("{number:024x}").parse().expect("24 digits are an id");
    let account = AccountId::from_bytes(u128::from(number).to_be_bytes());
    ApiKey { id, meter: id, account, scope: KeyScope::Inference, terms: Arc::clone(terms) }
}
