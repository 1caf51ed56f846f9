//! Money: what members pay, what a month's pool holds, and what owners of nodes get of it.
//!
//! A month is closed once it has been over for [`PayPolicy::close_after`]: its facts are read from
//! the books in the order of their times, folded by the network's rules, and the pool is shared,
//! all in one commit whose records may not exist before. So a crash, a repetition or another
//! replica changes nothing. Shares are held for [`PayPolicy::hold`] and then paid by the network's
//! [`Settlement`]; who was found lying meanwhile forfeits them.
//!
//! Rules and exports know accounts by pseudonyms, so that a month's books can be given away.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use iris_core::ledger::{Balances, Book, Cause, Money, Movement, Settlement};
use iris_core::reward::{RewardRules, WorkRates, rules};
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::{AccountId, Epoch, Timestamp};
use iris_crypto::Secret;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::clock::Clock;

mod closing;
mod convictions;
mod export;
mod facts;
mod record;
mod shares;
mod steady;

use convictions::Convictions;
pub(crate) use record::{EVENT, event_key, movement_key};
pub use record::{MonthRecord, ShareRecord, ShareState};

/// Longest text that names a payment, in bytes.
const MAX_REFERENCE: usize = 128;

/// How a network shares what its members pay.
#[derive(Clone)]
pub struct PayPolicy {
    name: String,
    make: Arc<Maker>,
    /// What tokens are worth. Default: [`WorkRates::default`].
    pub rates: WorkRates,
    /// How long after its end a month is closed, so that verdicts of its last day can be appealed.
    /// Default: 8 days.
    pub close_after: Duration,
    /// How long after a month's end its shares can be forfeited. Default: 30 days.
    pub hold: Duration,
}

type Maker = dyn Fn(Option<&RawValue>) -> Option<Box<dyn RewardRules>> + Send + Sync;

impl PayPolicy {
    /// Pays by the rules of this name that come with Iris: `evidence` or `seed`.
    pub fn named(name: &str) -> Option<Self> {
        rules(name, None)?;
        let known = name.to_owned();
        Some(Self::with_rules(name, move |state| rules(&known, state)))
    }

    /// Returns the name of the rules.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Pays by rules of one's own, which have a `name` and are made from the state that they left,
    /// or from nothing. `make` returns `None` for a state that it cannot read.
    pub fn with_rules(
        name: &str,
        make: impl Fn(Option<&RawValue>) -> Option<Box<dyn RewardRules>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            make: Arc::new(make),
            rates: WorkRates::default(),
            close_after: Duration::from_hours(8 * 24),
            hold: Duration::from_hours(30 * 24),
        }
    }
}

impl Default for PayPolicy {
    fn default() -> Self {
        Self::named("evidence").expect("these rules come with Iris")
    }
}

impl fmt::Debug for PayPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayPolicy")
            .field("name", &self.name)
            .field("rates", &self.rates)
            .field("close_after", &self.close_after)
            .field("hold", &self.hold)
            .finish_non_exhaustive()
    }
}

/// Why something about money could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayoutError {
    /// The month is not over, or has not been for long enough.
    #[error(
        "{0} can be closed when it has been over for long enough: from {1} on (seconds since 1970)"
    )]
    TooEarly(Epoch, u64),
    /// Months are closed one after the other.
    #[error("{0} must be closed first")]
    Order(Epoch),
    /// There is no such closed month.
    #[error("{0} is not closed")]
    NotClosed(Epoch),
    /// There is no such share.
    #[error("this account has no share of {0}")]
    NoShare(Epoch),
    /// The share may yet be forfeited, was paid, or was forfeited.
    #[error("the share is {0}, not owed")]
    NotOwed(ShareState),
    /// The text names no payment.
    #[error("what names a payment has 1 to 128 bytes and no control or invisible characters")]
    Reference,
    /// The amount is nothing, or less.
    #[error("an amount is more than nothing")]
    Amount,
    /// The reference named another amount before.
    #[error("this reference was used for another amount")]
    Reused,
    /// The rules cannot read the state that the last month left.
    #[error(
        "the rules '{0}' cannot go on from what the last month left; choose the ones it was closed with"
    )]
    Rules(String),
    /// The first month would be closed by other rules than those that the coordinator runs with.
    #[error(
        "the coordinator shares pools by '{network}', but this was to be closed by '{chosen}'; the \
         first month decides for all that follow"
    )]
    OtherRules {
        /// The rules that were named.
        chosen: String,
        /// The coordinator's.
        network: String,
    },
    /// The clock says something quite different from what the coordinator's last said.
    #[error(
        "the clock says {now}, but the coordinator's last said {seen} (seconds since 1970): one of \
         them is wrong, or the coordinator is off"
    )]
    Clock {
        /// What it says.
        now: u64,
        /// What the coordinator's said.
        seen: u64,
    },
    /// The coordinator's clock was set, or the coordinator off, less than two days ago.
    #[error(
        "the coordinator was off, or its clock was set, until {since} (seconds since 1970), less \
         than two days ago"
    )]
    ClockSet {
        /// When it was.
        since: u64,
    },
    /// The books do not say any more what they said when the month was closed.
    #[error("the books of {0} were changed after it was closed")]
    Changed(Epoch),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The network's money.
