use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use futures::TryStreamExt;
use futures::future::try_join_all;
use iris_core::store::{Batch, Document, Store, StoreError, Version};
use iris_crypto::log::{Entry, Frontier, ProofPlan, SignedCheckpoint, Tile, TileId, TreeHash};
use iris_crypto::{Identity, PublicIdentity};
use iris_protocol::limits::MAX_LOG_ENTRY;
use iris_protocol::text::Blob;

use super::StartError;
use super::records::{EntryRecord, Head, TileRecord};

/// The log of a coordinator, over a store.
///
/// Memory is that of the tree's right edge; a proof takes at most two reads for each factor of
/// 256 in the log's size.
pub(super) struct Log {
    store: Arc<dyn Store>,
    identity: Arc<Identity>,
    coordinator: PublicIdentity,
    tip: RwLock<Arc<Tip>>,
}

/// What is known to be durable.
pub(super) struct Tip {
    pub(super) size: u64,
    pub(super) root: TreeHash,
    pub(super) checkpoint: SignedCheckpoint,
}

/// The end of the log, as whoever appends last read or wrote it.
pub(super) struct State {
    frontier: Frontier,
    rosters: u64,
    /// The version of the [`Head`]; `None` before the first append.
    version: Option<Version>,
}

impl State {
    /// Returns the number of the last roster in the log.
    pub(super) const fn rosters(&self) -> u64 {
        self.rosters
    }
}

impl Log {
    /// Returns whose log `store` holds.
    pub(super) async fn coordinator_of(
        store: &dyn Store,
    ) -> Result<Option<PublicIdentity>, StoreError> {
        Ok(read_head(store).await?.map(|(head, _)| head.coordinator))
    }

    /// Takes up the log in `store`, or begins one.
    pub(super) async fn open(
        store: Arc<dyn Store>,
        identity: Arc<Identity>,
    ) -> Result<(Self, State), StartError> {
        let coordinator = identity.public();
        let head = read_head(&*store).await?;
        if let Some((Head { coordinator: found, .. }, _)) = head
            && found != coordinator
        {
            return Err(StartError::OtherCoordinator { found, own: coordinator });
        }
        let tip = RwLock::new(Arc::new(Tip::sign(&identity, 0, TreeHash::EMPTY)));
        let log = Self { store, identity, coordinator, tip };
        let state = log.restore(head).await?;
        if state.frontier.size() > 0 {
            return Ok((log, state));
        }
        let state = log.append(state, &[Entry::Coordinator(coordinator)], 0).await?;
        Ok((log, state))
    }

    pub(super) const fn coordinator(&self) -> PublicIdentity {
        self.coordinator
    }

    pub(super) fn tip(&self) -> Arc<Tip> {
        Arc::clone(&self.tip.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the end of the log from the store.
    pub(super) async fn read(&self) -> Result<State, StoreError> {
        self.restore(read_head(&*self.store).await?).await
    }

    async fn restore(&self, head: Option<(Head, Version)>) -> Result<State, StoreError> {
        let Some((head, version)) = head else {
            return Ok(State { frontier: Frontier::new(), rosters: 0, version: None });
        };
        let tiles = self.tiles(TileId::edge(head.size).map(|(id, _)| id)).await?;
        let frontier = Frontier::restore(head.size, |id| tiles.get(&id).cloned())
            .ok()
            .filter(|frontier| frontier.root() == head.root && head.coordinator == self.coordinator)
            .ok_or_else(|| StoreError::Corrupt("the end of the public log".to_owned()))?;
        self.advance(head.size, head.root);
        Ok(State { frontier, rosters: head.rosters, version: Some(version) })
    }

    /// Appends `entries` in one commit and resolves once they are durable.
    ///
    /// After an error, and when this future was dropped, they may or may not be: the state is
    /// gone, and has to be [read](Self::read) again.
    pub(super) async fn append(
        &self,
        state: State,
        entries: &[Entry],
        rosters: u64,
    ) -> Result<State, StoreError> {
        let State { mut frontier, version, .. } = state;
        let first = frontier.size();
        let leaves: Vec<_> = entries.iter().map(Entry::leaf_hash).collect();
        let tiles = frontier
            .append_all(&leaves)
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let (size, root) = (frontier.size(), frontier.root());
        let head = Head { coordinator: self.coordinator, size, root, rosters };
        let (key, document) = (Head::key(), Document::encode(&head));
        let mut batch = match version {
            Some(version) => Batch::new().replace(key, version, document),
            None => Batch::new().create(key, document),
        };
        for (index, entry) in (first..).zip(entries) {
            let entry = entry.encode().try_into().expect("an entry has a bounded length");
            let document = Document::encode(&EntryRecord { entry });
            batch = batch.create(EntryRecord::key(index), document);
        }
        for (id, tile) in &tiles {
            batch = batch.put(TileRecord::key(*id), Document::encode(&TileRecord::new(tile)));
        }
        self.store.commit(batch).await?;
        self.advance(size, root);
        let version = Some(Version(version.map_or(1, |Version(number)| number + 1)));
        Ok(State { frontier, rosters, version })
    }

    /// Computes a proof.
    pub(super) async fn prove(&self, plan: &ProofPlan) -> Result<Vec<TreeHash>, StoreError> {
        let tiles = self.tiles(plan.tiles().into_iter()).await?;
        plan.compute(|id| tiles.get(&id))
            .map_err(|_| StoreError::Corrupt("a tile of the public log is missing".to_owned()))
    }

    /// Returns entries that are known to be durable.
    pub(super) async fn entries(
        &self,
        indices: Range<u64>,
    ) -> Result<Vec<Blob<MAX_LOG_ENTRY>>, StoreError> {
        if indices.is_empty() {
            return Ok(Vec::new());
        }
        let expected = indices.end - indices.start;
        let records = self.store.scan(EntryRecord::keys(indices));
        let entry = |record: iris_core::store::Record| async move {
            record.value.decode::<EntryRecord>().map(|record| record.entry)
        };
        let entries: Vec<_> = records.and_then(entry).try_collect().await?;
        if entries.len() as u64 == expected {
            Ok(entries)
        } else {
            Err(StoreError::Corrupt("entries of the public log are missing".to_owned()))
        }
    }

    async fn tiles(
        &self,
        ids: impl Iterator<Item = TileId>,
    ) -> Result<BTreeMap<TileId, Tile>, StoreError> {
        let read = async |id| {
            let Some(record) = self.store.get(TileRecord::key(id)).await? else { return Ok(None) };
            let TileRecord { hashes } = record.value.decode()?;
            let tile = Tile::decode(hashes.as_bytes());
            tile.map(|tile| Some((id, tile)))
                .map_err(|error| StoreError::Corrupt(error.to_string()))
        };
        Ok(try_join_all(ids.map(read)).await?.into_iter().flatten().collect())
    }

    /// Takes in that the log has `size` entries.
    fn advance(&self, size: u64, root: TreeHash) {
        let mut tip = self.tip.write().unwrap_or_else(PoisonError::into_inner);
        if tip.size < size {
            *tip = Arc::new(Tip::sign(&self.identity, size, root));
        }
    }
}

impl Tip {
    fn sign(identity: &Identity, size: u64, root: TreeHash) -> Self {
        Self { size, root, checkpoint: SignedCheckpoint::sign(identity, size, root) }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("size", &self.tip().size).finish_non_exhaustive()
    }
}

async fn read_head(store: &dyn Store) -> Result<Option<(Head, Version)>, StoreError> {
    let record = store.get(Head::key()).await?;
    record.map(|record| Ok((record.value.decode()?, record.version))).transpose()
}
