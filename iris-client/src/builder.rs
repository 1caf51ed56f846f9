use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iris_core::NodeId;
use iris_crypto::PublicIdentity;
use iris_crypto::seal::Shape;
use iris_protocol::rest::Secret;
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::client::{Client, Inner};
use crate::policy::Policy;
use crate::sealed::Sealed;
use crate::session::Keeper;
use crate::trust::TrustStore;

/// The longest time that a request may take; clocks do not reach much further.
const LONGEST: Duration = Duration::from_hours(365 * 24);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    base_url: String,
    api_key: Option<Secret>,
    timeout: Duration,
    idle_timeout: Duration,
    plain_http: bool,
    authorities: Option<Vec<u8>>,
    policy: Policy,
    shape: Option<Shape>,
    trust_file: Option<PathBuf>,
    session_file: Option<PathBuf>,
    coordinator: Option<PublicIdentity>,
    own_nodes: Vec<NodeId>,
}

impl ClientBuilder {
    pub(crate) fn new(base_url: String) -> Self {
        Self {
            base_url,
            api_key: None,
            timeout: Duration::from_mins(10),
            idle_timeout: Duration::from_mins(1),
            plain_http: false,
            authorities: None,
            policy: Policy::default(),
            shape: None,
            trust_file: None,
            session_file: None,
            coordinator: None,
            own_nodes: Vec::new(),
        }
    }

    /// Sends `key` (`iris_...`) with every request. Default: none.
    pub fn with_api_key(mut self, key: impl Into<Secret>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Limits every request to `timeout`, retries included; for streams until their first byte.
    /// Default: ten minutes; at most a year.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(LONGEST);
        self
    }

    /// Gives a stream up after a silence of `timeout`. Default: one minute, four times the
    /// interval at which coordinators send a sign of life.
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout.min(LONGEST);
        self
    }

    /// Trusts the authorities in `pem` instead of the system's, for networks that certify
    /// themselves.
    pub fn with_authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(pem.into());
        self
    }

    /// Lets keys travel unencrypted to other machines, where everyone on the way can read and
    /// use them. Only for networks that are private by other means. Default: refused.
    pub fn allow_plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// Sets who may read what is asked. Default: [`Policy::Sealed`].
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets how much the sizes and times of sealed answers tell whoever looks at the bytes.
    /// Default: [`Shape::Paced`], which waits up to 200 ms, and [`Shape::Off`] for nodes of one's
    /// own.
    pub fn with_shape(mut self, shape: Shape) -> Self {
        self.shape = Some(shape);
        self
    }

    /// Remembers in `file` who the coordinator is, what its log held, and which nodes are used:
    /// made where it is missing, with mode 0600, and shared safely by several processes. Use one
    /// for each coordinator.
    ///
    /// Default: in memory, so that each process trusts the coordinator that it meets first.
    pub fn with_trust_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.trust_file = Some(file.into());
        self
    }

    /// Keeps the session in `file`, where others that use it find it: made where it is missing,
    /// with mode 0600, and shared safely by several processes. Use one for each coordinator.
    ///
    /// Default: in memory. See [`Client::session`]; where there is an API key, it is used instead.
    pub fn with_session_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.session_file = Some(file.into());
        self
    }

    /// Demands that the coordinator is `identity`. Default: whoever answers first is trusted, and
    /// from then on nobody else.
    pub fn with_coordinator(mut self, identity: PublicIdentity) -> Self {
        self.coordinator = Some(identity);
        self
    }

    /// Takes `node` for one's own, beside those in the trust file. Own nodes are asked before
    /// others; with [`Policy::Own`] nobody else is.
    pub fn with_own_node(mut self, node: NodeId) -> Self {
        self.own_nodes.push(node);
        self
    }

    /// Checks the settings. Nothing is sent yet.
    pub fn build(self) -> Result<Client, BuildError> {
        let base = normalize(&self.base_url)?;
        let loopback = is_loopback(&base);
        let keys_are_safe = base.scheme() == "https" || loopback || self.plain_http;
        if self.api_key.is_some() && !keys_are_safe {
            return Err(BuildError::PlainHttp);
        }
        let authorization = self.api_key.as_ref().map(authorization).transpose()?;

        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .user_agent(concat!("iris-client/", env!("CARGO_PKG_VERSION")));
        if loopback {
            // A proxy named in the environment would see what never leaves this machine.
            http = http.no_proxy();
        }
        http = match (base.scheme(), &self.authorities) {
            ("https", Some(pem)) => http.tls_backend_preconfigured(tls(roots(pem)?)?),
            ("https", None) => {
                // The system's verifier asks for the process's provider. It fails where the
                // program has chosen one already, which is as good.
                let _ = rustls::crypto::ring::default_provider().install_default();
                http
            }
            // Machines without any certificates can still speak plain HTTP.
            _ => http.tls_backend_preconfigured(tls(RootCertStore::empty())?),
        };
        let http = http.build().map_err(|error| BuildError::Tls(error.to_string()))?;
        let trust = TrustStore::new(self.trust_file, self.coordinator, self.own_nodes);
        let keeper = Keeper::new(base.as_str().to_owned(), self.session_file);
        let inner = Inner {
            http,
            base,
            keys_are_safe,
            timeout: self.timeout,
            idle_timeout: self.idle_timeout,
            sealed: Sealed::new(trust, self.shape),
            keeper,
        };
        Ok(Client::new(inner, authorization, self.policy))
    }
}

