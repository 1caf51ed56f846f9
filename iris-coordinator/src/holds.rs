//! Nodes that an operator holds: some finish what they have and get nothing new, others are not let
//! in. Written down, so that a restart releases nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures::TryStreamExt;
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::{NodeId, Timestamp};
use iris_protocol::rest::{HoldKind, HoldRequest, NodeHold};
use serde::{Deserialize, Serialize};

/// The record type of nodes that are held.
const HOLD: &str = "hold";
/// Longest reason, in bytes.
const MAX_REASON: usize = 256;

/// Why a node was not held or released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// No node of this id ever came.
    #[error("there is no such node")]
    NoNode,
    /// The reason is too long or cannot be printed.
    #[error("a reason has at most 256 bytes and no control or invisible characters")]
    Reason,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct HoldRecord {
    hold: HoldKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    since: Timestamp,
}

impl HoldRecord {
    fn summary(&self, node: NodeId) -> NodeHold {
        let (reason, since) = (self.reason.clone(), self.since.as_secs());
        NodeHold { node, hold: self.hold, reason, since }
    }
}

/// The nodes that are held.
#[derive(Debug)]
pub(crate) struct Holds {
    store: Arc<dyn Store>,
    held: RwLock<BTreeMap<NodeId, HoldRecord>>,
    /// Held while one is written down, so that memory and store change in the same order.
    changing: tokio::sync::Mutex<()>,
}

impl Holds {
    /// Reads what was written down.
    pub(crate) async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let records = store.scan(Key::all(HOLD)).and_then(|record| async move {
            let held = record.value.decode::<HoldRecord>()?;
            Ok(record.key.id().parse().ok().map(|node: NodeId| (node, held)))
        });
        let held = records.try_filter_map(|held| async move { Ok(held) }).try_collect().await?;
        Ok(Self { store, held: RwLock::new(held), changing: tokio::sync::Mutex::default() })
    }

    /// Returns how a node is held, if it is.
    pub(crate) fn of(&self, node: &NodeId) -> Option<NodeHold> {
        self.read().get(node).map(|held| held.summary(*node))
    }

    /// Returns in which way a node is held, if it is.
    pub(crate) fn kind(&self, node: &NodeId) -> Option<HoldKind> {
        self.read().get(node).map(|held| held.hold)
    }

    /// Returns all nodes that are held.
    pub(crate) fn all(&self) -> Vec<NodeHold> {
        self.read().iter().map(|(node, held)| held.summary(*node)).collect()
    }

    /// Holds a node from `since` on, in place of how it was held before.
    pub(crate) async fn hold(
        &self,
        node: NodeId,
        request: HoldRequest,
        since: Timestamp,
    ) -> Result<NodeHold, HoldError> {
        let HoldRequest { hold, reason } = request;
        let reason = reason.filter(|reason| !reason.is_empty());
        let is_fine = |text: &str| {
            text.len() <= MAX_REASON && !text.chars().any(iris_core::model::is_invisible)
        };
        if !reason.as_deref().is_none_or(is_fine) {
            return Err(HoldError::Reason);
        }
        let record = HoldRecord { hold, reason, since };
        let _turn = self.changing.lock().await;
        self.store.commit(Batch::new().put(key(&node), Document::encode(&record))).await?;
        let summary = record.summary(node);
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(node, record);
        Ok(summary)
    }

    /// Holds a node no longer; returns whether it was held.
    pub(crate) async fn release(&self, node: &NodeId) -> Result<bool, StoreError> {
        let _turn = self.changing.lock().await;
        if !self.read().contains_key(node) {
            return Ok(false);
        }
        self.store.commit(Batch::new().delete(key(node))).await?;
        self.held.write().unwrap_or_else(PoisonError::into_inner).remove(node);
        Ok(true)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<NodeId, HoldRecord>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(node: &NodeId) -> Key {
    Key::new(HOLD, node).expect("a node id is a key segment")
}
