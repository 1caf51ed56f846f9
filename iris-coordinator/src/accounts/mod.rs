//! Who may do what: accounts, what they are known by, and what they let programs in with.
//!
//! One kind of account can be known by 16 digits, by an e-mail address and a password, or by both.
//! Its owner shows either to begin a session or to mint API keys; requests come with the tokens of
//! those alone.
//!
//! A stolen store yields no credential: an account key is kept as its Argon2 index and a password
//! as its Argon2 hash, both with a pepper that lies elsewhere; an API key and an invitation, 256
//! random bits, as their SHA-256; and of sessions there are only counts, since their tokens are
//! vouched for by keys that lie elsewhere too.

use std::future::ready;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use iris_core::AccountId;
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_crypto::jwt::{Jwt, JwtKey};
use iris_crypto::password::{HashKinds, HashKindsError, Passwords};
use iris_crypto::refresh::RefreshKey;
use iris_crypto::{AccountKey, Secret, random_bytes};
use iris_protocol::rest::{self, AccountCreated};

use crate::clock::{Clock, SystemClock};

mod attempts;
mod hashing;
mod invitations;
mod keys;
mod logins;
mod membership;
mod record;
mod sessions;

#[cfg(feature = "http")]
pub(crate) use attempts::network;
pub use invitations::Giver;
#[cfg(feature = "http")]
pub(crate) use keys::is_members;
pub use keys::{ApiKey, NewKey};
pub use logins::Registration;
pub use membership::MembershipPolicy;

use attempts::Attempts;
use hashing::Hashing;
use keys::KeyRing;
use logins::{LoginIndex, LoginKeys};
use membership::Standings;
use record::{AccountRecord, CredentialRecord, path};
use sessions::Ended;

/// How often all sessions and invitations are gone through for those that are over.
const SWEEP: Duration = Duration::from_hours(1);
/// Longest label of a key or an invitation, in bytes.
const MAX_LABEL: usize = 64;

/// What an operator decides about accounts.
#[derive(Clone, Debug, Default)]
pub struct AccountPolicy {
    /// What the network takes for membership. Default: nothing.
    pub membership: MembershipPolicy,
    /// How many open invitations a member may have. Default: 0, so that operators invite alone.
    pub member_invitations: u32,
    /// What access tokens are signed with, at least 32 bytes. Default: a key derived from the
    /// coordinator's secret.
    pub jwt_secret: Option<rest::Secret>,
    /// What access tokens were signed with before; they are accepted still.
    pub jwt_secret_previous: Option<rest::Secret>,
}

