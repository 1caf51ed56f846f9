use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use iris_protocol::transport::Transport;

/// An open connection to a coordinator.
pub struct Link {
    pub(super) endpoint: Arc<str>,
    pub(super) transport: Pin<Box<dyn Transport>>,
}

impl Link {
    /// Makes a link over `transport`.
    ///
    /// `endpoint` says where it leads: the agent demands that the same coordinator answers there
    /// as did before.
    pub fn new(endpoint: impl Into<Arc<str>>, transport: impl Transport + 'static) -> Self {
        Self { endpoint: endpoint.into(), transport: Box::pin(transport) }
    }
}

/// Opens connections to a coordinator.
///
/// Called again, after a pause, whenever a connection could not be opened or has ended; dropping
/// the future gives the attempt up. Any function that returns a future of a [`Link`] is one.
pub trait Connector: Send + Sync + 'static {
    /// Opens a connection, in a time that the implementation bounds.
    fn connect(&self) -> BoxFuture<'_, Result<Link, ConnectError>>;

    /// Hears that whoever was reached at `endpoint` did not let the node in, or was not to be
    /// trusted; `for_good` when another try there is in vain.
    ///
    /// Returns whether the next connection may lead to somebody else, for whose sake the agent
    /// goes on. Default: no.
    fn turned_away(&self, endpoint: &str, for_good: bool) -> bool {
        let _ = (endpoint, for_good);
        false
    }
}

impl<F, Opening> Connector for F
where
    F: Fn() -> Opening + Send + Sync + 'static,
    Opening: Future<Output = Result<Link, ConnectError>> + Send + 'static,
{
    fn connect(&self) -> BoxFuture<'_, Result<Link, ConnectError>> {
        Box::pin(self())
    }
}

/// Says why no connection could be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody answers there, now; worth another try.
    #[error("{endpoint} cannot be reached: {cause}")]
    Unreachable {
        /// Where the connection should lead.
        endpoint: Arc<str>,
        /// What the operating system or the transport said.
        cause: String,
    },
    /// The other side's certificate, or its TLS, is not acceptable.
    #[error("the connection to {endpoint} is not secure: {cause}")]
    Tls {
        /// Where the connection should lead.
        endpoint: Arc<str>,
        /// What the TLS library said.
        cause: String,
    },
    /// The coordinator does not accept the node's key; trying again will not help.
    #[error("{endpoint} does not accept the node key (HTTP status {status})")]
    Unauthorized {
        /// Where the connection should lead.
        endpoint: Arc<str>,
        /// 401 or 403.
        status: u16,
    },
    /// Something else than a coordinator answered, or one that cannot take the node now.
    #[error("{endpoint} answered with HTTP status {status}")]
    Refused {
        /// Where the connection should lead.
        endpoint: Arc<str>,
        /// The status of the answer.
        status: u16,
    },
}

impl ConnectError {
    /// Returns whether trying again without another setting is in vain.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Unauthorized { .. })
    }
}
