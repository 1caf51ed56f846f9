//! How a durable task stands, told to its account.

use std::sync::Arc;

use iris_core::plan::{Plan, Progress};
use iris_core::task::TaskState;
use iris_core::{NodeId, TaskId, Timestamp};
use iris_protocol::rest;

use super::live::Live;
use super::record::{InferenceRecord, PlanReport, explained, key};
use super::{Shared, explain, live, single};

impl Shared {
    /// Returns a task as its followers see it, and how far it is.
    fn standing(
        &self,
        id: TaskId,
        record: &InferenceRecord,
    ) -> (Option<Arc<Live>>, Option<NodeId>, TaskState) {
        let live = self.live(&id).filter(|_| !record.state.is_terminal());
        let node = live.as_ref().and_then(|live| live.node());
        let state = match node {
            Some(_) => TaskState::Running,
            None if live.is_some() && record.mode.is_some() => TaskState::Planned,
            None => record.state,
        };
        (live, record.node.or(node), state)
    }

    pub(super) fn summary(&self, id: TaskId, record: &InferenceRecord) -> rest::TaskSummary {
        let (live, node, status) = self.standing(id, record);
        rest::TaskSummary {
            id,
            status,
            created: record.created.as_secs(),
            finished: record.finished.map(Timestamp::as_secs),
            model: record.model.clone(),
            node,
            mode: record.mode,
            waits: live.is_some_and(|live| live.waits()),
        }
    }

    pub(super) fn status(&self, id: TaskId, record: &InferenceRecord) -> rest::InferenceStatus {
        let place = key(&id);
        let (live, node, status) = self.standing(id, record);
        let error = record.error.as_ref().and_then(|error| error.read(&self.key, &place));
        let mut status = rest::InferenceStatus {
            id,
            status,
            created: record.created.as_secs(),
            finished: record.finished.map(Timestamp::as_secs),
            model: record.model.clone(),
            node,
            result: record.result.as_ref().and_then(|result| result.read(&self.key, &place)),
            error: error.as_ref().map(explained),
            mode: record.mode,
            steps: Vec::new(),
            usage: None,
            partial: None,
            reviews: Vec::new(),
            place_in_line: live.as_ref().and_then(|_| self.dispatch.place_in_line(&id)),
        };
        if let Some(report) = self.report(id, record) {
            report.describe(&mut status);
        } else if let Some(live) = live.filter(|_| record.mode.is_some()) {
            live.describe(&mut status);
        }
        status
    }

    /// Returns what came of a plan that is over.
    fn report(&self, id: TaskId, record: &InferenceRecord) -> Option<PlanReport> {
        record.report.as_ref()?.read(&self.key, &key(&id))
    }

    /// Returns a plan as a person reads it, and its units as they stand.
    pub(super) fn outline(
        &self,
        id: TaskId,
        record: &InferenceRecord,
    ) -> Option<(rest::Outline, Vec<iris_core::plan::UnitReport>)> {
        if let Some(report) = self.report(id, record) {
            return Some((report.outline, report.units));
        }
        let plan: Plan = record.plan.as_ref()?.read(&self.key, &key(&id))?;
        let units = self.live(&id).map(|live| live.units()).unwrap_or_default();
        Some((explain::outline(&plan), units))
    }

    /// Tells of a task that is over what is still known.
    pub(super) fn retold(&self, id: TaskId, record: &InferenceRecord) -> Vec<Progress> {
        if let Some(report) = self.report(id, record) {
            let end = Progress::Ended(report.end);
            return live::retold(&report.units).chain([end]).collect();
        }
        if !record.state.is_terminal() {
            return Vec::new();
        }
        let place = key(&id);
        let result = record.result.as_ref().and_then(|result| result.read(&self.key, &place));
        let error = record.error.as_ref().and_then(|error| error.read(&self.key, &place));
        vec![Progress::Ended(single::end(record.state, result, error))]
    }
}
