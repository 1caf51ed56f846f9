//! The state machine that carries a plan out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Assignment, Decision, Event, Number, Output, Placed, Plan, PlanEnd, PlanError, Progress,
    StepError, StepName, Then, UnitReport, UnitState, Work,
};
use crate::backend::Usage;

mod assign;
mod budget;
mod fold;
mod open;
mod replicas;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod tests;
mod undo;
mod unit;

use budget::{Clock, Spent};
use fold::FoldLevel;
use undo::Undoing;
use unit::{Tried, Turn, Unit};

/// What the driver of a [`PlanRun`] has to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Have a node do this, and report what becomes of it.
    Assign(Box<Assignment>),
    /// Give an assignment up; nothing is expected of it any more.
    Withdraw(Number),
    /// Tell those who follow the plan.
    Tell(Progress),
    /// The plan is over. Comes exactly once, and last.
    Finish(PlanEnd),
}

/// Carries one plan to exactly one end.
///
/// The driver calls [`poll_action`](Self::poll_action) until it returns `None`, then waits for
/// whichever comes first: news of an assignment, a decision, the caller's leaving, or
/// [`poll_timeout`](Self::poll_timeout); reports it by the `handle_*` method of that name; and
/// starts over. News that comes after the end, or of assignments that were withdrawn, changes
/// nothing. Times never run backwards.
///
/// What decides the plan's course are its [`Event`]s and their times, and nothing else: whoever
/// writes them down can [`replay`](Self::replay) them.
#[derive(Debug)]
pub struct PlanRun {
    /// Shared, so that what a step says can be read while its state changes.
    plan: Arc<Plan>,
    steps: Vec<StepRun>,
    units: Vec<Unit>,
    tried: Vec<Tried>,
    /// What waits to be assigned, in order.
    turns: VecDeque<Turn>,
    running: BTreeSet<Number>,
    actions: VecDeque<Action>,
    clock: Clock,
    spent: Spent,
    /// The budget of the plan that is used up; what runs may still end.
    exhausted: Option<StepError>,
    /// How many steps have finished, to undo them in the reverse order.
    finished: u32,
    /// The text of the answer that followers have.
    told: String,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Working,
    Undoing(Undoing),
    Over,
}

/// Where a step stands.
#[derive(Debug, Default)]
struct StepRun {
    /// The earlier steps that it uses, as places in the plan.
    inputs: BTreeSet<usize>,
    state: StepState,
    /// Its units, in the order of their outputs.
    units: Vec<usize>,
    fold: Option<FoldLevel>,
    began: Option<Duration>,
    spent: Spent,
    /// When it finished, among all steps.
    finished: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum StepState {
    /// Its inputs are not all there.
    #[default]
    Blocked,
    /// It is at work.
    Open,
    /// It has its output.
    Done,
    /// It has no output, and that is allowed.
    Skipped,
    /// The plan ended before it, or by it.
    Failed,
}

impl StepState {
    const fn is_settled(self) -> bool {
        matches!(self, Self::Done | Self::Skipped)
    }
}

impl PlanRun {
    /// Starts a plan.
    pub fn new(plan: Plan) -> Result<Self, PlanError> {
        plan.check()?;
        let inputs = |step: &super::Step| -> BTreeSet<usize> {
            step.uses().filter_map(|name| plan.place(&name)).collect()
        };
        let steps =
            plan.steps.iter().map(|step| StepRun { inputs: inputs(step), ..StepRun::default() });
        let mut run = Self {
            steps: steps.collect(),
            plan: Arc::new(plan),
            units: Vec::new(),
            tried: Vec::new(),
            turns: VecDeque::new(),
            running: BTreeSet::new(),
            actions: VecDeque::new(),
            clock: Clock::default(),
            spent: Spent::default(),
            exhausted: None,
            finished: 0,
            told: String::new(),
            phase: Phase::Working,
        };
        run.go_on();
        Ok(run)
    }

