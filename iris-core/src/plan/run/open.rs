//! Beginning steps whose inputs are there.

use super::super::{
    Agreement, Ballot, Item, Items, Join, Output, Progress, Step, StepError, StepName, UnitState,
    Work, aggregate, list, tally,
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
        let planned = self.plan.steps[step].clone();
        self.steps[step].state = StepState::Open;
        self.steps[step].began = Some(self.clock.now());
        if let Some(condition) = &planned.when
            && !condition.holds(&self.text_of(&condition.step))
        {
            let unit = self.add_unit(Unit::new(step, planned.name.to_string(), 0));
            self.set_state(unit, UnitState::Skipped);
            return self.step_settles(step);
        }
        match planned.work {
            Work::Ask(ref ask) => {
                let unit = self.add_unit(unit(step, &planned));
                let replicas = ask.replicas.as_ref().map(|replicas| replicas.count);
                match replicas {
                    None => self.turns.push_back(Turn { unit, replica: None }),
                    Some(count) => self
                        .turns
                        .extend((0..count).map(|replica| Turn { unit, replica: Some(replica) })),
                }
            }
            Work::Each { ref items, .. } => self.open_each(step, &planned, items),
            Work::Fold { ref of, .. } => self.open_fold(step, of),
            Work::Join { ref of, ref by } => self.join(step, &planned, of, by),
            Work::Review { .. } => self.open_review(step, &planned),
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
        let places: Vec<_> = of.iter().filter_map(|name| self.plan.place(name)).collect();
        let outputs: Vec<_> = places.iter().flat_map(|place| self.outputs(*place)).collect();
        let texts: Vec<_> = outputs.iter().map(|(_, output)| output.text.as_str()).collect();
        let joined = if texts.is_empty() {
            Err(StepError::Unusable { what: "none of its inputs has an output".to_owned() })
        } else {
            match by {
                Join::Concat { separator, headings } => {
                    Ok(self.concatenated(&outputs, separator, headings))
                }
                Join::Aggregate { method, weights } => {
                    aggregate(*method, &texts, weights).map_err(|what| StepError::Unusable { what })
                }
                Join::Vote { agreement, weights } => elect(&outputs, agreement, weights),
                Join::All => Ok(self.all(&outputs)),
            }
        };
        match joined {
            Ok(text) => self.unit_done(unit, Output { text, ..Output::empty() }),
            Err(error) => self.unit_failed(unit, error),
        }
    }

    fn concatenated(
        &self,
        outputs: &[(usize, &Output)],
        separator: &str,
        headings: &[String],
    ) -> String {
        let single =
            outputs.iter().all(|(unit, _)| self.units[*unit].step == self.units[outputs[0].0].step);
        let texts = outputs.iter().enumerate().map(|(place, (unit, output))| {
            // Parts that are missing keep their headings to themselves.
            let place = if single { self.units[*unit].part - 1 } else { place };
            match headings.get(place) {
                Some(heading) => format!("{heading}\n{}", output.text),
                None => output.text.clone(),
            }
        });
        texts.collect::<Vec<_>>().join(separator)
    }

    fn all(&self, outputs: &[(usize, &Output)]) -> String {
        let list = outputs.iter().map(|(unit, output)| {
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

/// Returns the answer with more than half of the weight.
fn elect(
    outputs: &[(usize, &Output)],
    agreement: &Agreement,
    weights: &[f64],
) -> Result<String, StepError> {
    let ballots: Vec<_> = outputs
        .iter()
        .enumerate()
        .map(|(place, (_, output))| {
            let weight = weights.get(place).copied().unwrap_or(1.0);
            Ballot { text: &output.text, weight: in_thousandths(weight) }
        })
        .collect();
    let tally = tally(agreement, &ballots);
    let elected = super::replicas::elected(&tally.groups, tally.spoilt.len())?;
    Ok(ballots[elected.representative].text.to_owned())
}

/// Weights are counted in thousandths, so that sums of them are exact.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
fn in_thousandths(weight: f64) -> u64 {
    (weight * 1000.0).round().clamp(0.0, 1e12) as u64
}
