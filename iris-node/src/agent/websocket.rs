use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use iris_protocol::rest::Secret;
use iris_protocol::transport::TransportError;
use iris_protocol::transport::tcp::{self, PATIENCE, Patient};
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::connector::{ConnectError, Connector, Link};

/// How long one attempt may take, all in all.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Where a coordinator takes nodes in, unless its URL says otherwise.
const DEFAULT_PATH: &str = "/nodes/connect";

/// Where a coordinator takes nodes in: `ws://` or `wss://`, a host, a path.
///
/// Reads the coordinator's base URL too: `https://iris.example` is
/// `wss://iris.example/nodes/connect`. Without TLS only this machine can be named.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CoordinatorUrl {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

/// Says why a text is not the URL of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It does not begin with a scheme that leads to a coordinator.
    #[error("a coordinator's URL begins with wss://, https://, ws:// or http://, not {0:?}")]
    Scheme(String),
    /// The host or port is missing or unreadable.
    #[error("{0:?} does not name a host, or a host and a port")]
    Host(String),
    /// It holds a user, a query or a fragment.
    #[error("a coordinator's URL has neither a user nor a query: keys are set on their own")]
    Extra,
    /// It leads to another machine without TLS.
    #[error("{0:?} is not this machine, so the URL must begin with wss:// or https://")]
    Insecure(String),
}

impl CoordinatorUrl {
    /// Returns whether connections are encrypted.
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns the base of the coordinator's other addresses, such as `https://iris.example`.
    pub fn http_base(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let base = self.path.strip_suffix(DEFAULT_PATH).unwrap_or_default();
        format!("{scheme}://{}:{}{base}", self.host, self.port)
    }

    fn bare_host(&self) -> &str {
        let inner = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(&self.host)
    }
}

impl FromStr for CoordinatorUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "wss" | "https" => true,
            "ws" | "http" => false,
            other => return Err(UrlError::Scheme(other.to_owned())),
        };
        let unclean = |c: char| c.is_whitespace() || c.is_control();
        if rest.contains(['@', '?', '#', '\\']) || rest.contains(unclean) {
            return Err(UrlError::Extra);
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = split_authority(authority, if tls { 443 } else { 80 })
            .ok_or_else(|| UrlError::Host(authority.to_owned()))?;
        let path = path.trim_end_matches('/');
        let path = if path.is_empty() { DEFAULT_PATH } else { path };
        let url = Self { tls, host: host.to_ascii_lowercase(), port, path: path.to_owned() };
        if !tls && !is_loopback(url.bare_host()) {
            return Err(UrlError::Insecure(url.host));
        }
        Ok(url)
    }
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

impl fmt::Debug for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoordinatorUrl({self})")
    }
}

/// Splits `host:port`; the host of an IPv6 address keeps its brackets.
fn split_authority(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at(end);
    if host.is_empty() || host == "[]" {
        return None;
    }
    if port.is_empty() {
        return Some((host, default_port));
    }
    let digits = port.strip_prefix(':')?;
    let port = digits.parse().ok().filter(|port| *port != 0)?;
    Some((host, port))
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Connects to a coordinator over WebSocket, at the first of its URLs that answers and lets the
/// node in.
#[derive(Clone, Debug)]
pub struct WebSocketConnector {
    urls: Vec<CoordinatorUrl>,
    key: Secret,
    tls: Tls,
    turns: Arc<Mutex<Turns>>,
}

/// Which URL is next.
#[derive(Debug, Default)]
struct Turns {
    first: usize,
    /// The URLs whose last answer was that the node need not come again.
    closed: BTreeSet<usize>,
}

#[derive(Clone)]
enum Tls {
    /// The certificates that the machine trusts, read when they are first needed.
    Platform(Arc<OnceLock<Arc<ClientConfig>>>),
    Own(Arc<ClientConfig>),
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Platform(_) => "Platform",
            Self::Own(_) => "Own",
        })
    }
}

impl WebSocketConnector {
    /// Connects to `url`, with a node key of the account that owns the node.
    pub fn new(url: CoordinatorUrl, key: impl Into<Secret>) -> Self {
        Self {
            urls: vec![url],
            key: key.into(),
            tls: Tls::Platform(Arc::default()),
            turns: Arc::default(),
        }
    }

    /// Adds a URL to try when those before it do not answer or turn the node away.
    pub fn or(mut self, url: CoordinatorUrl) -> Self {
        self.urls.push(url);
        self
    }

