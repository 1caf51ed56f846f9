//! The server around the API: sockets, TLS, and limits for strangers.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::{IntoResponse, Response};
use axum::routing::future::RouteFuture;
use futures::future::{BoxFuture, Either};
use http::header::UPGRADE;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use iris_core::backend::Operation;
use iris_protocol::transport::tcp::Patient;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connections::{Connections, Crowded, Place};
use super::descriptors;
use super::linger::{Lingering, Unread, Watched};
use super::listener::Listener;
use super::observe::observe;
use super::settings::ServerSettings;
use super::tls::{Tls, TlsError, TlsReloader};
use super::{Api, openai, routes, sealed};
use crate::Coordinator;

/// Longest head of a request; it may have 100 headers.
const MAX_HEAD: usize = 16 << 10;
/// Bytes of a connection that are buffered.
const MAX_BUFFER: usize = 64 << 10;
/// How often TLS files are looked at.
const TLS_CHECK: Duration = Duration::from_secs(30);
/// How long the server waits after it could not accept, such as for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How often that is said.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(10);
/// Connections that are told at a time that there is no place for them.
const REFUSING: usize = 64;
/// How long such a connection may take to listen.
const REFUSE_LIMIT: Duration = Duration::from_secs(1);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\ncontent-length: 140\r\nretry-after: 10\r\n\
    connection: close\r\n\r\n\
    {\"error\":{\"message\":\"The coordinator has no room for another connection.\",\
    \"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Keys and prompts would cross a network in clear.
    #[error(
        "{0} can be reached from other machines, and plain HTTP there lets anybody read keys and \
         prompts: give a TLS certificate, name the proxy that ends TLS in front of this server, \
         or listen on the loopback interface"
    )]
    PlainOffLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("{address} cannot be listened on: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// The TLS files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// An HTTP server in front of a coordinator.
pub struct Server<L = TcpListener> {
    listener: L,
    shared: Arc<Shared>,
    drain: Duration,
}

impl Server {
    /// Listens as `settings` say; connections wait until [`run`](Self::run) is called.
    pub async fn bind(
        coordinator: Coordinator,
        mut settings: ServerSettings,
    ) -> Result<Self, ServeError> {
        let address = settings.listen;
        let guarded = settings.tls.is_some() || !settings.api.trusted_proxies.is_empty();
        if !address.ip().to_canonical().is_loopback() && !guarded {
            return Err(ServeError::PlainOffLoopback(address));
        }
        let listen = |cause| ServeError::Listen { address, cause };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let room = descriptors::room();
        if room < settings.max_connections {
            tracing::warn!(connections = room, "the limit of open files bounds the connections");
            settings.max_connections = room;
        }
        Ok(Self::over(listener, coordinator, settings)?)
    }
}

impl<L: Listener> Server<L> {
    /// Serves what comes through `listener`; the address in `settings` is not used, and whether
    /// plain HTTP is safe there is for the caller to know.
    pub fn over(
        listener: L,
        coordinator: Coordinator,
        settings: ServerSettings,
    ) -> Result<Self, TlsError> {
        let drain = settings.drain;
        let shared = Arc::new(Shared::new(coordinator, settings)?);
        Ok(Self { listener, shared, drain })
    }

    /// Returns the address that callers connect to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns what reads the TLS files again; `None` without TLS.
    pub fn tls_reloader(&self) -> Option<TlsReloader> {
        self.shared.tls.as_ref().map(Tls::reloader)
    }

    /// Serves until `shutdown` resolves, then takes no new connection and lets running requests
    /// finish within the drain limit.
    ///
    /// Connections of nodes belong to the coordinator and outlive this; shut it down afterwards.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut tls_check = tokio::time::interval(TLS_CHECK);
        let mut complained: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                _ = tls_check.tick() => self.shared.check_tls(),
                Some(_) = tasks.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((io, peer)) => self.shared.begin(io, peer, &stop, &mut tasks),
                    Err(error) => {
                        if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_AGAIN) {
                            tracing::warn!(%error, "no connection can be accepted");
                            complained = Some(Instant::now());
                        }
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
        drop(self.listener);
        stop.cancel();
        self.shared.api.stopping.cancel();
        let finish = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.drain, finish).await.is_err() {
            tracing::warn!(connections = tasks.len(), "requests were cut off at the end");
            // What they were at is settled before the books close.
            tasks.shutdown().await;
        }
    }
}

impl<L> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// What all connections share.
struct Shared {
    api: Arc<Api>,
    router: Router,
    http: http1::Builder,
    tls: Option<Arc<Tls>>,
    connections: Arc<Connections>,
    refusing: Arc<Semaphore>,
    first_request: Duration,
    stall: Duration,
}

impl Shared {
    fn new(coordinator: Coordinator, settings: ServerSettings) -> Result<Self, TlsError> {
        let tls = settings.tls.map(Tls::load).transpose()?.map(Arc::new);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .header_read_timeout(settings.idle);
        let connections = Connections::new(
            settings.max_connections,
            settings.max_connections_per_address,
            settings.api.trusted_proxies.clone(),
        );
        let api = Api::new(coordinator, settings.api);
        Ok(Self {
            router: routes(Arc::clone(&api)),
            api,
            http,
            tls,
            connections: Arc::new(connections),
            refusing: Arc::new(Semaphore::new(REFUSING)),
            first_request: settings.first_request,
            stall: settings.stall,
        })
    }

