//! The network's money, in double entry.
//!
//! Every movement of money is one [`Movement`]: it takes from some books what it adds to others, so
//! that all books together always hold nothing, and its id follows from its [`Cause`], so that
//! writing it twice changes nothing. Balances are a fold over movements and can be made anew at
//! any time.
//!
//! ```text
//! fee paid         outside ──▶ pool of each month it pays for (and the operator's part)
//! month closed     pool ──▶ held, a share for each owner; what is left ──▶ pool of the next month
//! share released   held ──▶ owed, 30 days later
//! share forfeited  held ──▶ pool of the running month, where a node of the owner was found lying
//! paid out         owed ──▶ outside
//! ```

mod balances;
mod movement;
mod settlement;

pub use balances::{Applied, Balances, LedgerError};
pub use movement::{Cause, Movement, MovementError, Posting};
pub use settlement::{Manual, PaidIn, Payout, PayoutState, Settlement, SettlementError};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::epoch::Epoch;
use crate::id::AccountId;

/// An amount of money, in millionths of the network's unit. Never a fraction, never a float.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Money(i64);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Makes an amount of millionths.
    pub const fn micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns the millionths.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns the sum, unless it has no number.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }
}

impl std::ops::Neg for Money {
    type Output = Self;

    fn neg(self) -> Self {
        // The one number without a counterpart is in no movement: its sum would not be zero.
        Self(self.0.saturating_neg())
    }
}

impl fmt::Display for Money {
    /// Writes units with six digits after the point, such as `-0.500000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, size) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        f.pad(&format!("{sign}{}.{:06}", size / 1_000_000, size % 1_000_000))
    }
}

/// Says that a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an amount is in whole units with up to six digits after a point, such as 12 or 12.50")]
pub struct MoneyError;

impl FromStr for Money {
    type Err = MoneyError;

    /// Reads units, with up to six digits after a point.
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (sign, size) = text.strip_prefix('-').map_or((1, text), |size| (-1, size));
        let (units, rest) = size.split_once('.').unwrap_or((size, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        if !is_number(units) || !is_number(rest) || rest.len() > 6 {
            return Err(MoneyError);
        }
        let number = format!("{units}{rest:0<6}").parse::<i128>().map_err(|_| MoneyError)?;
        i64::try_from(sign * number).map(Self).map_err(|_| MoneyError)
    }
}

/// One of the books that movements add to and take from.
///
/// The text is the kind, and for some a colon and whose it is: `outside`, `operator`,
/// `pool:2026-11`, `held:ACCOUNT`, `owed:ACCOUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Book {
    /// What is not the network's: it holds as much less than nothing as the network holds.
    Outside,
    /// What the operator keeps.
    Operator,
    /// What is to be shared for a month.
    Pool(Epoch),
    /// An owner's shares that may yet be forfeited.
    Held(AccountId),
    /// An owner's shares that are due to be paid out.
    Owed(AccountId),
}

/// Says that a text names no book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a book is outside, operator, pool:YYYY-MM, held:ACCOUNT or owed:ACCOUNT")]
pub struct BookError;

impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("outside"),
            Self::Operator => f.write_str("operator"),
            Self::Pool(epoch) => write!(f, "pool:{epoch}"),
            Self::Held(owner) => write!(f, "held:{owner}"),
            Self::Owed(owner) => write!(f, "owed:{owner}"),
        }
    }
}

impl FromStr for Book {
    type Err = BookError;

    fn from_str(text: &str) -> Result<Self, BookError> {
        let owner = |text: &str| text.parse().map_err(|_| BookError);
        match text.split_once(':') {
            None if text == "outside" => Ok(Self::Outside),
            None if text == "operator" => Ok(Self::Operator),
            Some(("pool", epoch)) => epoch.parse().map(Self::Pool).map_err(|_| BookError),
            Some(("held", account)) => owner(account).map(Self::Held),
            Some(("owed", account)) => owner(account).map(Self::Owed),
            _ => Err(BookError),
        }
    }
}

impl Serialize for Book {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Book {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_with_their_millionths() {
        let text = |micros| Money::micros(micros).to_string();
        assert_eq!(text(12_500_000), "12.500000");
        assert_eq!((text(-1), text(0)), ("-0.000001".into(), "0.000000".into()));
        assert_eq!(text(i64::MIN), "-9223372036854.775808");
    }

    #[test]
    fn amounts_are_read_as_they_are_written() {
        for micros in [0, 1, -1, 12_500_000, -500_000, i64::MAX, i64::MIN] {
            let money = Money::micros(micros);
            assert_eq!(money.to_string().parse(), Ok(money));
        }
        for (text, micros) in [("12", 12_000_000), ("0.5", 500_000), ("007.25", 7_250_000)] {
            assert_eq!(text.parse(), Ok(Money::micros(micros)));
        }
        for bad in [
            "",
            "-",
            ".",
            "1.",
            ".5",
            "1.0000001",
            "1,5",
            "+1",
            "1e3",
            " 1",
            "--1",
            "0.-5",
            "1.2.3",
            "9223372036854.775808",
            "99999999999999999999999999999999999999999999",
        ] {
            assert_eq!(bad.parse::<Money>(), Err(MoneyError), "{bad}");
        }
    }

    #[test]
    fn books_have_one_text() {
        let owner = AccountId::from_bytes([7; 16]);
        let epoch = "2026-11".parse().unwrap();
        let books = [
            Book::Outside,
            Book::Operator,
            Book::Pool(epoch),
            Book::Held(owner),
            Book::Owed(owner),
        ];
        for book in books {
            assert_eq!(book.to_string().parse(), Ok(book));
        }
        for bad in ["", "pool", "pool:", "outside:", "held:x", "owed:2026-11", "pool:2026-11 "] {
            assert_eq!(bad.parse::<Book>(), Err(BookError), "{bad}");
        }
    }
}
