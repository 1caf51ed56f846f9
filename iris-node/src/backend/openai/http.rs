//! The HTTP client towards a model server: connections that are kept, and nothing else.
//!
//! This is hyper's own client. Redirects, retries, cookies and proxies must not happen on the way
//! to a model server, and layers for them cost a request more than asking for it does.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, vec};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use iris_core::backend::BackendError;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};
use tower_service::Service;

/// How long an unused connection is kept: node and uvicorn servers close theirs after five
/// seconds.
const IDLE: Duration = Duration::from_secs(4);
/// How long a connection may be silent before it is probed, and between two probes. A server whose
/// machine lost power is noticed after four times that.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Within what time a server hangs up that has not begun to work.
const AT_ONCE: Duration = Duration::from_millis(250);
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("iris-node/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a server answered; the body is still on its way.
pub(super) type Answer = Response<Incoming>;

/// Asks one server.
#[derive(Debug)]
pub(super) struct Http {
    client: Client<Bounded<HttpsConnector<HttpConnector<Resolver>>>, Full<Bytes>>,
    authorization: Option<HeaderValue>,
}

impl Http {
    pub(super) fn new(
        tls: ClientConfig,
        connect_timeout: Duration,
        authorization: Option<HeaderValue>,
    ) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(3));
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = tls.enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(Bounded { connector, limit: connect_timeout });
        Self { client, authorization }
    }

    pub(super) async fn get(&self, uri: Uri) -> Result<Answer, BackendError> {
        self.send(Method::GET, uri, JSON, Bytes::new()).await
    }

    /// Sends a JSON body; the answer may be `streamed`.
    pub(super) async fn post(
        &self,
        uri: Uri,
        body: Bytes,
        streamed: bool,
    ) -> Result<Answer, BackendError> {
        self.send(Method::POST, uri, if streamed { EVENTS } else { JSON }, body).await
    }

    async fn send(
        &self,
        method: Method,
        uri: Uri,
        accept: HeaderValue,
        body: Bytes,
    ) -> Result<Answer, BackendError> {
        let request = || self.request(method.clone(), uri.clone(), accept.clone(), body.clone());
        let asked = Instant::now();
        let mut sent = self.client.request(request()).await;
        if sent.as_ref().is_err_and(is_hung_up) && asked.elapsed() < AT_ONCE {
            sent = self.client.request(request()).await;
        }
        sent.map_err(|error| {
            if error.is_connect() { BackendError::Unavailable } else { BackendError::Failed }
        })
    }

    fn request(
        &self,
        method: Method,
        uri: Uri,
        accept: HeaderValue,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        let headers = request.headers_mut();
        headers.reserve(5);
        if method == Method::POST {
            headers.insert(CONTENT_TYPE, JSON);
        }
        headers.insert(ACCEPT, accept);
        headers.insert(USER_AGENT, AGENT);
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request
    }
}

/// Returns whether the server closed the connection instead of answering.
///
/// So it looks when a kept connection is used in the moment in which the server gives it up, as
/// llama.cpp does after a hundred requests. A server that hangs up at once has begun nothing, and
/// is asked again; one that hangs up later may have died of the request.
fn is_hung_up(error: &Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.and_then(|cause| cause.downcast_ref::<hyper::Error>()).is_some_and(|error| {
        error.is_incomplete_message() || error.is_canceled() || error.is_closed()
    })
}

/// Reads the rest of `answer`, up to `limit` bytes.
pub(super) async fn read_body(answer: Answer, limit: usize) -> Result<Vec<u8>, BackendError> {
    let mut incoming = answer.into_body();
    let mut body = Vec::new();
    while let Some(bytes) = next_bytes(&mut incoming).await? {
        if body.len() + bytes.len() > limit {
            return Err(BackendError::Malformed);
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// Returns the next part of a body; `None` at its end.
pub(super) async fn next_bytes(body: &mut Incoming) -> Result<Option<Bytes>, BackendError> {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(|_| BackendError::Failed)?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Bounds the time that a connection takes to open: name, TCP and TLS together.
#[derive(Clone, Debug)]
struct Bounded<C> {
    connector: C,
    limit: Duration,
}

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = timeout(self.limit, self.connector.call(uri));
        Box::pin(async { connecting.await?.map_err(Into::into) })
    }
}

/// Finds servers by name. Whatever a system's resolver says, `localhost` means this machine.
#[derive(Clone, Copy, Debug)]
struct Resolver;

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let found = if name.as_str() == "localhost" {
                vec![(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()]
            } else {
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect()
            };
            Ok(found.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::openai::server::without_trust;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

    async fn server() -> (TcpListener, Uri) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, format!("http://{address}/").parse().unwrap())
    }

    fn http(limit: Duration) -> Http {
        Http::new(without_trust().unwrap(), limit, None)
    }

    /// Reads one request without a body.
    async fn hear(stream: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    }

    async fn ask(http: &Http, uri: &Uri) -> Result<Vec<u8>, BackendError> {
        read_body(http.get(uri.clone()).await?, 100).await
    }

    #[tokio::test]
    async fn request_that_meets_a_closing_connection_is_sent_again() {
        let (listener, uri) = server().await;
        let serve = async {
            let (mut first, _) = listener.accept().await.unwrap();
            hear(&mut first).await;
            first.write_all(ANSWER).await.unwrap();
            hear(&mut first).await;
            drop(first);
            let (mut second, _) = listener.accept().await.unwrap();
            hear(&mut second).await;
            second.write_all(ANSWER).await.unwrap();
        };
        let http = http(Duration::from_secs(5));
        let ask = async {
            assert_eq!(ask(&http, &uri).await.unwrap(), b"{}");
            assert_eq!(ask(&http, &uri).await.unwrap(), b"{}");
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn server_that_dies_at_work_is_asked_once() {
        let (listener, uri) = server().await;
        let serve = async {
            let (mut first, _) = listener.accept().await.unwrap();
            hear(&mut first).await;
            tokio::time::sleep(2 * AT_ONCE).await;
            drop(first);
            assert!(timeout(AT_ONCE, listener.accept()).await.is_err(), "it is asked again");
        };
        let http = http(Duration::from_secs(5));
        let (asked, ()) = tokio::join!(ask(&http, &uri), serve);
        assert_eq!(asked, Err(BackendError::Failed));
    }

    #[tokio::test]
    async fn server_that_opens_a_connection_and_says_nothing_of_tls_is_not_waited_for() {
        let (_listener, uri) = server().await;
        let uri = format!("https://{}/", uri.authority().unwrap()).parse().unwrap();
        let asked = ask(&http(Duration::from_millis(100)), &uri).await;
        assert_eq!(asked, Err(BackendError::Unavailable));
    }
}
