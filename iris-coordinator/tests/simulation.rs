//! The simulator, as integrators use it.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use iris_coordinator::simulation::{
    COORDINATOR, Chat, Counting, Mischief, NodePlan, Reply, ReplyEnd, Scenario, Simulation,
};
use iris_core::ModelName;
use iris_core::demand::Demand;
use iris_core::registry::Registry;
use iris_core::scheduler::{Balanced, Choice, Scheduler};
use iris_core::store::{Batch, Key, Record, Store, StoreError};
use iris_core::task::TaskState;
use iris_protocol::rest::InferenceRequest;

fn model() -> ModelName {
    "m".parse().unwrap()
}

fn counting(seed: u64) -> NodePlan {
    NodePlan::new(Counting::new(model(), seed))
}

/// Lets `name` ask for `words` words and returns the reply.
fn ask(net: &mut Simulation, name: &'static str, words: u32) -> Reply {
    ask_for(net, name, words, |chat| chat)
}

/// The same, of a chat that `change` has changed.
fn ask_for(
    net: &mut Simulation,
    name: &'static str,
    words: u32,
    change: impl FnOnce(Chat) -> Chat + 'static,
) -> Reply {
    let reply = Arc::new(Mutex::new(None));
    let place = Arc::clone(&reply);
    net.caller(name, |caller| async move {
        let chat = change(Chat::new(model(), Counting::question(name, words)));
        *place.lock().unwrap() = Some(caller.chat(chat).await);
    });
    assert!(net.run_callers(Duration::from_mins(12)), "{:#?}", net.trace().lines());
    reply.lock().unwrap().take().unwrap()
}

fn assert_well(net: &mut Simulation) {
    net.run_for(Duration::from_mins(1));
    net.check_rest();
    assert_eq!(net.trace().failures(), [""; 0], "{:#?}", net.trace().lines());
}

#[test]
fn question_crosses_the_simulated_network_and_comes_back() {
    let mut net = Simulation::builder(1).build();
    let node = net.node("node", counting(1));
    net.run_for(Duration::from_secs(1));
    let reply = ask(&mut net, "alice", 20);
    assert_eq!((reply.end, reply.node), (ReplyEnd::Complete, Some(node.id())));
    assert_eq!(reply.text, Counting::answer("alice", 20));
    assert_well(&mut net);
    assert_eq!(net.settlements().len(), 1);
}

#[test]
fn sealed_question_crosses_the_network_and_only_its_node_can_read_it() {
    for (seed, stream) in [(1, true), (2, false)] {
        let mut net = Simulation::builder(seed).build();
        let node = net.node("node", counting(1));
        net.run_for(Duration::from_secs(1));
        let reply =
            ask_for(&mut net, "alice", 20, move |chat| chat.with_seal(true).with_stream(stream));
        assert_eq!((reply.end, reply.node), (ReplyEnd::Complete, Some(node.id())));
        assert_eq!(reply.text, Counting::answer("alice", 20));
        assert_well(&mut net);
        assert!(net.settlements()[0].sealed);
    }
}

#[test]
fn no_mischief_changes_a_sealed_answer_or_takes_a_slot_for_good() {
    for (seed, mischief) in (0..).zip(Mischief::ALL) {
        let mut net = Simulation::builder(seed).build();
        let liar = net.node("liar", counting(seed).with_mischief([mischief], 1));
        net.run_for(Duration::from_secs(1));
        let reply = ask_for(&mut net, "alice", 30, |chat| chat.with_seal(true));
        assert!(liar.offered() > 0, "{mischief:?}");
        let whole = Counting::answer("alice", 30);
        assert!(whole.starts_with(&reply.text), "{mischief:?}: {:?}", reply.text);
        let complete = reply.end == ReplyEnd::Complete;
        assert!(!complete || reply.text == whole, "{mischief:?}: {:?}", reply.text);
        assert!(!matches!(reply.end, ReplyEnd::Malformed(_)), "{mischief:?}: {:?}", reply.end);
        assert_well(&mut net);
    }
}

#[test]
fn no_mischief_changes_an_answer_or_takes_a_slot_for_good() {
    for (seed, mischief) in (0..).zip(Mischief::ALL) {
        let mut net = Simulation::builder(seed).build();
        let liar = net.node("liar", counting(seed).with_mischief([mischief], 1));
        net.run_for(Duration::from_secs(1));
        let reply = ask(&mut net, "alice", 30);
        assert!(liar.offered() > 0, "{mischief:?}");
        let whole = Counting::answer("alice", 30);
        assert!(whole.starts_with(&reply.text), "{mischief:?}: {:?}", reply.text);
        let complete = reply.end == ReplyEnd::Complete;
        assert!(!complete || reply.text == whole, "{mischief:?}: {:?}", reply.text);
        assert_well(&mut net);
    }
}

