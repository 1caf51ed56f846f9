//! The door for nodes: `GET /nodes/connect`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{
    CONNECTION, HeaderName, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use iris_core::AccountId;
use iris_protocol::transport::websocket::{WebSocket, accept_key};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Api;
use super::auth::CONNECT;
use super::connections::Place;
use super::error::ApiError;

/// How long a connection may take to change its protocol.
const UPGRADE_LIMIT: Duration = Duration::from_secs(5);

/// Lets a node in that shows a key of the scope `node`.
pub(super) async fn connect(
    State(api): State<Arc<Api>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    // A web page can open a WebSocket anywhere and its browser says so; nodes are not browsers.
    if request.headers().contains_key(ORIGIN) {
        return Err(ApiError::forbidden("Nodes do not connect from web pages."));
    }
    let owner = api.key(request.headers(), CONNECT).await?.account;
    let key = websocket_key(&request)?;
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(ApiError::bad_request("This connection cannot become a WebSocket."));
    };
    let place = request.extensions_mut().remove::<Arc<Place>>();
    tokio::spawn(admit(api, upgrade, owner, place));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, key);
    Ok(response)
}

async fn admit(api: Arc<Api>, upgrade: OnUpgrade, owner: AccountId, place: Option<Arc<Place>>) {
    let Ok(Ok(stream)) = tokio::time::timeout(UPGRADE_LIMIT, upgrade).await else { return };
    let stream = Placed { io: TokioIo::new(stream), _place: place };
    let socket = WebSocket::server_from_upgraded(stream).await;
    match api.coordinator.serve_node(socket, owner).await {
        Ok(node) => tracing::info!(%node, "node connected"),
        Err(error) => tracing::debug!(%error, "node turned away"),
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
        ApiError::bad_request("A node opens a WebSocket of version 13 here (RFC 6455).")
    })?;
    let answer = HeaderValue::try_from(accept_key(key.as_bytes()));
    Ok(answer.expect("a key's answer is base64"))
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut tokens = values.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// A node's connection, which keeps its place among the server's connections.
struct Placed {
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
