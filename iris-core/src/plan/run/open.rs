//! Beginning steps whose inputs are there.

use std::sync::Arc;

use super::super::{
    Agreement, Ballot, Item, Items, Join, Output, Plan, Progress, Step, StepError, StepName,
    UnitState, Work, aggregate, list, tally,
};
use super::unit::{Turn, Unit};
use super::{Phase, PlanRun, StepState};

impl PlanRun {
    /// Begins every step that can begin, in order, so that those that ask nobody are over at once.
    pub(super) fn open_steps(&mut self) {
        for step in 0..self.steps.len() {
            let run = &self.steps[step];
            let there = |input: &usize| self.steps[*input].state.is_settled();
            if run.state == StepState::Blocked && run.inputs.iter().all(there) {
                self.open(step);
            }
            if !matches!(self.phase, Phase::Working) {
                return;
            }
        }
    }

    fn open(&mut self, step: usize) {
        let plan = Arc::clone(&self.plan);
        let planned = &plan.steps[step];
        self.steps[step].state = StepState::Open;
        self.steps[step].began = Some(self.clock.now());
        if let Some(condition) = &planned.when
            && !condition.holds(&self.text_of(&condition.step))
        {
            let unit = self.add_unit(Unit::new(step, planned.name.to_string(), 0));
            self.set_state(unit, UnitState::Skipped);
            return self.step_settles(step);
        }
        match &planned.work {
            Work::Ask(ask) => {
                let unit = self.add_unit(unit(step, planned));
                let replicas = ask.replicas.as_ref().map(|replicas| replicas.count);
                match replicas {
                    None => self.turns.push_back(Turn { unit, replica: None }),
                    Some(count) => self
                        .turns
                        .extend((0..count).map(|replica| Turn { unit, replica: Some(replica) })),
                }
            }
            Work::Each { items, .. } => self.open_each(step, planned, items),
            Work::Fold { of, .. } => self.open_fold(step, of),
            Work::Join { of, by } => self.join(step, planned, of, by),
            Work::Review { .. } => self.open_review(step, planned),
        }
    }

    fn open_each(&mut self, step: usize, planned: &Step, items: &Items) {
        let items = match items {
            Items::Given(items) => items.clone(),
            Items::From { step: from, most, otherwise } => {
                let found = list(&self.text_of(from), *most as usize);
                let found = found.or_else(|| Some(vec![otherwise.clone()?]));
                let Some(found) = found else {
                    let unit = self.add_unit(unit(step, planned));
                    let what = format!("the output of `{from}` is no list of texts");
                    return self.unit_failed(unit, StepError::Unusable { what });
                };
                found.into_iter().map(|text| Item { text, source: None }).collect()
            }
        };
        let parts = items.len();
        for (index, item) in items.into_iter().enumerate() {
            let label = format!("{}.{}", planned.name, index + 1);
            let new = Unit { item: Some(item), part: index + 1, parts, ..unit(step, planned) };
            let unit = self.add_unit(Unit { label, ..new });
            self.turns.push_back(Turn { unit, replica: None });
        }
        self.step_settles(step);
    }

    fn open_review(&mut self, step: usize, planned: &Step) {
        let unit = self.add_unit(unit(step, planned));
        let choices: Vec<_> =
            self.laid_out(unit).map(|(known, _)| self.units[known].label.clone()).collect();
        if choices.is_empty() {
            let what = "there is no output to review".to_owned();
            return self.unit_failed(unit, StepError::Unusable { what });
        }
        self.units[unit].began = Some(self.clock.now());
        self.set_state(unit, UnitState::Review);
        self.tell(Progress::Waiting { unit: planned.name.to_string(), choices });
    }

    fn join(&mut self, step: usize, planned: &Step, of: &[StepName], by: &Join) {
        let unit = self.add_unit(unit(step, planned));
        let joined = self.joined(of, by);
        match joined {
            Ok(text) => self.unit_done(unit, Output { text, ..Output::empty() }),
            Err(error) => self.unit_failed(unit, error),
        }
    }

