//! An account's tasks that are over, the latest first.
//!
//! Settlements lie in the order of their times, whosever they are. Each has a line under its account
//! and the time counted backwards, which names it; so a page costs what it shows, whatever else the
//! books hold. Lines are written [later](histories) than rows, and told at once.

use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use futures::{StreamExt, TryStreamExt};
use iris_core::store::{Key, Store, StoreError};
use iris_core::{AccountId, TaskId, Timestamp};
use iris_protocol::rest::{HistoryEntry, HistoryPage};

use crate::settlement::Settlement;

mod histories;

pub use histories::Histories;

/// The record type of an account's lines. They hold nothing beside their keys.
const HISTORY: &str = "history";
/// The last moment of 13 digits, from which times are counted backwards.
const LAST: u64 = 9_999_999_999_999;
/// How many settlements are read at a time.
const AT_A_TIME: usize = 16;

/// A place in an account's history; its text says nothing but which task was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryCursor {
    submitted: Timestamp,
    task: TaskId,
}

/// Says that a text is no [`HistoryCursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a place in the history is the 'next' of an earlier page")]
pub struct HistoryCursorError;

impl fmt::Display for HistoryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}-{}", self.submitted.as_millis().min(LAST), self.task)
    }
}

impl FromStr for HistoryCursor {
    type Err = HistoryCursorError;

    fn from_str(text: &str) -> Result<Self, HistoryCursorError> {
        let (millis, task) = text.split_once('-').ok_or(HistoryCursorError)?;
        let digits = millis.len() == 13 && millis.bytes().all(|byte| byte.is_ascii_digit());
        let millis = digits.then(|| millis.parse().ok()).flatten().ok_or(HistoryCursorError)?;
        let task = task.parse().map_err(|_| HistoryCursorError)?;
        Ok(Self { submitted: Timestamp::from_millis(millis), task })
    }
}

/// Returns the key of the line of a task.
pub(crate) fn line(account: &AccountId, submitted: Timestamp, task: &TaskId) -> Key {
    let back = LAST.saturating_sub(submitted.as_millis());
    Key::new(HISTORY, format!("{account}-{back:013}-{task}")).expect("ids and digits are a key")
}

/// Reads the task that a line names.
fn named(line: &Key) -> Option<HistoryCursor> {
    let mut parts = line.id().split('-').skip(1);
    let back: u64 = parts.next()?.parse().ok()?;
    let task = parts.next()?.parse().ok()?;
    Some(HistoryCursor { submitted: Timestamp::from_millis(LAST.saturating_sub(back)), task })
}

/// Returns the range of the lines of `account` that come after a place.
fn lines(account: &AccountId, after: Option<&HistoryCursor>) -> Range<Key> {
    let key = |id: String| Key::new(HISTORY, id).expect("ids and digits are a key");
    let start = match after {
        // '-' is the first character that a key can go on with.
        Some(place) => format!("{}-", line(account, place.submitted, &place.task).id()),
        None => format!("{account}-"),
    };
    // '.' is the character after '-'.
    key(start)..key(format!("{account}."))
}

/// Reads at most `limit` tasks.
pub(crate) async fn page(
    store: &dyn Store,
    histories: &Histories,
    account: &AccountId,
    after: Option<&HistoryCursor>,
    limit: usize,
) -> Result<HistoryPage, StoreError> {
    let most = limit.saturating_add(1);
    // Read first: what is written meanwhile is then found in the store, too.
    let mut places = histories.places(account, after, most);
    let lines = store.scan(lines(account, after)).take(most);
    let corrupt = || StoreError::Corrupt("a line of a history names no task".to_owned());
    let written = lines.map(|line| named(&line?.key).ok_or_else(corrupt));
    places.extend(written.try_collect::<Vec<_>>().await?);
    places.sort_unstable_by_key(|place| (Reverse(place.submitted), place.task));
    places.dedup();
    let more = places.len() > limit;
    places.truncate(limit);
    let next = places.last().filter(|_| more).map(HistoryCursor::to_string);
    let keys = places.into_iter().map(|place| Settlement::key_of(place.submitted, &place.task));
    let rows = futures::stream::iter(keys)
        .map(|key| store.get(key))
        .buffered(AT_A_TIME)
        .try_filter_map(|row| async { row.map(|row| row.value.decode()).transpose() });
    let rows: Vec<Settlement> = rows.try_collect().await?;
    Ok(HistoryPage { tasks: rows.iter().map(entry).collect(), next })
}

