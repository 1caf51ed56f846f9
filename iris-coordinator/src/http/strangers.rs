//! What pages tell people who have no account yet.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::{Api, json_response};

#[derive(Serialize)]
struct Strangers {
    /// Whether anybody may open an account.
    open_registration: bool,
    /// Whether a message a day is answered without one.
    public_chat: bool,
}

/// `GET /pages/strangers.json`: what anybody finds out who tries.
pub(super) async fn strangers(State(api): State<Arc<Api>>) -> Response {
    let (open_registration, public_chat) =
        (api.settings.open_registration, api.settings.public_chat);
    json_response(&Strangers { open_registration, public_chat })
}
