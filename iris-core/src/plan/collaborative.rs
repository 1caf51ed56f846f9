use super::mode::{Chat, Division};
use super::{Ask, Join, Mode, Plan, PlanError, Step, StepName, Template, Work};

/// Asks one model on every data set, each on a node that has it and lets it be used, and puts the
/// answers together. The data stays where it is.
pub fn collaborative(chat: &Chat, division: &Division) -> Result<Plan, PlanError> {
    let (datasets, nodes) = (&division.datasets, &division.nodes);
    let refused = |at: &str, what: &str| PlanError { at: at.to_owned(), what: what.to_owned() };
    let sites = datasets.len().max(nodes.len());
    if !(1..=48).contains(&sites) {
        return Err(refused("datasets", "1 to 48 data sets, or nodes, can work together"));
    }
    if datasets.len() > 1 && !nodes.is_empty() && nodes.len() != datasets.len() {
        return Err(refused("nodes", "there is one node for each data set, in order, or none"));
    }
    let mut steps: Vec<Step> = Vec::new();
    for site in 0..sites {
        // One data set may lie, under one name, on every one of the nodes.
        let dataset = if datasets.len() == 1 { datasets.first() } else { datasets.get(site) };
        let (dataset, nodes) = (dataset.cloned(), nodes.get(site).copied().into_iter().collect());
        let ask = Ask { dataset, nodes, ..chat.ask(Template::input()) };
        steps.push(Step::new(&format!("site-{}", site + 1), Work::Ask(Box::new(ask))));
    }
    let of: Vec<StepName> = steps.iter().map(|step| step.name.clone()).collect();
    let weights = division.weights.clone();
    let by = match division.aggregate {
        Some(method) => Join::Aggregate { method, weights },
        None => Join::Concat { separator: "\n\n".to_owned(), headings: Vec::new() },
    };
    steps.push(Step::new("answer", Work::Join { of, by }));
    Ok(Plan::of_steps(Mode::Collaborative, chat.prompt.clone(), steps))
}
