//! What every [`Scheduler`] must do.

use std::time::Instant;

use crate::demand::{Demand, Trust};
use crate::explain::{Explanation, Reason};
use crate::id::{AccountId, NodeId};
use crate::model::{Abilities, ModelOffer};
use crate::registry::{NodeProfile, NodeState, Registry};
use crate::reputation::Points;
use crate::scheduler::Scheduler;
use crate::standing::Standing;

/// Runs every check of this module.
pub fn run_all(scheduler: &dyn Scheduler) {
    chooses_only_what_meets_the_demand(scheduler);
    chooses_whatever_can_be_chosen(scheduler);
    same_arguments_give_the_same_choice(scheduler);
    compares_few_and_names_the_chosen(scheduler);
    accounts_for_every_node_once(scheduler);
    own_nodes_come_first(scheduler);
}

/// Never chooses a node that is busy, draining, away, tried, not meant, or lacks what the task
/// needs.
pub fn chooses_only_what_meets_the_demand(scheduler: &dyn Scheduler) {
    let now = Instant::now();
    let registry = assorted(60);
    for demand in demands() {
        for seed in 0..50 {
            let choice = scheduler.choose(&registry, &demand, now, seed);
            if let Some(chosen) = choice.chosen {
                let refusal = registry.refusal(&chosen.node, &demand);
                assert_eq!(refusal, None, "{} was chosen for {demand:?}", chosen.node);
            }
        }
    }
}

/// Chooses some node whenever one can be chosen, if it is one of a few.
///
/// A scheduler that samples may miss the only able node among many, but not among eight.
pub fn chooses_whatever_can_be_chosen(scheduler: &dyn Scheduler) {
    let now = Instant::now();
    let registry = assorted(8);
    for demand in demands() {
        let able = registry
            .iter()
            .any(|(_, node)| registry.refusal(&node.profile().id, &demand).is_none());
        for seed in 0..50 {
            let choice = scheduler.choose(&registry, &demand, now, seed);
            assert_eq!(choice.chosen.is_some(), able, "for {demand:?}");
        }
    }
}

/// Gives the same choice for the same arguments.
pub fn same_arguments_give_the_same_choice(scheduler: &dyn Scheduler) {
    let now = Instant::now();
    let registry = assorted(60);
    for demand in demands() {
        for seed in 0..20 {
            let first = scheduler.choose(&registry, &demand, now, seed);
            assert_eq!(first, scheduler.choose(&registry, &demand, now, seed));
        }
    }
}

/// Compares at most [`Explanation::MAX_COMPARED`] nodes, each once, and gives the reason
/// [`Reason::Chosen`] to the chosen one and to no other.
pub fn compares_few_and_names_the_chosen(scheduler: &dyn Scheduler) {
    let now = Instant::now();
    let registry = assorted(60);
    for demand in demands() {
        for seed in 0..20 {
            let choice = scheduler.choose(&registry, &demand, now, seed);
            let compared = &choice.explanation.compared;
            assert!(compared.len() <= Explanation::MAX_COMPARED);
            for (position, (node, _)) in compared.iter().enumerate() {
                assert!(!compared[..position].iter().any(|(known, _)| known == node));
            }
            let chosen = compared.iter().filter(|(_, reason)| *reason == Reason::Chosen);
            let chosen: Vec<NodeId> = chosen.map(|(node, _)| *node).collect();
            assert_eq!(chosen, choice.chosen.map(|c| c.node).into_iter().collect::<Vec<_>>());
        }
    }
}

/// Counts every node that offers the model exactly once, compared or passed over.
pub fn accounts_for_every_node_once(scheduler: &dyn Scheduler) {
    let now = Instant::now();
    let registry = assorted(60);
    for demand in demands() {
        let offering = registry.iter().filter(|(_, node)| {
            node.profile().models.iter().any(|offer| offer.name == demand.model)
        });
        let offering = offering.count();
        for seed in 0..20 {
            let explanation = scheduler.choose(&registry, &demand, now, seed).explanation;
            let skipped: u32 = explanation.skipped.iter().map(|(_, count)| count).sum();
            assert_eq!(explanation.compared.len() + skipped as usize, offering, "for {demand:?}");
        }
    }
}

