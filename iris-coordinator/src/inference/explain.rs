//! Why a divided task was carried out as it was.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iris_core::plan::{Plan, UnitReport};
use iris_core::{AccountId, TaskId};
use iris_protocol::rest;

use crate::dispatch::Dispatch;

/// How many plans are known that end with their callers, the latest ones.
const PLANS: usize = 1024;
/// How many of their steps are known, the latest ones.
const STEPS: usize = 4096;

/// Plans that end with their callers, of which nothing is written down.
#[derive(Debug, Default)]
pub(super) struct Passed(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    plans: VecDeque<(TaskId, AccountId, rest::Outline)>,
    /// The plan, the unit, and the task that was made of it.
    steps: VecDeque<(TaskId, String, TaskId)>,
}

impl Passed {
    /// Takes a plan in that begins.
    pub(super) fn begun(&self, plan: TaskId, account: AccountId, outline: rest::Outline) {
        let mut latest = self.latest();
        if latest.plans.len() == PLANS {
            latest.plans.pop_front();
        }
        latest.plans.push_back((plan, account, outline));
    }

    /// Takes in that a node took a step of a plan.
    pub(super) fn started(&self, plan: TaskId, unit: String, step: TaskId) {
        let mut latest = self.latest();
        if latest.steps.len() == STEPS {
            latest.steps.pop_front();
        }
        latest.steps.push_back((plan, unit, step));
    }

    /// Returns what is known of a plan of `account`.
    pub(super) fn find(
        &self,
        plan: &TaskId,
        account: &AccountId,
    ) -> Option<(rest::Outline, Vec<(String, TaskId)>)> {
        let latest = self.latest();
        let is_meant = |(id, owner, _): &&(TaskId, AccountId, _)| id == plan && owner == account;
        let (_, _, outline) = latest.plans.iter().find(is_meant)?;
        let steps = latest.steps.iter().filter(|(of, ..)| of == plan);
        Some((outline.clone(), steps.map(|(_, unit, step)| (unit.clone(), *step)).collect()))
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a plan as a person reads it.
pub(super) fn outline(plan: &Plan) -> rest::Outline {
    rest::Outline { text: plan.as_text(), mermaid: plan.as_mermaid(), steps: plan.outline() }
}

/// Returns the units of a plan with the tasks that were made of them.
pub(super) fn tasks(units: &[UnitReport]) -> Vec<(String, TaskId)> {
    let tasks = units.iter().flat_map(|report| {
        report.placed.iter().filter_map(|placed| Some((report.unit.clone(), placed.task?)))
    });
    tasks.collect()
}

/// Returns why tasks of a plan went where they went, as far as that is still known.
pub(super) fn steps(
    dispatch: &Dispatch,
    account: &AccountId,
    tasks: Vec<(String, TaskId)>,
) -> Vec<rest::StepExplanation> {
    let explained = tasks.into_iter().filter_map(|(unit, task)| {
        let choices = dispatch.explanations(&task, account);
        let explanation = Box::new(rest::Explanation::new(task, &choices)?);
        Some(rest::StepExplanation { unit, explanation })
    });
    explained.collect()
}
