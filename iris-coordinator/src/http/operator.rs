//! What operators see of members and of the rules in force, and what they do about nodes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use iris_core::{AccountId, NodeId};
use iris_protocol::rest::{HoldList, HoldRequest, MemberPage, Policies};

use super::accounts::SMALL_BODY;
use super::auth::{OPERATE, RUN};
use super::error::ApiError;
use super::network::{Asked, Page};
use super::rest::{Reply, read_json};
use super::{Api, json_response};
use crate::accounts::AccountError;
use crate::holds::HoldError;

const DAY: u64 = 24 * 60 * 60;

/// `GET /accounts`.
pub(super) async fn members(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    asked: Asked,
) -> Reply {
    api.key(&headers, OPERATE).await?;
    let page: Page<AccountId> = Page::read(asked)?;
    let accounts = api.coordinator.accounts();
    let found = accounts.members(page.after.as_ref(), page.limit + 1).await;
    let mut found = found.map_err(AccountError::from)?;
    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let next = found.last().filter(|_| more).map(|member| member.account);
    Ok(json_response(&MemberPage { accounts: found, next }))
}

/// `GET /policies`.
pub(super) async fn policies(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, OPERATE).await?;
    let (coordinator, settings) = (&api.coordinator, &api.settings);
    let rules = coordinator.rules();
    let accounts = coordinator.accounts().policy();
    let pay = coordinator.payouts().policy();
    let days = |time: Duration| time.as_secs() / DAY;
    Ok(json_response(&Policies {
        open_registration: settings.open_registration,
        public_chat: settings.public_chat,
        member_invitations: accounts.member_invitations,
        membership_fee: accounts.membership.fee,
        trial_days: days(accounts.membership.trial),
        grace_days: days(accounts.membership.grace),
        operator_percent: accounts.membership.operator_percent,
        pay_by: pay.name().to_owned(),
        close_after_days: days(pay.close_after),
        hold_days: days(pay.hold),
        ..rules
    }))
}

/// `GET /holds`.
pub(super) async fn holds(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, OPERATE).await?;
    Ok(json_response(&HoldList { holds: api.coordinator.holds() }))
}

/// `PUT /nodes/{id}/hold`.
pub(super) async fn hold(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    api.key(&head.headers, RUN).await?;
    let node = node_id(&id)?;
    let asked: HoldRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    Ok(json_response(&api.coordinator.hold(node, asked).await?))
}

/// `DELETE /nodes/{id}/hold`.
pub(super) async fn release(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Reply {
    api.key(&headers, RUN).await?;
    if api.coordinator.release(&node_id(&id)?).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(ApiError::not_found("This node is not held."))
    }
}

/// An id that cannot be one is that of no node.
fn node_id(text: &str) -> Result<NodeId, HoldError> {
    text.parse().map_err(|_| HoldError::NoNode)
}

impl From<HoldError> for ApiError {
    fn from(error: HoldError) -> Self {
        let message = error.to_string();
        match error {
            HoldError::NoNode => Self::not_found("There is no such node."),
            HoldError::Reason => Self::bad_request(message).with_param("reason"),
            HoldError::Store(error) => AccountError::Store(error).into(),
        }
    }
}
