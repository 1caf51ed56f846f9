//! Whose nodes a model's work went to of late.

use std::collections::BTreeMap;

use crate::id::AccountId;

/// With how many assignments all counts are halved, so that old ones fade.
const WINDOW: u32 = 1024;
/// Assignments below which a share says nothing.
const LEAST: u32 = 64;

/// The most that one owner may have of a model's work while others could do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerShare {
    percent: u8,
}

impl OwnerShare {
    /// No bound.
    pub const ALL: Self = Self { percent: 100 };

    /// Sets the bound to `percent`; 100 and more are no bound.
    pub const fn percent(percent: u8) -> Self {
        Self { percent }
    }

    /// Returns the bound in hundredths.
    pub const fn as_percent(self) -> u8 {
        self.percent
    }

    /// Returns the bound in thousandths where so many owners offer the model: twice an equal part
    /// where that is more, since among a few owners every one has a large share.
    fn among(self, owners: usize) -> u64 {
        let twice = 2000 / u64::try_from(owners.max(1)).unwrap_or(u64::MAX);
        twice.max(u64::from(self.percent) * 10)
    }
}

impl Default for OwnerShare {
    fn default() -> Self {
        Self { percent: 20 }
    }
}

/// How many of a model's latest assignments each owner had.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    all: u32,
    by_owner: BTreeMap<AccountId, u32>,
    /// Those beyond their share; a few, since shares add up to one.
    beyond: Vec<AccountId>,
}

impl Traffic {
    /// Counts an assignment to a node of `owner`, one of `owners` who offer the model.
    pub(crate) fn count(&mut self, owner: AccountId, owners: usize, share: OwnerShare) {
        *self.by_owner.entry(owner).or_default() += 1;
        self.all += 1;
        if self.all >= WINDOW {
            self.by_owner.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            self.all = self.by_owner.values().sum();
        }
        if !self.beyond.contains(&owner) {
            self.beyond.push(owner);
        }
        let most = share.among(owners) * u64::from(self.all.max(LEAST));
        let Self { by_owner, beyond, .. } = self;
        let count = |owner: &AccountId| u64::from(by_owner.get(owner).copied().unwrap_or(0));
        beyond.retain(|owner| count(owner) * 1000 > most);
    }

    /// Returns the owners beyond their share.
    pub(crate) fn beyond(&self) -> &[AccountId] {
        &self.beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: u8) -> AccountId {
        AccountId::from_bytes([number; 16])
    }

    fn after(owners: usize, assignments: impl IntoIterator<Item = u8>) -> Vec<AccountId> {
        let mut traffic = Traffic::default();
        for number in assignments {
            traffic.count(owner(number), owners, OwnerShare::default());
        }
        traffic.beyond().to_vec()
    }

    #[test]
    fn owner_of_a_quarter_is_beyond_a_fifth() {
        let quarter = || (0..=255_u8).map(|n| if n % 4 == 0 { 0 } else { n });
        assert_eq!(after(20, quarter()), [owner(0)]);
        assert_eq!(after(10, quarter()), [owner(0)]);
        assert_eq!(after(8, quarter()), [], "an eighth twice is a quarter");
        assert_eq!(after(2, [0; 200]), [], "two may have all");
        assert_eq!(after(3, [0; 200]), [owner(0)]);
    }

    #[test]
    fn first_assignments_say_nothing() {
        assert_eq!(after(20, [0; 12]), []);
        assert_eq!(after(20, [0; 13]), [owner(0)]);
    }

    #[test]
    fn share_falls_again_when_others_work() {
        let mut traffic = Traffic::default();
        for _ in 0..100 {
            traffic.count(owner(0), 20, OwnerShare::default());
        }
        assert_eq!(traffic.beyond(), [owner(0)]);
        for number in 0..2000_u16 {
            traffic.count(owner((number % 19) as u8 + 1), 20, OwnerShare::default());
        }
        assert!(traffic.beyond().is_empty());
    }

    #[test]
    fn owners_that_are_gone_are_forgotten() {
        let mut traffic = Traffic::default();
        for number in 0..100_000_u128 {
            let owner = AccountId::from_bytes(number.to_be_bytes());
            traffic.count(owner, 100_000, OwnerShare::default());
            assert!(traffic.by_owner.len() <= WINDOW as usize);
        }
        assert!(traffic.beyond().is_empty());
    }

    #[test]
    fn without_a_bound_nobody_is_beyond_it() {
        let mut traffic = Traffic::default();
        for _ in 0..3000 {
            traffic.count(owner(0), 50, OwnerShare::ALL);
        }
        assert!(traffic.beyond().is_empty());
    }
}
