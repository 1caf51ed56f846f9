//! A month's books as a file that anybody can check.
//!
//! One JSON object a line (JSON Lines): an `opening`, then the month's `task`s, `event`s and
//! `movement`s in the order of their times, at last an `outcome`. [`Audit`] reads it line by line,
//! computes everything anew, and says whether the outcome is the same to the byte. Owners and
//! requesters are pseudonyms; what a file says of whom, only the network knows.

use serde::{Deserialize, Serialize};

use super::month::{Month, Outcome, State, TaskFact, rules};
use super::{RewardEvent, RewardRules, WorkRates};
use crate::epoch::Epoch;
use crate::ledger::{Balances, Book, Cause, LedgerError, Money, Movement};
use crate::time::Timestamp;

mod follows;

pub use follows::FollowError;

/// The version of the format.
pub const FORMAT: u32 = 1;

/// What a month begins with: the first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opening {
    /// The version of the format.
    pub format: u32,
    /// The month.
    pub epoch: Epoch,
    /// The name of the rules.
    pub policy: String,
    /// What tokens are worth.
    pub rates: WorkRates,
    /// What the month before left.
    pub state: State,
}

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first.
    Opening(Opening),
    /// A task that was settled.
    Task(TaskFact),
    /// Something that follows from no task.
    Event(RewardEvent),
    /// Money that moved into or out of the month's pool before it was shared.
    Movement(Movement),
    /// The last.
    Outcome(Outcome),
}

/// Why a file does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A line cannot be read.
    #[error("line {line} cannot be read: {error}")]
    Unreadable {
        /// Its number, from 1.
        line: u64,
        /// Why.
        error: serde_json::Error,
    },
    /// A line is where it must not be.
    #[error("line {0}: an opening comes first and once, an outcome last")]
    Order(u64),
    /// Facts are not in the order of their times, or not of the month.
    #[error("line {0} is dated before the line above it, or outside of the month")]
    Time(u64),
    /// The file is of a later version of Iris.
    #[error("the file has format {0}; this program reads format {FORMAT}")]
    Format(u32),
    /// The rules are not known, or not in this state.
    #[error(
        "the month was closed by the rules '{0}', which this program cannot make from the opening"
    )]
    Rules(String),
    /// Money does not add up.
    #[error("line {line}: {error}")]
    Ledger {
        /// The movement's line, from 1.
        line: u64,
        /// What is wrong.
        error: LedgerError,
    },
    /// Money comes from a month that is not the one before.
    #[error("line {0} carries money over from another month than the one before")]
    Carried(u64),
    /// The file ends before its outcome.
    #[error("the file is cut off: it has no outcome")]
    CutOff,
    /// What was paid is not what follows from the facts.
    #[error("{0} of the outcome is not what follows from the facts")]
    Differs(Part),
}

/// A part of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// What there was to share.
    Pool,
    /// Somebody's weight or share.
    Shares,
    /// Some node's points.
    Points,
    /// What the next month begins with.
    State,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pool => "the pool",
            Self::Shares => "a share",
            Self::Points => "the points of a node",
            Self::State => "the state",
        })
    }
}

/// What a file says, after all of it was found to be right.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The month and what it began with.
    pub opening: Opening,
    /// How it ended.
    pub outcome: Outcome,
    /// Tasks that were settled.
    pub tasks: u64,
    /// Those of them of which a node has signed a receipt.
    pub receipts: u64,
    /// Other events.
    pub events: u64,
    /// Movements of money.
    pub movements: u64,
    /// What was taken over from the month before, within the pool.
    pub brought: Money,
}

type Maker = dyn Fn(&Opening) -> Option<Box<dyn RewardRules>>;

/// Checks a file, line by line.
pub struct Audit {
    make: Box<Maker>,
    line: u64,
    begun: Option<Begun>,
}

struct Begun {
    opening: Opening,
    month: Month,
    balances: Balances,
    latest: Timestamp,
    tasks: u64,
    receipts: u64,
    events: u64,
    movements: u64,
    outcome: Option<Outcome>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("line", &self.line).finish_non_exhaustive()
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self::with_rules(|opening| rules(&opening.policy, Some(&opening.state.rules)))
    }
}

