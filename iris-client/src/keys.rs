use iris_protocol::rest::{KeyCreated, KeyId, KeyList, KeyRequest, KeySummary, RotateRequest};

use crate::client::{Call, Client};
use crate::error::ClientError;

/// Operations on the API keys of one's account, from [`Client::keys`].
///
/// All but [`create`](Self::create) need a session. A new key is shown once, so what makes one is
/// never repeated.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    client: &'a Client,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Makes a key, for the account whose digits the request holds, else for that of the session.
    pub async fn create(&self, request: &KeyRequest) -> Result<KeyCreated, ClientError> {
        let call = match request.account_key {
            Some(_) => Call::proving("accounts/keys", request),
            None => Call::post("accounts/keys", request),
        };
        Ok(self.client.call(call).await?.0)
    }

    /// Lists the keys, the oldest first.
    pub async fn list(&self) -> Result<Vec<KeySummary>, ClientError> {
        Ok(self.client.call::<KeyList>(Call::get("accounts/keys")).await?.0.keys)
    }

    /// Replaces a key by a new one with the same scope, label and terms.
    pub async fn rotate(
        &self,
        key: KeyId,
        request: &RotateRequest,
    ) -> Result<KeyCreated, ClientError> {
        let call = Call::post(format!("accounts/keys/{key}/rotate"), request);
        Ok(self.client.call(call).await?.0)
    }

    /// Ends a key at once.
    pub async fn revoke(&self, key: KeyId) -> Result<(), ClientError> {
        self.client.bytes(Call::delete(format!("accounts/keys/{key}"))).await.map(drop)
    }
}