    /// Trusts coordinators whose certificates lead to one of `roots`, and nobody else. Default:
    /// what the machine trusts.
    pub fn with_roots(mut self, roots: RootCertStore) -> Self {
        let config = builder().with_root_certificates(roots).with_no_client_auth();
        self.tls = Tls::Own(Arc::new(config));
        self
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self, url: &CoordinatorUrl) -> Result<Link, ConnectError> {
        let endpoint: Arc<str> = url.to_string().into();
        let unreachable =
            |cause: String| ConnectError::Unreachable { endpoint: Arc::clone(&endpoint), cause };
        let opening = async {
            let stream = TcpStream::connect((url.bare_host(), url.port))
                .await
                .map_err(|error| unreachable(error.to_string()))?;
            tcp::prepare(&stream, PATIENCE).map_err(|error| unreachable(error.to_string()))?;
            // A coordinator that reads nothing holds up answers that another one could take.
            let stream = Patient::new(stream, PATIENCE);
            if url.tls {
                self.upgrade(url, &endpoint, self.secure(url, &endpoint, stream).await?).await
            } else {
                self.upgrade(url, &endpoint, stream).await
            }
        };
        let opened = timeout(CONNECT_LIMIT, opening).await;
        opened.unwrap_or_else(|_| Err(unreachable("no answer in time".to_owned())))
    }

