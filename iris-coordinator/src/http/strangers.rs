//! What pages tell people who have no account yet.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;

use super::{Api, json_response};

#[derive(Serialize)]
struct Strangers {
    /// Whether anybody may open an account.
    open_registration: bool,
    /// Whether a message a day is answered without one.
    public_chat: bool,
}

/// Serves it beside the pages.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/pages/strangers.json", get(strangers))
}

/// `GET /pages/strangers.json`: what anybody finds out who tries.
async fn strangers(State(api): State<Arc<Api>>) -> Response {
    let (open_registration, public_chat) =
        (api.settings.open_registration, api.settings.public_chat);
    json_response(&Strangers { open_registration, public_chat })
}
