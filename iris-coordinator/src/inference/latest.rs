//! Which durable tasks an account had of late.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use iris_core::{AccountId, TaskId, Timestamp};

/// How many tasks are known of an account, the latest ones.
pub(super) const KEPT: usize = 100;

/// The latest tasks of each account; whatever the store forgets is forgotten here too.
#[derive(Debug, Default)]
pub(super) struct Latest(Mutex<BTreeSet<Place>>);

type Place = (AccountId, Reverse<Timestamp>, TaskId);

impl Latest {
    /// Takes a task in; the oldest one of an account that has too many is forgotten.
    pub(super) fn add(&self, account: AccountId, created: Timestamp, id: TaskId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((account, Reverse(created), id));
        let oldest = of(&known, account).nth(KEPT).copied();
        if let Some(oldest) = oldest {
            known.remove(&oldest);
        }
    }

    /// Forgets a task.
    pub(super) fn forget(&self, account: AccountId, created: Timestamp, id: TaskId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&(account, Reverse(created), id));
    }

    /// Returns the tasks of an account, the latest first.
    pub(super) fn of(&self, account: AccountId) -> Vec<TaskId> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        of(&known, account).map(|(.., id)| *id).collect()
    }
}

fn of(known: &BTreeSet<Place>, account: AccountId) -> impl Iterator<Item = &Place> {
    let first = (account, Reverse(Timestamp::from_millis(u64::MAX)), TaskId::from_bytes([0; 16]));
    let places = known.range((Bound::Included(first), Bound::Unbounded));
    places.take_while(move |(of, ..)| *of == account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_tasks_of_an_account_are_known_and_nobody_elses() {
        let latest = Latest::default();
        let (account, other) = (AccountId::from_bytes([1; 16]), AccountId::from_bytes([2; 16]));
        let task = |number: u8| TaskId::from_bytes([number; 16]);
        let kept = u8::try_from(KEPT).unwrap();
        for number in 0..=kept {
            latest.add(account, Timestamp::from_millis(number.into()), task(number));
        }
        latest.add(other, Timestamp::from_millis(500), task(255));
        latest.forget(account, Timestamp::from_millis(7), task(7));
        let expected: Vec<_> = (1..=kept).rev().filter(|number| *number != 7).map(task).collect();
        assert_eq!(latest.of(account), expected);
        assert_eq!(latest.of(other), [task(255)]);
        assert_eq!(latest.of(AccountId::from_bytes([3; 16])), []);
    }
}
