use std::time::Instant;

use super::{Attempt, AttemptEnd, Outcome, TaskError, TaskState};
use crate::backend::{BackendError, Finish};
use crate::id::NodeId;

mod asked;
mod hedge;
mod policy;

use asked::Asked;
pub use policy::{Hedge, RetryPolicy};

/// What the driver of a [`TaskRun`] has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Choose a node that is not among [`TaskRun::tried`], and report by
    /// [`handle_offered`](TaskRun::handle_offered) or
    /// [`handle_no_node`](TaskRun::handle_no_node).
    Choose,
    /// The same for an answer whose caller has a part of its text already: choose a node that
    /// can go on from there.
    Continue,
    /// Tell the node of the current attempt to stop, and forget the attempt.
    Abandon,
    /// Choose a second node beside the one that is slow to begin, if one is free that nobody waits
    /// for, and report by [`handle_rival_offered`](TaskRun::handle_rival_offered). Without one
    /// there is nothing to report.
    Hedge,
    /// Tell the second node to stop, and forget its attempt.
    AbandonRival,
    /// Put the second node's attempt in the place of the first, which is over.
    Promote,
    /// Write the end down and answer the caller. Comes exactly once, and last.
    Finish(Outcome),
}

/// What a chunk that was passed on means for whichever node comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// It said nothing, so another node may begin anew after it.
    Nothing,
    /// It was plain text; another node can go on from the text so far.
    Text,
    /// It was more than another node can be told, so only this one can end the answer.
    Other,
}

/// Carries one task to exactly one end.
///
/// A streamed answer that loses its node is continued by the alternate if all that was passed on
/// is text; what the caller has then stays as it is. The driver calls [`poll_action`](Self::poll_action) until it returns `None`, then waits for
/// whichever comes first: news of the current attempt, the caller's leaving, or
/// [`poll_timeout`](Self::poll_timeout); reports it by the `handle_*` method of that name; and
/// starts over. News that comes after the end changes nothing.
#[derive(Debug)]
pub struct TaskRun {
    policy: RetryPolicy,
    deadline: Instant,
    prompt_tokens: u32,
    streamed: bool,
    /// The node that works for the caller or is to; `None` while one is chosen, and at the end.
    current: Option<Asked>,
    /// The second node that races the first.
    rival: Option<Asked>,
    /// When to ask a second node; `None` once it was asked, or where none may be.
    hedge_at: Option<Instant>,
    actions: std::collections::VecDeque<Action>,
    attempts: Vec<Attempt>,
    tried: Vec<NodeId>,
    offers: u32,
    accepted: u32,
    chunks: u64,
    texts: u64,
    others: u64,
    last: Passed,
    /// Whether the node that works now goes on from what another wrote.
    continues: bool,
    /// Whether only one node can do it, and the caller reads what it sends at once.
    single: bool,
    ended: Option<TaskState>,
}

impl TaskRun {
    /// Starts a task at `now` that has to end by `deadline`.
    ///
    /// Of an answer that is not `streamed` nothing reaches the caller before its end, so its
    /// first chunk has no time limit of its own, and another node may begin anew at any time.
    pub fn new(
        now: Instant,
        deadline: Instant,
        prompt_tokens: u32,
        streamed: bool,
        policy: RetryPolicy,
    ) -> Self {
        let mut run = Self {
            policy,
            deadline,
            prompt_tokens,
            streamed,
            current: None,
            rival: None,
            hedge_at: None,
            actions: [Action::Choose].into(),
            attempts: Vec::new(),
            tried: Vec::new(),
            offers: 0,
            accepted: 0,
            chunks: 0,
            texts: 0,
            others: 0,
            last: Passed::Nothing,
            continues: false,
            single: false,
            ended: None,
        };
        run.handle_timeout(now);
        run
    }

    /// Starts a task that only one node can do, since its caller sealed it to that one.
    ///
    /// The node is asked once. What it sends follows a clock and says nothing about its work, so
    /// only marks of progress keep the task alive, and the first part has no time limit.
    pub fn for_one_node(
        now: Instant,
        deadline: Instant,
        prompt_tokens: u32,
        policy: RetryPolicy,
    ) -> Self {
        let policy = RetryPolicy { max_offers: 1, max_accepted: 1, hedge: None, ..policy };
        Self { single: true, ..Self::new(now, deadline, prompt_tokens, false, policy) }
    }

