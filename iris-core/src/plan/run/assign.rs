//! Handing units to nodes, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::template::Scope;
use super::super::{
    Ask, Assignment, Dataset, Number, Output, Placed, Plan, StepError, UnitState, Work, tokens,
};
use super::budget::used_up;
use super::unit::{Tried, Turn, Unit};
use super::{Action, Phase, PlanRun, StepState};
use crate::id::NodeId;
use crate::model::ModelName;
use crate::task::TaskError;

/// The longest answer under a budget of tokens, where neither its ask nor the nodes' contexts
/// limit it.
const USUAL_ANSWER: u64 = 1024;
/// How many bytes of messages may be under way at a time, not counting the last assignment.
const MOST_UNDER_WAY: usize = 64 << 20;
/// The longest time of an assignment whose plan has no limit.
const LONGEST: Duration = Duration::from_hours(24);

impl PlanRun {
    /// Assigns what has its turn, as far as the budgets allow.
    pub(super) fn fill(&mut self) {
        while self.running.len() < self.plan.side_by_side as usize
            && self.bytes_under_way() <= MOST_UNDER_WAY
            && let Some(turn) = self.turns.pop_front()
        {
            if self.exhausted.is_some() || !matches!(self.phase, Phase::Working) {
                self.turns.clear();
                return;
            }
            match self.assignment(turn) {
                Ok(assignment) => self.actions.push_back(Action::Assign(Box::new(assignment))),
                Err(Refusal::Plan(error)) => {
                    self.exhausted = Some(error);
                    self.turns.clear();
                }
                Err(Refusal::Unit(error)) => {
                    let unit = turn.unit;
                    self.turns.retain(|turn| turn.unit != unit);
                    self.withdraw_unit(unit);
                    self.unit_failed(unit, error);
                    self.open_steps();
                }
            }
        }
    }

    fn bytes_under_way(&self) -> usize {
        self.running.iter().map(|number| self.tried[number.0 as usize].bytes).sum()
    }

    fn assignment(&mut self, turn: Turn) -> Result<Assignment, Refusal> {
        let plan = Arc::clone(&self.plan);
        let ask = self.units[turn.unit].ask(&plan);
        let messages = self.messages(turn.unit, ask).map_err(Refusal::unusable)?;
        let (max_tokens, reserved) = self.reserve(turn.unit, ask, &messages)?;
        let unit = &self.units[turn.unit];
        let streams = self.streams(turn);
        let assignment = Assignment {
            number: self.next_number(),
            unit: unit.label.clone(),
            replica: turn.replica,
            model: self.model(turn.unit, ask),
            messages,
            params: ask.params.clone(),
            max_tokens,
            abilities: ask.abilities,
            dataset: ask.dataset.clone(),
            nodes: ask.nodes.clone(),
            exclude: unit.exclude.clone(),
            apart: turn.replica.map(|_| u32::try_from(turn.unit).unwrap_or(u32::MAX)),
            time_limit: self.time_left(unit.step),
            streams,
            undo: false,
        };
        self.note(turn.unit, &assignment, reserved);
        Ok(assignment)
    }

    /// Keeps count of an assignment that is made now.
    pub(super) fn note(&mut self, unit: usize, assignment: &Assignment, reserved: u64) {
        let now = self.clock.now();
        self.tried.push(Tried {
            unit,
            replica: assignment.replica,
            model: assignment.model.clone(),
            placed: Placed::default(),
            bytes: assignment.messages.iter().map(size).sum(),
            began: now,
            reserved,
            streams: assignment.streams,
            undo: assignment.undo,
        });
        self.running.insert(assignment.number);
        if !assignment.undo {
            self.units[unit].began.get_or_insert(now);
            self.units[unit].state = UnitState::Running;
        }
    }

    pub(super) fn next_number(&self) -> Number {
        Number(u32::try_from(self.tried.len()).unwrap_or(u32::MAX))
    }

    fn model(&self, unit: usize, ask: &Ask) -> ModelName {
        let unit = &self.units[unit];
        let fallback = &self.plan.steps[unit.step].on_failure.fallback;
        unit.model
            .checked_sub(1)
            .and_then(|place| fallback.get(place))
            .unwrap_or(&ask.model)
            .clone()
    }

