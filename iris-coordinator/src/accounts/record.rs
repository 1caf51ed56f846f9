//! What the store keeps of accounts and of what they are known by.

use iris_core::store::{Expect, Key, KeyError, Version, Write};
use iris_core::{AccountId, Timestamp};
use iris_protocol::rest::{KeyId, KeyScope, KeyTerms};
use serde::{Deserialize, Serialize};

/// An account, under its id.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AccountRecord {
    pub(super) created: Timestamp,
    /// Until when its fees are paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) paid_until: Option<Timestamp>,
    /// Who gave the invitation that it was opened with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) invited_by: Option<AccountId>,
    /// The index of its login, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) login: Option<String>,
}

impl AccountRecord {
    pub(super) const TYPE: &str = "account";

    pub(super) const fn new(created: Timestamp) -> Self {
        Self { created, paid_until: None, invited_by: None, login: None }
    }
}

/// Which account an account key opens, under the key's index.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CredentialRecord {
    pub(super) account: AccountId,
}

impl CredentialRecord {
    pub(super) const TYPE: &str = "credential";
}

/// Which account an e-mail address and a password open, under the address's index.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LoginRecord {
    pub(super) account: AccountId,
    /// How often the password was changed.
    pub(super) generation: u64,
    /// The address and the password's hash, sealed for this record.
    pub(super) sealed: String,
}

impl LoginRecord {
    pub(super) const TYPE: &str = "login";
}

/// A way in which older systems hashed passwords that were imported, under its name: what every
/// check of a password takes the time of, so that none tells such a login.
pub(super) struct HashKindRecord;

impl HashKindRecord {
    pub(super) const TYPE: &str = "hashkind";
}

/// A session, under its account and id.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    /// The number of the refresh token that is next.
    pub(super) number: u32,
    pub(super) created: Timestamp,
    pub(super) renewed: Timestamp,
}

impl SessionRecord {
    pub(super) const TYPE: &str = "session";
}

/// A session that ended before its access tokens did, under its id.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndedRecord {
    /// When the last of them ends.
    pub(super) until: Timestamp,
}

impl EndedRecord {
    pub(super) const TYPE: &str = "ended";
}

/// An API key, under its hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) account: AccountId,
    pub(super) scope: KeyScope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
    pub(super) created: Timestamp,
    /// The key's last four characters, by which its owner tells it from others.
    pub(super) ending: String,
    /// Under which key's id its use is counted, where it is not its own: the first of those that
    /// were replaced by one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) counted_as: Option<KeyId>,
    #[serde(flatten)]
    pub(super) terms: KeyTerms,
}

impl KeyRecord {
    pub(super) const TYPE: &str = "apikey";
}

/// When an API key was last used, under its hash. Apart from the key, lest writing this brings a
/// key back that was revoked meanwhile.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyUseRecord {
    /// In seconds since the Unix epoch, to the minute.
    pub(super) at: u64,
}

impl KeyUseRecord {
    pub(super) const TYPE: &str = "keyuse";
}

/// An invitation, under its hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InvitationRecord {
    /// Who gave it; `None` for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<AccountId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
    pub(super) created: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) uses_left: u32,
}

impl InvitationRecord {
    pub(super) const TYPE: &str = "invitation";
    /// Under whoever gave an invitation and its hash, so that one's own are found.
    pub(super) const GIVEN: &str = "invited";
}

/// A fee that was paid, under its account and the hash of what names the payment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FeeRecord {
    pub(super) months: u32,
    pub(super) reference: String,
    pub(super) at: Timestamp,
    pub(super) paid_until: Timestamp,
}

impl FeeRecord {
    pub(super) const TYPE: &str = "fee";
}

pub(super) fn path(record_type: &str, id: impl std::fmt::Display) -> Key {
    let key: Result<Key, KeyError> = Key::new(record_type, id);
    key.expect("ids and hashes are hexadecimal")
}

/// Deletes `key`, which must still be at `version`.
pub(super) const fn delete_at(key: Key, version: Version) -> Write {
    Write { key, expect: Expect::At(version), value: None }
}
