//! One movement of money.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Book, Money};
use crate::epoch::Epoch;
use crate::id::AccountId;
use crate::time::Timestamp;

/// Why money moved. Each cause moves money once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// A member paid its fee.
    FeePaid {
        /// Who.
        account: AccountId,
        /// A hash of what names the payment, in hexadecimal.
        payment: String,
    },
    /// The operator put money into a pool.
    ToppedUp {
        /// A hash of what names the payment, in hexadecimal.
        payment: String,
    },
    /// A month's pool was shared.
    Closed {
        /// The month.
        epoch: Epoch,
    },
    /// An owner's share of a month can be forfeited no more.
    Released {
        /// The month.
        epoch: Epoch,
        /// Whose share.
        owner: AccountId,
    },
    /// An owner lost its share of a month.
    Forfeited {
        /// The month.
        epoch: Epoch,
        /// Whose share.
        owner: AccountId,
    },
    /// An owner's share of a month was paid out.
    PaidOut {
        /// The month.
        epoch: Epoch,
        /// Whose share.
        owner: AccountId,
    },
}

impl Cause {
    /// Returns the movement's id: the same for the same cause, of letters, digits, `-` and `.`.
    pub fn id(&self) -> String {
        match self {
            Self::FeePaid { account, payment } => format!("fee-{account}-{payment}"),
            Self::ToppedUp { payment } => format!("topup-{payment}"),
            Self::Closed { epoch } => format!("closed-{epoch}"),
            Self::Released { epoch, owner } => format!("released-{epoch}-{owner}"),
            Self::Forfeited { epoch, owner } => format!("forfeited-{epoch}-{owner}"),
            Self::PaidOut { epoch, owner } => format!("paid-{epoch}-{owner}"),
        }
    }
}

/// What a movement adds to one book; less than nothing where it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting {
    /// The book.
    pub book: Book,
    /// What is added, in millionths.
    pub amount: Money,
}

/// Money that moves between books at one time, for one cause; its postings add up to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Movement {
    cause: Cause,
    at: Timestamp,
    postings: Vec<Posting>,
}

/// Why postings are no movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MovementError {
    /// Money would come from nowhere, or be lost.
    #[error("the postings of a movement must add up to nothing")]
    Unbalanced,
    /// A payment is named by something else than a hash.
    #[error("a payment is named by 1 to 64 hexadecimal digits")]
    Payment,
}

impl Movement {
    /// Makes a movement. Postings of nothing are left out.
    pub fn new(
        cause: Cause,
        at: Timestamp,
        mut postings: Vec<Posting>,
    ) -> Result<Self, MovementError> {
        postings.retain(|posting| posting.amount != Money::ZERO);
        let sum: i128 = postings.iter().map(|posting| i128::from(posting.amount.0)).sum();
        if sum != 0 {
            return Err(MovementError::Unbalanced);
        }
        match &cause {
            Cause::FeePaid { payment, .. } | Cause::ToppedUp { payment } if !is_hash(payment) => {
                Err(MovementError::Payment)
            }
            _ => Ok(Self { cause, at, postings }),
        }
    }

    /// Makes a movement of one amount from one book into another.
    pub fn between(
        cause: Cause,
        at: Timestamp,
        from: Book,
        into: Book,
        amount: Money,
    ) -> Result<Self, MovementError> {
        let postings =
            vec![Posting { book: from, amount: -amount }, Posting { book: into, amount }];
        Self::new(cause, at, postings)
    }

    /// Makes the movement of a fee of `amount` for `months` months from `first` on. `operators`
    /// hundredths of it, at most all, are the operator's; the rest is divided evenly, what cannot
    /// be divided going to the first month.
    pub fn fee(
        account: AccountId,
        payment: String,
        at: Timestamp,
        amount: Money,
        first: Epoch,
        months: u32,
        operators: u8,
    ) -> Result<Self, MovementError> {
        let kept = i128::from(amount.0) * i128::from(operators.min(100)) / 100;
        let kept = i64::try_from(kept).expect("a part is no more than the whole");
        let (shared, months) = (amount.0 - kept, months.max(1));
        let each = shared / i64::from(months);
        let mut postings = vec![
            Posting { book: Book::Outside, amount: -amount },
            Posting { book: Book::Operator, amount: Money(kept) },
        ];
        let mut epoch = first;
        for month in 0..months {
            let odd = if month == 0 { shared - each * i64::from(months) } else { 0 };
            postings.push(Posting { book: Book::Pool(epoch), amount: Money(each + odd) });
            epoch = epoch.next();
        }
        Self::new(Cause::FeePaid { account, payment }, at, postings)
    }

