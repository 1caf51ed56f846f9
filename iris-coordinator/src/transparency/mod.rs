//! What everybody is told alike: the roster of nodes, and the public log that it is written in.
//!
//! A coordinator that chose the node for a sealed request could lead one caller to a machine of
//! its own. So it publishes one roster for all, callers choose, and every roster and certificate
//! in it goes into a log that only grows ([`iris_crypto::log`]). Whoever is shown another roster
//! than the rest holds a signed checkpoint that does not fit theirs.
//!
//! A roster is made when somebody asks and the last one is a minute old, or a second if nodes,
//! certificates or models have changed since. It is in the store with its log entries before
//! anybody sees it. Should the store fail, the last roster is served for as long as the
//! certificates in it last.
//!
//! The log lives in the store beside the books. A store that is set back, to a backup for
//! instance, forgets entries that were signed for; callers then find two logs and say so. Such a
//! coordinator needs a new identity and a new log.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_core::store::{Store, StoreError};
use iris_crypto::certificate::CertificateHash;
use iris_crypto::log::{Entry, LogError, ProofPlan, TreeHash, verify_inclusion};
use iris_crypto::{Identity, PublicIdentity, Secret};
use iris_protocol::limits::MAX_LOG_ENTRIES;
use iris_protocol::rest::{ConsistencyProof, InclusionProof, LogEntries, SignedRoster};
use iris_protocol::text::Bytes32;
use sha2::{Digest, Sha256};

use crate::dispatch::Dispatch;

mod log;
mod owner;
mod records;
mod roster;
#[cfg(test)]
mod tests;

use log::{Log, State};
use owner::Owners;
use roster::Certificates;

/// A roster is made anew at this age, if somebody asks.
const RENEW_AFTER: Duration = Duration::from_mins(1);
/// No roster is made before the last one has this age, whatever changed, nor so soon after one
/// could not be.
const KEEP: Duration = Duration::from_secs(1);
/// For how long the last roster is served while no new one can be written down: less than the
/// certificates in it last.
const SERVE_FOR: Duration = Duration::from_mins(10);
/// How long the store may take to write a roster down.
const PATIENCE: Duration = Duration::from_secs(5);
/// Certificates that go into the log with one commit.
const CERTIFICATES: usize = 1024;

/// The published roster and the public log of a coordinator.
pub struct Transparency {
    dispatch: Arc<Dispatch>,
    owners: Owners,
    log: Log,
    published: RwLock<Option<Published>>,
    publisher: tokio::sync::Mutex<Publisher>,
}

/// The roster that everybody gets now.
#[derive(Clone)]
struct Published {
    made: Instant,
    /// The dispatcher's count of changes that it takes in.
    changes: u64,
    /// The JSON text of a [`SignedRoster`].
    json: Bytes,
}

/// Who makes rosters, one at a time.
struct Publisher {
    /// The end of the log; `None` when a commit went astray and the store must be asked.
    state: Option<State>,
    /// The certificates in the log that nodes may still use.
    logged: Certificates,
    /// When a roster was last tried in vain.
    failed: Option<Instant>,
}

/// Why a coordinator cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The identity is not the one that began the log, and nobody would believe both.
    #[error(
        "the public log in the store is that of the coordinator {found}, and this one is {own}: \
         restore the identity file that belongs to the store; or, to begin another log that \
         everybody who knew the old one has to be told of, delete the records log-* from the store"
    )]
    OtherCoordinator {
        /// Whose log it is.
        found: PublicIdentity,
        /// Who this coordinator is.
        own: PublicIdentity,
    },
}

