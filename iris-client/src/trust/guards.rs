//! Guards: the few nodes that one client trusts with its prompts for a month.
//!
//! Whoever runs one node in ten reads, in the long run, something of everybody who draws a node
//! for each conversation. Who keeps to three for a month meets none of them three times out of
//! four. So guards stay: one that is busy or away is no reason to draw another while there is one
//! that can answer, or the coordinator could walk a client to a node of its choice.

use iris_core::{ModelName, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use super::Trust;

const DAY: u64 = 24 * 60 * 60;
/// How many guards are asked for a model.
const SET: usize = 3;
/// How many are drawn at most while none of them has expired.
const MOST: usize = 9;
/// How long a guard stays one.
const LIFETIME: u64 = 30 * DAY;
/// How long a guard that is not listed any more keeps its place.
const ABSENCE: u64 = 7 * DAY;
/// The most that one node's slots count when guards are drawn.
const MAX_WEIGHT: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guard {
    pub(super) node: NodeId,
    /// When it was drawn, in seconds since the Unix epoch.
    since: u64,
    /// When it was last listed, give or take a day.
    listed: u64,
}

/// A node that could answer, as far as the roster tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardCandidate {
    /// The node.
    pub node: NodeId,
    /// Tells nodes of one owner from those of others.
    pub owner: String,
    /// Requests it can work on at a time: the more, the likelier it is drawn, within limits.
    pub slots: u32,
}

impl Trust {
    /// Returns the guards for `model` that are among `able`, at most three, drawing new ones where
    /// that is due.
    ///
    /// `random` draws numbers. New guards are drawn while there are fewer than three, or when none
    /// of them is able; nodes of other owners than those of the guards come first.
    pub fn guards(
        &mut self,
        model: &ModelName,
        able: &[GuardCandidate],
        now: Timestamp,
        mut random: impl FnMut() -> u64,
    ) -> Vec<NodeId> {
        let now = now.as_secs();
        let guards = self.guards.entry(model.clone()).or_default();
        let listed = |node: &NodeId| able.iter().any(|candidate| candidate.node == *node);
        for guard in guards.iter_mut() {
            // Writing it down once a day is enough, and saves as many writes of the file.
            if listed(&guard.node) && guard.listed + DAY < now {
                guard.listed = now;
            }
        }
        guards.retain(|guard| now < guard.since + LIFETIME && now < guard.listed + ABSENCE);
        loop {
            let active: Vec<NodeId> = guards
                .iter()
                .map(|guard| guard.node)
                .filter(|node| listed(node))
                .take(SET)
                .collect();
            let due = guards.len() < SET || (active.is_empty() && guards.len() < MOST);
            let drawn = if due { draw(guards, able, &mut random) } else { None };
            let Some(node) = drawn else {
                if guards.is_empty() {
                    self.guards.remove(model);
                }
                return active;
            };
            guards.push(Guard { node, since: now, listed: now });
        }
    }

    /// Returns the guards of each model.
    pub fn guard_sets(&self) -> impl Iterator<Item = (&ModelName, Vec<NodeId>)> {
        self.guards.iter().map(|(model, set)| (model, set.iter().map(|g| g.node).collect()))
    }
}

/// Draws a node that is no guard yet.
fn draw(
    guards: &[Guard],
    able: &[GuardCandidate],
    random: &mut impl FnMut() -> u64,
) -> Option<NodeId> {
    let is_guard = |node: &NodeId| guards.iter().any(|guard| guard.node == *node);
    let (known, fresh): (Vec<_>, Vec<_>) =
        able.iter().partition(|candidate| is_guard(&candidate.node));
    let other_owner =
        |candidate: &&&GuardCandidate| known.iter().all(|guard| guard.owner != candidate.owner);
    let mut urn: Vec<_> = fresh.iter().filter(other_owner).copied().collect();
    if urn.is_empty() {
        urn = fresh;
    }
    let weight = |candidate: &GuardCandidate| u64::from(candidate.slots.clamp(1, MAX_WEIGHT));
    let total: u64 = urn.iter().map(|candidate| weight(candidate)).sum();
    if total == 0 {
        return None;
    }
    let mut place = u64::try_from((u128::from(random()) * u128::from(total)) >> 64).unwrap_or(0);
    for candidate in urn {
        match place.checked_sub(weight(candidate)) {
            Some(rest) => place = rest,
            None => return Some(candidate.node),
        }
    }
    None
}
