//! A month's facts, read from the books in the order of their times.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, Fuse};
use iris_core::reward::{AttemptFact, RewardEvent, TaskFact, What};
use iris_core::store::{Key, Record, StoreError};
use iris_core::{AccountId, Epoch, NodeId, TaskId, Timestamp};

use super::{Payouts, record};
use crate::link;
use crate::settlement::{SETTLEMENT, Settlement};

/// How long before a month a task that ended in it may have been submitted. One that lay longer is
/// in no month's facts.
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// Something that counts in a month.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    Task(TaskFact),
    Event(RewardEvent),
}

/// Reads facts; owners and requesters are pseudonyms.
pub(super) struct Facts<'a> {
    payouts: &'a Payouts,
    epoch: Epoch,
    owners: HashMap<NodeId, AccountId>,
    settlements: Fuse<BoxStream<'a, Result<Record, StoreError>>>,
    events: Fuse<BoxStream<'a, Result<Record, StoreError>>>,
    /// Tasks that were read and may be preceded by one that was not: rows lie in the order in which
    /// tasks were submitted.
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// When the last row that was read was submitted; whatever comes ended later.
    reached: Timestamp,
    next_event: Option<RewardEvent>,
    pseudonyms: HashMap<AccountId, AccountId>,
}

struct Waiting {
    task: TaskId,
    fact: TaskFact,
}

impl Waiting {
    const fn order(&self) -> (Timestamp, TaskId) {
        (self.fact.at, self.task)
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

impl<'a> Facts<'a> {
    pub(super) async fn of(payouts: &'a Payouts, epoch: Epoch) -> Result<Self, StoreError> {
        let store = payouts.store.as_ref();
        let (start, end) = (epoch.start().as_millis(), epoch.end().as_millis());
        let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
        let from = |record_type: &str, at: u64| {
            Key::new(record_type, format!("{at:013}")).expect("a number is a key segment")
        };
        let early = start.saturating_sub(longest);
        let settlements = store.scan(from(SETTLEMENT, early)..from(SETTLEMENT, end)).fuse();
        let events = store.scan(from(record::EVENT, start)..from(record::EVENT, end)).fuse();
        let mut facts = Self {
            payouts,
            epoch,
            owners: link::owners(store).await?,
            settlements,
            events,
            waiting: BinaryHeap::new(),
            reached: Timestamp::from_millis(0),
            next_event: None,
            pseudonyms: HashMap::new(),
        };
        facts.next_event = facts.read_event().await?;
        Ok(facts)
    }

    /// Returns the next fact; `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Fact>, StoreError> {
        self.read_tasks().await?;
        let task = self.waiting.peek().map(|Reverse(waiting)| waiting.fact.at);
        let event = self.next_event.as_ref().map(|event| event.at);
        if event.is_some_and(|event| task.is_none_or(|task| event < task)) {
            let next = self.read_event().await?;
            return Ok(std::mem::replace(&mut self.next_event, next).map(Fact::Event));
        }
        Ok(self.waiting.pop().map(|Reverse(waiting)| Fact::Task(waiting.fact)))
    }

    /// Reads rows until none that is unread can come before the first that waits.
    async fn read_tasks(&mut self) -> Result<(), StoreError> {
        while self.waiting.peek().is_none_or(|Reverse(first)| first.fact.at >= self.reached) {
            let Some(record) = self.settlements.next().await else {
                self.reached = Timestamp::from_millis(u64::MAX);
                return Ok(());
            };
            let row: Settlement = record?.value.decode()?;
            self.reached = row.submitted;
            if Epoch::of(row.ended()) == self.epoch && !row.attempts.is_empty() {
                let (task, fact) = (row.task, self.fact(row));
                self.waiting.push(Reverse(Waiting { task, fact }));
            }
        }
        Ok(())
    }

    fn fact(&mut self, row: Settlement) -> TaskFact {
        let limit = u64::try_from(row.limit().as_millis()).unwrap_or(u64::MAX);
        let (at, requester) = (row.ended(), self.pseudonym(row.account));
        let attempts = row.attempts.iter().filter_map(|attempt| {
            let owner = *self.owners.get(&attempt.node)?;
            Some((attempt, owner))
        });
        let attempts: Vec<_> = attempts.map(|(attempt, owner)| (*attempt, owner)).collect();
        let attempts = attempts.into_iter().map(|(attempt, owner)| AttemptFact {
            node: attempt.node,
            owner: self.pseudonym(owner),
            end: attempt.end,
        });
        TaskFact {
            at,
            requester,
            attempts: attempts.collect(),
            model: row.model,
            usage: row.usage,
            took_ms: row.took_ms,
            limit_ms: limit,
            receipt: row.receipt,
        }
    }

    async fn read_event(&mut self) -> Result<Option<RewardEvent>, StoreError> {
        let Some(record) = self.events.next().await else { return Ok(None) };
        let event: RewardEvent = record?.value.decode()?;
        let what = match event.what {
            What::Work { requester, model, units } => {
                What::Work { requester: self.pseudonym(requester), model, units }
            }
            what => what,
        };
        let owner = self.pseudonym(event.owner);
        Ok(Some(RewardEvent { owner, what, ..event }))
    }

    fn pseudonym(&mut self, account: AccountId) -> AccountId {
        let payouts = self.payouts;
        *self.pseudonyms.entry(account).or_insert_with(|| payouts.pseudonym(&account))
    }
}
