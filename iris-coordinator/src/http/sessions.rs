//! Registering, logging in and out, and what an account's owner learns of it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use iris_protocol::rest::{LoginRequest, PasswordRequest, RefreshRequest, RegisterRequest, Secret};

use super::accounts::{SMALL_BODY, secret_response};
use super::auth::LOOK;
use super::error::ApiError;
use super::observe::RequestContext;
use super::rest::{Reply, read_json};
use super::{Api, json_response};
use crate::accounts::{AccountError, Registration};

/// `POST /auth/register`.
pub(super) async fn register(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    let request: RegisterRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    let registration = Registration {
        email: &request.email,
        password: request.password.expose(),
        invitation: request.invitation.as_ref().map(Secret::expose),
        account_key: request.account_key.as_ref().map(Secret::expose),
    };
    let (accounts, open) = (api.coordinator.accounts(), api.settings.open_registration);
    let session = accounts.register(registration, open, context.caller.address).await?;
    Ok(secret_response(StatusCode::CREATED, &session))
}

/// `POST /auth/login`.
pub(super) async fn log_in(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    let request: LoginRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    let (accounts, caller) = (api.coordinator.accounts(), context.caller.address);
    let session = match (&request.email, &request.password, &request.account_key) {
        (Some(email), Some(password), None) => {
            accounts.log_in(email, password.expose(), caller).await?
        }
        (None, None, Some(typed)) => accounts.log_in_with_digits(typed.expose(), caller).await?,
        _ => {
            let message = "Send either 'email' and 'password', or 'account_key'.";
            return Err(ApiError::bad_request(message));
        }
    };
    Ok(secret_response(StatusCode::OK, &session))
}

/// `POST /auth/refresh`.
pub(super) async fn refresh(State(api): State<Arc<Api>>, request: Request) -> Reply {
    let (head, body) = request.into_parts();
    let request: RefreshRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    let session = api.coordinator.accounts().refresh(request.refresh_token.expose()).await?;
    Ok(secret_response(StatusCode::OK, &session))
}

/// `POST /auth/logout`.
pub(super) async fn log_out(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    let session = api.session(&headers).await?;
    api.coordinator.accounts().log_out(&session).await.map_err(AccountError::from)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /auth/password`.
pub(super) async fn change_password(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    let account = api.session(&head.headers).await?.account;
    let request: PasswordRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    let (current, new) = (request.current.expose(), request.new.expose());
    let (accounts, caller) = (api.coordinator.accounts(), context.caller.address);
    let session = accounts.change_password(account, current, new, caller).await?;
    Ok(secret_response(StatusCode::OK, &session))
}

/// `GET /auth/me`: the e-mail address is shown to the owner, not to programs with a key.
pub(super) async fn me(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    let caller = api.key(&headers, LOOK).await?;
    let me = api.coordinator.accounts().me(&caller.account, caller.key.is_none()).await?;
    Ok(json_response(&me))
}
