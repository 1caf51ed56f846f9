use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use iris_core::AccountId;

/// Keeps tasks that ask the same question on nodes of different owners.
///
/// Each of the tasks claims the owner of the node that it is offered to. The claim is given back
/// when the attempt ends without an answer, and kept when it ends with one.
#[derive(Default)]
pub struct Apart {
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    by_number: BTreeMap<u64, Stand>,
    next: u64,
}

/// How one of the tasks stands.
enum Stand {
    /// It has no node.
    Asking {
        waker: Option<Waker>,
        /// Whether a claim was made or given back since it asked.
        outdated: bool,
    },
    Claims(AccountId),
}

impl Apart {
    /// Makes a group without members.
    pub fn new() -> Self {
        Self::default()
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    /// Tells those who ask that what they know of the claims is outdated.
    fn note_change(&mut self) {
        for stand in self.by_number.values_mut() {
            if let Stand::Asking { waker, outdated } = stand {
                *outdated = true;
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl fmt::Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apart").finish_non_exhaustive()
    }
}

/// What a member learns when it asks for a node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// The owners that the others claim.
    pub(super) taken: Vec<AccountId>,
    /// How many others need an owner before this one does.
    pub(super) ahead: usize,
}

/// One of the tasks; leaves the group when it is dropped, with its claim unless that is kept.
#[derive(Debug)]
pub(super) struct Member {
    apart: Arc<Apart>,
    number: Option<u64>,
}

impl Member {
    pub(super) const fn new(apart: Arc<Apart>) -> Self {
        Self { apart, number: None }
    }

    /// Gives a claim back and asks for another.
    ///
    /// Who had a claim stands behind those who wait for theirs; who waits keeps its place.
    pub(super) fn ask(&mut self) -> Room {
        self.give_back();
        let mut members = self.apart.members();
        let next = members.next;
        let number = *self.number.get_or_insert(next);
        members.next += u64::from(number == next);
        let asking = Stand::Asking { waker: None, outdated: false };
        members.by_number.insert(number, asking);
        let mut room = Room::default();
        for (other, stand) in members.by_number.iter().filter(|(other, _)| **other != number) {
            match stand {
                Stand::Claims(owner) => room.taken.push(*owner),
                Stand::Asking { .. } => room.ahead += usize::from(*other < number),
            }
        }
        room
    }

    /// Claims an owner; false when another member has.
    pub(super) fn claim(&mut self, owner: AccountId) -> bool {
        let Some(number) = self.number else { return false };
        let mut members = self.apart.members();
        let is_taken = |stand: &Stand| matches!(stand, Stand::Claims(known) if *known == owner);
        if members.by_number.values().any(is_taken) {
            return false;
        }
        members.by_number.insert(number, Stand::Claims(owner));
        members.note_change();
        true
    }

    /// Returns whether to ask again: the others' claims have changed since. If not, the task is
    /// woken when they do.
    pub(super) fn is_outdated(&self, cx: &Context<'_>) -> bool {
        let Some(number) = self.number else { return false };
        match self.apart.members().by_number.get_mut(&number) {
            Some(Stand::Asking { outdated: true, .. }) => true,
            Some(Stand::Asking { waker, .. }) => {
                *waker = Some(cx.waker().clone());
                false
            }
            _ => false,
        }
    }

    /// Leaves the group for good; the claim stays.
    pub(super) fn keep(mut self) {
        self.number = None;
    }

    fn give_back(&mut self) {
        let Some(number) = self.number else { return };
        let mut members = self.apart.members();
        if let Some(Stand::Claims(_)) = members.by_number.get(&number) {
            members.by_number.remove(&number);
            members.note_change();
            self.number = None;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut members = self.apart.members();
        members.by_number.remove(&number);
        members.note_change();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: u8) -> AccountId {
        AccountId::from_bytes([number; 16])
    }

    fn is_outdated(member: &Member) -> bool {
        member.is_outdated(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn claimed_owner_is_taken_until_the_claim_is_given_back() {
        let apart = Arc::new(Apart::new());
        let mut first = Member::new(Arc::clone(&apart));
        let mut second = Member::new(apart);
        assert_eq!(first.ask(), Room::default());
        assert!(first.claim(owner(1)));
        assert_eq!(second.ask(), Room { taken: vec![owner(1)], ahead: 0 });
        assert!(!second.claim(owner(1)));
        assert!(second.claim(owner(2)));
        assert_eq!(first.ask().taken, [owner(2)], "its own claim is given back");
        drop(second);
        assert_eq!(first.ask().taken, []);
    }

    #[test]
    fn answer_keeps_its_owner_claimed() {
        let apart = Arc::new(Apart::new());
        let mut first = Member::new(Arc::clone(&apart));
        first.ask();
        assert!(first.claim(owner(1)));
        first.keep();
        let mut second = Member::new(apart);
        assert_eq!(second.ask().taken, [owner(1)]);
        assert!(!second.claim(owner(1)));
    }

    #[test]
    fn those_who_wait_keep_their_order_and_learn_of_changes() {
        let apart = Arc::new(Apart::new());
        let mut members = [(); 3].map(|()| Member::new(Arc::clone(&apart)));
        let ahead = |member: &mut Member| member.ask().ahead;
        assert_eq!(members.each_mut().map(ahead), [0, 1, 2]);
        assert_eq!(members.each_mut().map(ahead), [0, 1, 2], "asking again changes nothing");
        assert!(!members.iter().any(is_outdated));
        let [first, second, third] = &mut members;
        assert!(first.claim(owner(1)));
        assert!(is_outdated(second) && is_outdated(third) && !is_outdated(first));
        assert_eq!(
            (second.ask(), third.ask().ahead),
            (Room { taken: vec![owner(1)], ahead: 0 }, 1)
        );
        assert!(!is_outdated(second));
        // Its attempt fails, so it stands behind the two.
        assert_eq!(first.ask(), Room { taken: Vec::new(), ahead: 2 });
        assert!(is_outdated(second) && is_outdated(third));
    }
}
