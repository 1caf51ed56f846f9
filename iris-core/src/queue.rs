//! Tasks that wait for a free node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::demand::Demand;
use crate::model::ModelName;

/// How soon a waiting task is served compared with others.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody is waiting in front of a screen.
    #[default]
    Interactive,
    /// The answer may come later, and before most.
    High,
    /// The answer may come later.
    #[serde(rename = "normal")]
    Batch,
    /// The answer may come last.
    Low,
}

impl Priority {
    /// Returns how much later than an interactive task this one counts as submitted: 0, 10, 30 or
    /// 120 seconds.
    ///
    /// It is served before any interactive task that came more than this after it, so however many
    /// come that are more urgent, it cannot starve.
    pub const fn handicap(self) -> Duration {
        match self {
            Self::Interactive => Duration::ZERO,
            Self::High => Duration::from_secs(10),
            Self::Batch => Duration::from_secs(30),
            Self::Low => Duration::from_mins(2),
        }
    }
}

/// Names a waiting task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    due: Instant,
    number: u64,
}

/// A bounded queue of demands with priority and ageing, one line for each model.
#[derive(Debug)]
pub struct WaitQueue {
    capacity: usize,
    len: usize,
    next_number: u64,
    lines: BTreeMap<ModelName, Line>,
}

/// Those who wait for one model.
#[derive(Debug, Default)]
struct Line {
    tasks: BTreeMap<Ticket, Demand>,
    /// Those that an interactive task passes which comes now: they count as later than it.
    passed: BTreeSet<Ticket>,
}

/// Says that the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub struct QueueFull;

impl WaitQueue {
    /// Makes a queue that holds at most `capacity` tasks of all models together.
    pub const fn new(capacity: usize) -> Self {
        Self { capacity, len: 0, next_number: 0, lines: BTreeMap::new() }
    }

    /// Adds a task that was submitted at `now`.
    pub fn push(
        &mut self,
        now: Instant,
        priority: Priority,
        demand: Demand,
    ) -> Result<Ticket, QueueFull> {
        if self.len >= self.capacity {
            return Err(QueueFull);
        }
        let ticket = Ticket { due: now + priority.handicap(), number: self.next_number };
        self.next_number += 1;
        self.len += 1;
        let line = self.lines.entry(demand.model.clone()).or_default();
        if ticket.due > now {
            line.passed.insert(ticket);
        }
        line.tasks.insert(ticket, demand);
        Ok(ticket)
    }

    /// Takes a task out, whether it was served or gave up; returns whether it was there.
    pub fn remove(&mut self, model: &ModelName, ticket: Ticket) -> bool {
        let Some(line) = self.lines.get_mut(model) else {
            return false;
        };
        let removed = line.tasks.remove(&ticket).is_some();
        line.passed.remove(&ticket);
        if line.tasks.is_empty() {
            self.lines.remove(model);
        }
        self.len -= usize::from(removed);
        removed
    }

    /// Returns which place a task has in the line for `model`: 1 for the next one, `None` for one
    /// that is not in it. This costs as much as the line is long.
    pub fn place(&self, model: &ModelName, ticket: Ticket) -> Option<usize> {
        let tasks = &self.lines.get(model)?.tasks;
        tasks.contains_key(&ticket).then(|| tasks.range(..=ticket).count())
    }

    /// Iterates over the tasks that wait for `model`, the next one first.
    pub fn line(&self, model: &ModelName) -> impl Iterator<Item = (Ticket, &Demand)> {
        let line = self.lines.get(model).into_iter().flat_map(|line| &line.tasks);
        line.map(|(ticket, demand)| (*ticket, demand))
    }

    /// Returns how many tasks would be served before one for `model` that came at `now`, which is
    /// never before the time of an earlier call.
    pub fn ahead(&mut self, model: &ModelName, now: Instant, priority: Priority) -> usize {
        let Some(line) = self.lines.get_mut(model) else { return 0 };
        while line.passed.first().is_some_and(|ticket| ticket.due <= now) {
            line.passed.pop_first();
        }
        if priority == Priority::Interactive {
            return line.tasks.len() - line.passed.len();
        }
        let last = Ticket { due: now + priority.handicap(), number: u64::MAX };
        line.tasks.range(..=last).count()
    }

