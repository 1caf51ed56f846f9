//! Asking for one answer as long as it may take: nodes come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_core::backend::Chunk;
use iris_core::task::{Attempt, Outcome, TaskError};
use iris_core::{NodeId, Timestamp};

use crate::dispatch::{Books, Dispatch, TaskEvent, TaskHandle, TaskRequest};
use crate::settlement::Settlement;
use crate::turns::{Turn, Turns};

/// How long a task waits before it asks for a node again when none was there.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How nodes are asked.
#[derive(Clone, Debug)]
pub(super) enum Manner {
    /// Until the time is over, as often as nodes are away, by turns. Whoever asks settles it.
    Durable(Arc<Turns>),
    /// Once, for somebody who waits, by turns.
    Passing(Arc<Turns>),
}

impl Manner {
    const fn turns(&self) -> &Arc<Turns> {
        match self {
            Self::Durable(turns) | Self::Passing(turns) => turns,
        }
    }
}

/// One task on its way to its answer.
pub(super) struct Asking {
    dispatch: Arc<Dispatch>,
    /// What is asked; its time limit is what is left.
    request: TaskRequest,
    created: Timestamp,
    expires: Timestamp,
    /// Since when it waits for its turn.
    since: Instant,
    manner: Manner,
    turn: Option<Turn>,
    handle: Option<TaskHandle>,
    /// What the tries before this one came to.
    attempts: Vec<Attempt>,
    /// Whether the last try found no node.
    again: bool,
    /// Whether some of the answer came.
    begun: bool,
    cancelled: bool,
    /// The node that was asked last, once it is over.
    asked: Option<NodeId>,
}

/// What becomes of a task.
pub(super) enum Said {
    /// A node took it; a whole answer comes anew.
    Accepted(NodeId),
    /// The next piece of the answer.
    Chunk(Chunk),
    /// It is over, with the row that is to be written where the asker has to.
    Over(Outcome, Option<Box<Settlement>>),
}

impl Asking {
    pub(super) fn new(
        dispatch: Arc<Dispatch>,
        request: TaskRequest,
        manner: Manner,
        created: Timestamp,
        expires: Timestamp,
    ) -> Self {
        Self {
            since: dispatch.clock.now(),
            dispatch,
            request,
            created,
            expires,
            manner,
            turn: None,
            handle: None,
            attempts: Vec::new(),
            again: false,
            begun: false,
            cancelled: false,
            asked: None,
        }
    }

    /// Returns what happens next. Not called after the end; nothing is lost when it is dropped.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            let Some(handle) = &mut self.handle else {
                self.begin().await;
                continue;
            };
            match handle.next().await {
                Some(TaskEvent::Accepted { node }) => return Said::Accepted(node),
                Some(TaskEvent::Chunk(chunk)) => {
                    self.begun = true;
                    return Said::Chunk(chunk);
                }
                // A node that answers an open task under a seal answers nothing.
                Some(TaskEvent::Sealed(_)) => handle.reject_answer(),
                Some(TaskEvent::Ended(outcome)) => {
                    let row = handle.take_settlement();
                    let row = row.map(|row| Box::new(self.whole_row(row)));
                    if self.is_worth_another_try(&outcome) {
                        (self.handle, self.turn, self.again) = (None, None, true);
                        continue;
                    }
                    if self.may_go_back(&outcome) {
                        self.request.placement.exclude.clear();
                        self.handle = None;
                        continue;
                    }
                    self.asked = self.handle.take().and_then(|handle| handle.node());
                    return Said::Over(outcome, row);
                }
                None => return Said::Over(Outcome::Cancelled, None),
            }
        }
    }

    /// Declares that the last chunk is no part of an answer.
    pub(super) fn reject(&mut self) {
        if let Some(handle) = &mut self.handle {
            handle.reject_answer();
        }
    }

    /// Gives the task up; its end follows.
    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
        if let Some(handle) = &mut self.handle {
            handle.cancel();
        }
    }

    pub(super) const fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Returns the node that was asked last, once the task is over.
    pub(super) const fn node(&self) -> Option<NodeId> {
        self.asked
    }

    /// Gives the task up at once, unless it is over, and returns the row that is to be written.
    pub(super) fn give_up(&mut self) -> Option<Settlement> {
        let row = self.handle.take()?.give_up()?;
        Some(self.whole_row(row))
    }

    /// Waits for a turn, and starts a try.
    async fn begin(&mut self) {
        if self.again && !self.cancelled {
            tokio::time::sleep(ASK_AGAIN).await;
        }
        // Who goes back to a node keeps the turn: to wait for a second one could last for ever.
        if !self.cancelled && self.turn.is_none() {
            let left = self.expires.saturating_since(self.dispatch.clock.calendar());
            // A task whose time is over needs no turn to end.
            self.turn = tokio::select! {
                biased;
                () = tokio::time::sleep(left) => None,
                turn = Arc::clone(self.manner.turns()).take(self.since, self.request.priority) => Some(turn),
            };
        }
        let books = match self.manner {
            Manner::Durable(_) => Books::Caller,
            Manner::Passing(_) => Books::Journal,
        };
        let time_limit = self.expires.saturating_since(self.dispatch.clock.calendar());
        let request = TaskRequest { time_limit, ..self.request.clone() };
        let mut handle = TaskHandle::new(Arc::clone(&self.dispatch), request, books);
        if self.cancelled {
            handle.cancel();
        }
        self.handle = Some(handle);
    }

    /// Makes the row of the last try the row of the task: its attempts, and its time since it was
    /// accepted.
    fn whole_row(&mut self, row: Settlement) -> Settlement {
        self.attempts.extend_from_slice(&row.attempts);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = self.dispatch.clock.calendar();
        Settlement {
            attempts: self.attempts.clone(),
            submitted: self.created,
            took_ms: millis(now.saturating_since(self.created)),
            limit_ms: millis(self.expires.saturating_since(self.created)),
            ..row
        }
    }

    /// Returns whether there are only the nodes that have failed at it before.
    fn may_go_back(&self, outcome: &Outcome) -> bool {
        let none_able = matches!(outcome, Outcome::Failed(TaskError::NoNodeAble { .. }));
        none_able && !self.begun && !self.request.placement.exclude.is_empty()
    }

    /// Returns whether the task should wait for other nodes.
    ///
    /// One that is too long for all nodes is hardly helped by one that comes back.
    fn is_worth_another_try(&self, outcome: &Outcome) -> bool {
        matches!(self.manner, Manner::Durable(_))
            && !self.begun
            && !self.may_go_back(outcome)
            && matches!(
                outcome,
                Outcome::Failed(
                    TaskError::NoNodeOnline { .. }
                        | TaskError::NoNodeAble { too_long: false, .. }
                        | TaskError::Busy { .. }
                        | TaskError::ShuttingDown
                        | TaskError::BooksFull
                )
            )
    }
}
