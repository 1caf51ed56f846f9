use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use iris_core::ModelName;
use iris_core::classify::{Classifier, ClassifyError, Question};
use iris_core::demand::Difficulty;
use iris_protocol::openai::{judge_request, judged};
use iris_protocol::rest::Secret;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Response, StatusCode, Url};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Asks a model at [OpenRouter](https://openrouter.ai), or at another service that speaks as it does.
///
/// Whoever runs the service reads the question, cut to [`Question::MAX_LEN`], so nothing asks one
/// unless an operator set it; the coordinator never asks it about what is sealed, or about what
/// only some nodes may read. It learns neither the caller nor the address that the caller has.
pub struct OpenRouter {
    http: reqwest::Client,
    endpoint: Url,
    authorization: HeaderValue,
    model: ModelName,
    limit: Duration,
}

impl OpenRouter {
    /// Makes a classifier that asks `model` at `base_url`, such as `https://openrouter.ai/api/v1`,
    /// with the operator's key.
    ///
    /// Plain HTTP is for services on this machine: a key must not travel unencrypted.
    pub fn new(base_url: &str, key: &Secret, model: ModelName) -> Result<Self, OpenRouterError> {
        let endpoint = endpoint(base_url).ok_or(OpenRouterError::InvalidUrl)?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", key.expose()))
            .map_err(|_| OpenRouterError::InvalidKey)?;
        authorization.set_sensitive(true);
        // The client takes no provider of its own; an earlier choice stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        if endpoint.scheme() == "http" {
            // It never leaves this machine, and works on one that has no certificates.
            http = http.no_proxy().tls_certs_only([]);
        }
        let http = http.build().map_err(|_| OpenRouterError::Tls)?;
        Ok(Self { http, endpoint, authorization, model, limit: Duration::from_secs(5) })
    }

    /// Waits for at most `limit` for what the service says. Default: 5 s.
    pub const fn with_time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn ask(&self, question: &Question) -> Result<Difficulty, ClassifyError> {
        let unavailable = |_| ClassifyError::Unavailable;
        let request = self
            .http
            .post(self.endpoint.clone())
            .timeout(self.limit)
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(judge_request(&self.model, question.text()));
        let mut response = request.send().await.map_err(unavailable)?;
        check(&response)?;
        let mut answer = Vec::new();
        while let Some(part) = response.chunk().await.map_err(unavailable)? {
            if answer.len() + part.len() > MAX_ANSWER {
                return Err(ClassifyError::Malformed);
            }
            answer.extend_from_slice(&part);
        }
        judged(&answer).ok_or(ClassifyError::Malformed)
    }
}

impl Classifier for OpenRouter {
    fn name(&self) -> &'static str {
        "openrouter"
    }

    fn time_limit(&self) -> Duration {
        self.limit
    }

    fn classify<'a>(
        &'a self,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Option<Difficulty>, ClassifyError>> {
        Box::pin(async move {
            // There is nothing to ask.
            if question.text().is_empty() {
                return Ok(None);
            }
            self.ask(question).await.map(Some)
        })
    }
}

impl fmt::Debug for OpenRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenRouter").field("model", &self.model).finish_non_exhaustive()
    }
}

/// Why a classifier cannot be made. None of them shows the key or the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenRouterError {
    /// The address is not one that a key may be sent to.
    #[error(
        "its address must be like https://openrouter.ai/api/v1; http is for this machine alone"
    )]
    InvalidUrl,
    /// The key has characters that no key has.
    #[error("its key has characters that no key has")]
    InvalidKey,
    /// The system's certificates cannot be used.
    #[error("the system's certificates cannot be read, so its address cannot be verified")]
    Tls,
}

/// Returns where chats are asked at a base address that is fit for a key.
fn endpoint(base_url: &str) -> Option<Url> {
    let mut url = Url::parse(base_url.trim()).ok()?;
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    let is_safe = match url.scheme() {
        "https" => true,
        "http" => is_loopback(&url),
        _ => false,
    };
    if !is_plain || !is_safe {
        return None;
    }
    url.path_segments_mut().ok()?.pop_if_empty().extend(["chat", "completions"]);
    Some(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn check(response: &Response) -> Result<(), ClassifyError> {
    match response.status() {
        StatusCode::OK => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Err(ClassifyError::Unavailable)
        }
        status if status.is_server_error() => Err(ClassifyError::Unavailable),
        _ => Err(ClassifyError::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sent_encrypted_or_stay_on_this_machine() {
        let made = |url: &str| OpenRouter::new(url, &Secret::new("k"), "m".parse().unwrap());
        let asked = made("http://127.0.0.1:1/api/v1/").unwrap().endpoint;
        assert_eq!(asked.as_str(), "http://127.0.0.1:1/api/v1/chat/completions");
        for (url, is_good) in [
            ("http://localhost:1", true),
            ("http://[::1]:1/v1", true),
            ("http://openrouter.ai/api/v1", false),
            ("http://10.0.0.1/v1", false),
            ("https://user:hunter2@openrouter.ai/api/v1", false),
            ("https://openrouter.ai/api/v1?key=hunter2", false),
            ("ftp://127.0.0.1/", false),
            ("openrouter", false),
        ] {
            let made = made(url).map(drop);
            assert_eq!(made, is_good.then_some(()).ok_or(OpenRouterError::InvalidUrl), "{url}");
        }
    }
}
