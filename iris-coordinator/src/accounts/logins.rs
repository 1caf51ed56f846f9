//! E-mail addresses and passwords, by which accounts can be known beside their digits.
//!
//! An address is kept under an HMAC of itself, and sealed together with its password's hash: what
//! a stolen store tells is how many there are.
//!
//! Every login costs one hash of each kind that was ever imported beside its own, known or not, so
//! that the time it takes tells neither whether an address is known nor where it came from.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::PoisonError;

use data_encoding::{BASE64, HEXLOWER};
use futures::TryStreamExt;
use iris_core::AccountId;
use iris_core::store::{Batch, Document, Key, Record, Store, StoreError, Version};
use iris_crypto::password::{HashKind, HashKinds, Password, PasswordHash, Verdict};
use iris_crypto::{RecordKey, Secret, random_bytes};
use iris_protocol::rest::{Me, Session};
use serde::{Deserialize, Serialize};

use super::record::{AccountRecord, HashKindRecord, LoginRecord, path};
use super::{AccountError, Accounts};

/// Longest e-mail address, in bytes.
const MAX_EMAIL: usize = 254;

/// What addresses are found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LoginIndex([u8; 32]);

impl LoginIndex {
    #[cfg(test)]
    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for LoginIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for LoginIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginIndex(..)")
    }
}

/// An e-mail address in lower case.
#[derive(Clone)]
pub(super) struct Email(String);

impl FromStr for Email {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AccountError::Email)?;
        let odd = |c: char| c.is_whitespace() || iris_core::model::is_invisible(c);
        let wrong = local.is_empty() || domain.is_empty() || text.contains(odd);
        let lower = text.to_lowercase();
        if wrong || lower.len() > MAX_EMAIL { Err(AccountError::Email) } else { Ok(Self(lower)) }
    }
}

/// The keys that logins are kept under.
#[derive(Debug)]
pub(super) struct LoginKeys {
    index: Secret,
    seal: RecordKey,
}

/// What is sealed of a login.
#[derive(Serialize, Deserialize)]
struct Sealed {
    email: String,
    password: String,
}

impl LoginKeys {
    pub(super) fn new(secret: &Secret) -> Self {
        let seal = RecordKey::new(&secret.derive("iris/login-record/v1", b""));
        Self { index: secret.derive("iris/login-index/v1", b""), seal }
    }

    fn index(&self, email: &Email) -> LoginIndex {
        LoginIndex(*self.index.derive("email", email.0.as_bytes()).reveal())
    }

    fn seal(&self, index: &LoginIndex, email: &Email, password: &PasswordHash) -> String {
        let sealed = Sealed { email: email.0.clone(), password: password.as_str().to_owned() };
        let text = serde_json::to_vec(&sealed).expect("texts have a JSON form");
        BASE64.encode(&self.seal.seal(&place(index), &text))
    }

    fn open(&self, index: &str, record: &LoginRecord) -> Result<Sealed, StoreError> {
        let corrupt = || StoreError::Corrupt("a login does not open".to_owned());
        let sealed = BASE64.decode(record.sealed.as_bytes()).map_err(|_| corrupt())?;
        let place = format!("{}/{index}", LoginRecord::TYPE);
        let text = self.seal.open(&place, &sealed).map_err(|_| corrupt())?;
        serde_json::from_slice(&text).map_err(|_| corrupt())
    }
}

fn place(index: &LoginIndex) -> String {
    format!("{}/{index}", LoginRecord::TYPE)
}

/// Reads which kinds of hashes there are.
pub(super) async fn read_kinds(store: &dyn Store) -> Result<HashKinds, StoreError> {
    let corrupt = || StoreError::Corrupt("a kind of password hash is unknown".to_owned());
    let (mut kinds, mut records) =
        (HashKinds::default(), store.scan(Key::all(HashKindRecord::TYPE)));
    while let Some(record) = records.try_next().await? {
        let kind = record.key.id().parse().map_err(|_| corrupt())?;
        if let Err(error) = kinds.insert(kind) {
            tracing::warn!(%kind, %error, "the time that logins of this kind take tells them");
        }
    }
    Ok(kinds)
}

/// How somebody wants to be known.
#[derive(Clone, Copy)]
pub struct Registration<'a> {
    /// The e-mail address.
    pub email: &'a str,
    /// The password.
    pub password: &'a str,
    /// An invitation, where one is needed.
    pub invitation: Option<&'a str>,
    /// The digits of an account that exists and gets the name, in place of a new one.
    pub account_key: Option<&'a str>,
}

impl fmt::Debug for Registration<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registration(..)")
    }
}

/// A login that a password was found right for.
struct Found {
    index: LoginIndex,
    record: LoginRecord,
    version: Version,
}

