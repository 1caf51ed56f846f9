//! Money between the network and the world.

use std::fmt;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::Money;
use crate::epoch::Epoch;
use crate::id::AccountId;

/// Pays owners, by a bank, a wallet or a person.
///
/// A coordinator calls [`pay_out`](Self::pay_out) for each share that is due, one at a time, and
/// again every hour until the share is paid or refused. After a crash it asks again for payouts
/// that may have been made: an implementation must pay the same [`Payout`] once, by its
/// [`id`](Payout::id).
pub trait Settlement: fmt::Debug + Send + Sync + 'static {
    /// Returns the name of the rail, which is written beside what it paid.
    fn name(&self) -> &str;

    /// Pays a share, or begins to, or says how far an earlier call has come.
    fn pay_out(&self, payout: Payout) -> BoxFuture<'_, Result<PayoutState, SettlementError>>;

    /// Returns what came in since the last call, once each for every `reference`. Default: nothing.
    fn paid_in(&self) -> BoxFuture<'_, Result<Vec<PaidIn>, SettlementError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// One share that is to be paid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payout {
    /// The month it was earned in.
    pub epoch: Epoch,
    /// Who earned it.
    pub owner: AccountId,
    /// How much it is.
    pub amount: Money,
}

impl Payout {
    /// Returns what names the payout: the same for the same share, always.
    pub fn id(&self) -> String {
        format!("{}-{}", self.epoch, self.owner)
    }
}

/// How far a payout has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PayoutState {
    /// It is on its way, or waits for a person.
    Pending,
    /// It was paid.
    Paid {
        /// What names the payment on the rail; at most 128 printable bytes.
        reference: String,
    },
}

/// A payment to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaidIn {
    /// Whose fee it is.
    pub account: AccountId,
    /// How many months it pays for.
    pub months: u32,
    /// What names the payment on the rail; at most 128 printable bytes.
    pub reference: String,
}

/// A rail could not do what it was asked; it is asked again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rail failed: {0}")]
pub struct SettlementError(pub String);

/// Leaves all payments to a person, who tells the coordinator what was paid.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manual;

impl Settlement for Manual {
    fn name(&self) -> &'static str {
        "manual"
    }

    fn pay_out(&self, _payout: Payout) -> BoxFuture<'_, Result<PayoutState, SettlementError>> {
        Box::pin(async { Ok(PayoutState::Pending) })
    }
}
