//! Who may do what: accounts, their 16-digit keys, and the API keys minted from them.
//!
//! A stolen store yields no credential: an account key is kept as its Argon2 index, which needs a
//! pepper that lies elsewhere, and an API key, 256 random bits, as its SHA-256. API keys are few
//! and looked up with every request, so all of them are held in memory; the store is asked about
//! unknown ones, since another process may have made them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures::TryStreamExt;
use iris_core::AccountId;
use iris_core::store::{Batch, Document, Key, KeyError, Store, StoreError};
use iris_crypto::token::TokenHash;
use iris_crypto::{AccountKey, ApiToken, Secret, random_bytes};
use iris_protocol::rest::{AccountCreated, KeyCreated, KeyId, KeyScope, KeyTerms};
use tokio::sync::Semaphore;

use crate::clock::{Clock, SystemClock};

mod attempts;
mod record;

use attempts::Attempts;
#[cfg(feature = "http")]
pub(crate) use attempts::network;
use record::{AccountRecord, CredentialRecord, KeyRecord};

/// Account keys that are hashed at a time; each takes 19 MiB.
const HASHING: usize = 4;
/// Account keys that wait to be hashed; more are refused.
const WAITING: usize = 32;
/// Longest label of a key, in bytes.
const MAX_LABEL: usize = 64;
/// Most keys of one account.
const MAX_KEYS: usize = 64;

/// An API key that was shown and found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Names it.
    pub id: KeyId,
    /// Whose it is.
    pub account: AccountId,
    /// What it may do.
    pub scope: KeyScope,
    /// What it is held to.
    pub terms: Arc<KeyTerms>,
}

/// An API key that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// What it may do.
    pub scope: KeyScope,
    /// Its owner's own name for it.
    pub label: Option<String>,
    /// What it is held to.
    pub terms: KeyTerms,
}

impl From<KeyScope> for NewKey {
    /// Makes a key without a label that is held to nothing but its scope.
    fn from(scope: KeyScope) -> Self {
        Self { scope, label: None, terms: KeyTerms::default() }
    }
}

/// Why an account or a key could not be made or found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// There is no such account, or the text is no account key. Which of both is not told.
    #[error("the account key is not valid")]
    Unknown,
    /// Too many wrong account keys were tried, by this caller or by all together.
    #[error("too many attempts; try again in {retry_after_secs} s")]
    TooManyAttempts {
        /// When to try again.
        retry_after_secs: u32,
    },
    /// The key's label is too long or cannot be printed.
    #[error("a label has at most 64 bytes and no control or invisible characters")]
    Label,
    /// The account has as many keys as an account may have.
    #[error("an account has at most 64 keys; revoke one first")]
    TooManyKeys,
    /// The machine has not the memory to check an account key now.
    #[error("account keys cannot be checked now")]
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
    clock: Arc<dyn Clock>,
    keys: RwLock<HashMap<TokenHash, ApiKey>>,
    attempts: Mutex<Attempts>,
    hashing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Held while a key is fetched from the store or revoked, lest a key that is revoked while
    /// it is fetched stays in memory. It also keeps wrong keys from occupying the store.
    changing: tokio::sync::Mutex<()>,
}

