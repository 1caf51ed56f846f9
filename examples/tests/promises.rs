//! Promises to be there: declared by real agents, watched and judged by a real coordinator through
//! days of virtual time.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use iris_coordinator::payouts::PayPolicy;
use iris_coordinator::{Builder, Clock};
use iris_core::backend::ScriptedBackend;
use iris_core::reward::audit::Audit;
use iris_core::reward::{RewardEvent, What};
use iris_core::store::{Batch, Document, Key, MemoryStore, Store};
use iris_core::terms::Terms;
use iris_core::{Epoch, NodeId, Timestamp};
use iris_crypto::{Identity, Secret};
use iris_node::agent::Conduct;
use tokio::sync::watch;

use net::{CALLER, Net, Node, OWNER};

mod net;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A calendar that begins two days before the end of a month, for each test anew.
#[derive(Debug)]
struct MonthsEnd;

impl MonthsEnd {
    fn epoch() -> Epoch {
        "2027-01".parse().unwrap()
    }
}

impl Clock for MonthsEnd {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn calendar(&self) -> Timestamp {
        thread_local!(static START: OnceCell<Instant> = const { OnceCell::new() });
        let start = START.with(|start| *start.get_or_init(|| self.now()));
        let passed = self.now().saturating_duration_since(start);
        let begin = Self::epoch().end().as_millis() - 48 * 3_600_000;
        Timestamp::from_millis(begin).saturating_add(passed)
    }
}

fn at_months_end(builder: Builder) -> Builder {
    let mut policy = PayPolicy::named("seed").unwrap();
    policy.close_after = Duration::ZERO;
    builder.with_clock(Arc::new(MonthsEnd)).with_pay_policy(policy)
}

async fn network(store: &Arc<MemoryStore>) -> Net {
    Net::set_up(Arc::<MemoryStore>::clone(store), at_months_end).await
}

/// Lets the promising node join, or come back.
async fn join(net: &Net, hours: Option<&str>) -> Node {
    let identity = Identity::from_seed(&Secret::from_bytes([3; 32]));
    let hours = hours.map(|hours| Box::new(hours.parse().unwrap()));
    let terms = Terms { hours, ..Terms::default() };
    let conduct = watch::channel(Conduct { terms, ..Conduct::default() }).1;
    net.join_of(OWNER, identity, backend(), |agent| {
        agent.with_conduct(conduct).with_clock(|| MonthsEnd.calendar())
    })
    .await
}

/// Lets somebody else's node join, which promises nothing.
async fn bystander(net: &Net) -> Node {
    let clock = || MonthsEnd.calendar();
    net.join_of(CALLER, Identity::generate(), backend(), |agent| agent.with_clock(clock)).await
}

fn backend() -> ScriptedBackend {
    ScriptedBackend::echo("parrot".parse().unwrap())
}

/// Lives until so many minutes into the next hour.
async fn until_next_hour(minutes: u32) {
    let into = MonthsEnd.calendar().as_millis() % 3_600_000;
    tokio::time::sleep(Duration::from_millis(3_600_000 - into) + MINUTE * minutes).await;
}

async fn hours(count: u32) {
    tokio::time::sleep(HOUR * count).await;
}

/// Returns the hours of the month that were judged of a node, and whether they were kept.
async fn judged(store: &MemoryStore, node: NodeId) -> Vec<(u64, bool)> {
    let events = store.scan(Key::all("event"));
    let events: Vec<RewardEvent> =
        events.map(|record| record.unwrap().value.decode::<RewardEvent>().unwrap()).collect().await;
    let begin = MonthsEnd::epoch().end().as_millis() - 48 * 3_600_000;
    let judged = events.into_iter().filter(|event| event.node == node).filter_map(|event| {
        let What::Promised { kept } = event.what else { return None };
        assert_eq!(event.owner, OWNER);
        Some(((event.at.as_millis() - begin) / 3_600_000, kept))
    });
    judged.collect()
}

