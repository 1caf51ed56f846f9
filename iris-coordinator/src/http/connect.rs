//! The door for nodes: `GET /nodes/connect`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::header::ORIGIN;
use iris_core::AccountId;

use super::Api;
use super::auth::CONNECT;
use super::error::ApiError;
use super::upgrade::Upgrade;

/// Lets a node in that shows a key of the scope `node`.
pub(super) async fn connect(
    State(api): State<Arc<Api>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    // A web page can open a WebSocket anywhere and its browser says so; nodes are not browsers.
    if request.headers().contains_key(ORIGIN) {
        return Err(ApiError::forbidden("Nodes do not connect from web pages."));
    }
    let owner = api.key(request.headers(), CONNECT).await?.account;
    let (response, upgrade) = Upgrade::agree(&mut request)?;
    tokio::spawn(admit(api, upgrade, owner));
    Ok(response)
}

async fn admit(api: Arc<Api>, upgrade: Upgrade, owner: AccountId) {
    let Some(socket) = upgrade.open().await else { return };
    match api.coordinator.serve_node(socket, owner).await {
        Ok(node) => tracing::info!(%node, "node connected"),
        Err(error) => tracing::debug!(%error, "node turned away"),
    }
}