/// Why something about an account could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// There is no such account, or the text is no account key. Which of both is not told.
    #[error("the account key is not valid")]
    Unknown,
    /// There is no such login, or the password is another. Which of both is not told.
    #[error("the e-mail address or the password is wrong")]
    WrongLogin,
    /// The refresh token is none, was used before, or its session has ended.
    #[error("the refresh token is not valid, or no longer; log in again")]
    WrongRefresh,
    /// Too many wrong account keys or passwords were tried, by this caller, for this name or by
    /// all together.
    #[error("too many attempts; try again in {retry_after_secs} s")]
    TooManyAttempts {
        /// When to try again.
        retry_after_secs: u32,
    },
    /// Accounts are opened by invitation.
    #[error("this coordinator opens accounts by invitation only; ask its operator for one")]
    Closed,
    /// The invitation is none, was used up or has ended.
    #[error("the invitation is not valid, or no longer; ask for another")]
    Invitation,
    /// This account may not invite.
    #[error("invitations are given by the operator")]
    NoInvitations,
    /// The account has as many open invitations as it may have.
    #[error("an account has at most {0} open invitations; take one back first")]
    TooManyInvitations(usize),
    /// The text is no e-mail address.
    #[error("an e-mail address is like name@example.org, with at most 254 bytes")]
    Email,
    /// The address is another account's, or the account has an address already.
    #[error("the e-mail address is taken, or the account has one already")]
    Taken,
    /// The password is too short or too long.
    #[error("a password has at least 8 characters and at most 1,024 bytes")]
    Password,
    /// The account has no password.
    #[error("the account has no password; give it an e-mail address and a password first")]
    NoPassword,
    /// The label is too long or cannot be printed.
    #[error("a label has at most 64 bytes and no control or invisible characters")]
    Label,
    /// A number or a time is outside of what it may be.
    #[error("'{0}' is outside of what it may be")]
    Terms(&'static str),
    /// The account has as many keys as an account may have.
    #[error("an account has at most 64 keys; revoke one first")]
    TooManyKeys,
    /// The account has no such key, or it has ended.
    #[error("there is no such key of this account, or it has ended")]
    NoKey,
    /// The key's scope is the operator's to give.
    #[error("keys of this scope are given by the operator")]
    KeyScope,
    /// There is no such account.
    #[error("there is no such account")]
    NoAccount,
    /// A fee was paid to a network that takes none.
    #[error("this network takes no monthly fee (membership_fee is 0), so none can be written down")]
    NoFee,
    /// The reference names a fee of another number of months.
    #[error("this reference was used for another number of months")]
    FeeReused,
    /// Passwords are hashed in as many ways as they may be.
    #[error(transparent)]
    TooManyKinds(#[from] HashKindsError),
    /// The machine has not the memory to check a secret now.
    #[error("account keys and passwords cannot be checked now")]
    Overloaded,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Returns the key of an account's record.
pub(crate) fn account_key(account: &AccountId) -> Key {
    path(AccountRecord::TYPE, account)
}

/// Who pays for people without a key: nobody.
pub(crate) const NOBODY: AccountId = AccountId::from_bytes([0; 16]);
/// Who asks what the network asks for itself; no account is drawn that has this id.
pub(crate) const NETWORK: AccountId = AccountId::from_bytes([0xff; 16]);

/// The accounts of a coordinator.
#[derive(Debug)]
pub struct Accounts {
    store: Arc<dyn Store>,
    pepper: Secret,
    policy: AccountPolicy,
    clock: Arc<dyn Clock>,
    keys: RwLock<KeyRing>,
    logins: LoginKeys,
    passwords: Passwords,
    /// How the passwords that are kept were hashed.
    kinds: RwLock<HashKinds>,
    jwt: Jwt,
    refresh: RefreshKey,
    ended: RwLock<Ended>,
    standings: RwLock<Standings>,
    attempts: Mutex<Attempts>,
    hashing: Hashing,
    /// Held while a key is fetched from the store, made or revoked, lest a key that is revoked
    /// while it is fetched stays in memory. It also keeps wrong keys from occupying the store.
    /// Holds when all keys were last read.
    changing: tokio::sync::Mutex<Option<Instant>>,
    /// Held while a session begins, goes on or ends.
    sessions: tokio::sync::Mutex<()>,
    /// When what is over was last forgotten.
    swept: Mutex<Option<Instant>>,
}

impl Accounts {
    /// Reads what `store` holds of accounts, with the default policy. The secret must be the one
    /// that they were made with.
    pub async fn load(store: Arc<dyn Store>, secret: Secret) -> Result<Self, StoreError> {
        Self::load_with(store, secret, AccountPolicy::default()).await
    }

    /// Reads what `store` holds of accounts; see [`load`](Self::load).
    pub async fn load_with(
        store: Arc<dyn Store>,
        secret: Secret,
        policy: AccountPolicy,
    ) -> Result<Self, StoreError> {
        let keys = KeyRing::read(&*store).await?;
        let ended = sessions::read_ended(&*store).await?;
        let standings = Standings::read(&*store, &policy.membership).await?;
        let kinds = logins::read_kinds(&*store).await?;
        Ok(Self {
            logins: LoginKeys::new(&secret),
            passwords: Passwords::new(&secret),
            kinds: RwLock::new(kinds),
            jwt: signer(&secret, &policy),
            refresh: RefreshKey::new(&secret),
            pepper: secret,
            clock: Arc::new(SystemClock),
            keys: RwLock::new(keys),
            ended: RwLock::new(ended),
            standings: RwLock::new(standings),
            attempts: Mutex::default(),
            hashing: Hashing::default(),
            changing: tokio::sync::Mutex::default(),
            sessions: tokio::sync::Mutex::default(),
            swept: Mutex::default(),
            store,
            policy,
        })
    }

    /// Tells the time by `clock`; the machine's by default.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens an account and returns its key, which nobody can show again.
    pub async fn create_account(&self) -> Result<AccountCreated, AccountError> {
        let account = AccountId::from_bytes(random_bytes());
        let key = AccountKey::generate();
        let credential = self.credential(key.clone()).await?;
        // Two accounts that drew one number would conflict here, once in 10^16 / accounts.
        let batch =
            Batch::new().create(credential, Document::encode(&CredentialRecord { account }));
        self.open_account_with(account, None, batch, None).await?;
        Ok(AccountCreated { account, account_key: format!("{}", key.reveal()).into() })
    }

    /// Opens `account` without a key by which its owner would prove it.
    #[cfg(feature = "simulation")]
    pub(crate) async fn open_account(&self, account: AccountId) -> Result<(), AccountError> {
        self.open_account_with(account, None, Batch::new(), None).await
    }

    /// Returns whose account key `typed` is; wrong ones are counted by `caller` and over all.
    pub async fn find_account(
        &self,
        typed: &str,
        caller: Option<IpAddr>,
    ) -> Result<AccountId, AccountError> {
        // Counted before hashing and taken back afterwards, so that attempts side by side cannot
        // pass the limit together.
        let attempt = self.begin_attempt(caller, None)?;
        let key: AccountKey = typed.parse().map_err(|_| AccountError::Unknown)?;
        let found = match self.credential(key).await {
            Ok(credential) => self.store.get(credential).await?,
            Err(error) => {
                self.take_back(attempt);
                return Err(error);
            }
        };
        let record = found.ok_or(AccountError::Unknown)?;
        self.take_back(attempt);
        Ok(record.value.decode::<CredentialRecord>()?.account)
    }

    /// Writes down what is due and forgets what is over; called about once a minute.
    pub async fn keep_house(&self) {
        let kept = async {
            self.keep_keys().await?;
            self.keep_standings().await?;
            self.keep_kinds().await?;
            if !self.is_sweep_due() {
                return Ok(());
            }
            self.keep_sessions().await?;
            self.keep_invitations().await
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, "the accounts' books could not be kept; trying again");
        }
    }

    fn is_sweep_due(&self) -> bool {
        let (now, mut swept) =
            (self.clock.now(), self.swept.lock().unwrap_or_else(PoisonError::into_inner));
        let due = swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP);
        if due {
            *swept = Some(now);
        }
        due
    }

    /// Returns the policy.
    pub const fn policy(&self) -> &AccountPolicy {
        &self.policy
    }

    /// Returns at most `limit` accounts, in the order of their ids, beginning after `after`.
    pub async fn members(
        &self,
        after: Option<&AccountId>,
        limit: usize,
    ) -> Result<Vec<rest::MemberSummary>, StoreError> {
        let all = Key::all(AccountRecord::TYPE);
        let start = after.map_or(all.start, |after| path(AccountRecord::TYPE, after));
        let members = self.store.scan(start..all.end).and_then(|record| async move {
            let corrupt = |_| StoreError::Corrupt("an account is not under its id".to_owned());
            let account = record.key.id().parse().map_err(corrupt)?;
            Ok((account, record.value.decode::<AccountRecord>()?))
        });
        let wanted = members.try_filter(|(account, _)| ready(after != Some(account)));
        let members = wanted.take(limit).map_ok(|(account, record)| rest::MemberSummary {
            account,
            created: record.created.as_secs(),
            invited_by: record.invited_by,
            membership: self.membership_of(&record),
            keys: self.count_keys(&account) as u64,
        });
        members.try_collect().await
    }

    async fn account(&self, account: &AccountId) -> Result<AccountRecord, AccountError> {
        let record = self.store.get(path(AccountRecord::TYPE, account)).await?;
        Ok(record.ok_or(AccountError::NoAccount)?.value.decode()?)
    }

    /// Computes the key of the record under which an account key is found.
    async fn credential(&self, key: AccountKey) -> Result<Key, AccountError> {
        let pepper = self.pepper.clone();
        let index = self.hashing.run(move || key.index(&pepper)).await?;
        Ok(path(CredentialRecord::TYPE, index))
    }

    fn begin_attempt(
        &self,
        caller: Option<IpAddr>,
        name: Option<LoginIndex>,
    ) -> Result<attempts::Attempt, AccountError> {
        let now = self.clock.now();
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.begin(now, caller, name).map_err(|wait| AccountError::TooManyAttempts {
            retry_after_secs: u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).max(1),
        })
    }

    fn take_back(&self, attempt: attempts::Attempt) {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).take_back(attempt);
    }
}

/// Signs access tokens in the name of these books, lest another coordinator that was given the
/// same `JWT_SECRET` takes them for its own.
fn signer(secret: &Secret, policy: &AccountPolicy) -> Jwt {
    let name = secret.derive("iris/jwt/issuer/v1", b"");
    let issuer = format!("iris-{}", data_encoding::HEXLOWER.encode(&name.reveal()[..8]));
    let current = match &policy.jwt_secret {
        Some(given) => JwtKey::new(given.expose().as_bytes()),
        None => JwtKey::new(secret.derive("iris/jwt/v1", b"").reveal()),
    };
    let jwt = Jwt::new(issuer, current);
    match &policy.jwt_secret_previous {
        Some(given) => jwt.with_previous(JwtKey::new(given.expose().as_bytes())),
        None => jwt,
    }
}

fn check_label(label: Option<&str>) -> Result<(), AccountError> {
    let printable = |label: &str| {
        label.len() <= MAX_LABEL && !label.chars().any(iris_core::model::is_invisible)
    };
    if label.is_none_or(printable) { Ok(()) } else { Err(AccountError::Label) }
}

#[cfg(test)]
mod tests;