/// Why a client cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The address is not one of a coordinator.
    #[error("'{0}' is not a coordinator's address, such as https://iris.example")]
    InvalidUrl(String),
    /// A key would travel unencrypted to another machine.
    #[error("a key must not travel over plain http to another machine; use https")]
    PlainHttp,
    /// The key has characters that no key has.
    #[error("the API key has characters that no key has")]
    InvalidKey,
    /// The authorities' certificates cannot be read.
    #[error("the authorities' certificates cannot be read: {0}")]
    InvalidAuthorities(String),
    /// The system's certificates cannot be used.
    #[error("encryption cannot be set up: {0}")]
    Tls(String),
}

/// Accepts the address itself, the one that OpenAI-compatible programs use (`/v1`) and the one
/// that nodes use (`ws://.../nodes/connect`).
pub(crate) fn normalize(text: &str) -> Result<Url, BuildError> {
    // An address with a password in it must not be repeated in an error.
    let invalid = || BuildError::InvalidUrl(text.rsplit('@').next().unwrap_or("").to_owned());
    let text = text.trim();
    let http = match text.split_once("://") {
        Some(("ws", rest)) => format!("http://{rest}"),
        Some(("wss", rest)) => format!("https://{rest}"),
        _ => text.to_owned(),
    };
    let mut url = Url::parse(&http).map_err(|_| invalid())?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !plain {
        return Err(invalid());
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").or(path.strip_suffix("/nodes/connect")).unwrap_or(path);
    let path = format!("{}/", path.trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or("");
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

pub(crate) fn authorization(key: &Secret) -> Result<reqwest::header::HeaderValue, BuildError> {
    let text = format!("Bearer {}", key.expose());
    let mut value =
        reqwest::header::HeaderValue::try_from(text).map_err(|_| BuildError::InvalidKey)?;
    value.set_sensitive(true);
    Ok(value)
}

fn roots(pem: &[u8]) -> Result<RootCertStore, BuildError> {
    let invalid = |why: &dyn ToString| BuildError::InvalidAuthorities(why.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|e| invalid(&e))?).map_err(|e| invalid(&e))?;
    }
    if roots.is_empty() { Err(invalid(&"there is none")) } else { Ok(roots) }
}

fn tls(roots: RootCertStore) -> Result<ClientConfig, BuildError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError::Tls(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_a_coordinator_is_understood() {
        for (given, meant) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("https://iris.example/v1/", "https://iris.example/"),
            ("ws://localhost:8000/nodes/connect", "http://localhost:8000/"),
            ("wss://iris.example/net/nodes/connect", "https://iris.example/net/"),
        ] {
            assert_eq!(normalize(given).unwrap().as_str(), meant);
        }
        for bad in ["iris.example", "ftp://a", "http://", "http://a/?key=1", "http://u:p@a/"] {
            let error = normalize(bad).unwrap_err().to_string();
            assert!(!error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn a_key_does_not_leave_the_machine_in_clear_unless_allowed() {
        let build = |url: &str| Client::builder(url).with_api_key("iris_x").build().map(drop);
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert_eq!(build(url), Ok(()), "{url}");
        }
        for url in ["http://10.0.0.1:1", "http://iris.example", "http://localhost.evil.example"] {
            assert_eq!(build(url), Err(BuildError::PlainHttp), "{url}");
        }
        assert!(Client::builder("http://10.0.0.1:1").build().is_ok(), "there is no key to lose");
        let allowed = Client::builder("http://10.0.0.1:1").with_api_key("k").allow_plain_http();
        assert!(allowed.build().is_ok());
    }

    #[test]
    fn keys_that_could_forge_a_header_are_refused_and_none_is_printed() {
        let builder = Client::builder("http://127.0.0.1:1").with_api_key("iris_x\r\na: b");
        assert_eq!(builder.build().map(drop), Err(BuildError::InvalidKey));
        let builder = Client::builder("http://127.0.0.1:1").with_api_key("iris_hidden");
        let printed = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(!printed.contains("iris_hidden"), "{printed}");
    }

    #[test]
    fn encryption_needs_no_preparation_by_the_program() {
        // Machines without any authorities of their own get an error that says so.
        let built = Client::builder("https://iris.example").with_api_key("k").build().map(drop);
        assert!(matches!(built, Ok(()) | Err(BuildError::Tls(_))), "{built:?}");
    }

    #[test]
    fn authorities_must_be_certificates() {
        let builder = Client::builder("https://iris.example").with_authorities("hello");
        assert!(matches!(builder.build().map(drop), Err(BuildError::InvalidAuthorities(_))));
    }
}
