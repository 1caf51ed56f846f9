//! A local OpenAI endpoint that seals: programs that know nothing of Iris ask it, and nobody but
//! the node that answers can read what they ask.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use iris_client::{Client, proxy::Proxy};
//!
//! let client = Client::builder("https://iris.example").with_api_key("iris_...").build()?;
//! let proxy = Proxy::bind(client, "127.0.0.1:8088".parse()?).await?;
//! println!("http://{}/v1", proxy.local_addr()?);
//! proxy.run(std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! It listens on loopback only, since what is asked travels to it in the clear. Web pages that a
//! browser on this machine shows are not answered, wherever they come from. Requests are refused,
//! and answers written, as the coordinator's own endpoint does it.
//!
//! A model's name may ask for divided work: `iris/subtasks:MODEL`, `iris/consensus:MODEL` or
//! `iris/consensus-5:MODEL`, `iris/context:MODEL`, `iris/auto:MODEL`. The proxy divides it, and
//! seals each part on its own. While such an answer is streamed, its privacy is told as the least
//! that it can be.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use iris_core::TaskId;
use iris_core::backend::Operation;
use iris_protocol::openai::{ModelList, RequestError};
use iris_protocol::rest::{self, Secret};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::client::Client;
use crate::head::Head;
use crate::policy::{Policy, Privacy};
use crate::sealed::{Question, now};

mod body;
mod divided;
mod door;
mod error;
mod stream;

use divided::Divided;
use error::ProxyError;
use stream::{Events, KEEP_ALIVE, Opening};

/// A local endpoint, ready to run.
#[derive(Debug)]
pub struct Proxy {
    asker: Asker,
    listener: TcpListener,
}

/// Who asks, and how.
#[derive(Debug)]
struct Asker {
    client: Client,
    /// Whether divided work may go to other nodes than the guards.
    spread: bool,
}

/// Why a proxy cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Others could connect, and what is asked would travel to the proxy in the clear.
    #[error(
        "{0} can be reached by other machines, and what they ask would travel to it in the clear: \
         give a loopback address, such as 127.0.0.1:8088"
    )]
    NotLoopback(SocketAddr),
    /// The address is not to be had.
    #[error("cannot listen on {0}: {1}")]
    Io(SocketAddr, io::Error),
}

impl Proxy {
    /// Listens on `address`, which must be one of loopback; port 0 takes a free one.
    ///
    /// Requests are sealed by `client`; one that is open is made to seal. The key is that of the
    /// client, else that of each request.
    pub async fn bind(client: Client, address: SocketAddr) -> Result<Self, BindError> {
        if !address.ip().is_loopback() {
            return Err(BindError::NotLoopback(address));
        }
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| BindError::Io(address, error))?;
        let client = match client.policy() {
            Policy::Open => client.with_policy(Policy::Sealed),
            Policy::Sealed | Policy::Own => client,
        };
        Ok(Self { asker: Asker { client, spread: false }, listener })
    }

    /// Lets the parts of divided work go to other nodes than the guards; see
    /// [`PlanCall::with_spread`](crate::PlanCall::with_spread). Default: no.
    pub const fn with_spread(mut self, spread: bool) -> Self {
        self.asker.spread = spread;
        self
    }

    /// Returns where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until `stop` is ready; those at work then are finished.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let app = routes(Arc::new(self.asker));
        // Small pieces of an answer must not wait for each other.
        let listener = self.listener.tap_io(|socket| drop(socket.set_nodelay(true)));
        axum::serve(listener, app).with_graceful_shutdown(stop).await
    }
}

fn routes(asker: Arc<Asker>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/embeddings", post(embedding))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/healthz", get(healthz))
        .fallback(|| async { ProxyError::from(RequestError::UnknownPath) })
        .method_not_allowed_fallback(|| async { ProxyError::from(RequestError::UnknownMethod) })
        .layer(middleware::from_fn(surround))
        .with_state(asker)
}

