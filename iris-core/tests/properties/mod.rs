//! What holds of every plan that anybody can write; shared with the fuzz target `plan`.

use std::collections::BTreeMap;
use std::time::Duration;

use iris_core::backend::Usage;
use iris_core::plan::{
    Action, Capacity, Chat, Decision, Division, Event, Number, Output, Placed, Plan, PlanRun,
    Progress, StepError, UnitState, divide,
};

/// How many answers a plan may ask for before this stops looking.
const MOST: usize = 3000;

/// Reads a plan, and carries it out if it passes: it ends once, reads the same when written, and
/// comes to the same state from what was written down.
pub(crate) fn plan(bytes: &[u8]) {
    let (luck, json) = bytes.split_at(bytes.len().min(8));
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(json) else { return };
    let model = "m".parse().expect("it is a name");
    let Ok(plan) = Plan::read(&value, Some(&model)) else { return };
    let Ok(run) = PlanRun::new(plan.clone()) else { return };
    let text = serde_json::to_string(&plan).expect("a plan has a JSON form");
    assert!(serde_json::from_str::<Plan>(&text).expect("it is one") == plan, "{text}");
    assert!(!plan.as_text().is_empty() && !plan.as_mermaid().is_empty());
    carry_out(plan, run, luck);
}

/// Divides a question, however it is asked: what comes of it is a plan that can begin.
pub(crate) fn division(bytes: &[u8]) {
    let (division, prompt) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &b""[..]),
    };
    let Ok(division) = serde_json::from_slice::<Division>(division) else { return };
    let Ok(prompt) = std::str::from_utf8(prompt) else { return };
    let chat = Chat::new("m".parse().expect("it is a name"), prompt);
    let capacity = Capacity { context_tokens: 1024, abilities: iris_core::model::Abilities::NONE };
    if let Ok(plan) = divide(chat, &division, capacity) {
        PlanRun::new(plan).expect("what is divided can begin");
    }
}

fn carry_out(plan: Plan, mut run: PlanRun, luck: &[u8]) {
    let mut under_way: BTreeMap<Number, bool> = BTreeMap::new();
    let (mut events, mut ends, mut now, mut told) = (Vec::new(), 0, Duration::ZERO, String::new());
    for turn in 0..MOST {
        while let Some(action) = run.poll_action() {
            assert_eq!(ends, 0, "nothing follows the end");
            match action {
                Action::Assign(assignment) => {
                    assert!(!assignment.body(true).is_empty());
                    let before = under_way.insert(assignment.number, assignment.undo);
                    assert_eq!(before, None, "a number is used once");
                }
                Action::Withdraw(number) => {
                    assert!(under_way.remove(&number).is_some(), "it was under way");
                }
                Action::Tell(Progress::Text { text }) => told.push_str(&text),
                Action::Tell(_) => {}
                Action::Finish(end) => {
                    ends += 1;
                    if let iris_core::plan::PlanEnd::Finished { output } = end {
                        assert_eq!(told, output.text);
                    }
                }
            }
        }
        if run.is_over() {
            break;
        }
        let chance = luck.get(turn % luck.len().max(1)).copied().unwrap_or(0);
        now += Duration::from_millis(u64::from(chance));
        if let Some(due) = run.poll_timeout().filter(|due| *due <= now) {
            run.handle_timeout(due.max(now));
            continue;
        }
        let event = match under_way.pop_first() {
            Some((number, _)) => ended(number, chance),
            None => match run.report().into_iter().find(|unit| unit.state == UnitState::Review) {
                Some(review) => decided(review.unit),
                None => panic!("it waits for nothing"),
            },
        };
        events.push((now, event.clone()));
        run.handle_event(now, event);
    }
    assert_eq!(ends, usize::from(run.is_over()));
    run.handle_timeout(now);
    let mut again = PlanRun::replay(plan, events).expect("it began before");
    again.handle_timeout(now);
    let states = |run: &PlanRun| -> Vec<_> {
        run.report().into_iter().map(|unit| (unit.unit, unit.state, unit.text)).collect()
    };
    assert_eq!(states(&again), states(&run));
}

fn ended(number: Number, chance: u8) -> Event {
    let placed = Placed { node: None, task: None, points: Some(i64::from(chance)) };
    let usage = Usage { prompt_tokens: 1, completion_tokens: u32::from(chance) };
    let text = match chance % 4 {
        0 => r#"["one", {"two": 2}]"#.to_owned(),
        1 => r#"["one", "two"]"#.to_owned(),
        _ => (chance % 3).to_string(),
    };
    let result = match chance % 7 {
        0 => Err(StepError::Expired),
        1 => Err(StepError::Partial { text }),
        2 => Err(StepError::TooFewOwners),
        _ => Ok(Output { text, finish_reason: "stop".to_owned(), usage }),
    };
    Event::Ended { number, placed, result }
}

fn decided(step: String) -> Event {
    Event::Decided(Decision { step, choose: None, text: Some("so be it".to_owned()) })
}
