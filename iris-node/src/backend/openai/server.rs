//! The server behind the backend: where it is, how it is reached, what it was told to offer.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::header::InvalidHeaderValue;
use ::http::{HeaderValue, Uri};
use bytes::Bytes;
use iris_core::backend::{BackendError, GenerateRequest, Operation};
use iris_core::model::Abilities;
use url::Url;

use super::http::{Answer, Http, read_body};
use super::probe::Seen;
use super::{OpenAiBackend, failure};
use crate::agent::platform_trust;

/// Bytes that a whole answer may have.
pub(super) const MAX_ANSWER: usize = 64 << 20;

/// Bytes of an error's body that are read.
const MAX_ERROR: usize = 64 << 10;

/// Builds an [`OpenAiBackend`].
#[derive(Clone)]
#[must_use]
pub struct OpenAiBackendBuilder {
    base_url: String,
    api_key: Option<String>,
    remote_allowed: bool,
    connect_timeout: Duration,
    context_length: u32,
    abilities: Abilities,
}

impl OpenAiBackendBuilder {
    pub(super) const fn new(base_url: String) -> Self {
        Self {
            base_url,
            api_key: None,
            remote_allowed: false,
            connect_timeout: Duration::from_secs(5),
            context_length: 4096,
            abilities: Abilities::NONE,
        }
    }

    /// Sends `key` as a bearer token with every request. Default: none.
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Allows a server on another machine, which then reads every prompt. Default: `false`.
    ///
    /// Without TLS (`http://`) so does everyone between here and there, and reads the key too.
    pub const fn with_remote_allowed(mut self, allowed: bool) -> Self {
        self.remote_allowed = allowed;
        self
    }

    /// Sets how long a connection may take to open, TLS included. Default: 5 s.
    pub const fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the context length, in tokens, of models whose server does not tell it. Default: 4096.
    pub const fn with_context_length(mut self, tokens: u32) -> Self {
        self.context_length = tokens;
        self
    }

    /// Adds abilities to every model, for servers that cannot tell them. Default: none.
    pub const fn with_abilities(mut self, abilities: Abilities) -> Self {
        self.abilities = abilities;
        self
    }

    /// Builds the backend. The server need not be running yet.
    pub fn build(self) -> Result<OpenAiBackend, OpenAiSetupError> {
        let root = root_of(&self.base_url)?;
        if !self.remote_allowed && !is_loopback(&root) {
            return Err(OpenAiSetupError::RemoteServer);
        }
        let host = root.host_str().unwrap_or_default();
        let authority = root.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
        let secrets = [self.api_key.clone(), Some(authority)];
        let server = Server {
            http: self.http(&root)?,
            chat: endpoint(&root, "v1/chat/completions").ok_or(OpenAiSetupError::Url)?,
            completions: endpoint(&root, "v1/completions").ok_or(OpenAiSetupError::Url)?,
            embeddings: endpoint(&root, "v1/embeddings").ok_or(OpenAiSetupError::Url)?,
            root,
            secrets: secrets.into_iter().flatten().filter(|secret| !secret.is_empty()).collect(),
            context_length: self.context_length,
            abilities: self.abilities,
            seen: Mutex::default(),
        };
        Ok(OpenAiBackend { server: Arc::new(server) })
    }

    fn http(&self, root: &Url) -> Result<Http, OpenAiSetupError> {
        let bearer = |key: &String| -> Result<_, InvalidHeaderValue> {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))?;
            value.set_sensitive(true);
            Ok(value)
        };
        let authorization = self.api_key.as_ref().map(bearer).transpose();
        let authorization = authorization.map_err(|_| OpenAiSetupError::ApiKey)?;
        let tls = if root.scheme() == "https" {
            platform_trust().map(Arc::unwrap_or_clone).map_err(|_| OpenAiSetupError::Tls)?
        } else {
            without_trust()?
        };
        Ok(Http::new(tls, self.connect_timeout, authorization))
    }
}

impl fmt::Debug for OpenAiBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL that was not checked yet may hold a password, so only its length is told.
        f.debug_struct("OpenAiBackendBuilder")
            .field("base_url", &format_args!("{} bytes", self.base_url.len()))
            .field("api_key", &self.api_key.as_ref().map(|_| "[hidden]"))
            .field("remote_allowed", &self.remote_allowed)
            .field("connect_timeout", &self.connect_timeout)
            .field("context_length", &self.context_length)
            .field("abilities", &self.abilities)
            .finish()
    }
}

/// Why an [`OpenAiBackend`] could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenAiSetupError {
    /// The base URL is no `http` or `https` address, or holds a password, query or fragment.
    #[error("the model server's URL must be http:// or https://, without password or query")]
    Url,
    /// The server is on another machine, and that was not allowed.
    #[error("the model server is not on this machine, which must be allowed explicitly")]
    RemoteServer,
    /// The key cannot be sent in a header.
    #[error("the model server's key has characters that no header can hold")]
    ApiKey,
    /// TLS could not be set up, for lack of root certificates.
    #[error("TLS could not be set up for the model server")]
    Tls,
}

