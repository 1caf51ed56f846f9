//! What members are paid, and what the network holds.

use std::collections::BTreeMap;

use iris_core::ledger::Money;
use iris_core::{AccountId, Epoch};
use serde::{Deserialize, Serialize};

/// The caller's shares of closed months.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayoutPage {
    /// Shares, those of the latest month first.
    pub payouts: Vec<Payout>,
    /// What to ask for `after` to read on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Epoch>,
}

/// A share of a month's pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payout {
    /// The month.
    pub epoch: Epoch,
    /// Whose it is; only operators see others' shares.
    pub account: AccountId,
    /// How much it is, in millionths of the network's unit.
    pub amount: Money,
    /// `held`, `owed`, `paid` or `forfeited`.
    pub state: String,
    /// When it got into that state, or was closed.
    pub since: u64,
    /// When it can be forfeited no more.
    pub release: u64,
    /// What names the payment, once it was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// A closed month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthSummary {
    /// The month.
    pub epoch: Epoch,
    /// The rules it was shared by.
    pub policy: String,
    /// What there was to share.
    pub pool: Money,
    /// What went to the next month, because nobody had any weight.
    pub carried: Money,
    /// How many owners have a share.
    pub owners: u64,
    /// What the owners' weights add up to; by evidence, thousandths of written tokens. Zero where
    /// that is not known.
    #[serde(default)]
    pub weight: u64,
    /// When it was closed.
    pub closed: u64,
    /// When its shares are released.
    pub release: u64,
}

/// The closed months, the latest first, and the one that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthList {
    /// The months.
    pub months: Vec<MonthSummary>,
    /// The month that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningMonth>,
}

/// The month that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningMonth {
    /// The month.
    pub epoch: Epoch,
    /// The rules it will be shared by.
    pub policy: String,
    /// What is in its pool so far.
    pub pool: Money,
    /// Whether nodes are tested. Where they are not, nobody is paid by evidence.
    pub tested: bool,
}

/// An owner's statement of a month: what it was paid, and why that much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The month.
    pub month: MonthSummary,
    /// The name by which the owner is known in the month's export.
    pub pseudonym: AccountId,
    /// The share; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payout: Option<Payout>,
    /// The owner's weight.
    pub weight: u64,
    /// What the weight was computed from, by name: work done, work that counts, and so on.
    pub parts: BTreeMap<String, u64>,
}

/// What an operator puts into the pool of the running month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopUpRequest {
    /// How much, in millionths of the network's unit.
    pub amount: Money,
    /// What names the payment elsewhere; the same one counts once.
    pub reference: String,
}

/// What an operator says of a share that it paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaidRequest {
    /// What names the payment elsewhere, such as a transfer's number.
    pub reference: String,
}

/// What the books hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceList {
    /// By book: `outside`, `operator`, `pool:YYYY-MM`, `held:ACCOUNT` and `owed:ACCOUNT`. They add
    /// up to nothing.
    pub balances: BTreeMap<String, Money>,
}
