use iris_protocol::rest::{AccountCreated, AccountRequest, Me, Secret, VerifyRequest};

use crate::client::{Call, Client};
use crate::error::ClientError;

/// Operations on accounts, from [`Client::accounts`].
#[derive(Clone, Copy, Debug)]
pub struct Accounts<'a> {
    client: &'a Client,
}

impl<'a> Accounts<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Opens an account without a name and returns its 16 digits, which are shown this once.
    /// Networks that are closed take nobody without an invitation.
    pub async fn generate(
        &self,
        invitation: Option<Secret>,
    ) -> Result<AccountCreated, ClientError> {
        let call = Call::proving("accounts/generate", &AccountRequest { invitation });
        Ok(self.client.call(call).await?.0)
    }

    /// Asks what the account of these 16 digits is.
    pub async fn verify(&self, account_key: Secret) -> Result<Me, ClientError> {
        let call = Call::proving("accounts/verify", &VerifyRequest { account_key });
        Ok(self.client.call(call).await?.0)
    }

    /// Returns the account of the key or session that is in use.
    pub async fn me(&self) -> Result<Me, ClientError> {
        Ok(self.client.call(Call::get("auth/me")).await?.0)
    }
}