/// Why there is no roster, proof or entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransparencyError {
    /// The log has no such entry or size yet, or too much was asked for: the caller's fault.
    #[error("{0}")]
    Asked(String),
    /// The store failed; worth trying again later.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Transparency {
    /// Returns whose log `store` holds, if it holds one: the identity without which no coordinator
    /// starts on it.
    pub async fn coordinator_of(store: &dyn Store) -> Result<Option<PublicIdentity>, StoreError> {
        Log::coordinator_of(store).await
    }

    /// Takes up the log in `store`, or begins one.
    pub(crate) async fn open(
        dispatch: Arc<Dispatch>,
        store: Arc<dyn Store>,
        identity: Arc<Identity>,
        secret: &Secret,
    ) -> Result<Self, StartError> {
        let (log, state) = Log::open(store, identity).await?;
        let publisher = Publisher { state: Some(state), logged: Certificates::new(), failed: None };
        Ok(Self {
            dispatch,
            owners: Owners::new(secret),
            log,
            published: RwLock::default(),
            publisher: tokio::sync::Mutex::new(publisher),
        })
    }

    /// Returns the JSON text of a [`SignedRoster`]: the same bytes for everybody who asks at the
    /// same time.
    pub async fn roster(self: &Arc<Self>) -> Result<Bytes, TransparencyError> {
        if let Some(json) = self.fresh() {
            return Ok(json);
        }
        // A caller that leaves in the middle must not take the others' roster with it.
        let this = Arc::clone(self);
        let renewed = tokio::spawn(async move { this.renew().await });
        renewed.await.unwrap_or_else(|_| {
            let broken = "the roster could not be made".to_owned();
            Err(StoreError::Unavailable(broken).into())
        })
    }

    async fn renew(&self) -> Result<Bytes, TransparencyError> {
        let mut publisher = self.publisher.lock().await;
        // Whoever waited for its turn finds what was made meanwhile.
        if let Some(json) = self.fresh() {
            return Ok(json);
        }
        let now = self.dispatch.clock.now();
        if let Some(failed) = publisher.failed
            && now.saturating_duration_since(failed) < KEEP
        {
            return self.former(now, StoreError::Unavailable("it failed a moment ago".to_owned()));
        }
        let made = tokio::time::timeout(PATIENCE, self.publish(&mut publisher)).await;
        let late = || StoreError::Unavailable("it did not answer in time".to_owned());
        match made.unwrap_or_else(|_| Err(late())) {
            Ok(roster) => {
                publisher.failed = None;
                let json = roster.json.clone();
                *self.published.write().unwrap_or_else(PoisonError::into_inner) = Some(roster);
                Ok(json)
            }
            Err(error) => {
                tracing::warn!(%error, "no roster can be written down");
                publisher.failed = Some(now);
                self.former(self.dispatch.clock.now(), error)
            }
        }
    }

    /// Returns the log's signed checkpoint, as text. Covers every roster that was served.
    pub fn checkpoint(&self) -> String {
        self.log.tip().checkpoint.text().to_owned()
    }

    /// Proves that the entry at `index` is in the log's first `size` entries.
    pub async fn inclusion(
        &self,
        index: u64,
        size: u64,
    ) -> Result<InclusionProof, TransparencyError> {
        self.check_size(size)?;
        let hashes = self.log.prove(&ProofPlan::inclusion(index, size)?).await?;
        Ok(InclusionProof { hashes: on_wire(&hashes) })
    }

    /// Proves that the log's first `to` entries begin with its first `from`.
    pub async fn consistency(
        &self,
        from: u64,
        to: u64,
    ) -> Result<ConsistencyProof, TransparencyError> {
        self.check_size(to)?;
        let hashes = self.log.prove(&ProofPlan::consistency(from, to)?).await?;
        Ok(ConsistencyProof { hashes: on_wire(&hashes) })
    }

    /// Returns up to `count` entries from `start` on, at most [`MAX_LOG_ENTRIES`]; none at the
    /// end of the log.
    pub async fn entries(&self, start: u64, count: u64) -> Result<LogEntries, TransparencyError> {
        if !(1..=MAX_LOG_ENTRIES as u64).contains(&count) {
            let text = format!("1 to {MAX_LOG_ENTRIES} entries are returned at once");
            return Err(TransparencyError::Asked(text));
        }
        self.check_size(start)?;
        let end = self.log.tip().size.min(start + count);
        Ok(LogEntries { start, entries: self.log.entries(start..end).await? })
    }

    fn check_size(&self, size: u64) -> Result<(), TransparencyError> {
        let known = self.log.tip().size;
        if size <= known {
            return Ok(());
        }
        Err(TransparencyError::Asked(format!("the log has {known} entries")))
    }

    /// Returns the published roster, if it still serves.
    fn fresh(&self) -> Option<Bytes> {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        let published = published.as_ref()?;
        let age = self.dispatch.clock.now().saturating_duration_since(published.made);
        let changed = published.changes != self.dispatch.changes();
        (age < KEEP || age < RENEW_AFTER && !changed).then(|| published.json.clone())
    }

    /// Returns the last roster in place of one that could not be made, while it lasts.
    fn former(&self, now: Instant, error: StoreError) -> Result<Bytes, TransparencyError> {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        let lasts = |it: &&Published| now.saturating_duration_since(it.made) < SERVE_FOR;
        published.as_ref().filter(lasts).map(|it| it.json.clone()).ok_or(error.into())
    }

    /// Makes a roster and writes it down.
    async fn publish(&self, publisher: &mut Publisher) -> Result<Published, StoreError> {
        let made = self.dispatch.clock.now();
        let calendar = self.dispatch.clock.calendar();
        let mut state = match publisher.state.take() {
            Some(state) => state,
            None => self.log.read().await?,
        };
        let changes = self.dispatch.changes();
        let listing = self.dispatch.listing();
        let (roster, certificates) = roster::make(
            listing,
            &self.owners,
            self.log.coordinator(),
            state.rosters() + 1,
            calendar,
        );
        publisher.logged.retain(|_, not_after| *not_after >= calendar);
        let known = |(hash, _): &(CertificateHash, _)| publisher.logged.contains_key(hash);
        let new: Vec<_> = certificates.into_iter().filter(|it| !known(it)).collect();
        for some in new.chunks(CERTIFICATES) {
            let entries: Vec<_> = some.iter().map(|it| Entry::Certificate(it.0)).collect();
            let rosters = state.rosters();
            state = self.log.append(state, &entries, rosters).await?;
            publisher.logged.extend(some.iter().copied());
        }
        let text = serde_json::to_string(&roster).expect("a roster has a JSON form");
        let entry = Entry::Roster(Sha256::digest(text.as_bytes()).into());
        let state = self.log.append(state, &[entry], roster.number).await?;
        let signed = self.sign(text, entry).await?;
        publisher.state = Some(state);
        let json = serde_json::to_vec(&signed).expect("a roster has a JSON form");
        Ok(Published { made, changes, json: json.into() })
    }

    /// Puts the proof beside the roster that is the last entry of the log.
    async fn sign(&self, roster: String, entry: Entry) -> Result<SignedRoster, StoreError> {
        let tip = self.log.tip();
        let index = tip.size - 1;
        let plan = ProofPlan::inclusion(index, tip.size).expect("the last entry is in the log");
        let hashes = self.log.prove(&plan).await?;
        // What does not prove is a damaged tile, and better noticed here than by everybody.
        verify_inclusion(&entry.leaf_hash(), index, tip.size, &hashes, &tip.root)
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let checkpoint = tip.checkpoint.text().to_owned();
        Ok(SignedRoster { roster, index, hashes: on_wire(&hashes), checkpoint })
    }
}

impl From<LogError> for TransparencyError {
    fn from(error: LogError) -> Self {
        Self::Asked(error.to_string())
    }
}

impl fmt::Debug for Transparency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transparency").field("log", &self.log).finish_non_exhaustive()
    }
}

fn on_wire(hashes: &[TreeHash]) -> Vec<Bytes32> {
    hashes.iter().map(|hash| Bytes32::from(*hash.as_bytes())).collect()
}