    /// Returns whether the text of a turn is the plan's answer, as it comes.
    fn streams(&self, turn: Turn) -> bool {
        let unit = &self.units[turn.unit];
        let step = &self.plan.steps[unit.step];
        if step.name != self.plan.answer || turn.replica.is_some() {
            return false;
        }
        match step.work {
            Work::Ask(_) => true,
            Work::Fold { .. } => self.is_last_merge(turn.unit),
            _ => false,
        }
    }

    fn messages(&self, unit: usize, ask: &Ask) -> Result<Vec<Value>, String> {
        let unit = &self.units[unit];
        let ballots: Vec<_> = unit.ballots.iter().enumerate().collect();
        let answers = ballots
            .iter()
            .map(|(place, (_, output))| format!("[{}] {}", place + 1, output.text))
            .collect::<Vec<_>>()
            .join("\n\n");
        let item = if unit.merging {
            Some(answers.as_str())
        } else {
            unit.item.as_ref().map(|item| item.text.as_str())
        };
        let output = |name: &str| {
            let place = self.plan.steps.iter().position(|step| step.name.as_str() == name)?;
            Some(self.output(place).text)
        };
        let scope = Scope {
            input: &self.plan.input,
            item,
            part: unit.part,
            parts: unit.parts,
            source: unit.item.as_ref().and_then(|item| item.source),
            output: &output,
        };
        written(ask, &scope)
    }

    /// Sets tokens aside for an assignment; returns its own limit and what was set aside.
    fn reserve(
        &mut self,
        unit: usize,
        ask: &Ask,
        messages: &[Value],
    ) -> Result<(Option<u32>, u64), Refusal> {
        let step = self.units[unit].step;
        let (own, all) = (self.plan.steps[step].budget, self.plan.budget);
        let (own_spent, all_spent) = (self.steps[step].spent, self.spent);
        if !all.allows_assignment(all_spent) || self.tried.len() >= Plan::MAX_ASSIGNMENTS {
            return Err(Refusal::Plan(used_up("assignments")));
        }
        if !own.allows_assignment(own_spent) {
            return Err(Refusal::Unit(used_up("assignments")));
        }
        let (all_left, own_left) = (all.tokens_left(all_spent), own.tokens_left(own_spent));
        if all_left.or(own_left).is_none() {
            self.spent.reserve(0);
            self.steps[step].spent.reserve(0);
            return Ok((ask.max_tokens, 0));
        }
        let prompt: u64 = messages.iter().map(|message| u64::from(message_tokens(message))).sum();
        let prompt = prompt + params_tokens(ask);
        let mut max_tokens = ask.max_tokens;
        // Others of the same step wait for their share.
        let waiting = self.turns.iter().filter(|turn| self.units[turn.unit].step == step).count();
        for (left, refusal) in [
            (all_left, Refusal::Plan as fn(StepError) -> Refusal),
            (own_left, Refusal::Unit as fn(StepError) -> Refusal),
        ] {
            let Some(left) = left else { continue };
            let room = left.saturating_sub(prompt);
            if room == 0 {
                return Err(refusal(used_up("tokens")));
            }
            let share = (left / (waiting as u64 + 1)).saturating_sub(prompt);
            let fits = self
                .plan
                .context_tokens
                .map_or(USUAL_ANSWER, |context| u64::from(context).saturating_sub(prompt));
            let room = if max_tokens.is_some() { room } else { share.min(fits).max(1) };
            let room = u32::try_from(room).unwrap_or(u32::MAX);
            max_tokens = Some(max_tokens.map_or(room, |wanted| wanted.min(room)));
        }
        let reserved = prompt + u64::from(max_tokens.unwrap_or(0));
        self.spent.reserve(reserved);
        self.steps[step].spent.reserve(reserved);
        Ok((max_tokens, reserved))
    }

    pub(super) fn time_left(&self, step: usize) -> Duration {
        let now = self.clock.now();
        let own = self.steps[step].began.and_then(|began| self.plan.steps[step].budget.due(began));
        let all = self.clock.due(self.plan.budget);
        own.into_iter().chain(all).min().map_or(LONGEST, |due| due.saturating_sub(now))
    }