impl Accounts {
    /// Reads all API keys of `store`. The pepper must be the one that its accounts were made with.
    pub async fn load(store: Arc<dyn Store>, pepper: Secret) -> Result<Self, StoreError> {
        let keys = read_keys(&*store).await?;
        Ok(Self {
            store,
            pepper,
            clock: Arc::new(SystemClock),
            keys: RwLock::new(keys),
            attempts: Mutex::new(Attempts::default()),
            hashing: Arc::new(Semaphore::new(HASHING)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// Tells the time by `clock`; the machine's by default.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Looks an API key up among those in memory: one hash, no waiting.
    pub fn authenticate(&self, token: &str) -> Option<ApiKey> {
        let token: ApiToken = token.parse().ok()?;
        self.remembered(&token.hash())
    }

    /// Looks an API key up, in the store too where memory does not know it. Asked with every
    /// request.
    pub async fn find(&self, token: &str) -> Result<Option<ApiKey>, StoreError> {
        let Ok(token) = token.parse::<ApiToken>() else { return Ok(None) };
        let hash = token.hash();
        if let Some(key) = self.remembered(&hash) {
            return Ok(Some(key));
        }
        let _turn = self.changing.lock().await;
        let Some(record) = self.store.get(path(KeyRecord::TYPE, hash)).await? else {
            return Ok(None);
        };
        let key = record.value.decode::<KeyRecord>()?.into_key(&hash);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(hash, key.clone());
        Ok(Some(key))
    }

    /// Opens an account and returns its key, which nobody can show again.
    pub async fn create_account(&self) -> Result<AccountCreated, AccountError> {
        let account = AccountId::from_bytes(random_bytes());
        let key = AccountKey::generate();
        let credential = self.credential(key.clone()).await?;
        let created = self.clock.calendar();
        let batch = Batch::new()
            .create(
                path(AccountRecord::TYPE, account),
                Document::encode(&AccountRecord { created }),
            )
            // Two accounts that drew one number would conflict here, once in 10^16 / accounts.
            .create(credential, Document::encode(&CredentialRecord { account }));
        self.store.commit(batch).await?;
        Ok(AccountCreated { account, account_key: format!("{}", key.reveal()).into() })
    }

    /// Opens `account` without a key by which its owner would prove it.
    #[cfg(feature = "simulation")]
    pub(crate) async fn open_account(&self, account: AccountId) -> Result<(), AccountError> {
        let record = AccountRecord { created: self.clock.calendar() };
        let batch =
            Batch::new().create(path(AccountRecord::TYPE, account), Document::encode(&record));
        Ok(self.store.commit(batch).await?)
    }

    /// Mints an API key for whoever knows the account key `typed`.
    ///
    /// `caller` is the address that wrong keys are counted by, beside the count over all callers.
    pub async fn create_key(
        &self,
        typed: &str,
        key: NewKey,
        caller: Option<IpAddr>,
    ) -> Result<KeyCreated, AccountError> {
        let account = self.find_account(typed, caller).await?;
        self.create_key_for(account, key).await
    }

    /// Mints an API key of `account`, which must exist.
    pub async fn create_key_for(
        &self,
        account: AccountId,
        key: impl Into<NewKey>,
    ) -> Result<KeyCreated, AccountError> {
        let NewKey { scope, label, terms } = key.into();
        let printable = |label: &String| {
            label.len() <= MAX_LABEL && !label.chars().any(iris_core::model::is_invisible)
        };
        if !label.as_ref().is_none_or(printable) {
            return Err(AccountError::Label);
        }
        if self.store.get(path(AccountRecord::TYPE, account)).await?.is_none() {
            return Err(AccountError::Unknown);
        }
        if self.count_keys(&account) >= MAX_KEYS {
            return Err(AccountError::TooManyKeys);
        }
        let token = ApiToken::generate();
        let (hash, text) = (token.hash(), token.reveal());
        let created = self.clock.calendar();
        let ending = text[text.len() - 4..].to_owned();
        let record = KeyRecord { account, scope, label, created, ending, terms };
        let batch = Batch::new().create(path(KeyRecord::TYPE, hash), Document::encode(&record));
        self.store.commit(batch).await?;
        let key = record.into_key(&hash);
        let id = key.id;
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(hash, key);
        Ok(KeyCreated { key: text.as_str().into(), scope, id })
    }

    /// Takes back the key of `account` that [`KeyCreated::id`] names; returns whether there was
    /// one. It lets nobody in any more as soon as this resolves.
    pub async fn revoke(&self, account: &AccountId, id: &KeyId) -> Result<bool, StoreError> {
        let _turn = self.changing.lock().await;
        let named = |keys: &HashMap<TokenHash, ApiKey>| {
            let mut own = keys.iter().filter(|(_, key)| key.account == *account);
            own.find(|(_, key)| key.id == *id).map(|(hash, _)| *hash)
        };
        let remembered = named(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let hash = match remembered {
            Some(hash) => Some(hash),
            None => named(&read_keys(&*self.store).await?),
        };
        let Some(hash) = hash else { return Ok(false) };
        self.store.commit(Batch::new().delete(path(KeyRecord::TYPE, hash))).await?;
        self.keys.write().unwrap_or_else(PoisonError::into_inner).remove(&hash);
        Ok(true)
    }

    fn count_keys(&self, account: &AccountId) -> usize {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.values().filter(|key| key.account == *account).count()
    }

    fn remembered(&self, hash: &TokenHash) -> Option<ApiKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    async fn find_account(
        &self,
        typed: &str,
        caller: Option<IpAddr>,
    ) -> Result<AccountId, AccountError> {
        // Counted before hashing and taken back afterwards, so that attempts side by side cannot
        // pass the limit together.
        let attempt = self.begin_attempt(caller)?;
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

    /// Computes the key of the record under which an account key is found.
    async fn credential(&self, key: AccountKey) -> Result<Key, AccountError> {
        let overloaded = |_| AccountError::Overloaded;
        let place =
            Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| AccountError::Overloaded)?;
        let turn = Arc::clone(&self.hashing).acquire_owned().await.map_err(overloaded)?;
        let pepper = self.pepper.clone();
        // Hashing goes on when its caller leaves, and so does its place among the few.
        let hash = move || {
            let _held = (place, turn);
            key.index(&pepper)
        };
        let index = tokio::task::spawn_blocking(hash).await;
        match index {
            Ok(Ok(index)) => Ok(path(CredentialRecord::TYPE, index)),
            _ => Err(AccountError::Overloaded),
        }
    }

    fn begin_attempt(&self, caller: Option<IpAddr>) -> Result<attempts::Attempt, AccountError> {
        let now = self.clock.now();
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.begin(now, caller).map_err(|wait| AccountError::TooManyAttempts {
            retry_after_secs: u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).max(1),
        })
    }

    fn take_back(&self, attempt: attempts::Attempt) {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).take_back(attempt);
    }
}

async fn read_keys(store: &dyn Store) -> Result<HashMap<TokenHash, ApiKey>, StoreError> {
    let range: Range<Key> = Key::all(KeyRecord::TYPE);
    let keys = store.scan(range).try_fold(HashMap::new(), |mut keys, record| async move {
        let corrupt = |_| StoreError::Corrupt("an API key is not under its hash".to_owned());
        let hash: TokenHash = record.key.id().parse().map_err(corrupt)?;
        keys.insert(hash, record.value.decode::<KeyRecord>()?.into_key(&hash));
        Ok(keys)
    });
    keys.await
}

/// What lists show of a key: enough of its hash to tell it from others.
fn key_id(hash: &TokenHash) -> KeyId {
    hash.to_string()[..24].parse().expect("a hash is hexadecimal")
}

fn path(record_type: &str, id: impl std::fmt::Display) -> Key {
    let key: Result<Key, KeyError> = Key::new(record_type, id);
    key.expect("ids and hashes are hexadecimal")
}

#[cfg(test)]
mod tests {
    use iris_core::store::MemoryStore;

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