#[test]
fn durable_task_survives_a_crash_and_a_chat_does_not() {
    let mut net = Simulation::builder(5).build();
    net.node("node", counting(1).with_slots(2));
    net.run_for(Duration::from_secs(1));
    let accepted = Arc::new(Mutex::new(None));
    let place = Arc::clone(&accepted);
    net.caller("durable", |caller| async move {
        let request = InferenceRequest::new(model(), Counting::question("d", 200).as_str());
        *place.lock().unwrap() = Some(caller.submit(&request, None).await.unwrap().id);
    });
    assert!(net.run_callers(Duration::from_secs(10)));
    let end = Arc::new(Mutex::new(None));
    let place = Arc::clone(&end);
    net.caller("chat", |caller| async move {
        let chat = Chat::new(model(), Counting::question("c", 200));
        *place.lock().unwrap() = Some(caller.chat(chat).await.end);
    });
    net.run_for(Duration::from_secs(1));
    net.crash(COORDINATOR);
    net.run_for(Duration::from_secs(1));
    net.restart(COORDINATOR);
    assert!(net.run_callers(Duration::from_secs(30)));
    assert_eq!(*end.lock().unwrap(), Some(ReplyEnd::Broken));
    assert_well(&mut net);
    let task = accepted.lock().unwrap().unwrap();
    assert_eq!(net.durable_tasks()[&task], TaskState::Finished);
    let rows = net.settlements();
    assert_eq!(rows.iter().map(|row| row.task).collect::<Vec<_>>(), [task]);
}

#[test]
fn crash_loses_what_the_disk_has_not_confirmed() {
    let mut net = Simulation::builder(6).build();
    net.node("node", counting(1));
    net.run_for(Duration::from_secs(1));
    net.disk().set_delay(Duration::from_secs(5)..=Duration::from_secs(5));
    assert_eq!(ask(&mut net, "alice", 1).end, ReplyEnd::Complete);
    net.crash(COORDINATOR);
    net.restart(COORDINATOR);
    net.run_for(Duration::from_secs(20));
    assert_eq!(net.settlements(), []);
    assert_eq!(ask(&mut net, "bob", 1).end, ReplyEnd::Complete);
    assert_well(&mut net);
    assert_eq!(net.settlements().len(), 1);
}

#[test]
fn node_that_is_cut_off_is_given_up_and_found_again() {
    let mut net = Simulation::builder(8).build();
    net.node("node", counting(1));
    net.run_for(Duration::from_secs(1));
    net.partition("node", COORDINATOR);
    net.run_for(Duration::from_mins(1));
    assert_eq!(net.coordinator().unwrap().stats().nodes, 0);
    assert_eq!(ask(&mut net, "alice", 1).end, ReplyEnd::Refused(503, "no_node_online".to_owned()));
    net.repair("node", COORDINATOR);
    net.run_for(Duration::from_mins(1));
    assert_eq!(ask(&mut net, "bob", 1).end, ReplyEnd::Complete);
    assert_well(&mut net);
}

/// A scheduler that lets nobody work.
#[derive(Debug)]
struct Idle;

impl Scheduler for Idle {
    fn choose(&self, registry: &Registry, demand: &Demand, now: Instant, seed: u64) -> Choice {
        Choice { chosen: None, ..Balanced.choose(registry, demand, now, seed) }
    }
}

#[test]
fn scheduler_of_ones_own_decides() {
    let idle = |coordinator: iris_coordinator::Builder| coordinator.with_scheduler(Arc::new(Idle));
    let mut net = Simulation::builder(9).with_coordinator(idle).build();
    let node = net.node("node", counting(1));
    net.run_for(Duration::from_secs(1));
    assert!(matches!(ask(&mut net, "alice", 1).end, ReplyEnd::Refused(429, _)));
    assert_eq!(node.offered(), 0);
    assert_well(&mut net);
}

/// A store that counts what is written through it.
#[derive(Debug)]
struct Counted<S>(S, Arc<AtomicUsize>);

impl<S: Store> Store for Counted<S> {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        self.1.fetch_add(batch.writes.len(), Ordering::Relaxed);
        self.0.commit(batch)
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.0.get(key)
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        self.0.scan(range)
    }
}

#[test]
fn store_of_ones_own_stands_random_runs() {
    let written = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&written);
    let scenario = Scenario::from_seed(2).with_network(move |network| {
        let written = Arc::clone(&written);
        network.with_store(move |disk| Arc::new(Counted(disk, Arc::clone(&written))))
    });
    let outcome = scenario.run();
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert!(seen.load(Ordering::Relaxed) > 0);
}

#[test]
fn same_seed_lives_the_same_run_and_another_does_not() {
    let [one, same, other] = [11, 11, 12].map(|seed| Scenario::from_seed(seed).run());
    assert_eq!(one.lines, same.lines);
    assert_eq!(one.hash, same.hash);
    assert_ne!(one.hash, other.hash);
}
