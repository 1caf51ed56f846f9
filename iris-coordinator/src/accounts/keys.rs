//! API keys: 256 random bits, kept as their SHA-256.
//!
//! They are few and looked up with every request, so all of them are held in memory; the store is
//! asked about unknown ones, since another process may have made them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::{AccountId, Timestamp};
use iris_crypto::ApiToken;
use iris_crypto::token::TokenHash;
use iris_protocol::rest::{KeyCreated, KeyId, KeyScope, KeySummary, KeyTerms, QuotaUse};

use super::record::{AccountRecord, KeyRecord, KeyUseRecord, path};
use super::{AccountError, Accounts, check_label};

/// Most keys of one account.
const MAX_KEYS: usize = 64;
/// Most models that one key may be held to.
const MAX_MODELS: usize = 64;
/// Longest time that a replaced key goes on working.
const MAX_GRACE: Duration = Duration::from_hours(30 * 24);
/// How long a key that has ended is still shown in lists.
const REMEMBERED: Duration = Duration::from_hours(7 * 24);
/// How often all keys are read anew, at most, for those that another process made.
const REREAD: Duration = Duration::from_secs(10);
/// How exactly the last use of a key is known, in seconds.
const USE_STEP: u64 = 60;
/// Last uses that are written down together.
const USES_PER_BATCH: usize = 512;

/// An API key that was shown and found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Names it.
    pub id: KeyId,
    /// What its use is counted under: the id of the first of the keys that were replaced by one
    /// another down to this one, so that a new key begins no new quota.
    pub meter: KeyId,
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

/// All keys, and which are whose.
#[derive(Debug, Default)]
pub(super) struct KeyRing {
    keys: HashMap<TokenHash, Held>,
    owned: HashMap<AccountId, Vec<TokenHash>>,
}

#[derive(Debug)]
struct Held {
    key: ApiKey,
    label: Option<String>,
    ending: String,
    created: Timestamp,
    /// When it was last used, in seconds, to the minute; 0 for never.
    used: AtomicU64,
    /// What is written down of that.
    written: AtomicU64,
}

impl Held {
    fn new(hash: &TokenHash, record: KeyRecord) -> Self {
        let KeyRecord { account, scope, label, created, ending, counted_as, terms } = record;
        let id = key_id(hash);
        let meter = counted_as.unwrap_or(id);
        let key = ApiKey { id, meter, account, scope, terms: Arc::new(terms) };
        let (used, written) = Default::default();
        Self { key, label, ending, created, used, written }
    }

    fn is_over(&self, now: u64) -> bool {
        self.key.terms.expires.is_some_and(|end| end <= now)
    }

    fn summary(&self) -> KeySummary {
        let used = self.used.load(Ordering::Relaxed);
        let ApiKey { id, meter, .. } = self.key;
        KeySummary {
            id,
            counted_as: (meter != id).then_some(meter),
            scope: self.key.scope,
            label: self.label.clone(),
            ending: self.ending.clone(),
            created: self.created.as_secs(),
            last_used: (used > 0).then_some(used),
            terms: KeyTerms::clone(&self.key.terms),
            used: QuotaUse::default(),
        }
    }
}

