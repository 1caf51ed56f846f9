//! The coordinator's HTTP server: the OpenAI-compatible endpoint, the relay of sealed requests, its
//! own API, and the door for nodes.
//!
//! [`router`] is the whole API as a service, for programs that have a server already; [`Server`]
//! is a server that holds strangers to limits.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use iris_protocol::openai::RequestError;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::Coordinator;

mod accounts;
mod auth;
mod body;
mod callers;
mod chat;
mod connect;
mod connections;
mod cors;
mod descriptors;
mod division;
mod error;
mod events;
mod follow;
mod invitations;
mod jobs;
mod limits;
mod linger;
mod listener;
mod live;
mod members;
mod metrics;
mod model_files;
mod money;
mod network;
mod observe;
mod openai;
mod operator;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod properties;
mod proxy;
mod quiet;
mod rest;
mod route;
mod sealed;
mod server;
mod sessions;
mod settings;
#[cfg(feature = "pages")]
mod strangers;
mod submission;
mod tls;
mod transparency;
mod upgrade;
mod verdicts;

pub use descriptors::raise_file_limit;
pub use listener::Listener;
pub use proxy::{Network, NetworkError};
pub use server::{ServeError, Server};
pub use settings::{ApiSettings, ServerSettings, TlsFiles, Unlimited, UnlimitedError};
pub use tls::{TlsError, TlsReloader};

use body::Bodies;
use error::ApiError;
use live::Audience;
use metrics::Metrics;

use crate::limits::Chats;
use crate::model_folder::ModelFolder;

/// Returns the whole API with its default settings.
///
/// The caller's address is read from axum's `ConnectInfo<SocketAddr>`, where the server around it
/// provides one; without it, nobody counts as local.
pub fn router(coordinator: Coordinator) -> Router {
    router_with(coordinator, ApiSettings::default())
}

/// Returns the whole API; see [`router`].
pub fn router_with(coordinator: Coordinator, settings: ApiSettings) -> Router {
    routes(Api::new(coordinator, settings))
}

