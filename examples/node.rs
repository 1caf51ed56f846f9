//! A node: `COORDINATOR_URL=... IRIS_NODE_KEY=... cargo run -p iris-examples --bin node`.
//!
//! Offers the models of the server at `LMSTUDIO_URL` (LM Studio, Ollama, llama.cpp, vLLM), or else
//! a small bundled one. The `coordinator` example prints the command with its address and a key.

use std::error::Error;
use std::sync::Arc;

use iris_core::backend::Backend;
use iris_crypto::Identity;
use iris_node::agent::{Agent, CoordinatorUrl, Status, WebSocketConnector};
use iris_node::backend::engine::Engine;
use iris_node::backend::openai::OpenAiBackend;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url: CoordinatorUrl = std::env::var("COORDINATOR_URL")
        .unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned())
        .parse()?;
    let key = std::env::var("IRIS_NODE_KEY")
        .map_err(|_| "set IRIS_NODE_KEY to an API key of the scope `node`")?;
    let backend: Arc<dyn Backend> = match std::env::var("LMSTUDIO_URL") {
        Ok(server) => Arc::new(OpenAiBackend::builder(server).build()?),
        Err(_) => Arc::new(Engine::bundled()?),
    };

    let agent = Agent::builder(Identity::load_or_create("data/node.key")?, backend).build();
    println!("node {}", agent.node_id());
    let mut status = agent.status();
    tokio::spawn(async move {
        while status.changed().await.is_ok() {
            match &*status.borrow_and_update() {
                Status::Online { .. } => println!("online"),
                Status::Offline { cause: Some(cause) } => println!("offline: {cause}"),
                other => println!("{other:?}"),
            }
        }
    });
    let stop = async {
        tokio::signal::ctrl_c().await.expect("the system delivers signals");
    };
    agent.run_on(WebSocketConnector::new(url, key), stop).await?;
    Ok(())
}
