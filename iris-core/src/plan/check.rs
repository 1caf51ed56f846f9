//! What a plan has to be before it is carried out.

use std::collections::BTreeSet;

use super::{Agreement, Ask, Items, Join, Plan, PlanError, Replicas, Step, StepName, Work};
use crate::model::is_invisible;

/// Most places of one template.
const MAX_PLACES: usize = 256;

impl Plan {
    /// Most steps.
    pub const MAX_STEPS: usize = 64;
    /// Most units, as far as they are known.
    pub const MAX_UNITS: usize = 4096;
    /// Longest input, in bytes.
    pub const MAX_INPUT: usize = 32 << 20;
    /// Longest prompt and longest joined output, in bytes.
    pub const MAX_TEXT: usize = 8 << 20;
    /// Most assignments, whatever the budget.
    pub const MAX_ASSIGNMENTS: usize = 10_000;
    /// Most assignments at a time.
    pub const MAX_SIDE_BY_SIDE: u32 = 256;

    /// Says what is wrong with the plan, if anything is.
    ///
    /// Steps refer to earlier ones only, so a plan that passes has no circles.
    pub fn check(&self) -> Result<(), PlanError> {
        let steps = self.steps.len();
        if steps == 0 || steps > Self::MAX_STEPS {
            return Err(at(
                "steps",
                format!("a plan has 1 to {} steps, not {steps}", Self::MAX_STEPS),
            ));
        }
        if self.input.len() > Self::MAX_INPUT {
            return Err(at("input", "it has at most 32 MiB"));
        }
        if !(1..=Self::MAX_SIDE_BY_SIDE).contains(&self.side_by_side) {
            return Err(at("side_by_side", format!("it is 1 to {}", Self::MAX_SIDE_BY_SIDE)));
        }
        let mut earlier = BTreeSet::new();
        let (mut units, mut of_each) = (0, std::collections::BTreeMap::new());
        for (place, step) in self.steps.iter().enumerate() {
            let member = |name: &str| format!("steps[{place}].{name}");
            step.check(&earlier).map_err(|error| at(member(&error.at), error.what))?;
            if !earlier.insert(step.name.as_str()) {
                return Err(at(member("name"), format!("`{}` names an earlier step", step.name)));
            }
            let own = match &step.work {
                // It merges pairs at least.
                Work::Fold { of, .. } => of_each.get(of).copied().unwrap_or(1),
                _ => step.units(),
            };
            of_each.insert(&step.name, own);
            units += own;
        }
        if units > Self::MAX_UNITS {
            return Err(at(
                "steps",
                format!("they ask {units} times; {} is the most", Self::MAX_UNITS),
            ));
        }
        if !earlier.contains(self.answer.as_str()) {
            return Err(at("answer", format!("there is no step `{}`", self.answer)));
        }
        Ok(())
    }
}

impl Step {
    /// How many times the step asks, as far as it is known.
    fn units(&self) -> usize {
        match &self.work {
            Work::Each { items: Items::Given(items), .. } => items.len(),
            Work::Each { items: Items::From { most, .. }, .. } => *most as usize,
            _ => 1,
        }
    }

    fn check(&self, earlier: &BTreeSet<&str>) -> Result<(), PlanError> {
        let known = |member: &str, name: &StepName| {
            let is_known = earlier.contains(name.as_str());
            let unknown = || at(member, format!("no earlier step is named `{name}`"));
            is_known.then_some(()).ok_or_else(unknown)
        };
        match &self.work {
            Work::Ask(ask) => ask.check("", earlier, false)?,
            Work::Each { items, ask } => {
                ask.check("", earlier, true)?;
                if let Items::From { step, most, .. } = items {
                    known("each.step", step)?;
                    if !(1..=256).contains(most) {
                        return Err(at("each.most", "a list has 1 to 256 items"));
                    }
                }
            }
            Work::Fold { of, ask, most_levels, .. } => {
                known("fold", of)?;
                ask.check("", earlier, true)?;
                if !(1..=16).contains(most_levels) {
                    return Err(at("fold_levels", "it is 1 to 16"));
                }
            }
            Work::Join { of, by } => {
                of.iter().try_for_each(|name| known("join.of", name))?;
                check_join(of, by)?;
            }
            Work::Review { of } => {
                of.iter().try_for_each(|name| known("review", name))?;
                check_named("review", of)?;
            }
        }
        if let Some(condition) = &self.when {
            known("when.step", &condition.step)?;
            let is_empty = condition.contains.is_none()
                && condition.equals.is_none()
                && condition.above.is_none()
                && condition.below.is_none();
            if is_empty {
                return Err(at("when", "it needs one of contains, equals, above and below"));
            }
        }
        if self.on_failure.retries > 16 || self.on_failure.fallback.len() > 16 {
            return Err(at("retries", "a step has at most 16 retries and 16 fallback models"));
        }
        let many = matches!(&self.work, Work::Ask(ask) if ask.replicas.is_some());
        if many && !self.on_failure.fallback.is_empty() {
            return Err(at("fallback", "replicas have no fallback model; retries they have"));
        }
        if let Some(undo) = &self.undo {
            let mut known = earlier.clone();
            known.insert(self.name.as_str());
            undo.check("undo", &known, false)?;
            if undo.replicas.is_some() {
                return Err(at("undo", "a step is undone once"));
            }
        }
        Ok(())
    }
}

