//! Sharing a pool.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Weight;
use crate::epoch::Epoch;
use crate::id::AccountId;
use crate::ledger::{Book, Cause, Money, Movement, MovementError, Posting};
use crate::time::Timestamp;

/// An owner's share of a month's pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The owner, or its pseudonym.
    pub owner: AccountId,
    /// What it gets.
    pub amount: Money,
    /// By which weight, and why.
    #[serde(flatten)]
    pub weight: Weight,
}

/// How a month ended: what there was, and who gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The month.
    pub epoch: Epoch,
    /// What there was to share.
    pub pool: Money,
    /// What each owner gets, in the order of their ids. Owners of no weight are left out.
    pub shares: Vec<Share>,
    /// What goes to the next month, because nobody has any weight.
    pub carried: Money,
}

impl Closing {
    /// Returns the movement that carries the closing out, naming owners by `name`.
    pub fn movement(
        &self,
        at: Timestamp,
        name: impl Fn(&AccountId) -> AccountId,
    ) -> Result<Movement, MovementError> {
        let mut postings = vec![
            Posting { book: Book::Pool(self.epoch), amount: -self.pool },
            Posting { book: Book::Pool(self.epoch.next()), amount: self.carried },
        ];
        let held =
            |share: &Share| Posting { book: Book::Held(name(&share.owner)), amount: share.amount };
        postings.extend(self.shares.iter().map(held));
        Movement::new(Cause::Closed { epoch: self.epoch }, at, postings)
    }
}

/// Shares what a month's pool holds by the weights of the owners.
pub fn close(epoch: Epoch, pool: Money, weights: BTreeMap<AccountId, Weight>) -> Closing {
    let weights: Vec<(AccountId, Weight)> =
        weights.into_iter().filter(|(_, weight)| weight.weight > 0).collect();
    let numbers: Vec<u64> = weights.iter().map(|(_, weight)| weight.weight).collect();
    let amounts = split(pool, &numbers);
    let carried = if numbers.is_empty() { pool } else { Money::ZERO };
    let shares = weights.into_iter().zip(amounts);
    let shares = shares.map(|((owner, weight), amount)| Share { owner, amount, weight });
    Closing { epoch, pool, shares: shares.collect(), carried }
}

/// Divides an amount in proportion to weights, so that the parts add up to it exactly.
///
/// Each gets its part rounded down, and the millionths that are left go one by one to those whose
/// parts lost most by that (the method of largest remainders); of equals, the first. Nobody gets
/// anything of less than nothing, or where all weights are 0.
pub fn split(amount: Money, weights: &[u64]) -> Vec<Money> {
    let all: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let whole = u128::try_from(amount.as_micros()).unwrap_or(0);
    if all == 0 || whole == 0 {
        return vec![Money::ZERO; weights.len()];
    }
    let products: Vec<u128> = weights.iter().map(|weight| whole * u128::from(*weight)).collect();
    let mut parts: Vec<u128> = products.iter().map(|product| product / all).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|place| (Reverse(products[*place] % all), *place));
    let left = whole - parts.iter().sum::<u128>();
    let left = usize::try_from(left).expect("less than one is left of each part");
    for place in order.into_iter().take(left) {
        parts[place] += 1;
    }
    let money = |part| Money::micros(i64::try_from(part).expect("a part is at most the whole"));
    parts.into_iter().map(money).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::Balances;

    fn shared(amount: i64, weights: &[u64]) -> Vec<i64> {
        let parts = split(Money::micros(amount), weights);
        parts.into_iter().map(Money::as_micros).collect()
    }

    #[test]
    fn what_cannot_be_divided_goes_to_the_largest_remainders() {
        assert_eq!(shared(10, &[1, 1, 1]), [4, 3, 3], "of equals, the first");
        assert_eq!(shared(10, &[5, 3, 1]), [6, 3, 1]);
        assert_eq!(shared(1, &[1, 2]), [0, 1]);
        assert_eq!(shared(7, &[0, 0]), [0, 0]);
        assert_eq!(shared(-7, &[1]), [0]);
        assert_eq!(shared(7, &[]), Vec::<i64>::new());
    }

    #[test]
    fn pool_of_nobody_is_carried_over() {
        let epoch: Epoch = "2026-11".parse().unwrap();
        let pool = Money::micros(9);
        let owner = AccountId::from_bytes([1; 16]);
        let nobody = [(owner, Weight::default())].into();
        let closing = close(epoch, pool, nobody);
        assert_eq!((closing.shares.len(), closing.carried), (0, pool));
        let moved = closing.movement(epoch.end(), |owner| *owner).unwrap();
        assert_eq!(moved.adds_to(Book::Pool(epoch.next())), pool);
        assert_eq!(moved.adds_to(Book::Pool(epoch)), -pool);
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_last_millionth(
            amount in 0..i64::MAX,
            weights in proptest::collection::vec(0_u64..=u64::MAX, 1..60),
        ) {
            let parts = split(Money::micros(amount), &weights);
            let sum: i128 = parts.iter().map(|part| i128::from(part.as_micros())).sum();
            let any = weights.iter().any(|weight| *weight > 0);
            prop_assert_eq!(sum, if any { i128::from(amount) } else { 0 });
            let all: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
            for (part, weight) in parts.iter().zip(&weights) {
                let exact = u128::try_from(amount).unwrap() * u128::from(*weight) / all.max(1);
                let part = u128::try_from(part.as_micros()).unwrap();
                prop_assert!(part == exact || part == exact + 1);
            }
        }

        #[test]
        fn closing_moves_the_pool_and_nothing_else(
            amount in 0..i64::MAX,
            weights in proptest::collection::vec(0_u64..=u64::MAX, 0..20),
        ) {
            let epoch = Epoch::default();
            let weights = weights.into_iter().enumerate().map(|(number, weight)| {
                let owner = AccountId::from_bytes([u8::try_from(number).unwrap(); 16]);
                (owner, Weight { weight, parts: BTreeMap::new() })
            });
            let closing = close(epoch, Money::micros(amount), weights.collect());
            let mut books = Balances::default();
            let cause = Cause::ToppedUp { payment: "0".into() };
            let pool = Book::Pool(epoch);
            let filled =
                Movement::between(cause, epoch.start(), Book::Outside, pool, closing.pool).unwrap();
            books.apply(&filled).unwrap();
            let closed = closing.movement(epoch.end(), |owner| *owner).unwrap();
            books.apply(&closed).unwrap();
            books.apply(&closed).unwrap();
            prop_assert_eq!(books.of(pool), Money::ZERO);
            prop_assert_eq!(books.of(Book::Outside), -closing.pool);
        }
    }
}
