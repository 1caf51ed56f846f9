use std::time::Instant;

use super::{Choice, Scheduler};
use crate::demand::Demand;
use crate::explain::{Explanation, Reason};
use crate::id::AccountId;
use crate::model::TokenRate;
use crate::registry::{Candidate, Group, Registry, Seat};

/// Compares a few nodes at random and takes the one that promises the most tokens per second,
/// times how likely it is to keep the promise.
///
/// Sampling instead of sorting spreads work among equals without any shared memory of who was
/// last (Mitzenmacher, "The power of two choices in randomized load balancing", 2001) and costs
/// the same for ten nodes as for a hundred thousand. How likely a node keeps its promise is drawn
/// from its [standing](crate::standing), so that newcomers get work in proportion to how uncertain
/// they are. For a task that another node has refused or failed, reliability counts for more than
/// speed: it has fewer tries left, and has lost time. A node that knows the conversation's beginning
/// counts half as much again. Nodes of an owner who has more than a fair share of the model's work
/// are passed over, unless all others that were drawn are too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Balanced;

/// What nodes are taken to do of which none was measured, in tokens per second.
const UNMEASURED: TokenRate = TokenRate::per_second(10);

impl Scheduler for Balanced {
    fn choose(&self, registry: &Registry, demand: &Demand, _now: Instant, seed: u64) -> Choice {
        let mut explanation = Explanation::default();
        let mut able = Vec::new();
        let (mut free, mut own) = (0, false);
        for group in registry.groups(demand) {
            if let Some(reason) = group.refusal {
                own |= reason == Reason::OwnFirst;
                explanation.skip(reason, count(group.free()).saturating_add(group.occupied()));
            } else {
                explanation.skip(Reason::NoFreeSlot, group.occupied());
                free += group.free();
                able.push(group);
            }
        }
        let mut sampling = Sampling::new(demand, registry.beyond_share(&demand.model), free);
        let known = demand.affinity.and_then(|node| registry.candidate(&node, demand));
        if let Some(known) = known.filter(|node| !own || Some(node.owner) == demand.own_first) {
            sampling.take(known);
        }
        let mut random = SplitMix(seed);
        sampling.draw(&able, free, &mut random);
        let (sample, passed_over) = sampling.end(free, &mut explanation);
        let best = best(&sample, demand, &mut random);
        let reason = |i| if Some(i) == best { Reason::Chosen } else { Reason::Outscored };
        let compared = sample.iter().enumerate().map(|(i, c)| (c.node, reason(i)));
        let passed_over = passed_over.iter().map(|c| (c.node, Reason::OwnerShare));
        explanation.compared = compared.chain(passed_over).collect();
        Choice { chosen: best.map(|i| sample[i]), explanation }
    }
}

/// Different nodes out of those that are free.
struct Sampling<'a> {
    demand: &'a Demand,
    /// Owners who have more than their share.
    beyond: &'a [AccountId],
    /// Nodes that nothing speaks against, at most [`Explanation::MAX_COMPARED`].
    sample: Vec<Candidate>,
    /// Nodes that only their owner's share speaks against.
    spare: Vec<Candidate>,
    /// Nodes that must not do it, and why.
    refused: Vec<(Seat, Reason)>,
}

impl<'a> Sampling<'a> {
    fn new(demand: &'a Demand, beyond: &'a [AccountId], free: usize) -> Self {
        let sample = Vec::with_capacity(Explanation::MAX_COMPARED.min(free));
        Self { demand, beyond, sample, spare: Vec::new(), refused: Vec::new() }
    }

