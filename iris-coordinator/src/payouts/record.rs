//! What the store keeps of money.

use std::fmt;

use iris_core::ledger::{Cause, Money};
use iris_core::reward::{Outcome, State, Weight, WorkRates};
use iris_core::store::Key;
use iris_core::{AccountId, Epoch, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

/// The record type of movements, under the id of their cause.
pub(super) const MOVEMENT: &str = "movement";
/// The record type of what nodes did or suffered beside tasks, in the order of their times.
pub(crate) const EVENT: &str = "event";
/// The record types of a closed month, and of what it was computed from and to.
pub(super) const MONTH: &str = "month";
pub(super) const BOOKS: &str = "books";
/// The record type of an owner's share of a month, under month and account.
pub(super) const SHARE: &str = "share";

/// A closed month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthRecord {
    /// The month.
    pub epoch: Epoch,
    /// The name of the rules it was shared by.
    pub policy: String,
    /// What there was to share.
    pub pool: Money,
    /// What went to the next month.
    pub carried: Money,
    /// How many owners have a share.
    pub owners: u64,
    /// What the owners' weights add up to.
    pub weight: u64,
    /// When it was closed.
    pub closed: Timestamp,
    /// When its shares are released.
    pub release: Timestamp,
    /// Whether every share was paid or forfeited.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
}

/// From what, and to what, a closed month was computed; owners by pseudonyms.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BooksRecord {
    pub(super) rates: WorkRates,
    pub(super) opening: State,
    pub(super) outcome: Outcome,
}

/// An owner's share of a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRecord {
    /// The month.
    pub epoch: Epoch,
    /// Whose it is.
    pub owner: AccountId,
    /// How much it is.
    pub amount: Money,
    /// By which weight, and why.
    #[serde(flatten)]
    pub weight: Weight,
    /// What has become of it.
    pub state: ShareState,
    /// When that was last changed.
    pub at: Timestamp,
    /// What names the payment on its rail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The rail that paid it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rail: Option<String>,
}

/// What has become of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareState {
    /// It may yet be forfeited.
    Held,
    /// It is due to be paid.
    Owed,
    /// It was paid.
    Paid,
    /// Its owner was found lying before it was released.
    Forfeited,
}

impl ShareState {
    /// Returns the state's name, as it appears on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Owed => "owed",
            Self::Paid => "paid",
            Self::Forfeited => "forfeited",
        }
    }
}

impl fmt::Display for ShareState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Returns the key of the movement of a cause.
pub(crate) fn movement_key(cause: &Cause) -> Key {
    Key::new(MOVEMENT, cause.id()).expect("the id of a cause is a key segment")
}

/// Returns the key of an event; a node has one of each kind at a moment.
pub(crate) fn event_key(at: Timestamp, node: &NodeId, kind: &str) -> Key {
    let id = format!("{:013}-{node}-{kind}", at.as_millis());
    Key::new(EVENT, id).expect("numbers, ids and words are a key segment")
}

pub(super) fn month_key(record_type: &str, epoch: Epoch) -> Key {
    Key::new(record_type, epoch).expect("a month is a key segment")
}

pub(super) fn share_key(epoch: Epoch, owner: &AccountId) -> Key {
    Key::new(SHARE, format!("{epoch}-{owner}")).expect("a month and an id are a key segment")
}