impl Accounts {
    /// Opens an account that is known by an address and a password, or makes them known for one
    /// that exists, and begins a session.
    pub async fn register(
        &self,
        registration: Registration<'_>,
        open: bool,
        caller: Option<IpAddr>,
    ) -> Result<Session, AccountError> {
        let email: Email = registration.email.parse()?;
        let password = registration.password.parse().map_err(|_| AccountError::Password)?;
        if let Some(typed) = registration.account_key {
            let account = self.find_account(typed, caller).await?;
            return self.name_account(account, &email, password).await;
        }
        if !open && registration.invitation.is_none() {
            return Err(AccountError::Closed);
        }
        // Counted, since a refusal tells whether an invitation is good or an address known.
        let attempt = self.begin_attempt(caller, None)?;
        let account = AccountId::from_bytes(random_bytes());
        let index = self.logins.index(&email);
        let login = self.new_login(account, &email, &index, password).await?;
        let batch = Batch::new().create(path(LoginRecord::TYPE, index), Document::encode(&login));
        let named = Some(index.to_string());
        self.open_account_with(account, named, batch, registration.invitation).await?;
        self.take_back(attempt);
        self.begin_session(account).await
    }

    /// Begins a session for whoever knows an address and its password.
    pub async fn log_in(
        &self,
        email: &str,
        password: &str,
        caller: Option<IpAddr>,
    ) -> Result<Session, AccountError> {
        let email: Email = email.parse().map_err(|_| AccountError::WrongLogin)?;
        let index = self.logins.index(&email);
        let Found { record, .. } = self.prove(index, password, caller).await?;
        self.begin_named_session(&index, &record).await
    }

    /// Begins a session for whoever knows an account key.
    pub async fn log_in_with_digits(
        &self,
        typed: &str,
        caller: Option<IpAddr>,
    ) -> Result<Session, AccountError> {
        let account = self.find_account(typed, caller).await?;
        self.begin_session(account).await
    }

    /// Changes the password of `account`, ends all its sessions and begins a new one.
    pub async fn change_password(
        &self,
        account: AccountId,
        current: &str,
        new: &str,
        caller: Option<IpAddr>,
    ) -> Result<Session, AccountError> {
        let new: Password = new.parse().map_err(|_| AccountError::Password)?;
        let record = self.account(&account).await?;
        let index = record.login.as_deref().and_then(|text| {
            HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(LoginIndex)
        });
        let index = index.ok_or(AccountError::NoPassword)?;
        let found = self.prove(index, current, caller).await?;
        let email = Email(self.logins.open(&index.to_string(), &found.record)?.email);
        let login = self.new_login(account, &email, &index, new).await?;
        let login = LoginRecord { generation: found.record.generation + 1, ..login };
        let batch = Batch::new().replace(
            path(LoginRecord::TYPE, index),
            found.version,
            Document::encode(&login),
        );
        self.end_all_sessions(&account, batch).await?;
        self.begin_named_session(&index, &login).await
    }

    /// Takes a login of an older system over, with the hash of its password, and opens an account
    /// for it.
    pub async fn import(
        &self,
        email: &str,
        hash: &PasswordHash,
    ) -> Result<AccountId, AccountError> {
        let email: Email = email.parse()?;
        let (account, index) = (AccountId::from_bytes(random_bytes()), self.logins.index(&email));
        let sealed = self.logins.seal(&index, &email, hash);
        let login = LoginRecord { account, generation: 0, sealed };
        let kind = hash.kind();
        self.learn_kind(kind)?;
        let batch = Batch::new()
            .create(path(LoginRecord::TYPE, index), Document::encode(&login))
            .put(path(HashKindRecord::TYPE, kind), Document::encode(&()));
        self.open_account_with(account, Some(index.to_string()), batch, None).await?;
        Ok(account)
    }

    /// Returns what the owner of `account` learns of it; `with_email` says whether to show the
    /// address.
    pub async fn me(&self, account: &AccountId, with_email: bool) -> Result<Me, AccountError> {
        let record = self.account(account).await?;
        let mut email = None;
        if let Some(index) = record.login.as_deref().filter(|_| with_email) {
            let login = self.store.get(path(LoginRecord::TYPE, index)).await?;
            let login = login
                .ok_or_else(|| StoreError::Corrupt("an account's login is not there".to_owned()))?;
            email = Some(self.logins.open(index, &login.value.decode()?)?.email);
        }
        Ok(Me {
            account: *account,
            email,
            created: record.created.as_secs(),
            membership: self.membership_of(&record),
            keys: self.count_keys(account) as u64,
        })
    }

    /// Checks a password, within the limits on attempts. A name that nobody has takes as long.
    async fn prove(
        &self,
        index: LoginIndex,
        typed: &str,
        caller: Option<IpAddr>,
    ) -> Result<Found, AccountError> {
        let attempt = self.begin_attempt(caller, Some(index))?;
        let password = Password::typed(typed).map_err(|_| AccountError::WrongLogin)?;
        match self.verify(index, password).await {
            Ok(Some(found)) => {
                self.take_back(attempt);
                Ok(found)
            }
            Ok(None) => Err(AccountError::WrongLogin),
            Err(error) => {
                self.take_back(attempt);
                Err(error)
            }
        }
    }