#[derive(Debug)]
pub struct Payouts {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    policy: PayPolicy,
    rail: Arc<dyn Settlement>,
    pseudonyms: Secret,
    convictions: tokio::sync::Mutex<Convictions>,
    /// What was in the running month's pool, and when that was looked up.
    pool: tokio::sync::Mutex<Option<(Timestamp, Epoch, Money)>>,
}

impl Payouts {
    /// Opens the money of the network whose books are in `store`, paying owners by `rail`.
    ///
    /// `secret` is the coordinator's; pseudonyms follow from it.
    pub fn new(
        store: Arc<dyn Store>,
        secret: &Secret,
        policy: PayPolicy,
        rail: Arc<dyn Settlement>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let pseudonyms = secret.derive("iris/pseudonym/v1", b"");
        let (convictions, pool) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Self { store, clock, policy, rail, pseudonyms, convictions, pool }
    }

    /// Returns how pools are shared.
    pub const fn policy(&self) -> &PayPolicy {
        &self.policy
    }

    /// Returns the name by which an account is known in exports.
    pub fn pseudonym(&self, account: &AccountId) -> AccountId {
        let derived = self.pseudonyms.derive("iris/pseudonym/account/v1", account.as_bytes());
        let bytes = derived.reveal()[..16].try_into().expect("a secret has 32 bytes");
        AccountId::from_bytes(bytes)
    }

    /// Puts money into the pool of the running month. The same reference counts once.
    pub async fn top_up(&self, amount: Money, reference: &str) -> Result<Money, PayoutError> {
        check_reference(reference)?;
        if amount <= Money::ZERO {
            return Err(PayoutError::Amount);
        }
        let now = self.now();
        let cause = Cause::ToppedUp { payment: payment(reference) };
        let key = movement_key(&cause);
        let pool = Book::Pool(Epoch::of(now));
        let moved = Movement::between(cause, now, Book::Outside, pool, amount);
        let moved = moved.expect("a hash names it, and it is balanced");
        let batch = Batch::new().create(key.clone(), Document::encode(&moved));
        match self.store.commit(batch).await {
            Ok(()) => Ok(amount),
            Err(StoreError::Conflict(_)) => {
                let known = self.store.get(key).await?.ok_or(PayoutError::Reused)?;
                let known: Movement = known.value.decode()?;
                let same = known.adds_to(Book::Outside) == -amount;
                if same { Ok(amount) } else { Err(PayoutError::Reused) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns what every book holds, folded anew from all movements.
    pub async fn balances(&self) -> Result<Balances, PayoutError> {
        let balances = Balances::fold(self.movements().await?);
        Ok(balances.map_err(|error| StoreError::Corrupt(error.to_string()))?)
    }

    /// Reads all movements, in the order of their times and causes.
    async fn movements(&self) -> Result<Vec<Movement>, StoreError> {
        let records = self.store.scan(Key::all(record::MOVEMENT));
        let movements = records.and_then(|record| async move { record.value.decode() });
        let mut movements: Vec<Movement> = movements.try_collect().await?;
        movements.sort_by_cached_key(|movement| (movement.at(), movement.cause().clone()));
        Ok(movements)
    }

    fn now(&self) -> Timestamp {
        self.clock.calendar()
    }
}

/// Returns the hash by which movements name a payment.
pub(crate) fn payment(reference: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(reference.as_bytes()))
}

fn check_reference(reference: &str) -> Result<(), PayoutError> {
    let printable = !reference.chars().any(iris_core::model::is_invisible);
    let fits = (1..=MAX_REFERENCE).contains(&reference.len());
    if printable && fits { Ok(()) } else { Err(PayoutError::Reference) }
}

#[cfg(test)]
mod tests;