    /// Ends what has no time left.
    pub(super) fn run_out(&mut self) {
        let now = self.clock.now();
        if self.clock.due(self.plan.budget).is_some_and(|due| due <= now) {
            return self.end_partial(used_up("seconds"));
        }
        let late = |step: &usize| {
            let run = &self.steps[*step];
            let due = run.began.and_then(|began| self.plan.steps[*step].budget.due(began));
            run.state == StepState::Open && due.is_some_and(|due| due <= now)
        };
        let Some(step) = (0..self.steps.len()).find(late) else { return };
        self.turns.retain(|turn| self.units[turn.unit].step != step);
        for unit in self.steps[step].units.clone() {
            let state = self.units[unit].state;
            if !matches!(state, UnitState::Waiting | UnitState::Running | UnitState::Review) {
                continue;
            }
            self.withdraw_unit(unit);
            self.unit_failed(unit, used_up("seconds"));
            if !matches!(self.phase, Phase::Working) {
                return;
            }
        }
    }

    /// Gives up what runs of a unit.
    pub(super) fn withdraw_unit(&mut self, unit: usize) {
        let of_unit = |number: &&Number| self.tried[number.0 as usize].unit == unit;
        let numbers: Vec<_> = self.running.iter().filter(of_unit).copied().collect();
        for number in numbers {
            self.running.remove(&number);
            self.actions.push_back(Action::Withdraw(number));
        }
    }

    /// Records the end of an assignment.
    pub(super) fn ended(
        &mut self,
        number: Number,
        placed: Placed,
        result: Result<Output, StepError>,
    ) {
        if !self.running.remove(&number) {
            return;
        }
        let tried = &mut self.tried[number.0 as usize];
        tried.placed = placed.clone();
        let (unit, reserved, undo) = (tried.unit, tried.reserved, tried.undo);
        let (replica, streams) = (tried.replica, tried.streams);
        let took = self.clock.now().saturating_sub(tried.began);
        let label = self.units[unit].label.clone();
        match &result {
            Ok(output) => {
                self.units[unit].usage = self.units[unit].usage.plus(output.usage);
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                let (placed, usage) = (placed.clone(), output.usage);
                self.tell(super::Progress::Answered {
                    unit: label,
                    number,
                    placed,
                    took_ms,
                    usage,
                });
            }
            Err(error) => {
                let (placed, error) = (placed.clone(), error.to_string());
                self.tell(super::Progress::Failed { unit: label, number, placed, error });
            }
        }
        if undo {
            return self.undone(unit, result.is_ok());
        }
        self.settle_spent(unit, reserved, &placed, &result);
        match (result, replica) {
            (Ok(output), None) => self.unit_done(unit, output),
            (Ok(output), Some(_)) => {
                self.units[unit].ballots.push((placed, output));
                self.weigh(unit);
            }
            (Err(error), _) => {
                // Followers have a part of the answer, which another one would not go on from.
                let begun =
                    streams && matches!(&error, StepError::Partial { text } if !text.is_empty());
                self.try_again(Turn { unit, replica }, placed.node, error, begun);
            }
        }
    }

    /// Replaces what was set aside for an assignment by what it used.
    fn settle_spent(
        &mut self,
        unit: usize,
        reserved: u64,
        placed: &Placed,
        result: &Result<Output, StepError>,
    ) {
        let used = match result {
            Ok(Output { usage, .. }) if usage.total() > 0 => u64::from(usage.total()),
            // What no node took has used nothing; of others it is not known.
            Err(_) if placed.node.is_none() => 0,
            _ => reserved,
        };
        let step = self.units[unit].step;
        if reserved > 0 {
            self.spent.settle(reserved, used);
            self.steps[step].spent.settle(reserved, used);
        }
    }

