//! One model, many data sets: `cargo run -p iris-examples --bin hospitals_collaborative`.
//!
//! Three hospitals look for a drug together. Each fits a model to its own patients, on its own
//! node; what leaves the node is the fitted vector and how many patients it comes from, never a
//! patient. The vectors are averaged, each weighing as much as its hospital has patients.
//!
//! All patients are made up. So is the model, which does nothing but take the mean of each column;
//! a real one would be asked in the same way.

use std::path::Path;
use std::sync::Arc;

use iris_core::NodeId;
use iris_core::backend::{GenerateRequest, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::plan::{Aggregate, Chat, Dataset, Division, ModeChoice};
use iris_crypto::Identity;
use iris_node::agent::Agent;
use iris_node::datasets::{Access, Datasets};
use iris_protocol::rest::Secret;
use serde_json::json;

use plan_network::{AnyError, PlanNetwork};

mod plan_network;

/// How strongly a compound bound to three receptors in each patient. Made up.
const HOSPITALS: [(&str, &str); 3] = [
    ("madrid", "a,b,c\n0.8,0.1,0.4\n0.6,0.3,0.4\n"),
    ("lisboa", "a,b,c\n0.4,0.2,0.7\n"),
    ("sevilla", "a,b,c\n0.9,0.0,0.5\n0.7,0.2,0.3\n0.6,0.4,0.7\n"),
];
/// What the hospitals have agreed on; each of them lets nobody else use its data.
const KEY: &str = "a key that the hospitals share";

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let (network, folder) = (PlanNetwork::start().await?, tempfile::tempdir()?);
    let mut nodes = Vec::new();
    for (name, patients) in HOSPITALS {
        nodes.push(join(&network, folder.path(), name, patients).await?);
    }

    let chat = Chat::new("binding".parse()?, "Fit the model to the patients, as JSON.");
    let key = Some(KEY.to_owned());
    let division = Division {
        mode: ModeChoice::Collaborative,
        datasets: HOSPITALS
            .map(|(name, _)| Dataset { name: name.to_owned(), key: key.clone() })
            .to_vec(),
        nodes,
        aggregate: Some(Aggregate::FederatedAverage),
        ..Division::default()
    };
    let answer = network.run(network.client.divide(chat, &division).await?).await?;
    println!("\nall six patients: {}", answer.text);
    network.stop().await;
    Ok(())
}

async fn join(
    network: &PlanNetwork,
    folder: &Path,
    name: &str,
    patients: &str,
) -> Result<NodeId, AnyError> {
    let file = folder.join(name).with_extension("csv");
    std::fs::write(&file, patients)?;
    let mut datasets = Datasets::new();
    datasets.add(name, file, Access::Key(Secret::new(KEY)))?;
    let offer = ModelOffer::new("binding".parse()?, 4096);
    let model = Arc::new(ScriptedBackend::new([offer], fit));
    let node = Agent::builder(Identity::generate(), model).with_name(name);
    network.join(node.with_datasets(datasets)).await
}

/// Stands for a model: finds the rows of numbers in what it is told and takes their mean.
fn fit(request: &GenerateRequest) -> Script {
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let told = body["messages"][0]["content"].as_str().unwrap_or_default();
    let row = |line: &str| line.split(',').map(|cell| cell.parse().ok()).collect();
    let rows: Vec<Vec<f64>> = told.lines().filter_map(row).collect();
    let sum = |column: usize| rows.iter().filter_map(|row| row.get(column)).sum::<f64>();
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let vector: Vec<_> = (0..3).map(|column| sum(column) / f64::from(count)).collect();
    Script::new().text(json!({ "vector": vector, "count": count }).to_string())
}
