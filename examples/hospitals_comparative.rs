//! Many models, one input: `cargo run -p iris-examples --bin hospitals_comparative`.
//!
//! Three diagnostic models look at one patient. Their votes are counted, the specialist's twice;
//! then a doctor sees the vote and all opinions side by side, and decides. This program decides for
//! the doctor, by taking the vote.
//!
//! The patient is made up, and so are the models, which say what they were told to say. None of
//! this is medicine.

use std::sync::Arc;

use futures::StreamExt;
use iris_core::backend::ScriptedBackend;
use iris_core::plan::{Decision, Plan, Progress};
use iris_crypto::Identity;
use iris_node::agent::Agent;
use serde_json::json;

use plan_network::{AnyError, PlanNetwork};

mod plan_network;

const PATIENT: &str = "58 years, fever for three days, cough, short of breath";
const OPINIONS: [(&str, &str); 3] = [
    ("general", "Bronchitis, since the fever is low."),
    ("lungs", "Pneumonia: fever, cough and short breath come together."),
    ("images", "I see a shadow on the left: pneumonia."),
];

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let network = PlanNetwork::start().await?;
    for (model, opinion) in OPINIONS {
        let backend = Arc::new(ScriptedBackend::saying(model.parse()?, [opinion]));
        let node = Agent::builder(Identity::generate(), backend);
        network.join(node.with_name(&format!("{model} clinic"))).await?;
    }

    let question = "What is the most likely diagnosis? {{ input }}";
    let opinion = |model: &str| json!({ "name": model, "model": model, "prompt": question });
    let models = OPINIONS.map(|(model, _)| model);
    let options = ["bronchitis", "pneumonia", "asthma"];
    let plan = json!({
        "mode": "comparative",
        "input": PATIENT,
        "steps": [
            opinion(models[0]), opinion(models[1]), opinion(models[2]),
            { "name": "vote", "join": {
                "of": models, "how": "vote", "weights": [1, 2, 1],
                "agreement": { "by": "choice", "options": options },
            } },
            { "name": "doctor", "review": ["vote", models[0], models[1], models[2]] },
        ],
    });
    let mut running = network.begin(Plan::read(&plan, None)?)?;
    while let Some(progress) = running.next().await {
        network.print(&progress);
        let Progress::Waiting { unit, choices } = progress else { continue };
        println!("\nThe {unit} sees:");
        for report in running.laid_out().iter().filter(|report| choices.contains(&report.unit)) {
            println!("  {:<8} {}", report.unit, report.text.as_deref().unwrap_or_default());
        }
        let choose = Some("vote".to_owned());
        running.decide(Decision { step: unit, choose, text: None });
    }
    println!("\nDecided: {}", running.finish().await?.text);
    network.stop().await;
    Ok(())
}
