use std::collections::BTreeMap;
use std::time::Duration;

use iris_core::TaskId;
use iris_core::task::TaskState;

use super::draw::Draw;
use super::fault::Kind;
use super::log::{ChatSeen, DurableSeen, Log};
use super::{Counts, Faults, is_cut};
use crate::settlement::Settlement;
use crate::simulation::caller::ReplyEnd;
use crate::simulation::world::Simulation;

/// How long after a task's end its settlement is durable, at the latest, whatever the disk does.
const WRITTEN_WITHIN: Duration = Duration::from_secs(40);
/// How long a crash or a stop may take to reach a caller.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// Judges what callers saw and what is in the books.
pub(super) fn judge(net: &Simulation, draw: &Draw, log: &Log, faults: &Faults) -> Counts {
    let rows = settlements(net);
    let judge = Judge { net, draw, faults, rows: &rows };
    let seen = log.seen();
    let (crashes, drawn) = (faults.crashes.len() as u64, draw.faults.len() as u64);
    let mut counts = Counts { crashes, faults: drawn, ..Counts::default() };
    for chat in &seen.chats {
        counts.chats += 1;
        counts.answered += u64::from(chat.reply.end == ReplyEnd::Complete);
        judge.chat(chat);
    }
    let kept = net.durable_tasks();
    for task in &seen.durable {
        counts.durable += 1;
        judge.durable(task, kept.get(&task.task).copied());
    }
    let divided = net.divided_tasks();
    for (task, state) in kept {
        judge.kept(task, state, divided.contains(&task));
    }
    counts
}

struct Judge<'a> {
    net: &'a Simulation,
    draw: &'a Draw,
    faults: &'a Faults,
    rows: &'a BTreeMap<TaskId, Settlement>,
}

/// Returns the settlement of each task; there may be one.
fn settlements(net: &Simulation) -> BTreeMap<TaskId, Settlement> {
    let mut rows = BTreeMap::new();
    for row in net.settlements() {
        if !row.state.is_terminal() {
            net.trace().broken("books", format_args!("settled as {:?}", row.state));
        }
        if let Some(other) = rows.insert(row.task, row) {
            net.trace().broken("books", format_args!("settled twice, also {:?}", other.state));
        }
    }
    rows
}

impl Judge<'_> {
    fn chat(&self, chat: &ChatSeen) {
        let ChatSeen { reply, expected, .. } = chat;
        if !expected.starts_with(&reply.text) {
            self.broken(chat, &format!("heard {:?} of {expected:?}", reply.text));
        }
        if reply.end == ReplyEnd::Complete && reply.text != *expected {
            self.broken(chat, &format!("was told that {:?} is all of {expected:?}", reply.text));
        }
        match &reply.end {
            ReplyEnd::Malformed(what) => self.broken(chat, &format!("heard {what:?}")),
            ReplyEnd::Broken | ReplyEnd::GaveUp if !self.excused(chat) => {
                self.broken(chat, &format!("{:?} for no reason", reply.end));
            }
            ReplyEnd::Refused(status, code) if !is_honest_refusal(*status) => {
                self.broken(chat, &format!("was refused with {status} {code}"));
            }
            ReplyEnd::Left if !chat.leaves => self.broken(chat, "left without leaving"),
            _ => {}
        }
        self.books(chat);
    }

    /// Checks that the books say of a task what its caller saw.
    fn books(&self, chat: &ChatSeen) {
        let finished = match &chat.reply.end {
            ReplyEnd::Complete => true,
            ReplyEnd::CutOff(_) | ReplyEnd::Refused(429 | 502 | 504, _) => false,
            _ => return,
        };
        let row = chat.reply.task.and_then(|task| self.rows.get(&task));
        match row {
            Some(row) if (row.state == TaskState::Finished) != finished => {
                self.broken(chat, &format!("{:?}, settled as {:?}", chat.reply.end, row.state));
            }
            None if !self.row_may_be_lost(chat) => self.broken(chat, "was not settled"),
            _ => {}
        }
    }

    fn durable(&self, seen: &DurableSeen, kept: Option<TaskState>) {
        for step in &seen.steps {
            let state = self.rows.get(step).map(|row| row.state);
            if state != Some(TaskState::Finished) {
                self.say(&seen.caller, &format!("a step that is finished is settled as {state:?}"));
            }
        }
        match kept {
            None => self.say(&seen.caller, "an accepted task is gone"),
            Some(kept) => {
                if let Some(end) = seen.end
                    && end != kept
                {
                    self.say(&seen.caller, &format!("was told {end:?}, kept is {kept:?}"));
                }
            }
        }
    }

    fn kept(&self, task: TaskId, state: TaskState, divided: bool) {
        if !state.is_terminal() {
            return self.say("books", &format!("a durable task is {state:?} for ever"));
        }
        match self.rows.get(&task) {
            Some(_) if divided => self.say("books", "a divided task is settled beside its steps"),
            None if divided => {}
            None => self.say("books", &format!("a durable task, {state:?}, was not settled")),
            Some(row) if row.state != state => {
                self.say("books", &format!("kept as {state:?}, settled as {:?}", row.state));
            }
            Some(_) => {}
        }
    }

    /// Returns whether a crash may have come between a task's end and its settlement.
    fn row_may_be_lost(&self, chat: &ChatSeen) -> bool {
        let until = chat.to + WRITTEN_WITHIN;
        let disk = self.draw.faults.iter().any(|fault| fault.kind.strikes_disk());
        Faults::any_between(&self.faults.crashes, chat.from, until)
            || disk && Faults::any_between(&self.faults.stops, chat.from, until)
            || disk && self.restarted()
    }

    /// Returns whether the plan ends a coordinator that may still be stopping.
    fn restarted(&self) -> bool {
        self.draw.faults.iter().any(|fault| matches!(fault.kind, Kind::Stop))
    }

    /// Returns whether a broken connection, or silence, has a reason outside of the coordinator.
    fn excused(&self, chat: &ChatSeen) -> bool {
        let Faults { crashes, stops, .. } = self.faults;
        let from = chat.from.saturating_sub(HEARD_WITHIN);
        is_cut(self.draw, &chat.caller)
            || Faults::any_between(crashes, from, chat.to)
            || self.faults.was_starting(chat.from, chat.to)
            || Faults::any_between(stops, chat.from.saturating_sub(Duration::from_mins(1)), chat.to)
    }

    fn broken(&self, chat: &ChatSeen, what: &str) {
        let asked = chat.from.as_secs_f64();
        self.say(&chat.caller, &format!("{what}, asked at {asked:.3}"));
    }

    fn say(&self, who: &str, what: &str) {
        self.net.trace().broken(who, what);
    }
}

/// Returns whether a status is one that the weather of a scenario explains. A key is stale (409)
/// when its node has restarted since the roster was made.
const fn is_honest_refusal(status: u16) -> bool {
    matches!(status, 404 | 409 | 429 | 502 | 503 | 504)
}