/// Keeps strangers out, and names every answer.
async fn surround(request: Request, next: Next) -> Response {
    let mut response = match door::admit(request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let name = HeaderName::from_static(rest::REQUEST_ID);
    if !response.headers().contains_key(&name) {
        let mut id = [0; 16];
        // A request without randomness has a name that others have, too.
        let _ = getrandom::fill(&mut id);
        if let Ok(id) = HeaderValue::try_from(TaskId::from_bytes(id).to_string()) {
            response.headers_mut().insert(name, id);
        }
    }
    response
}

async fn chat(State(asker): State<Arc<Asker>>, request: Request) -> Reply {
    generate(&asker, Operation::Chat, request).await
}

async fn completion(State(asker): State<Arc<Asker>>, request: Request) -> Reply {
    generate(&asker, Operation::Completion, request).await
}

async fn embedding(State(asker): State<Arc<Asker>>, request: Request) -> Reply {
    generate(&asker, Operation::Embedding, request).await
}

type Reply = Result<Response, ProxyError>;

async fn generate(asker: &Asker, operation: Operation, request: Request) -> Reply {
    let (head, body) = request.into_parts();
    let client = asking(&asker.client, &head.headers)?;
    let body = body::read(&head.headers, body).await?;
    let question = Question::read(operation, body)?;
    let created = now().as_secs();
    if let Some(divided) = Divided::read(&client, asker.spread, &question, created).await? {
        return answer_divided(divided, question.asked.stream).await;
    }
    let question = client.named(question).await?;
    if question.asked.stream {
        return streamed(client, operation, question, created).await;
    }
    let answer = client.whole_sealed(&question, created).await?;
    let mut response = Response::new(Body::from(answer.body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    describe(headers, &answer.head, answer.privacy);
    Ok(response)
}

async fn answer_divided(divided: Divided, stream: bool) -> Reply {
    let mut headers = HeaderMap::new();
    if stream {
        describe(&mut headers, &Head::default(), divided.privacy);
        return Ok(event_stream(headers, Body::from_stream(divided.events().await?.into_stream())));
    }
    let (body, privacy) = divided.whole().await?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    describe(&mut headers, &Head::default(), privacy);
    let mut response = Response::new(Body::from(body));
    *response.headers_mut() = headers;
    Ok(response)
}

/// Waits until the answer begins, or for so long that whoever asks wants a sign of life.
async fn streamed(client: Client, operation: Operation, question: Question, created: u64) -> Reply {
    let mut opening = Opening::new(client, operation, question, created);
    let mut headers = HeaderMap::new();
    let events = match timeout(KEEP_ALIVE, &mut opening).await {
        Ok(opened) => {
            let opened = opened?;
            describe(&mut headers, opened.head(), opened.privacy());
            Events::begun(opened)
        }
        Err(_) => Events::waiting(opening),
    };
    Ok(event_stream(headers, Body::from_stream(events.into_stream())))
}

fn event_stream(mut headers: HeaderMap, events: Body) -> Response {
    let mut response = Response::new(events);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let unbuffered = HeaderName::from_static("x-accel-buffering");
    headers.insert(unbuffered, HeaderValue::from_static("no"));
    *response.headers_mut() = headers;
    response
}

/// Lists the models that can be asked in such a way that the coordinator cannot read it.
async fn models(State(asker): State<Arc<Asker>>, headers: HeaderMap) -> Reply {
    Ok(json(&ModelList::new(sealable(&asker.client, &headers).await?)))
}

async fn model(
    State(asker): State<Arc<Asker>>,
    headers: HeaderMap,
    name: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Reply {
    let models = sealable(&asker.client, &headers).await?;
    let Path(name) = name.map_err(|_| RequestError::UnknownModel)?;
    let model = models.into_iter().find(|model| model.id == name);
    Ok(json(&model.ok_or(RequestError::UnknownModel)?))
}

async fn sealable(
    client: &Client,
    headers: &HeaderMap,
) -> Result<Vec<iris_protocol::openai::Model>, ProxyError> {
    let mut models = asking(client, headers)?.sealed_models().await?;
    for model in &mut models {
        "model".clone_into(&mut model.object);
    }
    Ok(models)
}

async fn healthz(State(asker): State<Arc<Asker>>) -> Reply {
    Ok(json(&asker.client.health().await?))
}

/// Returns the client with its own key, else with the one that the request shows.
fn asking(client: &Client, headers: &HeaderMap) -> Result<Client, ProxyError> {
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.split_once(' '));
    let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match shown {
        Some((_, token)) if !client.has_api_key() && client.session().account()?.is_none() => {
            client.with_api_key(&Secret::new(token.trim())).map_err(ProxyError::from)
        }
        _ => Ok(client.clone()),
    }
}

/// Says what became of a request, and who could read it, as far as that was verified here.
fn describe(headers: &mut HeaderMap, head: &Head, privacy: Privacy) {
    let mut set = |name, value: Option<String>| {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set(rest::REQUEST_ID, head.request_id.clone());
    set(rest::TASK, head.task.map(|task| task.to_string()));
    set(rest::NODE, head.node.map(|node| node.to_string()));
    set(rest::PRIVACY, Some(privacy.to_string()));
}

fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("these values have a JSON form");
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
