//! Choosing a node among many.

use std::hint::black_box;
use std::time::{Duration, Instant};

use iris_core::demand::Demand;
use iris_core::model::{ModelOffer, TokenRate};
use iris_core::registry::{NodeProfile, Registry};
use iris_core::reputation::Points;
use iris_core::scheduler::{Balanced, Scheduler};
use iris_core::{AccountId, NodeId};

/// By how many nodes the time to choose one is measured.
pub const SIZES: [u32; 3] = [10, 1_000, 100_000];

const MODEL: &str = "mistralai/Mistral-Small-24B-Instruct";
const CONTEXTS: [u32; 4] = [4096, 8192, 32_768, 131_072];

/// Returns how long one choice among the nodes of `registry` takes, the average of `rounds`.
pub fn measure(registry: &Registry, rounds: u32) -> Duration {
    let (demand, now) = (demand(), Instant::now());
    let begun = Instant::now();
    for seed in 0..u64::from(rounds) {
        black_box(Balanced.choose(registry, black_box(&demand), now, seed));
    }
    begun.elapsed() / rounds
}

/// Makes a demand that half of the nodes cannot meet, because their context is too short.
pub fn demand() -> Demand {
    let mut demand = Demand::new(MODEL.parse().expect("the text names a model"));
    demand.context_tokens = 10_000;
    demand
}

/// Makes nodes of one slot, so that holding one moves it out of the index and back.
pub fn registry(nodes: u32) -> Registry {
    let mut registry = Registry::default();
    for number in 0..nodes {
        let context = CONTEXTS[number as usize % CONTEXTS.len()];
        let mut offer = ModelOffer::new(MODEL.parse().expect("the text names a model"), context);
        offer.speed = Some(TokenRate::per_second(u64::from(number % 50) + 1));
        let profile = NodeProfile {
            id: node_id(number),
            owner: AccountId::from_bytes(u128::from(number).to_be_bytes()),
            name: String::new(),
            slots: 1,
            models: vec![offer],
            datasets: Vec::new(),
            memory_gb: None,
            terms: iris_core::terms::Terms::default(),
        };
        registry.join(profile, Points::START);
    }
    registry
}

/// Returns the id of a node that there is not.
pub fn node_id(mut number: u32) -> NodeId {
    let mut letters = ['a'; 26];
    for letter in letters.iter_mut().rev() {
        *letter = char::from(b'a' + (number % 26) as u8);
        number /= 26;
    }
    letters.iter().collect::<String>().parse().expect("26 letters are a node's id")
}
