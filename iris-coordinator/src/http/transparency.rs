//! The roster and the public log.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use iris_protocol::limits::MAX_LOG_ENTRIES;
use serde::Deserialize;

use super::auth::LOOK;
use super::error::ApiError;
use super::{Api, json_response};
use crate::transparency::TransparencyError;

type Reply = Result<Response, ApiError>;

/// `GET /roster`.
pub(super) async fn roster(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, LOOK).await?;
    let json = api.coordinator.transparency().roster().await?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// `GET /log/checkpoint`.
pub(super) async fn checkpoint(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, LOOK).await?;
    let note = api.coordinator.transparency().checkpoint();
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], note).into_response())
}

#[derive(Debug, Deserialize)]
pub(super) struct Inclusion {
    index: u64,
    size: u64,
}

/// `GET /log/inclusion`.
pub(super) async fn inclusion(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    query: Result<Query<Inclusion>, QueryRejection>,
) -> Reply {
    api.key(&headers, LOOK).await?;
    let Inclusion { index, size } = asked(query, "index and size")?;
    Ok(json_response(&api.coordinator.transparency().inclusion(index, size).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Consistency {
    from: u64,
    to: u64,
}

/// `GET /log/consistency`.
pub(super) async fn consistency(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    query: Result<Query<Consistency>, QueryRejection>,
) -> Reply {
    api.key(&headers, LOOK).await?;
    let Consistency { from, to } = asked(query, "from and to")?;
    Ok(json_response(&api.coordinator.transparency().consistency(from, to).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Entries {
    start: u64,
    count: Option<u64>,
}

/// `GET /log/entries`.
pub(super) async fn entries(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    query: Result<Query<Entries>, QueryRejection>,
) -> Reply {
    api.key(&headers, LOOK).await?;
    let Entries { start, count } = asked(query, "start and count")?;
    let count = count.unwrap_or(MAX_LOG_ENTRIES as u64);
    Ok(json_response(&api.coordinator.transparency().entries(start, count).await?))
}

fn asked<T>(query: Result<Query<T>, QueryRejection>, names: &str) -> Result<T, ApiError> {
    let wrong = |_| ApiError::bad_request(format!("The query needs the numbers {names}."));
    query.map(|Query(asked)| asked).map_err(wrong)
}

impl From<TransparencyError> for ApiError {
    fn from(error: TransparencyError) -> Self {
        match error {
            TransparencyError::Asked(what) => Self::bad_request(format!("Not in the log: {what}.")),
            TransparencyError::Store(error) => {
                tracing::error!(%error, "the public log cannot be used");
                Self::unavailable("The public log cannot be read or written now; try again.")
            }
        }
    }
}
