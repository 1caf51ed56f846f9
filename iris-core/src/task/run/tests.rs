use std::time::Duration;

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
    /// Whether a second node has the task.
    races: bool,
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
                Action::Hedge => {
                    assert!(self.open && !self.races && self.text.is_empty());
                    run.handle_rival_offered(now, node(self.letter));
                    self.letter += 1;
                    self.races = true;
                }
                Action::AbandonRival => assert!(std::mem::take(&mut self.races)),
                Action::Promote => {
                    assert!(std::mem::take(&mut self.races));
                    self.open = true;
                }
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
        if run.is_accepted() && passed == Passed::Text {
            self.text.push(self.place);
            self.place += 1;
        }
        run.handle_chunk(now, passed);
    }

    /// Hears from the second node first.
    fn rival_wins(&mut self, run: &mut TaskRun) {
        if run.handle_rival_won() {
            assert!(self.open && std::mem::take(&mut self.races) && self.text.is_empty());
        }
    }

    /// Learns that the second node is gone by itself.
    fn rival_goes(&mut self, run: &mut TaskRun, end: AttemptEnd) {
        run.handle_rival_gone(end);
        self.races = false;
    }

    /// Finds that a chunk is none before anything of it is passed on.
    fn refuse(run: &mut TaskRun, now: Instant) {
        if run.is_accepted() {
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
    RivalAccepted,
    RivalProgress,
    RivalWon,
    RivalGone(AttemptEnd),
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
        RivalAccepted,
        RivalAccepted,
        RivalProgress,
        RivalWon,
        RivalGone(AttemptEnd::Refused),
        RivalGone(AttemptEnd::Lost),
        Cancelled,
        Timeout,
        Timeout,
    ])
}

proptest! {
    #[test]
    fn whatever_happens_there_is_exactly_one_end_and_each_word_comes_once(
        history in proptest::collection::vec((news(), 0_u64..20), 0..80),
        streamed in proptest::bool::ANY,
        single in proptest::bool::ANY,
        hedged in proptest::bool::ANY,
    ) {
        let mut now = Instant::now();
        let deadline = now + Duration::from_mins(5);
        let hedge = hedged.then(|| Hedge::after(Duration::from_secs(2)));
        let policy = RetryPolicy { hedge, ..RetryPolicy::default() };
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
                News::RivalAccepted => run.handle_rival_accepted(now),
                News::RivalProgress => run.handle_rival_progress(now),
                News::RivalWon => caller.rival_wins(&mut run),
                News::RivalGone(end) => caller.rival_goes(&mut run, end),
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
        prop_assert!(!caller.races, "the loser of a race is told to stop");
        let done = run.attempts().iter().filter(|attempt| attempt.end == AttemptEnd::Done);
        prop_assert!(done.count() <= 1, "one node is paid");
    }
}

/// A task whose first node is slow to begin, and whose second one was asked.
fn race(now: Instant, streamed: bool) -> TaskRun {
    let hedge = Some(Hedge::after(Duration::from_secs(2)));
    let policy = RetryPolicy { hedge, ..RetryPolicy::default() };
    let mut run = TaskRun::new(now, now + Duration::from_mins(5), 500, streamed, policy);
    assert_eq!(run.poll_action(), Some(Action::Choose));
    accept(&mut run, now, 0);
    let due = now + Duration::from_secs(3);
    assert_eq!(run.poll_timeout(), Some(due), "500 tokens are read in a second");
    run.handle_timeout(due);
    assert_eq!(run.poll_action(), Some(Action::Hedge));
    run.handle_rival_offered(due, node(1));
    run.handle_rival_accepted(due);
    run
}

fn ends(run: &TaskRun) -> Vec<(NodeId, AttemptEnd)> {
    run.attempts().iter().map(|attempt| (attempt.node, attempt.end)).collect()
}

#[test]
fn second_node_that_begins_sooner_gives_the_answer() {
    for streamed in [true, false] {
        let now = Instant::now();
        let mut run = race(now, streamed);
        assert!(run.handle_rival_won());
        run.handle_chunk(now, Passed::Text);
        run.handle_finished(finish());
        assert_eq!(run.poll_action(), Some(Action::Finish(Outcome::Finished(finish()))));
        assert_eq!(ends(&run), [(node(0), AttemptEnd::Outrun), (node(1), AttemptEnd::Done)]);
    }
}

