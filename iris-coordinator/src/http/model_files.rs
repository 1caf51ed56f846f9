//! Model files for nodes, where the operator gives a folder of them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use data_encoding::BASE64;
use futures::{Stream, StreamExt};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use iris_protocol::rest::{KeyScope, ModelFileList};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::rest::Reply;
use super::{Api, json_response};
use crate::model_folder::{Given, ModelFolder, NotGiven, Place};

/// Scopes that may have files: whoever runs models, and the operator.
const RUNNER: &[KeyScope] = &[KeyScope::Node, KeyScope::Admin];
/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// `GET /model-files`.
pub(super) async fn list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Reply {
    api.key(&headers, RUNNER).await?;
    let files = folder(&api)?.list().await;
    Ok(json_response(&ModelFileList { files }))
}

/// `GET /model-files/{id}`.
pub(super) async fn file(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let account = api.key(&headers, RUNNER).await?.account;
    let given = folder(&api)?.give(account, &name).await.map_err(|error| match error {
        NotGiven::Unknown => ApiError::not_found("There is no model file of this name."),
        NotGiven::Hashing => ApiError::unavailable("The file is being hashed, as it is new here."),
        NotGiven::Busy => ApiError::unavailable("Too many are downloading now."),
        NotGiven::Unreadable => ApiError::unavailable("The file cannot be read now."),
    })?;
    Ok(answer(&headers, given, api.stopping.clone()))
}

fn folder(api: &Api) -> Result<&Arc<ModelFolder>, ApiError> {
    let none = || ApiError::not_found("This coordinator has no model folder.");
    api.model_folder.as_ref().ok_or_else(none)
}

fn answer(asked: &HeaderMap, given: Given, stopping: CancellationToken) -> Response {
    let Given { file, size, digest, place } = given;
    let tag = format!("\"{}\"", digest.to_hex());
    let text = |name: HeaderName| asked.get(name).and_then(|value| value.to_str().ok());
    let is_same = text(header::IF_RANGE).is_none_or(|known| known == tag);
    let range = text(header::RANGE).filter(|_| is_same).map_or(Wanted::All, |r| wanted(r, size));
    let (status, range) = match range {
        Wanted::All => (StatusCode::OK, 0..size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
    };
    let content_range = match status {
        StatusCode::OK => None,
        StatusCode::PARTIAL_CONTENT => {
            Some(format!("bytes {}-{}/{size}", range.start, range.end - 1))
        }
        _ => Some(format!("bytes */{size}")),
    };
    let length = range.end - range.start;
    let mut response = if length == 0 {
        StatusCode::OK.into_response()
    } else {
        // Whoever is cut off goes on where it was.
        let read = read(file, range, place).take_until(stopping.cancelled_owned());
        Body::from_stream(read).into_response()
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let digest = format!("blake3=:{}:", BASE64.encode(digest.as_bytes()));
    let told = [
        (header::ETAG, Some(tag)),
        (REPR_DIGEST, Some(digest)),
        (header::CONTENT_RANGE, content_range),
    ];
    for (name, value) in told {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let binary = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, binary);
    response
}

/// What of a file is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// All, also where several parts are asked for, or something that cannot be read.
    All,
    Part(Range<u64>),
    /// A part that the file does not have.
    Nothing,
}

/// Reads `bytes=5-9`, `bytes=5-` or `bytes=-5`.
fn wanted(range: &str, size: u64) -> Wanted {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A number beyond all files is one past the end.
    let number = |text: &str| text.parse().unwrap_or(u64::MAX);
    let range = match (is_number(first), is_number(last)) {
        (true, true) => number(first)..number(last).saturating_add(1).min(size),
        (true, false) if last.is_empty() => number(first)..size,
        (false, true) if first.is_empty() => size.saturating_sub(number(last))..size,
        _ => return Wanted::All,
    };
    if is_number(first) && is_number(last) && number(first) > number(last) {
        return Wanted::All;
    }
    if range.is_empty() { Wanted::Nothing } else { Wanted::Part(range) }
}

/// Reads a part of a file as fast as it is taken; its place is taken until then.
fn read(file: File, range: Range<u64>, place: Place) -> impl Stream<Item = io::Result<Bytes>> {
    let begin = Some((file, range, place));
    futures::stream::unfold(begin, |state| async move {
        let (file, range, place) = state?;
        if range.is_empty() {
            return None;
        }
        match spawn_blocking(move || piece(file, range)).await {
            Ok(Ok((piece, file, range))) => Some((Ok(piece), Some((file, range, place)))),
            Ok(Err(error)) => Some((Err(error), None)),
            Err(error) => Some((Err(io::Error::other(error)), None)),
        }
    })
}

/// Reads the next bytes of a part; an error where the file has become shorter.
fn piece(mut file: File, range: Range<u64>) -> io::Result<(Bytes, File, Range<u64>)> {
    let length = usize::try_from(range.end - range.start).unwrap_or(PIECE).min(PIECE);
    let mut piece = vec![0; length];
    file.seek(SeekFrom::Start(range.start))?;
    file.read_exact(&mut piece)?;
    Ok((piece.into(), file, range.start + length as u64..range.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_has_them() {
        let part = |range| Wanted::Part(range);
        for (text, expected) in [
            ("bytes=0-9", part(0..10)),
            ("bytes=5-", part(5..10)),
            ("bytes=5-5", part(5..6)),
            ("bytes=5-99999999999999999999", part(5..10)),
            ("bytes=-3", part(7..10)),
            ("bytes=-30", part(0..10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=99999999999999999999-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=6-5", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("bytes=", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("lines=0-9", Wanted::All),
            ("", Wanted::All),
        ] {
            assert_eq!(wanted(text, 10), expected, "{text}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
    }
}
