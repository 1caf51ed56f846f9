//! Subtasks: `cargo run -p iris-examples --bin subtasks`.
//!
//! One request asks for three things. A rule finds them, three nodes work on them side by side,
//! and their answers are put together in order. Runs the small bundled model.

use std::sync::Arc;

use iris_core::plan::{Chat, Division, ModeChoice};
use iris_crypto::Identity;
use iris_node::agent::Agent;
use iris_node::backend::engine::{BUNDLED_MODEL, Engine};

use plan_network::{AnyError, PlanNetwork};

mod plan_network;

const REQUEST: &str = "Extract the themes, the characters and the conclusion of this text. \
Anna lived in a village. A dog followed Anna every day, and soon they were best friends. \
In the end Anna learned that a good friend is worth more than gold.";

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let network = PlanNetwork::start().await?;
    for name in ["attic", "cellar", "kitchen"] {
        let engine = Arc::new(Engine::bundled()?);
        network.join(Agent::builder(Identity::generate(), engine).with_name(name)).await?;
    }

    let chat = Chat::new(BUNDLED_MODEL.parse()?, REQUEST);
    let division = Division { mode: ModeChoice::Subtasks, ..Division::default() };
    let answer = network.run(network.client.divide(chat, &division).await?).await?;
    println!("\n{}", answer.text);
    network.stop().await;
    Ok(())
}