impl Audit {
    /// Makes an audit of files that were closed with rules of one's own: `make` makes them from an
    /// opening.
    pub fn with_rules(make: impl Fn(&Opening) -> Option<Box<dyn RewardRules>> + 'static) -> Self {
        Self { make: Box::new(make), line: 0, begun: None }
    }

    /// Takes in the next line; empty ones are passed over.
    pub fn line(&mut self, text: &str) -> Result<(), AuditError> {
        self.line += 1;
        let line = self.line;
        if text.trim().is_empty() {
            return Ok(());
        }
        let read = serde_json::from_str(text);
        let read = read.map_err(|error| AuditError::Unreadable { line, error })?;
        match (read, &mut self.begun) {
            (Line::Opening(opening), None) => self.open(opening),
            (fact, Some(begun)) if begun.outcome.is_none() => begun.take(fact, line),
            _ => Err(AuditError::Order(line)),
        }
    }

    fn open(&mut self, opening: Opening) -> Result<(), AuditError> {
        if opening.format != FORMAT {
            return Err(AuditError::Format(opening.format));
        }
        let unknown = || AuditError::Rules(opening.policy.clone());
        let made = (self.make)(&opening).ok_or_else(unknown)?;
        let State { points, .. } = &opening.state;
        let month = Month::begin(opening.epoch, opening.rates.clone(), points.clone(), made);
        self.begun = Some(Begun {
            latest: Timestamp::from_millis(0),
            opening,
            month,
            balances: Balances::default(),
            tasks: 0,
            receipts: 0,
            events: 0,
            movements: 0,
            outcome: None,
        });
        Ok(())
    }

    /// Says whether the whole file is right.
    pub fn finish(self) -> Result<Report, AuditError> {
        let mut begun = self.begun.ok_or(AuditError::CutOff)?;
        let said = begun.outcome.take().ok_or(AuditError::CutOff)?;
        let pool = begun.balances.of(Book::Pool(begun.opening.epoch));
        let found = begun.month.close(pool);
        let differs = [
            (said.closing.pool != pool, Part::Pool),
            (said.closing != found.closing, Part::Shares),
            (said.points != found.points, Part::Points),
            (!said.is(&found), Part::State),
        ];
        if let Some((_, part)) = differs.into_iter().find(|(differs, _)| *differs) {
            return Err(AuditError::Differs(part));
        }
        let brought = begun.brought();
        let Begun { opening, tasks, receipts, events, movements, .. } = begun;
        Ok(Report { opening, outcome: said, tasks, receipts, events, movements, brought })
    }
}

impl Begun {
    fn take(&mut self, fact: Line, line: u64) -> Result<(), AuditError> {
        match fact {
            Line::Task(task) => {
                self.pass(task.at, line)?;
                self.tasks += 1;
                self.receipts += u64::from(task.receipt.is_some());
                self.month.task(&task);
            }
            Line::Event(event) => {
                self.pass(event.at, line)?;
                self.events += 1;
                self.month.event(&event);
            }
            Line::Movement(movement) => self.pay(&movement, line)?,
            Line::Outcome(outcome) => self.outcome = Some(outcome),
            Line::Opening(_) => return Err(AuditError::Order(line)),
        }
        Ok(())
    }

    fn pass(&mut self, at: Timestamp, line: u64) -> Result<(), AuditError> {
        let epoch = self.opening.epoch;
        if at < self.latest || at < epoch.start() || at >= epoch.end() {
            return Err(AuditError::Time(line));
        }
        self.latest = at;
        Ok(())
    }

    /// Takes in money that moves into the pool: what comes from books whose history is not in the
    /// file counts as coming from outside.
    fn pay(&mut self, movement: &Movement, line: u64) -> Result<(), AuditError> {
        self.movements += 1;
        let pool = Book::Pool(self.opening.epoch);
        let cause = movement.cause().clone();
        match cause {
            Cause::Closed { epoch } if epoch == self.opening.epoch => {
                return Err(AuditError::Order(line));
            }
            Cause::Closed { epoch } if epoch.next() != self.opening.epoch => {
                return Err(AuditError::Carried(line));
            }
            _ => {}
        }
        let amount: Money = movement.adds_to(pool);
        // Only the one amount that has no negative is in no movement.
        let beyond = |_| AuditError::Ledger { line, error: LedgerError::Overflow(pool) };
        let moved = Movement::between(cause, movement.at(), Book::Outside, pool, amount);
        let moved = moved.map_err(beyond)?;
        self.balances.apply(&moved).map_err(|error| AuditError::Ledger { line, error })?;
        Ok(())
    }

