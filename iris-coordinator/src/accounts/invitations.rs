//! Invitations: 256 random bits that open a number of accounts, kept as their SHA-256.

use std::net::IpAddr;
use std::time::Duration;

use futures::TryStreamExt;
use iris_core::AccountId;
use iris_core::store::{Batch, Document, Key, StoreError, Version};
use iris_crypto::AccountKey;
use iris_crypto::random_bytes;
use iris_crypto::token::{Invitation, TokenHash};
use iris_protocol::rest::{
    AccountCreated, InvitationCreated, InvitationRequest, InvitationSummary, KeyId,
};

use super::keys::key_id;
use super::record::{AccountRecord, CredentialRecord, InvitationRecord, delete_at, path};
use super::{AccountError, Accounts, check_label};

/// How long an invitation is good unless its giver says otherwise.
const VALID: Duration = Duration::from_hours(7 * 24);
/// Longest time that one may be good.
const LONGEST: Duration = Duration::from_hours(366 * 24);
/// Shortest time.
const SHORTEST: Duration = Duration::from_mins(1);
/// Most accounts that one invitation opens.
const MAX_USES: u32 = 10_000;
/// Most invitations of one giver that are open.
const MAX_OPEN: usize = 1000;
/// How often it is tried to open an account while others use the same invitation.
const TRIES: usize = 16;

/// Whose an invitation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giver {
    /// The operator's, at the machine itself.
    Operator,
    /// An account that may run the network.
    Admin(AccountId),
    /// An account like any other.
    Member(AccountId),
}

impl Giver {
    const fn account(self) -> Option<AccountId> {
        match self {
            Self::Operator => None,
            Self::Admin(account) | Self::Member(account) => Some(account),
        }
    }
}

/// An invitation that was found good.
struct Claimed {
    place: Key,
    version: Version,
    record: InvitationRecord,
}

impl Accounts {
    /// Makes an invitation, which nobody can show again.
    pub async fn invite(
        &self,
        giver: Giver,
        request: InvitationRequest,
    ) -> Result<InvitationCreated, AccountError> {
        let InvitationRequest { uses, valid_secs, label } = request;
        let uses = uses.unwrap_or(1);
        let valid = valid_secs.map_or(VALID, Duration::from_secs);
        check_label(label.as_deref())?;
        let (most, open) = match giver {
            Giver::Member(_) => (1, self.policy.member_invitations as usize),
            Giver::Operator | Giver::Admin(_) => (MAX_USES, MAX_OPEN),
        };
        if open == 0 {
            return Err(AccountError::NoInvitations);
        }
        if !(1..=most).contains(&uses) {
            return Err(AccountError::Terms("uses"));
        }
        if !(SHORTEST..=LONGEST).contains(&valid) {
            return Err(AccountError::Terms("valid_secs"));
        }
        let by = giver.account();
        let _turn = self.changing.lock().await;
        if self.invitations(giver).await?.len() >= open {
            return Err(AccountError::TooManyInvitations(open));
        }
        let invitation = Invitation::generate();
        let (hash, created) = (invitation.hash(), self.clock.calendar());
        let expires = created.saturating_add(valid);
        let record = InvitationRecord { by, label, created, expires, uses_left: uses };
        let batch = Batch::new()
            .create(path(InvitationRecord::TYPE, hash), Document::encode(&record))
            .put(given(by, &hash), Document::encode(&()));
        self.store.commit(batch).await?;
        let invitation = invitation.reveal().as_str().into();
        Ok(InvitationCreated { invitation, summary: summary(&hash, record) })
    }

    /// Returns the invitations of one giver that are still good, the oldest first.
    pub async fn invitations(&self, giver: Giver) -> Result<Vec<InvitationSummary>, StoreError> {
        let by = giver.account();
        let now = self.clock.calendar();
        let mut found = Vec::new();
        for hash in self.given_by(by, "").await? {
            let Some(record) = self.store.get(path(InvitationRecord::TYPE, hash)).await? else {
                continue;
            };
            let record: InvitationRecord = record.value.decode()?;
            if record.expires > now {
                found.push(summary(&hash, record));
            }
        }
        found.sort_by_key(|summary| (summary.created, summary.id));
        Ok(found)
    }

    /// Takes back an invitation of its giver; returns whether there was one.
    pub async fn take_back_invitation(&self, giver: Giver, id: &KeyId) -> Result<bool, StoreError> {
        let by = giver.account();
        let named = self.given_by(by, id.as_str()).await?;
        let Some(hash) = named.first() else { return Ok(false) };
        let place = path(InvitationRecord::TYPE, *hash);
        let was_there = self.store.get(place.clone()).await?.is_some();
        self.store.commit(Batch::new().delete(place).delete(given(by, hash))).await?;
        Ok(was_there)
    }

