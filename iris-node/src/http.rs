//! Questions to coordinators and model servers: no redirects, no proxies, and an end to all of it.

use std::time::{Duration, SystemTime};

use iris_protocol::rest::Secret;
use serde::de::DeserializeOwned;

use crate::failure::{Exit, Failure};
use crate::settings::Settings;

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 1 << 20;

/// Asks over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// What time it was there, to the second.
    pub(crate) date: Option<SystemTime>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Returns whether the question was taken well.
    pub(crate) const fn is_success(&self) -> bool {
        matches!(self.status, 200..300)
    }

    /// Reads a successful answer as JSON; `None` from whatever is something else.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        if self.is_success() { serde_json::from_slice(&self.body).ok() } else { None }
    }

    /// Returns whether a key is wanted, or another one.
    pub(crate) const fn wants_key(&self) -> bool {
        matches!(self.status, 401 | 403)
    }
}

impl Http {
    /// Trusts whom the settings say. One question may take as long as `limit`.
    pub(crate) fn new(settings: &Settings, limit: Duration) -> Result<Self, Failure> {
        // The client takes no provider of its own; an earlier choice stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .timeout(limit)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(file) = &settings.ca_file {
            let unusable = |error: &dyn std::fmt::Display| {
                Failure::files(format!("{}: {error}", file.display()))
            };
            let pem = std::fs::read(file).map_err(|error| unusable(&error))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem);
            client = client.tls_certs_only(roots.map_err(|error| unusable(&error))?);
        }
        let failed = |error| Failure::new(Exit::Work, format!("TLS cannot be set up: {error}"));
        Ok(Self { client: client.build().map_err(failed)? })
    }

    /// Asks for what is at `url`, with a key where there is one.
    pub(crate) async fn get(
        &self,
        url: &str,
        key: Option<&Secret>,
    ) -> Result<Answer, reqwest::Error> {
        let asked = self.client.get(url);
        let asked = match key {
            Some(key) => asked.bearer_auth(key.expose()),
            None => asked,
        };
        read(asked.send().await?).await
    }

    /// Asks for something else than what is at `url`, with a key, and a body where there is one.
    pub(crate) async fn send(
        &self,
        method: reqwest::Method,
        url: &str,
        key: &Secret,
        body: Option<&impl serde::Serialize>,
    ) -> Result<Answer, reqwest::Error> {
        let asked = self.client.request(method, url).bearer_auth(key.expose());
        let asked = match body {
            Some(body) => asked.json(body),
            None => asked,
        };
        read(asked.send().await?).await
    }

    /// Sends `body` to `url` as JSON.
    pub(crate) async fn post(
        &self,
        url: &str,
        body: &impl serde::Serialize,
    ) -> Result<Answer, reqwest::Error> {
        read(self.client.post(url).json(body).send().await?).await
    }
}

async fn read(mut answer: reqwest::Response) -> Result<Answer, reqwest::Error> {
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await? {
        let fits = MAX_ANSWER - body.len();
        body.extend_from_slice(&part[..part.len().min(fits)]);
        if part.len() > fits {
            break;
        }
    }
    Ok(Answer { status, date, body })
}

/// Says in a sentence why a question was not answered: what lies at the bottom of it.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Returns whether a question failed for want of a secure connection.
pub(crate) fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    // What an error of the system wraps, once or twice, is not among its sources.
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => is_tls(inner),
        None => error.source().is_some_and(is_tls),
    }
}
