//! Taking back what finished steps did, the last one first.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::template::Scope;
use super::super::{Assignment, PlanEnd, UnitState, Work};
use super::assign::written;
use super::{Action, Phase, PlanRun, StepState};

/// How long one step may take to be undone, from when it is assigned. There is no timer for it
/// here: who comes back after a long time undoes what is left all the same.
const UNDO_WITHIN: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Undoing {
    /// How the plan ends after it.
    pub(super) end: PlanEnd,
    /// The steps that are left, the next one last.
    left: Vec<usize>,
}

impl PlanRun {
    /// Takes back what finished steps did, and ends the plan after that.
    pub(super) fn undo(&mut self, end: PlanEnd) {
        // A fold that had nothing to merge did nothing.
        let finished = |step: &usize| {
            let run = &self.steps[*step];
            run.state == StepState::Done
                && !run.units.is_empty()
                && self.plan.steps[*step].undo.is_some()
        };
        let mut left: Vec<_> = (0..self.steps.len()).filter(finished).collect();
        left.sort_by_key(|step| self.steps[*step].finished);
        self.phase = Phase::Undoing(Undoing { end, left });
        self.undo_next();
    }

    /// Records that a step was undone, or could not be.
    pub(super) fn undone(&mut self, unit: usize, undone: bool) {
        if undone {
            let step = self.units[unit].step;
            let finished = |unit: &usize| self.units[*unit].state == UnitState::Finished;
            let units: BTreeSet<_> =
                self.steps[step].units.iter().copied().filter(finished).collect();
            for unit in units {
                self.set_state(unit, UnitState::Undone);
            }
        }
        self.undo_next();
    }

    fn undo_next(&mut self) {
        loop {
            let Phase::Undoing(undoing) = &mut self.phase else { return };
            let Some(step) = undoing.left.pop() else {
                let end = undoing.end.clone();
                return self.over(end);
            };
            if let Some(assignment) = self.undo_assignment(step) {
                let unit = self.steps[step].units[0];
                self.note(unit, &assignment, 0);
                return self.actions.push_back(Action::Assign(Box::new(assignment)));
            }
        }
    }

    /// Returns what undoes a step; `None` where it cannot even be asked.
    fn undo_assignment(&self, step: usize) -> Option<Assignment> {
        let planned = &self.plan.steps[step];
        let ask = planned.undo.as_ref()?;
        let output = |name: &str| {
            let place = self.plan.steps.iter().position(|step| step.name.as_str() == name)?;
            Some(self.output(place).text)
        };
        let input = &self.plan.input;
        let own = match &planned.work {
            Work::Ask(own) | Work::Each { ask: own, .. } | Work::Fold { ask: own, .. } => {
                Some(&own.model)
            }
            Work::Join { .. } | Work::Review { .. } => None,
        };
        // The step may have been done by a model that it fell back to.
        let answered = self.tried.iter().rfind(|tried| self.units[tried.unit].step == step);
        let model = match answered {
            Some(tried) if own == Some(&ask.model) => &tried.model,
            _ => &ask.model,
        };
        let scope = Scope { input, item: None, part: 1, parts: 1, source: None, output: &output };
        Some(Assignment {
            number: self.next_number(),
            unit: planned.name.to_string(),
            replica: None,
            model: model.clone(),
            messages: written(ask, &scope).ok()?,
            params: ask.params.clone(),
            max_tokens: ask.max_tokens,
            abilities: ask.abilities,
            dataset: ask.dataset.clone(),
            nodes: ask.nodes.clone(),
            exclude: Vec::new(),
            apart: None,
            time_limit: UNDO_WITHIN,
            streams: false,
            undo: true,
        })
    }
}