    /// Opens an account with an invitation and returns its key, which nobody can show again.
    pub async fn join(
        &self,
        invitation: &str,
        caller: Option<IpAddr>,
    ) -> Result<AccountCreated, AccountError> {
        let attempt = self.begin_attempt(caller, None)?;
        // Looked up before hashing, which costs the coordinator more than the caller.
        self.claim(invitation).await?;
        let account = AccountId::from_bytes(random_bytes());
        let key = AccountKey::generate();
        let credential = self.credential(key.clone()).await?;
        let record = Document::encode(&CredentialRecord { account });
        let batch = Batch::new().create(credential, record);
        self.open_account_with(account, None, batch, Some(invitation)).await?;
        self.take_back(attempt);
        Ok(AccountCreated { account, account_key: format!("{}", key.reveal()).into() })
    }

    /// Opens an account with what it is known by in `batch`, and counts the use of an invitation
    /// in the same commit.
    pub(super) async fn open_account_with(
        &self,
        account: AccountId,
        login: Option<String>,
        batch: Batch,
        invitation: Option<&str>,
    ) -> Result<(), AccountError> {
        for _ in 0..TRIES {
            let claimed = match invitation {
                Some(invitation) => Some(self.claim(invitation).await?),
                None => None,
            };
            let mut record = AccountRecord::new(self.clock.calendar());
            record.login.clone_from(&login);
            record.invited_by = claimed.as_ref().and_then(|claimed| claimed.record.by);
            let opened =
                batch.clone().create(path(AccountRecord::TYPE, account), Document::encode(&record));
            let used = claimed.as_ref().map(|claimed| claimed.place.clone());
            let opened = match claimed {
                Some(claimed) => claimed.used(opened),
                None => opened,
            };
            match self.store.commit(opened).await {
                // Others use the invitation at the same time.
                Err(StoreError::Conflict(place)) if Some(&place) == used.as_ref() => {}
                Err(StoreError::Conflict(_)) => return Err(AccountError::Taken),
                committed => {
                    committed?;
                    self.set_standing(account, &record);
                    return Ok(());
                }
            }
        }
        Err(AccountError::Overloaded)
    }

    /// Forgets invitations that are over.
    pub(super) async fn keep_invitations(&self) -> Result<(), StoreError> {
        let now = self.clock.calendar();
        let mut over = Vec::new();
        let mut records = self.store.scan(Key::all(InvitationRecord::TYPE));
        while let Some(record) = records.try_next().await? {
            let invitation: InvitationRecord = record.value.decode()?;
            if invitation.expires <= now {
                let hash = record.key.id().parse().map_err(|_| corrupt())?;
                over.push((record.key, given(invitation.by, &hash)));
            }
        }
        for over in over.chunks(256) {
            let batch = over
                .iter()
                .cloned()
                .fold(Batch::new(), |batch, (place, given)| batch.delete(place).delete(given));
            self.store.commit(batch).await?;
        }
        Ok(())
    }

    async fn claim(&self, invitation: &str) -> Result<Claimed, AccountError> {
        let invitation: Invitation = invitation.parse().map_err(|_| AccountError::Invitation)?;
        let place = path(InvitationRecord::TYPE, invitation.hash());
        let found = self.store.get(place.clone()).await?.ok_or(AccountError::Invitation)?;
        let record: InvitationRecord = found.value.decode()?;
        if record.expires <= self.clock.calendar() || record.uses_left == 0 {
            return Err(AccountError::Invitation);
        }
        Ok(Claimed { place, version: found.version, record })
    }

    /// Returns the hashes of a giver's invitations that begin with `start`.
    async fn given_by(
        &self,
        by: Option<AccountId>,
        start: &str,
    ) -> Result<Vec<TokenHash>, StoreError> {
        let bound = |end| path(InvitationRecord::GIVEN, format_args!("{}/{start}{end}", name(by)));
        // Hashes are hexadecimal.
        let records = self.store.scan(bound("0")..bound("g"));
        let hashes = records.and_then(|record| async move {
            let hash = record.key.id().rsplit('/').next().unwrap_or_default();
            hash.parse::<TokenHash>().map_err(|_| corrupt())
        });
        hashes.try_collect().await
    }
}

impl Claimed {
    /// Adds to `batch` that the invitation was used once more.
    fn used(self, mut batch: Batch) -> Batch {
        let Self { place, version, mut record } = self;
        record.uses_left -= 1;
        if record.uses_left > 0 {
            return batch.replace(place, version, Document::encode(&record));
        }
        let hash = place.id().parse::<TokenHash>().map(|hash| given(record.by, &hash));
        batch.writes.push(delete_at(place, version));
        match hash {
            Ok(given) => batch.delete(given),
            Err(_) => batch,
        }
    }
}

fn name(by: Option<AccountId>) -> String {
    by.map_or_else(|| "operator".to_owned(), |account| account.to_string())
}

fn given(by: Option<AccountId>, hash: &TokenHash) -> Key {
    path(InvitationRecord::GIVEN, format_args!("{}/{hash}", name(by)))
}

fn summary(hash: &TokenHash, record: InvitationRecord) -> InvitationSummary {
    InvitationSummary {
        id: key_id(hash),
        label: record.label,
        created: record.created.as_secs(),
        expires: record.expires.as_secs(),
        uses_left: record.uses_left,
    }
}

fn corrupt() -> StoreError {
    StoreError::Corrupt("an invitation is not under its hash".to_owned())
}
