//! One question for a file, or for the rest of it, and what the answer says of it.

use std::fmt;
use std::time::Duration;

use iris_protocol::rest::{FileName, Secret};
use reqwest::header::{self, HeaderMap, HeaderName};
use reqwest::{Client, Response};
use tokio::time::{sleep, timeout};
use url::Url;

use super::{Digest, PullError};

/// How often a source may send on.
const MAX_REDIRECTS: usize = 5;
/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a source is waited for that says when it is ready, before that is a failure: ten
/// minutes at what a coordinator asks for that hashes its files.
const MAX_WAITS: usize = 60;
/// The longest that a source may ask to be waited for at a time, in seconds.
const MAX_WAIT: u64 = 60;
const AGENT: &str = concat!("iris-node/", env!("CARGO_PKG_VERSION"));
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// By which Hugging Face tells the SHA-256 of what it sends on to.
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");

/// Where a file comes from, and what is known of it.
#[derive(Clone)]
pub struct Source {
    pub(super) url: Url,
    key: Option<Secret>,
    pub(super) digest: Option<Digest>,
    pub(super) size: Option<u64>,
}

impl Source {
    /// Reads an address.
    pub fn new(url: &str) -> Result<Self, PullError> {
        let url = Url::parse(url.trim()).map_err(|_| PullError::Url)?;
        let is_bare = url.username().is_empty() && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_bare {
            return Err(PullError::Url);
        }
        Ok(Self { url, key: None, digest: None, size: None })
    }

    /// Shows the source a key, as a bearer token; no other host sees it. Default: none.
    pub fn with_key(self, key: Secret) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Takes nothing but what has this digest. Default: what the source says it has, if it does.
    pub fn with_digest(self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self }
    }

    /// Takes nothing but what has so many bytes. Default: any number.
    pub fn with_size(self, bytes: u64) -> Self {
        Self { size: Some(bytes), ..self }
    }

    /// Returns what the file is called that the address ends in.
    pub fn file_name(&self) -> Result<FileName, PullError> {
        let last = self.url.path_segments().and_then(|mut parts| parts.next_back());
        last.unwrap_or_default().parse().map_err(|_| PullError::Name)
    }

    /// Returns whether others on the way could change what comes without that being noticed.
    pub fn is_open_to_change(&self) -> bool {
        self.digest.is_none() && self.url.scheme() != "https" && !is_loopback(&self.url)
    }

    /// Returns the address without what may be secret in it.
    pub fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.into()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, key: _, digest, size } = self;
        let mut all = f.debug_struct("Source");
        all.field("url", &self.shown()).field("digest", digest).field("size", size);
        all.finish_non_exhaustive()
    }
}

/// What an answer gives.
#[derive(Debug)]
pub(super) enum Answer {
    /// All of the file.
    Whole(Response, Facts),
    /// What follows the bytes that are there.
    Rest(Response, Facts),
    /// The bytes that are there are all.
    Complete(Facts),
    /// It has nothing that those bytes could be a part of.
    Unlike,
}

/// What an answer says of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) total: Option<u64>,
    pub(super) validator: Option<String>,
    pub(super) digest: Option<Digest>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// It may go better next time.
    Soon(String),
    /// It will not.
    For(PullError),
}

impl From<PullError> for Failed {
    fn from(error: PullError) -> Self {
        Self::For(error)
    }
}

/// Makes what asks: no redirects, no proxies. Trusts the authorities in `roots` alone, if given.
pub(super) fn client(roots: Option<&[u8]>) -> Result<Client, PullError> {
    let failed = |error: reqwest::Error| PullError::Tls(error.to_string());
    // The client takes no provider of its own; an earlier choice stands.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = Client::builder()
        .user_agent(AGENT)
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(pem) = roots {
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem).map_err(failed)?);
    }
    client.build().map_err(failed)
}

/// Asks for a file from byte `from` on, as long as it is the one that `validator` was told of.
/// Each answer may be waited for as long as `patience`. A source that is busy and says for how long
/// (`Retry-After`) is asked again then.
pub(super) async fn ask(
    client: &Client,
    source: &Source,
    from: u64,
    validator: Option<&str>,
    patience: Duration,
) -> Result<Answer, Failed> {
    let (mut url, mut stated) = (source.url.clone(), None);
    let (mut redirects, mut waits) = (0, 0);
    loop {
        let mut asked = client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
        if let Some(key) = &source.key
            && url.origin() == source.url.origin()
        {
            asked = asked.bearer_auth(key.expose());
        }
        if from > 0 {
            asked = asked.header(header::RANGE, format!("bytes={from}-"));
            if let Some(validator) = validator {
                asked = asked.header(header::IF_RANGE, validator);
            }
        }
        let answer = timeout(patience, asked.send()).await;
        let answer = answer.map_err(|_| Failed::Soon("the source does not answer".to_owned()))?;
        let answer = answer.map_err(|error| Failed::Soon(cause(error)))?;
        let status = answer.status().as_u16();
        // Only those who were named can say what the file is.
        if url.host() == source.url.host() {
            stated = stated.or_else(|| stated_digest(status, answer.headers()));
        }
        if let (Some(expected), Some(found)) = (source.digest, stated)
            && expected.is_like(&found)
            && expected != found
        {
            return Err(PullError::OtherDigest { expected, found }.into());
        }
        let location = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        match (status, location) {
            (301 | 302 | 303 | 307 | 308, Some(location)) => {
                let to = url.join(location).map_err(|_| PullError::Redirect("nowhere".into()))?;
                let is_stated = stated.is_some() && source.url.scheme() == "https";
                if !may_follow(&url, &to, source.digest.is_some() || is_stated) {
                    let host = to.host_str().unwrap_or_default().to_owned();
                    return Err(PullError::Redirect(host).into());
                }
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(PullError::Redirects.into());
                }
                url = to;
            }
            (429 | 503, _)
                if waits < MAX_WAITS
                    && let Some(wait) = retry_after(answer.headers()) =>
            {
                drop(answer);
                waits += 1;
                sleep(wait).await;
            }
            _ => return read(answer, status, from, stated),
        }
    }
}

