//! A plan as text and as a picture.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Items, Join, Plan, Step, StepName, UnitReport, UnitState, Work};

/// How much of a text is shown on one line, in characters.
const SHOWN: usize = 48;

/// A step as whoever draws a plan needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOutline {
    /// Its name. The units of a step are named `NAME`, or `NAME.` and which part of it they are.
    pub name: StepName,
    /// What kind of work it is: `ask`, `each`, `fold`, `join` or `review`.
    pub work: String,
    /// What it does, in a few words.
    pub text: String,
    /// The steps whose outputs it uses, in the order of the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<StepName>,
}

impl Plan {
    /// Returns the plan's steps, in their order, for whoever draws them.
    pub fn outline(&self) -> Vec<StepOutline> {
        let steps = self.steps.iter().map(|step| StepOutline {
            name: step.name.clone(),
            work: step.work.kind().to_owned(),
            text: step.describe(),
            after: self.inputs(step).map(|place| self.steps[place].name.clone()).collect(),
        });
        steps.collect()
    }

    /// Returns the places of the steps whose outputs a step uses, each once.
    fn inputs(&self, step: &Step) -> impl Iterator<Item = usize> {
        let places: BTreeSet<_> = step.uses().filter_map(|name| self.place(&name)).collect();
        places.into_iter()
    }

    /// Returns the plan as text, a step a line and what it needs below.
    pub fn as_text(&self) -> String {
        self.as_text_with(&[])
    }

    /// Returns the plan as text, with how each unit of it stands.
    pub fn as_text_with(&self, units: &[UnitReport]) -> String {
        let mut text = String::new();
        for (place, step) in self.steps.iter().enumerate() {
            let answer = if step.name == self.answer { ", the answer" } else { "" };
            line(&mut text, &format!("{}. {}: {}{answer}", place + 1, step.name, step.describe()));
            for detail in step.details() {
                line(&mut text, &format!("   {detail}"));
            }
            for unit in units.iter().filter(|unit| unit.is_of(step)) {
                line(&mut text, &format!("   {}", unit.describe()));
            }
        }
        text
    }

    /// Returns the plan as a Mermaid flowchart.
    pub fn as_mermaid(&self) -> String {
        self.as_mermaid_with(&[])
    }

    /// Returns the plan as a Mermaid flowchart, with how each step stands.
    pub fn as_mermaid_with(&self, units: &[UnitReport]) -> String {
        let mut text = "flowchart TD\n".to_owned();
        for (place, step) in self.steps.iter().enumerate() {
            let own: Vec<_> = units.iter().filter(|unit| unit.is_of(step)).collect();
            let mut label = vec![step.name.to_string(), step.describe()];
            label.extend(standing(&own));
            let label: Vec<_> = label.iter().map(|line| escaped(line)).collect();
            let (open, close) = match step.work {
                Work::Review { .. } => ("{{\"", "\"}}"),
                Work::Join { .. } => ("([\"", "\"])"),
                _ => ("[\"", "\"]"),
            };
            line(&mut text, &format!("    s{place}{open}{}{close}", label.join("<br/>")));
        }
        for (place, step) in self.steps.iter().enumerate() {
            for input in self.inputs(step) {
                line(&mut text, &format!("    s{input} --> s{place}"));
            }
        }
        text
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

impl Step {
    /// Says in a few words what the step does.
    fn describe(&self) -> String {
        match &self.work {
            Work::Ask(ask) => match &ask.replicas {
                None => format!("asks {}", ask.model),
                Some(replicas) => {
                    let (count, quorum) = (replicas.count, replicas.quorum);
                    format!(
                        "asks {} on {count} nodes of different owners, {quorum} needed",
                        ask.model
                    )
                }
            },
            Work::Each { items: Items::Given(items), ask } => {
                format!("asks {} for each of {} items", ask.model, items.len())
            }
            Work::Each { items: Items::From { step, most, .. }, ask } => {
                format!("asks {} for each item that {step} lists, at most {most}", ask.model)
            }
            Work::Fold { of, ask, .. } => format!("merges what {of} put out, by {}", ask.model),
            Work::Join { of, by } => format!("{} of {}", by.describe(), names(of)),
            Work::Review { of } => format!("waits for a person to choose of {}", names(of)),
        }
    }

    fn details(&self) -> Vec<String> {
        let mut details = Vec::new();
        if let Work::Ask(ask) | Work::Each { ask, .. } | Work::Fold { ask, .. } = &self.work {
            if let Some(dataset) = &ask.dataset {
                details.push(format!("on the data set {}", dataset.name));
            }
            if !ask.nodes.is_empty() {
                details.push(format!("on one of {} named nodes", ask.nodes.len()));
            }
        }
        if let Some(condition) = &self.when {
            details.push(format!("only if the output of {} fits a condition", condition.step));
        }
        if self.on_failure.retries > 0 {
            details.push(format!("tried again {} times at most", self.on_failure.retries));
        }
        for model in &self.on_failure.fallback {
            details.push(format!("else asks {model}"));
        }
        if self.on_failure.then == super::Then::Skip {
            details.push("may fail".to_owned());
        }
        if self.undo.is_some() {
            details.push("is undone if the plan fails".to_owned());
        }
        details
    }
}

impl Work {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Ask(_) => "ask",
            Self::Each { .. } => "each",
            Self::Fold { .. } => "fold",
            Self::Join { .. } => "join",
            Self::Review { .. } => "review",
        }
    }
}

