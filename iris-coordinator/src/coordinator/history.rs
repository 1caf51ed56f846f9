//! The tasks that are over, and their receipts.

use futures::{StreamExt, TryStreamExt};
use iris_core::AccountId;
use iris_core::store::StoreError;
use iris_protocol::rest;

use super::Coordinator;
use crate::dispatch::ReceiptRecord;
use crate::history::{self, HistoryCursor};

/// How many receipts are read at a time.
const RECEIPTS_AT_A_TIME: usize = 16;

impl Coordinator {
    /// Returns at most `limit` tasks of `account` that are over, the latest first, beginning after
    /// `after`.
    pub async fn history(
        &self,
        account: &AccountId,
        after: Option<&HistoryCursor>,
        limit: usize,
    ) -> Result<rest::HistoryPage, StoreError> {
        let histories = &self.inner.dispatch.histories;
        history::page(&*self.inner.store, histories, account, after, limit).await
    }

    /// Returns the nodes' receipts for those tasks of `account` that [`history`](Self::history)
    /// returns for the same page: sealed ones have receipts, as far as their nodes gave them.
    pub async fn receipts(
        &self,
        account: &AccountId,
        after: Option<&HistoryCursor>,
        limit: usize,
    ) -> Result<rest::ReceiptPage, StoreError> {
        let store = &*self.inner.store;
        let page = self.history(account, after, limit).await?;
        let sealed = page.tasks.into_iter().filter(|task| task.sealed);
        let receipts = futures::stream::iter(sealed)
            .map(|task| ReceiptRecord::of(store, task.task))
            .buffered(RECEIPTS_AT_A_TIME)
            .try_filter_map(|receipt| async move { Ok(receipt) });
        Ok(rest::ReceiptPage { receipts: receipts.try_collect().await?, next: page.next })
    }
}
