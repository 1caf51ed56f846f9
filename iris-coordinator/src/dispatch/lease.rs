use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use iris_core::explain::Explanation;
use iris_core::queue::Ticket;
use iris_core::registry::Seat;
use iris_core::{ModelName, NodeId};
use tokio::sync::oneshot;

use super::Dispatch;
use crate::link::NodeLink;

/// One slot of one node, reserved until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    dispatch: Option<Arc<Dispatch>>,
    hold: Hold,
    pub(crate) node: NodeId,
    pub(crate) link: Arc<NodeLink>,
    pub(crate) explanation: Explanation,
}

/// What slot is reserved, for which model and since when.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) seat: Seat,
    pub(super) model: ModelName,
    pub(super) since: Instant,
    /// Whether the node took the work on.
    pub(super) accepted: bool,
}

impl Lease {
    pub(super) const fn new(
        dispatch: Arc<Dispatch>,
        hold: Hold,
        node: NodeId,
        link: Arc<NodeLink>,
        explanation: Explanation,
    ) -> Self {
        Self { dispatch: Some(dispatch), hold, node, link, explanation }
    }

    /// Notes that the node took the work on, so that its time counts as that of a task.
    pub(crate) const fn accepted(&mut self) {
        self.hold.accepted = true;
    }

    /// Gives the lease up without giving the slot back, which is left to the caller.
    pub(super) fn forget(mut self) -> Seat {
        self.dispatch = None;
        self.hold.seat
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(dispatch) = self.dispatch.take() {
            let Hold { seat, model, since, accepted } = &self.hold;
            dispatch.release(*seat, model, accepted.then_some(*since));
        }
    }
}

/// What comes of standing in line.
#[derive(Debug)]
pub(crate) enum Turn {
    /// A node is free for it.
    Served(Lease),
    /// Whom it may ask has changed, so that it is to ask again.
    Again,
}

/// A place in the line; dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct Ticketed {
    dispatch: Arc<Dispatch>,
    model: ModelName,
    ticket: Ticket,
    turn: oneshot::Receiver<Turn>,
}

impl Ticketed {
    pub(super) const fn new(
        dispatch: Arc<Dispatch>,
        model: ModelName,
        ticket: Ticket,
        turn: oneshot::Receiver<Turn>,
    ) -> Self {
        Self { dispatch, model, ticket, turn }
    }

    /// Resolves when it is this task's turn; `None` when the coordinator gave up.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        Pin::new(&mut self.turn).poll(cx).map(Result::ok)
    }
}

impl Drop for Ticketed {
    fn drop(&mut self) {
        self.dispatch.leave_line(&self.model, self.ticket);
    }
}
