//! Reads request bodies, as far as they are allowed to go.

use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;
use iris_protocol::openai::RequestError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use super::settings::ApiSettings;

/// Bytes that are reserved on a caller's word about its body's length.
const RESERVE: usize = 64 << 10;
/// Bodies up to this many bytes need no room: connections are few enough.
const SMALL: usize = 64 << 10;
/// Bytes of room that are counted as one.
const UNIT: usize = 1 << 10;

/// Reads the bodies of all requests, which have a bounded room together.
#[derive(Debug)]
pub(super) struct Bodies {
    timeout: Duration,
    room: Arc<Semaphore>,
}

/// A body and the room that it takes, given back when nobody holds the body any more.
struct Held {
    body: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Bodies {
    pub(super) fn new(settings: &ApiSettings) -> Self {
        let units = (settings.body_memory / UNIT).min(Semaphore::MAX_PERMITS);
        Self { timeout: settings.body_timeout, room: Arc::new(Semaphore::new(units)) }
    }

    /// Reads a whole body of at most `limit` bytes in time.
    pub(super) async fn read<B: HttpBody<Data = Bytes> + Unpin>(
        &self,
        headers: &HeaderMap,
        body: B,
        limit: usize,
    ) -> Result<Bytes, ApiError> {
        let encoding = headers.get(CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(RequestError::Compressed.into());
        }
        let announced = body.size_hint().lower();
        if announced > limit as u64 {
            return Err(RequestError::TooLarge(limit).into());
        }
        let collected = tokio::time::timeout(self.timeout, self.collect(body, limit)).await;
        collected.unwrap_or_else(|_| Err(RequestError::Late.into()))
    }

    async fn collect<B: HttpBody<Data = Bytes> + Unpin>(
        &self,
        mut body: B,
        limit: usize,
    ) -> Result<Bytes, ApiError> {
        // Most bodies come in one piece, which is passed on without a copy.
        let first = next(&mut body).await?.unwrap_or_default();
        if first.len() > limit {
            return Err(RequestError::TooLarge(limit).into());
        }
        if body.is_end_stream() {
            return Ok(first);
        }
        let Some(second) = next(&mut body).await? else { return Ok(first) };
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let reserve = first.len() + second.len() + announced.min(RESERVE);
        let mut whole = BytesMut::with_capacity(reserve);
        whole.extend_from_slice(&first);
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut piece = Some(second);
        while let Some(bytes) = piece {
            let length = whole.len() + bytes.len();
            if length > limit {
                return Err(RequestError::TooLarge(limit).into());
            }
            if length > SMALL {
                // What a caller announces takes no room, only what it sends.
                let taken = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
                let more = self.take(length.div_ceil(UNIT) - taken)?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
            }
            whole.extend_from_slice(&bytes);
            piece = next(&mut body).await?;
        }
        let body = whole.freeze();
        Ok(match room {
            Some(room) => Bytes::from_owner(Held { body, _room: room }),
            None => body,
        })
    }

    fn take(&self, units: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let full = || ApiError::unavailable("There is no room for another long request now.");
        let units = u32::try_from(units).map_err(|_| full())?;
        Arc::clone(&self.room).try_acquire_many_owned(units).map_err(|_| full())
    }
}

async fn next<B: HttpBody<Data = Bytes> + Unpin>(body: &mut B) -> Result<Option<Bytes>, ApiError> {
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
    use axum::body::Body;
    use futures::stream;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ApiError> {
        let settings = ApiSettings::default().with_body_timeout(SECOND);
        Bodies::new(&settings).read(headers, body, limit).await
    }

    fn pieces(pieces: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(pieces.iter().map(|p| Ok::<_, std::io::Error>(*p))))
    }

    #[tokio::test]
    async fn body_in_pieces_is_joined_up_to_the_limit() {
        let headers = HeaderMap::new();
        let read = |body, limit| read(&headers, body, limit);
        assert_eq!(read(pieces(&["ab", "", "cd", "e"]), 5).await.unwrap(), "abcde");
        assert_eq!(read(pieces(&["ab", "cd"]), 3).await, Err(RequestError::TooLarge(3).into()));
        assert_eq!(read(Body::from("abcd"), 3).await, Err(RequestError::TooLarge(3).into()));
        assert_eq!(read(Body::empty(), 3).await.unwrap(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_does_not_come_is_given_up() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let read = read(&HeaderMap::new(), body, 10).await;
        assert_eq!(read, Err(RequestError::Late.into()));
    }

    #[tokio::test]
    async fn compressed_body_is_refused_unread() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(&headers, body, 10).await, Err(RequestError::Compressed.into()));
    }

    #[tokio::test]
    async fn long_bodies_share_a_room_and_short_ones_need_none() {
        const PIECE: &str = match str::from_utf8(&[b'x'; 50 << 10]) {
            Ok(piece) => piece,
            Err(_) => panic!("it is text"),
        };
        let bodies = Bodies::new(&ApiSettings::default().with_body_memory(250 << 10));
        let headers = HeaderMap::new();
        let read = |body| bodies.read(&headers, body, 1 << 20);
        let first = read(pieces(&[PIECE, PIECE, PIECE])).await.unwrap();
        assert_eq!((first.len(), bodies.room.available_permits()), (150 << 10, 100));
        let refused = read(pieces(&[PIECE, PIECE, PIECE])).await.unwrap_err();
        assert_eq!(refused.status(), 503);
        assert_eq!(bodies.room.available_permits(), 100, "who is refused leaves no trace");
        assert!(read(pieces(&[PIECE, "", "x"])).await.is_ok());
        let part = first.slice(..1);
        drop(first);
        assert_eq!(bodies.room.available_permits(), 100, "a part holds the whole");
        drop(part);
        assert_eq!(bodies.room.available_permits(), 250);
        assert!(read(pieces(&[PIECE, PIECE, PIECE])).await.is_ok());
    }
}