impl KeyRing {
    /// Reads all keys of `store`.
    pub(super) async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let corrupt = |_| StoreError::Corrupt("an API key is not under its hash".to_owned());
        let (mut ring, mut records) = (Self::default(), store.scan(Key::all(KeyRecord::TYPE)));
        while let Some(record) = records.try_next().await? {
            let hash: TokenHash = record.key.id().parse().map_err(corrupt)?;
            ring.insert(hash, record.value.decode()?);
        }
        let mut records = store.scan(Key::all(KeyUseRecord::TYPE));
        while let Some(record) = records.try_next().await? {
            let hash: TokenHash = record.key.id().parse().map_err(corrupt)?;
            if let Some(held) = ring.keys.get_mut(&hash) {
                let at = record.value.decode::<KeyUseRecord>()?.at;
                held.used = at.into();
                held.written = at.into();
            }
        }
        Ok(ring)
    }

    fn insert(&mut self, hash: TokenHash, record: KeyRecord) {
        let account = record.account;
        if self.keys.insert(hash, Held::new(&hash, record)).is_none() {
            self.owned.entry(account).or_default().push(hash);
        }
    }

    fn remove(&mut self, hash: &TokenHash) {
        let Some(held) = self.keys.remove(hash) else { return };
        if let Some(owned) = self.owned.get_mut(&held.key.account) {
            owned.retain(|other| other != hash);
            if owned.is_empty() {
                self.owned.remove(&held.key.account);
            }
        }
    }

    /// Takes over what was used meanwhile, so that a newly read ring can replace `known`.
    fn take_uses(&mut self, known: &Self) {
        for (hash, held) in &mut self.keys {
            if let Some(known) = known.keys.get(hash) {
                held.used = known.used.load(Ordering::Relaxed).into();
                held.written = known.written.load(Ordering::Relaxed).into();
            }
        }
    }

    fn owned(&self, account: &AccountId) -> impl Iterator<Item = (&TokenHash, &Held)> {
        let hashes = self.owned.get(account).into_iter().flatten();
        hashes.filter_map(|hash| self.keys.get_key_value(hash))
    }

    fn named(&self, account: &AccountId, id: &KeyId) -> Option<TokenHash> {
        self.owned(account).find(|(_, held)| held.key.id == *id).map(|(hash, _)| *hash)
    }

    fn over(&self, account: &AccountId, now: u64) -> Vec<TokenHash> {
        self.owned(account).filter(|(_, held)| held.is_over(now)).map(|(hash, _)| *hash).collect()
    }
}

impl Accounts {
    /// Looks an API key up among those in memory: one hash, no waiting.
    pub fn authenticate(&self, token: &str) -> Option<ApiKey> {
        let token: ApiToken = token.parse().ok()?;
        self.remembered(&token.hash())?
    }

    /// Looks an API key up, in the store too where memory does not know it. Asked with every
    /// request.
    pub async fn find(&self, token: &str) -> Result<Option<ApiKey>, StoreError> {
        let Ok(token) = token.parse::<ApiToken>() else { return Ok(None) };
        let hash = token.hash();
        if let Some(key) = self.remembered(&hash) {
            return Ok(key);
        }
        let turn = self.changing.lock().await;
        let Some(record) = self.store.get(path(KeyRecord::TYPE, hash)).await? else {
            return Ok(None);
        };
        let record: KeyRecord = record.value.decode()?;
        self.learn_standing(&record.account).await?;
        self.ring_mut(|ring| ring.insert(hash, record));
        drop(turn);
        Ok(self.remembered(&hash).flatten())
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
        check_label(label.as_deref())?;
        let created = self.clock.calendar();
        check_terms(&terms, created.as_secs())?;
        if self.store.get(path(AccountRecord::TYPE, account)).await?.is_none() {
            return Err(AccountError::Unknown);
        }
        let record = KeyRecord {
            account,
            scope,
            label,
            created,
            ending: String::new(),
            counted_as: None,
            terms,
        };
        let _turn = self.changing.lock().await;
        self.mint(record, Batch::new()).await
    }

