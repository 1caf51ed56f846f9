//! Context: `cargo run -p iris-examples --bin long_document`.
//!
//! A log book of about a megabyte, many times what a model reads at once. It is cut at natural
//! borders into pieces that fit, all nodes read pieces side by side, and what they found is merged
//! level by level. The book is made up, and so is the model: it repeats the lines that speak of a
//! storm.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use iris_core::ModelName;
use iris_core::backend::{GenerateRequest, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::plan::{Chat, Division, ModeChoice};
use iris_crypto::Identity;
use iris_node::agent::Agent;

use plan_network::{AnyError, PlanNetwork};

mod plan_network;

const CONTEXT: u32 = 8192;
const STORMS: [u32; 3] = [1234, 7777, 14_000];

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let network = PlanNetwork::start().await?;
    let model: ModelName = "reader".parse()?;
    for name in ["attic", "cellar", "kitchen"] {
        let offer = ModelOffer::new(model.clone(), CONTEXT);
        let reader = Arc::new(ScriptedBackend::new([offer], read));
        let node = Agent::builder(Identity::generate(), reader).with_name(name).with_slots(4);
        network.join(node).await?;
    }

    let book = log_book()?;
    println!("The log book has {} bytes.", book.len());
    let chat = Chat::new(model, "On which days was there a storm?");
    let division =
        Division { mode: ModeChoice::Context, document: Some(book), ..Division::default() };
    let running = network.begin(network.client.divide(chat, &division).await?)?;
    let answer = running.finish().await?;
    let pieces = answer.sources().count();
    println!("It was read in {pieces} pieces.\n\n{}", answer.text);
    network.stop().await;
    Ok(())
}

fn log_book() -> Result<String, AnyError> {
    let mut book = String::new();
    for day in 1..=16_000 {
        let weather = if STORMS.contains(&day) { "a storm from the west" } else { "calm" };
        writeln!(book, "Day {day}: {weather}. We sailed on and saw nothing but the sea.")?;
    }
    Ok(book)
}

/// Repeats each line about a storm once, whatever else it is told.
fn read(request: &GenerateRequest) -> Script {
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let told = body["messages"].as_array().and_then(|all| all.last()?["content"].as_str());
    let lines = told.unwrap_or_default().lines();
    let entries = lines.filter_map(|line| line.find("Day ").map(|at| &line[at..]));
    let storms: BTreeSet<_> = entries.filter(|entry| entry.contains("storm")).collect();
    Script::new().text(storms.into_iter().collect::<Vec<_>>().join("\n"))
}