    /// Returns what the month before carried over.
    fn brought(&self) -> Money {
        let epoch = self.opening.epoch;
        let carried = self.balances.movement(&Cause::Closed { epoch: epoch.previous() }.id());
        carried.map_or(Money::ZERO, |movement| movement.adds_to(Book::Pool(epoch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Usage;
    use crate::id::{AccountId, NodeId, ReceiptId};
    use crate::ledger::Posting;
    use crate::reputation::MemoryLedger;
    use crate::reward::month::AttemptFact;
    use crate::reward::{EvidencePolicy, EvidenceRules, What};
    use crate::task::AttemptEnd;

    const OWNER: AccountId = AccountId::from_bytes([1; 16]);

    fn node() -> NodeId {
        "a".repeat(26).parse().unwrap()
    }

    /// Writes a month's file as a coordinator does.
    fn file() -> Vec<String> {
        let epoch: Epoch = "2026-11".parse().unwrap();
        let at = |hour: u64| Timestamp::from_millis(epoch.start().as_millis() + hour * 3_600_000);
        let policy =
            EvidencePolicy { probation_tests: 1, probation_millis: 0, ..Default::default() };
        let fresh = Box::new(EvidenceRules::new(policy));
        let rates = WorkRates::default();
        let state = Month::begin(epoch.previous(), rates.clone(), MemoryLedger::default(), fresh)
            .close(Money::ZERO)
            .state;
        let opening = Opening {
            format: FORMAT,
            epoch,
            policy: EvidenceRules::NAME.to_owned(),
            rates: rates.clone(),
            state: state.clone(),
        };
        let made = rules(&opening.policy, Some(&state.rules)).unwrap();
        let mut month = Month::begin(epoch, rates, state.points, made);
        let event = RewardEvent {
            at: at(1),
            node: node(),
            owner: OWNER,
            what: What::Checked { model: "m".parse().unwrap(), passed: true, weight: 1000 },
        };
        month.event(&event);
        let mut lines = vec![Line::Opening(opening), Line::Event(event)];
        for hour in 2..9 {
            let task = TaskFact {
                at: at(hour),
                requester: AccountId::from_bytes([u8::try_from(hour).unwrap(); 16]),
                model: "m".parse().unwrap(),
                attempts: vec![AttemptFact { node: node(), owner: OWNER, end: AttemptEnd::Done }],
                usage: Usage { prompt_tokens: 100, completion_tokens: 50 },
                took_ms: 900,
                limit_ms: 60_000,
                receipt: (hour == 8).then(|| ReceiptId::from_bytes([8; 32])),
            };
            month.task(&task);
            lines.push(Line::Task(task));
        }
        let pool = Money::micros(1_000_001);
        let cause = Cause::ToppedUp { payment: "ab".into() };
        let filled = Movement::between(cause, at(0), Book::Outside, Book::Pool(epoch), pool);
        lines.push(Line::Movement(filled.unwrap()));
        lines.push(Line::Outcome(month.close(pool)));
        lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect()
    }

    fn audit(lines: &[String]) -> Result<Report, AuditError> {
        let mut audit = Audit::default();
        lines.iter().try_for_each(|line| audit.line(line))?;
        audit.finish()
    }

    #[test]
    fn what_a_month_paid_is_computed_anew() {
        let report = audit(&file()).unwrap();
        assert_eq!((report.tasks, report.events, report.movements), (7, 1, 1));
        let closing = report.outcome.closing;
        assert_eq!(closing.shares[0].amount.as_micros(), 1_000_001);
        // 205 points, of which one percent goes with each of four weeks.
        assert_eq!(report.outcome.points[&node()], 195);
    }

    #[test]
    fn month_that_was_closed_by_other_rules_does_not_follow() {
        let report = audit(&file()).unwrap();
        let (mut before, october) = (report.clone(), "2026-10".parse().unwrap());
        (before.opening.epoch, before.outcome.state) = (october, report.opening.state.clone());
        assert_eq!(report.follows(&before), Ok(()));
        before.opening.policy = "seed".to_owned();
        let said = report.follows(&before).unwrap_err().to_string();
        assert_eq!(said, "2026-11 was closed by the rules 'evidence', but 2026-10 by 'seed'");
        let order = FollowError::Order { month: october, before: report.opening.epoch };
        assert_eq!(before.follows(&report), Err(order.clone()));
        let said = "2026-11 does not come before 2026-10: give the books of 2026-09";
        assert_eq!(order.to_string(), said);
    }

    #[test]
    fn any_change_of_a_fact_is_found() {
        let good = file();
        for (from, to) in [
            ("\"completion_tokens\":50", "\"completion_tokens\":51"),
            ("\"end\":\"done\"", "\"end\":\"failed\""),
            ("\"passed\":true", "\"passed\":false"),
            ("\"amount\":1000001}", "\"amount\":1000002}"),
            ("\"took_ms\":900", "\"took_ms\":59000"),
        ] {
            let forged: Vec<String> = good.iter().map(|line| line.replace(from, to)).collect();
            assert_ne!(forged, good, "{from}");
            assert!(audit(&forged).is_err(), "{from}");
        }
        for gone in 0..good.len() {
            let mut cut = good.clone();
            cut.remove(gone);
            assert!(audit(&cut).is_err(), "line {gone}");
            let mut twice = good.clone();
            twice.insert(gone, good[gone].clone());
            // A movement is known by its cause; saying it twice says nothing new.
            let known = good[gone].contains("movement");
            assert_eq!(audit(&twice).is_ok(), known, "line {gone}");
        }
    }

    #[test]
    fn no_number_in_a_file_is_too_much() {
        let good = file();
        let extremes = ["0", "1", "4294967295", "9223372036854775807", "18446744073709551615"];
        let extremes = extremes.into_iter().chain(["-1", "-9223372036854775808"]);
        for extreme in extremes {
            for (place, line) in good.iter().enumerate() {
                for (start, end) in numbers(line) {
                    let mut forged = good.clone();
                    forged[place].replace_range(start..end, extreme);
                    // Whether it holds is told by others; here it must only come to an end.
                    let _ = audit(&forged);
                }
            }
        }
        let (most, half) = (i64::MIN, 1_i64 << 62);
        let cause = Cause::ToppedUp { payment: "cd".into() };
        let posting = |book, amount| Posting { book, amount: Money::micros(amount) };
        let postings = vec![
            posting(Book::Pool("2026-11".parse().unwrap()), most),
            posting(Book::Outside, half),
            posting(Book::Operator, half),
        ];
        let drained = Movement::new(cause, Timestamp::from_millis(0), postings).unwrap();
        let mut forged = good;
        forged[1] = serde_json::to_string(&Line::Movement(drained)).unwrap();
        assert!(matches!(audit(&forged), Err(AuditError::Ledger { line: 2, .. })));
    }

    /// Returns where the numbers of a line are.
    fn numbers(line: &str) -> Vec<(usize, usize)> {
        let bytes = line.as_bytes();
        let is_digit = |place: usize| bytes.get(place).is_some_and(u8::is_ascii_digit);
        let starts = (1..bytes.len())
            .filter(|place| is_digit(*place) && matches!(bytes[place - 1], b':' | b',' | b'['));
        let end = |start: usize| (start..=bytes.len()).find(|place| !is_digit(*place)).unwrap();
        starts.map(|start| (start, end(start))).collect()
    }

    #[test]
    fn what_is_no_file_is_refused() {
        for text in ["", "{}", "[", "{\"opening\":{}}", "{\"task\":1}"] {
            assert!(audit(&[text.to_owned()]).is_err(), "{text}");
        }
        let later = file()[0].replace("\"format\":1", "\"format\":2");
        assert!(matches!(audit(&[later]), Err(AuditError::Format(2))));
        let other = file()[0].replace("\"evidence\"", "\"other\"");
        assert!(matches!(audit(&[other]), Err(AuditError::Rules(_))));
    }
}
