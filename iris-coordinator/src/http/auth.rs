//! Who is asking: the API key of a request, or its session.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use iris_core::AccountId;
use iris_protocol::rest::KeyScope;

use super::Api;
use super::error::ApiError;
use crate::accounts::ApiKey;

/// Scopes that may look at the network.
pub(super) const LOOK: &[KeyScope] = &[KeyScope::Inference, KeyScope::Read, KeyScope::Admin];
/// Scopes that may ask models.
pub(super) const ASK: &[KeyScope] = &[KeyScope::Inference];
/// Scopes that may connect nodes.
pub(super) const CONNECT: &[KeyScope] = &[KeyScope::Node];
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
    pub(super) async fn key(
        &self,
        headers: &HeaderMap,
        scopes: &'static [KeyScope],
    ) -> Result<Caller, ApiError> {
        let token = bearer(headers).ok_or_else(ApiError::unauthorized)?;
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
