//! `iris audit`, run on files that the core made.
#![cfg(feature = "cli")]
#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use std::path::PathBuf;

use iris_core::backend::Usage;
use iris_core::id::ReceiptId;
use iris_core::ledger::{Book, Cause, Money, Movement};
use iris_core::reputation::MemoryLedger;
use iris_core::reward::audit::{FORMAT, Line, Opening};
use iris_core::reward::{
    AttemptFact, EvidencePolicy, EvidenceRules, Month, RewardEvent, State, TaskFact, What,
    WorkRates, rules,
};
use iris_core::task::AttemptEnd;
use iris_core::{AccountId, Epoch, NodeId, Timestamp};
use serde_json::json as value;
use support::command::*;
use tempfile::TempDir;

/// A network that nobody runs: the command must not need one.
const NOWHERE: &str = "http://127.0.0.1:1";

const OWNER: AccountId = AccountId::from_bytes([1; 16]);

fn epoch(text: &str) -> Epoch {
    text.parse().expect("the test names a month")
}

/// What a network begins with.
fn fresh(before: Epoch) -> State {
    let policy = EvidencePolicy { probation_tests: 1, probation_millis: 0, ..Default::default() };
    let rules = Box::new(EvidenceRules::new(policy));
    Month::begin(before, WorkRates::default(), MemoryLedger::default(), rules)
        .close(Money::ZERO)
        .state
}

/// Writes the books of a month in which nobody worked, whose pool of 2.5 therefore is carried over.
fn idle_books(epoch: Epoch, state: State) -> (Vec<String>, State) {
    let (rates, policy) = (WorkRates::default(), EvidenceRules::NAME.to_owned());
    let made = rules(&policy, Some(&state.rules)).expect("the rules go on");
    let month = Month::begin(epoch, rates.clone(), state.points.clone(), made);
    let pool = Money::micros(2_500_000);
    let cause = Cause::ToppedUp { payment: "cd".to_owned() };
    let filled = Movement::between(cause, epoch.start(), Book::Outside, Book::Pool(epoch), pool);
    let outcome = month.close(pool);
    assert_eq!(outcome.closing.carried, pool);
    let left = outcome.state.clone();
    let lines = [
        Line::Opening(Opening { format: FORMAT, epoch, policy, rates, state }),
        Line::Movement(filled.expect("it is balanced")),
        Line::Outcome(outcome),
    ];
    (texts(&lines), left)
}

/// What a month takes over from the one before it.
fn carried(epoch: Epoch, from: Epoch, micros: i64) -> Movement {
    let (from, into) = ((Cause::Closed { epoch: from }, Book::Pool(from)), Book::Pool(epoch));
    let moved = Movement::between(from.0, epoch.start(), from.1, into, Money::micros(micros));
    moved.expect("it is balanced")
}

fn texts(lines: &[Line]) -> Vec<String> {
    let text = |line| serde_json::to_string(line).expect("a line has a JSON form");
    lines.iter().map(text).collect()
}

/// Writes a month's books as a coordinator does, and returns what it leaves behind.
fn books(epoch: Epoch, state: State) -> (Vec<String>, State) {
    books_after(epoch, state, None)
}

/// The same, of a month that took something over.
fn books_after(epoch: Epoch, state: State, brought: Option<Movement>) -> (Vec<String>, State) {
    let at = |hour: u64| Timestamp::from_millis(epoch.start().as_millis() + hour * 3_600_000);
    let node: NodeId = "a".repeat(26).parse().expect("it is an id");
    let (rates, policy) = (WorkRates::default(), EvidenceRules::NAME.to_owned());
    let made = rules(&policy, Some(&state.rules)).expect("the rules go on");
    let mut month = Month::begin(epoch, rates.clone(), state.points.clone(), made);
    let model = "m".parse().expect("it is a name");
    let checked = What::Checked { model, passed: true, weight: 1000 };
    let event = RewardEvent { at: at(1), node, owner: OWNER, what: checked };
    month.event(&event);
    let more = brought.as_ref().map_or(Money::ZERO, |moved| moved.adds_to(Book::Pool(epoch)));
    let pool = Money::micros(1_000_001);
    let cause = Cause::ToppedUp { payment: "ab".to_owned() };
    let filled = Movement::between(cause, at(0), Book::Outside, Book::Pool(epoch), pool);
    let mut lines = vec![
        Line::Opening(Opening { format: FORMAT, epoch, policy, rates, state }),
        Line::Movement(filled.expect("it is balanced")),
        Line::Event(event),
    ];
    lines.extend(brought.map(Line::Movement));
    for hour in 2..9_u8 {
        let task = TaskFact {
            at: at(hour.into()),
            requester: AccountId::from_bytes([hour; 16]),
            model: "m".parse().expect("it is a name"),
            attempts: vec![AttemptFact { node, owner: OWNER, end: AttemptEnd::Done }],
            usage: Usage { prompt_tokens: 100, completion_tokens: 50 },
            took_ms: 900,
            limit_ms: 60_000,
            receipt: (hour < 5).then(|| ReceiptId::from_bytes([hour; 32])),
        };
        month.task(&task);
        lines.push(Line::Task(task));
    }
    let outcome = month.close(pool.checked_add(more).expect("it is little"));
    let left = outcome.state.clone();
    lines.push(Line::Outcome(outcome));
    (texts(&lines), left)
}