    async fn secure(
        &self,
        url: &CoordinatorUrl,
        endpoint: &Arc<str>,
        stream: Patient<TcpStream>,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, ConnectError> {
        let tls = |cause: String| ConnectError::Tls { endpoint: Arc::clone(endpoint), cause };
        let config = match &self.tls {
            Tls::Own(config) => Arc::clone(config),
            Tls::Platform(known) => {
                if known.get().is_none() {
                    let config = platform_trust().map_err(|error| tls(error.to_string()))?;
                    known.get_or_init(|| config);
                }
                Arc::clone(known.get().expect("it was just set"))
            }
        };
        let name = ServerName::try_from(url.bare_host().to_owned())
            .map_err(|error| tls(error.to_string()))?;
        let opened = TlsConnector::from(config).connect(name, stream).await;
        opened.map_err(|error| match error.get_ref() {
            Some(cause) if error.kind() == io::ErrorKind::InvalidData => tls(cause.to_string()),
            _ => ConnectError::Unreachable {
                endpoint: Arc::clone(endpoint),
                cause: error.to_string(),
            },
        })
    }

    async fn upgrade(
        &self,
        url: &CoordinatorUrl,
        endpoint: &Arc<str>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Link, ConnectError> {
        let endpoint = || Arc::clone(endpoint);
        let unreachable = |cause: String| ConnectError::Unreachable { endpoint: endpoint(), cause };
        let request = url.to_string().into_client_request();
        let mut request = request.map_err(|error| unreachable(error.to_string()))?;
        // A key that cannot stand in a header cannot be one that a coordinator gave out.
        let value = format!("Bearer {}", self.key.expose())
            .parse()
            .map_err(|_| ConnectError::Unauthorized { endpoint: endpoint(), status: 401 })?;
        request.headers_mut().insert("authorization", value);
        match WebSocket::client(stream, request).await {
            Ok(socket) => Ok(Link::new(endpoint(), socket)),
            Err(TransportError::Refused(status @ (401 | 403))) => {
                Err(ConnectError::Unauthorized { endpoint: endpoint(), status })
            }
            Err(TransportError::Refused(status)) => {
                Err(ConnectError::Refused { endpoint: endpoint(), status })
            }
            Err(error) => Err(unreachable(error.to_string())),
        }
    }
}

impl Connector for WebSocketConnector {
    fn connect(&self) -> BoxFuture<'_, Result<Link, ConnectError>> {
        Box::pin(async {
            let mut worst = None;
            let first = self.turns().first;
            for turn in 0..self.urls.len() {
                let number = (first + turn) % self.urls.len();
                let opened = self.open(&self.urls[number]).await;
                let closed = opened.as_ref().is_err_and(ConnectError::is_final);
                self.turns().note(number, closed);
                match opened {
                    Ok(link) => return Ok(link),
                    // As long as one URL may answer later, the attempt is worth repeating.
                    Err(error) => worst = Some(prefer(worst, error)),
                }
            }
            Err(worst.expect("a connector has at least one URL"))
        })
    }

    fn turned_away(&self, endpoint: &str, for_good: bool) -> bool {
        let Some(number) = self.urls.iter().position(|url| url.to_string() == endpoint) else {
            return false;
        };
        let mut turns = self.turns();
        turns.first = (number + 1) % self.urls.len();
        turns.note(number, for_good);
        turns.closed.len() < self.urls.len()
    }
}

impl Turns {
    fn note(&mut self, number: usize, closed: bool) {
        if closed {
            self.closed.insert(number);
        } else {
            self.closed.remove(&number);
        }
    }
}

fn prefer(known: Option<ConnectError>, new: ConnectError) -> ConnectError {
    match known {
        Some(known) if new.is_final() && !known.is_final() => known,
        _ => new,
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
}

/// Returns a configuration that trusts the certificates that the machine trusts.
pub(crate) fn platform_trust() -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = builder().with_platform_verifier()?.with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<String, UrlError> {
        text.parse::<CoordinatorUrl>().map(|url| url.to_string())
    }

    #[test]
    fn every_form_of_an_address_leads_to_the_door_for_nodes() {
        for (text, expected) in [
            ("http://localhost:8000", "ws://localhost:8000/nodes/connect"),
            ("ws://localhost:8000/nodes/connect", "ws://localhost:8000/nodes/connect"),
            ("https://Iris.Example/", "wss://iris.example:443/nodes/connect"),
            (" wss://iris.example/a/nodes/connect", "wss://iris.example:443/a/nodes/connect"),
            ("ws://[::1]:9", "ws://[::1]:9/nodes/connect"),
            ("http://127.9.9.9", "ws://127.9.9.9:80/nodes/connect"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn plain_connections_stay_on_this_machine() {
        for text in ["ws://iris.example", "http://10.0.0.1:8000", "ws://localhost.example"] {
            assert!(matches!(url(text), Err(UrlError::Insecure(_))), "{text}");
        }
    }

    #[test]
    fn addresses_that_hide_something_are_refused() {
        assert!(matches!(url("localhost:8000"), Err(UrlError::Scheme(_))));
        assert!(matches!(url("ftp://localhost"), Err(UrlError::Scheme(_))));
        for text in ["wss://", "wss://:1", "wss://a:0", "wss://a:b", "wss://[::1", "wss://[]:1"] {
            assert!(matches!(url(text), Err(UrlError::Host(_))), "{text}");
        }
        for text in ["wss://key@iris.example", "wss://a?key=b", "wss://a/\nb", "wss://a#b"] {
            assert_eq!(url(text), Err(UrlError::Extra), "{text}");
        }
    }

    #[test]
    fn other_addresses_of_the_coordinator_follow() {
        let base = |text: &str| text.parse::<CoordinatorUrl>().unwrap().http_base();
        assert_eq!(base("ws://localhost:8000/nodes/connect"), "http://localhost:8000");
        assert_eq!(base("https://iris.example/a/nodes/connect"), "https://iris.example:443/a");
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_does_not_answer() {
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let refusing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = refusing.local_addr().unwrap();
        let answer = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = refusing.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let reply = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(reply).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        };
        let first = format!("ws://{closed}").parse().unwrap();
        let second = format!("ws://{open}").parse().unwrap();
        let connector = WebSocketConnector::new(first, "iris_secret").or(second);
        assert!(!format!("{connector:?}").contains("iris_secret"));
        let (opened, request) = tokio::join!(connector.connect(), answer);
        assert!(request.to_ascii_lowercase().contains("authorization: bearer iris_secret"));
        // The first address may be up again later.
        assert!(matches!(opened.map(|_| ()), Err(ConnectError::Unreachable { .. })));
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_turns_the_node_away() {
        let (first, second) = (door().await, door().await);
        let connector = WebSocketConnector::new(first.parse().unwrap(), "iris_secret")
            .or(second.parse().unwrap());
        let reached = async || connector.connect().await.unwrap().endpoint;
        let ends_with = |endpoint: &str, url: &str| endpoint.contains(url.trim_start_matches("ws"));
        let at = reached().await;
        assert!(ends_with(&at, &first), "{at}");
        assert!(connector.turned_away(&at, true), "the other one may let it in");
        let at = reached().await;
        assert!(ends_with(&at, &second), "{at}");
        assert!(ends_with(&reached().await, &second), "it stays where it was not turned away");
        assert!(connector.turned_away(&at, false));
        let at = reached().await;
        assert!(ends_with(&at, &first), "a try that may help is made");
        assert!(connector.turned_away(&at, true));
        let at = reached().await;
        assert!(!connector.turned_away(&at, true), "both want it no more");
    }

    /// Opens sockets for frames and says nothing on them.
    async fn door() -> String {
        use iris_protocol::transport::websocket::accept_key;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let name = "sec-websocket-key: ";
                let from = request.to_ascii_lowercase().find(name).unwrap() + name.len();
                let key = &request[from..from + 24];
                let reply = format!(
                    "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-accept: {}\r\n\r\n",
                    accept_key(key.as_bytes())
                );
                stream.write_all(reply.as_bytes()).await.unwrap();
                open.push(stream);
            }
        });
        format!("ws://{address}")
    }
}
