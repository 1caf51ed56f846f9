//! The line of those who wait for a node, and whom a slot that falls free goes to.

use std::sync::Arc;
use std::time::Instant;

use iris_core::demand::Demand;
use iris_core::queue::Ticket;
use iris_core::registry::Seat;
use iris_core::{AccountId, ModelName, NodeId, TaskId};
use tokio::sync::oneshot;

use super::lease::Turn;
use super::{Dispatch, Floor};

/// How many waiting tasks that a free node could serve are put to the scheduler before the node
/// is left free.
const ASKED: usize = 16;

/// A task that stands in line.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) task: TaskId,
    pub(super) name: AccountId,
    pub(super) model: ModelName,
    pub(super) turn: oneshot::Sender<Turn>,
}

impl Dispatch {
    /// Returns how many tasks stand in line.
    pub(crate) fn queued(&self) -> usize {
        self.floor().queue.len()
    }

    /// Returns which place a task has in the line for its model, 1 being the next one; `None` for
    /// one that does not wait. This costs as much as there are tasks that wait.
    pub(crate) fn place_in_line(&self, task: &TaskId) -> Option<u32> {
        let floor = self.floor();
        let (ticket, waiter) = floor.waiting.iter().find(|(_, waiter)| waiter.task == *task)?;
        u32::try_from(floor.queue.place(&waiter.model, *ticket)?).ok()
    }

    /// Lets the tasks in the name of `caller` that stand in line ask again, each for its old place:
    /// an owner has said something else of it.
    pub(crate) fn ask_again(&self, caller: &AccountId) {
        let mut floor = self.floor();
        let Floor { queue, waiting, .. } = &mut *floor;
        let theirs = waiting.iter().filter(|(_, waiter)| waiter.name == *caller);
        let mut tickets: Vec<Ticket> = theirs.map(|(ticket, _)| *ticket).collect();
        tickets.sort_unstable();
        for ticket in tickets {
            let Some(waiter) = waiting.remove(&ticket) else { continue };
            queue.remove(&waiter.model, ticket);
            // Whoever left the line in this moment asks nothing more.
            let _ = waiter.turn.send(Turn::Again);
        }
    }

    /// Gives a slot back and offers it to whoever waits. `since` says since when a node has worked
    /// in it, if one did.
    pub(super) fn release(self: &Arc<Self>, seat: Seat, model: &ModelName, since: Option<Instant>) {
        let now = self.clock.now();
        let mut floor = self.floor();
        floor.registry.release(seat);
        if let Some(since) = since
            && floor.registry.offers(model)
        {
            floor.admission.record(model, now.saturating_duration_since(since));
        }
        if !floor.queue.is_empty() {
            self.serve_node(&mut floor, seat, now);
        }
    }

    /// Takes a task out of the line.
    pub(super) fn leave_line(&self, model: &ModelName, ticket: Ticket) {
        let mut floor = self.floor();
        floor.queue.remove(model, ticket);
        floor.waiting.remove(&ticket);
    }

    /// Offers a node's free slots to those who wait for its models, the first in line first.
    pub(super) fn serve_node(self: &Arc<Self>, floor: &mut Floor, seat: Seat, now: Instant) {
        if floor.queue.is_empty() {
            return;
        }
        let Some(node) = floor.registry.node(seat) else { return };
        let id = node.profile().id;
        let models: Vec<ModelName> = node.tiers().map(|(name, _)| name.clone()).collect();
        for model in models {
            while self.serve_first(floor, &id, &model, now) {}
        }
    }

    /// Serves the first in line whom a node can serve; returns whether there was one.
    fn serve_first(
        self: &Arc<Self>,
        floor: &mut Floor,
        node: &NodeId,
        model: &ModelName,
        now: Instant,
    ) -> bool {
        let able = |(_, demand): &(Ticket, &Demand)| floor.registry.refusal(node, demand).is_none();
        let able = floor.queue.line(model).filter(able).take(ASKED);
        // The scheduler may have reasons of its own to leave a node free.
        let choice = able.into_iter().find_map(|(ticket, demand)| {
            let choice = self.scheduler.choose(&floor.registry, demand, now, self.seed());
            let own = demand.is_own(&choice.chosen?.owner);
            Some((ticket, choice, own))
        });
        let Some((ticket, choice, own)) = choice else { return false };
        let Ok(lease) = self.reserve(floor, model, choice, own, now) else { return false };
        floor.queue.remove(model, ticket);
        let returned = match floor.waiting.remove(&ticket) {
            Some(waiter) => match waiter.turn.send(Turn::Served(lease)) {
                Err(Turn::Served(lease)) => Some(lease),
                _ => None,
            },
            None => Some(lease),
        };
        // Whoever left the line in this moment leaves the lease behind. It is given back here,
        // because dropping it would wait for the lock that is held.
        if let Some(lease) = returned {
            floor.registry.release(lease.forget());
        }
        true
    }
}