    /// Replaces the key of `account` that `id` names by a new one of the same scope, label and
    /// terms; the old one goes on working for `grace`. Both share one quota.
    pub async fn rotate_key(
        &self,
        account: &AccountId,
        id: &KeyId,
        grace: Duration,
    ) -> Result<KeyCreated, AccountError> {
        if grace > MAX_GRACE {
            return Err(AccountError::Terms("grace_secs"));
        }
        let mut turn = self.changing.lock().await;
        let hash = self.own_key(account, id, &mut turn).await?.ok_or(AccountError::NoKey)?;
        let place = path(KeyRecord::TYPE, hash);
        let found = self.store.get(place.clone()).await?.ok_or(AccountError::NoKey)?;
        let old: KeyRecord = found.value.decode()?;
        let now = self.clock.calendar().as_secs();
        if old.terms.expires.is_some_and(|end| end <= now) {
            return Err(AccountError::NoKey);
        }
        if !is_members(old.scope) {
            return Err(AccountError::KeyScope);
        }
        let counted_as = Some(old.counted_as.unwrap_or(*id));
        let new = KeyRecord { created: self.clock.calendar(), counted_as, ..old.clone() };
        if grace.is_zero() {
            let batch = Batch::new().delete(place).delete(path(KeyUseRecord::TYPE, hash));
            self.ring_mut(|ring| ring.remove(&hash));
            // Should the store fail, the old key is found there again.
            return self.mint(new, batch).await;
        }
        let ends = now + grace.as_secs();
        let expires = Some(old.terms.expires.map_or(ends, |end| end.min(ends)));
        let old = KeyRecord { terms: KeyTerms { expires, ..old.terms }, ..old };
        let batch = Batch::new().replace(place, found.version, Document::encode(&old));
        let created = self.mint(new, batch).await?;
        self.ring_mut(|ring| {
            let used = ring.keys.get(&hash).map_or(0, |held| held.used.load(Ordering::Relaxed));
            ring.insert(hash, old);
            if let Some(held) = ring.keys.get_mut(&hash) {
                held.used = used.into();
            }
        });
        Ok(created)
    }

    /// Returns the keys of `account`, the oldest first.
    pub async fn keys(&self, account: &AccountId) -> Result<Vec<KeySummary>, StoreError> {
        let mut turn = self.changing.lock().await;
        self.reread_keys(&mut turn).await?;
        let mut keys: Vec<_> =
            self.ring(|ring| ring.owned(account).map(|(_, held)| held.summary()).collect());
        keys.sort_by_key(|key| (key.created, key.id));
        Ok(keys)
    }

    /// Returns how many keys `account` has.
    pub fn count_keys(&self, account: &AccountId) -> usize {
        self.ring(|ring| ring.owned(account).count())
    }

    /// Takes back the key of `account` that [`KeyCreated::id`] names; returns whether there was
    /// one. It lets nobody in any more as soon as this resolves.
    pub async fn revoke(&self, account: &AccountId, id: &KeyId) -> Result<bool, StoreError> {
        let mut turn = self.changing.lock().await;
        let Some(hash) = self.own_key(account, id, &mut turn).await? else { return Ok(false) };
        self.store.commit(forget(Batch::new(), &hash)).await?;
        self.ring_mut(|ring| ring.remove(&hash));
        Ok(true)
    }

    /// Writes down when keys were last used, and forgets those that ended long ago.
    pub(super) async fn keep_keys(&self) -> Result<(), StoreError> {
        let uses: Vec<(TokenHash, u64)> = self.ring(|ring| {
            let used = |held: &Held| held.used.load(Ordering::Relaxed);
            let news = |held: &Held| used(held) != held.written.load(Ordering::Relaxed);
            let keys = ring.keys.iter().filter(|(_, held)| news(held));
            keys.map(|(hash, held)| (*hash, used(held))).collect()
        });
        for uses in uses.chunks(USES_PER_BATCH) {
            let batch = uses.iter().fold(Batch::new(), |batch, (hash, at)| {
                let record = Document::encode(&KeyUseRecord { at: *at });
                batch.put(path(KeyUseRecord::TYPE, hash), record)
            });
            self.store.commit(batch).await?;
            self.ring(|ring| {
                let held = uses.iter().filter_map(|(hash, at)| Some((ring.keys.get(hash)?, at)));
                held.for_each(|(held, at)| held.written.store(*at, Ordering::Relaxed));
            });
        }
        let long_ago = self.clock.calendar().as_secs().saturating_sub(REMEMBERED.as_secs());
        let over: Vec<TokenHash> = self.ring(|ring| {
            let keys = ring.keys.iter().filter(|(_, held)| held.is_over(long_ago));
            keys.map(|(hash, _)| *hash).collect()
        });
        for over in over.chunks(USES_PER_BATCH) {
            let _turn = self.changing.lock().await;
            self.store.commit(over.iter().fold(Batch::new(), forget)).await?;
            self.ring_mut(|ring| {
                for hash in over {
                    ring.remove(hash);
                }
            });
        }
        Ok(())
    }

