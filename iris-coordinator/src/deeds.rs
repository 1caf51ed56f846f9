//! What nodes did, folded from the books.
//!
//! The books keep every task and event, so points and standings can be made anew at any time. That
//! takes the longer the older a network is. Once a day, and at a start, what follows from all that
//! happened until a day ago is written down; a start goes on from there and reads what came after.
//! What was written down is a convenience: without it, or where it cannot be gone on from, all is
//! read from the beginning, and comes to the same.

use std::time::Duration;

use futures::TryStreamExt;
use iris_core::reputation::{ReputationEvent, ReputationLedger};
use iris_core::reward::RewardEvent;
use iris_core::standing::{StandingPolicy, Standings};
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::task::Attempt;
use iris_core::{TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::link;
use crate::payouts::EVENT;
use crate::settlement::{SETTLEMENT, Settlement};

/// After so long nothing is written down any more that happened before.
const SETTLED: Duration = Duration::from_hours(24);
/// How much more than that is left to the next time.
const EARLIER: Duration = Duration::from_hours(1);
/// How long a task may have taken. One that lay longer counts for nobody, as in a month's facts.
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// Points and standings, as they follow from all that happened before a moment.
#[derive(Debug)]
pub(crate) struct Deeds {
    pub(crate) points: Box<dyn ReputationLedger>,
    pub(crate) standings: Standings,
    until: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Folded {
    until: Timestamp,
    points: Box<RawValue>,
    standings: Standings,
}

impl Deeds {
    /// Reads what all nodes did. `empty` is a ledger that holds nothing.
    pub(crate) async fn read(
        store: &dyn Store,
        empty: Box<dyn ReputationLedger>,
        policy: StandingPolicy,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let mut deeds = Self::begin(store, empty, policy, now).await?;
        if deeds.points.state().is_some() {
            deeds.fold(store, now).await?;
        }
        deeds.go_on(store, Timestamp::from_millis(u64::MAX)).await?;
        Ok(deeds)
    }

    /// Writes down what follows from all that is settled. `empty` is a ledger that holds nothing.
    pub(crate) async fn write(
        store: &dyn Store,
        empty: Box<dyn ReputationLedger>,
        policy: StandingPolicy,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        Self::begin(store, empty, policy, now).await?.fold(store, now).await
    }

    /// Returns what was written down, if that can be gone on from, or nothing.
    async fn begin(
        store: &dyn Store,
        empty: Box<dyn ReputationLedger>,
        policy: StandingPolicy,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let written = store.get(key()).await?.and_then(|record| record.value.decode().ok());
        let resumed = written.and_then(|Folded { until, points, standings }| {
            // A clock that was ahead has left out what came since.
            let ahead = until.saturating_add(SETTLED) > now;
            if ahead || standings.policy() != policy {
                return None;
            }
            let points = Document::from_text(points.get().to_owned());
            Some(Self { points: empty.resumed(Some(&points))?, standings, until })
        });
        let (standings, until) = (Standings::new(policy), Timestamp::from_millis(0));
        Ok(resumed.unwrap_or(Self { points: empty, standings, until }))
    }

    /// Folds what is settled, and writes it down where that is more than before.
    async fn fold(&mut self, store: &dyn Store, now: Timestamp) -> Result<(), StoreError> {
        let apart = u64::try_from((SETTLED + EARLIER).as_millis()).unwrap_or(u64::MAX);
        let until = Timestamp::from_millis(now.as_millis().saturating_sub(apart));
        // What is little more is not worth a commit that a start waits for.
        if until < self.until.saturating_add(EARLIER) {
            return Ok(());
        }
        self.go_on(store, until).await?;
        let Some(points) = self.points.state() else { return Ok(()) };
        let points = RawValue::from_string(points.as_text().to_owned());
        let points = points.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let folded = Folded { until, points, standings: self.standings.clone() };
        store.commit(Batch::new().put(key(), Document::encode(&folded))).await
    }

    /// Folds everything that happened before `end` in the order of its times: tasks by their ids
    /// and before other events, as a month's facts are.
    async fn go_on(&mut self, store: &dyn Store, end: Timestamp) -> Result<(), StoreError> {
        let is_new = |at: Timestamp| self.until <= at && at < end;
        let from = |record_type: &str, at: u64| {
            Key::new(record_type, format!("{at:013}")).expect("a number is a key segment")
        };
        let start = self.until.as_millis();
        let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
        let owners = link::owners(store).await?;
        let mut deeds: Vec<(Timestamp, Option<TaskId>, ReputationEvent)> = Vec::new();
        let mut attempts: Vec<(Timestamp, Option<TaskId>, Attempt)> = Vec::new();
        let early = from(SETTLEMENT, start.saturating_sub(longest));
        let mut rows = store.scan(early..Key::all(SETTLEMENT).end);
        while let Some(record) = rows.try_next().await? {
            if Settlement::submitted_of(&record.key).is_some_and(|submitted| submitted >= end) {
                break;
            }
            let row: Settlement = record.value.decode()?;
            let (at, task) = (row.ended(), row.task);
            if !is_new(at) || Duration::from_millis(row.took_ms) > LONGEST {
                continue;
            }
            deeds.extend(row.deeds().map(|deed| (at, Some(task), deed)));
            // What a node does for its own owner says nothing.
            let for_others = row.attempts.iter();
            let for_others =
                for_others.filter(|attempt| owners.get(&attempt.node) != Some(&row.account));
            attempts.extend(for_others.map(|attempt| (at, Some(task), *attempt)));
        }
        let mut events = store.scan(from(EVENT, start)..Key::all(EVENT).end);
        while let Some(record) = events.try_next().await? {
            let event: RewardEvent = record.value.decode()?;
            if is_new(event.at) {
                deeds.extend(event.deed().map(|deed| (event.at, None, deed)));
                attempts.extend(event.attempt().map(|attempt| (event.at, None, attempt)));
            }
        }
        deeds.sort_by_key(|(at, task, _)| (*at, task.is_none(), *task));
        attempts.sort_by_key(|(at, task, _)| (*at, task.is_none(), *task));
        for (at, _, Attempt { node, end }) in attempts {
            self.standings.note(node, end, at);
        }
        for (_, _, deed) in &deeds {
            self.points.apply(deed);
        }
        self.until = end;
        Ok(())
    }
}

fn key() -> Key {
    Key::new("folded", "deeds").expect("a word is a key segment")
}

#[cfg(test)]
mod tests {
    use iris_core::backend::Usage;
    use iris_core::reputation::{Deed, MemoryLedger};
    use iris_core::reward::What;
    use iris_core::store::MemoryStore;
    use iris_core::task::{AttemptEnd, TaskState};
    use iris_core::{AccountId, NodeId};
    use proptest::prelude::*;

    use super::*;
    use crate::payouts::event_key;

    const HOUR: u64 = 3_600_000;
    /// A while after 1970, so that there is a time before.
    const BEGIN: u64 = 10_000 * HOUR;

    /// Something that happens, and is written down some time later.
    #[derive(Clone, Copy, Debug)]
    struct Happening {
        node: u8,
        after: u64,
        late: u64,
        kind: u8,
        /// Whether what is settled is written down after it.
        fold: bool,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        (0_u8..3, 0..20 * HOUR, 0..20 * HOUR, 0_u8..9, any::<bool>())
            .prop_map(|(node, after, late, kind, fold)| Happening { node, after, late, kind, fold })
    }

    fn node(number: u8) -> NodeId {
        char::from(b'a' + number).to_string().repeat(26).parse().unwrap()
    }

    fn record(number: u8, at: u64, Happening { node: who, kind, late, .. }: Happening) -> Batch {
        let (node, owner) = (node(who), AccountId::from_bytes([who; 16]));
        let what = match kind {
            0 => What::Deed { deed: Deed::Uptime },
            1 => What::Promised { kept: false },
            2 => What::Convicted,
            3 => What::Unanswered { model: "m".parse().unwrap() },
            kind => {
                let ends = [AttemptEnd::Done, AttemptEnd::Lost, AttemptEnd::Invalid];
                let took_ms = late / 7 + 1;
                let row = Settlement {
                    task: TaskId::from_bytes([number; 16]),
                    account: AccountId::from_bytes([kind % 4; 16]),
                    key: None,
                    model: "m".parse().unwrap(),
                    state: TaskState::Finished,
                    attempts: vec![Attempt { node, end: ends[usize::from(kind) % 3] }],
                    usage: Usage { prompt_tokens: 9, completion_tokens: 90 },
                    submitted: Timestamp::from_millis(at - took_ms),
                    first_chunk_ms: None,
                    took_ms,
                    limit_ms: 60_000,
                    sealed: false,
                    receipt: None,
                    difficulty: None,
                };
                return row.write(Batch::new());
            }
        };
        let event = RewardEvent { at: Timestamp::from_millis(at), node, owner, what };
        let key = event_key(event.at, &node, &format!("kind{number}"));
        Batch::new().put(key, Document::encode(&event))
    }

    async fn read(store: &MemoryStore, now: u64) -> (String, Standings) {
        let (ledger, now) = (Box::new(MemoryLedger::default()), Timestamp::from_millis(now));
        let deeds = Deeds::read(store, ledger, StandingPolicy::default(), now).await.unwrap();
        (deeds.points.state().unwrap().as_text().to_owned(), deeds.standings)
    }

    async fn fold(store: &MemoryStore, now: u64) {
        let (ledger, now) = (Box::new(MemoryLedger::default()), Timestamp::from_millis(now));
        Deeds::write(store, ledger, StandingPolicy::default(), now).await.unwrap();
    }

    async fn until(store: &MemoryStore) -> Option<u64> {
        let folded = store.get(key()).await.unwrap()?;
        Some(folded.value.decode::<Folded>().unwrap().until.as_millis())
    }

    /// Two stores of the same books, in one of which nothing was ever folded before.
    async fn both(happenings: &[Happening]) -> (MemoryStore, MemoryStore, u64) {
        let (folded, plain) = (MemoryStore::new(), MemoryStore::new());
        let (mut at, mut written) = (BEGIN, Vec::new());
        for (number, happening) in (0_u8..).zip(happenings) {
            at += happening.after;
            let record = record(number, at, *happening);
            written.push((at + happening.late, happening.fold, record));
        }
        written.sort_by_key(|(at, ..)| *at);
        let mut now = BEGIN;
        for (at, then_fold, record) in written {
            now = at;
            folded.commit(record.clone()).await.unwrap();
            plain.commit(record).await.unwrap();
            if then_fold {
                fold(&folded, now).await;
            }
        }
        (folded, plain, now)
    }

    proptest! {
        #[test]
        fn going_on_comes_to_the_same_as_beginning_anew(
            happenings in proptest::collection::vec(happening(), 0..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (folded, plain, now) = both(&happenings).await;
                assert_eq!(read(&folded, now).await, read(&plain, now).await);
            });
        }
    }

    fn hourly(count: usize) -> Vec<Happening> {
        let one = Happening { node: 1, after: HOUR, late: 0, kind: 0, fold: true };
        vec![one; count]
    }

    #[tokio::test]
    async fn a_start_reads_what_came_since() {
        let (folded, _, now) = both(&hourly(100)).await;
        assert_eq!(until(&folded).await, Some(now - 25 * HOUR));
        let before = read(&folded, now).await;
        // What is folded is not read any more.
        let gone = record(0, BEGIN + HOUR, hourly(1)[0]).writes[0].key.clone();
        folded.commit(Batch::new().delete(gone)).await.unwrap();
        assert_eq!(read(&folded, now).await, before);
    }

    #[tokio::test]
    async fn what_a_clock_that_was_ahead_folded_is_not_gone_on_from() {
        let (folded, plain, now) = both(&hourly(30)).await;
        fold(&folded, now + 1000 * HOUR).await;
        let late = Happening { kind: 2, ..hourly(1)[0] };
        for store in [&folded, &plain] {
            store.commit(record(99, now + HOUR, late)).await.unwrap();
        }
        assert_eq!(read(&folded, now + HOUR).await, read(&plain, now + HOUR).await);
        assert_eq!(until(&folded).await, Some(now - 24 * HOUR));
    }

    #[tokio::test]
    async fn what_was_weighed_otherwise_is_read_anew() {
        let (folded, _, now) = both(&hourly(60)).await;
        let policy = StandingPolicy { done: 7, ..Default::default() };
        let (ledger, at) = (Box::new(MemoryLedger::default()), Timestamp::from_millis(now));
        let deeds = Deeds::read(&folded, ledger, policy, at).await.unwrap();
        assert_eq!(deeds.standings.policy(), policy);
        let broken = Document::from_text("{".to_owned());
        folded.commit(Batch::new().put(key(), broken)).await.unwrap();
        assert_eq!(read(&folded, now).await.0, deeds.points.state().unwrap().as_text());
    }
}
