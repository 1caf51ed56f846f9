//! Sessions: what somebody who is logged in shows in place of an API key.

mod keeper;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use iris_core::AccountId;
use iris_protocol::rest::{
    LoginRequest, PasswordRequest, RefreshRequest, RegisterRequest, Session,
};
use serde_json::json;
use tokio::time::timeout;

use crate::client::{Call, Client};
use crate::error::ClientError;
pub(crate) use keeper::{Keeper, Kept};

/// How long the exchange of a refresh token may take.
const RENEWAL: Duration = Duration::from_secs(30);

/// Operations on the session of a client, from [`Client::session`].
///
/// A session stands for an API key where the client has none. It is kept in the
/// [session file](crate::ClientBuilder::with_session_file), else in memory, and renewed by itself
/// when it is about to end; the tokens are never shown.
#[derive(Clone, Copy, Debug)]
pub struct Sessions<'a> {
    client: &'a Client,
}

impl<'a> Sessions<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Opens an account with an e-mail address, or gives an account such a name, and begins a
    /// session of it.
    pub async fn register(&self, request: &RegisterRequest) -> Result<AccountId, ClientError> {
        self.begin(Call::proving("auth/register", request)).await
    }

    /// Begins a session.
    pub async fn login(&self, request: &LoginRequest) -> Result<AccountId, ClientError> {
        self.begin(Call::proving("auth/login", request)).await
    }

    /// Changes the password. All sessions of the account end, and this client begins a new one.
    pub async fn change_password(
        &self,
        request: &PasswordRequest,
    ) -> Result<AccountId, ClientError> {
        // A wrong password is no reason to renew the session, nor to try it twice.
        self.begin(Call::post("auth/password", request).shown_once()).await
    }

    /// Ends the session, if there is one; returns whether there was. It is forgotten here even
    /// where the coordinator cannot be told, which is then the error.
    pub async fn logout(&self) -> Result<bool, ClientError> {
        if self.account()?.is_none() {
            return Ok(false);
        }
        let client = self.client.without_api_key();
        let told = client.bytes(Call::post("auth/logout", &json!({}))).await;
        let keeper = self.client.keeper();
        let _lock = keeper.lock().await?;
        keeper.forget()?;
        match told {
            // It had ended before.
            Err(ClientError::SessionEnded | ClientError::Unauthorized(_)) => Ok(true),
            told => told.map(|_| true),
        }
    }

    /// Returns whose session it is, if there is one.
    pub fn account(&self) -> Result<Option<AccountId>, ClientError> {
        Ok(self.client.keeper().current()?.map(|kept| kept.account))
    }

    async fn begin(&self, call: Call) -> Result<AccountId, ClientError> {
        let session: Session = self.client.call(call).await?.0;
        let keeper = self.client.keeper();
        let _lock = keeper.lock().await?;
        Ok(keeper.keep(session)?.account)
    }
}

impl Client {
    /// Exchanges the refresh token of a session whose access token is no longer good.
    ///
    /// Whoever stops waiting does not stop the exchange: the old token is used up by then.
    pub(crate) async fn renew(&self, stale: Arc<Kept>) -> Result<Arc<Kept>, ClientError> {
        let renewal = tokio::spawn(renewed(self.clone(), stale));
        renewal.await.map_err(|_| keeper::interrupted())?
    }
}

/// Renews a session, unless another process or task has just done so. Refresh tokens are good for
/// one exchange, so nobody else may try meanwhile.
fn renewed(client: Client, stale: Arc<Kept>) -> BoxFuture<'static, Result<Arc<Kept>, ClientError>> {
    async move {
        let keeper = client.keeper();
        let _lock = keeper.lock().await?;
        let kept = keeper.current()?.ok_or(ClientError::SessionEnded)?;
        if !kept.access_token_is(&stale) {
            return Ok(kept);
        }
        let request = RefreshRequest { refresh_token: kept.refresh_token.clone() };
        let call = client.call::<Session>(Call::proving("auth/refresh", &request));
        match timeout(RENEWAL, call).await {
            Ok(Ok((session, _))) => keeper.keep(session),
            Ok(Err(ClientError::Unauthorized(refusal))) if refusal.code().is_some() => {
                keeper.forget()?;
                Err(ClientError::SessionEnded)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ClientError::Timeout(RENEWAL)),
        }
    }
    .boxed()
}