    /// Returns what to do next; `None` when there is nothing to do but wait.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due; `None` after the end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let asked = [self.current, self.rival].into_iter().flatten();
        let due = asked.map(|asked| asked.due()).chain(self.hedge_at);
        self.ended.is_none().then(|| due.fold(self.deadline, Instant::min))
    }

    /// Records that the task was offered to `node` at `now`.
    pub fn handle_offered(&mut self, now: Instant, node: NodeId) {
        if self.is_choosing() {
            self.current = Some(self.offer(now, node));
            self.plan_hedge(now);
        }
    }

    /// Counts an offer to `node`, and says until when it has to be answered.
    fn offer(&mut self, now: Instant, node: NodeId) -> Asked {
        self.tried.push(node);
        self.offers += 1;
        let upload = self.policy.accept_per_token.saturating_mul(self.tokens_to_read());
        Asked::offered(node, now + self.policy.accept_within + upload)
    }

    /// Records that no further node can be found, and why.
    ///
    /// When nodes had been tried, their failing is the better answer.
    pub fn handle_no_node(&mut self, why: TaskError) {
        if self.is_choosing() {
            let error = if self.accepted > 0 { self.given_up() } else { why };
            self.end(Outcome::Failed(error));
        }
    }

    /// Records that the node accepted: from now on it has to make progress.
    pub fn handle_accepted(&mut self, now: Instant) {
        if let Some(offered) = self.offered() {
            self.continues = self.is_begun();
            self.current = Some(self.accept(now, offered));
        }
    }

    /// Counts the acceptance of a node, and says how it has to make progress.
    fn accept(&mut self, now: Instant, offered: Asked) -> Asked {
        self.accepted += 1;
        let first = self.policy.first_chunk_base
            + self.policy.first_chunk_per_token.saturating_mul(self.tokens_to_read());
        offered.accepted(self.streamed.then_some(now + first), now + self.policy.progress_within)
    }

    /// Records that the node refused before it accepted.
    pub fn handle_refused(&mut self) {
        if let Some(Asked { node, .. }) = self.offered() {
            self.try_another(node, AttemptEnd::Refused);
        }
    }

    /// Records that the only node refused, which `why` tells its caller.
    pub fn handle_turned_down(&mut self, why: TaskError) {
        if let Some(Asked { node, .. }) = self.offered() {
            self.attempts.push(Attempt { node, end: AttemptEnd::Refused });
            self.end(Outcome::Failed(why));
        }
    }

    /// Records that a sealed part of the answer was passed on, which says nothing of progress.
    pub fn handle_sealed(&mut self) {
        if self.is_accepted() {
            self.chunks += 1;
        }
    }

    /// Records that the node is at work without output so far.
    pub fn handle_progress(&mut self, now: Instant) {
        if let Some(asked) = &mut self.current {
            asked.progressed(now + self.policy.progress_within);
        }
    }

    /// Records that a chunk came and was passed on.
    pub fn handle_chunk(&mut self, now: Instant, passed: Passed) {
        if let Some(asked) = self.current.as_mut().filter(|asked| asked.has_accepted()) {
            self.chunks += 1;
            self.texts += u64::from(passed == Passed::Text);
            self.others += u64::from(passed == Passed::Other);
            self.last = passed;
            asked.wrote(now + self.policy.progress_within);
            self.outrun_rival();
        }
    }

    /// Records that the node delivered a complete answer.
    pub fn handle_finished(&mut self, finish: Finish) {
        if let Some(Asked { node, .. }) = self.accepted() {
            self.outrun_rival();
            self.attempts.push(Attempt { node, end: AttemptEnd::Done });
            self.end(Outcome::Finished(finish));
        }
    }

    /// Records that the node reported a failure.
    pub fn handle_failed(&mut self, now: Instant, error: BackendError) {
        if error == BackendError::Timeout && now >= self.deadline {
            return self.handle_timeout(now);
        }
        let Some(Asked { node, .. }) = self.accepted() else { return };
        if let BackendError::Rejected { status, code, param, message } = error {
            self.outrun_rival();
            self.attempts.push(Attempt { node, end: AttemptEnd::CallersFault });
            // A request that was half answered is sound; this node could not go on from there.
            let error = if self.continues {
                TaskError::Interrupted
            } else {
                TaskError::Rejected { status, code, param, message }
            };
            self.end(Outcome::Failed(error));
        } else {
            self.fail_over(node, error.into());
        }
    }

    /// Records that the last chunk turned out to be none before the caller saw it.
    pub fn handle_invalid_chunk(&mut self) {
        let last = std::mem::replace(&mut self.last, Passed::Nothing);
        self.chunks = self.chunks.saturating_sub(1);
        self.texts = self.texts.saturating_sub(u64::from(last == Passed::Text));
        self.others = self.others.saturating_sub(u64::from(last == Passed::Other));
        self.handle_invalid();
    }

    /// Records that the node sent something it must not send.
    pub fn handle_invalid(&mut self) {
        if let Some(Asked { node, .. }) = self.current {
            self.actions.push_back(Action::Abandon);
            self.fail_over(node, AttemptEnd::Invalid);
        }
    }

    /// Records that the node is gone for good.
    pub fn handle_lost(&mut self) {
        let Some(asked) = self.current else { return };
        if asked.has_accepted() {
            self.fail_over(asked.node, AttemptEnd::Lost);
        } else {
            // It may never have seen the offer, and may be back in a moment.
            self.tried.retain(|known| *known != asked.node);
            self.try_another(asked.node, AttemptEnd::Unreached);
        }
    }

    /// Records that the caller has left.
    pub fn handle_cancelled(&mut self) {
        self.stop(Outcome::Cancelled, AttemptEnd::Stopped);
    }

    /// Acts on whatever was due by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.deadline {
            // A caller's deadline may be short; a node is late by its own limits only.
            let late = self.accepted().is_some_and(|asked| now >= asked.due());
            let end = if late { AttemptEnd::Stalled } else { AttemptEnd::Stopped };
            return self.stop(Outcome::Expired, end);
        }
        if let Some(asked) = self.current.filter(|asked| now >= asked.due()) {
            self.actions.push_back(Action::Abandon);
            if asked.has_accepted() {
                self.fail_over(asked.node, asked.lateness());
            } else {
                self.try_another(asked.node, asked.lateness());
            }
        }
        self.handle_rival_timeout(now);
    }

    /// Returns the nodes that were asked and are not to be asked again, in order.
    pub fn tried(&self) -> &[NodeId] {
        &self.tried
    }

    /// Returns the attempts that are over, in order.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Returns how many chunks were passed on.
    pub const fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Returns whether the node of the current attempt has accepted.
    pub fn is_accepted(&self) -> bool {
        self.accepted().is_some()
    }

    /// Returns where the task is.
    pub fn state(&self) -> TaskState {
        let now = if self.is_accepted() { TaskState::Running } else { TaskState::Submitted };
        self.ended.unwrap_or(now)
    }

    fn is_choosing(&self) -> bool {
        self.current.is_none() && self.ended.is_none()
    }

    /// Returns the node that has neither accepted nor refused.
    fn offered(&self) -> Option<Asked> {
        self.current.filter(|asked| !asked.has_accepted())
    }

    /// Returns the node that is at work.
    fn accepted(&self) -> Option<Asked> {
        self.current.filter(Asked::has_accepted)
    }

    /// Moves on after a refusal; the node owes nothing yet, so this does not use up the alternate.
    fn try_another(&mut self, node: NodeId, end: AttemptEnd) {
        self.attempts.push(Attempt { node, end });
        if self.promote() {
            return;
        }
        if self.offers_left() {
            self.current = None;
            let next = if self.is_begun() { Action::Continue } else { Action::Choose };
            self.actions.push_back(next);
        } else {
            self.give_up();
        }
    }

    /// Moves on after a failure of a node that had accepted.
    fn fail_over(&mut self, node: NodeId, end: AttemptEnd) {
        let alternate = self.rival.is_some()
            || self.accepted < self.policy.max_accepted
            || end == AttemptEnd::Refused;
        if alternate && !(self.streamed && self.others > 0) {
            self.try_another(node, end);
        } else {
            self.attempts.push(Attempt { node, end });
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let error = self.given_up();
        self.end(Outcome::Failed(error));
    }

    /// Returns whether the caller has a part of the answer.
    const fn is_begun(&self) -> bool {
        self.streamed && self.texts + self.others > 0
    }

    /// Returns what a node has to read first: the prompt, and what was written so far.
    fn tokens_to_read(&self) -> u32 {
        self.prompt_tokens.saturating_add(u32::try_from(self.texts).unwrap_or(u32::MAX))
    }

    fn offers_left(&self) -> bool {
        self.offers < self.policy.max_offers
    }

    const fn given_up(&self) -> TaskError {
        match self.accepted {
            _ if self.is_begun() || (self.single && self.chunks > 0) => TaskError::Interrupted,
            0 if self.single => TaskError::NodeOffline,
            // Nobody failed; nobody would have it.
            0 => TaskError::Busy { retry_after_secs: 1 },
            attempts => TaskError::NodesFailed { attempts },
        }
    }

    /// Ends the task before its node has; `end` is how that counts for the node.
    fn stop(&mut self, outcome: Outcome, end: AttemptEnd) {
        if let Some(Asked { node, .. }) = self.current {
            self.attempts.push(Attempt { node, end });
            self.actions.push_back(Action::Abandon);
        }
        self.drop_rival(AttemptEnd::Stopped);
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        if self.ended.is_none() {
            self.outrun_rival();
            self.ended = Some(outcome.state());
            self.current = None;
            self.hedge_at = None;
            self.actions.retain(|action| matches!(action, Action::Abandon | Action::AbandonRival));
            self.actions.push_back(Action::Finish(outcome));
        }
    }
}

#[cfg(test)]
mod tests;
