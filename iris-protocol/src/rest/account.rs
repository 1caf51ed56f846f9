use iris_core::AccountId;
use serde::{Deserialize, Serialize};

use super::Secret;

/// A new account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountCreated {
    /// Names the account; not secret.
    pub account: AccountId,
    /// The 16 digits that own the account. Shown this once and recoverable by nobody.
    pub account_key: Secret,
}

/// Exchanges an account key for an API key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRequest {
    /// The account's 16 digits; spaces and dashes between them are ignored.
    pub account_key: Secret,
    /// What the new key may do.
    pub scope: KeyScope,
    /// The owner's own name for the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// A new API key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyCreated {
    /// The key, `iris_...`. Shown this once; the coordinator keeps a hash.
    pub key: Secret,
    /// What the key may do.
    pub scope: KeyScope,
    /// Names the key, for lists and for revoking it; not secret.
    pub id: String,
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
