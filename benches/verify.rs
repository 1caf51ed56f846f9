//! What it costs a coordinator that a node which it tests has completed a task.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use iris_benches::choice::node_id;
use iris_core::verify::{
    AuditResult, Auditor, NodeRecord, Reference, Rules, Scored, Seed, Stage, Traffic,
};
use iris_core::{AccountId, ModelName, Timestamp};

/// Among how many nodes that have shown themselves.
const NODES: [u32; 3] = [10, 1_000, 100_000];
const HOUR: Duration = Duration::from_hours(1);
const OWNER: AccountId = AccountId::from_bytes([1; 16]);
const TRUSTED: AccountId = AccountId::from_bytes([2; 16]);

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let model: ModelName = "mistralai/Mistral-Small-24B-Instruct".parse().expect("it is a name");
    let (settled, now) = settled(&model);
    for nodes in NODES {
        let mut auditor = Auditor::new(Rules::default());
        let ids: Vec<_> = (0..nodes).map(node_id).collect();
        for id in &ids {
            auditor.restore(*id, settled.clone());
            auditor.handle_offer(*id, OWNER, &model, now);
        }
        auditor.set_references(model.clone(), vec![reference(nodes)]);
        let mut task = 0_u32;
        criterion.bench_function(&format!("a task among {nodes} nodes"), |bencher| {
            bencher.iter(|| {
                task = task.wrapping_add(1);
                let id = ids[(task % nodes) as usize];
                let audit = auditor.handle_task(&id, &model, Traffic::Private, now, seed(task));
                if let Some(audit) = black_box(audit) {
                    let passed = auditor.handle_result(&audit.id, &right(), now);
                    black_box(passed).expect("it is under way");
                }
            });
        });
    }
    criterion.final_summary();
}

/// Makes a node that has shown itself for two months.
fn settled(model: &ModelName) -> (NodeRecord, Timestamp) {
    let (mut auditor, id) = (Auditor::new(Rules::default()), node_id(0));
    auditor.set_references(model.clone(), vec![reference(1)]);
    let mut now = Timestamp::from_millis(1_000_000);
    auditor.handle_offer(id, OWNER, model, now);
    for hour in 0..24 * 60 {
        now = now.saturating_add(HOUR);
        while let Some(audit) = auditor.poll_audit(now, seed(hour)) {
            auditor.handle_result(&audit.id, &right(), now).expect("it is under way");
        }
    }
    assert_eq!(auditor.stage(&id, model, now), Stage::Settled);
    (auditor.record(&id).expect("it was offered").clone(), now)
}

/// An answer as the model gives it.
fn right() -> AuditResult {
    AuditResult::Scored(vec![Scored { logprob: -100_000, best_logprob: -100_000 }; 100])
}

fn reference(number: u32) -> Reference {
    Reference { node: node_id(number), owner: TRUSTED }
}

fn seed(number: u32) -> Seed {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Seed::from_bytes(bytes)
}
