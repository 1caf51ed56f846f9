//! Accounts, their API keys and their fees.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, StatusCode};
use iris_core::AccountId;
use iris_protocol::rest::{
    AccountRequest, FeeRequest, KeyId, KeyList, KeyRequest, RotateRequest, VerifyRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::auth::{RUN, bearer};
use super::error::ApiError;
use super::observe::RequestContext;
use super::rest::{Reply, read_json};
use super::{Api, json_response};
use crate::accounts::{AccountError, NewKey, is_members};

/// Longest body of a request about accounts.
pub(super) const SMALL_BODY: usize = 16 << 10;

/// `POST /accounts/generate`.
pub(super) async fn generate(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    let request: AccountRequest = read_or_default(&api, &head.headers, body).await?;
    let accounts = api.coordinator.accounts();
    let created = match request.invitation {
        Some(invitation) => accounts.join(invitation.expose(), context.caller.address).await?,
        None if api.settings.open_registration => accounts.create_account().await?,
        None => return Err(AccountError::Closed.into()),
    };
    Ok(secret_response(StatusCode::CREATED, &created))
}

/// `POST /accounts/verify`.
pub(super) async fn verify(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    let request: VerifyRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    let (accounts, caller) = (api.coordinator.accounts(), context.caller.address);
    let account = accounts.find_account(request.account_key.expose(), caller).await?;
    Ok(json_response(&accounts.me(&account, true).await?))
}

/// `POST /accounts/keys`.
pub(super) async fn create_key(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    let request: KeyRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    if !is_members(request.scope) {
        return Err(AccountError::KeyScope.into());
    }
    let (accounts, caller) = (api.coordinator.accounts(), context.caller.address);
    let account = match request.account_key {
        Some(typed) => accounts.find_account(typed.expose(), caller).await?,
        None if bearer(&head.headers).is_some() => api.session(&head.headers).await?.account,
        None => return Err(AccountError::Unknown.into()),
    };
    let key = NewKey { scope: request.scope, label: request.label, terms: request.terms };
    let key = accounts.create_key_for(account, key).await?;
    Ok(secret_response(StatusCode::CREATED, &key))
}

/// `GET /accounts/keys`.
pub(super) async fn keys(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    let account = api.session(&headers).await?.account;
    let mut keys = api.coordinator.accounts().keys(&account).await.map_err(AccountError::from)?;
    for key in &mut keys {
        key.used = api.coordinator.usage_of(&key.counted_as.unwrap_or(key.id));
    }
    Ok(json_response(&KeyList { keys }))
}

/// `POST /accounts/keys/{id}/rotate`.
pub(super) async fn rotate_key(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    let account = api.session(&head.headers).await?.account;
    let id = key_id(&id)?;
    let request: RotateRequest = read_or_default(&api, &head.headers, body).await?;
    let grace = Duration::from_secs(request.grace_secs);
    let key = api.coordinator.accounts().rotate_key(&account, &id, grace).await?;
    Ok(secret_response(StatusCode::CREATED, &key))
}

/// `DELETE /accounts/keys/{id}`.
pub(super) async fn revoke_key(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let account = api.session(&headers).await?.account;
    let revoked = api.coordinator.accounts().revoke(&account, &key_id(&id)?).await;
    if revoked.map_err(AccountError::from)? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(AccountError::NoKey.into())
    }
}

/// `POST /accounts/{account}/fees`.
pub(super) async fn pay(
    State(api): State<Arc<Api>>,
    Path(account): Path<String>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    api.key(&head.headers, RUN).await?;
    let account: AccountId = account.parse().map_err(|_| AccountError::NoAccount)?;
    let fee: FeeRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    Ok(json_response(&api.coordinator.accounts().pay(&account, &fee).await?))
}

/// Reads a body that may be left out.
pub(super) async fn read_or_default<T: DeserializeOwned + Default>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, ApiError> {
    let body = api.bodies.read(headers, body, SMALL_BODY).await?;
    if body.is_empty() { Ok(T::default()) } else { super::rest::parse_json(&body) }
}

/// An id that cannot be one is the id of no key.
fn key_id(text: &str) -> Result<KeyId, ApiError> {
    text.parse().map_err(|_| AccountError::NoKey.into())
}

/// An answer with a secret that is shown this once: nobody on the way may keep it.
pub(super) fn secret_response(status: StatusCode, value: &impl Serialize) -> Response {
    let mut response = json_response(value);
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
