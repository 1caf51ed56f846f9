//! Drives a durable task from its acceptance to its end.

use std::sync::Arc;

use iris_core::TaskId;
use iris_core::plan::Progress;
use iris_core::store::{Batch, Document, StoreError, Version};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::asking::ASK_AGAIN;
use super::live::Live;
use super::plan::Reins;
use super::record::{InferenceRecord, Sealed, key};
use super::single::Ending;
use super::{Shared, Unfinished};
use crate::journal::CommitError;
use crate::settlement::Settlement;

/// How many decisions may be on their way to one plan.
const DECISIONS: usize = 4;

impl Shared {
    /// Writes a task down, where that is still to be done, and drives it to its end, in a task of
    /// its own. Resolves when it is written down.
    pub(super) fn start(
        self: &Arc<Self>,
        id: TaskId,
        record: InferenceRecord,
        version: Version,
        acceptance: Option<Batch>,
    ) -> oneshot::Receiver<Result<(), CommitError>> {
        let (cancel, over) = (CancellationToken::new(), CancellationToken::new());
        let (live, (decide, decisions)) = (Live::new(), mpsc::channel(DECISIONS));
        let task = Unfinished {
            bytes: record.held(),
            cancel: cancel.clone(),
            over: over.clone(),
            live: Arc::clone(&live),
            decisions: decide,
        };
        self.unfinished().insert(id, task);
        let (account, created) = (record.account, record.created);
        self.latest.add(account, created, id);
        let (accepted, acceptance_of_caller) = oneshot::channel();
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let _over = over.drop_guard();
            let written = match acceptance {
                Some(batch) => shared.accept(id, version, batch).await,
                None => shared.still_at(id, version).await,
            };
            let go_on = written.is_ok();
            if !go_on {
                shared.latest.forget(account, created, id);
            }
            // The caller may have left; the task stays.
            let _ = accepted.send(written);
            if go_on {
                let reins = Reins { live: Arc::clone(&live), cancel, decisions };
                shared.carry_through(id, record, version, reins).await;
            }
            shared.unfinished().remove(&id);
            live.close();
        });
        acceptance_of_caller
    }

    /// Carries a task to its end, unless the coordinator stops before.
    async fn carry_through(
        &self,
        id: TaskId,
        record: InferenceRecord,
        version: Version,
        reins: Reins,
    ) {
        let live = Arc::clone(&reins.live);
        let ended = if record.plan.is_some() {
            self.carry_out(id, &record, reins).await.map(|ending| (ending, None))
        } else {
            self.ask(id, &record, &live, &reins.cancel).await
        };
        let Some((ending, settlement)) = ended else { return };
        let end = ending.as_end();
        if self.end(id, record, version, ending, settlement).await {
            live.tell(None, &Progress::Ended(end));
        }
    }

    /// Writes a new task down. A store may have applied what it did not live to confirm, and then
    /// refuses it the second time; so what stands there decides.
    async fn accept(&self, id: TaskId, version: Version, batch: Batch) -> Result<(), CommitError> {
        match self.dispatch.journal.commit(batch).await {
            Err(error @ CommitError::Store(_)) => {
                self.still_at(id, version).await.map_err(|_| error)
            }
            written => written,
        }
    }

    /// Checks that nobody has ended a task since its record was read.
    async fn still_at(&self, id: TaskId, version: Version) -> Result<(), CommitError> {
        match self.store.get(key(&id)).await? {
            Some(record) if record.version == version => Ok(()),
            _ => Err(StoreError::Conflict(key(&id)).into()),
        }
    }

    /// Writes the end of a task down together with its settlement, however long that takes; false
    /// when the coordinator stops before.
    async fn end(
        &self,
        id: TaskId,
        record: InferenceRecord,
        version: Version,
        ended: Ending,
        settlement: Option<Settlement>,
    ) -> bool {
        let (place, divided) = (key(&id), record.plan.is_some());
        let record = InferenceRecord {
            node: ended.node,
            result: ended.result.map(|result| Sealed::json(&self.key, &place, &result)),
            error: ended.error.map(|error| Sealed::json(&self.key, &place, &error)),
            report: ended.report.map(|report| Sealed::json(&self.key, &place, &report)),
            ..record.over(ended.state, self.dispatch.clock.calendar())
        };
        let mut batch = Batch::new().replace(place, version, Document::encode(&record));
        if let Some(settlement) = &settlement {
            batch = self.dispatch.histories.write(settlement, batch);
        }
        if divided {
            let Some(forgetting) = self.forget_events(id, batch).await else { return false };
            batch = forgetting;
        }
        while let Err(error) = self.dispatch.journal.commit(batch.clone()).await {
            tracing::error!(%error, task = %id, "the end of a task could not be written down");
            match error {
                // An earlier attempt, reported as failed, was applied after all.
                CommitError::Store(StoreError::Conflict(_)) => break,
                // The task is left to the next start.
                CommitError::Closed => return false,
                CommitError::Store(_) => {}
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        if let Some(settlement) = &settlement {
            self.dispatch.settled(settlement);
        }
        true
    }
}