impl Join {
    const fn describe(&self) -> &'static str {
        match self {
            Self::Concat { .. } => "puts together the outputs",
            Self::Vote { .. } => "takes the vote",
            Self::Aggregate { .. } => "does arithmetic on the outputs",
            Self::All => "lays out the outputs",
        }
    }
}

impl UnitReport {
    fn is_of(&self, step: &Step) -> bool {
        self.unit.split('.').next() == Some(step.name.as_str())
    }

    fn describe(&self) -> String {
        let mut text = format!("{}: {}", self.unit, self.state.as_str());
        let mut nodes = self.placed.iter().filter_map(|placed| placed.node);
        if let Some(node) = nodes.next_back() {
            let _ = write!(text, " on {node}");
        }
        if let Some(took) = self.took_ms {
            let _ = write!(text, ", {took} ms");
        }
        if self.usage.total() > 0 {
            let _ = write!(text, ", {} tokens", self.usage.total());
        }
        if let Some(error) = &self.error {
            let _ = write!(text, ": {}", error.code());
        }
        text
    }
}

impl UnitState {
    /// Returns the state's name, as it appears on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Review => "review",
            Self::Finished => "finished",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::Undone => "undone",
        }
    }
}

fn names(of: &[super::StepName]) -> String {
    of.iter().map(super::StepName::as_str).collect::<Vec<_>>().join(", ")
}

/// Says how the units of a step stand together.
fn standing(units: &[&UnitReport]) -> Option<String> {
    if let [unit] = units {
        return Some(unit.describe());
    }
    let finished = units.iter().filter(|unit| unit.state == UnitState::Finished).count();
    let tokens: u32 = units.iter().map(|unit| unit.usage.total()).fold(0, u32::saturating_add);
    let all = units.len();
    (all > 0).then(|| format!("{finished} of {all} finished, {tokens} tokens"))
}

/// Returns a text that no chart takes for anything but a text: names of models and nodes are
/// anybody's.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars().take(SHOWN * 4) {
        if c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.' | ',' | ':' | '/') {
            escaped.push(c);
        } else {
            let _ = write!(escaped, "#{};", u32::from(c));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(model: &str) -> Plan {
        let plan = serde_json::json!({
            "model": model,
            "steps": [
                { "name": "triage", "prompt": "{{ input }}" },
                { "name": "votes", "prompt": "{{ triage }}", "replicas": 3 },
                { "name": "expert", "review": ["triage", "votes"] },
            ],
        });
        Plan::read(&plan, None).unwrap()
    }

    #[test]
    fn text_and_picture_show_steps_and_what_they_need() {
        let expected = "1. triage: asks m\n\
                        2. votes: asks m on 3 nodes of different owners, 2 needed\n\
                        3. expert: waits for a person to choose of triage, votes, the answer\n";
        assert_eq!(plan("m").as_text(), expected);
        let picture = plan("m").as_mermaid();
        for line in ["s0[\"triage<br/>asks m\"]", "s0 --> s1", "s1 --> s2", "s2{{\"expert"] {
            assert!(picture.contains(line), "{picture}");
        }
    }

    #[test]
    fn outline_names_each_step_once_after_what_it_uses() {
        let outline = plan("m").outline();
        let told: Vec<_> = outline
            .iter()
            .map(|step| {
                let after: Vec<_> = step.after.iter().map(StepName::as_str).collect();
                (step.name.as_str(), step.work.as_str(), after)
            })
            .collect();
        let expected = [
            ("triage", "ask", vec![]),
            ("votes", "ask", vec!["triage"]),
            ("expert", "review", vec!["triage", "votes"]),
        ];
        assert_eq!(told, expected);
        assert_eq!(outline[0].text, "asks m");
    }

    #[test]
    fn hostile_names_are_only_text() {
        let picture =
            plan("x\"]; click s0 href \"javascript:alert(1)\" <img onerror=1>").as_mermaid();
        assert!(!picture.contains("x\"]") && !picture.contains("<img") && !picture.contains("(1)"));
        assert_eq!(picture.lines().count(), 1 + 3 + 3);
    }
}
