//! The promises of nodes to be there: kept beside the nodes that made them, judged every hour. The
//! rules are those of [`iris_core::promise`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::join_all;
use iris_core::promise::{Hour, Promise, Verdict, Watch};
use iris_core::registry::{Node, NodeState};
use iris_core::reward::{RewardEvent, What};
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::{AccountId, Hours, NodeId, Timestamp};
use iris_protocol::rest::{HoldKind, NodePromise};
use tokio_util::sync::CancellationToken;

use crate::dispatch::Dispatch;
use crate::journal::CommitError;
use crate::payouts;

/// The record type of promises, under the id of their node.
const PROMISE: &str = "promise";
/// How often it is looked who is there.
const LOOK: Duration = Duration::from_mins(1);
/// How long to wait before a verdict is written again that the store did not take.
const RETRY: Duration = Duration::from_secs(10);
/// How many verdicts are written at a time.
const WRITTEN_TOGETHER: usize = 256;

/// What nodes have promised, as far as any has.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by_node: BTreeMap<NodeId, Promise>,
    /// Nodes whose promise is not written down as it is.
    changed: BTreeSet<NodeId>,
}

impl Promises {
    /// Reads what was written down.
    pub(crate) async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let records = store.scan(Key::all(PROMISE)).and_then(|record| async move {
            let promise = record.value.decode::<Promise>()?;
            Ok(record.key.id().parse().ok().map(|node: NodeId| (node, promise)))
        });
        let by_node = records.try_filter_map(|held| async move { Ok(held) }).try_collect().await?;
        Ok(Self { held: Mutex::new(Held { by_node, changed: BTreeSet::new() }) })
    }

    /// Takes in what a node declares now.
    pub(crate) fn declare(
        &self,
        now: Timestamp,
        node: NodeId,
        owner: AccountId,
        hours: Option<&Hours>,
    ) {
        let mut held = self.held();
        if hours.is_none() && !held.by_node.contains_key(&node) {
            return;
        }
        let promise = held.by_node.entry(node).or_insert_with(|| Promise::new(owner));
        if promise.declare(now, hours) {
            held.changed.insert(node);
        }
    }

    /// Returns what a node has promised, if anything.
    pub(crate) fn of(&self, node: &NodeId) -> Option<NodePromise> {
        let held = self.held();
        let promise = held.by_node.get(node)?;
        Some(NodePromise {
            hours: promise.declared().cloned(),
            since: promise.since().map_or(0, Timestamp::as_secs),
            kept: promise.kept,
            broken: promise.broken,
        })
    }

    /// Returns the event that a verdict is, and the promise as it is after it.
    fn judged(&self, verdict: Verdict) -> Option<(RewardEvent, Promise)> {
        let Verdict { node, hour, kept } = verdict;
        let mut promise = self.held().by_node.get(&node)?.clone();
        promise.judge(hour, kept);
        let what = What::Promised { kept };
        let event = RewardEvent { at: hour.last(), node, owner: promise.owner, what };
        Some((event, promise))
    }

    /// Takes in a verdict that was written down with the promise as it was then.
    fn take_in(&self, Verdict { node, hour, kept }: Verdict) {
        let mut held = self.held();
        let Held { by_node, changed } = &mut *held;
        let Some(promise) = by_node.get_mut(&node) else { return };
        promise.judge(hour, kept);
        // What was declared, or written, meanwhile did not know of it.
        changed.insert(node);
    }

    /// Returns what is to be written down: promises that have changed, and those that are over by
    /// `hour`.
    fn writes(&self, hour: Hour) -> Vec<Batch> {
        let mut held = self.held();
        let Held { by_node, changed } = &mut *held;
        let over: Vec<_> = by_node.extract_if(.., |_, promise| promise.is_over(hour)).collect();
        let deleted = over.into_iter().map(|(node, _)| Batch::new().delete(key(&node)));
        let written = std::mem::take(changed).into_iter().filter_map(|node| {
            Some(Batch::new().put(key(&node), Document::encode(by_node.get(&node)?)))
        });
        written.chain(deleted).collect()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(node: &NodeId) -> Key {
    Key::new(PROMISE, node).expect("a node id is a key segment")
}

/// Watches who is there, for as long as the coordinator lives.
pub(crate) async fn watch(dispatch: Weak<Dispatch>, stop: CancellationToken) {
    let Some(clock) = dispatch.upgrade().map(|dispatch| Arc::clone(&dispatch.clock)) else {
        return;
    };
    let mut watch = Watch::new(clock.now(), clock.calendar());
    loop {
        let into_hour = clock.calendar().saturating_since(Hour::of(clock.calendar()).start());
        let pause = LOOK.min(Duration::from_hours(1).saturating_sub(into_hour));
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        let Some(dispatch) = dispatch.upgrade() else { return };
        if dispatch.is_draining() {
            // Nodes may go elsewhere now; the gap voids the hour.
            continue;
        }
        let verdicts = dispatch.look(&mut watch);
        let written = dispatch.write_verdicts(&verdicts);
        if stop.run_until_cancelled(written).await.is_none() {
            return;
        }
    }
}

impl Dispatch {
    /// Looks which of the nodes that have promised something are there.
    fn look(&self, watch: &mut Watch) -> Vec<Verdict> {
        let (now, calendar) = (self.clock.now(), self.clock.calendar());
        // Tasks wait for the registry, so it is held no longer than it takes to see who is there.
        let there: HashSet<NodeId> = self.with_registry(|registry| {
            let able = registry.iter().filter(|(_, node)| self.is_able(node));
            able.map(|(_, node)| node.profile().id).collect()
        });
        let held = self.promises.held();
        let is_there = |node: &NodeId| there.contains(node);
        watch.look(now, calendar, held.by_node.iter(), is_there, !there.is_empty())
    }

    async fn write_verdicts(&self, verdicts: &[Verdict]) {
        for verdicts in verdicts.chunks(WRITTEN_TOGETHER) {
            join_all(verdicts.iter().map(|verdict| self.write_verdict(*verdict))).await;
        }
    }

    /// Writes down whether a node kept an hour, unless that was written down before.
    async fn write_verdict(&self, verdict: Verdict) {
        let Some((event, promise)) = self.promises.judged(verdict) else { return };
        let batch = Batch::new()
            .create(payouts::event_key(event.at, &event.node, "promise"), Document::encode(&event))
            .put(key(&event.node), Document::encode(&promise));
        let mut uncertain = false;
        loop {
            match self.journal.commit(batch.clone()).await {
                Ok(()) => break,
                // What the store took without an answer is there already.
                Err(CommitError::Store(StoreError::Conflict(_))) if uncertain => break,
                Err(CommitError::Store(StoreError::Unavailable(_))) => {
                    uncertain = true;
                    tokio::time::sleep(RETRY).await;
                }
                Err(CommitError::Store(StoreError::Conflict(_)) | CommitError::Closed) => return,
                Err(error) => {
                    tracing::error!(node = %event.node, %error, "a promise was not judged");
                    return;
                }
            }
        }
        self.promises.take_in(verdict);
        self.apply(event.deed().as_slice());
    }

    /// Returns whether a node is there for others: it is connected, has a slot that works, and a
    /// model. One that the operator gives nothing is there all the same.
    fn is_able(&self, node: &Node) -> bool {
        let profile = node.profile();
        let offers = profile.slots > 0 && !profile.models.is_empty();
        let works = match node.state() {
            NodeState::Ready => true,
            NodeState::Draining => self.holds.kind(&profile.id) == Some(HoldKind::Drain),
            NodeState::Away => false,
        };
        works && offers && profile.terms.callers.are_many()
    }

    /// Writes down what was promised of late, and forgets what is over.
    pub(crate) fn keep_promises(&self) {
        // The hour before may not be judged yet.
        for batch in self.promises.writes(Hour::of(self.clock.calendar()).previous()) {
            self.record(batch);
        }
    }
}
