use std::time::Instant;

use super::{Attempt, AttemptEnd, Outcome, TaskError, TaskState};
use crate::backend::{BackendError, Finish};
use crate::id::NodeId;

mod hedge;
mod policy;

use hedge::Rival;
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
    phase: Phase,
    /// The second node that races the first.
    rival: Option<Rival>,
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

#[derive(Clone, Copy, Debug)]
enum Phase {
    Choosing,
    Offered { node: NodeId, until: Instant },
    Accepted { node: NodeId, first_chunk: Option<Instant>, progress: Instant },
    Ended,
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
            phase: Phase::Choosing,
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
        let own = match self.phase {
            Phase::Choosing | Phase::Ended => None,
            Phase::Offered { until, .. } => Some(until),
            Phase::Accepted { first_chunk, progress, .. } => {
                Some(first_chunk.map_or(progress, |first| first.min(progress)))
            }
        };
        let rival = self.rival.map(Rival::due);
        let due = [own, rival, self.hedge_at].into_iter().flatten();
        (!matches!(self.phase, Phase::Ended)).then(|| due.fold(self.deadline, Instant::min))
    }

    /// Records that the task was offered to `node` at `now`.
    pub fn handle_offered(&mut self, now: Instant, node: NodeId) {
        if matches!(self.phase, Phase::Choosing) {
            let until = self.offer(now, node);
            self.phase = Phase::Offered { node, until };
            self.plan_hedge(now);
        }
    }

    /// Counts an offer to `node`, and returns until when it has to be answered.
    fn offer(&mut self, now: Instant, node: NodeId) -> Instant {
        self.tried.push(node);
        self.offers += 1;
        let upload = self.policy.accept_per_token.saturating_mul(self.tokens_to_read());
        now + self.policy.accept_within + upload
    }

    /// Records that no further node can be found, and why.
    ///
    /// When nodes had been tried, their failing is the better answer.
    pub fn handle_no_node(&mut self, why: TaskError) {
        if matches!(self.phase, Phase::Choosing) {
            let error = if self.accepted > 0 { self.given_up() } else { why };
            self.end(Outcome::Failed(error));
        }
    }

    /// Records that the node accepted: from now on it has to make progress.
    pub fn handle_accepted(&mut self, now: Instant) {
        if let Phase::Offered { node, .. } = self.phase {
            self.continues = self.is_begun();
            self.phase = self.accept(now, node);
        }
    }

    /// Counts the acceptance of `node`, and says how it has to make progress.
    fn accept(&mut self, now: Instant, node: NodeId) -> Phase {
        self.accepted += 1;
        let first = self.policy.first_chunk_base
            + self.policy.first_chunk_per_token.saturating_mul(self.tokens_to_read());
        Phase::Accepted {
            node,
            first_chunk: self.streamed.then_some(now + first),
            progress: now + self.policy.progress_within,
        }
    }

    /// Records that the node refused before it accepted.
    pub fn handle_refused(&mut self) {
        if let Phase::Offered { node, .. } = self.phase {
            self.try_another(node, AttemptEnd::Refused);
        }
    }

    /// Records that the only node refused, which `why` tells its caller.
    pub fn handle_turned_down(&mut self, why: TaskError) {
        if let Phase::Offered { node, .. } = self.phase {
            self.attempts.push(Attempt { node, end: AttemptEnd::Refused });
            self.end(Outcome::Failed(why));
        }
    }

    /// Records that a sealed part of the answer was passed on, which says nothing of progress.
    pub const fn handle_sealed(&mut self) {
        if matches!(self.phase, Phase::Accepted { .. }) {
            self.chunks += 1;
        }
    }

    /// Records that the node is at work without output so far.
    pub fn handle_progress(&mut self, now: Instant) {
        if let Phase::Accepted { progress, .. } = &mut self.phase {
            *progress = now + self.policy.progress_within;
        }
    }

    /// Records that a chunk came and was passed on.
    pub fn handle_chunk(&mut self, now: Instant, passed: Passed) {
        if let Phase::Accepted { first_chunk, progress, .. } = &mut self.phase {
            self.chunks += 1;
            self.texts += u64::from(passed == Passed::Text);
            self.others += u64::from(passed == Passed::Other);
            self.last = passed;
            *first_chunk = None;
            *progress = now + self.policy.progress_within;
            self.outrun_rival();
        }
    }

    /// Records that the node delivered a complete answer.
    pub fn handle_finished(&mut self, finish: Finish) {
        if let Phase::Accepted { node, .. } = self.phase {
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
        let Phase::Accepted { node, .. } = self.phase else {
            return;
        };
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
        if let Phase::Accepted { node, .. } | Phase::Offered { node, .. } = self.phase {
            self.actions.push_back(Action::Abandon);
            self.fail_over(node, AttemptEnd::Invalid);
        }
    }

    /// Records that the node is gone for good.
    pub fn handle_lost(&mut self) {
        match self.phase {
            Phase::Offered { node, .. } => {
                // It may never have seen the offer, and may be back in a moment.
                self.tried.retain(|known| *known != node);
                self.try_another(node, AttemptEnd::Unreached);
            }
            Phase::Accepted { node, .. } => self.fail_over(node, AttemptEnd::Lost),
            Phase::Choosing | Phase::Ended => {}
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
            let late = match self.phase {
                Phase::Accepted { first_chunk, progress, .. } => {
                    now >= progress || first_chunk.is_some_and(|first| now >= first)
                }
                _ => false,
            };
            let end = if late { AttemptEnd::Stalled } else { AttemptEnd::Stopped };
            return self.stop(Outcome::Expired, end);
        }
        match self.phase {
            Phase::Offered { node, until } if now >= until => {
                self.actions.push_back(Action::Abandon);
                self.try_another(node, AttemptEnd::Unanswered);
            }
            Phase::Accepted { node, first_chunk, progress }
                if now >= progress || first_chunk.is_some_and(|first| now >= first) =>
            {
                self.actions.push_back(Action::Abandon);
                self.fail_over(node, AttemptEnd::Stalled);
            }
            _ => {}
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
    pub const fn is_accepted(&self) -> bool {
        matches!(self.phase, Phase::Accepted { .. })
    }

    /// Returns where the task is.
    pub fn state(&self) -> TaskState {
        self.ended.unwrap_or(match self.phase {
            Phase::Choosing | Phase::Offered { .. } => TaskState::Submitted,
            Phase::Accepted { .. } | Phase::Ended => TaskState::Running,
        })
    }

    /// Moves on after a refusal; the node owes nothing yet, so this does not use up the alternate.
    fn try_another(&mut self, node: NodeId, end: AttemptEnd) {
        self.attempts.push(Attempt { node, end });
        if self.promote() {
            return;
        }
        if self.offers_left() {
            self.phase = Phase::Choosing;
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

    /// Ends the task before its node has; `end` is how that counts for a node that had accepted.
    fn stop(&mut self, outcome: Outcome, end: AttemptEnd) {
        let attempt = match self.phase {
            Phase::Offered { node, .. } => Some(Attempt { node, end: AttemptEnd::Stopped }),
            Phase::Accepted { node, .. } => Some(Attempt { node, end }),
            Phase::Choosing | Phase::Ended => None,
        };
        if let Some(attempt) = attempt {
            self.attempts.push(attempt);
            self.actions.push_back(Action::Abandon);
        }
        self.drop_rival(AttemptEnd::Stopped);
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        if self.ended.is_none() {
            self.outrun_rival();
            self.ended = Some(outcome.state());
            self.phase = Phase::Ended;
            self.hedge_at = None;
            self.actions.retain(|action| matches!(action, Action::Abandon | Action::AbandonRival));
            self.actions.push_back(Action::Finish(outcome));
        }
    }
}

#[cfg(test)]
mod tests;