/// Returns after how long a source wants to be asked again, if that is not too long.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let secs = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    (secs <= MAX_WAIT).then_some(Duration::from_secs(secs))
}

/// Returns whether an address may send on to another one.
fn may_follow(from: &Url, to: &Url, digest_known: bool) -> bool {
    let (was_secure, is_secure) = (from.scheme() == "https", to.scheme() == "https");
    let is_bare = to.username().is_empty() && to.password().is_none();
    let is_same =
        from.origin() == to.origin() || from.host() == to.host() && is_secure && !was_secure;
    let is_http = is_secure || to.scheme() == "http";
    is_bare && is_http && (is_same || is_secure && digest_known)
}

fn read(
    answer: Response,
    status: u16,
    from: u64,
    stated: Option<Digest>,
) -> Result<Answer, Failed> {
    let headers = answer.headers();
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Failed::Soon("the source sends the file in another coding".to_owned()));
    }
    // A weak tag says that something is alike, which is not enough to join two parts.
    let tag = text(header::ETAG).filter(|tag| !tag.starts_with("W/"));
    let validator = tag.or_else(|| text(header::LAST_MODIFIED)).map(str::to_owned);
    let facts = |total| Facts { total, validator, digest: stated };
    match status {
        200 => {
            let total = answer.content_length();
            Ok(Answer::Whole(answer, facts(total)))
        }
        206 => match text(header::CONTENT_RANGE).and_then(content_range) {
            Some((first, total)) if first == from => Ok(Answer::Rest(answer, facts(total))),
            _ => Ok(Answer::Unlike),
        },
        416 => match text(header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes */")) {
            Some(total) if total.parse() == Ok(from) => Ok(Answer::Complete(facts(Some(from)))),
            _ => Ok(Answer::Unlike),
        },
        408 | 425 | 429 | 500.. => Err(Failed::Soon(format!("the source answers {status}"))),
        status => Err(PullError::Status(status).into()),
    }
}

/// Reads `bytes 5-9/10`: the first byte, and how many there are in all, if that is told.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    // The rest of a file ends with it.
    let is_rest = first <= last && total.is_none_or(|total: u64| total == last + 1);
    is_rest.then_some((first, total))
}

/// Returns what an answer says that the file is: other answers may have a digest of their own.
fn stated_digest(status: u16, headers: &HeaderMap) -> Option<Digest> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let is_file = matches!(status, 200 | 206);
    let own = text(REPR_DIGEST).filter(|_| is_file).and_then(Digest::of_repr_digest);
    let linked = text(LINKED_ETAG).filter(|_| is_file || (300..400).contains(&status));
    own.or_else(|| linked.and_then(Digest::of_quoted_sha256))
}

/// Says in a few words what lies at the bottom of an error, which never holds the address.
pub(super) fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    if error.is_timeout() {
        return "the source does not answer".to_owned();
    }
    let mut deepest: &dyn std::error::Error = &error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    format!("the source broke off: {deepest}")
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_are_followed_to_over_https_when_the_digest_is_known() {
        let may = |from: &str, to: &str, known| {
            may_follow(&Url::parse(from).unwrap(), &Url::parse(to).unwrap(), known)
        };
        for (from, to, unknown, known) in [
            ("https://a/x", "https://a/y", true, true),
            ("http://a/x", "http://a/y", true, true),
            ("http://a/x", "https://a/y", true, true),
            ("https://a/x", "https://b/y", false, true),
            ("http://a/x", "https://b/y", false, true),
            ("https://a/x", "https://a:444/y", false, true),
            ("https://a/x", "http://a/y", false, false),
            ("https://a/x", "http://b/y", false, false),
            ("http://a/x", "http://b/y", false, false),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:2/y", false, false),
            ("https://a/x", "file:///etc/passwd", false, false),
            ("https://a/x", "https://u:p@a/y", false, false),
        ] {
            assert_eq!((may(from, to, false), may(from, to, true)), (unknown, known), "{to}");
        }
    }

    #[test]
    fn addresses_name_files() {
        let name = |url: &str| Source::new(url).unwrap().file_name().ok().map(|n| n.to_string());
        let found = name("https://a/b/x.gguf?download=true#part");
        assert_eq!(found.as_deref(), Some("x.gguf"));
        for url in ["https://a", "https://a/b/", "https://a/%2e%2e%2fx", "https://a/.ssh"] {
            assert_eq!(name(url), None, "{url}");
        }
        for url in ["", "x.gguf", "file:///x.gguf", "ftp://a/x", "https://u:p@a/x"] {
            assert!(matches!(Source::new(url), Err(PullError::Url)), "{url}");
        }
        let secret = Source::new("https://a/x.gguf?sig=hunter2").unwrap();
        assert_eq!(secret.shown(), "https://a/x.gguf");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn causes_hold_no_address() {
        let answer = http::Response::builder().status(500).body("").unwrap();
        let error = Response::from(answer).error_for_status().unwrap_err();
        let why = cause(error.with_url(Url::parse("https://a/x.gguf?sig=hunter2").unwrap()));
        assert!(!why.contains("hunter2"), "{why}");
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for text in ["bytes 5-8/10", "bytes 9-5/6", "bytes */10", "5-9/10", "bytes a-b/c"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
