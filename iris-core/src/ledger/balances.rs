//! What each book holds.

use std::collections::BTreeMap;

use super::{Book, Money, Movement};

/// What every book holds, folded from movements in any order that never takes more than there is.
///
/// Keeps every movement that it was given, to tell a repetition from another movement of the same
/// cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balances {
    held: BTreeMap<Book, Money>,
    movements: BTreeMap<String, Movement>,
}

/// What became of a movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It moved money.
    New,
    /// It had moved its money before.
    Known,
}

/// Why a movement was not applied; the balances are as they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A book would hold less than nothing.
    #[error("{movement} takes more from {book} than it holds")]
    Overdrawn {
        /// The movement's id.
        movement: String,
        /// The book.
        book: Book,
    },
    /// The cause moved money before, and otherwise.
    #[error("{0} moved other amounts before")]
    Differs(String),
    /// A book would hold more than has a number.
    #[error("{0} is beyond all numbers")]
    Overflow(Book),
}

impl Balances {
    /// Folds movements in whatever order they are, as far as there is one in which no book is
    /// overdrawn: those that came while a clock was set back stand before what they follow from.
    pub fn fold(movements: impl IntoIterator<Item = Movement>) -> Result<Self, LedgerError> {
        let mut balances = Self::default();
        let mut left: Vec<Movement> = movements.into_iter().collect();
        while !left.is_empty() {
            let (mut early, before) = (Vec::new(), left.len());
            let mut refused = None;
            for movement in left {
                match balances.apply(&movement) {
                    Ok(_) => {}
                    Err(error @ LedgerError::Overdrawn { .. }) => {
                        refused = Some(error);
                        early.push(movement);
                    }
                    Err(error) => return Err(error),
                }
            }
            match refused {
                Some(error) if early.len() == before => return Err(error),
                _ => left = early,
            }
        }
        Ok(balances)
    }

    /// Takes in a movement, or nothing of it.
    pub fn apply(&mut self, movement: &Movement) -> Result<Applied, LedgerError> {
        let id = movement.cause().id();
        if let Some(known) = self.movements.get(&id) {
            let same = known.postings() == movement.postings();
            return if same { Ok(Applied::Known) } else { Err(LedgerError::Differs(id)) };
        }
        let mut changed = BTreeMap::new();
        for posting in movement.postings() {
            let now = changed.entry(posting.book).or_insert_with(|| self.of(posting.book));
            *now = now.checked_add(posting.amount).ok_or(LedgerError::Overflow(posting.book))?;
        }
        let overdrawn =
            changed.iter().find(|(book, amount)| **book != Book::Outside && **amount < Money::ZERO);
        if let Some((book, _)) = overdrawn {
            return Err(LedgerError::Overdrawn { movement: id, book: *book });
        }
        self.held.extend(changed);
        self.held.retain(|_, amount| *amount != Money::ZERO);
        self.movements.insert(id, movement.clone());
        Ok(Applied::New)
    }

    /// Returns what a book holds.
    pub fn of(&self, book: Book) -> Money {
        self.held.get(&book).copied().unwrap_or_default()
    }