/// The books of a network's first two months.
struct Books {
    folder: TempDir,
    first: Vec<String>,
    second: Vec<String>,
}

impl Books {
    fn new() -> Self {
        let (first, left) = books(epoch("2026-10"), fresh(epoch("2026-09")));
        let (second, _) = books(epoch("2026-11"), left);
        Self { folder: TempDir::new().expect("a folder can be made"), first, second }
    }

    fn file(&self, name: &str, lines: &[String]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, lines.join("\n")).expect("a file can be written");
        path
    }
}

async fn audit(file: &std::path::Path, more: &[&str]) -> Ran {
    let file = file.to_str().expect("the path is text");
    run(NOWHERE, &[&["audit", file], more].concat()).await
}

#[tokio::test]
async fn good_books_hold_and_say_what_they_hold() {
    let books = Books::new();
    let file = books.file("first", &books.first);
    let told = "\
month      2026-10
rules      evidence
tasks      7
receipts   3, of which node and caller have the same
events     1
movements  1
pool       1.000001, shared among 1 owner
begins     as the file says; --after checks that, too

Every share, point and state follows from the facts.
";
    let ran = audit(&file, &[]).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), told, ""));
    let input = books.first.join("\n");
    let ran = run_with(NOWHERE, &["audit", "-"], &input).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), told), "{}", ran.err);
    let found = run_with(NOWHERE, &["audit", "-", "--json"], &input).await.json();
    let figures =
        value!([found["month"], found["tasks"], found["receipts"], found["pool"], found["holds"]]);
    assert_eq!(figures, value!(["2026-10", 7, 3, 1_000_001, true]));
    assert_eq!(found["shares"][0]["amount"], 1_000_001);
    assert_eq!(found["shares"][0]["owner"], OWNER.to_string());
}

#[tokio::test]
async fn forged_books_end_with_10_and_name_what_is_wrong() {
    let books = Books::new();
    let replaced = |from: &str, to: &str| -> Vec<String> {
        let forged: Vec<_> = books.first.iter().map(|line| line.replace(from, to)).collect();
        assert_ne!(forged, books.first, "{from}");
        forged
    };
    let last = books.first.len() - 1;
    let mut late = books.first.clone();
    late.swap(3, 4);
    for (lines, said) in [
        (
            replaced("\"completion_tokens\":50", "\"completion_tokens\":51"),
            "a share of the outcome",
        ),
        (replaced("\"amount\":1000001,", "\"amount\":1000002,"), "a share of the outcome"),
        (replaced("\"pool\":1000001", "\"pool\":1000002"), "the pool of the outcome"),
        (replaced("\"amount\":1000001}", "\"amount\":1000002}"), "line 2 cannot be read"),
        (replaced("\"end\":\"done\"", "\"end\":\"failed\""), "a share of the outcome"),
        (late, "line 5 is dated before"),
        (books.first[..last].to_vec(), "cut off"),
        (books.first[1..].to_vec(), "line 1: an opening comes first"),
        ([&books.first[..], &books.first].concat(), "line 12: an opening"),
        (vec!["hello".to_owned()], "line 1 cannot be read"),
        (Vec::new(), "cut off"),
    ] {
        let file = books.file("forged", &lines);
        for more in [&[][..], &["--json"]] {
            let ran = audit(&file, more).await;
            assert_eq!((ran.code, ran.out.as_str()), (Some(10), ""), "{said}: {}", ran.err);
            assert!(ran.err.contains(said), "{said}: {}", ran.err);
        }
    }
}