    /// Returns how many tasks wait.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no task waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(model: &str) -> Demand {
        Demand::new(model.parse().unwrap())
    }

    #[test]
    fn interactive_tasks_pass_a_batch_task_until_it_has_aged() {
        let start = Instant::now();
        let mut queue = WaitQueue::new(10);
        let batch = queue.push(start, Priority::Batch, demand("m")).unwrap();
        let soon = start + Duration::from_secs(5);
        let interactive = queue.push(soon, Priority::Interactive, demand("m")).unwrap();
        let late = start + Duration::from_secs(31);
        let latecomer = queue.push(late, Priority::Interactive, demand("m")).unwrap();
        let order: Vec<_> = queue.line(&"m".parse().unwrap()).map(|(ticket, _)| ticket).collect();
        assert_eq!(order, [interactive, batch, latecomer]);
    }

    #[test]
    fn task_of_low_priority_is_served_though_urgent_ones_never_cease() {
        let (start, model) = (Instant::now(), "m".parse().unwrap());
        let second = |number| start + Duration::from_secs(number);
        for (urgent, served_by) in
            [(Priority::Interactive, 120), (Priority::High, 110), (Priority::Batch, 90)]
        {
            let mut queue = WaitQueue::new(1000);
            let low = queue.push(start, Priority::Low, demand("m")).unwrap();
            // One is served each second, and one more urgent one comes.
            let served = (0..1000).find(|number| {
                queue.push(second(*number), urgent, demand("m")).unwrap();
                let (first, _) = queue.line(&model).next().unwrap();
                queue.remove(&model, first);
                first == low
            });
            assert_eq!(served, Some(served_by), "beside {urgent:?}");
        }
    }

    #[test]
    fn tasks_of_all_priorities_know_who_is_ahead_of_them() {
        let (start, model) = (Instant::now(), "m".parse().unwrap());
        let mut queue = WaitQueue::new(10);
        let all = [Priority::Low, Priority::Batch, Priority::High, Priority::Interactive];
        let tickets = all.map(|priority| queue.push(start, priority, demand("m")).unwrap());
        let order: Vec<_> = queue.line(&model).map(|(ticket, _)| ticket).collect();
        assert!(order.iter().eq(tickets.iter().rev()));
        assert_eq!(tickets.map(|ticket| queue.place(&model, ticket).unwrap()), [4, 3, 2, 1]);
        queue.remove(&model, tickets[3]);
        let places = tickets.map(|ticket| queue.place(&model, ticket));
        assert_eq!(places, [Some(3), Some(2), Some(1), None]);
        queue.push(start, Priority::Interactive, demand("m")).unwrap();
        assert_eq!(all.map(|priority| queue.ahead(&model, start, priority)), [4, 3, 2, 1]);
    }

    #[test]
    fn priorities_have_names() {
        let names = [Priority::Interactive, Priority::High, Priority::Batch, Priority::Low]
            .map(|priority| serde_json::to_string(&priority).unwrap());
        assert_eq!(names.join(","), r#""interactive","high","normal","low""#);
    }

    #[test]
    fn only_those_who_are_served_before_a_task_are_ahead_of_it() {
        let (start, model) = (Instant::now(), "m".parse().unwrap());
        let mut queue = WaitQueue::new(10);
        let first = queue.push(start, Priority::Batch, demand("m")).unwrap();
        queue.push(start, Priority::Batch, demand("m")).unwrap();
        queue.push(start, Priority::Interactive, demand("m")).unwrap();
        queue.push(start, Priority::Interactive, demand("other")).unwrap();
        assert_eq!(queue.ahead(&model, start, Priority::Interactive), 1);
        assert_eq!(queue.ahead(&model, start, Priority::Batch), 3);
        let aged = start + Duration::from_secs(31);
        assert_eq!(queue.ahead(&model, aged, Priority::Interactive), 3);
        queue.remove(&model, first);
        assert_eq!(queue.ahead(&model, aged, Priority::Interactive), 2);
        let young = queue.push(aged, Priority::Batch, demand("m")).unwrap();
        assert_eq!(queue.ahead(&model, aged, Priority::Interactive), 2);
        queue.remove(&model, young);
        assert_eq!(queue.ahead(&model, aged, Priority::Batch), 2);
    }

    #[test]
    fn full_queue_refuses_and_a_removed_task_makes_room_once() {
        let now = Instant::now();
        let mut queue = WaitQueue::new(1);
        let ticket = queue.push(now, Priority::Interactive, demand("a")).unwrap();
        assert_eq!(queue.push(now, Priority::Interactive, demand("b")), Err(QueueFull));
        assert!(queue.remove(&"a".parse().unwrap(), ticket));
        assert!(!queue.remove(&"a".parse().unwrap(), ticket));
        assert!(queue.is_empty());
        assert!(queue.push(now, Priority::Interactive, demand("b")).is_ok());
    }
}
