//! Why a divided task was carried out as it was.

use iris_core::plan::{Plan, UnitReport};
use iris_core::{AccountId, TaskId};
use iris_protocol::rest;

use crate::dispatch::Dispatch;

/// Returns a plan as a person reads it.
pub(super) fn outline(plan: &Plan) -> rest::Outline {
    rest::Outline { text: plan.as_text(), mermaid: plan.as_mermaid() }
}

/// Returns why the assignments of a plan went where they went, as far as that is still known.
pub(super) fn steps(
    dispatch: &Dispatch,
    account: &AccountId,
    units: &[UnitReport],
) -> Vec<rest::StepExplanation> {
    let tasks = units.iter().flat_map(|report| {
        report.placed.iter().filter_map(|placed| Some((report.unit.clone(), placed.task?)))
    });
    let explained = tasks.filter_map(|(unit, task): (String, TaskId)| {
        let choices = dispatch.explanations(&task, account);
        let explanation = Box::new(rest::Explanation::new(task, &choices)?);
        Some(rest::StepExplanation { unit, explanation })
    });
    explained.collect()
}
