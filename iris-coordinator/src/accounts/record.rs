//! What the store keeps of accounts and their keys.

use std::sync::Arc;

use iris_core::{AccountId, Timestamp};
use iris_crypto::token::TokenHash;
use iris_protocol::rest::{KeyScope, KeyTerms};
use serde::{Deserialize, Serialize};

use super::{ApiKey, key_id};

/// An account, under its id.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AccountRecord {
    pub(super) created: Timestamp,
}

impl AccountRecord {
    pub(super) const TYPE: &str = "account";
}

/// Which account an account key opens, under the key's index.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CredentialRecord {
    pub(super) account: AccountId,
}

impl CredentialRecord {
    pub(super) const TYPE: &str = "credential";
}

/// An API key, under its hash.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) account: AccountId,
    pub(super) scope: KeyScope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
    pub(super) created: Timestamp,
    /// The key's last four characters, by which its owner tells it from others.
    pub(super) ending: String,
    #[serde(flatten)]
    pub(super) terms: KeyTerms,
}

impl KeyRecord {
    pub(super) const TYPE: &str = "apikey";

    /// Returns the key that is kept under `hash`.
    pub(super) fn into_key(self, hash: &TokenHash) -> ApiKey {
        let Self { account, scope, terms, .. } = self;
        ApiKey { id: key_id(hash), account, scope, terms: Arc::new(terms) }
    }
}
