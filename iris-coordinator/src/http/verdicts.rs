//! What was found against nodes: their owners see it and object, operators decide.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::HeaderMap;
use iris_core::Timestamp;
use iris_core::id::VerdictId;
use iris_core::store::StoreError;
use iris_core::verify::{Appeal, Flag};
use iris_protocol::rest::{
    AppealRequest, DecisionRequest, OddSign, SignList, SignSummary, VerdictPage, VerdictState,
    VerdictSummary,
};

use super::auth::{ASK, Caller, LOOK, OPERATE, RUN};
use super::error::ApiError;
use super::network::{Asked, Page};
use super::rest::read_json;
use super::{Api, json_response};
use crate::verify::{CaseRecord, VerdictError};

/// Longest body, in bytes: a text of 4 KiB may be written in six times that.
const BODY: usize = 32 << 10;

type Reply = Result<Response, ApiError>;

/// `GET /verdicts`: on the caller's own nodes, or on all for operators.
pub(super) async fn verdicts(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    asked: Asked,
) -> Reply {
    let Caller { account, key } = api.key(&headers, LOOK).await?;
    let page: Page<VerdictId> = Page::read(asked)?;
    let operates = key.is_some_and(|key| OPERATE.contains(&key.scope));
    let owner = (!operates).then_some(&account);
    let mut cases = api.coordinator.cases().page(owner, page.after, page.limit + 1).await?;
    let more = cases.len() > page.limit;
    cases.truncate(page.limit);
    let next = cases.last().filter(|_| more).map(|case| case.verdict().id);
    let verdicts = cases.iter().map(|case| summary(&api, case)).collect();
    Ok(json_response(&VerdictPage { verdicts, next }))
}

/// `GET /verdicts/{id}`: with the prompts that it follows from.
pub(super) async fn verdict(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let Caller { account, key } = api.key(&headers, LOOK).await?;
    let operates = key.is_some_and(|key| OPERATE.contains(&key.scope));
    let cases = api.coordinator.cases();
    let case = cases.case((!operates).then_some(&account), verdict_id(&id)?).await?;
    let prompts = case.prompts().to_vec();
    Ok(json_response(&VerdictSummary { prompts, ..summary(&api, &case) }))
}

/// `GET /signs`.
pub(super) async fn signs(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, OPERATE).await?;
    let signs = api.coordinator.signs().into_iter().map(|sign| SignSummary {
        node: sign.node,
        at: sign.at.as_secs(),
        sign: match sign.flag {
            Flag::TooFast { tokens_per_second } => OddSign::TooFast { tokens_per_second },
            Flag::SameAnswer { owner } => OddSign::SameAnswer { owner },
            Flag::Unanswered => OddSign::Unanswered,
            Flag::ManyNewNodes { count } => OddSign::ManyNewNodes { count },
            _ => OddSign::Other,
        },
    });
    Ok(json_response(&SignList { signs: signs.collect() }))
}

/// `POST /verdicts/{id}/appeal`.
pub(super) async fn appeal(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    let owner = api.key(&head.headers, ASK).await?.account;
    let asked: AppealRequest = read_json(&api, &head.headers, body, BODY).await?;
    let case = api.coordinator.cases().appeal(&owner, verdict_id(&id)?, &asked.text).await;
    Ok(json_response(&summary(&api, &case.map_err(|error| refused(error, "text"))?)))
}

/// `POST /verdicts/{id}/decision`.
pub(super) async fn decide(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    api.key(&head.headers, RUN).await?;
    let asked: DecisionRequest = read_json(&api, &head.headers, body, BODY).await?;
    let cases = api.coordinator.cases();
    let case = cases.decide(verdict_id(&id)?, asked.ruling, asked.reason.as_deref()).await;
    Ok(json_response(&summary(&api, &case.map_err(|error| refused(error, "reason"))?)))
}

fn summary(api: &Api, case: &CaseRecord) -> VerdictSummary {
    let verdict = case.verdict();
    VerdictSummary {
        id: verdict.id,
        node: verdict.node,
        account: verdict.owner,
        model: verdict.model.clone(),
        text: verdict.to_string(),
        at: verdict.at.as_secs(),
        appeal_until: verdict.appeal_until.as_secs(),
        state: state(case, api.coordinator.clock().calendar()),
        objection: case.objection().map(str::to_owned),
        reason: case.reason().map(str::to_owned),
        seeds: case.seeds().to_vec(),
        prompts: Vec::new(),
    }
}

fn state(case: &CaseRecord, now: Timestamp) -> VerdictState {
    match case.appeal() {
        Some(Appeal::Overturned { .. }) => VerdictState::Overturned,
        Some(Appeal::Open { .. }) => VerdictState::Appealed,
        _ if case.is_final(now) => VerdictState::Final,
        _ => VerdictState::Open,
    }
}

/// An id that cannot be one is that of no verdict.
fn verdict_id(text: &str) -> Result<VerdictId, VerdictError> {
    text.parse().map_err(|_| VerdictError::NotFound)
}

/// Says which member of a body is at fault.
fn refused(error: VerdictError, text: &'static str) -> ApiError {
    let is_text = error == VerdictError::Text;
    let error = ApiError::from(error);
    if is_text { error.with_param(text) } else { error }
}

impl From<VerdictError> for ApiError {
    fn from(error: VerdictError) -> Self {
        let message = error.to_string();
        match error {
            VerdictError::NotFound => Self::not_found(message),
            VerdictError::Appeal(_) | VerdictError::Changed => Self::conflict(message),
            VerdictError::Text => Self::bad_request(message),
            VerdictError::Store(StoreError::Unavailable(_)) => {
                Self::unavailable("The coordinator's books cannot be read or written for now.")
            }
            VerdictError::Store(error) => {
                tracing::error!(%error, "the store failed");
                Self::internal()
            }
        }
    }
}
