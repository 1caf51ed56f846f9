//! What an operator decides about the server.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderValue;
use iris_core::AccountId;
use iris_protocol::rest::KeyId;
use iris_protocol::transport::tcp::PATIENCE;

use super::proxy::Network;

/// What the HTTP API may do; a part of [`ServerSettings`].
#[derive(Clone, Debug)]
pub struct ApiSettings {
    pub(super) open_registration: bool,
    pub(super) public_chat: bool,
    #[cfg(feature = "pages")]
    pub(super) pages: bool,
    pub(super) unlimited: Vec<Unlimited>,
    pub(super) cors_origins: Vec<HeaderValue>,
    pub(super) trusted_proxies: Vec<Network>,
    pub(super) model_files: Option<PathBuf>,
    pub(super) body_limit: usize,
    pub(super) body_memory: usize,
    pub(super) body_timeout: Duration,
    pub(super) time_limit: Duration,
    pub(super) keep_alive: Duration,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            open_registration: false,
            public_chat: false,
            #[cfg(feature = "pages")]
            pages: false,
            unlimited: Vec::new(),
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            model_files: None,
            body_limit: 32 << 20,
            body_memory: 512 << 20,
            body_timeout: Duration::from_mins(1),
            time_limit: Duration::from_mins(10),
            keep_alive: Duration::from_secs(15),
        }
    }
}

impl ApiSettings {
    /// Sets whether anybody may open an account by `POST /accounts/generate`. Default: no; the
    /// operator opens accounts.
    pub const fn with_open_registration(mut self, open: bool) -> Self {
        self.open_registration = open;
        self
    }

    /// Sets whether people without a key may send one message a day to `POST /api/chat/stream`.
    /// Default: no; members alone are answered.
    pub const fn with_public_chat(mut self, open: bool) -> Self {
        self.public_chat = open;
        self
    }

    /// Serves pages for people beside the API: a chat, one's tasks, the network as it changes,
    /// accounts, and what operators do. Default: no, and the binary does.
    #[cfg(feature = "pages")]
    pub const fn with_pages(mut self, served: bool) -> Self {
        self.pages = served;
        self
    }

    /// Lets these accounts and keys send any number of messages to `POST /api/chat/stream`, where
    /// others send three a day. Default: none.
    pub fn with_unlimited_chat(mut self, members: Vec<Unlimited>) -> Self {
        self.unlimited = members;
        self
    }

    /// Lets web pages of these origins, such as `https://chat.example.org`, call the API. Default:
    /// none.
    pub fn with_cors_origins(mut self, origins: Vec<HeaderValue>) -> Self {
        self.cors_origins = origins;
        self
    }

    /// Believes `X-Forwarded-For` when it comes from these proxies. Default: none.
    pub fn with_trusted_proxies(mut self, proxies: Vec<Network>) -> Self {
        self.trusted_proxies = proxies;
        self
    }

    /// Gives nodes the files in this folder, to download models from: whatever lies there, and no
    /// folder or link within. Default: none.
    pub fn with_model_files(mut self, folder: impl Into<PathBuf>) -> Self {
        self.model_files = Some(folder.into());
        self
    }

    /// Sets the longest request body in bytes. Default: 32 MiB, and no more than that reaches a
    /// node.
    pub const fn with_body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Sets how many bytes the long request bodies, those beyond 64 KiB, may have together while
    /// they come in, wait and are worked on; further ones get 503. What is sealed for a node is a
    /// copy that is not counted. Default: 512 MiB.
    pub const fn with_body_memory(mut self, bytes: usize) -> Self {
        self.body_memory = bytes;
        self
    }

    /// Sets how long a caller may take to send a request's body. Default: 60 s.
    pub const fn with_body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Sets how long a chat or completion may take. Default: 600 s.
    pub const fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Sets after how much silence a stream is kept alive by a comment. Default: 15 s, since
    /// proxies cut silent connections after 60 s.
    pub const fn with_keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval;
        self
    }
}

/// Whom the daily messages of a chat do not limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlimited {
    /// An account, with whatever it comes.
    Account(AccountId),
    /// One API key, and those that replace it.
    Key(KeyId),
}

/// Says that a text is no [`Unlimited`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give an account's id, 32 digits of 0-9 and a-f, or a key's id, 24 of them")]
pub struct UnlimitedError;

impl FromStr for Unlimited {
    type Err = UnlimitedError;

    fn from_str(text: &str) -> Result<Self, UnlimitedError> {
        let account = text.parse().map(Self::Account);
        account.or_else(|_| text.parse().map(Self::Key)).map_err(|_| UnlimitedError)
    }
}

impl fmt::Display for Unlimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(account) => account.fmt(f),
            Self::Key(key) => key.fmt(f),
        }
    }
}

/// The PEM files of a TLS listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub certificates: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Where and how a [`Server`](super::Server) listens.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    pub(super) listen: SocketAddr,
    pub(super) tls: Option<TlsFiles>,
    pub(super) api: ApiSettings,
    pub(super) max_connections: usize,
    pub(super) max_connections_per_address: usize,
    pub(super) first_request: Duration,
    pub(super) idle: Duration,
    pub(super) stall: Duration,
    pub(super) drain: Duration,
}

impl Default for ServerSettings {
    /// Listens on a free port of the loopback interface.
    fn default() -> Self {
        Self::new((Ipv4Addr::LOCALHOST, 0).into())
    }
}

impl ServerSettings {
    /// Listens on `address`; port 0 takes a free one.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            listen: address,
            tls: None,
            api: ApiSettings::default(),
            max_connections: 16_384,
            max_connections_per_address: 512,
            first_request: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            stall: PATIENCE,
            drain: Duration::from_secs(30),
        }
    }

    /// Speaks TLS with these files, which are read again when they change. Default: plain HTTP,
    /// which is refused off the loopback interface unless a trusted proxy is named.
    pub fn with_tls(mut self, files: TlsFiles) -> Self {
        self.tls = Some(files);
        self
    }

    /// Sets what the API may do.
    pub fn with_api(mut self, api: ApiSettings) -> Self {
        self.api = api;
        self
    }

    /// Sets how many connections are served at a time; further ones get 503. Default: 16,384.
    pub const fn with_max_connections(mut self, count: usize) -> Self {
        self.max_connections = count;
        self
    }

    /// Sets how many connections one address may hold. Trusted proxies and this machine may hold
    /// any number. Default: 512.
    pub const fn with_max_connections_per_address(mut self, count: usize) -> Self {
        self.max_connections_per_address = count;
        self
    }

    /// Sets how long a new connection may take for TLS, and again for its first request's head.
    /// Default: 5 s.
    pub const fn with_first_request(mut self, timeout: Duration) -> Self {
        self.first_request = timeout;
        self
    }

    /// Sets how long a connection may be silent between requests. Default: 75 s.
    pub const fn with_idle(mut self, timeout: Duration) -> Self {
        self.idle = timeout;
        self
    }

    /// Sets how long a caller or a node may take nothing of what is written to it; then it is
    /// left, and what a caller asked for is cancelled. Reading slowly is no fault. Default: 60 s,
    /// which is also the most on Linux, where the system gives such a TCP connection up by then.
    pub const fn with_stall(mut self, timeout: Duration) -> Self {
        self.stall = timeout;
        self
    }

    /// Sets how long requests may take to finish once the server stops. Default: 30 s.
    pub const fn with_drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }
}
