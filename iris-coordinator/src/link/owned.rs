//! Which nodes each account has, as far as any ever came.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::TryStreamExt;
use iris_core::store::{Key, Store, StoreError};
use iris_core::{AccountId, NodeId, Timestamp};

use super::handshake::{NODE, NodeRecord};

/// Each account's nodes with the time at which they first came.
///
/// Records lie under their node, so the store alone could tell an account's only by reading all.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    nodes: Mutex<HashMap<AccountId, BTreeMap<NodeId, Timestamp>>>,
}

impl Owned {
    /// Reads who owns what.
    pub(crate) async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let owned = Self::default();
        let mut records = store.scan(Key::all(NODE));
        while let Some(record) = records.try_next().await? {
            if let Ok(node) = record.key.id().parse() {
                owned.note(node, &record.value.decode()?);
            }
        }
        Ok(owned)
    }

    /// Counts a node among an account's if that has fewer than `most`, and returns whether it was
    /// none of them before.
    pub(super) fn claim(&self, node: NodeId, record: &NodeRecord, most: u32) -> Option<bool> {
        let mut all = self.nodes();
        let nodes = all.entry(record.owner).or_default();
        if nodes.contains_key(&node) {
            return Some(false);
        }
        let has_room = u32::try_from(nodes.len()).is_ok_and(|count| count < most);
        has_room.then(|| nodes.insert(node, record.first_seen).is_none())
    }

    pub(super) fn forget(&self, node: &NodeId, owner: &AccountId) {
        if let Some(nodes) = self.nodes().get_mut(owner) {
            nodes.remove(node);
        }
    }

    pub(super) fn note(&self, node: NodeId, record: &NodeRecord) {
        self.nodes().entry(record.owner).or_default().insert(node, record.first_seen);
    }

    pub(crate) fn has(&self, account: &AccountId, node: &NodeId) -> bool {
        self.nodes().get(account).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Returns at most `limit` nodes of an account, in the order of their ids, beginning after
    /// `after`.
    pub(crate) fn of(
        &self,
        account: &AccountId,
        after: Option<&NodeId>,
        limit: usize,
    ) -> Vec<(NodeId, Timestamp)> {
        let all = self.nodes();
        let Some(nodes) = all.get(account) else { return Vec::new() };
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(*after));
        let nodes = nodes.range((start, Bound::Unbounded)).take(limit);
        nodes.map(|(node, first_seen)| (*node, *first_seen)).collect()
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<AccountId, BTreeMap<NodeId, Timestamp>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
