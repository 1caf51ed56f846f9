//! A whole network without a socket: `cargo run -p iris-examples --bin in_process`.
//!
//! A coordinator that keeps its records in memory and a node whose model repeats what it is told,
//! joined by an in-memory transport. An `Engine` or an `OpenAiBackend` in its place makes it think.

use std::{error::Error, future::pending, sync::Arc};

use iris_coordinator::{Coordinator, TaskEvent, TaskRequest};
use iris_core::backend::{Chunk, ScriptedBackend};
use iris_core::store::MemoryStore;
use iris_crypto::{Identity, Secret};
use iris_node::agent::{Agent, Link, Status};
use iris_protocol::transport::memory;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (store, secret) = (Arc::new(MemoryStore::new()), Secret::generate());
    let coordinator = Coordinator::builder(store, Identity::generate(), secret).build().await?;
    let account = coordinator.accounts().create_account().await?.account;

    let parrot = ScriptedBackend::echo("parrot".parse()?);
    let agent = Agent::builder(Identity::generate(), Arc::new(parrot)).build();
    let (mut status, network) = (agent.status(), coordinator.clone());
    let connect = move || {
        let ((near, far), network) = (memory::pair(16), network.clone());
        tokio::spawn(async move { network.serve_node(far, account).await });
        async { Ok(Link::new("in process", near)) }
    };
    tokio::spawn(agent.run_on(connect, pending()));
    status.wait_for(|status| matches!(status, Status::Online { .. })).await?;

    let mut task = coordinator.submit(TaskRequest::chat(account, "parrot".parse()?, "Who is it?"));
    while let Some(event) = task.next().await {
        let TaskEvent::Chunk(Chunk::Text(text)) = event else { continue };
        println!("{text}");
    }
    Ok(())
}
