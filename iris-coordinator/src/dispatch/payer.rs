use iris_core::AccountId;
use iris_protocol::rest::KeyId;

/// Who a task is for: an account, and the key it asks with, whose quota the task counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payer {
    /// The account.
    pub account: AccountId,
    /// Its key, by its [`meter`](crate::ApiKey::meter); `None` for who asks without one.
    pub key: Option<KeyId>,
}

impl From<AccountId> for Payer {
    fn from(account: AccountId) -> Self {
        Self { account, key: None }
    }
}