    /// Tries a unit again that has failed, elsewhere or with another model, or lets it fail.
    fn try_again(&mut self, turn: Turn, node: Option<NodeId>, error: StepError, begun: bool) {
        let Turn { unit, replica } = turn;
        let fallbacks = self.plan.steps[self.units[unit].step].on_failure.fallback.len();
        let retries = self.plan.steps[self.units[unit].step].on_failure.retries;
        let failed = &mut self.units[unit];
        if !begun && failed.retries > 0 && is_worth_another_node(&error) {
            failed.retries -= 1;
            failed.exclude.extend(node);
            return self.turns.push_back(turn);
        }
        if replica.is_some() {
            failed.failed += 1;
            failed.error = Some(error);
            return self.weigh(unit);
        }
        if !begun && failed.model < fallbacks && !matches!(error, StepError::Budget { .. }) {
            failed.model += 1;
            failed.retries = retries;
            failed.exclude.clear();
            return self.turns.push_back(turn);
        }
        self.unit_failed(unit, error);
    }
}

/// Why an assignment is not made.
enum Refusal {
    /// The plan may use no more.
    Plan(StepError),
    /// This unit cannot be asked.
    Unit(StepError),
}

impl Refusal {
    fn unusable(what: String) -> Self {
        Self::Unit(StepError::Unusable { what })
    }
}

impl Unit {
    /// Returns what the unit asks now.
    fn ask<'a>(&self, plan: &'a Plan) -> &'a Ask {
        let planned = match &plan.steps[self.step].work {
            Work::Ask(ask) | Work::Each { ask, .. } | Work::Fold { ask, .. } => ask,
            Work::Join { .. } | Work::Review { .. } => unreachable!("only asks have turns"),
        };
        match &planned.replicas {
            Some(replicas) if self.merging => replicas.synthesis.as_ref().unwrap_or(planned),
            _ => planned,
        }
    }
}

impl Assignment {
    /// Returns the chat request as JSON, for a node to carry out.
    pub fn body(&self, stream: bool) -> Vec<u8> {
        let mut body = self.params.clone();
        body.insert("model".to_owned(), self.model.as_str().into());
        body.insert("messages".to_owned(), self.messages.clone().into());
        body.insert("stream".to_owned(), stream.into());
        if let Some(tokens) = self.max_tokens {
            body.insert("max_tokens".to_owned(), tokens.into());
        }
        if let Some(Dataset { name, key }) = &self.dataset {
            let mut dataset = json!({ "name": name });
            if let Some(key) = key {
                dataset["key"] = key.as_str().into();
            }
            body.insert("iris_dataset".to_owned(), dataset);
        }
        serde_json::to_vec(&body).expect("JSON values have a JSON form")
    }

    /// Returns an estimate of the prompt's length.
    pub fn prompt_tokens(&self) -> u32 {
        self.messages.iter().map(message_tokens).fold(0, u32::saturating_add)
    }
}

/// Writes the messages of an ask.
pub(super) fn written(ask: &Ask, scope: &Scope<'_>) -> Result<Vec<Value>, String> {
    let mut messages = Vec::with_capacity(ask.history.len() + 2);
    if let Some(system) = &ask.system {
        messages.push(json!({ "role": "system", "content": system.render(scope)? }));
    }
    messages.extend(ask.history.iter().cloned());
    if let Some(prompt) = &ask.prompt {
        messages.push(json!({ "role": "user", "content": prompt.render(scope)? }));
    }
    Ok(messages)
}

/// Estimates what a model's server adds to the prompt for the members of a request.
fn params_tokens(ask: &Ask) -> u64 {
    let added = ["tools", "functions", "response_format"];
    let added = added.iter().filter_map(|name| ask.params.get(*name));
    added.map(|value| u64::from(tokens(&value.to_string()))).sum()
}

/// Returns about how many bytes a message has.
fn size(message: &Value) -> usize {
    match message {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum(),
        _ => size_of::<Value>(),
    }
}

/// Estimates a message's tokens, those of its frame included.
fn message_tokens(message: &Value) -> u32 {
    const FRAME: u32 = 8;
    let content = match &message["content"] {
        Value::String(text) => tokens(text),
        other => tokens(&other.to_string()),
    };
    content.saturating_add(FRAME)
}

/// Returns whether another node might do what one has failed at.
fn is_worth_another_node(error: &StepError) -> bool {
    match error {
        StepError::Task { error } => !matches!(error, TaskError::Rejected { .. }),
        StepError::Partial { .. } | StepError::Unusable { .. } => true,
        _ => false,
    }
}
