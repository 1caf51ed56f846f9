//! The patterns of DIM, as plans.

use iris_core::model::Abilities;
use iris_core::plan::{
    Aggregate, Budget, Chat, Compare, Dataset, Division, Mode, ModeChoice, Plan, PlanError,
};
use iris_core::plan::{Capacity, divide};
use iris_core::{ModelName, NodeId};
use iris_protocol::rest::NodeSummary;
use serde_json::{Map, Value};

use super::super::error::ApiError;
use super::super::members::Members;
use super::super::submission::read_plan;

const MODEL: &str = "a model's name";
const NUMBER: &str = "a whole number";

/// Reads a job's pattern, what it is configured to do, and its input. `connected` are the nodes that
/// it may call by their names.
pub(super) fn read(members: &mut Members, connected: &[NodeSummary]) -> Result<Plan, ApiError> {
    let known = "'collaborative', 'comparative' or 'chained'";
    let pattern: String = members.required("pattern", known)?;
    let input = match members.take("input") {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
    };
    let config = members.object("config")?;
    let mut config = config.ok_or_else(|| members.missing("config", "an object"))?;
    let budget = Budget {
        tokens: config.optional("maxTotalTokens", NUMBER)?,
        seconds: config.optional("timeoutSeconds", NUMBER)?,
        assignments: None,
    };
    let plan = match pattern.as_str() {
        "collaborative" => collaborative(&mut config, input, connected)?,
        "comparative" => comparative(&mut config, input)?,
        "chained" => chained(&mut config, &input)?,
        _ => return Err(members.wrong("pattern", known)),
    };
    config.finish()?;
    Ok(Plan { budget, ..plan })
}

/// One model on several data sets, each on a node that has it.
fn collaborative(
    config: &mut Members,
    input: String,
    connected: &[NodeSummary],
) -> Result<Plan, ApiError> {
    let model: ModelName = config.required("modelId", MODEL)?;
    let nodes = nodes(config, connected)?;
    let names: Vec<String> = config.texts("datasets", "a data set's name")?.unwrap_or_default();
    let key: Option<String> = config.optional("datasetKey", "a text")?;
    if nodes.is_empty() && names.is_empty() {
        return Err(config.missing("nodes", "an array of nodes' ids or names"));
    }
    let datasets = names.into_iter().map(|name| Dataset { name, key: key.clone() }).collect();
    let known = "'federated_averaging', 'weighted_average', 'mean', 'histogram' or 'concatenate'";
    let (mut aggregate, mut weights) = (None, Vec::new());
    if let Some(mut aggregation) = config.object("aggregation")? {
        let method: String = aggregation.required("method", known)?;
        aggregate = match method.as_str() {
            "federated_averaging" => Some(Aggregate::FederatedAverage),
            "weighted_average" => Some(Aggregate::WeightedMean),
            "mean" | "average" => Some(Aggregate::Mean),
            "histogram" => Some(Aggregate::Histogram),
            "concatenate" => None,
            _ => return Err(aggregation.wrong("method", known)),
        };
        weights = aggregation.optional("weights", "an array of numbers")?.unwrap_or_default();
        aggregation.finish()?;
    }
    let mode = ModeChoice::Collaborative;
    let division = Division { mode, nodes, datasets, aggregate, weights, ..Division::default() };
    plan(config, model, input, &division)
}

/// Reads the nodes of a job, by their ids or by the names of nodes that are connected. Names are
/// their owners' to choose, so one that two nodes have names neither.
fn nodes(config: &mut Members, connected: &[NodeSummary]) -> Result<Vec<NodeId>, ApiError> {
    let texts: Vec<String> = config.texts("nodes", "a text")?.unwrap_or_default();
    let find = |(place, text): (usize, &String)| {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        let mut named = connected.iter().filter(|node| node.name.as_ref() == Some(text));
        let (Some(node), None) = (named.next(), named.next()) else {
            let expected = "a node's id, or the name of one node that is connected";
            return Err(config.wrong(&format!("nodes[{place}]"), expected));
        };
        Ok(node.id)
    };
    texts.iter().enumerate().map(find).collect()
}

