//! What a plan has nodes do, and each try at it.

use std::time::Duration;

use super::super::{Item, Output, Placed, StepError, UnitReport, UnitState};
use super::PlanRun;
use crate::backend::Usage;
use crate::id::NodeId;
use crate::model::ModelName;

/// One question of a plan, or one thing that it does without asking.
#[derive(Debug)]
pub(super) struct Unit {
    /// The step that it belongs to.
    pub(super) step: usize,
    pub(super) label: String,
    pub(super) item: Option<Item>,
    /// Which of `parts` it is, from 1.
    pub(super) part: usize,
    pub(super) parts: usize,
    pub(super) state: UnitState,
    pub(super) output: Option<Output>,
    pub(super) error: Option<StepError>,
    pub(super) dissent: Vec<NodeId>,
    /// What replicas have answered.
    pub(super) ballots: Vec<(Placed, Output)>,
    /// How many replicas have failed.
    pub(super) failed: u32,
    /// Whether the answers of replicas are being merged.
    pub(super) merging: bool,
    /// How often it may still be tried with the model.
    pub(super) retries: u32,
    /// The model in use: 0 is the step's own, then the fallbacks in order.
    pub(super) model: usize,
    /// Nodes that failed at it.
    pub(super) exclude: Vec<NodeId>,
    pub(super) began: Option<Duration>,
    pub(super) took: Option<Duration>,
    pub(super) usage: Usage,
}

/// A place in the line of what is to be assigned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) unit: usize,
    pub(super) replica: Option<u32>,
}

/// An assignment that was made.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) unit: usize,
    pub(super) replica: Option<u32>,
    pub(super) model: ModelName,
    pub(super) placed: Placed,
    /// About how many bytes its messages have.
    pub(super) bytes: usize,
    pub(super) began: Duration,
    /// The tokens that were set aside for it.
    pub(super) reserved: u64,
    pub(super) streams: bool,
    pub(super) undo: bool,
}

impl Unit {
    pub(super) fn new(step: usize, label: String, retries: u32) -> Self {
        Self {
            step,
            label,
            item: None,
            part: 1,
            parts: 1,
            state: UnitState::Waiting,
            output: None,
            error: None,
            dissent: Vec::new(),
            ballots: Vec::new(),
            failed: 0,
            merging: false,
            retries,
            model: 0,
            exclude: Vec::new(),
            began: None,
            took: None,
            usage: Usage::default(),
        }
    }

    /// Returns the unit as it stands.
    pub(super) fn report(&self, place: usize, tried: &[Tried]) -> UnitReport {
        let own = || tried.iter().filter(|tried| tried.unit == place && !tried.undo);
        UnitReport {
            unit: self.label.clone(),
            state: self.state,
            model: own().next_back().map(|tried| tried.model.clone()),
            placed: own().map(|tried| tried.placed.clone()).collect(),
            assignments: u32::try_from(own().count()).unwrap_or(u32::MAX),
            took_ms: self.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            usage: self.usage,
            source: self.item.as_ref().and_then(|item| item.source),
            text: self.output.as_ref().map(|output| output.text.clone()),
            dissent: self.dissent.clone(),
            error: self.error.clone(),
        }
    }
}

impl PlanRun {
    pub(super) fn add_unit(&mut self, unit: Unit) -> usize {
        let place = self.units.len();
        self.steps[unit.step].units.push(place);
        let (label, source) = (unit.label.clone(), unit.item.as_ref().and_then(|i| i.source));
        self.units.push(unit);
        self.tell(super::Progress::Added { unit: label, source });
        place
    }
}
