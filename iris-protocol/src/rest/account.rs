use std::fmt;
use std::str::FromStr;

use iris_core::{AccountId, ModelName};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Secret;

/// Opens an account without a name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AccountRequest {
    /// An invitation, where the network takes nobody without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<Secret>,
}

/// A new account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountCreated {
    /// Names the account; not secret.
    pub account: AccountId,
    /// The 16 digits that own the account. Shown this once and recoverable by nobody.
    pub account_key: Secret,
}

/// Asks whether an account key opens an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// The account's 16 digits; spaces and dashes between them are ignored.
    pub account_key: Secret,
}

/// Makes an API key, for whoever shows the account's digits or is logged in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRequest {
    /// The account's 16 digits; spaces and dashes between them are ignored. Left out by whoever
    /// comes with the access token of a [`Session`](super::Session).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_key: Option<Secret>,
    /// What the new key may do.
    pub scope: KeyScope,
    /// The owner's own name for the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What the key is held to.
    #[serde(flatten)]
    pub terms: KeyTerms,
}

/// What an API key is held to, beside its scope. Empty terms hold it to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTerms {
    /// The models it may ask; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelName>,
    /// How much it may use.
    #[serde(default, skip_serializing_if = "Quota::is_empty")]
    pub quota: Quota,
    /// How many requests it may make in a minute, evenly and with as many at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// When it ends, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// How much a key may use in a day and in a month of UTC; `None` for any amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Requests in a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_day: Option<u64>,
    /// Requests in a month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_month: Option<u64>,
    /// Tokens of prompts and answers in a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
    /// Tokens of prompts and answers in a month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_month: Option<u64>,
}

impl Quota {
    /// Returns whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What was used of a [`Quota`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaUse {
    /// Requests today.
    pub requests_today: u64,
    /// Requests this month.
    pub requests_this_month: u64,
    /// Tokens today.
    pub tokens_today: u64,
    /// Tokens this month.
    pub tokens_this_month: u64,
}

/// A new API key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyCreated {
    /// The key, `iris_...`. Shown this once; the coordinator keeps a hash.
    pub key: Secret,
    /// What the key may do.
    pub scope: KeyScope,
    /// Names the key, for lists and for revoking it; not secret.
    pub id: KeyId,
}

/// Names an API key; not secret. The text is 24 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 24]);

/// Says that a text is no [`KeyId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key's id is 24 characters of 0-9 and a-f")]
pub struct KeyIdError;

impl KeyId {
    /// Returns the id's text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a key's id is ASCII by construction")
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let digits: [u8; 24] = text.as_bytes().try_into().map_err(|_| KeyIdError)?;
        let valid = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if valid { Ok(Self(digits)) } else { Err(KeyIdError) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The API keys of an account, without the keys themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// The keys, the oldest first.
    pub keys: Vec<KeySummary>,
}

/// What can be told of an API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySummary {
    /// Names the key.
    pub id: KeyId,
    /// The key that it replaces, or the first of several that were replaced in turn: what it uses
    /// is counted and settled under that one's id. Absent for a key that replaces none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_as: Option<KeyId>,
    /// What it may do.
    pub scope: KeyScope,
    /// Its owner's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its last four characters, by which its owner tells it from others.
    pub ending: String,
    /// When it was made.
    pub created: u64,
    /// When it was last used, to the minute; absent if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<u64>,
    /// What it is held to.
    #[serde(flatten)]
    pub terms: KeyTerms,
    /// What was used of its quota, which it shares with the keys that it replaces.
    #[serde(default)]
    pub used: QuotaUse,
}

/// Replaces an API key by a new one with the same scope, label and terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateRequest {
    /// How many seconds longer the old key works. Default: 0.
    #[serde(default)]
    pub grace_secs: u64,
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyScope {
    /// Ask models and follow the account's own tasks.
    Inference,
    /// Connect nodes, and nothing else.
    Node,
    /// Run the network.
    Admin,
    /// Look at the network, and change nothing.
    Read,
}

impl KeyScope {
    /// Every scope, the most used first.
    pub const ALL: [Self; 4] = [Self::Inference, Self::Node, Self::Read, Self::Admin];

    /// Returns the scope's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Node => "node",
            Self::Admin => "admin",
            Self::Read => "read",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_travel_but_are_not_printed() {
        let request: KeyRequest =
            serde_json::from_str(r#"{"account_key":"1234 5678 9012 3456","scope":"node"}"#)
                .unwrap();
        assert!(!format!("{request:?}").contains("1234"));
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"account_key":"1234 5678 9012 3456","scope":"node"}"#
        );
    }

    #[test]
    fn scopes_are_written_by_their_names() {
        for scope in KeyScope::ALL {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
    }
}