/// Several models on one input.
fn comparative(config: &mut Members, input: String) -> Result<Plan, ApiError> {
    let name = if config.has("models") { "models" } else { "modelIds" };
    let models: Option<Vec<ModelName>> = config.texts(name, MODEL)?;
    let models = models.ok_or_else(|| config.missing(name, "an array of models' names"))?;
    let Some(first) = models.first().cloned() else {
        return Err(config.wrong(name, "at least two models"));
    };
    let known = "'majority_vote', 'weighted_vote', 'expert_review', 'judge' or 'all'";
    let mode = ModeChoice::Comparative;
    let mut division = Division { mode, models, ..Division::default() };
    if let Some(mut consensus) = config.object("consensus")? {
        let method: String = consensus.required("method", known)?;
        division.method = Some(match method.as_str() {
            "majority_vote" => Compare::Majority,
            "weighted_vote" => Compare::Weighted,
            "expert_review" => Compare::Expert,
            "judge" => Compare::Judge,
            "all" => Compare::All,
            _ => return Err(consensus.wrong("method", known)),
        });
        let weights = consensus.optional("weights", "an array of numbers")?;
        division.weights = weights.unwrap_or_default();
        division.judge = consensus.optional("judge", MODEL)?;
        division.agree = consensus.optional("agree", "what counts as the same answer")?;
        consensus.finish()?;
    }
    plan(config, first, input, &division)
}

fn plan(
    config: &mut Members,
    model: ModelName,
    input: String,
    division: &Division,
) -> Result<Plan, ApiError> {
    let chat = Chat {
        system: config.optional("prompt", "a text")?,
        max_tokens: config.optional("maxTokens", NUMBER)?,
        ..Chat::new(model, input)
    };
    // Neither pattern depends on it.
    let capacity = Capacity { context_tokens: u32::MAX, abilities: Abilities::NONE };
    let plan = divide(chat, division, capacity);
    Ok(plan.map_err(|error| PlanError { at: format!("config.{}", dims(&error.at)), ..error })?)
}

/// A pipeline: each stage is asked about the output of the one before, unless it has a prompt of
/// its own.
fn chained(config: &mut Members, input: &str) -> Result<Plan, ApiError> {
    let name = if config.has("pipeline") { "pipeline" } else { "steps" };
    let expected = "an array of objects, one for each stage";
    let stages: Vec<Map<String, Value>> = config.required(name, expected)?;
    let mut before = "input".to_owned();
    let mut steps = Vec::new();
    for (place, stage) in stages.into_iter().enumerate() {
        let mut step = Map::new();
        for (name, value) in stage {
            step.insert(ours(&name).to_owned(), value);
        }
        let number = Value::from(format!("step-{}", place + 1));
        let name = step.entry("name").or_insert(number).as_str().unwrap_or_default().to_owned();
        step.entry("prompt").or_insert_with(|| format!("{{{{ {before} }}}}").into());
        before = name;
        steps.push(Value::Object(step));
    }
    let plan = serde_json::json!({ "mode": Mode::Chained, "input": input, "steps": steps });
    read_plan(&plan, "").map_err(|error| {
        let at = error.body().error.param.unwrap_or_default();
        let (step, member) = at.rsplit_once('.').unwrap_or((&at, ""));
        let step = step.replacen("steps", name, 1);
        let dot = if member.is_empty() { "" } else { "." };
        error.with_param(format!("config.{step}{dot}{}", dims(member)))
    })
}

/// DIM's names of members, and those of plans.
const NAMES: [(&str, &str); 7] = [
    ("modelId", "model"),
    ("modelIds", "models"),
    ("maxTokens", "max_tokens"),
    ("onFailure", "on_failure"),
    ("rollback", "undo"),
    ("retryCount", "retries"),
    ("condition", "when"),
];

fn ours(name: &str) -> &str {
    NAMES.iter().find(|(dims, _)| *dims == name).map_or(name, |(_, ours)| ours)
}

fn dims(name: &str) -> &str {
    NAMES.iter().find(|(_, ours)| *ours == name).map_or(name, |(dims, _)| dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(number: char, name: &str) -> NodeSummary {
        let node = serde_json::json!({
            "id": String::from(number).repeat(26), "name": name, "tier": "BASIC", "points": 100,
            "models": [], "slots": 1, "running": 0, "connected": 0, "version": "",
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn nodes_are_called_by_their_ids_or_by_names_that_only_one_has() {
        let known = [connected('a', "node-001"), connected('b', "twin"), connected('c', "twin")];
        let read = |node: &str| {
            let body = serde_json::json!({ "nodes": [node] }).to_string();
            nodes(&mut Members::read(body.as_bytes()).unwrap(), &known)
        };
        assert_eq!(read("node-001").unwrap(), [known[0].id]);
        assert_eq!(read(&"d".repeat(26)).unwrap()[0].as_str(), "d".repeat(26));
        for unknown in ["twin", "node-002", ""] {
            assert!(read(unknown).is_err(), "{unknown}");
        }
    }
}
