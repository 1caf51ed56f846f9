//! The node, in front of the mock or answering by itself.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use iris_core::backend::{Backend, GenerateRequest, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_crypto::Identity;
use iris_node::agent::{Agent, Status, WebSocketConnector};
use iris_node::backend::openai::OpenAiBackend;

use super::NODE_KEY;
use super::mock::Asked;
use crate::Failure;
use crate::request::{INSTANT, WORD};

/// Tokens that a request may ask for, prompt and answer together.
const CONTEXT_LENGTH: u32 = 32_768;

/// Works until `stop` resolves; says so once it is connected.
pub(super) async fn serve(
    coordinator: SocketAddr,
    server: Option<SocketAddr>,
    slots: u32,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let backend: Arc<dyn Backend> = match server {
        Some(server) => {
            let server = OpenAiBackend::builder(format!("http://{server}"));
            Arc::new(server.with_context_length(CONTEXT_LENGTH).build()?)
        }
        None => Arc::new(scripted()?),
    };
    let agent = Agent::builder(Identity::generate(), backend)
        .with_slots(slots)
        .with_measurement(false)
        .build();
    let mut status = agent.status();
    tokio::spawn(async move {
        let online = |status: &Status| matches!(status, Status::Online { .. });
        if status.wait_for(online).await.is_ok() {
            println!("connected");
        }
    });
    let key = std::env::var(NODE_KEY)?;
    let url = format!("http://{coordinator}").parse()?;
    Ok(agent.run_on(WebSocketConnector::new(url, key), stop).await?)
}

fn scripted() -> Result<ScriptedBackend, Failure> {
    let answer = |request: &GenerateRequest| {
        let words = serde_json::from_slice(&request.body).map_or(1, |asked: Asked| asked.words());
        Script::saying(std::iter::repeat_n(WORD, words as usize))
    };
    Ok(ScriptedBackend::new([ModelOffer::new(INSTANT.parse()?, CONTEXT_LENGTH)], answer))
}
