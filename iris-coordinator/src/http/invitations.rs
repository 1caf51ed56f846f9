//! Invitations, by operators and, where they allow it, by members.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use iris_protocol::rest::{InvitationList, KeyId};

use super::accounts::{read_or_default, secret_response};
use super::auth::{RUN, bearer, is_jwt};
use super::error::ApiError;
use super::rest::Reply;
use super::{Api, json_response};
use crate::accounts::{AccountError, Giver};

/// `POST /invitations`.
pub(super) async fn create(State(api): State<Arc<Api>>, request: Request) -> Reply {
    let (head, body) = request.into_parts();
    let giver = giver(&api, &head.headers).await?;
    let request = read_or_default(&api, &head.headers, body).await?;
    let invitation = api.coordinator.accounts().invite(giver, request).await?;
    Ok(secret_response(StatusCode::CREATED, &invitation))
}

/// `GET /invitations`.
pub(super) async fn list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    let by = giver(&api, &headers).await?;
    let invitations = api.coordinator.accounts().invitations(by).await;
    let invitations = invitations.map_err(AccountError::from)?;
    Ok(json_response(&InvitationList { invitations }))
}

/// `DELETE /invitations/{id}`.
pub(super) async fn take_back(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let by = giver(&api, &headers).await?;
    let missing = || ApiError::not_found("There is no such invitation of this account.");
    let id: KeyId = id.parse().map_err(|_| missing())?;
    let taken = api.coordinator.accounts().take_back_invitation(by, &id).await;
    if taken.map_err(AccountError::from)? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(missing())
    }
}

/// Returns whose invitations a request is about: of a session, or of a key that runs the network.
async fn giver(api: &Api, headers: &HeaderMap) -> Result<Giver, ApiError> {
    Ok(if bearer(headers).is_some_and(is_jwt) {
        Giver::Member(api.session(headers).await?.account)
    } else {
        Giver::Admin(api.key(headers, RUN).await?.account)
    })
}