    async fn verify(
        &self,
        index: LoginIndex,
        password: Password,
    ) -> Result<Option<Found>, AccountError> {
        let passwords = self.passwords.clone();
        let Some(found) = self.store.get(path(LoginRecord::TYPE, index)).await? else {
            let kinds = self.kinds();
            self.hashing.run(move || passwords.verify(&password, None, &kinds)).await?;
            return Ok(None);
        };
        let Record { version, value, .. } = found;
        let record: LoginRecord = value.decode()?;
        let sealed = self.logins.open(&index.to_string(), &record)?;
        let hash: PasswordHash = sealed
            .password
            .parse()
            .map_err(|_| StoreError::Corrupt("a password's hash cannot be read".to_owned()))?;
        // One that another process has imported just now.
        let _ = self.learn_kind(hash.kind());
        let (tried, kinds) = (password.clone(), self.kinds());
        let verdict =
            self.hashing.run(move || passwords.verify(&tried, Some(&hash), &kinds)).await?;
        let found = Found { index, record, version };
        match verdict {
            Verdict::Wrong => Ok(None),
            Verdict::Right { needs_rehash: false } => Ok(Some(found)),
            Verdict::Right { needs_rehash: true } => {
                self.rehash(found, Email(sealed.email), password).await.map(Some)
            }
        }
    }

    /// Reads which kinds of hashes another process has imported.
    pub(super) async fn keep_kinds(&self) -> Result<(), StoreError> {
        let mut read = read_kinds(&*self.store).await?;
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        // What is being imported right now is not written yet.
        read.join(&kinds);
        *kinds = read;
        Ok(())
    }

    pub(super) fn kinds(&self) -> HashKinds {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn_kind(&self, kind: HashKind) -> Result<(), AccountError> {
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        Ok(kinds.insert(kind)?)
    }

    /// Replaces an older system's hash, now that the password is known.
    async fn rehash(
        &self,
        found: Found,
        email: Email,
        password: Password,
    ) -> Result<Found, AccountError> {
        let Found { index, record, version } = found;
        let login = self.new_login(record.account, &email, &index, password).await?;
        let login = LoginRecord { generation: record.generation, ..login };
        let place = path(LoginRecord::TYPE, index);
        let batch = Batch::new().replace(place, version, Document::encode(&login));
        match self.store.commit(batch).await {
            Ok(()) => Ok(Found { index, record: login, version: Version(version.0 + 1) }),
            // Somebody else logs in with it at the same time.
            Err(StoreError::Conflict(_)) => Ok(Found { index, record, version }),
            Err(error) => Err(error.into()),
        }
    }

    async fn new_login(
        &self,
        account: AccountId,
        email: &Email,
        index: &LoginIndex,
        password: Password,
    ) -> Result<LoginRecord, AccountError> {
        let passwords = self.passwords.clone();
        let hash = self.hashing.run(move || passwords.hash(&password)).await?;
        let sealed = self.logins.seal(index, email, &hash);
        Ok(LoginRecord { account, generation: 0, sealed })
    }

    /// Gives an account that exists an address and a password.
    async fn name_account(
        &self,
        account: AccountId,
        email: &Email,
        password: Password,
    ) -> Result<Session, AccountError> {
        let index = self.logins.index(email);
        let login = self.new_login(account, email, &index, password).await?;
        let place = path(AccountRecord::TYPE, account);
        let found = self.store.get(place.clone()).await?.ok_or(AccountError::Unknown)?;
        let mut record: AccountRecord = found.value.decode()?;
        if record.login.is_some() {
            return Err(AccountError::Taken);
        }
        record.login = Some(index.to_string());
        let batch = Batch::new()
            .create(path(LoginRecord::TYPE, index), Document::encode(&login))
            .replace(place, found.version, Document::encode(&record));
        match self.store.commit(batch).await {
            Err(StoreError::Conflict(_)) => Err(AccountError::Taken),
            committed => {
                committed?;
                self.begin_session(account).await
            }
        }
    }

    /// Begins a session unless the password was changed since it was found right.
    async fn begin_named_session(
        &self,
        index: &LoginIndex,
        proven: &LoginRecord,
    ) -> Result<Session, AccountError> {
        let turn = self.sessions.lock().await;
        let now = self.store.get(path(LoginRecord::TYPE, index)).await?;
        let now = now.ok_or(AccountError::WrongLogin)?.value.decode::<LoginRecord>()?;
        if now.generation != proven.generation {
            return Err(AccountError::WrongLogin);
        }
        self.begin_session_in(turn, proven.account).await
    }
}