    /// Returns the books that hold anything, with what they hold.
    pub fn books(&self) -> impl Iterator<Item = (Book, Money)> + '_ {
        self.held.iter().map(|(book, amount)| (*book, *amount))
    }

    /// Returns the movements, in the order of their ids.
    pub fn movements(&self) -> impl Iterator<Item = &Movement> {
        self.movements.values()
    }

    /// Returns the movement of a cause, by its id.
    pub fn movement(&self, id: &str) -> Option<&Movement> {
        self.movements.get(id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Cause, Posting};
    use super::*;
    use crate::epoch::Epoch;
    use crate::id::AccountId;
    use crate::time::Timestamp;

    fn owner(number: u8) -> AccountId {
        AccountId::from_bytes([number; 16])
    }

    fn top_up(number: u8, amount: i64) -> Movement {
        let cause = Cause::ToppedUp { payment: format!("{number:02x}") };
        let into = Book::Pool(Epoch::default());
        let at = Timestamp::from_millis(0);
        Movement::between(cause, at, Book::Outside, into, Money::micros(amount)).unwrap()
    }

    fn pay_out(number: u8, amount: i64) -> Movement {
        let cause = Cause::PaidOut { epoch: Epoch::default(), owner: owner(number) };
        let from = Book::Pool(Epoch::default());
        let at = Timestamp::from_millis(0);
        Movement::between(cause, at, from, Book::Outside, Money::micros(amount)).unwrap()
    }

    #[test]
    fn movement_moves_money_once() {
        let mut balances = Balances::default();
        assert_eq!(balances.apply(&top_up(1, 5)), Ok(Applied::New));
        assert_eq!(balances.apply(&top_up(1, 5)), Ok(Applied::Known));
        assert_eq!(balances.of(Book::Pool(Epoch::default())).as_micros(), 5);
        let other = balances.apply(&top_up(1, 6));
        assert_eq!(other, Err(LedgerError::Differs("topup-01".into())));
    }

    #[test]
    fn nobody_takes_what_is_not_there() {
        let mut balances = Balances::default();
        balances.apply(&top_up(1, 5)).unwrap();
        let before = balances.clone();
        let book = Book::Pool(Epoch::default());
        let movement = pay_out(2, 6).cause().id();
        assert_eq!(balances.apply(&pay_out(2, 6)), Err(LedgerError::Overdrawn { movement, book }));
        let huge = top_up(3, i64::MAX);
        assert_eq!(balances.apply(&huge), Err(LedgerError::Overflow(Book::Outside)));
        assert_eq!(balances, before, "a refused movement leaves no trace");
    }

    fn movements() -> impl Strategy<Value = Vec<Movement>> {
        let one = (0_u8..12, 0_u8..4, 1_i64..100).prop_map(|(number, kind, amount)| {
            let epoch = Epoch::default();
            let at = Timestamp::from_millis(u64::from(number));
            let owner = owner(number % 3);
            let between = |cause, from, into| {
                Movement::between(cause, at, from, into, Money::micros(amount)).unwrap()
            };
            match kind {
                0 => top_up(number, amount),
                1 => {
                    let postings = vec![
                        Posting { book: Book::Pool(epoch), amount: Money::micros(-amount) },
                        Posting { book: Book::Held(owner), amount: Money::micros(amount / 2) },
                        Posting {
                            book: Book::Pool(epoch.next()),
                            amount: Money::micros(amount - amount / 2),
                        },
                    ];
                    Movement::new(Cause::Closed { epoch }, at, postings).unwrap()
                }
                2 => {
                    let cause = Cause::Released { epoch, owner };
                    between(cause, Book::Held(owner), Book::Owed(owner))
                }
                _ => {
                    let cause = Cause::PaidOut { epoch, owner };
                    between(cause, Book::Owed(owner), Book::Outside)
                }
            }
        });
        proptest::collection::vec(one, 0..40)
    }

    proptest! {
        #[test]
        fn money_is_neither_made_nor_lost(movements in movements()) {
            let mut balances = Balances::default();
            for movement in &movements {
                let _ = balances.apply(movement);
                let sum: i128 =
                    balances.books().map(|(_, amount)| i128::from(amount.as_micros())).sum();
                prop_assert_eq!(sum, 0);
                let short = balances
                    .books()
                    .find(|(book, amount)| *book != Book::Outside && *amount < Money::ZERO);
                prop_assert_eq!(short, None);
            }
        }

        #[test]
        fn replay_after_any_crash_gives_the_same_books(
            movements in movements(),
            crash in 0_usize..40,
        ) {
            let mut live = Balances::default();
            let taken: Vec<&Movement> = movements
                .iter()
                .filter(|movement| live.apply(movement) == Ok(Applied::New))
                .collect();
            // Whatever was written before the crash is met again.
            let before = taken.iter().take(crash);
            let mut rebuilt = Balances::default();
            for movement in before.chain(&taken) {
                rebuilt.apply(movement).unwrap();
            }
            prop_assert_eq!(rebuilt, live);
        }

        #[test]
        fn order_of_what_was_written_down_does_not_matter(
            movements in movements(),
            seed in 0_usize..1000,
        ) {
            let mut live = Balances::default();
            let mut taken: Vec<Movement> = movements
                .into_iter()
                .filter(|movement| live.apply(movement) == Ok(Applied::New))
                .collect();
            let length = taken.len().max(1);
            taken.rotate_left(seed % length);
            taken.reverse();
            prop_assert_eq!(Balances::fold(taken), Ok(live));
        }
    }
}
