//! SIGKILL at any moment, of anybody, under load.

use std::time::{Duration, Instant};

use crate::live::dice::Dice;
use crate::load::Load;
use crate::network::{Network, Part};
use crate::{QUIET, books, is_long};

const NODES: usize = 2;
const CALLERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_every_caller_hears_the_truth_and_every_task_is_settled_once() {
    let _quiet = QUIET.lock().await;
    let rounds = if is_long() { 100 } else { 5 };
    let mut dice = Dice::seeded();
    let mut network = Network::begin(NODES).await;
    let mut load = Load::begin(&network, CALLERS);
    let begun = Instant::now();
    let mut killed = [0; 3];
    let mut healed = Vec::new();
    for _ in 0..rounds {
        let (part, kind) = match dice.below(5) {
            0 | 1 => (Part::Coordinator, 0),
            2 | 3 => (Part::Node(dice.below(NODES)), 1),
            _ => (Part::ModelServer, 2),
        };
        killed[kind] += 1;
        // The kill, and the coming back, come at random moments.
        pause(&mut dice, 300).await;
        network.kill(part);
        pause(&mut dice, 200).await;
        network.start(part).await;
        let back = Instant::now();
        network.serves().await;
        healed.push(back.elapsed());
        load.check();
    }
    let tally = load.stop().await;
    network.has_nodes(NODES).await;
    network.is_idle().await;
    let finished = books::ended(&network, &tally.accepted).await;
    network.is_idle().await;
    network.kill(Part::Coordinator);
    let rows = books::check(network.database(), &tally.accepted).await;
    assert!(tally.answered() > 0 && finished > 0, "{tally:?}");
    healed.sort_unstable();
    println!(
        "{rounds} kills ({} coordinator, {} node, {} model server) in {:.0?}\n\
         answered: {} whole, {} streamed; hung up: {}; broken with the coordinator: {}\n\
         typed errors: {:?}\n\
         durable: {} accepted, {finished} finished, the rest failed by type; {rows} settlements\n\
         serving again after a start: median {:.0?}, longest {:.0?}",
        killed[0],
        killed[1],
        killed[2],
        begun.elapsed(),
        tally.whole,
        tally.streamed,
        tally.hung_up,
        tally.broken,
        tally.errors,
        tally.accepted.len(),
        healed[healed.len() / 2],
        healed[healed.len() - 1],
    );
}

async fn pause(dice: &mut Dice, longest_ms: usize) {
    tokio::time::sleep(Duration::from_millis(dice.below(longest_ms) as u64)).await;
}
