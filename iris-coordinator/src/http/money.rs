//! What members are paid, and what operators do about money.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use iris_core::{AccountId, Epoch};
use iris_protocol::rest::{
    BalanceList, MonthList, MonthSummary, PaidRequest, Payout, PayoutPage, RunningMonth, Statement,
    TopUpRequest,
};

use super::accounts::SMALL_BODY;
use super::auth::{OPERATE, OWN, RUN};
use super::error::ApiError;
use super::network::{Asked, Page};
use super::rest::read_json;
use super::{Api, json_response};
use crate::accounts::AccountError;
use crate::payouts::{MonthRecord, PayoutError, ShareRecord};

type Reply = Result<Response, ApiError>;

/// `GET /payouts`: of the caller's own.
pub(super) async fn payouts(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    asked: Asked,
) -> Reply {
    let account = api.key(&headers, OWN).await?.account;
    let page: Page<Epoch> = Page::read(asked)?;
    let payouts = api.coordinator.payouts();
    let mut shares = Vec::new();
    let months = payouts.months().await?;
    for month in months.iter().filter(|month| page.after.is_none_or(|after| month.epoch < after)) {
        if let Some(share) = payouts.share(month.epoch, &account).await? {
            shares.push(payout(share, month));
        }
        if shares.len() > page.limit {
            break;
        }
    }
    let more = shares.len() > page.limit;
    shares.truncate(page.limit);
    let next = shares.last().filter(|_| more).map(|share| share.epoch);
    Ok(json_response(&PayoutPage { payouts: shares, next }))
}

/// `GET /months`.
pub(super) async fn months(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, OWN).await?;
    let payouts = api.coordinator.payouts();
    let months = payouts.months().await?.into_iter().map(summary).collect();
    let (epoch, pool) = payouts.running().await?;
    let policy = payouts.policy().name().to_owned();
    let tested = api.coordinator.cases().checks();
    let running = Some(RunningMonth { epoch, policy, pool, tested });
    Ok(json_response(&MonthList { months, running }))
}

/// `GET /months/next`: how the first month that is not closed would be shared now.
pub(super) async fn preview(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, OPERATE).await?;
    let preview = api.coordinator.payouts().preview().await?;
    let nothing = || ApiError::not_found("There has been neither money nor work to share.");
    Ok(json_response(&preview.ok_or_else(nothing)?))
}

/// `GET /months/{month}`: the caller's own statement.
pub(super) async fn statement(
    State(api): State<Arc<Api>>,
    Path(month): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let account = api.key(&headers, OWN).await?.account;
    let payouts = api.coordinator.payouts();
    let month = payouts.month(epoch(&month)?).await?;
    let share = payouts.share(month.epoch, &account).await?;
    let weight = share.as_ref().map(|share| share.weight.clone()).unwrap_or_default();
    Ok(json_response(&Statement {
        pseudonym: payouts.pseudonym(&account),
        payout: share.map(|share| payout(share, &month)),
        month: summary(month),
        weight: weight.weight,
        parts: weight.parts,
    }))
}

/// `POST /months/{month}/close`.
pub(super) async fn close(
    State(api): State<Arc<Api>>,
    Path(month): Path<String>,
    headers: HeaderMap,
) -> Reply {
    api.key(&headers, RUN).await?;
    let closed = api.coordinator.payouts().close(epoch(&month)?).await?;
    Ok(json_response(&summary(closed)))
}

