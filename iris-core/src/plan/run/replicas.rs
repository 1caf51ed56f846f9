//! When replicas have agreed.

use std::sync::Arc;

use super::super::{
    Ballot, Group, Output, Placed, Plan, Progress, Replicas, StepError, Tally, Work, tally,
};
use super::PlanRun;
use super::unit::{Turn, Unit};
use crate::id::NodeId;

/// What an answer weighs at least and at most, in points of its node's reputation: those who have
/// lost most of theirs are still heard, and nobody weighs more than ten newcomers.
const LEAST: i64 = 10;
const MOST: i64 = 1000;

impl PlanRun {
    pub(super) fn is_weighted(&self, unit: usize) -> bool {
        self.units[unit].replicas(&self.plan).is_some_and(|replicas| replicas.weighted)
    }

    /// Ends a unit whose replicas have settled it, be it before the last of them has answered.
    pub(super) fn weigh(&mut self, unit: usize) {
        let plan = Arc::clone(&self.plan);
        let state = &self.units[unit];
        let Some(replicas) = state.replicas(&plan).filter(|_| !state.merging) else { return };
        if state.output.is_some() || state.state != super::UnitState::Running {
            return;
        }
        let (came, failed) = (count(state.ballots.len()), state.failed);
        let pending = replicas.count.saturating_sub(came + failed);
        if came + pending < replicas.quorum {
            return self.unsettled(unit, StepError::NoQuorum { came, needed: replicas.quorum });
        }
        let ballots: Vec<_> =
            state.ballots.iter().map(|ballot| ballot_of(ballot, replicas)).collect();
        let tally = tally(&replicas.agreement, &ballots);
        let came = came - count(tally.spoilt.len());
        if pending == 0 && came < replicas.quorum {
            return self.unsettled(unit, StepError::NoQuorum { came, needed: replicas.quorum });
        }
        if pending > 0 {
            let all: u64 = ballots.iter().map(|ballot| ballot.weight).sum();
            let all = all + self.pending_weight(unit, pending, replicas);
            let first = tally.groups.first().map_or(0, |group| group.weight);
            // What is still to come cannot change it any more.
            let few =
                tally.groups.first().is_none_or(|group| group.members.len() < replicas.least());
            if tally.free_text || came < replicas.quorum || first * 2 <= all || few {
                return;
            }
        }
        match elected(&tally, &ballots) {
            // Nobody agrees with itself alone, however much it weighs.
            Ok(group) if group.members.len() < replicas.least() && !tally.free_text => {
                let answers = count(tally.groups.len() + tally.spoilt.len());
                self.unsettled(unit, StepError::NoAgreement { answers });
            }
            Ok(group) => {
                let group = group.clone();
                self.agreed(unit, &group);
            }
            Err(_) if tally.free_text && replicas.synthesis.is_some() => {
                self.units[unit].merging = true;
                self.turns.push_back(Turn { unit, replica: None });
            }
            Err(error) if tally.free_text => {
                let answers = match error {
                    StepError::Tie { answers } | StepError::NoAgreement { answers } => answers,
                    _ => 0,
                };
                self.unsettled(unit, StepError::NoAgreement { answers });
            }
            Err(error) => self.unsettled(unit, error),
        }
    }

    /// Returns what the replicas that have not answered may weigh together at most.
    fn pending_weight(&self, unit: usize, pending: u32, replicas: &Replicas) -> u64 {
        let running = self.running.iter().map(|number| &self.tried[number.0 as usize]);
        let of_unit: Vec<_> = running.filter(|tried| tried.unit == unit).collect();
        let known = of_unit.iter().map(|tried| match tried.placed.points {
            Some(_) => weight(&tried.placed, replicas),
            None if replicas.weighted => MOST.unsigned_abs(),
            None => 1,
        });
        let unknown = u64::from(pending).saturating_sub(of_unit.len() as u64);
        let most = if replicas.weighted { MOST.unsigned_abs() } else { 1 };
        known.sum::<u64>() + unknown * most
    }

    fn agreed(&mut self, unit: usize, group: &Group) {
        self.end_replicas(unit);
        let state = &mut self.units[unit];
        let mut nodes: [Vec<NodeId>; 2] = [Vec::new(), Vec::new()];
        for (place, (placed, _)) in state.ballots.iter().enumerate() {
            nodes[usize::from(!group.members.contains(&place))].extend(placed.node);
        }
        let [agreed, dissent] = nodes;
        state.dissent.clone_from(&dissent);
        state.error = None;
        let output = state.ballots[group.representative].1.clone();
        let label = state.label.clone();
        self.tell(Progress::Agreed { unit: label, agreed, dissent });
        self.unit_done(unit, Output { usage: self.units[unit].usage, ..output });
    }

    fn unsettled(&mut self, unit: usize, error: StepError) {
        self.end_replicas(unit);
        self.unit_failed(unit, error);
    }

    fn end_replicas(&mut self, unit: usize) {
        self.turns.retain(|turn| turn.unit != unit);
        self.withdraw_unit(unit);
    }
}

impl Unit {
    fn replicas<'a>(&self, plan: &'a Plan) -> Option<&'a Replicas> {
        match &plan.steps[self.step].work {
            Work::Ask(ask) => ask.replicas.as_ref(),
            _ => None,
        }
    }
}

impl Replicas {
    /// Returns how many have to agree at least.
    fn least(&self) -> usize {
        self.quorum.min(2) as usize
    }
}

/// Returns the group with more than half of the weight of all answers, those counted too that are
/// not of the form that was asked for.
pub(super) fn elected<'a>(
    tally: &'a Tally,
    ballots: &[Ballot<'_>],
) -> Result<&'a Group, StepError> {
    let all: u64 = ballots.iter().map(|ballot| ballot.weight).sum();
    match &tally.groups[..] {
        [] => Err(StepError::NoQuorum { came: 0, needed: count(ballots.len()).max(1) }),
        [first, ..] if first.weight * 2 > all => Ok(first),
        [first, rest @ ..] => {
            let tied = rest.iter().filter(|group| group.weight == first.weight).count();
            if tied > 0 {
                Err(StepError::Tie { answers: count(tied + 1) })
            } else {
                Err(StepError::NoAgreement {
                    answers: count(tally.groups.len() + tally.spoilt.len()),
                })
            }
        }
    }
}

fn ballot_of<'a>((placed, output): &'a (Placed, Output), replicas: &Replicas) -> Ballot<'a> {
    Ballot { text: &output.text, weight: weight(placed, replicas) }
}

fn weight(placed: &Placed, replicas: &Replicas) -> u64 {
    if replicas.weighted {
        placed.points.unwrap_or(LEAST).clamp(LEAST, MOST).unsigned_abs()
    } else {
        1
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
