//! Reads request bodies, as far as they are allowed to go.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;

use super::error::ApiError;

/// Bytes that are reserved on a caller's word about its body's length.
const RESERVE: usize = 64 << 10;

/// Reads a whole body of at most `limit` bytes within `timeout`.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    timeout: Duration,
) -> Result<Bytes, ApiError> {
    let encoding = headers.get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(ApiError::compressed());
    }
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(ApiError::too_large(limit));
    }
    let collected = tokio::time::timeout(timeout, collect(body, limit)).await;
    collected.unwrap_or_else(|_| Err(ApiError::body_timeout()))
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    // Most bodies come in one piece, which is passed on without a copy.
    let first = next(&mut body).await?.unwrap_or_default();
    if first.len() > limit {
        return Err(ApiError::too_large(limit));
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = next(&mut body).await? else { return Ok(first) };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let reserve = first.len() + second.len() + announced.min(RESERVE);
    let mut whole = BytesMut::with_capacity(reserve);
    whole.extend_from_slice(&first);
    let mut piece = Some(second);
    while let Some(bytes) = piece {
        if whole.len() + bytes.len() > limit {
            return Err(ApiError::too_large(limit));
        }
        whole.extend_from_slice(&bytes);
        piece = next(&mut body).await?;
    }
    Ok(whole.freeze())
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("The request body broke off."))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pieces(pieces: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(pieces.iter().map(|p| Ok::<_, std::io::Error>(*p))))
    }

    #[tokio::test]
    async fn body_in_pieces_is_joined_up_to_the_limit() {
        let headers = HeaderMap::new();
        let read = |body, limit| read(&headers, body, limit, SECOND);
        assert_eq!(read(pieces(&["ab", "", "cd", "e"]), 5).await.unwrap(), "abcde");
        assert_eq!(read(pieces(&["ab", "cd"]), 3).await, Err(ApiError::too_large(3)));
        assert_eq!(read(Body::from("abcd"), 3).await, Err(ApiError::too_large(3)));
        assert_eq!(read(Body::empty(), 3).await.unwrap(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_does_not_come_is_given_up() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let read = read(&HeaderMap::new(), body, 10, SECOND).await;
        assert_eq!(read, Err(ApiError::body_timeout()));
    }

    #[tokio::test]
    async fn compressed_body_is_refused_unread() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(&headers, body, 10, SECOND).await, Err(ApiError::compressed()));
    }
}
