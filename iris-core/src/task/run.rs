use std::time::{Duration, Instant};

use super::{Attempt, AttemptEnd, Outcome, TaskError, TaskState};
use crate::backend::{BackendError, Finish};
use crate::id::NodeId;

/// How long a task waits for its nodes, and how often it tries another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How long a node may take to accept or refuse a short prompt. Default: 5 s.
    pub accept_within: Duration,
    /// How much longer it may take for each token of the prompt. Default: 32 µs, in which a link
    /// of 1 Mbit/s carries a token's four bytes.
    pub accept_per_token: Duration,
    /// How long a node may go without a chunk or a progress mark. Default: 15 s, which is three
    /// of the marks that nodes send every five seconds.
    pub progress_within: Duration,
    /// How long any prompt may take until the first chunk of a streamed answer. Default: 60 s.
    pub first_chunk_base: Duration,
    /// How much longer each token of the prompt may take. Default: 20 ms, the speed of a large
    /// model on a processor without a GPU.
    pub first_chunk_per_token: Duration,
    /// How many nodes are asked in all, those that refuse included. Default: 8.
    pub max_offers: u32,
    /// How many nodes may fail after they accepted. Default: 2, the first and one alternate.
    pub max_accepted: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            accept_within: Duration::from_secs(5),
            accept_per_token: Duration::from_micros(32),
            progress_within: Duration::from_secs(15),
            first_chunk_base: Duration::from_mins(1),
            first_chunk_per_token: Duration::from_millis(20),
            max_offers: 8,
            max_accepted: 2,
        }
    }
}

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
        let policy = RetryPolicy { max_offers: 1, max_accepted: 1, ..policy };
        Self { single: true, ..Self::new(now, deadline, prompt_tokens, false, policy) }
    }

    /// Returns what to do next; `None` when there is nothing to do but wait.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due; `None` after the end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Choosing => Some(self.deadline),
            Phase::Offered { until, .. } => Some(until.min(self.deadline)),
            Phase::Accepted { first_chunk, progress, .. } => {
                Some(first_chunk.map_or(progress, |first| first.min(progress)).min(self.deadline))
            }
            Phase::Ended => None,
        }
    }

    /// Records that the task was offered to `node` at `now`.
    pub fn handle_offered(&mut self, now: Instant, node: NodeId) {
        if matches!(self.phase, Phase::Choosing) {
            self.tried.push(node);
            self.offers += 1;
            let upload = self.policy.accept_per_token.saturating_mul(self.tokens_to_read());
            let until = now + self.policy.accept_within + upload;
            self.phase = Phase::Offered { node, until };
        }
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
            self.accepted += 1;
            self.continues = self.is_begun();
            let first = self.policy.first_chunk_base
                + self.policy.first_chunk_per_token.saturating_mul(self.tokens_to_read());
            self.phase = Phase::Accepted {
                node,
                first_chunk: self.streamed.then_some(now + first),
                progress: now + self.policy.progress_within,
            };
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
        }
    }

    /// Records that the node delivered a complete answer.
    pub fn handle_finished(&mut self, finish: Finish) {
        if let Phase::Accepted { node, .. } = self.phase {
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
                self.tried.pop();
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
        let alternate = self.accepted < self.policy.max_accepted || end == AttemptEnd::Refused;
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
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        if self.ended.is_none() {
            self.ended = Some(outcome.state());
            self.phase = Phase::Ended;
            self.actions.retain(|action| *action == Action::Abandon);
            self.actions.push_back(Action::Finish(outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::Usage;

    fn node(letter: u8) -> NodeId {
        String::from_utf8(vec![b'a' + letter % 26; 26]).unwrap().parse().unwrap()
    }

    fn finish() -> Finish {
        Finish { reason: "stop".into(), usage: Usage::default() }
    }

    fn start(now: Instant) -> TaskRun {
        let deadline = now + Duration::from_mins(5);
        let mut run = TaskRun::new(now, deadline, 0, true, RetryPolicy::default());
        assert_eq!(run.poll_action(), Some(Action::Choose));
        run
    }

    fn accept(run: &mut TaskRun, now: Instant, letter: u8) {
        run.handle_offered(now, node(letter));
        run.handle_accepted(now);
    }

    #[test]
    fn complete_answer_finishes_the_task() {
        let now = Instant::now();
        let mut run = start(now);
        accept(&mut run, now, 0);
        run.handle_chunk(now, Passed::Text);
        run.handle_finished(finish());
        assert_eq!(run.poll_action(), Some(Action::Finish(Outcome::Finished(finish()))));
        assert_eq!(run.state(), TaskState::Finished);
        assert_eq!(run.poll_timeout(), None);
    }

    #[test]
    fn refusals_move_on_and_do_not_use_up_the_alternate() {
        let now = Instant::now();
        let mut run = start(now);
        for letter in 0..3 {
            run.handle_offered(now, node(letter));
            run.handle_refused();
            assert_eq!(run.poll_action(), Some(Action::Choose));
        }
        accept(&mut run, now, 3);
        run.handle_failed(now, BackendError::Failed);
        assert_eq!(run.poll_action(), Some(Action::Choose));
        accept(&mut run, now, 4);
        run.handle_failed(now, BackendError::Failed);
        let error = TaskError::NodesFailed { attempts: 2 };
        assert_eq!(run.poll_action(), Some(Action::Finish(Outcome::Failed(error))));
    }

    #[test]
    fn node_lost_after_more_than_text_leaves_a_typed_partial_answer() {
        let now = Instant::now();
        let mut run = start(now);
        accept(&mut run, now, 0);
        run.handle_chunk(now, Passed::Other);
        run.handle_lost();
        let outcome = Outcome::Failed(TaskError::Interrupted);
        assert_eq!(run.poll_action(), Some(Action::Finish(outcome)));
    }

    #[test]
    fn answer_of_text_goes_on_elsewhere_once_and_begins_anew_while_nothing_was_said() {
        let now = Instant::now();
        let mut run = start(now);
        accept(&mut run, now, 0);
        run.handle_chunk(now, Passed::Nothing);
        run.handle_failed(now, BackendError::Failed);
        assert_eq!(run.poll_action(), Some(Action::Choose));

        let mut run = start(now);
        accept(&mut run, now, 0);
        run.handle_chunk(now, Passed::Text);
        run.handle_lost();
        assert_eq!(run.poll_action(), Some(Action::Continue));
        run.handle_offered(now, node(1));
        run.handle_refused();
        assert_eq!(run.poll_action(), Some(Action::Continue));
        accept(&mut run, now, 2);
        run.handle_failed(now, BackendError::Failed);
        let interrupted = Action::Finish(Outcome::Failed(TaskError::Interrupted));
        assert_eq!(run.poll_action(), Some(interrupted));
    }

    #[test]
    fn chunk_that_turned_out_to_be_none_is_not_in_the_way_of_going_on() {
        let now = Instant::now();
        let mut run = start(now);
        accept(&mut run, now, 0);
        run.handle_chunk(now, Passed::Text);
        run.handle_chunk(now, Passed::Other);
        run.handle_invalid_chunk();
        assert_eq!(run.poll_action(), Some(Action::Abandon));
        assert_eq!(run.poll_action(), Some(Action::Continue));
    }

    #[test]
    fn answer_that_nobody_can_continue_is_a_partial_one_and_no_fault_of_the_caller() {
        let now = Instant::now();
        let rejected =
            BackendError::Rejected { status: 400, code: None, param: None, message: "no".into() };
        let interrupted = Action::Finish(Outcome::Failed(TaskError::Interrupted));
        let begun = || {
            let mut run = start(now);
            accept(&mut run, now, 0);
            run.handle_chunk(now, Passed::Text);
            run.handle_lost();
            assert_eq!(run.poll_action(), Some(Action::Continue));
            run
        };
        let mut run = begun();
        run.handle_no_node(TaskError::ShuttingDown);
        assert_eq!(run.poll_action(), Some(interrupted.clone()));
        let mut run = begun();
        accept(&mut run, now, 1);
        run.handle_failed(now, rejected);
        assert_eq!(run.poll_action(), Some(interrupted));
        assert_eq!(run.attempts()[1].end, AttemptEnd::CallersFault);
    }

    #[test]
    fn callers_fault_is_not_tried_again() {
        let now = Instant::now();
        let mut run = start(now);
        accept(&mut run, now, 0);
        let rejected =
            BackendError::Rejected { status: 400, code: None, param: None, message: "no".into() };
        run.handle_failed(now, rejected);
        assert!(matches!(run.poll_action(), Some(Action::Finish(Outcome::Failed(_)))));
        assert_eq!(run.attempts()[0].end, AttemptEnd::CallersFault);
    }

    #[test]
    fn silent_accept_and_stalled_work_are_abandoned_in_time() {
        let now = Instant::now();
        let mut run = start(now);
        run.handle_offered(now, node(0));
        let until = run.poll_timeout().unwrap();
        assert_eq!(until, now + Duration::from_secs(5));
        run.handle_timeout(until);
        assert_eq!(run.poll_action(), Some(Action::Abandon));
        assert_eq!(run.poll_action(), Some(Action::Choose));
        accept(&mut run, until, 1);
        let stalled = until + Duration::from_secs(15);
        assert_eq!(run.poll_timeout(), Some(stalled));
        run.handle_progress(until + Duration::from_secs(10));
        run.handle_timeout(stalled);
        assert_eq!(run.poll_action(), None, "a progress mark renews the lease");
        run.handle_timeout(until + Duration::from_secs(25));
        assert_eq!(run.poll_action(), Some(Action::Abandon));
        assert_eq!(run.attempts()[1].end, AttemptEnd::Stalled);
    }

    #[test]
    fn progress_marks_alone_do_not_put_off_the_first_chunk() {
        let now = Instant::now();
        let mut run = start(now);
        accept(&mut run, now, 0);
        for second in (5..60).step_by(5) {
            run.handle_progress(now + Duration::from_secs(second));
        }
        assert_eq!(run.poll_timeout(), Some(now + Duration::from_mins(1)));
    }

    #[test]
    fn caller_who_leaves_stops_the_node() {
        let now = Instant::now();
        let mut run = start(now);
        accept(&mut run, now, 0);
        run.handle_cancelled();
        assert_eq!(run.poll_action(), Some(Action::Abandon));
        assert_eq!(run.poll_action(), Some(Action::Finish(Outcome::Cancelled)));
        assert_eq!(run.attempts(), [Attempt { node: node(0), end: AttemptEnd::Stopped }]);
    }

    #[test]
    fn node_lost_before_it_answered_an_offer_may_be_asked_again() {
        let now = Instant::now();
        let mut run = start(now);
        run.handle_offered(now, node(0));
        run.handle_lost();
        assert_eq!(run.poll_action(), Some(Action::Choose));
        assert_eq!(run.tried(), []);
        for _ in 1..8 {
            run.handle_offered(now, node(0));
            run.handle_lost();
        }
        let error = TaskError::Busy { retry_after_secs: 1 };
        while let Some(action) = run.poll_action() {
            if let Action::Finish(outcome) = action {
                return assert_eq!(outcome, Outcome::Failed(error));
            }
        }
        panic!("offers are bounded");
    }

    #[test]
    fn whole_answer_may_take_as_long_as_the_task_and_moves_on_after_a_bad_one() {
        let now = Instant::now();
        let deadline = now + Duration::from_mins(5);
        let mut run = TaskRun::new(now, deadline, 0, false, RetryPolicy::default());
        run.poll_action();
        accept(&mut run, now, 0);
        let mut later = now;
        for _ in 0..20 {
            later += Duration::from_secs(5);
            run.handle_progress(later);
            run.handle_timeout(later);
        }
        assert_eq!(run.poll_action(), None, "100 s of progress are no stall");
        run.handle_chunk(later, Passed::Other);
        run.handle_invalid_chunk();
        assert_eq!(run.poll_action(), Some(Action::Abandon));
        assert_eq!(run.poll_action(), Some(Action::Choose), "the caller has seen nothing yet");
    }

    #[test]
    fn short_deadline_of_a_caller_is_not_held_against_the_node() {
        let now = Instant::now();
        let deadline = now + Duration::from_millis(300);
        let mut run = TaskRun::new(now, deadline, 0, true, RetryPolicy::default());
        run.poll_action();
        accept(&mut run, now, 0);
        run.handle_failed(deadline, BackendError::Timeout);
        assert_eq!(run.poll_action(), Some(Action::Abandon));
        assert_eq!(run.poll_action(), Some(Action::Finish(Outcome::Expired)));
        assert_eq!(run.attempts()[0].end, AttemptEnd::Stopped);
    }

    fn sealed(now: Instant) -> TaskRun {
        let deadline = now + Duration::from_mins(5);
        let mut run = TaskRun::for_one_node(now, deadline, 0, RetryPolicy::default());
        assert_eq!(run.poll_action(), Some(Action::Choose));
        run
    }

    fn failed(error: TaskError) -> Action {
        Action::Finish(Outcome::Failed(error))
    }

    #[test]
    fn task_for_one_node_is_offered_once() {
        let now = Instant::now();
        let mut run = sealed(now);
        run.handle_offered(now, node(0));
        run.handle_turned_down(TaskError::StaleKey);
        assert_eq!(run.poll_action(), Some(failed(TaskError::StaleKey)));
        assert_eq!(run.attempts()[0].end, AttemptEnd::Refused);
        let mut run = sealed(now);
        run.handle_offered(now, node(0));
        run.handle_lost();
        assert_eq!(run.poll_action(), Some(failed(TaskError::NodeOffline)));
        let mut run = sealed(now);
        accept(&mut run, now, 0);
        run.handle_failed(now, BackendError::Busy);
        assert_eq!(run.poll_action(), Some(failed(TaskError::NodesFailed { attempts: 1 })));
        let mut run = sealed(now);
        accept(&mut run, now, 0);
        run.handle_sealed();
        run.handle_lost();
        assert_eq!(run.poll_action(), Some(failed(TaskError::Interrupted)));
    }

    #[test]
    fn sealed_parts_keep_no_task_alive() {
        let now = Instant::now();
        let mut run = sealed(now);
        accept(&mut run, now, 0);
        let mut later = now;
        for _ in 0..30 {
            later += Duration::from_secs(5);
            run.handle_progress(later);
            run.handle_timeout(later);
        }
        assert_eq!(run.poll_action(), None, "the first part has no time limit");
        let until = later + Duration::from_secs(15);
        run.handle_sealed();
        assert_eq!(run.poll_timeout(), Some(until));
        run.handle_timeout(until);
        assert_eq!(run.poll_action(), Some(Action::Abandon));
        assert_eq!(run.poll_action(), Some(failed(TaskError::Interrupted)));
        assert_eq!(run.attempts()[0].end, AttemptEnd::Stalled);
    }

    #[test]
    fn task_that_comes_too_late_is_offered_to_nobody() {
        let now = Instant::now();
        let mut run = TaskRun::new(now, now, 0, true, RetryPolicy::default());
        assert_eq!(run.poll_action(), Some(Action::Finish(Outcome::Expired)));
    }

    /// Reads along, and sees to it that every node begins where the caller's text ends.
    #[derive(Default)]
    struct Caller {
        /// Words that are numbered by their place in the answer; no node sees another's.
        text: Vec<usize>,
        /// Where the node that works now is in the answer.
        place: usize,
        letter: u8,
        open: bool,
        ends: usize,
    }

    impl Caller {
        fn drain(&mut self, run: &mut TaskRun, now: Instant) {
            while let Some(action) = run.poll_action() {
                assert_eq!(self.ends, 0, "nothing comes after the end");
                match action {
                    Action::Choose | Action::Continue => {
                        let goes_on = action == Action::Continue;
                        self.place = if goes_on { self.text.len() } else { 0 };
                        if !run.streamed {
                            self.text.clear();
                        }
                        run.handle_offered(now, node(self.letter));
                        self.letter += 1;
                        self.open = true;
                    }
                    Action::Abandon => assert!(std::mem::take(&mut self.open)),
                    Action::Finish(outcome) => {
                        self.ends += 1;
                        assert_eq!(run.state(), outcome.state());
                        let whole: Vec<usize> = (0..self.text.len()).collect();
                        assert_eq!(self.text, whole, "each word once and in its place");
                    }
                }
            }
        }

        fn chunk(&mut self, run: &mut TaskRun, now: Instant, passed: Passed) {
            if matches!(run.phase, Phase::Accepted { .. }) && passed == Passed::Text {
                self.text.push(self.place);
                self.place += 1;
            }
            run.handle_chunk(now, passed);
        }

        /// Finds that a chunk is none before anything of it is passed on.
        fn refuse(run: &mut TaskRun, now: Instant) {
            if matches!(run.phase, Phase::Accepted { .. }) {
                run.handle_chunk(now, Passed::Other);
                run.handle_invalid_chunk();
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum News {
        NoNode,
        Accepted,
        Refused,
        TurnedDown,
        Progress,
        Sealed,
        Chunk(Passed),
        Finished,
        Failed,
        Invalid,
        InvalidChunk,
        Lost,
        Cancelled,
        Timeout,
    }

    fn news() -> impl Strategy<Value = News> {
        use News::*;
        proptest::sample::select(vec![
            NoNode,
            Accepted,
            Accepted,
            Accepted,
            Refused,
            TurnedDown,
            Progress,
            Sealed,
            Chunk(Passed::Nothing),
            Chunk(Passed::Text),
            Chunk(Passed::Text),
            Chunk(Passed::Other),
            Finished,
            Failed,
            Invalid,
            InvalidChunk,
            Lost,
            Cancelled,
            Timeout,
        ])
    }

    proptest! {
        #[test]
        fn whatever_happens_there_is_exactly_one_end_and_each_word_comes_once(
            history in proptest::collection::vec((news(), 0_u64..20), 0..80),
            streamed in proptest::bool::ANY,
            single in proptest::bool::ANY,
        ) {
            let mut now = Instant::now();
            let deadline = now + Duration::from_mins(5);
            let policy = RetryPolicy::default();
            let mut run = if single {
                TaskRun::for_one_node(now, deadline, 10, policy)
            } else {
                TaskRun::new(now, deadline, 10, streamed, policy)
            };
            let mut caller = Caller::default();
            caller.drain(&mut run, now);
            for (news, seconds) in history {
                now += Duration::from_secs(seconds);
                match news {
                    News::NoNode => run.handle_no_node(TaskError::ShuttingDown),
                    News::Accepted => run.handle_accepted(now),
                    News::Refused => run.handle_refused(),
                    News::TurnedDown => run.handle_turned_down(TaskError::StaleKey),
                    News::Progress => run.handle_progress(now),
                    News::Sealed => run.handle_sealed(),
                    News::Chunk(passed) => caller.chunk(&mut run, now, passed),
                    News::Finished => run.handle_finished(finish()),
                    News::Failed => run.handle_failed(now, BackendError::Failed),
                    News::Invalid => run.handle_invalid(),
                    News::InvalidChunk => Caller::refuse(&mut run, now),
                    News::Lost => run.handle_lost(),
                    News::Cancelled => run.handle_cancelled(),
                    News::Timeout => run.handle_timeout(now),
                }
                caller.drain(&mut run, now);
            }
            run.handle_timeout(deadline);
            caller.drain(&mut run, deadline);
            prop_assert_eq!(caller.ends, 1);
            prop_assert!(run.tried().len() <= 8);
            prop_assert!(!single || run.attempts().len() <= 1, "one node is asked once");
            prop_assert_eq!(run.poll_timeout(), None);
        }
    }
}