/// `GET /months/{month}/books`: JSON lines.
pub(super) async fn books(
    State(api): State<Arc<Api>>,
    Path(month): Path<String>,
    headers: HeaderMap,
) -> Reply {
    api.key(&headers, OPERATE).await?;
    let epoch = epoch(&month)?;
    // An export borrows what it reads from, and a response outlives this call: lines travel.
    let (lines, read) = tokio::sync::mpsc::channel(64);
    api.coordinator.payouts().month(epoch).await?;
    tokio::spawn(async move {
        let payouts = api.coordinator.payouts();
        let written = async {
            let mut export = std::pin::pin!(payouts.export(epoch).await?);
            while let Some(line) = export.try_next().await? {
                let mut text = serde_json::to_vec(&line).expect("lines have a JSON form");
                text.push(b'\n');
                if lines.send(Ok(Bytes::from(text))).await.is_err() {
                    break;
                }
            }
            Ok::<_, PayoutError>(())
        };
        if let Err(error) = written.await {
            tracing::error!(%error, month = %epoch, "an export was cut off");
            // The response ends without its last chunk, so that nobody takes it for whole.
            let _ = lines.send(Err(std::io::Error::other("the export was cut off"))).await;
        }
    });
    let lines = futures::stream::unfold(read, |mut read| async move {
        read.recv().await.map(|line| (line, read))
    });
    let body = axum::body::Body::from_stream(lines.boxed());
    Ok(([(CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// `GET /months/{month}/payouts`: of all owners.
pub(super) async fn all_payouts(
    State(api): State<Arc<Api>>,
    Path(month): Path<String>,
    headers: HeaderMap,
) -> Reply {
    api.key(&headers, OPERATE).await?;
    let payouts = api.coordinator.payouts();
    let month = payouts.month(epoch(&month)?).await?;
    let shares = payouts.shares(month.epoch).await?.into_iter();
    let payouts = shares.map(|share| payout(share, &month)).collect();
    Ok(json_response(&PayoutPage { payouts, next: None }))
}

/// `POST /months/{month}/payouts/{account}`.
pub(super) async fn mark_paid(
    State(api): State<Arc<Api>>,
    Path((month, account)): Path<(String, String)>,
    request: Request,
) -> Reply {
    let (head, body) = request.into_parts();
    api.key(&head.headers, RUN).await?;
    let (payouts, epoch) = (api.coordinator.payouts(), epoch(&month)?);
    let owner: AccountId = account.parse().map_err(|_| PayoutError::NoShare(epoch))?;
    let paid: PaidRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    let share = payouts.mark_paid(epoch, &owner, &paid.reference).await?;
    Ok(json_response(&payout(share, &payouts.month(epoch).await?)))
}

/// `POST /pool`.
pub(super) async fn top_up(State(api): State<Arc<Api>>, request: Request) -> Reply {
    let (head, body) = request.into_parts();
    api.key(&head.headers, RUN).await?;
    let asked: TopUpRequest = read_json(&api, &head.headers, body, SMALL_BODY).await?;
    api.coordinator.payouts().top_up(asked.amount, &asked.reference).await?;
    held(&api).await
}

/// `GET /balances`.
pub(super) async fn balances(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, OPERATE).await?;
    held(&api).await
}

async fn held(api: &Api) -> Reply {
    let balances = api.coordinator.payouts().balances().await?;
    let books = balances.books().map(|(book, amount)| (book.to_string(), amount));
    Ok(json_response(&BalanceList { balances: books.collect() }))
}

fn epoch(text: &str) -> Result<Epoch, ApiError> {
    text.parse().map_err(|error: iris_core::epoch::EpochError| {
        ApiError::bad_request(format!("{error}.")).with_param("month")
    })
}

fn summary(month: MonthRecord) -> MonthSummary {
    MonthSummary {
        epoch: month.epoch,
        policy: month.policy,
        pool: month.pool,
        carried: month.carried,
        owners: month.owners,
        weight: month.weight,
        closed: month.closed.as_secs(),
        release: month.release.as_secs(),
    }
}

fn payout(share: ShareRecord, month: &MonthRecord) -> Payout {
    Payout {
        epoch: share.epoch,
        account: share.owner,
        amount: share.amount,
        state: share.state.name().to_owned(),
        since: share.at.as_secs(),
        release: month.release.as_secs(),
        reference: share.reference,
    }
}

impl From<PayoutError> for ApiError {
    fn from(error: PayoutError) -> Self {
        let message = error.to_string();
        match error {
            PayoutError::TooEarly(..)
            | PayoutError::Order(_)
            | PayoutError::NotOwed(_)
            | PayoutError::Rules(_)
            | PayoutError::OtherRules { .. }
            | PayoutError::Clock { .. }
            | PayoutError::ClockSet { .. }
            | PayoutError::Changed(_) => Self::conflict(message),
            PayoutError::Reused => Self::conflict(message).with_param("reference"),
            PayoutError::NotClosed(_) | PayoutError::NoShare(_) => Self::not_found(message),
            PayoutError::Reference => Self::bad_request(message).with_param("reference"),
            PayoutError::Amount => Self::bad_request(message).with_param("amount"),
            PayoutError::Store(error) => AccountError::Store(error).into(),
        }
    }
}