    fn joined(&self, of: &[StepName], by: &Join) -> Result<String, StepError> {
        let unusable = |what: &str| Err(StepError::Unusable { what: what.to_owned() });
        let parts = self.parts(of);
        if parts.is_empty() {
            return unusable("none of its inputs has an output");
        }
        let (separator, headings) = match by {
            Join::Concat { separator, headings } => (separator.len(), headings.as_slice()),
            _ => (0, [].as_slice()),
        };
        let around = headings.iter().map(|heading| heading.len() + separator).sum::<usize>();
        let size = |part: &Part<'_>| part.output.text.len() + separator;
        if parts.iter().map(size).sum::<usize>() + around > Plan::MAX_TEXT {
            return unusable("its inputs have more than 8 MiB together");
        }
        match by {
            Join::Concat { separator, headings } => Ok(concatenated(&parts, separator, headings)),
            Join::Aggregate { method, weights } => {
                let texts: Vec<_> = parts.iter().map(|part| part.output.text.as_str()).collect();
                let weights: Vec<_> = parts.iter().map(|part| part.weight(weights)).collect();
                // Where no weights are given, the outputs say how many samples they come from.
                let given = if weights_given(by) { weights.as_slice() } else { &[] };
                aggregate(*method, &texts, given).map_err(|what| StepError::Unusable { what })
            }
            Join::Vote { .. } if parts.len() > Self::MAX_BALLOTS => {
                unusable("at most 64 answers are put to the vote")
            }
            Join::Vote { agreement, weights } => elect(&parts, agreement, weights),
            Join::All => Ok(self.all(&parts)),
        }
    }

    /// Most answers of one vote: each is compared with others.
    const MAX_BALLOTS: usize = 64;

    /// Returns the outputs of steps, each with the place that it has even if others are missing.
    fn parts(&self, of: &[StepName]) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut first = 0;
        for step in of.iter().filter_map(|name| self.plan.place(name)) {
            let many = matches!(self.plan.steps[step].work, Work::Each { .. });
            for (unit, output) in self.outputs(step) {
                let place = if many { self.units[unit].part - 1 } else { 0 };
                parts.push(Part { place: first + place, unit, output });
            }
            first += if many { self.steps[step].units.len() } else { 1 };
        }
        parts
    }

    fn all(&self, parts: &[Part<'_>]) -> String {
        let list = parts.iter().map(|Part { unit, output, .. }| {
            let node = self.tried.iter().rfind(|t| t.unit == *unit).and_then(|t| t.placed.node);
            let step = &self.units[*unit].label;
            serde_json::json!({ "step": step, "node": node, "text": output.text })
        });
        serde_json::Value::from(list.collect::<Vec<_>>()).to_string()
    }

    /// Returns the output of a step as text; nothing where it was skipped.
    pub(super) fn text_of(&self, name: &StepName) -> String {
        self.plan.place(name).map(|step| self.output(step).text).unwrap_or_default()
    }
}

/// Makes the first unit of a step.
fn unit(step: usize, planned: &Step) -> Unit {
    Unit::new(step, planned.name.to_string(), planned.on_failure.retries)
}

/// One output that is put together with others.
struct Part<'a> {
    /// Which of all outputs it is, those that are missing counted too.
    place: usize,
    unit: usize,
    output: &'a Output,
}

impl Part<'_> {
    fn weight(&self, weights: &[f64]) -> f64 {
        weights.get(self.place).copied().unwrap_or(1.0)
    }
}

const fn weights_given(by: &Join) -> bool {
    matches!(by, Join::Aggregate { weights, .. } if !weights.is_empty())
}

fn concatenated(parts: &[Part<'_>], separator: &str, headings: &[String]) -> String {
    let texts = parts.iter().map(|part| match headings.get(part.place) {
        Some(heading) => format!("{heading}\n{}", part.output.text),
        None => part.output.text.clone(),
    });
    texts.collect::<Vec<_>>().join(separator)
}

/// Returns the answer with more than half of the weight.
fn elect<'a>(
    parts: &[Part<'a>],
    agreement: &Agreement,
    weights: &[f64],
) -> Result<String, StepError> {
    let ballot = |part: &Part<'a>| Ballot {
        text: &part.output.text,
        weight: in_thousandths(part.weight(weights)),
    };
    let ballots: Vec<Ballot<'a>> = parts.iter().map(ballot).collect();
    let tally = tally(agreement, &ballots);
    let elected = super::replicas::elected(&tally, &ballots)?;
    Ok(ballots[elected.representative].text.to_owned())
}

/// Weights are counted in thousandths, so that sums of them are exact.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
fn in_thousandths(weight: f64) -> u64 {
    (weight * 1000.0).round().clamp(0.0, 1e12) as u64
}