    /// Returns why the money moved.
    pub const fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Returns when the money moved.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// Returns what moved, without postings of nothing.
    pub fn postings(&self) -> &[Posting] {
        &self.postings
    }

    /// Returns what the movement adds to a book.
    pub fn adds_to(&self, book: Book) -> Money {
        let here = self.postings.iter().filter(|posting| posting.book == book);
        Money(here.map(|posting| posting.amount.0).fold(0, i64::saturating_add))
    }
}

impl fmt::Display for Movement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause.id())
    }
}

fn is_hash(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A movement as it is written down.
#[derive(Serialize, Deserialize)]
struct Unchecked {
    #[serde(flatten)]
    cause: Cause,
    at: Timestamp,
    postings: Vec<Posting>,
}

impl TryFrom<Unchecked> for Movement {
    type Error = MovementError;

    fn try_from(read: Unchecked) -> Result<Self, MovementError> {
        Self::new(read.cause, read.at, read.postings)
    }
}

impl From<Movement> for Unchecked {
    fn from(Movement { cause, at, postings }: Movement) -> Self {
        Self { cause, at, postings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: AccountId = AccountId::from_bytes([7; 16]);

    fn epoch(text: &str) -> Epoch {
        text.parse().unwrap()
    }

    #[test]
    fn fee_is_divided_among_the_months_it_pays_for() {
        let at = Timestamp::from_millis(1);
        let amount = Money::micros(10_000_001);
        let first = epoch("2026-12");
        let fee = Movement::fee(MEMBER, "ab".into(), at, amount, first, 3, 10).unwrap();
        assert_eq!(fee.adds_to(Book::Outside).as_micros(), -10_000_001);
        assert_eq!(fee.adds_to(Book::Operator).as_micros(), 1_000_000);
        assert_eq!(fee.adds_to(Book::Pool(first)).as_micros(), 3_000_001);
        assert_eq!(fee.adds_to(Book::Pool(epoch("2027-02"))).as_micros(), 3_000_000);
        assert_eq!(fee.adds_to(Book::Pool(epoch("2027-03"))), Money::ZERO);
    }

    #[test]
    fn what_is_not_balanced_is_no_movement() {
        let cause = Cause::Closed { epoch: epoch("2026-11") };
        let one = Posting { book: Book::Operator, amount: Money(1) };
        let at = Timestamp::from_millis(0);
        let refused = Movement::new(cause, at, vec![one]);
        assert_eq!(refused, Err(MovementError::Unbalanced));
        let forged = r#"{"cause":"closed","epoch":"2026-11","at":0,
            "postings":[{"book":"operator","amount":1}]}"#;
        assert!(serde_json::from_str::<Movement>(forged).is_err());
    }

    #[test]
    fn movement_is_read_as_it_was_written() {
        let at = Timestamp::from_millis(5);
        let cause = Cause::PaidOut { epoch: epoch("2026-11"), owner: MEMBER };
        let paid =
            Movement::between(cause, at, Book::Owed(MEMBER), Book::Outside, Money(9)).unwrap();
        let text = serde_json::to_string(&paid).unwrap();
        assert_eq!(serde_json::from_str::<Movement>(&text).unwrap(), paid);
        assert_eq!(paid.to_string(), format!("paid-2026-11-{MEMBER}"));
        let named = Cause::ToppedUp { payment: "a/b".into() };
        let refused = Movement::between(named, at, Book::Outside, Book::Operator, Money(1));
        assert_eq!(refused, Err(MovementError::Payment));
    }
}
