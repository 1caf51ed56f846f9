//! Who is asking: the API key of a request, or its session.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use iris_core::AccountId;
use iris_crypto::jwt::Claims;
use iris_protocol::rest::KeyScope;

use super::Api;
use super::error::ApiError;
use crate::accounts::ApiKey;

/// Scopes that may look at the network.
pub(super) const LOOK: &[KeyScope] = &[KeyScope::Inference, KeyScope::Read, KeyScope::Admin];
/// Scopes that may look at what is their own account's, and at the months: also a node's, which is
/// kept on a machine that runs others' requests.
pub(super) const OWN: &[KeyScope] =
    &[KeyScope::Inference, KeyScope::Node, KeyScope::Read, KeyScope::Admin];
/// Scopes that may ask models.
pub(super) const ASK: &[KeyScope] = &[KeyScope::Inference];
/// Scopes that may connect nodes.
pub(super) const CONNECT: &[KeyScope] = &[KeyScope::Node];
/// Scopes that may run the network.
pub(super) const RUN: &[KeyScope] = &[KeyScope::Admin];
/// Scopes that may read the operator's figures.
pub(super) const OPERATE: &[KeyScope] = &[KeyScope::Read, KeyScope::Admin];

/// Who a request comes from.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The account that asks.
    pub(super) account: AccountId,
    /// The API key it asks with; `None` for a session.
    pub(super) key: Option<ApiKey>,
}

impl Api {
    /// Returns who a request comes from, if its token is known and has one of `scopes`.
    ///
    /// A session does what its owner does: whatever a key of the scope `inference` may do.
    pub(super) async fn key(
        &self,
        headers: &HeaderMap,
        scopes: &'static [KeyScope],
    ) -> Result<Caller, ApiError> {
        let token = bearer(headers).ok_or_else(ApiError::unauthorized)?;
        if is_jwt(token) {
            let account = self.session_of(token)?.account;
            return if scopes.contains(&KeyScope::Inference) {
                Ok(Caller { account, key: None })
            } else {
                Err(ApiError::forbidden("A session may not do this; it takes an API key."))
            };
        }
        let found = self.coordinator.accounts().find(token).await;
        let key = found.map_err(|error| {
            tracing::error!(%error, "an API key could not be looked up");
            ApiError::unavailable("The key could not be looked up; try again.")
        })?;
        let key = key.ok_or_else(ApiError::unauthorized)?;
        if scopes.contains(&key.scope) {
            return Ok(Caller { account: key.account, key: Some(key) });
        }
        let scope = key.scope.as_str();
        Err(ApiError::forbidden(format!("A key of the scope '{scope}' may not do this.")))
    }

    /// Returns the session that a request belongs to. What concerns an account itself is its
    /// owner's, who logs in; API keys are given away.
    pub(super) async fn session(&self, headers: &HeaderMap) -> Result<Claims, ApiError> {
        let token = bearer(headers).ok_or_else(ApiError::unauthorized)?;
        if is_jwt(token) {
            return self.session_of(token);
        }
        // Whether a key is known is told before what it may do.
        self.key(headers, &KeyScope::ALL).await?;
        let message = "An API key may not do this. Log in by POST /auth/login and come with the \
                       access token.";
        Err(ApiError::forbidden(message))
    }

    fn session_of(&self, token: &str) -> Result<Claims, ApiError> {
        self.coordinator.accounts().session(token).ok_or_else(ApiError::no_session)
    }
}

/// Returns whether a token is meant to be an access token: API keys have no dots.
pub(super) fn is_jwt(token: &str) -> bool {
    token.contains('.')
}

/// Returns the token of `Authorization: Bearer`; the scheme's case does not matter.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_found_in_the_header_alone() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read("Bearer a"), Some("a".to_owned()));
        assert_eq!(read("bearer  a "), Some("a".to_owned()));
        assert_eq!(read("Basic a"), None);
        assert_eq!(read("a"), None);
    }
}
