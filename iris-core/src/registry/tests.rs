//! The index against a search through all nodes, and who may ask whom.

use proptest::prelude::*;

use super::*;
use crate::demand::Demand;
use crate::explain::Reason;
use crate::model::TokenRate;
use crate::terms::Callers;

fn node_id(number: u8) -> NodeId {
    let letter = |n: u8| char::from(b'a' + n % 26);
    let text: String = [letter(number / 26), letter(number)].iter().collect();
    format!("{text:a>26}").parse().unwrap()
}

fn offers(models: &[u8]) -> Vec<ModelOffer> {
    let offer = |m: &u8| {
        let mut offer = ModelOffer::new(format!("m{m}").parse().unwrap(), 512 << (m % 3));
        offer.speed = Some(TokenRate::per_second(u64::from(*m)));
        offer
    };
    models.iter().map(offer).collect()
}

fn profile(number: u8, slots: u32, models: &[u8]) -> NodeProfile {
    NodeProfile {
        id: node_id(number),
        owner: owner(number),
        name: String::new(),
        slots,
        models: offers(models),
        datasets: if number.is_multiple_of(2) { vec!["d".to_owned()] } else { Vec::new() },
        memory_gb: None,
        terms: Terms::default(),
    }
}

fn owner(number: u8) -> AccountId {
    AccountId::from_bytes([number % 4; 16])
}

