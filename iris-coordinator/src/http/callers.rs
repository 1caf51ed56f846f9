//! Whom owners let their nodes answer, and what they report to the operator.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use iris_core::AccountId;
use iris_core::id::ReportId;
use iris_core::store::StoreError;
use iris_protocol::rest::{
    CallerList, CallerName, CallerNameError, CallerRequest, KeyScope, ReportCreated, ReportPage,
    ReportRequest, ReportSummary,
};

use super::auth::{OPERATE, RUN};
use super::error::ApiError;
use super::network::{Asked, Page};
use super::rest::{Reply, read_json};
use super::{Api, json_response};
use crate::AdmittanceError;
use crate::reports::{NewReport, Report, ReportError};

/// Longest body, in bytes: what an owner shows may be written in six times its 16 KiB.
const BODY: usize = 128 << 10;
/// Scopes of owners: their nodes speak for them, too.
const OWNER: &[KeyScope] = &[KeyScope::Node, KeyScope::Inference];

/// `GET /callers`.
pub(super) async fn list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    let owner = api.key(&headers, OWNER).await?.account;
    Ok(json_response(&CallerList { callers: api.coordinator.admittance().of(&owner) }))
}

/// `POST /callers`.
pub(super) async fn set(State(api): State<Arc<Api>>, request: Request) -> Reply {
    let (head, body) = request.into_parts();
    let owner = api.key(&head.headers, OWNER).await?.account;
    has_nodes(&api, &owner)?;
    let CallerRequest { caller, rule } = read_json(&api, &head.headers, body, BODY).await?;
    let said = api.coordinator.admittance().set(owner, &caller, rule).await?;
    Ok(json_response(&said))
}

/// Refuses those of whom no node ever came: nobody has asked them anything.
fn has_nodes(api: &Api, owner: &AccountId) -> Result<(), ApiError> {
    if api.coordinator.nodes_of(owner, None, 1).is_empty() {
        return Err(ApiError::forbidden("Only who has brought a node has callers."));
    }
    Ok(())
}

/// `DELETE /callers/{id}`.
pub(super) async fn lift(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let owner = api.key(&headers, OWNER).await?.account;
    let name: CallerName = name.parse().map_err(|error: CallerNameError| {
        ApiError::bad_request(error.to_string()).with_param("id")
    })?;
    if api.coordinator.admittance().lift(owner, &name).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(ApiError::not_found("You have said nothing of this caller."))
    }
}

/// `POST /reports`.
pub(super) async fn report(State(api): State<Arc<Api>>, request: Request) -> Reply {
    let (head, body) = request.into_parts();
    let owner = api.key(&head.headers, OWNER).await?.account;
    has_nodes(&api, &owner)?;
    let asked: ReportRequest = read_json(&api, &head.headers, body, BODY).await?;
    let ReportRequest { caller, task, reason, content } = asked;
    let account = caller.map(|name| api.coordinator.admittance().account(&owner, &name));
    let tag = match caller {
        Some(CallerName::Tag(tag)) => Some(tag),
        _ => None,
    };
    let new = NewReport { tag, account, task, reason, content };
    let made = api.coordinator.reports().make(owner, new).await?;
    tracing::warn!(report = %made.id, "an owner reports a caller; `iris-coordinator report list`");
    let mut response = json_response(&ReportCreated { id: made.id });
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// `GET /reports`.
pub(super) async fn reports(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    asked: Asked,
) -> Reply {
    api.key(&headers, OPERATE).await?;
    let page: Page<ReportId> = Page::read(asked)?;
    let mut found = api.coordinator.reports().page(false, page.after, page.limit + 1).await?;
    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let next = found.last().filter(|_| more).map(|report| report.id);
    let reports = found.iter().map(|report| summary(&api, report)).collect();
    Ok(json_response(&ReportPage { reports, next }))
}

/// `POST /reports/{id}/close`.
pub(super) async fn close(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Reply {
    api.key(&headers, RUN).await?;
    let id = id.parse().map_err(|_| ReportError::NotFound)?;
    let closed = api.coordinator.reports().close(id).await?;
    Ok(json_response(&summary(&api, &closed)))
}

fn summary(api: &Api, report: &Report) -> ReportSummary {
    ReportSummary {
        id: report.id,
        at: report.at.as_secs(),
        owner: report.owner,
        account: report.account,
        task: report.task,
        reason: report.reason.clone(),
        content: api.coordinator.reports().content(report),
        closed: report.closed.map(iris_core::Timestamp::as_secs),
    }
}

impl From<AdmittanceError> for ApiError {
    fn from(error: AdmittanceError) -> Self {
        match error {
            AdmittanceError::Store(error) => books(&error),
            AdmittanceError::Full => Self::conflict(error.to_string()),
            AdmittanceError::Own | AdmittanceError::NoCaller => {
                Self::bad_request(error.to_string()).with_param("caller")
            }
        }
    }
}

impl From<ReportError> for ApiError {
    fn from(error: ReportError) -> Self {
        let message = error.to_string();
        match error {
            ReportError::Nobody => Self::bad_request(message).with_param("caller"),
            ReportError::Reason => Self::bad_request(message).with_param("reason"),
            ReportError::Content => Self::bad_request(message).with_param("content"),
            ReportError::TooSoon => Self::too_many(message, 10),
            ReportError::Full => Self::too_many(message, 3600),
            ReportError::NotFound => Self::not_found(message),
            ReportError::Store(error) => books(&error),
        }
    }
}

fn books(error: &StoreError) -> ApiError {
    tracing::error!(%error, "the store failed");
    ApiError::unavailable("The coordinator's books cannot be read or written for now.")
}