    /// Serves a connection in a task of its own, if there is a place for it.
    fn begin<S>(
        self: &Arc<Self>,
        io: S,
        peer: SocketAddr,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = Patient::new(io, self.stall);
        match self.connections.take(peer.ip()) {
            Ok(place) => {
                // A token of its own keeps connections from sharing a lock.
                let (shared, stop) = (Arc::clone(self), stop.child_token());
                tasks.spawn(async move { shared.serve(io, peer, place, stop).await });
            }
            Err(crowded) => {
                tracing::debug!(?crowded, "connection refused");
                let turn = Arc::clone(&self.refusing).try_acquire_owned();
                if let (Crowded::Everywhere, None, Ok(turn)) = (crowded, &self.tls, turn) {
                    tasks.spawn(async move {
                        let _ = tokio::time::timeout(REFUSE_LIMIT, refuse(io)).await;
                        drop(turn);
                    });
                }
            }
        }
    }

    async fn serve<S>(&self, io: S, peer: SocketAddr, place: Place, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(tls) = &self.tls else { return self.serve_http(io, peer, place, stop).await };
        let handshake = tls.acceptor().accept(io);
        match tokio::time::timeout(self.first_request, handshake).await {
            Ok(Ok(io)) => self.serve_http(io, peer, place, stop).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS failed"),
            Err(_) => tracing::debug!("TLS took too long"),
        }
    }

    async fn serve_http<S>(&self, io: S, peer: SocketAddr, place: Place, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let spoken = Arc::new(AtomicBool::new(false));
        let unread = Unread::default();
        let io = TokioIo::new(Lingering::new(io, unread.clone()));
        let service = Service {
            api: Arc::clone(&self.api),
            router: self.router.clone(),
            peer,
            spoken: Arc::clone(&spoken),
            unread,
            place: Arc::new(place),
        };
        let connection = self.http.serve_connection(io, service).with_upgrades();
        let mut connection = pin!(connection);
        let mut first_request = pin!(tokio::time::sleep(self.first_request));
        let mut stopped = pin!(stop.cancelled());
        let (mut waits, mut stopping) = (true, false);
        loop {
            tokio::select! {
                biased;
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::trace!(%error, "connection ended");
                    }
                    return;
                }
                () = &mut first_request, if waits => {
                    if !spoken.load(Ordering::Relaxed) {
                        return;
                    }
                    waits = false;
                }
                () = &mut stopped, if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    fn check_tls(&self) {
        let Some(tls) = &self.tls else { return };
        match tls.reload_if_changed() {
            Ok(true) => tracing::info!("TLS files read again"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "TLS files changed and cannot be used"),
        }
    }
}

/// Answers the requests of one connection.
struct Service {
    api: Arc<Api>,
    router: Router,
    peer: SocketAddr,
    /// Whether a whole request head has come.
    spoken: Arc<AtomicBool>,
    unread: Unread,
    place: Arc<Place>,
}

impl hyper::service::Service<hyper::Request<Incoming>> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<RouteFuture<Infallible>, BoxFuture<'static, Result<Response, Infallible>>>;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        self.spoken.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        if request.headers().contains_key(UPGRADE) {
            // What the connection becomes keeps its place.
            request.extensions_mut().insert(Arc::clone(&self.place));
        }
        let request = request.map(|body| self.unread.watch(body));
        // Nearly all requests are of these two kinds, and the router costs them as much as reading
        // them does.
        if let Some((operation, path)) = openai::operation(&request) {
            let api = Arc::clone(&self.api);
            Either::Right(Box::pin(async move {
                let answer = |request| generate(&api, operation, request);
                Ok(observe(&api, path, request, answer).await)
            }))
        } else if sealed::is_meant(&request) {
            let api = Arc::clone(&self.api);
            Either::Right(Box::pin(async move {
                let answer = |request| relay(&api, request);
                Ok(observe(&api, sealed::PATH, request, answer).await)
            }))
        } else {
            Either::Left(tower::Service::call(&mut self.router.clone(), request))
        }
    }
}

async fn generate(
    api: &Arc<Api>,
    operation: Operation,
    request: http::Request<Watched>,
) -> Response {
    openai::generate(api, operation, request).await.into_response()
}

async fn relay(api: &Api, request: http::Request<Watched>) -> Response {
    sealed::relay(api, request).await.into_response()
}

/// Tells a caller that there is no place for it.
async fn refuse(mut io: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    io.write_all(FULL).await?;
    io.shutdown().await?;
    // Closing with unread bytes would reset the connection and take the answer back.
    let mut rest = [0; 1024];
    while io.read(&mut rest).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_refusal_announces_its_length() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        serde_json::from_str::<iris_protocol::openai::ErrorBody>(body).unwrap();
    }
}
