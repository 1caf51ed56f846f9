//! What nodes earn and lose by what they do.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::store::Document;
use crate::task::AttemptEnd;
use crate::time::Timestamp;

mod memory;

pub use memory::MemoryLedger;

/// Reputation: a signed whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Points(i64);

impl Points {
    /// What a new node starts with by the seeds' table.
    pub const START: Self = Self(100);

    /// Makes a number of points.
    pub const fn new(value: i64) -> Self {
        Self(value)
    }

    /// Returns the number.
    pub const fn value(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something a node did, or failed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Deed {
    /// It completed a task.
    Completed,
    /// It completed a task fast, beyond [`Deed::Completed`]; see [`Deed::is_fast`].
    Fast,
    /// It held a task beyond a deadline, refused after it accepted, or was lost with it.
    Timeout,
    /// It answered something that is not an answer.
    Invalid,
    /// It was connected for an hour.
    Uptime,
    /// It was away for an hour in which it had promised to be there.
    BrokenPromise,
}

/// What counts as quick work, beyond half of the time that a task has: a second until the answer
/// begins, and ten tokens a second from then on, the speed below which a node is BASIC. So a short
/// answer is not fast because it is short.
const QUICK_START_MS: u64 = 1000;
const QUICK_TOKEN_MS: u64 = 100;

impl Deed {
    /// Returns whether so many tokens were written fast: in under half of the time that the task
    /// had by its difficulty, and at ten tokens a second after the first second.
    pub fn is_fast(took: Duration, limit: Duration, written: u32) -> bool {
        let quick = QUICK_START_MS + QUICK_TOKEN_MS * u64::from(written);
        took < limit / 2 && took <= Duration::from_millis(quick)
    }

    /// Returns the deeds that the end of an attempt is, given whether it was fast.
    pub fn of(end: AttemptEnd, fast: bool) -> impl Iterator<Item = Self> {
        let deeds = match end {
            AttemptEnd::Done if fast => [Some(Self::Completed), Some(Self::Fast)],
            AttemptEnd::Done => [Some(Self::Completed), None],
            AttemptEnd::Unanswered
            | AttemptEnd::Stalled
            | AttemptEnd::Lost
            | AttemptEnd::Failed => [Some(Self::Timeout), None],
            AttemptEnd::Invalid => [Some(Self::Invalid), None],
            // A refusal is honest; a caller's fault, or leaving, is not the node's.
            AttemptEnd::Refused
            | AttemptEnd::Unreached
            | AttemptEnd::CallersFault
            | AttemptEnd::Stopped
            | AttemptEnd::Outrun => [None, None],
        };
        deeds.into_iter().flatten()
    }
}

/// A deed of one node at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReputationEvent {
    /// Who did it.
    pub node: NodeId,
    /// What it did.
    pub deed: Deed,
    /// When.
    pub at: Timestamp,
}

/// Folds deeds into points.
///
/// Called under one lock for every settled task, in the order of the events. The same events
/// give the same points, so a ledger can be rebuilt from what was written down.
pub trait ReputationLedger: fmt::Debug + Send + 'static {
    /// Takes one event into account. Events of one node come in the order of their times; an
    /// earlier one counts as happening at the time of the latest before it.
    fn apply(&mut self, event: &ReputationEvent);

    /// Returns the points of `node` at `now`; those of a new node when nothing is known of it.
    fn points(&self, node: &NodeId, now: Timestamp) -> Points;

    /// Returns the nodes that deeds are known of, in any order. Called seldom.
    fn nodes(&self) -> Vec<NodeId>;

    /// Returns the weight of `node` at `now` when a pool is shared; never negative.
    fn weight(&self, node: &NodeId, now: Timestamp) -> u64;

    /// Returns all that the ledger holds as one document, so that it need not be rebuilt from the
    /// beginning at every start. Default: `None`, it must be.
    fn state(&self) -> Option<Document> {
        None
    }

    /// Makes a ledger that counts like this one and goes on from a [`state`](Self::state), or holds
    /// nothing where there is none; `None` where it cannot, for instance because the state was
    /// counted otherwise. Default: `None`.
    fn resumed(&self, _state: Option<&Document>) -> Option<Box<dyn ReputationLedger>> {
        None
    }
}

/// What each deed is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointsPolicy {
    /// Points of a new node. Default: 100.
    pub start: i64,
    /// Points below which nothing falls. Default: 10.
    pub floor: i64,
    /// For [`Deed::Completed`]. Default: 10.
    pub completed: i64,
    /// For [`Deed::Fast`]. Default: 5.
    pub fast: i64,
    /// For [`Deed::Timeout`]. Default: -20.
    pub timeout: i64,
    /// For [`Deed::Invalid`]. Default: -50.
    pub invalid: i64,
    /// For [`Deed::Uptime`]. Default: 1.
    pub uptime: i64,
    /// For [`Deed::BrokenPromise`]. Default: -5.
    pub broken_promise: i64,
    /// Hundredths of the points that go with each whole week. Default: 1.
    pub weekly_decay_percent: u8,
}

impl PointsPolicy {
    /// The table of the seeds.
    pub const SEED: Self = Self {
        start: 100,
        floor: 10,
        completed: 10,
        fast: 5,
        timeout: -20,
        invalid: -50,
        uptime: 1,
        broken_promise: -5,
        weekly_decay_percent: 1,
    };

    /// Returns what `deed` is worth.
    pub const fn worth(&self, deed: Deed) -> i64 {
        match deed {
            Deed::Completed => self.completed,
            Deed::Fast => self.fast,
            Deed::Timeout => self.timeout,
            Deed::Invalid => self.invalid,
            Deed::Uptime => self.uptime,
            Deed::BrokenPromise => self.broken_promise,
        }
    }

    /// Returns `points` after the whole weeks within `elapsed`, rounded toward zero each week.
    pub fn decayed(&self, points: i64, elapsed: Duration) -> i64 {
        let weeks = elapsed.as_secs() / WEEK.as_secs();
        let keep = 100 - i128::from(self.weekly_decay_percent.min(100));
        let mut points = points;
        // At one percent a week, ten thousand weeks bring any 64-bit number to the floor.
        for _ in 0..weeks.min(10_000) {
            if points <= self.floor {
                break;
            }
            let next = i128::from(points) * keep / 100;
            points = i64::try_from(next).unwrap_or(points).max(self.floor);
        }
        points
    }
}

impl Default for PointsPolicy {
    fn default() -> Self {
        Self::SEED
    }
}

/// The period of decay.
pub const WEEK: Duration = Duration::from_hours(7 * 24);
