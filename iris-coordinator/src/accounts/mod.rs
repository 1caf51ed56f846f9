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

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use iris_core::AccountId;
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_crypto::jwt::{Jwt, JwtKey};
use iris_crypto::password::Passwords;
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
    /// The reference names a fee of another number of months.
    #[error("this reference was used for another number of months")]
    FeeReused,
    /// The machine has not the memory to check a secret now.
    #[error("account keys and passwords cannot be checked now")]
    Overloaded,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

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
        Ok(Self {
            logins: LoginKeys::new(&secret),
            passwords: Passwords::new(&secret),
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
mod tests {
    use futures::TryStreamExt;
    use iris_core::store::MemoryStore;
    use iris_protocol::rest::KeyScope;

    use super::*;

    async fn accounts(store: &MemoryStore) -> Accounts {
        Accounts::load(Arc::new(store.clone()), Secret::from_bytes([7; 32])).await.unwrap()
    }

    #[tokio::test]
    async fn account_key_mints_keys_that_survive_a_restart() {
        let store = MemoryStore::new();
        let first = accounts(&store).await;
        let created = first.create_account().await.unwrap();
        let typed = created.account_key.expose().replace(' ', "-");
        let key = first.create_key(&typed, KeyScope::Node.into(), None).await.unwrap();
        let terms = Arc::default();
        let (id, account) = (key.id, created.account);
        let expected = ApiKey { id, account, scope: KeyScope::Node, terms };
        for accounts in [first, accounts(&store).await] {
            assert_eq!(accounts.authenticate(key.key.expose()).as_ref(), Some(&expected));
            assert_eq!(accounts.authenticate(&key.key.expose().to_uppercase()), None);
            assert_eq!(accounts.authenticate(""), None);
        }
    }

    #[tokio::test]
    async fn revoked_key_lets_nobody_in_and_only_its_owner_revokes_it() {
        let store = MemoryStore::new();
        let accounts = accounts(&store).await;
        let owner = accounts.create_account().await.unwrap().account;
        let other = accounts.create_account().await.unwrap().account;
        let key = accounts.create_key_for(owner, KeyScope::Inference).await.unwrap();
        assert_eq!(accounts.revoke(&other, &key.id).await, Ok(false));
        assert!(accounts.authenticate(key.key.expose()).is_some());
        assert_eq!(accounts.revoke(&owner, &key.id).await, Ok(true));
        assert!(accounts.authenticate(key.key.expose()).is_none());
        let again = super::tests::accounts(&store).await;
        assert!(again.authenticate(key.key.expose()).is_none());
    }

    #[tokio::test]
    async fn keys_of_another_process_are_found_and_revoked() {
        let store = MemoryStore::new();
        let (serving, beside) = (accounts(&store).await, accounts(&store).await);
        let account = beside.create_account().await.unwrap().account;
        let mut keys = Vec::new();
        for _ in 0..2 {
            keys.push(beside.create_key_for(account, KeyScope::Read).await.unwrap());
        }
        let (id, terms) = (keys[0].id, Arc::default());
        let expected = ApiKey { id, account, scope: KeyScope::Read, terms };
        assert_eq!(serving.find(keys[0].key.expose()).await, Ok(Some(expected.clone())));
        assert_eq!(serving.authenticate(keys[0].key.expose()), Some(expected));
        for key in &keys {
            assert_eq!(serving.revoke(&account, &key.id).await, Ok(true));
            assert_eq!(serving.find(key.key.expose()).await, Ok(None));
        }
        assert_eq!(serving.find("iris_unknown").await, Ok(None));
    }

    #[tokio::test]
    async fn unknown_and_malformed_account_keys_look_the_same() {
        let accounts = accounts(&MemoryStore::new()).await;
        for typed in ["0000 0000 0000 0000", "1", "", "not a number"] {
            let refused = accounts.create_key(typed, KeyScope::Node.into(), None).await;
            assert_eq!(refused.unwrap_err(), AccountError::Unknown, "{typed}");
        }
    }

    #[tokio::test]
    async fn sixth_wrong_key_of_a_minute_is_refused_before_hashing() {
        let accounts = accounts(&MemoryStore::new()).await;
        let caller = Some(IpAddr::from([192, 0, 2, 1]));
        for _ in 0..5 {
            let refused = accounts.create_key("1", KeyScope::Node.into(), caller).await;
            assert_eq!(refused.unwrap_err(), AccountError::Unknown);
        }
        let refused = accounts.create_key("1", KeyScope::Node.into(), caller).await.unwrap_err();
        assert!(matches!(refused, AccountError::TooManyAttempts { .. }), "{refused:?}");
        let other = Some(IpAddr::from([192, 0, 2, 2]));
        let refused = accounts.create_key("1", KeyScope::Node.into(), other).await;
        assert_eq!(refused.unwrap_err(), AccountError::Unknown);
    }

    #[tokio::test]
    async fn store_holds_neither_number_nor_key() {
        let store = MemoryStore::new();
        let accounts = accounts(&store).await;
        let created = accounts.create_account().await.unwrap();
        let digits: String = created.account_key.expose().replace(' ', "");
        let key = accounts.create_key_for(created.account, KeyScope::Read).await.unwrap();
        let everything = "a/0".parse().unwrap().."z/0".parse().unwrap();
        let records: Vec<_> = store.scan(everything).try_collect().await.unwrap();
        assert_eq!(records.len(), 3);
        for record in records {
            let text = format!("{} {}", record.key, record.value.as_text());
            assert!(!text.contains(&digits) && !text.contains(key.key.expose()), "{text}");
        }
    }
}
