//! Real coordinator and nodes, and callers that speak real HTTP, over a simulated network.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod real_node;

use std::time::Duration;

use iris_coordinator::simulation::{Chat, Counting, ReplyEnd, Scenario, Simulation};

fn scenario(seed: u64) -> Scenario {
    Scenario::from_seed(seed).with_hosts(real_node::join)
}

#[test]
fn real_node_answers_over_the_simulated_network_and_resumes() {
    let mut net = Simulation::builder(3).build();
    net.host("node", |key| real_node::serve(key, 1, 1));
    net.run_for(Duration::from_secs(2));
    net.caller("alice", |alice| async move {
        let chat = Chat::new("m".parse().unwrap(), Counting::question("alice", 100));
        let reply = alice.chat(chat).await;
        assert_eq!(reply.end, ReplyEnd::Complete);
        assert_eq!(reply.text, Counting::answer("alice", 100));
    });
    net.run_for(Duration::from_secs(1));
    net.hold("node", "coordinator");
    net.run_for(Duration::from_secs(3));
    net.repair("node", "coordinator");
    assert!(net.run_callers(Duration::from_mins(1)), "{:#?}", net.trace().lines());
    net.run_for(Duration::from_secs(1));
    net.check_rest();
    assert_eq!(net.settlements().len(), 1);
    assert_eq!(net.trace().failures(), [""; 0]);
}

/// A few seeds; `cargo run -p iris-examples --example simulate` runs as many as one likes.
#[test]
fn promises_hold_in_random_runs() {
    for seed in 0..4 {
        let outcome = scenario(seed).run();
        assert!(outcome.failures.is_empty(), "seed {seed}: {:#?}", outcome.failures);
    }
}

#[test]
fn same_seed_lives_the_same_run() {
    for seed in 100..102 {
        let [one, other] = [(); 2].map(|()| scenario(seed).run());
        assert_eq!(one.lines, other.lines, "seed {seed}");
        assert_eq!(one.hash, other.hash, "seed {seed}");
    }
}