#[tokio::test]
async fn a_month_must_go_on_where_the_one_before_it_ended() {
    let books = Books::new();
    let (first, second) = (books.file("first", &books.first), books.file("second", &books.second));
    let after = |file: &std::path::Path| ["--after".to_owned(), file.display().to_string()];
    let check = |file: PathBuf, before: PathBuf| async move {
        let more = after(&before);
        audit(&file, &[&more[0], &more[1]]).await
    };
    let ran = check(second.clone(), first.clone()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("begins     as 2026-10 ended, with what it carried\n"), "{}", ran.out);
    // Right in itself, but what was known of the node is gone.
    let (forgetful, _) = self::books(epoch("2026-11"), fresh(epoch("2026-10")));
    let forgetful = books.file("forgetful", &forgetful);
    assert_eq!(audit(&forgetful, &[]).await.code, Some(0));
    let ran = check(forgetful, first.clone()).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(10), ""), "{}", ran.err);
    assert!(ran.err.contains("2026-11 does not begin with the state that 2026-10"), "{}", ran.err);
    // The wrong way round, and of the same input twice.
    let ran = check(first, second).await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("does not come before 2026-10"), "{}", ran.err);
    assert_eq!(run(NOWHERE, &["audit", "-", "--after", "-"]).await.code, Some(2));
}

#[tokio::test]
async fn what_one_month_carries_the_next_takes_in_to_the_last_millionth() {
    let books = Books::new();
    let (october, november) = (epoch("2026-10"), epoch("2026-11"));
    let (idle, left) = idle_books(october, fresh(epoch("2026-09")));
    let before = books.file("idle", &idle).display().to_string();
    let check = |name: &str, brought: Option<Movement>| {
        let (lines, _) = books_after(november, left.clone(), brought);
        books.file(name, &lines)
    };
    let right = check("right", Some(carried(november, october, 2_500_000)));
    let ran = audit(&right, &["--after", &before]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("brought    2.500000 from 2026-10, within the pool\n"), "{}", ran.out);
    let found = audit(&right, &["--after", &before, "--json"]).await.json();
    assert_eq!(value!([found["brought"], found["after"]]), value!([2_500_000, "2026-10"]));
    for (name, micros, taken) in [
        ("less", Some(2_499_999), "2.499999"),
        ("more", Some(2_500_001), "2.500001"),
        ("none", None, "0.000000"),
    ] {
        let file = check(name, micros.map(|micros| carried(november, october, micros)));
        assert_eq!(audit(&file, &[]).await.code, Some(0), "right in itself");
        let ran = audit(&file, &["--after", &before]).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(10), ""), "{}", ran.err);
        let said = format!("2026-10 carried 2.500000 to 2026-11, whose books take in {taken}");
        assert!(ran.err.contains(&said), "{}", ran.err);
    }
    let skipped = check("skipped", Some(carried(november, epoch("2026-09"), 1)));
    let ran = audit(&skipped, &[]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(10), ""), "{}", ran.err);
    assert!(ran.err.contains("carries money over from another month"), "{}", ran.err);
}

#[tokio::test]
async fn what_cannot_be_checked_is_not_called_forged() {
    let books = Books::new();
    let later = vec![books.first[0].replace("\"format\":1", "\"format\":2")];
    let other = vec![books.first[0].replace("\"evidence\"", "\"other\"")];
    for (lines, said) in [(later, "has format 2"), (other, "the rules 'other'")] {
        let ran = audit(&books.file("unknown", &lines), &[]).await;
        assert_eq!(ran.code, Some(2), "{}", ran.err);
        assert!(ran.err.contains(said), "{}", ran.err);
    }
    let ran = audit(&books.folder.path().join("absent"), &[]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);
}

#[tokio::test]
async fn lines_are_bounded_and_need_not_be_text() {
    let books = Books::new();
    let path = books.folder.path().join("long");
    let long = std::fs::File::create(&path).expect("a file can be made");
    long.set_len((64 << 20) + 2).expect("a file can be long");
    let ran = audit(&path, &[]).await;
    assert_eq!(ran.code, Some(10), "{}", ran.err);
    assert!(ran.err.contains("line 1 is longer than 64 MiB"), "{}", ran.err);
    std::fs::write(&path, [0xff, 0xfe, b'\n']).expect("a file can be written");
    let ran = audit(&path, &[]).await;
    assert_eq!(ran.code, Some(10), "{}", ran.err);
    assert!(ran.err.contains("line 1 is not text"), "{}", ran.err);
}