    /// Draws until there are enough, or nearly all that is there was seen.
    fn draw(&mut self, groups: &[Group<'_>], free: usize, random: &mut SplitMix) {
        // A walk from a random start with a random odd stride would favour neighbours; independent
        // draws with a bounded number of repeats do not, and fall back to a walk among the few.
        let few = free <= 2 * Explanation::MAX_COMPARED;
        let draws = if few { free } else { 4 * Explanation::MAX_COMPARED };
        let start = random.below(free);
        for draw in 0..draws {
            if self.sample.len() == Explanation::MAX_COMPARED {
                break;
            }
            let position = if few { (start + draw) % free } else { random.below(free) };
            let candidate = nth(groups, position);
            if !self.knows(candidate.seat) {
                self.take(candidate);
            }
        }
        if self.sample.is_empty() && self.spare.is_empty() && !few && !self.refused.is_empty() {
            // Nearly all of the nodes are one owner's, so that one of another's is worth a walk.
            let known = self.refused.len();
            for candidate in (0..free).map(|step| nth(groups, (start + step) % free)) {
                if !self.refused[..known].iter().any(|(seat, _)| *seat == candidate.seat) {
                    self.take(candidate);
                }
                if !self.sample.is_empty() || !self.spare.is_empty() {
                    break;
                }
            }
        }
    }

    fn knows(&self, seat: Seat) -> bool {
        self.sample.iter().chain(&self.spare).any(|known| known.seat == seat)
            || self.refused.iter().any(|(known, _)| *known == seat)
    }

    fn take(&mut self, candidate: Candidate) {
        let own = self.demand.is_own(&candidate.owner);
        if let Some(reason) = self.demand.objection(&candidate) {
            self.refused.push((candidate.seat, reason));
        } else if self.beyond.contains(&candidate.owner) && !own {
            self.spare.push(candidate);
        } else {
            self.sample.push(candidate);
        }
    }

    /// Returns the nodes to compare, and some that others come before; explains the rest.
    fn end(self, free: usize, explanation: &mut Explanation) -> (Vec<Candidate>, Vec<Candidate>) {
        let Self { mut sample, mut spare, refused, .. } = self;
        if sample.is_empty() {
            std::mem::swap(&mut sample, &mut spare);
        }
        let seen = sample.len() + spare.len() + refused.len();
        explanation.skip(Reason::NotCompared, count(free.saturating_sub(seen)));
        for (_, reason) in refused {
            explanation.skip(reason, 1);
        }
        if let Some(more) = sample.len().checked_sub(Explanation::MAX_COMPARED) {
            sample.truncate(Explanation::MAX_COMPARED);
            explanation.skip(Reason::NotCompared, count(more));
        }
        let room = Explanation::MAX_COMPARED - sample.len();
        explanation.skip(Reason::OwnerShare, count(spare.len().saturating_sub(room)));
        spare.truncate(room);
        (sample, spare)
    }
}

fn nth(groups: &[Group<'_>], mut position: usize) -> Candidate {
    for group in groups {
        if position < group.free() {
            return group.candidate(position);
        }
        position -= group.free();
    }
    unreachable!("positions are drawn below the number of free nodes")
}

/// Returns the position of the first of the best.
fn best(sample: &[Candidate], demand: &Demand, random: &mut SplitMix) -> Option<usize> {
    let usual = usual_speed(sample);
    let mut best = None;
    for (position, candidate) in sample.iter().enumerate() {
        let chance = candidate.chance.draw(random.next());
        let mut score = score(candidate, usual) * weight(chance, !demand.exclude.is_empty());
        if Some(candidate.node) == demand.affinity {
            score += score / 2;
        }
        if best.is_none_or(|(_, known)| score > known) {
            best = Some((position, score));
        }
    }
    best.map(|(position, _)| position)
}

/// What a chance counts, in units of 2^-32: itself, and its fifth power for a task that was tried
/// already, whose next failure may be its last.
const fn weight(chance: u32, tried: bool) -> u128 {
    let chance = chance as u128;
    if tried { chance.pow(5) >> 48 } else { chance << 16 }
}

/// Tokens per second that one more stream may expect of a node that keeps its promise.
fn score(candidate: &Candidate, usual: TokenRate) -> u128 {
    let speed = candidate.speed.unwrap_or(usual).as_millis();
    let slots = u128::from(candidate.slots.max(1));
    let free = slots.saturating_sub(u128::from(candidate.in_use));
    (u128::from(speed) << 16) * free / slots
}

/// The speed that nodes count with which were not measured: the median of those that were.
fn usual_speed(sample: &[Candidate]) -> TokenRate {
    if sample.iter().all(|candidate| candidate.speed.is_some()) {
        return UNMEASURED;
    }
    let mut speeds: Vec<TokenRate> = sample.iter().filter_map(|c| c.speed).collect();
    speeds.sort_unstable();
    speeds.get(speeds.len() / 2).copied().unwrap_or(UNMEASURED)
}

fn count(nodes: usize) -> u32 {
    u32::try_from(nodes).unwrap_or(u32::MAX)
}

/// Sebastiano Vigna's `SplitMix64`: a good stream of numbers from any seed in a few cycles.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, or 0 when `bound` is 0.
    fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * bound as u128;
        usize::try_from(wide >> 64).expect("the high half is below the bound")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::id::{AccountId, NodeId};
    use crate::model::ModelOffer;
    use crate::registry::{NodeProfile, NodeState};
    use crate::reputation::Points;
    use crate::standing::Standing;

    /// So much evidence that draws are all alike.
    const SURE: Standing = Standing { good: 1 << 40, bad: 0 };

    fn id(number: usize) -> NodeId {
        let mut text = [b'a'; 26];
        let mut rest = number;
        for letter in text.iter_mut().rev() {
            *letter = b'a' + u8::try_from(rest % 26).unwrap();
            rest /= 26;
        }
        std::str::from_utf8(&text).unwrap().parse().unwrap()
    }

    fn registry(speeds: &[u64]) -> Registry {
        let mut registry = Registry::default();
        for (number, speed) in speeds.iter().enumerate() {
            let mut offer = ModelOffer::new("m".parse().unwrap(), 4096);
            offer.speed = Some(TokenRate::per_second(*speed));
            let profile = NodeProfile {
                id: id(number),
                owner: AccountId::from_bytes([0; 16]),
                name: String::new(),
                slots: 2,
                models: vec![offer],
                datasets: Vec::new(),
                memory_gb: None,
                terms: crate::terms::Terms::default(),
            };
            let seat = registry.join(profile, Points::START);
            registry.set_standing(seat, SURE);
        }
        registry
    }

    fn choose(registry: &Registry, demand: &Demand, seed: u64) -> Choice {
        Balanced.choose(registry, demand, Instant::now(), seed)
    }

    #[test]
    fn meets_the_contract_of_schedulers() {
        crate::conformance::scheduler::run_all(&Balanced);
    }

    #[test]
    fn faster_of_few_is_chosen_and_the_others_are_outscored() {
        let registry = registry(&[10, 40, 20]);
        let choice = choose(&registry, &Demand::new("m".parse().unwrap()), 1);
        assert_eq!(choice.chosen.unwrap().node, id(1));
        let outscored = choice.explanation.compared.iter().filter(|c| c.1 == Reason::Outscored);
        assert_eq!(outscored.count(), 2);
    }

    #[test]
    fn half_busy_node_loses_to_an_idle_one_of_equal_speed() {
        let mut registry = registry(&[20, 20]);
        assert!(registry.reserve(registry.seat(&id(0)).unwrap()));
        for seed in 0..20 {
            let choice = choose(&registry, &Demand::new("m".parse().unwrap()), seed);
            assert_eq!(choice.chosen.unwrap().node, id(1));
        }
    }

    #[test]
    fn equals_share_the_work() {
        let registry = registry(&[20; 100]);
        let mut chosen = std::collections::BTreeSet::new();
        for seed in 0..1000 {
            let demand = Demand::new("m".parse().unwrap());
            chosen.insert(choose(&registry, &demand, seed).chosen.unwrap().node);
        }
        assert!(chosen.len() > 95, "only {} of 100 nodes were chosen", chosen.len());
    }

    #[test]
    fn every_node_is_accounted_for_by_one_reason() {
        let mut registry = registry(&[20; 50]);
        for number in 0..10 {
            registry.set_state(
                registry.seat(&id(number)).unwrap(),
                crate::registry::NodeState::Draining,
            );
        }
        let mut demand = Demand::new("m".parse().unwrap());
        demand.exclude = (10..13).map(id).collect();
        for seed in 0..100 {
            let explanation = choose(&registry, &demand, seed).explanation;
            let skipped: u32 = explanation.skipped.iter().map(|(_, n)| n).sum();
            assert_eq!(explanation.compared.len() + skipped as usize, 50);
        }
    }

    #[test]
    fn the_only_node_of_another_owner_is_found_among_many() {
        let mut registry = registry(&[20; 500]);
        let mut profile = registry.iter().next().unwrap().1.profile().clone();
        (profile.id, profile.owner) = (id(1000), AccountId::from_bytes([1; 16]));
        registry.join(profile, Points::START);
        let mut demand = Demand::new("m".parse().unwrap());
        demand.not_of = vec![AccountId::from_bytes([0; 16])];
        for seed in 0..50 {
            let choice = choose(&registry, &demand, seed);
            assert_eq!(choice.chosen.unwrap().node, id(1000));
            let skipped: u32 = choice.explanation.skipped.iter().map(|(_, n)| n).sum();
            assert_eq!(skipped, 500);
        }
        demand.exclude = vec![id(1000)];
        let choice = choose(&registry, &demand, 0);
        assert_eq!(choice.chosen, None);
        let reasons: std::collections::BTreeMap<_, _> =
            choice.explanation.skipped.into_iter().collect();
        assert_eq!(reasons, [(Reason::AlreadyTried, 1), (Reason::OwnerTaken, 500)].into());
    }

    fn shares(registry: &Registry, demand: &Demand, rounds: u64) -> BTreeMap<NodeId, u64> {
        let mut shares = BTreeMap::new();
        for seed in 0..rounds {
            let chosen = choose(registry, demand, mixed(seed)).chosen.unwrap();
            *shares.entry(chosen.node).or_default() += 1;
        }
        shares
    }

    fn mixed(seed: u64) -> u64 {
        SplitMix(seed).next()
    }

    #[test]
    fn newcomer_gets_some_work_and_less_than_those_who_are_known_to_be_good() {
        let mut registry = registry(&[20; 4]);
        registry.set_standing(registry.seat(&id(0)).unwrap(), Standing::default());
        let shares = shares(&registry, &Demand::new("m".parse().unwrap()), 4000);
        let newcomer = shares[&id(0)];
        assert!((80..800).contains(&newcomer), "{newcomer} of 4000");
    }

    #[test]
    fn node_that_fails_half_the_time_gets_next_to_nothing() {
        let mut registry = registry(&[20; 4]);
        let flaky = Standing { good: 50_000, bad: 50_000 };
        registry.set_standing(registry.seat(&id(0)).unwrap(), flaky);
        let shares = shares(&registry, &Demand::new("m".parse().unwrap()), 1000);
        assert_eq!(shares.get(&id(0)), None);
    }

    #[test]
    fn task_that_was_tried_goes_to_a_reliable_node_rather_than_to_a_fast_one() {
        let mut registry = registry(&[60, 30, 30, 30]);
        let flaky = Standing { good: 80_000_000, bad: 20_000_000 };
        registry.set_standing(registry.seat(&id(0)).unwrap(), flaky);
        let mut demand = Demand::new("m".parse().unwrap());
        for (tried, fast) in [(vec![], true), (vec![id(3)], false)] {
            demand.exclude = tried;
            for seed in 0..50 {
                let chosen = choose(&registry, &demand, seed).chosen.unwrap().node;
                assert_eq!(chosen == id(0), fast, "{:?}", demand.exclude);
            }
        }
    }

    #[test]
    fn node_that_claims_the_utmost_speed_breaks_nothing() {
        let registry = registry(&[u64::MAX, u64::MAX]);
        let mut demand = Demand::new("m".parse().unwrap());
        demand.affinity = Some(id(1));
        for tried in [vec![], vec![id(9)]] {
            demand.exclude = tried;
            assert_eq!(choose(&registry, &demand, 1).chosen.unwrap().node, id(1));
        }
    }

    #[test]
    fn unmeasured_node_counts_as_the_median_of_the_others() {
        for (fastest, best) in [(40, 0), (100, 1)] {
            let mut registry = registry(&[10, fastest, 30, 20, 25]);
            let seat = |registry: &Registry, number| registry.seat(&id(number)).unwrap();
            let unmeasured = vec![ModelOffer::new("m".parse().unwrap(), 4096)];
            registry.update(seat(&registry, 0), 2, unmeasured);
            for number in 1..5 {
                registry.reserve(seat(&registry, number));
            }
            for seed in 0..20 {
                let demand = Demand::new("m".parse().unwrap());
                assert_eq!(choose(&registry, &demand, seed).chosen.unwrap().node, id(best));
            }
        }
    }

    #[test]
    fn node_that_knows_the_conversation_wins_unless_another_is_much_faster() {
        let mut registry = registry(&[20; 100]);
        let mut demand = Demand::new("m".parse().unwrap());
        demand.affinity = Some(id(42));
        for seed in 0..50 {
            assert_eq!(choose(&registry, &demand, seed).chosen.unwrap().node, id(42));
        }
        let seat = registry.seat(&id(42)).unwrap();
        registry.reserve(seat);
        for seed in 0..50 {
            assert_ne!(choose(&registry, &demand, seed).chosen.unwrap().node, id(42), "half busy");
        }
        demand.denied = vec![id(42)];
        registry.release(seat);
        for seed in 0..50 {
            assert_ne!(choose(&registry, &demand, seed).chosen.unwrap().node, id(42), "denied");
        }
    }

    #[test]
    fn owner_of_most_nodes_gets_its_share_and_all_when_nobody_else_is_free() {
        let mut registry = registry(&[20; 100]);
        let model = "m".parse().unwrap();
        for number in 100..120 {
            let mut profile = registry.iter().next().unwrap().1.profile().clone();
            profile.id = id(number);
            profile.owner = AccountId::from_bytes((number as u128).to_be_bytes());
            let seat = registry.join(profile, Points::START);
            registry.set_standing(seat, SURE);
        }
        let demand = Demand::new("m".parse().unwrap());
        let big = AccountId::from_bytes([0; 16]);
        let mut work = 0;
        for seed in 0..4000 {
            let chosen = choose(&registry, &demand, mixed(seed)).chosen.unwrap();
            registry.count_work(chosen.seat, &model);
            work += u32::from(seed >= 1000 && chosen.owner == big);
        }
        assert!((400..750).contains(&work), "{work} of 3000, and not five sixths");
        assert_eq!(registry.beyond_share(&model), [big]);
        for number in 100..120 {
            registry.set_state(registry.seat(&id(number)).unwrap(), NodeState::Draining);
        }
        for seed in 0..50 {
            let choice = choose(&registry, &demand, seed);
            assert_eq!(choice.chosen.unwrap().owner, big);
        }
        let own = Demand { own_first: Some(big), ..demand };
        assert_eq!(choose(&registry, &own, 0).chosen.unwrap().owner, big);
    }

    #[test]
    fn those_who_are_passed_over_for_their_owner_are_named() {
        let mut registry = registry(&[20; 4]);
        let mut other = registry.iter().next().unwrap().1.profile().clone();
        (other.id, other.owner) = (id(9), AccountId::from_bytes([1; 16]));
        registry.join(other.clone(), Points::START);
        (other.id, other.owner) = (id(10), AccountId::from_bytes([2; 16]));
        registry.join(other, Points::START);
        let model = "m".parse().unwrap();
        for _ in 0..100 {
            registry.count_work(registry.seat(&id(0)).unwrap(), &model);
        }
        let choice = choose(&registry, &Demand::new(model), 1);
        assert_ne!(choice.chosen.unwrap().owner, AccountId::from_bytes([0; 16]));
        let passed = choice.explanation.compared.iter().filter(|c| c.1 == Reason::OwnerShare);
        assert_eq!(passed.count(), 4);
    }

    #[test]
    fn nodes_that_were_tried_are_not_chosen_again() {
        let registry = registry(&[20, 20]);
        let mut demand = Demand::new("m".parse().unwrap());
        demand.exclude = vec![id(0), id(1)];
        let choice = choose(&registry, &demand, 3);
        assert_eq!(choice.chosen, None);
        assert_eq!(choice.explanation.skipped, [(Reason::AlreadyTried, 2)]);
    }
}
