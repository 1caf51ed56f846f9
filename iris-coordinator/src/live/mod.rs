//! What happens in the network, for those who watch it.
//!
//! While nobody watches, a task costs one look at a flag more. What a watcher learns of tasks is
//! its own account's alone; of the network it learns what its members may look up anyway.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use iris_core::explain::Explanation;
use iris_core::task::TaskState;
use iris_core::{AccountId, ModelName, NodeId, TaskId};
use iris_protocol::rest::{NodeReason, SkipCount};
use serde::Serialize;

use crate::settlement::Settlement;

mod minutes;

#[cfg(feature = "http")]
pub(crate) use minutes::Minute;
pub(crate) use minutes::{Minutes, Took};

/// How many events of an account wait to be told. More are counted and left out.
const WAITING: usize = 256;
/// How many streams an account may watch at a time.
const WATCHERS: usize = 8;

/// Who watches, and what they have not been told yet.
#[derive(Debug, Default)]
pub(crate) struct Live {
    is_watched: AtomicBool,
    accounts: Mutex<HashMap<AccountId, Watched>>,
    minutes: Mutex<Minutes>,
}

#[derive(Debug, Default)]
struct Watched {
    watchers: usize,
    events: Vec<Event>,
    left_out: u64,
}

/// What happened to tasks of one account.
#[derive(Debug, Serialize)]
pub(crate) struct News {
    events: Vec<Event>,
    /// How many events are missing, since too much happened.
    left_out: u64,
}

/// What happened to a task.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    /// It was offered to a node.
    Assigned {
        task: TaskId,
        model: ModelName,
        node: NodeId,
        sealed: bool,
        /// Why that node and not others; nothing where its caller chose the node.
        reasons: Vec<NodeReason>,
        skipped: Vec<SkipCount>,
    },
    /// It is over.
    Over {
        task: TaskId,
        model: ModelName,
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
        state: TaskState,
        sealed: bool,
        submitted: u64,
        took_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        first_chunk_ms: Option<u64>,
        prompt_tokens: u64,
        completion_tokens: u64,
    },
}

impl Live {
    /// Counts a watcher of an account; `false` where it has as many as it may.
    pub(crate) fn watch(&self, account: AccountId) -> bool {
        let mut accounts = self.accounts();
        let watched = accounts.entry(account).or_default();
        if watched.watchers >= WATCHERS {
            return false;
        }
        watched.watchers += 1;
        self.is_watched.store(true, Ordering::Relaxed);
        true
    }

    /// Lets a watcher of an account go.
    pub(crate) fn leave(&self, account: AccountId) {
        let mut accounts = self.accounts();
        if let Some(watched) = accounts.get_mut(&account) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                accounts.remove(&account);
            }
        }
        if accounts.is_empty() {
            *accounts = HashMap::new();
            self.is_watched.store(false, Ordering::Relaxed);
        }
    }

    /// Notes that a task goes to a node.
    pub(crate) fn assigned(
        &self,
        account: AccountId,
        task: TaskId,
        model: &ModelName,
        node: NodeId,
        why: Option<&Explanation>,
    ) {
        self.note(account, || {
            let compared = why.map(|why| why.compared.as_slice()).unwrap_or_default();
            let skipped = why.map(|why| why.skipped.as_slice()).unwrap_or_default();
            Event::Assigned {
                task,
                model: model.clone(),
                node,
                sealed: why.is_none(),
                reasons: compared.iter().copied().map(NodeReason::from).collect(),
                skipped: skipped.iter().copied().map(SkipCount::from).collect(),
            }
        });
    }

    /// Notes how a task ended.
    pub(crate) fn over(&self, settlement: &Settlement) {
        self.note(settlement.account, || Event::Over {
            task: settlement.task,
            model: settlement.model.clone(),
            node: settlement.attempts.last().map(|attempt| attempt.node),
            state: settlement.state,
            sealed: settlement.sealed,
            submitted: settlement.submitted.as_secs(),
            took_ms: settlement.took_ms,
            first_chunk_ms: settlement.first_chunk_ms,
            prompt_tokens: settlement.usage.prompt_tokens.into(),
            completion_tokens: settlement.usage.completion_tokens.into(),
        });
    }

    /// Takes what happened since it was last taken.
    pub(crate) fn take(&self) -> Vec<(AccountId, News)> {
        let mut accounts = self.accounts();
        let with_news = accounts.iter_mut().filter(|(_, watched)| !watched.events.is_empty());
        let taken = with_news.map(|(account, watched)| {
            let events = std::mem::take(&mut watched.events);
            (*account, News { events, left_out: std::mem::take(&mut watched.left_out) })
        });
        taken.collect()
    }

    /// Returns the figures of the last hours, a minute each.
    pub(crate) fn minutes(&self) -> MutexGuard<'_, Minutes> {
        self.minutes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, account: AccountId, event: impl FnOnce() -> Event) {
        if !self.is_watched.load(Ordering::Relaxed) {
            return;
        }
        let mut accounts = self.accounts();
        let Some(watched) = accounts.get_mut(&account) else { return };
        if watched.events.len() < WAITING {
            watched.events.push(event());
        } else {
            watched.left_out += 1;
        }
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<AccountId, Watched>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: AccountId = AccountId::from_bytes([1; 16]);
    const OTHER: AccountId = AccountId::from_bytes([2; 16]);

    fn assign(live: &Live, account: AccountId) {
        let node = "b".repeat(26).parse().unwrap();
        let task = TaskId::from_bytes([7; 16]);
        live.assigned(account, task, &"m".parse().unwrap(), node, None);
    }

    #[test]
    fn events_are_kept_for_the_watched_account_alone() {
        let live = Live::default();
        assign(&live, ME);
        assert!(live.watch(ME));
        assign(&live, ME);
        assign(&live, OTHER);
        let taken = live.take();
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].0, taken[0].1.events.len()), (ME, 1));
        assert!(live.take().is_empty());
        live.leave(ME);
        assign(&live, ME);
        assert!(live.watch(ME));
        assert!(live.take().is_empty(), "what nobody watched is not told later");
    }

    #[test]
    fn too_many_events_are_counted_and_left_out() {
        let live = Live::default();
        assert!(live.watch(ME));
        for _ in 0..WAITING + 3 {
            assign(&live, ME);
        }
        let (_, news) = live.take().remove(0);
        assert_eq!((news.events.len(), news.left_out), (WAITING, 3));
    }

    #[test]
    fn account_has_so_many_watchers_and_no_more() {
        let live = Live::default();
        for _ in 0..WATCHERS {
            assert!(live.watch(ME));
        }
        assert!(!live.watch(ME));
        assert!(live.watch(OTHER));
        live.leave(ME);
        assert!(live.watch(ME));
    }
}