/// Takes a free node of the owner whose nodes come first whenever there is one.
pub fn own_nodes_come_first(scheduler: &dyn Scheduler) {
    let now = Instant::now();
    let registry = assorted(60);
    for demand in demands() {
        let demand = Demand { own_first: Some(owner(1)), ..demand };
        let mine = registry.iter().filter(|(_, node)| node.profile().owner == owner(1));
        let able = mine.filter(|(_, node)| registry.refusal(&node.profile().id, &demand).is_none());
        let any_able = able.count() > 0;
        for seed in 0..20 {
            let choice = scheduler.choose(&registry, &demand, now, seed);
            let is_own = choice.chosen.is_some_and(|chosen| chosen.owner == owner(1));
            assert!(is_own || !any_able, "for {demand:?}");
        }
    }
}

/// Nodes of every kind: able, busy, draining, away, small, and without the model.
fn assorted(count: usize) -> Registry {
    let mut registry = Registry::default().with_trusted_owners([owner(2)]);
    for number in 0..count {
        let mut offer = ModelOffer::new(
            if number % 7 == 6 { "other" } else { "m" }.parse().expect("both are names"),
            if number % 3 == 0 { 2048 } else { 8192 },
        );
        if number % 2 == 0 {
            offer.abilities = Abilities::TOOLS;
        }
        let profile = NodeProfile {
            id: id(number),
            owner: owner(number),
            name: String::new(),
            slots: 2,
            models: vec![offer],
            datasets: if number % 5 < 2 { vec!["d".to_owned()] } else { Vec::new() },
            memory_gb: None,
            terms: crate::terms::Terms::default(),
        };
        let seat = registry.join(profile, Points::START);
        if number % 4 == 0 {
            registry.set_standing(seat, Standing { good: 60_000, bad: 0 });
        }
        match number % 6 {
            1 => {
                registry.reserve(seat);
            }
            2 => {
                registry.reserve(seat);
                registry.reserve(seat);
            }
            3 => registry.set_state(seat, NodeState::Draining),
            4 => registry.set_state(seat, NodeState::Away),
            _ => {}
        }
    }
    registry
}

fn demands() -> Vec<Demand> {
    let plain = Demand::new("m".parse().expect("it is a name"));
    let long = Demand { context_tokens: 4096, ..plain.clone() };
    let able = Demand { abilities: Abilities::TOOLS, ..plain.clone() };
    let tried = Demand { exclude: vec![id(0), id(1), id(5)], ..plain.clone() };
    let absent = Demand::new("absent".parse().expect("it is a name"));
    let named = Demand { only: [0, 2, 5, 6, 99].map(id).to_vec(), ..plain.clone() };
    let named_and_long = Demand { only: [0, 2, 5, 7].map(id).to_vec(), ..long.clone() };
    let apart = Demand { not_of: vec![owner(0), owner(1)], ..plain.clone() };
    let alone = Demand { not_of: [0, 1, 2].map(owner).to_vec(), ..plain.clone() };
    let data = Demand { dataset: Some("d".to_owned()), ..plain.clone() };
    let data_apart = Demand { not_of: vec![owner(0)], exclude: vec![id(1)], ..data.clone() };
    let named_data = Demand { only: [1, 5, 8, 10].map(id).to_vec(), ..data.clone() };
    let no_data = Demand { dataset: Some("absent".to_owned()), ..plain.clone() };
    let denied =
        Demand { denied: vec![id(0), id(1)], denied_owners: vec![owner(2)], ..plain.clone() };
    let own = Demand { owner_only: Some(owner(1)), ..plain.clone() };
    let nobodys =
        Demand { owner_only: Some(owner(0)), denied_owners: vec![owner(0)], ..own.clone() };
    let proven = Demand { trust: Trust::Proven, ..plain.clone() };
    let trusted = Demand { trust: Trust::Trusted, exclude: vec![id(5)], ..plain.clone() };
    let first = Demand { own_first: Some(owner(0)), ..plain.clone() };
    let first_and_long = Demand { own_first: Some(owner(1)), denied: vec![id(1)], ..long.clone() };
    let known = Demand { affinity: Some(id(4)), ..plain.clone() };
    let known_and_denied = Demand { affinity: Some(id(0)), ..denied.clone() };
    let routed =
        [denied, own, nobodys, proven, trusted, first, first_and_long, known, known_and_denied];
    let placed = [named, named_and_long, apart, alone, data, data_apart, named_data, no_data];
    [plain, long, able, tried, absent].into_iter().chain(placed).chain(routed).collect()
}

/// Three accounts own the nodes.
fn owner(number: usize) -> AccountId {
    AccountId::from_bytes([u8::try_from(number % 3).expect("it is below 3"); 16])
}

fn id(number: usize) -> NodeId {
    let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).expect("it is below 26"));
    let text: String = [letter(number / 26), letter(number)].iter().collect();
    format!("{text:a>26}").parse().expect("26 letters are a node id")
}