fn routes(api: Arc<Api>) -> Router {
    let observe = axum::middleware::from_fn_with_state(Arc::clone(&api), observe::layer);
    let router = Router::new();
    #[cfg(feature = "pages")]
    let router = if api.settings.pages {
        router.merge(crate::pages::routes()).merge(strangers::routes())
    } else {
        router
    };
    router
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completion))
        .route("/v1/embeddings", post(openai::embedding))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{*id}", get(openai::model_by_name))
        .route("/sealed", post(sealed::post))
        .route("/inference", get(rest::list).post(rest::submit))
        .route("/inference/{id}", get(rest::status).delete(rest::cancel))
        .route("/inference/{id}/events", get(events::events))
        .route("/inference/{id}/explain", get(rest::explain))
        .route("/inference/{id}/review", post(rest::review))
        .route("/api/inference/submit", post(jobs::submit))
        .route("/api/inference/status/{id}", get(jobs::status))
        .route("/api/inference/result/{id}", get(jobs::result))
        .route("/ws/jobs/{id}", get(follow::follow))
        .route("/api/chat/stream", post(chat::stream))
        .route("/stats", get(network::stats))
        .route("/reputation", get(network::reputation))
        .route("/history", get(network::history))
        .route("/receipts", get(network::receipts))
        .route("/live", get(live::live))
        .route("/nodes", get(network::nodes))
        .route("/account/nodes", get(network::own_nodes))
        .route("/nodes/connect", get(connect::connect))
        .route("/nodes/{id}/why", get(rest::why))
        .route("/nodes/{id}/hold", put(operator::hold).delete(operator::release))
        .route("/holds", get(operator::holds))
        .route("/policies", get(operator::policies))
        .route("/payouts", get(money::payouts))
        .route("/months", get(money::months))
        .route("/months/next", get(money::preview))
        .route("/months/{month}", get(money::statement))
        .route("/months/{month}/close", post(money::close))
        .route("/months/{month}/books", get(money::books))
        .route("/months/{month}/payouts", get(money::all_payouts))
        .route("/months/{month}/payouts/{account}", post(money::mark_paid))
        .route("/pool", post(money::top_up))
        .route("/balances", get(money::balances))
        .route("/verdicts", get(verdicts::verdicts))
        .route("/verdicts/{id}", get(verdicts::verdict))
        .route("/verdicts/{id}/appeal", post(verdicts::appeal))
        .route("/verdicts/{id}/decision", post(verdicts::decide))
        .route("/signs", get(verdicts::signs))
        .route("/callers", get(callers::list).post(callers::set))
        .route("/callers/{id}", delete(callers::lift))
        .route("/reports", get(callers::reports).post(callers::report))
        .route("/reports/{id}/close", post(callers::close))
        .route("/model-files", get(model_files::list))
        .route("/model-files/{id}", get(model_files::file))
        .route("/roster", get(transparency::roster))
        .route("/log/checkpoint", get(transparency::checkpoint))
        .route("/log/inclusion", get(transparency::inclusion))
        .route("/log/consistency", get(transparency::consistency))
        .route("/log/entries", get(transparency::entries))
        .route("/accounts", get(operator::members))
        .route("/accounts/generate", post(accounts::generate))
        .route("/accounts/verify", post(accounts::verify))
        .route("/accounts/keys", get(accounts::keys).post(accounts::create_key))
        .route("/accounts/keys/{id}", delete(accounts::revoke_key))
        .route("/accounts/keys/{id}/rotate", post(accounts::rotate_key))
        .route("/accounts/{account}/fees", post(accounts::pay))
        .route("/auth/register", post(sessions::register))
        .route("/auth/login", post(sessions::log_in))
        .route("/auth/refresh", post(sessions::refresh))
        .route("/auth/logout", post(sessions::log_out))
        .route("/auth/password", post(sessions::change_password))
        .route("/auth/me", get(sessions::me))
        .route("/invitations", get(invitations::list).post(invitations::create))
        .route("/invitations/{id}", delete(invitations::take_back))
        .route("/healthz", get(rest::healthz))
        .route("/readyz", get(rest::readyz))
        .route("/metrics", get(rest::metrics))
        .route("/openapi.json", get(rest::openapi))
        .fallback(|| async { ApiError::from(RequestError::UnknownPath) })
        .method_not_allowed_fallback(|| async { ApiError::from(RequestError::UnknownMethod) })
        .layer(observe)
        .with_state(api)
}

/// What all handlers share.
#[derive(Debug)]
struct Api {
    coordinator: Coordinator,
    settings: ApiSettings,
    metrics: Metrics,
    bodies: Bodies,
    chats: Arc<Chats>,
    audience: Audience,
    model_folder: Option<Arc<ModelFolder>>,
    /// Cancelled when the server stops: who follows a task that outlives it need not wait.
    stopping: CancellationToken,
}

impl Api {
    fn new(coordinator: Coordinator, settings: ApiSettings) -> Arc<Self> {
        let metrics = Metrics::new(coordinator.clone());
        let bodies = Bodies::new(&settings);
        let chats = Chats::new(coordinator.clock());
        let stopping = CancellationToken::new();
        coordinator.set_usual_time_limit(settings.time_limit);
        let audience = Audience::default();
        let model_folder = settings.model_files.clone().map(ModelFolder::new);
        Arc::new(Self {
            coordinator,
            settings,
            metrics,
            bodies,
            chats,
            audience,
            model_folder,
            stopping,
        })
    }
}

/// How long a text may be that is divided where requests are served, in bytes.
const DIVIDED_AT_ONCE: usize = 64 << 10;

/// Divides a text of `length` bytes: a long one, which takes seconds, where nobody waits for it.
async fn dividing<T: Send + 'static>(
    length: usize,
    divide: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if length <= DIVIDED_AT_ONCE {
        return divide();
    }
    tokio::task::spawn_blocking(divide).await.unwrap_or_else(|_| Err(ApiError::internal()))
}

fn json_response(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(json) => {
            let kind = HeaderValue::from_static("application/json");
            ([(CONTENT_TYPE, kind)], json).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            ApiError::internal().into_response()
        }
    }
}
