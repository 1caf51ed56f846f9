//! Reading bodies, as far as the coordinator would.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use iris_protocol::openai::RequestError;
use tokio::time::timeout;

/// The longest body, in bytes.
const LIMIT: usize = 32 << 20;
/// How much more is read of one that is too long, so that its sender reads why it is refused.
const REST: usize = 64 << 20;
/// How long a body may take.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, RequestError> {
    let encoding = headers.get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(RequestError::Compressed);
    }
    timeout(PATIENCE, collect(body)).await.unwrap_or(Err(RequestError::Late))
}

async fn collect(mut body: Body) -> Result<Bytes, RequestError> {
    let mut whole = BytesMut::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| RequestError::invalid("The request body broke off."))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length <= LIMIT {
            whole.extend_from_slice(&data);
        } else if length > LIMIT + REST {
            break;
        }
    }
    if length > LIMIT { Err(RequestError::TooLarge(LIMIT)) } else { Ok(whole.freeze()) }
}