    /// Writes a new key down with what `batch` holds. Called by whoever holds `changing`.
    async fn mint(
        &self,
        mut record: KeyRecord,
        mut batch: Batch,
    ) -> Result<KeyCreated, AccountError> {
        let (now, account) = (self.clock.calendar().as_secs(), record.account);
        let mut over = Vec::new();
        if self.count_keys(&account) >= MAX_KEYS {
            over = self.ring(|ring| ring.over(&account, now));
            if self.count_keys(&account) - over.len() >= MAX_KEYS {
                return Err(AccountError::TooManyKeys);
            }
            batch = over.iter().fold(batch, forget);
        }
        let token = ApiToken::generate();
        let (hash, text) = (token.hash(), token.reveal());
        text[text.len() - 4..].clone_into(&mut record.ending);
        let place = path(KeyRecord::TYPE, hash);
        self.store.commit(batch.create(place, Document::encode(&record))).await?;
        let (id, scope) = (key_id(&hash), record.scope);
        self.ring_mut(|ring| {
            for hash in &over {
                ring.remove(hash);
            }
            ring.insert(hash, record);
        });
        Ok(KeyCreated { key: text.as_str().into(), scope, id })
    }

    /// Finds a key of `account` by its id, in the store too.
    async fn own_key(
        &self,
        account: &AccountId,
        id: &KeyId,
        turn: &mut Option<Instant>,
    ) -> Result<Option<TokenHash>, StoreError> {
        if let Some(hash) = self.ring(|ring| ring.named(account, id)) {
            return Ok(Some(hash));
        }
        self.reread_keys(turn).await?;
        Ok(self.ring(|ring| ring.named(account, id)))
    }

    /// Reads all keys anew, unless that was done just now.
    async fn reread_keys(&self, last: &mut Option<Instant>) -> Result<(), StoreError> {
        let now = self.clock.now();
        if last.is_some_and(|last| now.saturating_duration_since(last) < REREAD) {
            return Ok(());
        }
        let mut read = KeyRing::read(&*self.store).await?;
        self.ring_mut(|ring| {
            read.take_uses(ring);
            *ring = read;
        });
        *last = Some(now);
        Ok(())
    }

    /// Returns what memory knows of a key: nothing, that it is over, or all.
    #[allow(clippy::option_option, reason = "the store is asked about what memory does not know")]
    fn remembered(&self, hash: &TokenHash) -> Option<Option<ApiKey>> {
        let now = self.clock.calendar().as_secs();
        self.ring(|ring| {
            let held = ring.keys.get(hash)?;
            if held.is_over(now) {
                return Some(None);
            }
            let minute = now - now % USE_STEP;
            if held.used.load(Ordering::Relaxed) != minute {
                held.used.store(minute, Ordering::Relaxed);
            }
            Some(Some(held.key.clone()))
        })
    }

    fn ring<T>(&self, read: impl FnOnce(&KeyRing) -> T) -> T {
        read(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn ring_mut<T>(&self, change: impl FnOnce(&mut KeyRing) -> T) -> T {
        change(&mut self.keys.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns whether an account may give keys of this scope to itself; what concerns the whole
/// network is the operator's to give.
pub(crate) const fn is_members(scope: KeyScope) -> bool {
    matches!(scope, KeyScope::Inference | KeyScope::Node)
}

fn forget(batch: Batch, hash: &TokenHash) -> Batch {
    batch.delete(path(KeyRecord::TYPE, hash)).delete(path(KeyUseRecord::TYPE, hash))
}

fn check_terms(terms: &KeyTerms, now: u64) -> Result<(), AccountError> {
    if terms.models.len() > MAX_MODELS {
        return Err(AccountError::Terms("models"));
    }
    if terms.requests_per_minute == Some(0) {
        return Err(AccountError::Terms("requests_per_minute"));
    }
    if terms.expires.is_some_and(|end| end <= now) {
        return Err(AccountError::Terms("expires"));
    }
    Ok(())
}

/// What lists show of a hash: enough to tell it from others.
pub(super) fn key_id(hash: &TokenHash) -> KeyId {
    hash.to_string()[..24].parse().expect("a hash is hexadecimal")
}