impl Ask {
    fn check(&self, path: &str, earlier: &BTreeSet<&str>, items: bool) -> Result<(), PlanError> {
        let member = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        if self.prompt.is_none() && self.history.is_empty() {
            return Err(at(member("prompt"), "there is nothing to ask"));
        }
        if !self.history.iter().all(serde_json::Value::is_object) {
            return Err(at(member("history"), "a message is an object with role and content"));
        }
        if self.max_tokens == Some(0) {
            return Err(at(member("max_tokens"), "an answer has at least 1 token"));
        }
        for name in [
            "model",
            "messages",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "n",
            "iris_dataset",
        ] {
            if self.params.contains_key(name) {
                let what = format!("`{name}` is set by the plan itself");
                return Err(at(member("params"), what));
            }
        }
        for (template, name) in [(&self.system, "system"), (&self.prompt, "prompt")] {
            if template.iter().flat_map(super::Template::names).count() > MAX_PLACES {
                return Err(at(member(name), format!("it has at most {MAX_PLACES} places")));
            }
            for used in template.iter().flat_map(super::Template::names) {
                let about_items = matches!(used, "item" | "part" | "parts" | "lines");
                if used != "input" && !(items && about_items) && !earlier.contains(used) {
                    let what = if about_items {
                        format!("`{used}` has a value in steps with each or fold only")
                    } else {
                        format!("no earlier step is named `{used}`")
                    };
                    return Err(at(member(name), what));
                }
            }
        }
        if let Some(dataset) = &self.dataset {
            let name = &dataset.name;
            if !(1..=64).contains(&name.len()) || name.chars().any(is_invisible) {
                let what = "a data set's name has 1 to 64 bytes and no control characters";
                return Err(at(member("dataset"), what));
            }
        }
        let replicas = self.replicas.as_ref();
        replicas.map_or(Ok(()), |replicas| replicas.check(self, earlier))
    }
}

impl Replicas {
    /// Most replicas.
    pub const MAX: u32 = 16;

    fn check(&self, ask: &Ask, earlier: &BTreeSet<&str>) -> Result<(), PlanError> {
        if !(2..=Self::MAX).contains(&self.count) {
            return Err(at("replicas", format!("there are 2 to {}", Self::MAX)));
        }
        if !(1..=self.count).contains(&self.quorum) {
            return Err(at("quorum", "it is 1 to as many as there are replicas"));
        }
        if ask.params.contains_key("tools") || ask.params.contains_key("functions") {
            return Err(at("params.tools", "calls of tools are never put to the vote"));
        }
        check_agreement("agree", &self.agreement)?;
        let Some(synthesis) = &self.synthesis else { return Ok(()) };
        if synthesis.replicas.is_some() {
            return Err(at("synthesis", "answers are merged once"));
        }
        synthesis.check("synthesis", earlier, true)
    }
}

/// Checks that steps are named, none of them twice.
fn check_named(member: &str, of: &[StepName]) -> Result<(), PlanError> {
    if of.is_empty() {
        return Err(at(member, "it names at least one step"));
    }
    let distinct: BTreeSet<_> = of.iter().collect();
    if distinct.len() < of.len() {
        return Err(at(member, "it names a step twice"));
    }
    Ok(())
}

fn check_join(of: &[StepName], by: &Join) -> Result<(), PlanError> {
    check_named("join.of", of)?;
    if let Join::Concat { separator, headings } = by {
        let longest = headings.iter().chain([separator]).map(String::len).max();
        if longest.unwrap_or(0) > 1024 {
            return Err(at("join", "a separator, or a heading, has at most 1024 bytes"));
        }
        if headings.len() > Plan::MAX_UNITS {
            return Err(at("join.headings", format!("there are at most {}", Plan::MAX_UNITS)));
        }
    }
    let (Join::Vote { weights, .. } | Join::Aggregate { weights, .. }) = by else { return Ok(()) };
    if weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) {
        return Err(at("join.weights", "a weight is a number that is not negative"));
    }
    match by {
        Join::Vote { agreement, .. } => check_agreement("join.agreement", agreement),
        _ => Ok(()),
    }
}

fn check_agreement(member: &str, agreement: &Agreement) -> Result<(), PlanError> {
    let is_share = |share: &f64| (0.0..=1.0).contains(share);
    match agreement {
        Agreement::Number { tolerance } if !is_share(tolerance) => {
            Err(at(format!("{member}.tolerance"), "it is a number from 0 to 1"))
        }
        Agreement::Text { similarity } if !is_share(similarity) => {
            Err(at(format!("{member}.similarity"), "it is a number from 0 to 1"))
        }
        Agreement::Choice { options } if options.len() < 2 || options.len() > 64 => {
            Err(at(format!("{member}.options"), "there are 2 to 64"))
        }
        Agreement::Choice { options } if options.iter().any(|option| option.trim().is_empty()) => {
            Err(at(format!("{member}.options"), "an option is not empty"))
        }
        _ => Ok(()),
    }
}

fn at(at: impl Into<String>, what: impl Into<String>) -> PlanError {
    PlanError { at: at.into(), what: what.into() }
}
