//! The simulator, as integrators use it.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use iris_coordinator::simulation::{Chat, Counting, NodePlan, Reply, ReplyEnd, Simulation};

fn counting(seed: u64) -> NodePlan {
    NodePlan::new(Counting::new("m".parse().unwrap(), seed))
}

/// Lets `name` ask for `words` words; the reply comes into what is returned.
fn ask(net: &mut Simulation, name: &'static str, words: u32) -> Arc<Mutex<Option<Reply>>> {
    let reply = Arc::new(Mutex::new(None));
    let place = Arc::clone(&reply);
    net.caller(name, |caller| async move {
        let chat = Chat::new("m".parse().unwrap(), Counting::question(name, words));
        *place.lock().unwrap() = Some(caller.chat(chat).await);
    });
    reply
}

#[test]
fn question_crosses_the_simulated_network_and_comes_back() {
    let mut net = Simulation::builder(1).build();
    net.node("node", counting(1));
    net.run_for(Duration::from_secs(1));
    let reply = ask(&mut net, "alice", 20);
    assert!(net.run_callers(Duration::from_mins(1)), "{:#?}", net.trace().lines());
    let reply = reply.lock().unwrap().take().unwrap();
    assert_eq!(reply.end, ReplyEnd::Complete);
    assert_eq!(reply.text, Counting::answer("alice", 20));
    net.run_for(Duration::from_secs(1));
    net.check_rest();
    assert_eq!(net.settlements().len(), 1);
    assert_eq!(net.trace().failures(), [""; 0]);
}
