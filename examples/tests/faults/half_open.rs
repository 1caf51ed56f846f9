//! Peers that are there and do nothing, as after a power cut.

use std::time::{Duration, Instant};

use crate::HEALED;
use crate::live::caller::{self, Request};
use crate::live::chat;
use crate::network::{Network, Part};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_stands_still_is_lost_and_another_answers() {
    let mut network = Network::begin(1).await;
    // The model server holds the answer back until the node stands still.
    network.child(Part::ModelServer).signal("STOP");
    let request = Request::post("/v1/chat/completions", chat("still there?", true));
    let asked = tokio::spawn(caller::send(network.address, &request.bearer(&network.key)));
    network.has_running(1).await;
    network.child(Part::Node(0)).signal("STOP");
    network.child(Part::ModelServer).signal("CONT");
    network.nodes.push(None);
    network.start(Part::Node(1)).await;
    let begun = Instant::now();
    let mut reply = tokio::time::timeout(HEALED, asked).await.unwrap().unwrap().unwrap();
    let mut answer = String::new();
    while let Some(word) = reply.word().await.unwrap() {
        answer.push_str(&word);
    }
    assert_eq!((reply.status, &*answer), (200, "still there?"));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    network.has_nodes(1).await;
    // What comes back finds its session gone, and begins anew.
    network.child(Part::Node(0)).signal("CONT");
    network.has_nodes(2).await;
    network.serves().await;
    network.is_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinator_that_stood_still_takes_its_nodes_back() {
    let mut network = Network::begin(1).await;
    network.child(Part::Coordinator).signal("STOP");
    network.nodes[0].as_mut().unwrap().says("offline").await;
    network.child(Part::Coordinator).signal("CONT");
    network.nodes[0].as_mut().unwrap().says("online").await;
    network.serves().await;
    network.has_nodes(1).await;
    network.is_idle().await;
}
