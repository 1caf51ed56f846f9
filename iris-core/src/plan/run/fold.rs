//! Merging outputs as a tree.

use super::super::{Item, Source, StepName, Work, tokens};
use super::unit::{Turn, Unit};
use super::{PlanRun, StepState};

/// One level of the tree.
#[derive(Debug)]
pub(super) struct FoldLevel {
    number: u32,
    /// The units whose outputs are on this level, in order; some come from below as they were.
    slots: Vec<usize>,
    done: bool,
}

impl FoldLevel {
    /// Returns the units whose outputs are the step's: one, once all is merged.
    pub(super) fn result(&self) -> &[usize] {
        if self.done { &self.slots } else { &[] }
    }
}

impl PlanRun {
    pub(super) fn open_fold(&mut self, step: usize, of: &StepName) {
        let place = self.plan.place(of).expect("a checked plan names earlier steps");
        let slots = self.outputs(place).map(|(unit, _)| unit).collect();
        self.steps[step].fold = Some(FoldLevel { number: 0, slots, done: false });
        self.step_settles(step);
    }

    /// Merges what the last level put out, unless one is left; returns whether there is more to
    /// do.
    pub(super) fn fold_on(&mut self, step: usize) -> bool {
        let Some(level) = self.steps[step].fold.as_mut() else { return false };
        let known = |unit: &usize| self.units[*unit].output.is_some();
        level.slots.retain(known);
        if level.slots.len() <= 1 {
            level.done = true;
            return false;
        }
        let (number, slots) = (level.number + 1, std::mem::take(&mut level.slots));
        let groups = self.pack(step, &slots, number);
        let parts = groups.iter().filter(|group| group.len() > 1).count();
        let mut part = 0;
        let next = groups.into_iter().map(|group| {
            if let [single] = group[..] {
                return single;
            }
            part += 1;
            self.merge(step, &group, (number, part, parts))
        });
        let slots = next.collect();
        self.steps[step].fold = Some(FoldLevel { number, slots, done: false });
        true
    }

    /// Divides the outputs of a level into groups that fit into one merge, of two at least.
    fn pack(&self, step: usize, slots: &[usize], number: u32) -> Vec<Vec<usize>> {
        let Work::Fold { most_tokens, most_levels, .. } = self.plan.steps[step].work else {
            return Vec::new();
        };
        if number >= most_levels {
            return vec![slots.to_vec()];
        }
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut used = 0_u64;
        for unit in slots {
            let size = u64::from(tokens(&self.said(step, *unit)));
            match groups.last_mut() {
                // Pairs at least, so that every level is shorter than the last.
                Some(group) if group.len() < 2 || used + size <= u64::from(most_tokens) => {
                    group.push(*unit);
                    used += size;
                }
                _ => {
                    groups.push(vec![*unit]);
                    used = size;
                }
            }
        }
        groups
    }

    /// Returns an output as it is merged. Before what was said of a piece of a document stands the
    /// piece's number, so that the last answer can cite it.
    fn said(&self, step: usize, unit: usize) -> String {
        let unit = &self.units[unit];
        let text = unit.output.as_ref().map_or("", |output| output.text.as_str());
        match unit.item.as_ref().and_then(|item| item.source) {
            Some(_) if unit.step != step => format!("[{}] {text}", unit.part),
            _ => text.to_owned(),
        }
    }

    fn merge(
        &mut self,
        step: usize,
        group: &[usize],
        (number, part, parts): (u32, usize, usize),
    ) -> usize {
        let texts = group.iter().map(|unit| self.said(step, *unit));
        let text = texts.collect::<Vec<_>>().join("\n\n");
        let sources = group.iter().filter_map(|unit| self.units[*unit].item.as_ref()?.source);
        let source = sources.reduce(Source::across);
        let planned = &self.plan.steps[step];
        let label = format!("{}.{number}.{part}", planned.name);
        let retries = planned.on_failure.retries;
        let item = Some(Item { text, source });
        let unit = Unit { item, part, parts, ..Unit::new(step, label, retries) };
        let unit = self.add_unit(unit);
        self.turns.push_back(Turn { unit, replica: None });
        unit
    }

    /// Returns whether `unit` merges all that is left of its step, so that its output is the
    /// step's.
    pub(super) fn is_last_merge(&self, unit: usize) -> bool {
        let run = &self.steps[self.units[unit].step];
        run.state == StepState::Open && run.fold.as_ref().is_some_and(|level| level.slots == [unit])
    }
}
