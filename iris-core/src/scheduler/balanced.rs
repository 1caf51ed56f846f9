use std::time::Instant;

use super::{Choice, Scheduler};
use crate::demand::Demand;
use crate::explain::{Explanation, Reason};
use crate::model::TokenRate;
use crate::registry::{Candidate, Group, Registry, Seat};

/// Compares a few nodes at random and takes the one that promises the most tokens per second,
/// weighed by its reputation.
///
/// Sampling instead of sorting spreads work among equals without any shared memory of who was
/// last (Mitzenmacher, "The power of two choices in randomized load balancing", 2001) and costs
/// the same for ten nodes as for a hundred thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Balanced;

/// What a node is taken to do before it was measured, in tokens per second.
const UNMEASURED: TokenRate = TokenRate::per_second(10);

impl Scheduler for Balanced {
    fn choose(&self, registry: &Registry, demand: &Demand, _now: Instant, seed: u64) -> Choice {
        let mut explanation = Explanation::default();
        let mut able = Vec::new();
        let mut free = 0;
        for group in registry.groups(demand) {
            if let Some(reason) = group.refusal {
                explanation.skip(reason, count(group.free()).saturating_add(group.occupied()));
            } else {
                explanation.skip(Reason::NoFreeSlot, group.occupied());
                free += group.free();
                able.push(group);
            }
        }
        let sample = sample(&able, free, demand, seed, &mut explanation);
        let best = best(&sample);
        explanation.compared = sample
            .iter()
            .enumerate()
            .map(|(i, c)| {
                (c.node, if Some(i) == best { Reason::Chosen } else { Reason::Outscored })
            })
            .collect();
        Choice { chosen: best.map(|i| sample[i]), explanation }
    }
}

/// Draws up to [`Explanation::MAX_COMPARED`] different nodes that nothing speaks against.
fn sample(
    groups: &[Group<'_>],
    free: usize,
    demand: &Demand,
    seed: u64,
    explanation: &mut Explanation,
) -> Vec<Candidate> {
    let mut sample: Vec<Candidate> = Vec::with_capacity(Explanation::MAX_COMPARED.min(free));
    let mut passed: Vec<Seat> = Vec::new();
    // A walk from a random start with a random odd stride would favour neighbours; independent
    // draws with a bounded number of repeats do not, and fall back to a walk among the few.
    let few = free <= 2 * Explanation::MAX_COMPARED;
    let draws = if few { free } else { 4 * Explanation::MAX_COMPARED };
    let mut random = SplitMix(seed);
    let start = random.below(free);
    for draw in 0..draws {
        if sample.len() == Explanation::MAX_COMPARED {
            break;
        }
        let position = if few { (start + draw) % free } else { random.below(free) };
        let candidate = nth(groups, position);
        let known = sample.iter().any(|known| known.seat == candidate.seat);
        if known || passed.contains(&candidate.seat) {
            continue;
        }
        if let Some(reason) = demand.objection(&candidate) {
            explanation.skip(reason, 1);
            passed.push(candidate.seat);
        } else {
            sample.push(candidate);
        }
    }
    let mut objections = passed.len();
    if sample.is_empty() && !few && !passed.is_empty() {
        // Nearly all of the nodes are one owner's, so that one of another's is worth a walk.
        let walk = (0..free).map(|step| nth(groups, (start + step) % free));
        for candidate in walk.filter(|candidate| !passed.contains(&candidate.seat)) {
            let Some(reason) = demand.objection(&candidate) else {
                sample.push(candidate);
                break;
            };
            explanation.skip(reason, 1);
            objections += 1;
        }
    }
    explanation.skip(Reason::NotCompared, count(free.saturating_sub(sample.len() + objections)));
    sample
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
fn best(sample: &[Candidate]) -> Option<usize> {
    let mut best = None;
    for (position, candidate) in sample.iter().enumerate() {
        let score = score(candidate);
        if best.is_none_or(|(_, known)| score > known) {
            best = Some((position, score));
        }
    }
    best.map(|(position, _)| position)
}

/// Tokens per second that one more stream may expect, times the trust put into the node: points
/// of 100, where everybody starts, count half, and no number of points counts more than whole.
fn score(candidate: &Candidate) -> u128 {
    let speed = candidate.speed.unwrap_or(UNMEASURED).as_millis();
    let points = u128::from(candidate.points.value().max(1).unsigned_abs());
    let slots = u128::from(candidate.slots.max(1));
    let free = slots.saturating_sub(u128::from(candidate.in_use));
    (u128::from(speed) << 32) * free / slots * points / (points + 100)
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
    use super::*;
    use crate::id::{AccountId, NodeId};
    use crate::model::ModelOffer;
    use crate::registry::NodeProfile;
    use crate::reputation::Points;

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
            };
            registry.join(profile, Points::START);
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
