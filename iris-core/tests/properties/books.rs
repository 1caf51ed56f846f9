//! What holds of every file that says it is a month's books; shared with the fuzz target `books`.

use iris_core::ledger::{Balances, Book, Money, Movement};
use iris_core::reward::audit::{Audit, Line, Report};
use iris_core::reward::{Closing, Month, Outcome, rules};

/// Checks a file: whatever it is, the audit comes to an end, and money adds up in books that hold.
pub(crate) fn file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(report) = audit(text.lines()) {
        adds_up(&report.outcome.closing, report.outcome.closing.pool);
        assert!(report.follows(&report).is_err(), "no month comes before itself");
    }
    facts(text);
}

/// Closes a month by the facts of a file, whatever outcome it says. What an audit does not refuse
/// on its way there, it finds right.
fn facts(text: &str) {
    let read = text.lines().map_while(|line| serde_json::from_str::<Line>(line).ok());
    let mut lines: Vec<Line> = read.filter(|line| !matches!(line, Line::Outcome(_))).collect();
    let Some((outcome, pool)) = close(&lines) else { return };
    adds_up(&outcome.closing, pool);
    let before = texts(&lines);
    lines.push(Line::Outcome(outcome));
    if passes(&before) {
        let all = texts(&lines);
        assert!(audit(all.iter().map(String::as_str)).is_some(), "{}", all.join("\n"));
    }
}

fn texts(lines: &[Line]) -> Vec<String> {
    let text = |line| serde_json::to_string(line).expect("a line has a JSON form");
    lines.iter().map(text).collect()
}

/// Computes what a coordinator would have written down, and what there was to share.
fn close(lines: &[Line]) -> Option<(Outcome, Money)> {
    let Some((Line::Opening(opening), facts)) = lines.split_first() else { return None };
    let made = rules(&opening.policy, Some(&opening.state.rules))?;
    let points = opening.state.points.clone();
    let mut month = Month::begin(opening.epoch, opening.rates.clone(), points, made);
    let (mut balances, pool) = (Balances::default(), Book::Pool(opening.epoch));
    for fact in facts {
        match fact {
            Line::Task(task) => month.task(task),
            Line::Event(event) => month.event(event),
            Line::Movement(movement) => {
                let (cause, amount) = (movement.cause().clone(), movement.adds_to(pool));
                let moved = Movement::between(cause, movement.at(), Book::Outside, pool, amount);
                balances.apply(&moved.ok()?).ok()?;
            }
            _ => return None,
        }
    }
    let pool = balances.of(pool);
    Some((month.close(pool), pool))
}

fn adds_up(closing: &Closing, pool: Money) {
    let shares = closing.shares.iter().map(|share| i128::from(share.amount.as_micros()));
    let sum = shares.sum::<i128>() + i128::from(closing.carried.as_micros());
    assert_eq!(sum, i128::from(pool.as_micros()), "to the last millionth");
}

fn audit<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<Report> {
    let mut audit = Audit::default();
    lines.try_for_each(|line| audit.line(line)).ok()?;
    audit.finish().ok()
}

fn passes(lines: &[String]) -> bool {
    let mut audit = Audit::default();
    lines.iter().try_for_each(|line| audit.line(line)).is_ok()
}
