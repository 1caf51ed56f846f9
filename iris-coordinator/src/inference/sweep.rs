//! Taking up what nobody drives, and deleting what is old.

use futures::StreamExt;
use iris_core::Timestamp;
use iris_core::store::{Batch, Key, Record, StoreError};

use super::Inference;
use super::record::{IDEMPOTENCY, INFERENCE, IdempotencyRecord, InferenceRecord};
use crate::journal::CommitError;

/// How many old records are deleted in one commit.
const DELETED_TOGETHER: usize = 256;

impl Inference {
    /// Takes up every task that is not over and that nobody drives.
    ///
    /// That is all of them when the coordinator starts, and later those whose acceptance the
    /// store reported as failed and applied after all.
    pub(crate) async fn resume(&self) -> Result<(), StoreError> {
        let mut records = self.shared.store.scan(Key::all(INFERENCE));
        while let Some(record) = records.next().await {
            let Record { key, version, value } = record?;
            let Ok(id) = key.id().parse() else { continue };
            let record: InferenceRecord = value.decode()?;
            self.shared.latest.add(record.account, record.created, id);
            let driven = self.shared.unfinished().contains_key(&id);
            if !record.state.is_terminal() && !driven {
                drop(self.shared.start(id, record, version, None));
            }
        }
        Ok(())
    }

    /// Deletes results whose retention is over, and takes up tasks that nobody drives.
    pub(crate) async fn sweep(&self) {
        if let Err(error) = self.delete_old().await {
            tracing::warn!(%error, "old results could not be deleted");
        }
        if let Err(error) = self.resume().await {
            tracing::warn!(%error, "the durable tasks could not be looked through");
        }
    }

    async fn delete_old(&self) -> Result<(), CommitError> {
        let now = self.shared.dispatch.clock.calendar();
        let over = |since: Timestamp| now.saturating_since(since) >= self.shared.retention;
        let mut batch = Batch::new();
        let mut records = self.shared.store.scan(Key::all(INFERENCE));
        while let Some(record) = records.next().await {
            let record = record?;
            let decoded = record.value.decode::<InferenceRecord>();
            let Ok(decoded) = decoded else { continue };
            if decoded.finished.is_some_and(over) {
                if let Ok(id) = record.key.id().parse() {
                    self.shared.latest.forget(decoded.account, decoded.created, id);
                }
                batch = batch.delete(record.key);
            }
        }
        let mut records = self.shared.store.scan(Key::all(IDEMPOTENCY));
        while let Some(record) = records.next().await {
            let record = record?;
            let decoded = record.value.decode::<IdempotencyRecord>();
            if decoded.is_ok_and(|decoded| over(decoded.created)) {
                batch = batch.delete(record.key);
            }
        }
        let batch = self.shared.forget_stray_events(batch).await?;
        for writes in batch.writes.chunks(DELETED_TOGETHER) {
            self.shared.dispatch.journal.commit(Batch { writes: writes.to_vec() }).await?;
        }
        Ok(())
    }
}