#[tokio::test(start_paused = true)]
async fn promised_hours_are_judged_and_the_months_books_hold() {
    let store = Arc::new(MemoryStore::new());
    let net = network(&store).await;
    let _other = bystander(&net).await;
    let node = join(&net, Some("always")).await;
    let id = node.id;
    let began = MonthsEnd.calendar().as_millis() % 3_600_000;
    assert!(began < 60_000, "the story begins with an hour");
    let shown = net.coordinator.nodes().into_iter().find(|shown| shown.id == id).unwrap();
    assert_eq!(shown.hours.unwrap().to_string(), "always");
    // What was declared in hour 0 counts from hour 25 on.
    hours(26).await;
    until_next_hour(1).await;
    assert_eq!(judged(&store, id).await, [(25, true), (26, true)]);
    let before = net.coordinator.points_of(&id).unwrap();
    // Ten minutes away break hour 27; three keep hour 28.
    node.kill();
    tokio::time::sleep(MINUTE * 10).await;
    let node = join(&net, Some("always")).await;
    until_next_hour(1).await;
    assert_eq!(judged(&store, id).await[2..], [(27, false)]);
    let after = net.coordinator.points_of(&id).unwrap();
    assert!((-5..=-4).contains(&(after - before)), "from {before} to {after}");
    node.kill();
    tokio::time::sleep(MINUTE * 3).await;
    // It takes its promise back in hour 28, which counts from hour 53 on, and leaves in hour 29.
    let node = join(&net, None).await;
    until_next_hour(1).await;
    node.stop().await;
    let why = net.coordinator.why(&id).await.unwrap().unwrap().promise.unwrap();
    assert_eq!((why.hours, why.kept, why.broken), (None, 3, 1));
    hours(30).await;
    let judged = judged(&store, id).await;
    assert_eq!(judged[3], (28, true));
    let owed: Vec<_> = (29..53).map(|hour| (hour, false)).collect();
    assert_eq!(judged[4..], owed, "nobody escapes by taking back what is due within a day");
    assert_eq!(net.coordinator.why(&id).await.unwrap().unwrap().promise, None);
    // The month had 48 of these hours; its books are computed anew from its export.
    let payouts = net.coordinator.payouts();
    payouts.close(MonthsEnd::epoch()).await.unwrap();
    let lines: Vec<_> =
        payouts.export(MonthsEnd::epoch()).await.unwrap().try_collect().await.unwrap();
    let mut audit = Audit::default();
    let mut broken = 0;
    for line in &lines {
        let line = serde_json::to_string(line).unwrap();
        broken += usize::from(line.contains("\"kept\":false"));
        audit.line(&line).unwrap();
    }
    let report = audit.finish().unwrap();
    assert_eq!(broken, 1 + (29..48).count());
    assert_eq!(report.outcome.points[&id], 100 + 27 - 5 * 20);
}

#[tokio::test(start_paused = true)]
async fn downtime_of_the_coordinator_counts_against_nobody_and_promises_outlive_it() {
    let store = Arc::new(MemoryStore::new());
    let net = network(&store).await;
    let node = join(&net, Some("always")).await;
    let id = node.id;
    hours(25).await;
    until_next_hour(10).await;
    let before = judged(&store, id).await.len();
    // It is down from ten past to ten past two hours later; the node never comes back.
    node.kill();
    net.coordinator.shutdown().await;
    drop(net);
    hours(2).await;
    let net = network(&store).await;
    let _other = bystander(&net).await;
    let why = net.coordinator.why(&id).await.unwrap().unwrap().promise.unwrap();
    assert_eq!(why.hours.unwrap().to_string(), "always");
    until_next_hour(1).await;
    assert_eq!(judged(&store, id).await.len(), before, "three hours were not watched whole");
    hours(2).await;
    let judged = judged(&store, id).await;
    assert_eq!(judged.len(), before + 2);
    assert!(judged[..before].iter().all(|(_, kept)| *kept));
    assert!(judged[before..].iter().all(|(_, kept)| !kept));
    assert_eq!(judged[before].0, judged[before - 1].0 + 4);
}

#[tokio::test(start_paused = true)]
async fn an_hour_that_was_judged_elsewhere_is_judged_once() {
    let store = Arc::new(MemoryStore::new());
    let net = network(&store).await;
    let node = join(&net, Some("always")).await;
    let id = node.id;
    hours(25).await;
    until_next_hour(30).await;
    let begin = MonthsEnd.calendar().as_millis() / 3_600_000 * 3_600_000;
    let at = Timestamp::from_millis(begin + 3_599_999);
    let key = Key::new("event", format!("{:013}-{id}-promise", at.as_millis())).unwrap();
    let event = RewardEvent { at, node: id, owner: OWNER, what: What::Promised { kept: true } };
    store.commit(Batch::new().put(key, Document::encode(&event))).await.unwrap();
    let before = net.coordinator.points_of(&id);
    node.kill();
    until_next_hour(1).await;
    let last = *judged(&store, id).await.last().unwrap();
    assert!(last.1, "what another coordinator wrote stands: {last:?}");
    let promise = net.coordinator.why(&id).await.unwrap().unwrap().promise.unwrap();
    assert_eq!(promise.broken, 0, "what was not written down is not counted");
    let _back = join(&net, Some("always")).await;
    assert!(net.coordinator.points_of(&id) >= before, "and it costs nothing");
}
