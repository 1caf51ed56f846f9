use iris_core::plan::Progress;
use iris_core::store::{Batch, Document, Key};
use iris_core::{ModelName, NodeId, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::dispatch::Dispatch;

/// The record type of what nodes said differently.
const EVIDENCE: &str = "evidence";

/// That nodes gave different answers to the same question: who stood with whom, and nothing of
/// what was asked or answered.
///
/// Kept under `evidence/{task}-{unit}` for as long as the books are. One such record proves
/// nothing, since honest models differ; many that name the same node may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The task that the question was a part of.
    pub task: TaskId,
    /// Which part.
    pub unit: String,
    /// The model that was asked.
    pub model: ModelName,
    /// The nodes whose answer was taken.
    pub agreed: Vec<NodeId>,
    /// The nodes that answered something else.
    pub dissent: Vec<NodeId>,
    /// When they were found to disagree.
    pub at: Timestamp,
}

impl Evidence {
    /// Returns what progress gives evidence of, if nodes disagreed.
    pub(super) fn of(
        task: TaskId,
        model: Option<ModelName>,
        progress: &Progress,
        at: Timestamp,
    ) -> Option<Self> {
        let Progress::Agreed { unit, agreed, dissent } = progress else { return None };
        if dissent.is_empty() {
            return None;
        }
        let (unit, agreed, dissent) = (unit.clone(), agreed.clone(), dissent.clone());
        Some(Self { task, unit, model: model?, agreed, dissent, at })
    }

    /// Writes it down; it may lag by one group commit, and comes before the end of its task.
    pub(super) fn write_down(&self, dispatch: &Dispatch) {
        let Self { task, unit, .. } = self;
        let Ok(key) = Key::new(EVIDENCE, format!("{task}-{unit}")) else { return };
        let batch = Batch::new().put(key, Document::encode(self));
        if let Err(error) = dispatch.journal.record_surely(batch) {
            tracing::error!(%error, "evidence was lost");
        }
    }
}
