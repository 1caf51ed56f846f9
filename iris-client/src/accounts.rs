use iris_protocol::rest::{AccountCreated, KeyCreated, KeyRequest};

use crate::client::{Call, Client};
use crate::error::ClientError;

/// Operations on accounts, from [`Client::accounts`].
///
/// Both answers hold secrets that are shown once, so neither request is ever repeated.
#[derive(Clone, Copy, Debug)]
pub struct Accounts<'a> {
    client: &'a Client,
}

impl<'a> Accounts<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Opens an account and returns its 16-digit key.
    pub async fn generate(&self) -> Result<AccountCreated, ClientError> {
        self.send(Call::post("accounts/generate", &serde_json::json!({}))).await
    }

    /// Exchanges an account key for an API key.
    pub async fn create_key(&self, request: &KeyRequest) -> Result<KeyCreated, ClientError> {
        self.send(Call::post("accounts/keys", request)).await
    }

    async fn send<T: serde::de::DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        if !self.client.keys_are_safe() {
            return Err(ClientError::PlainHttp);
        }
        Ok(self.client.call(call).await?.0)
    }
}
