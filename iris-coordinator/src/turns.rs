//! Whose turn it is among tasks of which only so many may be at work at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use iris_core::queue::Priority;
use tokio::sync::oneshot;

/// A gate that lets a number of tasks in at a time, in the order of their priorities and ages.
pub(crate) struct Turns {
    gate: Mutex<Gate>,
}

struct Gate {
    /// How many may still come in; none while somebody waits.
    free: usize,
    next: u64,
    line: BTreeMap<Place, oneshot::Sender<()>>,
}

/// A place in the line: when an interactive task would have come that is served next to it.
type Place = (Instant, u64);

/// Somebody's turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
}

impl Turns {
    /// Makes a gate that lets `most` in at a time.
    pub(crate) const fn new(most: usize) -> Self {
        Self { gate: Mutex::new(Gate { free: most, next: 0, line: BTreeMap::new() }) }
    }

    /// Resolves when it is the turn of a task that has waited since `since`. Dropping the future
    /// leaves the line.
    pub(crate) async fn take(self: Arc<Self>, since: Instant, priority: Priority) -> Turn {
        if let Some(mut waiting) = self.enter(since + priority.handicap()) {
            // The sender is in the line until it has sent.
            let _ = (&mut waiting.called).await;
            waiting.is_served = true;
        }
        Turn { turns: Arc::clone(&self) }
    }

    /// Comes in if there is room, or stands in line.
    fn enter(&self, due: Instant) -> Option<Waiting<'_>> {
        let mut gate = self.gate();
        if gate.free > 0 {
            gate.free -= 1;
            return None;
        }
        let place = (due, gate.next);
        gate.next += 1;
        let (call, called) = oneshot::channel();
        gate.line.insert(place, call);
        Some(Waiting { turns: self, place, called, is_served: false })
    }

    /// Gives a turn that is over to the first in line.
    fn pass_on(&self) {
        let mut gate = self.gate();
        // Who leaves the line does so under the lock, so whoever stands in it hears the call.
        match gate.line.pop_first() {
            Some((_, call)) => drop(call.send(())),
            None => gate.free += 1,
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gate = self.gate();
        f.debug_struct("Turns")
            .field("free", &gate.free)
            .field("waiting", &gate.line.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.pass_on();
    }
}

/// Somebody in line.
struct Waiting<'a> {
    turns: &'a Turns,
    place: Place,
    called: oneshot::Receiver<()>,
    is_served: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_served {
            return;
        }
        let has_left = self.turns.gate().line.remove(&self.place).is_some();
        if !has_left {
            // It was called in this moment.
            self.turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use futures::future::BoxFuture;

    use super::*;

    fn poll(waiting: &mut BoxFuture<'static, Turn>) -> Option<Turn> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    /// Returns the order in which tasks are served, one at a time, that all wait.
    fn order(tasks: &[(u64, Priority)]) -> Vec<usize> {
        let (turns, start) = (Arc::new(Turns::new(1)), Instant::now());
        let take = |(secs, priority): &(u64, Priority)| -> BoxFuture<'static, Turn> {
            Box::pin(Arc::clone(&turns).take(start + Duration::from_secs(*secs), *priority))
        };
        let mut at_work = poll(&mut take(&(0, Priority::Low)));
        let mut line: Vec<_> = tasks.iter().map(|task| Some(take(task))).collect();
        assert!(line.iter_mut().flatten().all(|waiting| poll(waiting).is_none()));
        let mut order = Vec::new();
        for _ in tasks {
            drop(at_work.take());
            for (number, waiting) in line.iter_mut().enumerate() {
                let Some(turn) = waiting.as_mut().and_then(poll) else { continue };
                assert!(at_work.is_none(), "two turns at a time");
                *waiting = None;
                at_work = Some(turn);
                order.push(number);
            }
        }
        drop((at_work, line));
        assert_eq!(turns.gate().free, 1);
        order
    }

    #[test]
    fn turns_go_by_priority_and_among_equals_by_age() {
        let tasks = [
            (0, Priority::Low),
            (1, Priority::Batch),
            (0, Priority::Batch),
            (2, Priority::High),
            (3, Priority::Interactive),
        ];
        assert_eq!(order(&tasks), [4, 3, 2, 1, 0]);
    }

    #[test]
    fn low_priority_gets_its_turn_though_high_ones_never_cease() {
        let mut tasks: Vec<_> = (0..200).map(|secs| (secs, Priority::High)).collect();
        tasks.push((0, Priority::Low));
        let order = order(&tasks);
        assert_eq!(order.iter().position(|task| *task == 200), Some(111));
    }

    #[test]
    fn who_leaves_the_line_or_its_turn_is_passed_over() {
        let (turns, now) = (Arc::new(Turns::new(1)), Instant::now());
        let take = || -> BoxFuture<'static, Turn> {
            Box::pin(Arc::clone(&turns).take(now, Priority::Batch))
        };
        let at_work = poll(&mut take());
        let [mut left, mut called, mut third] = [take(), take(), take()];
        for waiting in [&mut left, &mut called, &mut third] {
            assert!(poll(waiting).is_none());
        }
        drop(left);
        drop(at_work);
        // It was called, and goes without having heard of it.
        drop(called);
        assert!(poll(&mut third).is_some());
        let gate = turns.gate();
        assert_eq!((gate.free, gate.line.len()), (1, 0));
    }
}