/// A server, and what was learnt about it.
pub(super) struct Server {
    http: Http,
    root: Url,
    chat: Uri,
    completions: Uri,
    embeddings: Uri,
    secrets: Vec<String>,
    pub(super) context_length: u32,
    pub(super) abilities: Abilities,
    pub(super) seen: Mutex<Seen>,
}

impl Server {
    /// Sends `body` in place of the request's own.
    pub(super) async fn ask(
        &self,
        request: &GenerateRequest,
        body: Bytes,
    ) -> Result<Answer, BackendError> {
        let uri = match request.operation {
            Operation::Chat => &self.chat,
            Operation::Completion => &self.completions,
            Operation::Embedding => &self.embeddings,
        };
        self.http.post(uri.clone(), body, request.stream).await
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, BackendError> {
        self.http.get(self.endpoint(path)?).await
    }

    pub(super) async fn post_json(&self, path: &str, body: String) -> Result<Answer, BackendError> {
        self.http.post(self.endpoint(path)?, body.into(), false).await
    }

    fn endpoint(&self, path: &str) -> Result<Uri, BackendError> {
        endpoint(&self.root, path).ok_or(BackendError::Unavailable)
    }

    /// Returns whether the server has to be told by name that its last message goes on; `None`
    /// while it is not known what server it is.
    pub(super) fn says_continue(&self) -> Option<bool> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).says_continue()
    }

    /// Takes this server's address and key out of what it says.
    pub(super) fn redacted(&self, error: BackendError) -> BackendError {
        failure::without(&self.secrets, error)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.root.as_str()).finish_non_exhaustive()
    }
}

/// Reads what a refusal says; a body that breaks off says nothing.
pub(super) async fn read_refusal(answer: Answer) -> BackendError {
    let status = answer.status().as_u16();
    let body = read_body(answer, MAX_ERROR).await.unwrap_or_default();
    failure::of_status(status, &body)
}

pub(super) fn root_of(base_url: &str) -> Result<Url, OpenAiSetupError> {
    let mut url = Url::parse(base_url.trim()).map_err(|_| OpenAiSetupError::Url)?;
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_bare || !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(OpenAiSetupError::Url);
    }
    let path = url.path().trim_end_matches('/');
    let path = format!("{}/", path.strip_suffix("/v1").unwrap_or(path));
    url.set_path(&path);
    Ok(url)
}

fn endpoint(root: &Url, path: &str) -> Option<Uri> {
    let mut url = root.clone();
    url.set_path(&format!("{}{path}", root.path()));
    Uri::try_from(url.as_str()).ok()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || v6.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok_and(|a| a.is_loopback()))
}

/// A TLS configuration that trusts nobody, for servers that are reached without TLS: reading the
/// system's certificates would take longer than everything else here.
pub(super) fn without_trust() -> Result<rustls::ClientConfig, OpenAiSetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| OpenAiSetupError::Tls)?;
    Ok(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(url: &str) -> Result<OpenAiBackend, OpenAiSetupError> {
        OpenAiBackend::builder(url).build()
    }

    #[test]
    fn base_url_is_taken_with_and_without_its_version() {
        for (given, chat) in [
            ("http://localhost:1234", "http://localhost:1234/v1/chat/completions"),
            ("http://127.0.0.1:1234/v1/", "http://127.0.0.1:1234/v1/chat/completions"),
            (" http://[::1]/api/v1\n", "http://[::1]/api/v1/chat/completions"),
        ] {
            assert_eq!(build(given).unwrap().server.chat, chat);
        }
    }

    #[test]
    fn only_this_machine_is_asked_unless_another_is_allowed() {
        for url in [
            "http://192.168.1.5:1234",
            "https://example.org",
            "http://localhost.example.org",
            "http://127.0.0.1.example.org",
            "http://0.0.0.0:1234",
            "http://[fe80::1]",
        ] {
            assert_eq!(build(url).unwrap_err(), OpenAiSetupError::RemoteServer, "{url}");
        }
        let remote = OpenAiBackend::builder("http://192.168.1.5:1234").with_remote_allowed(true);
        assert!(remote.build().is_ok());
    }

    #[test]
    fn urls_that_are_more_than_an_address_are_refused() {
        for url in
            ["", "localhost:1234", "file:///etc", "http://u:p@localhost", "http://localhost?x"]
        {
            assert_eq!(build(url).unwrap_err(), OpenAiSetupError::Url, "{url}");
        }
        let key = OpenAiBackend::builder("http://localhost").with_api_key("a\nb");
        assert_eq!(key.build().unwrap_err(), OpenAiSetupError::ApiKey);
    }

    #[test]
    fn key_is_not_printed() {
        let builder =
            OpenAiBackend::builder("http://u:hunter2@localhost").with_api_key("sk-secret");
        let printed = format!("{builder:?}");
        assert!(!printed.contains("sk-secret") && !printed.contains("hunter2"), "{printed}");
        let backend = OpenAiBackend::builder("http://localhost").with_api_key("sk-secret");
        let printed = format!("{:?}", backend.build().unwrap());
        assert!(!printed.contains("sk-secret"), "{printed}");
    }
}
