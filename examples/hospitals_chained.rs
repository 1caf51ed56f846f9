//! A plan of one's own: `cargo run -p iris-examples --bin hospitals_chained`.
//!
//! Triage, diagnosis, treatment, medication review: each step uses what came before. Only urgent
//! patients see the specialist, whose model is not there, so a general one takes over. If the
//! medication review refuses the treatment, the order is cancelled again.
//!
//! The patients are made up, and so are the models, which follow a few fixed rules. None of this is
//! medicine.

use std::sync::Arc;

use iris_client::ClientError;
use iris_core::backend::{BackendError, GenerateRequest, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::plan::Plan;
use iris_crypto::Identity;
use iris_node::agent::Agent;
use serde_json::{Value, json};

use plan_network::{AnyError, PlanNetwork};

mod plan_network;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let network = PlanNetwork::start().await?;
    for name in ["ward", "pharmacy"] {
        let models = ["general", "pharmacist"];
        let offers = models.map(|model| ModelOffer::new(model.parse().expect("a name"), 4096));
        let backend = Arc::new(ScriptedBackend::new(offers, answer));
        network.join(Agent::builder(Identity::generate(), backend).with_name(name)).await?;
    }
    for patient in ["fever and cough", "a cold", "fever and cough, allergic to penicillin"] {
        println!("\nPatient: {patient}");
        match network.run(plan(patient)?).await {
            Ok(answer) => println!("Result: {}", answer.text),
            Err(error) => tell(&*error),
        }
    }
    network.stop().await;
    Ok(())
}

fn plan(patient: &str) -> Result<Plan, AnyError> {
    let plan = json!({
        "model": "general",
        "input": patient,
        "steps": [
            { "name": "triage", "prompt": "Triage: {{ input }}" },
            { "name": "diagnosis", "prompt": "Diagnose: {{ input }}",
              "when": { "step": "triage", "equals": "urgent" },
              "model": "specialist", "fallback": ["general"] },
            { "name": "treatment", "prompt": "Treat: {{ diagnosis }}",
              "undo": "Cancel the order of {{ treatment }}" },
            { "name": "review", "model": "pharmacist",
              "prompt": "Review {{ treatment }} for: {{ input }}" },
        ],
    });
    Ok(Plan::read(&plan, None)?)
}

/// Tells why there is no result, and what became of the steps.
fn tell(error: &(dyn std::error::Error + 'static)) {
    println!("No result: {error}");
    if let Some(ClientError::Plan(failure)) = error.downcast_ref() {
        for unit in &failure.units {
            println!("  {:<10} {:?}", unit.unit, unit.state);
        }
    }
}

/// Stands for the models: a few fixed rules.
fn answer(request: &GenerateRequest) -> Script {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let asked = body["messages"][0]["content"].as_str().unwrap_or_default();
    let (task, about) = asked.split_once([':', ' ']).unwrap_or((asked, ""));
    let text = match task {
        "Triage" if about.contains("fever") => "urgent",
        "Triage" => "can wait",
        "Diagnose" => "a bacterial infection",
        "Treat" if about.contains("bacterial") => "penicillin",
        "Treat" => "tea and rest",
        "Cancel" => "cancelled",
        _ if about.contains("allergic") => {
            let message = "the patient must not have this".to_owned();
            let (status, code, param) = (422, Some("refused".to_owned()), None);
            return Script::new().fail(BackendError::Rejected { status, code, param, message });
        }
        _ => return Script::new().text(format!("approved: {}", about.replace(" for:", ", for"))),
    };
    Script::new().text(text)
}
