//! What is written down of tasks and nodes, by way of the journal.

use iris_core::reward::RewardEvent;
use iris_core::store::{Batch, Document};

use super::{Dispatch, ReceiptRecord};
use crate::payouts;
use crate::settlement::Settlement;

impl Dispatch {
    /// Writes a settlement down, with the receipt of a sealed task; they may lag by one group
    /// commit.
    ///
    /// While the books cannot be written, tasks that no node worked on are left out of them: such
    /// rows have no bound, and settle nothing.
    pub(crate) fn write_down(&self, settlement: &Settlement, receipt: Option<&ReceiptRecord>) {
        if settlement.attempts.is_empty() && self.journal.is_behind() {
            return;
        }
        let mut row = self.histories.write(settlement, Batch::new());
        if let Some(receipt) = receipt {
            row = row.put(ReceiptRecord::key(&settlement.task), receipt.document());
        }
        if let Err(error) = self.journal.record_surely(row) {
            tracing::error!(%error, "a settlement was lost");
        }
    }

    /// Writes down what a node did beside its tasks, and takes it in.
    pub(crate) fn credit(&self, event: &RewardEvent, kind: &str) {
        let key = payouts::event_key(event.at, &event.node, kind);
        self.record(Batch::new().put(key, Document::encode(event)));
        self.apply(event.deed().as_slice());
    }

    /// Hands records to the journal; a journal that takes nothing is an operator's emergency.
    pub(crate) fn record(&self, batch: Batch) {
        if let Err(error) = self.journal.record(batch) {
            tracing::error!(%error, "a record was lost");
        }
    }
}
