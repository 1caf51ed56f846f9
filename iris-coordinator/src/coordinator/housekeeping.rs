//! What a coordinator does now and then, for as long as it lives.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use iris_core::store::Batch;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Coordinator, Inner};
use crate::deeds::Deeds;
use crate::dispatch::{Dispatch, Stats};
use crate::promises;

/// How often what changes slowly is written down, and what is too old is deleted.
const HOUSEKEEPING: Duration = Duration::from_mins(1);
/// How often what nodes did is folded for the next start, in minutes.
const DAY: u64 = 24 * 60;
/// How many of such records are written in one commit.
const WRITTEN_TOGETHER: usize = 256;

impl Coordinator {
    pub(super) fn begin_housekeeping(&self) {
        let (inner, stop) = (&self.inner, &self.inner.housekeeping);
        let dispatch = || Arc::downgrade(&inner.dispatch);
        tokio::spawn(keep_house(Arc::downgrade(inner), stop.clone()));
        tokio::spawn(promises::watch(dispatch(), stop.clone()));
        tokio::spawn(fold_histories(dispatch(), inner.dispatch.histories.many(), stop.clone()));
    }
}

impl Inner {
    /// Writes down what follows from what nodes did, so that the next start is a short one.
    async fn write_deeds(&self) {
        let empty = self.empty.as_ref();
        let empty = empty
            .and_then(|empty| empty.lock().unwrap_or_else(PoisonError::into_inner).resumed(None));
        let Some(empty) = empty else { return };
        let now = self.dispatch.clock.calendar();
        if let Err(error) = Deeds::write(&*self.store, empty, self.standing, now).await {
            tracing::error!(%error, "what nodes did is not folded");
        }
    }
}

/// Writes and deletes what is due, for as long as the coordinator lives.
async fn keep_house(coordinator: Weak<Inner>, stop: CancellationToken) {
    for minute in 1_u64.. {
        if stop.run_until_cancelled(tokio::time::sleep(HOUSEKEEPING)).await.is_none() {
            return;
        }
        let Some(inner) = coordinator.upgrade() else { return };
        inner.dispatch.keep_models(false);
        inner.dispatch.keep_promises();
        inner.cases.carry_out_all().await;
        inner.dispatch.end_minute();
        if minute.is_multiple_of(60) {
            inner.dispatch.refresh_standings();
        }
        if minute.is_multiple_of(DAY) {
            inner.write_deeds().await;
        }
        if minute % 60 == 1 {
            inner.cases.keep_house().await;
            inner.payouts.keep_house(&inner.accounts).await;
        }
        inner.dispatch.keep_usage().await;
        inner.inference.sweep().await;
        inner.accounts.keep_house().await;
    }
}

/// Writes the lines of histories whenever many have gathered, and now and then.
async fn fold_histories(dispatch: Weak<Dispatch>, many: Arc<Notify>, stop: CancellationToken) {
    loop {
        let gathered = tokio::time::timeout(HOUSEKEEPING, many.notified());
        if stop.run_until_cancelled(gathered).await.is_none() {
            return;
        }
        let Some(dispatch) = dispatch.upgrade() else { return };
        dispatch.fold_histories().await;
    }
}

impl Dispatch {
    pub(super) async fn fold_histories(&self) {
        if let Err(error) = self.histories.fold(&self.journal).await {
            tracing::error!(%error, "lines of histories are not written yet");
        }
    }

    /// Ends a minute of the figures that are shown over time.
    fn end_minute(&self) {
        let Stats { finished, failed, expired, completion_tokens, .. } = self.counters.stats();
        let counts = (finished, failed + expired, completion_tokens);
        let at = self.clock.calendar().as_secs();
        self.live.minutes().end(at, counts, &self.counters.took);
    }

    /// Writes down what keys have used.
    pub(super) async fn keep_usage(&self) {
        for writes in self.limits.keep().writes.chunks(WRITTEN_TOGETHER) {
            let batch = Batch { writes: writes.to_vec() };
            if let Err(error) = self.journal.record_when_free(batch).await {
                tracing::error!(%error, "what keys have used was not written down");
            }
        }
    }
}