    /// Brings a plan to where it was when the last of `events` had been acted on. What had not
    /// ended then is assigned again, under the same numbers; what happened until then is told
    /// again, for followers who come anew.
    pub fn replay(
        plan: Plan,
        events: impl IntoIterator<Item = (Duration, Event)>,
    ) -> Result<Self, PlanError> {
        let mut run = Self::new(plan)?;
        for (at, event) in events {
            run.handle_event(at, event);
        }
        let begun: BTreeSet<Number> = run.running.clone();
        run.actions.retain(|action| match action {
            Action::Assign(assignment) => begun.contains(&assignment.number),
            Action::Finish(_) | Action::Tell(_) => true,
            Action::Withdraw(_) => false,
        });
        Ok(run)
    }

    /// Returns what to do next; `None` when there is nothing to do but wait.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due; `None` where nothing is.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Working => {
                let steps = self.steps.iter().zip(&self.plan.steps);
                let open = steps.filter(|(run, _)| run.state == StepState::Open);
                let limits = open.filter_map(|(run, step)| step.budget.due(run.began?));
                limits.chain(self.clock.due(self.plan.budget)).min()
            }
            Phase::Undoing(_) | Phase::Over => None,
        }
    }

    /// Acts on whatever was due by `now`.
    pub fn handle_timeout(&mut self, now: Duration) {
        // Each limit acts at its own time, however late this is called, so that a replay, which
        // learns of times by its events only, comes to the same.
        while let Some(due) = self.poll_timeout().filter(|due| *due <= now) {
            self.clock.advance(due);
            self.run_out();
            self.go_on();
        }
        self.clock.advance(now);
    }

    /// Returns whether the start of an assignment is an event of its own, [`Event::Placed`]: its
    /// node's reputation decides when replicas have agreed.
    pub fn records_start(&self, number: Number) -> bool {
        let tried = self.tried.get(number.0 as usize).filter(|_| self.running.contains(&number));
        tried.is_some_and(|tried| tried.replica.is_some() && self.is_weighted(tried.unit))
    }

    /// Records that a node took an assignment, for those who follow the plan.
    pub fn handle_started(&mut self, number: Number, placed: Placed) {
        if !self.running.contains(&number) {
            return;
        }
        let tried = &mut self.tried[number.0 as usize];
        tried.placed = placed.clone();
        let unit = self.units[tried.unit].label.clone();
        let model = tried.model.clone();
        self.tell(Progress::Started { unit, number, model, placed });
    }

    /// Records the next piece of a streamed answer.
    pub fn handle_text(&mut self, number: Number, text: &str) {
        let streams = |tried: &Tried| tried.streams;
        if self.running.contains(&number) && self.tried.get(number.0 as usize).is_some_and(streams)
        {
            self.told.push_str(text);
            self.tell(Progress::Text { text: text.to_owned() });
        }
    }

    /// Records an event, which happened at `now`.
    pub fn handle_event(&mut self, now: Duration, event: Event) {
        self.handle_timeout(now);
        match event {
            Event::Ended { number, placed, result } => self.ended(number, placed, result),
            Event::Placed { number, placed } => {
                self.handle_started(number, placed);
                if let Some(tried) = self.tried.get(number.0 as usize) {
                    self.weigh(tried.unit);
                }
            }
            Event::Decided(decision) => self.decided(decision),
            Event::Cancelled => self.cancel(),
        }
        self.go_on();
    }

    /// Returns the plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns whether the plan is over.
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Returns the text of the answer so far.
    pub fn text(&self) -> &str {
        &self.told
    }

    /// Returns every unit as it stands, in the order of the steps.
    pub fn report(&self) -> Vec<UnitReport> {
        let units = self.steps.iter().flat_map(|step| &step.units);
        units.map(|unit| self.units[*unit].report(*unit, &self.tried)).collect()
    }

    /// Returns one unit as it stands.
    pub fn unit(&self, label: &str) -> Option<UnitReport> {
        let place = self.units.iter().position(|unit| unit.label == label)?;
        Some(self.units[place].report(place, &self.tried))
    }

    /// Returns the tokens used so far, as the nodes counted them.
    pub fn usage(&self) -> Usage {
        self.units.iter().fold(Usage::default(), |sum, unit| sum.plus(unit.usage))
    }

    /// Opens what can begin, assigns what has its turn, and ends what is over.
    fn go_on(&mut self) {
        if matches!(self.phase, Phase::Working) {
            self.open_steps();
            self.fill();
            self.conclude();
        }
        let idle = self.running.is_empty() && self.turns.is_empty();
        let reviewed = self.units.iter().any(|unit| unit.state == UnitState::Review);
        self.clock.pause(idle && reviewed && matches!(self.phase, Phase::Working));
    }

    /// Ends the plan when all its steps are settled, or none can go on.
    fn conclude(&mut self) {
        if !matches!(self.phase, Phase::Working) {
            return;
        }
        if self.steps.iter().all(|step| step.state.is_settled()) {
            let answer = self.plan.place(&self.plan.answer).expect("a checked plan has its answer");
            if self.steps[answer].state == StepState::Done {
                return self.finish(answer);
            }
            let what = "the step that gives the answer was skipped".to_owned();
            return self.stop(answer, StepError::Unusable { what });
        }
        if self.running.is_empty()
            && let Some(error) = self.exhausted.clone()
        {
            self.end_partial(error);
        }
    }

    fn finish(&mut self, answer: usize) {
        let output = self.output(answer);
        if let Some(rest) = output.text.strip_prefix(self.told.as_str()).filter(|r| !r.is_empty()) {
            let text = rest.to_owned();
            self.told.push_str(&text);
            self.tell(Progress::Text { text });
        }
        self.over(PlanEnd::Finished { output });
    }

    /// Ends the plan because `step` failed for good.
    fn stop(&mut self, step: usize, error: StepError) {
        self.steps[step].state = StepState::Failed;
        if matches!(error, StepError::Budget { .. }) {
            return self.end_partial(error);
        }
        let step = self.plan.steps[step].name.to_string();
        self.end_unfinished(PlanEnd::Failed { step, error });
    }

    fn end_partial(&mut self, error: StepError) {
        let text = self.leftovers();
        self.end_unfinished(PlanEnd::Partial { error, text });
    }

    fn end_unfinished(&mut self, end: PlanEnd) {
        self.drop_work();
        self.undo(end);
    }

    fn cancel(&mut self) {
        match &mut self.phase {
            Phase::Working => {
                self.drop_work();
                self.over(PlanEnd::Cancelled);
            }
            Phase::Undoing(undoing) => {
                let end = undoing.end.clone();
                self.withdraw_all();
                self.over(end);
            }
            Phase::Over => {}
        }
    }

    fn over(&mut self, end: PlanEnd) {
        self.phase = Phase::Over;
        self.tell(Progress::Ended(end.clone()));
        self.actions.push_back(Action::Finish(end));
    }

    /// Gives up everything that is not over.
    fn drop_work(&mut self) {
        self.turns.clear();
        self.withdraw_all();
        for unit in 0..self.units.len() {
            let state = self.units[unit].state;
            if matches!(state, UnitState::Waiting | UnitState::Running | UnitState::Review) {
                self.set_state(unit, UnitState::Dropped);
            }
        }
    }

    fn withdraw_all(&mut self) {
        for number in std::mem::take(&mut self.running) {
            self.actions.push_back(Action::Withdraw(number));
        }
    }

    /// Returns the outputs that nothing else was made of, one after the other.
    fn leftovers(&self) -> String {
        let used: BTreeSet<usize> = self
            .steps
            .iter()
            .filter(|step| step.state == StepState::Done)
            .flat_map(|step| step.inputs.iter().copied())
            .collect();
        let unused = (0..self.steps.len()).filter(|step| !used.contains(step));
        let answer = self.plan.place(&self.plan.answer);
        let texts = unused.map(|step| {
            let text = self.output(step).text;
            // Followers have the beginning of an answer that has no end.
            if text.is_empty() && Some(step) == answer { self.told.clone() } else { text }
        });
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
    }

    /// Returns what a step has put out so far, its parts one after the other.
    fn output(&self, step: usize) -> Output {
        let mut outputs = self.outputs(step).map(|(_, output)| output);
        let Some(first) = outputs.next() else { return Output::empty() };
        outputs.fold(first.clone(), |mut sum, next| {
            sum.text.push_str("\n\n");
            sum.text.push_str(&next.text);
            sum.usage = sum.usage.plus(next.usage);
            sum
        })
    }

    /// Iterates over the outputs of a step, with their units.
    fn outputs(&self, step: usize) -> impl Iterator<Item = (usize, &Output)> {
        let units: &[usize] = match &self.plan.steps[step].work {
            // What a fold puts out is its last unit, or what it had no need to merge.
            Work::Fold { .. } => self.steps[step].fold.as_ref().map_or(&[], FoldLevel::result),
            _ => &self.steps[step].units,
        };
        units.iter().filter_map(|unit| Some((*unit, self.units[*unit].output.as_ref()?)))
    }

    fn tell(&mut self, progress: Progress) {
        self.actions.push_back(Action::Tell(progress));
    }

    fn decided(&mut self, decision: Decision) {
        let waiting = |unit: &Unit| unit.state == UnitState::Review && unit.label == decision.step;
        let Some(unit) = self.units.iter().position(waiting) else { return };
        let text = match (decision.text, decision.choose) {
            (Some(text), None) => text,
            (None, Some(choice)) => {
                let Some(text) = self.laid_out(unit).find_map(|(known, output)| {
                    (self.units[known].label == choice).then(|| output.text.clone())
                }) else {
                    return;
                };
                text
            }
            _ => return,
        };
        self.unit_done(unit, Output { text, ..Output::empty() });
    }

    /// Iterates over the outputs that a review lays out.
    fn laid_out(&self, review: usize) -> impl Iterator<Item = (usize, &Output)> {
        let of: &[StepName] = match &self.plan.steps[self.units[review].step].work {
            Work::Review { of } => of,
            _ => &[],
        };
        of.iter().filter_map(|name| self.plan.place(name)).flat_map(|step| self.outputs(step))
    }

    /// Gives a unit its output, and ends its step when it was the last one.
    fn unit_done(&mut self, unit: usize, output: Output) {
        self.units[unit].output = Some(output);
        self.set_state(unit, UnitState::Finished);
        self.step_settles(self.units[unit].step);
    }

    /// Lets a unit fail for good: the plan ends, or goes on without it.
    fn unit_failed(&mut self, unit: usize, error: StepError) {
        let step = self.units[unit].step;
        self.units[unit].error = Some(error.clone());
        match self.plan.steps[step].on_failure.then {
            Then::Stop => {
                self.set_state(unit, UnitState::Failed);
                self.stop(step, error);
            }
            Then::Skip => {
                self.set_state(unit, UnitState::Skipped);
                self.step_settles(step);
            }
        }
    }

    /// Ends a step whose units are all over.
    fn step_settles(&mut self, step: usize) {
        let over = |unit: &usize| {
            matches!(self.units[*unit].state, UnitState::Finished | UnitState::Skipped)
        };
        if self.steps[step].state != StepState::Open || !self.steps[step].units.iter().all(over) {
            return;
        }
        if matches!(self.plan.steps[step].work, Work::Fold { .. }) && self.fold_on(step) {
            return;
        }
        if self.outputs(step).next().is_none() {
            self.steps[step].state = StepState::Skipped;
            return;
        }
        self.steps[step].state = StepState::Done;
        self.steps[step].finished = Some(self.finished);
        self.finished += 1;
    }

    fn set_state(&mut self, unit: usize, state: UnitState) {
        let now = self.clock.now();
        let changed = &mut self.units[unit];
        changed.state = state;
        if matches!(state, UnitState::Waiting | UnitState::Running | UnitState::Review) {
            return;
        }
        if let Some(began) = changed.began {
            changed.took.get_or_insert(now.saturating_sub(began));
        }
        let unit = changed.label.clone();
        self.tell(Progress::Over { unit, state });
    }
}
