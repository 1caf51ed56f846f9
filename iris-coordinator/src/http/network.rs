//! What members see of the network, page by page: its figures, its nodes, their ranking, and each
//! member's own tasks. Nothing here names an owner, an address or another's account.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use http::HeaderMap;
use iris_core::NodeId;
use iris_core::store::StoreError;
use iris_protocol::rest::{NetworkStats, NodeList, OwnNodeList};
use serde::Deserialize;

use super::auth::{ASK, LOOK};
use super::error::ApiError;
use super::{Api, json_response};
use crate::Coordinator;

/// Entries of a page where its reader names no number.
const USUAL: usize = 50;
/// Most entries of a page.
const MOST: usize = 500;

type Reply = Result<Response, ApiError>;
pub(super) type Asked = Result<Query<Paging>, QueryRejection>;

/// Which page is asked for. Both are texts, so that each is refused by its name.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Paging {
    limit: Option<String>,
    after: Option<String>,
}

/// The page that is asked for, after a place of its list.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) limit: usize,
    pub(super) after: Option<T>,
}

impl<T: FromStr> Page<T> {
    pub(super) fn read(asked: Asked) -> Result<Self, ApiError> {
        let unreadable = |_| ApiError::bad_request("The query cannot be read.");
        let Query(Paging { limit, after }) = asked.map_err(unreadable)?;
        let limit = match limit.map(|text| text.parse()) {
            None => USUAL,
            Some(Ok(limit)) if (1..=MOST).contains(&limit) => limit,
            Some(_) => {
                let message = format!("'limit' must be a whole number from 1 to {MOST}.");
                return Err(ApiError::bad_request(message).with_param("limit"));
            }
        };
        let wrong = |_| {
            let message = "'after' must be the 'next' of an earlier page of the same list.";
            ApiError::bad_request(message).with_param("after")
        };
        let after = after.map(|text| text.parse().map_err(wrong)).transpose()?;
        Ok(Self { limit, after })
    }
}

/// `GET /stats`.
pub(super) async fn stats(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, LOOK).await?;
    Ok(json_response(&figures(&api.coordinator)))
}

/// Returns the network's figures.
pub(super) fn figures(coordinator: &Coordinator) -> NetworkStats {
    let stats = coordinator.stats();
    NetworkStats {
        nodes: stats.nodes as u64,
        slots: stats.slots,
        running: stats.slots_in_use,
        waiting: stats.queued as u64,
        models: coordinator.models().len() as u64,
        finished: stats.finished,
        failed: stats.failed + stats.expired,
        tokens: stats.completion_tokens,
        since: coordinator.since().as_secs(),
    }
}

/// `GET /nodes`.
pub(super) async fn nodes(State(api): State<Arc<Api>>, headers: HeaderMap, asked: Asked) -> Reply {
    api.key(&headers, LOOK).await?;
    let page: Page<NodeId> = Page::read(asked)?;
    let mut nodes = api.coordinator.nodes_after(page.after.as_ref(), page.limit + 1);
    let more = nodes.len() > page.limit;
    nodes.truncate(page.limit);
    let next = nodes.last().filter(|_| more).map(|node| node.id);
    Ok(json_response(&NodeList { nodes, next }))
}

/// `GET /account/nodes`: the caller's own, connected or not.
pub(super) async fn own_nodes(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    asked: Asked,
) -> Reply {
    let account = api.key(&headers, LOOK).await?.account;
    let page: Page<NodeId> = Page::read(asked)?;
    let mut nodes = api.coordinator.nodes_of(&account, page.after.as_ref(), page.limit + 1);
    let more = nodes.len() > page.limit;
    nodes.truncate(page.limit);
    let next = nodes.last().filter(|_| more).map(|node| node.why.id);
    Ok(json_response(&OwnNodeList { nodes, next }))
}

/// `GET /reputation`.
pub(super) async fn reputation(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    asked: Asked,
) -> Reply {
    api.key(&headers, LOOK).await?;
    let page = Page::read(asked)?;
    Ok(json_response(&api.coordinator.ranking(page.after.as_ref(), page.limit).await))
}

/// `GET /history`: of the caller's own tasks.
pub(super) async fn history(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    asked: Asked,
) -> Reply {
    let account = api.key(&headers, ASK).await?.account;
    let page = Page::read(asked)?;
    let history = api.coordinator.history(&account, page.after.as_ref(), page.limit).await;
    Ok(json_response(&history.map_err(unreadable)?))
}

/// `GET /receipts`: of the caller's own sealed tasks.
pub(super) async fn receipts(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    asked: Asked,
) -> Reply {
    let account = api.key(&headers, ASK).await?.account;
    let page = Page::read(asked)?;
    let receipts = api.coordinator.receipts(&account, page.after.as_ref(), page.limit).await;
    Ok(json_response(&receipts.map_err(unreadable)?))
}

fn unreadable(error: StoreError) -> ApiError {
    match error {
        StoreError::Unavailable(_) => {
            ApiError::unavailable("The coordinator's books cannot be read for now.")
        }
        error => {
            tracing::error!(%error, "a history cannot be read");
            ApiError::internal()
        }
    }
}