#[test]
fn first_node_that_begins_after_all_gives_the_answer() {
    let now = Instant::now();
    let mut run = race(now, true);
    run.handle_chunk(now, Passed::Text);
    assert_eq!(run.poll_action(), Some(Action::AbandonRival));
    assert!(!run.handle_rival_won(), "the race is over");
    run.handle_finished(finish());
    assert_eq!(ends(&run), [(node(1), AttemptEnd::Outrun), (node(0), AttemptEnd::Done)]);
}

#[test]
fn race_leaves_the_alternate_to_the_node_that_wins_it() {
    for rival_wins in [false, true] {
        let now = Instant::now();
        let mut run = race(now, true);
        assert!(!rival_wins || run.handle_rival_won());
        run.handle_chunk(now, Passed::Text);
        run.poll_action();
        run.handle_lost();
        assert_eq!(run.poll_action(), Some(Action::Continue), "as without a race");
        run.handle_offered(now, node(2));
        run.handle_accepted(now);
        run.handle_lost();
        let interrupted = Outcome::Failed(TaskError::Interrupted);
        assert_eq!(run.poll_action(), Some(Action::Finish(interrupted)));
    }
}

#[test]
fn either_node_may_fail_while_the_other_races() {
    let now = Instant::now();
    let mut run = race(now, true);
    run.handle_failed(now, BackendError::Failed);
    assert_eq!(run.poll_action(), Some(Action::Promote));
    run.handle_chunk(now, Passed::Text);
    run.handle_finished(finish());
    assert_eq!(ends(&run), [(node(0), AttemptEnd::Failed), (node(1), AttemptEnd::Done)]);

    let mut run = race(now, true);
    run.handle_rival_gone(AttemptEnd::Failed);
    assert_eq!(run.poll_action(), None);
    run.handle_chunk(now, Passed::Text);
    run.handle_finished(finish());
    assert_eq!(ends(&run), [(node(1), AttemptEnd::Failed), (node(0), AttemptEnd::Done)]);

    let mut run = race(now, true);
    run.handle_failed(now, BackendError::Failed);
    assert_eq!(run.poll_action(), Some(Action::Promote));
    run.handle_failed(now, BackendError::Failed);
    let failed = TaskError::NodesFailed { attempts: 2 };
    assert_eq!(run.poll_action(), Some(Action::Finish(Outcome::Failed(failed))));
}

#[test]
fn caller_who_leaves_stops_both_nodes() {
    let now = Instant::now();
    let mut run = race(now, true);
    run.handle_cancelled();
    assert_eq!(run.poll_action(), Some(Action::Abandon));
    assert_eq!(run.poll_action(), Some(Action::AbandonRival));
    assert_eq!(run.poll_action(), Some(Action::Finish(Outcome::Cancelled)));
    assert_eq!(ends(&run), [(node(0), AttemptEnd::Stopped), (node(1), AttemptEnd::Stopped)]);
}

#[test]
fn second_node_is_late_by_its_own_clock() {
    let now = Instant::now();
    let mut run = race(now, true);
    let mut later = now;
    for _ in 0..3 {
        later += Duration::from_secs(6);
        run.handle_progress(later);
        run.handle_timeout(later);
    }
    assert_eq!(run.poll_action(), Some(Action::AbandonRival), "15 s after 3 s");
    assert_eq!(ends(&run), [(node(1), AttemptEnd::Stalled)]);
}

#[test]
fn nobody_races_an_answer_that_has_begun_or_one_that_is_sealed() {
    let now = Instant::now();
    let policy =
        RetryPolicy { hedge: Some(Hedge::after(Duration::from_secs(2))), ..RetryPolicy::default() };
    let deadline = now + Duration::from_mins(5);
    let later = now + Duration::from_secs(10);
    let mut begun = TaskRun::new(now, deadline, 0, true, policy);
    begun.poll_action();
    accept(&mut begun, now, 0);
    begun.handle_chunk(now, Passed::Nothing);
    let mut single = TaskRun::for_one_node(now, deadline, 0, policy);
    single.poll_action();
    accept(&mut single, now, 0);
    for mut run in [begun, single] {
        run.handle_timeout(later);
        assert_eq!(run.poll_action(), None);
    }
}
