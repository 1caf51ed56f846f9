use std::collections::{HashMap, VecDeque};
use std::sync::{MutexGuard, PoisonError};

use iris_core::explain::{Explanation, Reason};
use iris_core::{AccountId, NodeId, TaskId};

use super::Dispatch;

/// How many explanations are kept, the latest ones.
const KEPT: usize = 4096;
/// With how many choices the counts of a node are halved, so that old ones fade.
const WINDOW: u32 = 1000;

/// Why tasks went where they went, and how often each node was chosen or not, and why.
#[derive(Debug, Default)]
pub(super) struct Explanations {
    latest: VecDeque<Explained>,
    tallies: HashMap<NodeId, Tally>,
}

#[derive(Debug)]
struct Explained {
    task: TaskId,
    account: AccountId,
    explanation: Explanation,
}

/// How the choices came out that compared one node.
#[derive(Debug, Default)]
struct Tally {
    /// A few, since most reasons keep a node from being compared.
    reasons: Vec<(Reason, u32)>,
}

impl Explanations {
    pub(super) fn add(&mut self, task: TaskId, account: AccountId, explanation: Explanation) {
        for (node, reason) in &explanation.compared {
            self.tallies.entry(*node).or_default().count(*reason);
        }
        if self.latest.len() == KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back(Explained { task, account, explanation });
    }

    /// Returns why `task` went where it went, each time, if it is a recent one of `account`.
    pub(super) fn of_task(&self, task: &TaskId, account: &AccountId) -> Vec<Explanation> {
        let found = self.latest.iter().filter(|e| e.task == *task && e.account == *account);
        found.map(|explained| explained.explanation.clone()).collect()
    }

    /// Returns how often the latest choices that compared `node` came out in which way, the most
    /// frequent first.
    pub(super) fn of_node(&self, node: &NodeId) -> Vec<(Reason, u32)> {
        let tally = self.tallies.get(node);
        let mut reasons = tally.map(|tally| tally.reasons.clone()).unwrap_or_default();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
        reasons
    }

    /// Forgets the counts of nodes that have left.
    pub(super) fn keep_nodes(&mut self, is_here: impl Fn(&NodeId) -> bool) {
        self.tallies.retain(|node, _| is_here(node));
    }
}

impl Tally {
    fn count(&mut self, reason: Reason) {
        match self.reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.reasons.push((reason, 1)),
        }
        if self.reasons.iter().map(|(_, count)| count).sum::<u32>() >= WINDOW {
            self.reasons.retain_mut(|(_, count)| {
                *count /= 2;
                *count > 0
            });
        }
    }
}

impl Dispatch {
    /// Returns why `task` went where it went, each time, if it is a recent one of `account`.
    pub(crate) fn explanations(&self, task: &TaskId, account: &AccountId) -> Vec<Explanation> {
        self.explained().of_task(task, account)
    }

    pub(crate) fn explain(&self, task: TaskId, account: AccountId, explanation: Explanation) {
        self.explained().add(task, account, explanation);
    }

    pub(super) fn explained(&self) -> MutexGuard<'_, Explanations> {
        self.explanations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: TaskId = TaskId::from_bytes([1; 16]);
    const ME: AccountId = AccountId::from_bytes([2; 16]);

    fn node(letter: &str) -> NodeId {
        letter.repeat(26).parse().unwrap()
    }

    fn choice(chosen: &str, other: &str) -> Explanation {
        let compared = vec![(node(chosen), Reason::Chosen), (node(other), Reason::Outscored)];
        Explanation { compared, ..Explanation::default() }
    }

    #[test]
    fn each_node_has_its_counts_until_it_leaves() {
        let mut explanations = Explanations::default();
        for (chosen, other) in [("a", "b"), ("a", "b"), ("b", "a")] {
            explanations.add(TASK, ME, choice(chosen, other));
        }
        assert_eq!(explanations.of_node(&node("a")), [(Reason::Chosen, 2), (Reason::Outscored, 1)]);
        assert_eq!(explanations.of_node(&node("c")), []);
        explanations.keep_nodes(|id| *id == node("b"));
        assert_eq!(explanations.of_node(&node("a")), []);
        assert_eq!(explanations.of_node(&node("b")), [(Reason::Outscored, 2), (Reason::Chosen, 1)]);
        assert_eq!(explanations.of_task(&TASK, &ME).len(), 3);
        assert_eq!(explanations.of_task(&TASK, &AccountId::from_bytes([3; 16])), []);
    }

    #[test]
    fn old_explanations_and_counts_fade() {
        let mut explanations = Explanations::default();
        for _ in 0..2 * KEPT {
            explanations.add(TASK, ME, choice("a", "b"));
        }
        assert_eq!(explanations.latest.len(), KEPT);
        let [(Reason::Chosen, count)] = explanations.of_node(&node("a"))[..] else { panic!() };
        assert!((WINDOW / 2..WINDOW).contains(&count));
    }
}
