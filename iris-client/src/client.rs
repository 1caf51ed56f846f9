use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use iris_protocol::openai::{
    ChatCompletion, ChatRequest, Message, Model, ModelList, StreamOptions, count_values,
};
use iris_protocol::rest;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use crate::accounts::Accounts;
use crate::builder::ClientBuilder;
use crate::chat::Ask;
use crate::error::ClientError;
use crate::head::Head;
use crate::retry;
use crate::stream::ChatStream;
use crate::tasks::Tasks;

/// The longest answer that is read, in bytes.
pub(crate) const MAX_ANSWER: usize = 64 << 20;
/// Most values of an answer; the log probabilities of a long one are a million.
const MAX_VALUES: usize = 1 << 21;
/// How much of a refusal is read, in bytes.
const MAX_REFUSAL: usize = 64 << 10;

/// Asks one coordinator. Cloning is cheap and shares the connections.
///
/// Dropping a call cancels it; the coordinator then frees the node within a second.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) http: reqwest::Client,
    pub(crate) base: Url,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) keys_are_safe: bool,
    pub(crate) timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

impl Client {
    /// Begins a client of the coordinator at `base_url`, such as `https://iris.example`. The
    /// forms with `/v1` and `ws://.../nodes/connect` are understood too.
    pub fn builder(base_url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(base_url.into())
    }

    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Returns the coordinator's address.
    pub fn base_url(&self) -> &str {
        self.inner.base.as_str()
    }

    /// Begins one question to `model`.
    pub fn ask(&self, model: impl Into<String>, prompt: impl Into<String>) -> Ask {
        let request = ChatRequest::new(model, vec![Message::user(prompt.into())]);
        Ask::new(self.clone(), request)
    }

    /// Sends a conversation and waits for the whole answer.
    pub async fn chat(&self, mut request: ChatRequest) -> Result<ChatCompletion, ClientError> {
        request.stream = None;
        request.stream_options = None;
        Ok(self.call(Call::post("v1/chat/completions", &request)).await?.0)
    }

    /// Sends a conversation and yields the answer as it is written.
    ///
    /// Fails here when the request is refused. The tokens used come in the last chunk, unless
    /// `stream_options` says otherwise.
    pub async fn chat_stream(&self, mut request: ChatRequest) -> Result<ChatStream, ClientError> {
        request.stream = Some(true);
        request.stream_options.get_or_insert_with(|| StreamOptions {
            include_usage: Some(true),
            ..StreamOptions::default()
        });
        let call = Call::post("v1/chat/completions", &request);
        let deadline = Instant::now() + self.inner.timeout;
        let response = self.within(deadline, self.send(&call)).await?;
        let head = Head::read(response.headers());
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            let reason = "a stream was asked for, and another form came".to_owned();
            return Err(ClientError::Malformed { reason, request_id: head.request_id });
        }
        Ok(ChatStream::new(response, head, self.inner.idle_timeout))
    }

    /// Lists the models that can be asked.
    pub async fn models(&self) -> Result<Vec<Model>, ClientError> {
        Ok(self.call::<ModelList>(Call::get("v1/models")).await?.0.data)
    }

    /// Lists the connected nodes.
    pub async fn nodes(&self) -> Result<rest::NodeList, ClientError> {
        Ok(self.call(Call::get("nodes")).await?.0)
    }

    /// Asks whether the coordinator is at work.
    pub async fn health(&self) -> Result<rest::Health, ClientError> {
        Ok(self.call(Call::get("healthz").once()).await?.0)
    }

    /// Returns the operations on tasks, which survive a crash of the coordinator.
    pub fn tasks(&self) -> Tasks<'_> {
        Tasks::new(self)
    }

    /// Returns the operations on accounts.
    pub fn accounts(&self) -> Accounts<'_> {
        Accounts::new(self)
    }

    pub(crate) fn keys_are_safe(&self) -> bool {
        self.inner.keys_are_safe
    }

    /// Carries out a call, again where that is safe and sensible.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<(T, HeaderMap), ClientError> {
        let deadline = Instant::now() + self.inner.timeout;
        let mut attempt = 0;
        loop {
            let error = match self.within(deadline, self.exchange(&call)).await {
                Ok((body, headers)) => return Ok((parse(&body, &headers)?, headers)),
                Err(error) => error,
            };
            let delay = retry::delay(&error, attempt).filter(|_| call.repeatable);
            match delay {
                Some(delay) if delay < deadline.saturating_duration_since(Instant::now()) => {
                    sleep(delay).await;
                }
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    async fn exchange(&self, call: &Call) -> Result<(Vec<u8>, HeaderMap), ClientError> {
        let mut response = self.send(call).await?;
        let body = self.read(&mut response, MAX_ANSWER).await?;
        if body.len() > MAX_ANSWER || count_values(&body) > MAX_VALUES {
            let reason = "it is too long".to_owned();
            let request_id = Head::read(response.headers()).request_id;
            return Err(ClientError::Malformed { reason, request_id });
        }
        Ok((body, std::mem::take(response.headers_mut())))
    }

    /// Sends a call and returns the answer's beginning, or the refusal.
    async fn send(&self, call: &Call) -> Result<Response, ClientError> {
        let url = self.inner.base.join(&call.path).expect("paths of calls are relative and valid");
        let mut request = self.inner.http.request(call.method.clone(), url);
        if let Some(authorization) = &self.inner.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header(rest::IDEMPOTENCY_KEY, key);
        }
        if let Some(body) = &call.body {
            let json = HeaderValue::from_static("application/json");
            request = request.header(header::CONTENT_TYPE, json).body(body.clone());
        }
        let mut response = request.send().await.map_err(|error| self.transport(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        // What the status says stands even if the body breaks off.
        let body = self.read(&mut response, MAX_REFUSAL).await.unwrap_or_default();
        Err(ClientError::refused(response.status(), response.headers(), &body))
    }

    /// Reads a body until its end, or just beyond `limit` bytes.
    async fn read(&self, response: &mut Response, limit: usize) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while body.len() <= limit
            && let Some(piece) = response.chunk().await.map_err(|error| self.transport(&error))?
        {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    async fn within<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let late = || Err(ClientError::Timeout(self.inner.timeout));
        timeout_at(deadline, work).await.unwrap_or_else(|_| late())
    }

    fn transport(&self, error: &reqwest::Error) -> ClientError {
        ClientError::transport(error, self.inner.timeout)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base_url", &self.base_url())
            .field("has_key", &self.inner.authorization.is_some())
            .finish_non_exhaustive()
    }
}

/// One request to the coordinator.
pub(crate) struct Call {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    idempotency_key: Option<String>,
    repeatable: bool,
}

impl Call {
    /// Reads; may be repeated.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
            idempotency_key: None,
            repeatable: true,
        }
    }

    /// Deletes; may be repeated.
    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, ..Self::get(path) }
    }

    /// Does something with `body`, once.
    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("requests have a JSON form");
        Self { method: Method::POST, body: Some(body), repeatable: false, ..Self::get(path) }
    }

    /// Makes the coordinator take repetitions with the same key for one.
    pub(crate) fn with_idempotency_key(self, key: impl Into<String>) -> Self {
        Self { idempotency_key: Some(key.into()), repeatable: true, ..self }
    }

    /// Gives up at the first failure.
    pub(crate) fn once(self) -> Self {
        Self { repeatable: false, ..self }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8], headers: &HeaderMap) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Malformed {
        // The parser's own text may repeat what the answer says.
        reason: format!("{:?} error at line {}", error.classify(), error.line()),
        request_id: Head::read(headers).request_id,
    })
}