#[derive(Clone, Debug)]
enum Step {
    Join(u8, u32, Vec<u8>),
    Leave(u8),
    Update(u8, u32, Vec<u8>),
    State(u8, NodeState),
    Points(u8, i64),
    Standing(u8, u64, u64),
    Reserve(u8),
    Release(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let models = || proptest::collection::vec(0_u8..5, 0..4);
    let state =
        prop_oneof![Just(NodeState::Ready), Just(NodeState::Draining), Just(NodeState::Away)];
    prop_oneof![
        (0_u8..6, 1_u32..3, models()).prop_map(|(n, s, m)| Step::Join(n, s, m)),
        (0_u8..6).prop_map(Step::Leave),
        (0_u8..6, 1_u32..3, models()).prop_map(|(n, s, m)| Step::Update(n, s, m)),
        (0_u8..6, state).prop_map(|(n, s)| Step::State(n, s)),
        (0_u8..6, -5_i64..200).prop_map(|(n, points)| Step::Points(n, points)),
        (0_u8..6, 0_u64..99_000, 0_u64..9000).prop_map(|(n, g, b)| Step::Standing(n, g, b)),
        (0_u8..6).prop_map(Step::Reserve),
        (0_u8..6).prop_map(Step::Release),
    ]
}

/// Compares the index with a search through all nodes.
fn check(registry: &Registry) {
    for model in 0..5 {
        let demand = Demand::new(format!("m{model}").parse().unwrap());
        let indexed: BTreeSet<NodeId> = registry
            .groups(&demand)
            .flat_map(|group| (0..group.free()).map(move |i| group.candidate(i).node))
            .collect();
        let searched = registry
            .iter()
            .map(|(_, node)| node.profile.id)
            .filter(|id| registry.refusal(id, &demand).is_none())
            .collect();
        assert_eq!(indexed, searched, "m{model}");
        for group in registry.groups(&demand) {
            for candidate in (0..group.free()).map(|position| group.candidate(position)) {
                let node = registry.node(candidate.seat).unwrap();
                assert_eq!(candidate.node, node.profile.id);
                let found = (candidate.in_use, candidate.slots, candidate.chance);
                assert_eq!(found, (node.in_use, node.profile.slots, node.standing.chance()));
                let offer = node.profile.models.iter().find(|o| o.name == demand.model);
                assert_eq!(candidate.speed, offer.unwrap().speed);
            }
        }
        let members: usize =
            registry.groups(&demand).map(|g| g.free() + g.occupied() as usize).sum();
        let offering = registry
            .iter()
            .map(|(_, node)| node)
            .filter(|node| node.profile.models.iter().any(|offer| offer.name == demand.model));
        let offering: Vec<&Node> = offering.collect();
        let working = offering.iter().filter(|node| node.state != NodeState::Draining);
        let slots: u64 = working.map(|node| u64::from(node.profile.slots)).sum();
        assert_eq!(registry.groups(&demand).map(|g| g.capacity()).sum::<u64>(), slots);
        assert_eq!(members, offering.len(), "m{model}");
        assert_eq!(registry.offers(&demand.model), members > 0);
        for demand in placed(&demand) {
            check_placed(registry, &demand);
        }
        for demand in placed(&demand).into_iter().take(6).chain([demand]) {
            check_own_first(registry, &demand);
        }
    }
}

fn placed(plain: &Demand) -> Vec<Demand> {
    let long = Demand { context_tokens: 1000, ..plain.clone() };
    let only = Demand { only: [0, 1, 3, 9].map(node_id).to_vec(), ..long.clone() };
    let data = Demand { dataset: Some("d".to_owned()), ..plain.clone() };
    let both = Demand { only: only.only.clone(), ..data.clone() };
    let apart = Demand { not_of: vec![owner(0)], exclude: vec![node_id(1)], ..plain.clone() };
    let data_apart = Demand { not_of: vec![owner(2)], ..data.clone() };
    let denied = Demand {
        denied: vec![node_id(0), node_id(9)],
        denied_owners: vec![owner(1)],
        exclude: vec![node_id(0), node_id(2)],
        ..plain.clone()
    };
    let own = Demand { owner_only: Some(owner(0)), ..long.clone() };
    let own_data = Demand {
        denied: vec![node_id(0)],
        ..Demand { dataset: data.dataset.clone(), ..own.clone() }
    };
    let strangers = Demand { owner_only: Some(owner(9)), ..plain.clone() };
    let proven = Demand { trust: Trust::Proven, ..plain.clone() };
    let trusted = Demand { trust: Trust::Trusted, not_of: vec![owner(2)], ..plain.clone() };
    let strict = [denied, own, own_data, strangers, proven, trusted];
    [only, data, both, apart, data_apart].into_iter().chain(strict).collect()
}

/// Checks that an owner's free nodes come before all others, and that nothing changes where
/// there are none.
fn check_own_first(registry: &Registry, demand: &Demand) {
    let own = Demand { own_first: Some(owner(1)), ..demand.clone() };
    let nodes = || registry.iter().map(|(_, node)| node);
    let able = |node: &&Node| registry.refusal(&node.profile.id, demand).is_none();
    let mine = nodes().filter(|node| node.profile.owner == owner(1)).filter(able);
    let mine: BTreeSet<_> = mine.map(|node| node.profile.id).collect();
    let found = |demand: &Demand| -> BTreeSet<NodeId> {
        let able = registry.groups(demand).filter(|group| group.refusal.is_none());
        let free = able.flat_map(|group| {
            (0..group.free()).map(move |at| group.candidate(at)).collect::<Vec<_>>()
        });
        free.filter(|c| demand.objection(c).is_none()).map(|c| c.node).collect()
    };
    let expected = if mine.is_empty() { found(demand) } else { mine };
    assert_eq!(found(&own), expected, "{own:?}");
    let count = |demand: &Demand| -> usize {
        registry.groups(demand).map(|group| group.free() + group.occupied() as usize).sum()
    };
    assert_eq!(count(&own), count(demand));
    for node in nodes() {
        let id = node.profile.id;
        let refused = registry.refusal(&id, demand).is_some();
        assert_eq!(registry.candidate(&id, demand).is_none(), refused);
    }
}

/// Compares what is found for a demand that means some nodes with a search through all.
fn check_placed(registry: &Registry, demand: &Demand) {
    let refusal = |node: &Node| registry.refusal(&node.profile.id, demand);
    let nodes = || registry.iter().map(|(_, node)| node);
    let able = registry.groups(demand).filter(|group| group.refusal.is_none());
    let found: BTreeSet<NodeId> = able
        .flat_map(|group| (0..group.free()).map(move |at| group.candidate(at)))
        .filter(|candidate| demand.objection(candidate).is_none())
        .map(|candidate| candidate.node)
        .collect();
    let free = nodes().filter(|node| refusal(node).is_none());
    assert_eq!(found, free.map(|node| node.profile.id).collect(), "{demand:?}");
    let counted: usize =
        registry.groups(demand).map(|group| group.free() + group.occupied() as usize).sum();
    let offering = nodes().filter(|node| refusal(node) != Some(Reason::ModelNotOffered));
    assert_eq!(counted, offering.count(), "{demand:?}");
    let busy = [None, Some(Reason::NoFreeSlot), Some(Reason::Draining), Some(Reason::Away)];
    let takers = nodes().filter(|node| busy.contains(&refusal(node)));
    let owners: BTreeSet<_> = takers.map(|node| node.profile.owner).collect();
    for most in 0..5 {
        assert_eq!(registry.owners(demand, most), owners.len().min(most), "{demand:?}");
    }
    let holding = nodes().any(|node| !node.profile.datasets.is_empty());
    assert_eq!(registry.holds("d"), holding);
}

proptest! {
    #[test]
    fn index_agrees_with_a_search_through_all_nodes(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut registry = Registry::default().with_trusted_owners([owner(3)]);
        for step in steps {
            let seat = |registry: &Registry, n| registry.seat(&node_id(n));
            match step {
                Step::Join(n, slots, models) => {
                    registry.join(profile(n, slots, &models), Points::START);
                }
                Step::Leave(n) => {
                    if let Some(seat) = seat(&registry, n) {
                        registry.leave(seat);
                        assert!(!registry.reserve(seat), "a stale seat has no slots");
                    }
                }
                Step::Update(n, slots, models) => {
                    if let Some(seat) = seat(&registry, n) {
                        registry.update(seat, slots, offers(&models));
                    }
                }
                Step::State(n, state) => {
                    if let Some(seat) = seat(&registry, n) {
                        registry.set_state(seat, state);
                    }
                }
                Step::Points(n, points) => {
                    if let Some(seat) = seat(&registry, n) {
                        registry.set_points(seat, Points::new(points));
                    }
                }
                Step::Standing(n, good, bad) => {
                    if let Some(seat) = seat(&registry, n) {
                        registry.set_standing(seat, Standing { good, bad });
                    }
                }
                Step::Reserve(n) => {
                    if let Some(seat) = seat(&registry, n) {
                        registry.reserve(seat);
                    }
                }
                Step::Release(n) => {
                    if let Some(seat) = seat(&registry, n) {
                        registry.release(seat);
                    }
                }
            }
            check(&registry);
        }
    }
}

/// Returns how many nodes may be asked, and how many are not for the one who asks.
fn asked_by(registry: &Registry, asker: Option<AccountId>) -> (usize, u32) {
    let demand = Demand { asker, ..Demand::new("m0".parse().unwrap()) };
    let (mut may, mut not) = (0, 0);
    for group in registry.groups(&demand) {
        match group.refusal {
            None => may += group.free(),
            Some(reason) => {
                assert_eq!(reason, Reason::NotForCaller);
                not += group.bucket.members;
            }
        }
    }
    (may, not)
}

#[test]
fn nodes_answer_those_whom_their_owners_let_ask() {
    let mut registry = Registry::default();
    let mut seats = Vec::new();
    for number in 0..4 {
        seats.push(registry.join(profile(number, 1, &[0]), Points::START));
    }
    assert_eq!(asked_by(&registry, None), (4, 0));
    let set = |registry: &mut Registry, seat: usize, callers| {
        registry.set_terms(seats[seat], Terms { callers, ..Terms::default() });
    };
    set(&mut registry, 0, Callers::Members);
    set(&mut registry, 1, Callers::Own);
    set(&mut registry, 2, Callers::Own);
    let owner_of = |seat: usize| registry.node(seats[seat]).unwrap().profile().owner;
    let (mine, theirs) = (owner_of(1), owner_of(2));
    assert_ne!(mine, theirs, "the story needs two owners");
    assert_eq!(asked_by(&registry, None), (1, 3));
    assert_eq!(asked_by(&registry, Some(AccountId::from_bytes([200; 16]))), (2, 2));
    assert_eq!(asked_by(&registry, Some(mine)), (3, 1));
    let id = registry.node(seats[2]).unwrap().profile().id;
    let demand = |asker| Demand { asker, ..Demand::new("m0".parse().unwrap()) };
    assert_eq!(registry.refusal(&id, &demand(Some(mine))), Some(Reason::NotForCaller));
    assert_eq!(registry.refusal(&id, &demand(Some(theirs))), None);
    // A busy node of one's own is worth waiting for, and no other is counted.
    registry.reserve(seats[1]);
    let waits = demand(Some(mine));
    let able = registry.groups(&waits).filter(|group| group.refusal.is_none());
    assert_eq!(able.map(|group| group.occupied()).sum::<u32>(), 1);
    set(&mut registry, 1, Callers::Public);
    set(&mut registry, 2, Callers::Public);
    registry.release(seats[1]);
    assert_eq!(asked_by(&registry, None), (3, 1));
    for seat in seats {
        registry.leave(seat);
    }
    assert!(registry.by_model.is_empty());
}

#[test]
fn a_node_for_the_invited_answers_its_owner_and_those_it_has_invited() {
    let mut registry = Registry::default();
    let seat = registry.join(profile(0, 1, &[0]), Points::START);
    let theirs = registry.join(profile(1, 1, &[0]), Points::START);
    for seat in [seat, theirs] {
        let terms = Terms { callers: Callers::Invited, ..Terms::default() };
        registry.set_terms(seat, terms);
    }
    let owner = registry.node(seat).unwrap().profile().owner;
    let guest = AccountId::from_bytes([200; 16]);
    let model: ModelName = "m0".parse().unwrap();
    let invited = |asker, invited: &[AccountId]| Demand {
        asker,
        invited: invited.to_vec(),
        ..Demand::new(model.clone())
    };
    for (demand, free) in [
        (invited(None, &[owner]), 0),
        (invited(Some(guest), &[]), 0),
        (invited(Some(guest), &[owner]), 1),
        (invited(Some(owner), &[]), 1),
    ] {
        let groups: Vec<_> = registry.groups(&demand).collect();
        let able = groups.iter().filter(|group| group.refusal.is_none());
        assert_eq!(able.map(Group::free).sum::<usize>(), free, "{demand:?}");
        let refused = groups.iter().filter(|group| group.refusal.is_some());
        let refused: u32 = refused.map(|group| group.bucket.members).sum();
        assert_eq!(refused as usize, 2 - free, "{demand:?}");
        let id = registry.node(seat).unwrap().profile().id;
        assert_eq!(registry.refusal(&id, &demand).is_none(), free == 1, "{demand:?}");
    }
}

#[test]
fn a_barred_caller_is_given_none_of_an_owners_nodes() {
    let mut registry = Registry::default();
    let seat = registry.join(profile(0, 1, &[0]), Points::START);
    let owner = registry.node(seat).unwrap().profile().owner;
    let demand = Demand { barred: vec![owner], ..Demand::new("m0".parse().unwrap()) };
    let id = registry.node(seat).unwrap().profile().id;
    assert_eq!(registry.refusal(&id, &demand), Some(Reason::NotForCaller));
    assert_eq!(registry.owners(&demand, 1), 0);
    assert!(registry.candidate(&id, &demand).is_none());
}
