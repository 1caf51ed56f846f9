//! Consensus: `cargo run -p iris-examples --bin consensus`.
//!
//! The same sum goes to three nodes of different owners. One of them always miscounts; the other
//! two outvote it, and it is told who dissented. Runs the small bundled model.

use std::sync::Arc;

use iris_core::backend::{Backend, ScriptedBackend};
use iris_core::plan::{Agreement, Chat, Division, ModeChoice};
use iris_crypto::Identity;
use iris_node::agent::Agent;
use iris_node::backend::engine::{BUNDLED_MODEL, Engine};

use plan_network::{AnyError, PlanNetwork};

mod plan_network;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let network = PlanNetwork::start().await?;
    let liar = ScriptedBackend::saying(BUNDLED_MODEL.parse()?, ["17 + 5 = 23"]);
    let nodes: [(&str, Arc<dyn Backend>); 3] = [
        ("honest", Arc::new(Engine::bundled()?)),
        ("upright", Arc::new(Engine::bundled()?)),
        ("liar", Arc::new(liar)),
    ];
    for (name, backend) in nodes {
        network.join(Agent::builder(Identity::generate(), backend).with_name(name)).await?;
    }

    let chat = Chat::new(BUNDLED_MODEL.parse()?, "What is 17 + 5?");
    let division = Division {
        mode: ModeChoice::Consensus,
        // Two that agree would be enough; waiting for the third shows who dissents.
        quorum: Some(3),
        agree: Some(Agreement::Number { tolerance: 0.0 }),
        ..Division::default()
    };
    let answer = network.run(network.client.divide(chat, &division).await?).await?;
    println!("\n{}", answer.text);
    network.stop().await;
    Ok(())
}
