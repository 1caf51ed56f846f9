//! How a connection becomes a WebSocket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use iris_protocol::transport::websocket::{WebSocket, accept_key};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::Place;
use super::error::ApiError;

/// How long a connection may take to change its protocol.
const UPGRADE_LIMIT: Duration = Duration::from_secs(5);

/// A connection that is about to become a WebSocket.
pub(super) struct Upgrade {
    connection: OnUpgrade,
    place: Option<Arc<Place>>,
}

impl Upgrade {
    /// Agrees to a request for a WebSocket: returns the answer, and what the connection becomes
    /// once that is sent.
    pub(super) fn agree(request: &mut Request) -> Result<(Response, Self), ApiError> {
        let key = websocket_key(request)?;
        let Some(connection) = request.extensions_mut().remove::<OnUpgrade>() else {
            return Err(ApiError::bad_request("This connection cannot become a WebSocket."));
        };
        let place = request.extensions_mut().remove::<Arc<Place>>();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, key);
        Ok((response, Self { connection, place }))
    }

    /// Waits for the connection; `None` where it broke before.
    pub(super) async fn open(self) -> Option<WebSocket<Placed>> {
        let opened = tokio::time::timeout(UPGRADE_LIMIT, self.connection).await;
        let stream = Placed { io: TokioIo::new(opened.ok()?.ok()?), _place: self.place };
        Some(WebSocket::server_from_upgraded(stream).await)
    }
}

/// Checks the opening handshake of RFC 6455 and returns the answer to its key.
pub(super) fn websocket_key(request: &Request) -> Result<HeaderValue, ApiError> {
    let headers = request.headers();
    let opens = request.method() == Method::GET
        && has_token(headers, CONNECTION, "upgrade")
        && has_token(headers, UPGRADE, "websocket")
        && headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24 && opens);
    let key = key.ok_or_else(|| {
        ApiError::bad_request("This is the place of a WebSocket of version 13 (RFC 6455).")
    })?;
    let answer = HeaderValue::try_from(accept_key(key.as_bytes()));
    Ok(answer.expect("a key's answer is base64"))
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut tokens = values.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// A connection, which keeps its place among the server's connections.
pub(super) struct Placed {
    io: TokioIo<Upgraded>,
    _place: Option<Arc<Place>>,
}
impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