fn entry(row: &Settlement) -> HistoryEntry {
    HistoryEntry {
        task: row.task,
        submitted: row.submitted.as_secs(),
        model: row.model.clone(),
        state: row.state,
        took_ms: row.took_ms,
        prompt_tokens: row.usage.prompt_tokens.into(),
        completion_tokens: row.usage.completion_tokens.into(),
        node: row.attempts.last().map(|attempt| attempt.node),
        sealed: row.sealed,
        difficulty: row.difficulty,
    }
}

#[cfg(test)]
mod tests {
    use iris_core::backend::Usage;
    use iris_core::store::{Batch, MemoryStore};
    use iris_core::task::TaskState;

    use super::*;

    const OWN: AccountId = AccountId::from_bytes([1; 16]);
    const OTHER: AccountId = AccountId::from_bytes([2; 16]);

    pub(super) fn settlement(account: AccountId, task: u8, at: u64) -> Settlement {
        Settlement {
            task: TaskId::from_bytes([task; 16]),
            account,
            key: None,
            model: "m".parse().unwrap(),
            state: TaskState::Finished,
            attempts: Vec::new(),
            usage: Usage::default(),
            submitted: Timestamp::from_millis(at),
            first_chunk_ms: None,
            took_ms: 1,
            limit_ms: 2,
            sealed: false,
            receipt: None,
            difficulty: None,
        }
    }

    async fn books(rows: impl IntoIterator<Item = Settlement>) -> MemoryStore {
        let store = MemoryStore::new();
        let batch = rows.into_iter().fold(Batch::new(), |batch, row| row.write(batch));
        store.commit(batch).await.unwrap();
        store
    }

    async fn told(store: &MemoryStore, histories: &Histories, limit: usize) -> Vec<Vec<u8>> {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let page = page(store, histories, &OWN, after.as_ref(), limit).await.unwrap();
            let first = |task: &HistoryEntry| task.task.as_bytes()[0];
            pages.push(page.tasks.iter().map(first).collect());
            let Some(next) = page.next else { return pages };
            after = Some(next.parse().unwrap());
        }
    }

    async fn read(store: &MemoryStore, limit: usize) -> Vec<Vec<u8>> {
        told(store, &Histories::open(store).await.unwrap(), limit).await
    }

    #[tokio::test]
    async fn pages_show_own_tasks_alone_and_each_once_the_latest_first() {
        let own = [(1, 10), (2, 99), (3, 100), (4, 100), (5, 1_700_000_000_000)];
        let rows = own.map(|(task, at)| settlement(OWN, task, at));
        let others = (6..40).map(|task| settlement(OTHER, task, u64::from(task)));
        let store = books(rows.into_iter().chain(others)).await;
        assert_eq!(read(&store, 2).await, [vec![5, 3], vec![4, 2], vec![1]]);
        assert_eq!(read(&store, 5).await, [vec![5, 3, 4, 2, 1]]);
        assert_eq!(read(&MemoryStore::new(), 5).await, [Vec::<u8>::new()]);
    }

    #[tokio::test]
    async fn line_without_a_row_is_passed_over() {
        let store = books([settlement(OWN, 1, 1), settlement(OWN, 2, 2)]).await;
        read(&store, 2).await;
        let gone = Settlement::key_of(Timestamp::from_millis(2), &TaskId::from_bytes([2; 16]));
        store.commit(Batch::new().delete(gone)).await.unwrap();
        assert_eq!(read(&store, 1).await, [vec![], vec![1]]);
    }

    #[test]
    fn place_is_a_number_and_a_task_and_nothing_else() {
        let good = format!("{:013}-{}", 7, TaskId::from_bytes([1; 16]));
        assert_eq!(good.parse::<HistoryCursor>().unwrap().to_string(), good);
        let hostile =
            ["", "-", "x", "7-0", "' OR 1=1 --", "../../etc/passwd", "%", "0000000000007-"];
        let long = format!("+{}", &good[1..]);
        let newline = format!("{good}\n");
        for bad in hostile.into_iter().chain([long.as_str(), newline.as_str()]) {
            assert_eq!(bad.parse::<HistoryCursor>(), Err(HistoryCursorError), "{bad}");
        }
    }
}
