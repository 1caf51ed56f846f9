//! The second node that races one that is slow to begin.

use std::time::Instant;

use super::{Action, Attempt, AttemptEnd, TaskRun};
use crate::id::NodeId;

/// A task whose answer two nodes race for.
///
/// After [`Action::Hedge`] news of the second node is reported by the `handle_rival_*` methods.
/// What it says first wins the race: the driver stops the first node, puts the second one in its
/// place, reports [`handle_rival_won`](Self::handle_rival_won) and then the news as that of the
/// only node.
impl TaskRun {
    /// Records that the task was offered to a second node at `now`.
    pub fn handle_rival_offered(&mut self, now: Instant, node: NodeId) {
        if self.may_race() && self.rival.is_none() {
            self.rival = Some(self.offer(now, node));
        }
    }

    /// Records that the second node accepted.
    pub fn handle_rival_accepted(&mut self, now: Instant) {
        if let Some(offered) = self.rival.filter(|rival| !rival.has_accepted()) {
            self.rival = Some(self.accept(now, offered));
        }
    }

    /// Records that the second node is at work without output so far.
    pub fn handle_rival_progress(&mut self, now: Instant) {
        if let Some(rival) = &mut self.rival {
            rival.progressed(now + self.policy.progress_within);
        }
    }

    /// Records that the second node was the first to say something. It is the only one from now
    /// on; returns whether it is, since a task that is over has no winner.
    #[must_use]
    pub fn handle_rival_won(&mut self) -> bool {
        let Some(first) = self.current else { return false };
        let Some(rival) = self.rival.take_if(|rival| rival.has_accepted()) else { return false };
        self.forgive(first.has_accepted());
        self.attempts.push(Attempt { node: first.node, end: AttemptEnd::Outrun });
        self.current = Some(rival);
        true
    }

    /// Records that the second node refused, failed, was lost or sent what is no answer. The
    /// first one goes on.
    pub fn handle_rival_gone(&mut self, end: AttemptEnd) {
        if let Some(rival) = self.rival.take() {
            let unreached = end == AttemptEnd::Lost && !rival.has_accepted();
            let end = if unreached { AttemptEnd::Unreached } else { end };
            if unreached {
                // It may never have seen the offer.
                self.tried.retain(|known| *known != rival.node);
            }
            self.attempts.push(Attempt { node: rival.node, end });
        }
    }

    /// Sets when a second node is asked, for the first offer of all.
    pub(super) fn plan_hedge(&mut self, now: Instant) {
        if let Some(hedge) = self.policy.hedge {
            let reading = hedge.after_per_token.saturating_mul(self.tokens_to_read());
            self.hedge_at = Some(now + hedge.after + reading);
        }
    }

    /// Acts on what was due by `now` of the race.
    pub(super) fn handle_rival_timeout(&mut self, now: Instant) {
        if self.hedge_at.is_some_and(|due| now >= due) {
            self.hedge_at = None;
            if self.may_race() {
                // Once for each task.
                self.policy.hedge = None;
                self.actions.push_back(Action::Hedge);
            }
        }
        if let Some(rival) = self.rival.filter(|rival| now >= rival.due()) {
            self.drop_rival(rival.lateness());
        }
    }

    /// Puts the second node in the place of the first, which is over; false without one.
    pub(super) fn promote(&mut self) -> bool {
        let Some(rival) = self.rival.take() else { return false };
        self.current = Some(rival);
        self.actions.push_back(Action::Promote);
        true
    }

    /// Ends the race: the first node said something, or the task is over.
    pub(super) fn outrun_rival(&mut self) {
        self.hedge_at = None;
        self.forgive(self.rival.is_some_and(|rival| rival.has_accepted()));
        self.drop_rival(AttemptEnd::Outrun);
    }

    /// Counts a node that was outrun no longer among those that may fail: it did not.
    fn forgive(&mut self, had_accepted: bool) {
        self.accepted -= u32::from(had_accepted);
    }

    pub(super) fn drop_rival(&mut self, end: AttemptEnd) {
        if self.rival.is_some() {
            self.actions.push_back(Action::AbandonRival);
            self.handle_rival_gone(end);
        }
    }

    /// Returns whether a second node can still be of use.
    fn may_race(&self) -> bool {
        self.current.is_some() && self.chunks == 0 && self.offers_left()
    }
}
