//! The roster and the public log, as callers and monitors see them.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use iris_coordinator::store::{SqliteStore, VIEWS};
use iris_coordinator::{Clock, StartError, SystemClock};
use iris_core::store::{Batch, Key, Record, Store, StoreError};
use iris_core::{NodeId, Timestamp};
use iris_crypto::log::{
    Checkpoint, Entry, Frontier, SignedCheckpoint, TreeHash, leaf_hash, verify_consistency,
    verify_inclusion,
};
use iris_crypto::{PublicIdentity, SignedCertificate};
use iris_protocol::rest::{ConsistencyProof, InclusionProof, LogEntries, Roster, SignedRoster};
use iris_protocol::text::Bytes32;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::node::Persona;
use super::*;

/// The machine's clocks, moved ahead at will.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ahead(Arc<Mutex<Duration>>);

impl Ahead {
    pub(crate) fn by(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

impl Clock for Ahead {
    fn now(&self) -> Instant {
        SystemClock.now() + *self.0.lock().unwrap()
    }

    fn calendar(&self) -> Timestamp {
        SystemClock.calendar().saturating_add(*self.0.lock().unwrap())
    }
}

/// A store whose writer can be made to fail, before or after it has written.
#[derive(Clone, Debug)]
struct Fragile {
    store: Arc<dyn Store>,
    full: Arc<AtomicBool>,
    mute: Arc<AtomicBool>,
    hang: Arc<AtomicBool>,
}

impl Fragile {
    fn over(store: impl Store) -> Self {
        let (full, mute, hang) = (Arc::default(), Arc::default(), Arc::default());
        Self { store: Arc::new(store), full, mute, hang }
    }
}

impl Store for Fragile {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            if self.full.load(Ordering::Relaxed) {
                return Err(StoreError::Unavailable("full".to_owned()));
            }
            self.store.commit(batch).await?;
            if self.hang.load(Ordering::Relaxed) {
                return futures::future::pending().await;
            }
            if self.mute.load(Ordering::Relaxed) {
                return Err(StoreError::Unavailable("the answer was lost".to_owned()));
            }
            Ok(())
        })
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.store.get(key)
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        self.store.scan(range)
    }
}

fn identity() -> Identity {
    Identity::from_seed(&Secret::from_bytes([3; 32]))
}

/// A network whose clock a test holds.
struct Public {
    net: Net,
    clock: Ahead,
    identity: PublicIdentity,
}

impl Public {
    async fn start() -> Self {
        Self::over(Arc::new(MemoryStore::new()), Ahead::default()).await
    }

    async fn over(store: Arc<dyn Store>, clock: Ahead) -> Self {
        let secret = Secret::from_bytes([9; 32]);
        let limits = Limits { resume_grace: Duration::from_millis(50), ..Limits::default() };
        let coordinator = Coordinator::builder(store, identity(), secret)
            .with_clock(Arc::new(clock.clone()))
            .with_link_limits(limits)
            .build()
            .await
            .unwrap();
        let net = Net::around(coordinator, ServerSettings::default()).await;
        Self { net, clock, identity: identity().public() }
    }

    async fn node(&self, account: AccountId) -> Node {
        let key = key(&self.net.coordinator, account, KeyScope::Node).await;
        Node::connect_as(self.net.address, &key, Persona::sealing(2), vec![]).await
    }

    /// Fetches the roster and checks it as a client does.
    async fn roster(&self) -> (Roster, Checkpoint) {
        let reply = self.net.get("/roster").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let signed: SignedRoster = serde_json::from_slice(&reply.body).unwrap();
        let checkpoint = self.verified(&signed.checkpoint);
        let leaf = Entry::Roster(Sha256::digest(signed.roster.as_bytes()).into()).leaf_hash();
        let proof = hashes(&signed.hashes);
        verify_inclusion(&leaf, signed.index, checkpoint.size, &proof, &checkpoint.root).unwrap();
        let roster: Roster = serde_json::from_str(&signed.roster).unwrap();
        assert_eq!(roster.coordinator.as_str(), self.identity.to_string());
        (roster, checkpoint)
    }

    /// Fetches rosters until one is like this.
    async fn roster_with(&self, wanted: impl Fn(&Roster) -> bool) -> (Roster, Checkpoint) {
        let deadline = Instant::now() + node::SOON;
        loop {
            self.clock.by(Duration::from_secs(1));
            let (roster, checkpoint) = self.roster().await;
            if wanted(&roster) {
                return (roster, checkpoint);
            }
            assert!(Instant::now() < deadline, "{roster:?}");
        }
    }

    async fn checkpoint(&self) -> Checkpoint {
        let reply = self.net.get("/log/checkpoint").await;
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
        self.verified(reply.text())
    }

    fn verified(&self, checkpoint: &str) -> Checkpoint {
        SignedCheckpoint::decode(checkpoint).unwrap().verify(&self.identity).unwrap()
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let reply = self.net.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// Checks that the log of `old` only grew since.
    async fn check_growth(&self, old: &Checkpoint) -> Checkpoint {
        let new = self.checkpoint().await;
        let path = format!("/log/consistency?from={}&to={}", old.size, new.size);
        let ConsistencyProof { hashes: proof } = self.get(&path).await;
        verify_consistency(old, &new, &hashes(&proof)).unwrap();
        new
    }

    /// Fetches every entry, as a monitor does, and checks that the tree is theirs.
    async fn entries(&self) -> Vec<Vec<u8>> {
        let checkpoint = self.checkpoint().await;
        let (mut entries, mut frontier) = (Vec::new(), Frontier::new());
        while frontier.size() < checkpoint.size {
            let path = format!("/log/entries?start={}&count=3", frontier.size());
            let page: LogEntries = self.get(&path).await;
            assert_eq!(page.start, frontier.size());
            assert!((1..=3).contains(&page.entries.len()));
            for entry in page.entries {
                frontier.append(leaf_hash(entry.as_bytes())).unwrap();
                entries.push(entry.as_bytes().to_vec());
            }
        }
        assert_eq!(frontier.root(), checkpoint.root);
        assert_eq!(Entry::decode(&entries[0]), Ok(Entry::Coordinator(self.identity)));
        entries
    }

    async fn stop(mut self) {
        self.net.stop.take().unwrap().send(()).unwrap();
        self.net.server.await.unwrap();
        self.net.coordinator.shutdown().await;
    }
}

fn hashes(proof: &[Bytes32]) -> Vec<TreeHash> {
    proof.iter().map(|hash| TreeHash::from_bytes(hash.0)).collect()
}

fn ids(roster: &Roster) -> Vec<NodeId> {
    roster.nodes.iter().map(|node| node.id).collect()
}

#[tokio::test]
async fn everybody_gets_the_same_roster_for_a_minute() {
    let public = Public::start().await;
    let other = public.net.coordinator.accounts().create_account().await.unwrap().account;
    let other = key(&public.net.coordinator, other, KeyScope::Inference).await;
    let bearer = format!("Bearer {other}");
    let first = public.net.get("/roster").await;
    public.clock.by(Duration::from_secs(59));
    let ask = request("GET", "/roster", &[("authorization", &bearer)], "");
    let second = send(public.net.address, ask).await;
    assert_eq!((second.status, &second.body), (200, &first.body));
    public.clock.by(Duration::from_secs(1));
    let (third, _) = public.roster().await;
    assert_eq!(third.number, 2);
}

#[tokio::test]
async fn many_who_ask_at_once_get_one_roster() {
    let public = Public::start().await;
    let replies = futures::future::join_all((0..20).map(|_| public.net.get("/roster"))).await;
    for reply in &replies {
        assert_eq!((reply.status, &reply.body), (200, &replies[0].body));
    }
    assert_eq!(public.checkpoint().await.size, 2, "the coordinator's entry and one roster's");
}

#[tokio::test]
async fn roster_follows_who_comes_and_goes_a_second_later() {
    let public = Public::start().await;
    let (empty, _) = public.roster().await;
    assert!(empty.nodes.is_empty() && empty.away.is_empty());
    let first = public.node(public.net.account).await;
    let second = public.node(public.net.account).await;
    let elsewhere = public.net.coordinator.accounts().create_account().await.unwrap().account;
    let _third = public.node(elsewhere).await;
    let _plain = public.net.node(vec![]).await;
    let (unchanged, _) = public.roster().await;
    assert_eq!(unchanged.number, 1, "no second has passed");
    public.clock.by(Duration::from_secs(1));
    let (roster, checkpoint) = public.roster().await;
    assert_eq!(roster.nodes.len(), 3, "one of the four opens no sealed requests");
    let mut owners: Vec<_> = roster.nodes.iter().map(|node| node.owner.clone()).collect();
    owners.sort();
    owners.dedup();
    assert_eq!(owners.len(), 2);
    for node in &roster.nodes {
        let certificate = SignedCertificate::decode(node.certificate.as_bytes()).unwrap();
        assert_eq!(certificate.unverified_claims().identity.node_id(), node.id);
        assert_eq!((node.slots, node.models[0].name.as_str()), (2, Node::MODEL));
        assert_eq!(serde_json::to_value(node.free).unwrap(), "many");
    }
    first.leave();
    second.leave();
    let before = ids(&roster);
    let (roster, _) = public.roster_with(|roster| roster.nodes.len() == 1).await;
    assert!(before.contains(&ids(&roster)[0]));
    public.check_growth(&checkpoint).await;
}

#[tokio::test]
async fn models_that_nobody_offers_any_more_are_named() {
    let public = Public::start().await;
    let node = public.node(public.net.account).await;
    let (roster, _) = public.roster_with(|roster| roster.nodes.len() == 1).await;
    assert!(roster.away.is_empty());
    node.leave();
    let (roster, _) = public.roster_with(|roster| !roster.away.is_empty()).await;
    assert_eq!(roster.away, [Node::MODEL.parse().unwrap()]);
}

#[tokio::test]
async fn certificate_about_to_end_is_not_listed() {
    let public = Public::start().await;
    let _node = public.node(public.net.account).await;
    public.clock.by(Duration::from_mins(6 * 60 - 16));
    assert_eq!(public.roster().await.0.nodes.len(), 1);
    public.clock.by(Duration::from_mins(1));
    assert_eq!(public.roster().await.0.nodes.len(), 0);
}

#[tokio::test]
async fn renewed_certificate_is_listed_and_each_is_in_the_log_once() {
    let public = Public::start().await;
    let mut node = public.node(public.net.account).await;
    let (before, _) = public.roster_with(|roster| roster.nodes.len() == 1).await;
    node.renew().await;
    let renewed = |roster: &Roster| {
        roster.nodes.first().is_some_and(|node| node.certificate != before.nodes[0].certificate)
    };
    let (after, _) = public.roster_with(renewed).await;
    public.clock.by(Duration::from_mins(1));
    public.roster().await;
    let entries = public.entries().await;
    for roster in [&before, &after] {
        let certificate = roster.nodes[0].certificate.as_bytes();
        let hash = SignedCertificate::decode(certificate).unwrap().hash();
        let entry = Entry::Certificate(hash).encode();
        assert_eq!(entries.iter().filter(|it| **it == entry).count(), 1);
    }
}

#[tokio::test]
async fn monitor_rebuilds_the_log_and_proves_each_entry() {
    let public = Public::start().await;
    let _node = public.node(public.net.account).await;
    for _ in 0..9 {
        public.clock.by(Duration::from_mins(1));
        public.roster().await;
    }
    let entries = public.entries().await;
    let checkpoint = public.checkpoint().await;
    let kinds: Vec<_> = entries.iter().map(|entry| Entry::decode(entry).unwrap()).collect();
    // A certificate comes before the roster that lists it.
    assert!(matches!(kinds[..3], [Entry::Coordinator(_), Entry::Certificate(_), Entry::Roster(_)]));
    for (index, entry) in (0..).zip(&entries) {
        let path = format!("/log/inclusion?index={index}&size={}", checkpoint.size);
        let InclusionProof { hashes: proof } = public.get(&path).await;
        let (leaf, proof) = (leaf_hash(entry), hashes(&proof));
        verify_inclusion(&leaf, index, checkpoint.size, &proof, &checkpoint.root).unwrap();
    }
    let end: LogEntries = public.get(&format!("/log/entries?start={}", checkpoint.size)).await;
    assert!(end.entries.is_empty());
    let all: LogEntries = public.get("/log/entries?start=0").await;
    assert_eq!(all.entries.len(), entries.len());
}

#[tokio::test]
async fn log_grows_through_restarts_on_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("iris.db");
    let clock = Ahead::default();
    let mut old: Option<Checkpoint> = None;
    for round in 1..=3 {
        let store = Arc::new(SqliteStore::open(&path, VIEWS).unwrap());
        let public = Public::over(store, clock.clone()).await;
        if let Some(old) = old {
            assert_eq!(public.check_growth(&old).await, old, "a start adds nothing");
        }
        let (roster, checkpoint) = public.roster().await;
        assert_eq!(roster.number, round);
        if let Some(old) = old {
            assert_eq!(public.check_growth(&old).await, checkpoint);
        }
        assert_eq!(public.entries().await.len(), 1 + usize::try_from(round).unwrap());
        old = Some(checkpoint);
        public.stop().await;
    }
}

#[tokio::test]
async fn roster_that_was_written_and_never_served_stays_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("iris.db");
    let store = Fragile::over(SqliteStore::open(&path, VIEWS).unwrap());
    let public = Public::over(Arc::new(store.clone()), Ahead::default()).await;
    let (_, before) = public.roster().await;
    store.mute.store(true, Ordering::Relaxed);
    public.clock.by(Duration::from_mins(1));
    let (former, _) = public.roster().await;
    assert_eq!(former.number, 1);
    assert_eq!(public.checkpoint().await, before, "nothing is told that is not known to be kept");
    // The process goes with what it knew.
    drop((public, store));
    let store = Arc::new(SqliteStore::open(&path, VIEWS).unwrap());
    let public = Public::over(store, Ahead::default()).await;
    let after = public.check_growth(&before).await;
    assert_eq!(after.size, before.size + 1);
    assert_eq!(public.roster().await.0.number, 3);
    public.check_growth(&after).await;
}

#[tokio::test]
async fn lost_answer_of_the_store_does_not_fork_the_log() {
    let store = Fragile::over(MemoryStore::new());
    let public = Public::over(Arc::new(store.clone()), Ahead::default()).await;
    let (_, mut old) = public.roster().await;
    for round in 0..4 {
        store.mute.store(round % 2 == 0, Ordering::Relaxed);
        public.clock.by(Duration::from_mins(1));
        public.roster().await;
        old = public.check_growth(&old).await;
    }
    assert_eq!(public.entries().await.len(), 6);
}

#[tokio::test]
async fn last_roster_is_served_while_the_store_fails_and_it_lasts() {
    let store = Fragile::over(MemoryStore::new());
    let public = Public::over(Arc::new(store.clone()), Ahead::default()).await;
    store.full.store(true, Ordering::Relaxed);
    let refused = public.net.get("/roster").await;
    assert_eq!((refused.status, refused.error_code()), (503, json!("unavailable")));
    store.full.store(false, Ordering::Relaxed);
    let refused = public.net.get("/roster").await;
    assert_eq!(refused.status, 503, "the store is not asked again at once");
    public.clock.by(Duration::from_secs(1));
    let first = public.net.get("/roster").await;
    store.full.store(true, Ordering::Relaxed);
    for minutes in [1, 8] {
        public.clock.by(Duration::from_mins(minutes));
        assert_eq!(public.net.get("/roster").await.body, first.body);
    }
    public.clock.by(Duration::from_mins(1));
    assert_eq!(public.net.get("/roster").await.status, 503);
    store.full.store(false, Ordering::Relaxed);
    public.clock.by(Duration::from_secs(1));
    assert_eq!(public.roster().await.0.number, 2);
}

/// Faults of the store and kills of the coordinator, in the order that `seed` draws.
async fn live_through(seed: u64) {
    let store = Fragile::over(MemoryStore::new());
    let clock = Ahead::default();
    let start = async || {
        for fault in [&store.full, &store.mute, &store.hang] {
            fault.store(false, Ordering::Relaxed);
        }
        let secret = Secret::from_bytes([9; 32]);
        let builder = Coordinator::builder(Arc::new(store.clone()), identity(), secret);
        builder.with_clock(Arc::new(clock.clone())).build().await.unwrap()
    };
    let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut coordinator = start().await;
    let mut old = Checkpoint { size: 0, root: TreeHash::EMPTY };
    let mut last = 0;
    for step in 0..120 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match dice >> 60 {
            0 => {
                // Killed in the midst of a roster, or beside it.
                store.hang.store(dice & (1 << 40) != 0, Ordering::Relaxed);
                clock.by(Duration::from_mins(1));
                let log = Arc::clone(coordinator.transparency());
                let asked = tokio::spawn(async move { log.roster().await });
                tokio::task::yield_now().await;
                asked.abort();
                drop(coordinator);
                coordinator = start().await;
            }
            1 => drop(store.full.fetch_xor(true, Ordering::Relaxed)),
            2 => drop(store.mute.fetch_xor(true, Ordering::Relaxed)),
            3 => drop(store.hang.fetch_xor(true, Ordering::Relaxed)),
            _ => clock.by(Duration::from_secs(dice >> 40 & 63)),
        }
        let log = coordinator.transparency();
        let Ok(json) = log.roster().await else { continue };
        let signed: SignedRoster = serde_json::from_slice(&json).unwrap();
        let number = serde_json::from_str::<Roster>(&signed.roster).unwrap().number;
        assert!(number >= last, "seed {seed}, step {step}");
        last = number;
        for text in [&signed.checkpoint, &log.checkpoint()] {
            let signed = SignedCheckpoint::decode(text).unwrap();
            let new = signed.verify(&identity().public()).unwrap();
            if new.size < old.size {
                continue;
            }
            let proof = log.consistency(old.size, new.size).await.unwrap();
            let grown = verify_consistency(&old, &new, &hashes(&proof.hashes));
            assert_eq!(grown, Ok(()), "seed {seed}, step {step}");
            old = new;
        }
    }
    assert!(last > 3, "seed {seed}: {last} rosters");
    let coordinator = start().await;
    let tip = SignedCheckpoint::decode(&coordinator.transparency().checkpoint()).unwrap();
    let tip = tip.verify(&identity().public()).unwrap();
    assert!(tip.size >= old.size, "seed {seed}: what was shown is kept");
    let mut frontier = Frontier::new();
    while frontier.size() < tip.size {
        let page = coordinator.transparency().entries(frontier.size(), 256).await.unwrap();
        for entry in &page.entries {
            frontier.append(leaf_hash(entry.as_bytes())).unwrap();
        }
    }
    assert_eq!(frontier.root(), tip.root, "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn log_only_grows_whatever_happens_to_its_store_and_coordinator() {
    for seed in 0..30 {
        live_through(seed).await;
    }
}

#[tokio::test]
async fn two_coordinators_on_one_store_do_not_fork_the_log() {
    let store = MemoryStore::new();
    let clock = Ahead::default();
    let one = Public::over(Arc::new(store.clone()), clock.clone()).await;
    let two = Public::over(Arc::new(store.clone()), clock.clone()).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        clock.by(Duration::from_mins(1));
        for public in [&one, &two] {
            // Whoever comes second finds the log longer than it knew, and asks the store anew.
            let reply = public.net.get("/roster").await;
            if reply.status == 200 {
                let signed: SignedRoster = serde_json::from_slice(&reply.body).unwrap();
                seen.push(public.verified(&signed.checkpoint));
            }
        }
    }
    assert!(seen.len() > 6, "{seen:?}");
    clock.by(Duration::from_mins(1));
    one.net.get("/roster").await;
    clock.by(Duration::from_mins(1));
    one.roster().await;
    for old in &seen {
        one.check_growth(old).await;
    }
}

#[tokio::test]
async fn log_of_another_coordinator_is_not_gone_on_with() {
    let store = MemoryStore::new();
    Public::over(Arc::new(store.clone()), Ahead::default()).await.stop().await;
    let secret = Secret::from_bytes([9; 32]);
    let other = Identity::generate();
    let own = other.public();
    let started = Coordinator::builder(Arc::new(store), other, secret).build().await;
    let Err(StartError::OtherCoordinator { found, own: said }) = started else {
        panic!("it started: {started:?}")
    };
    assert_eq!((found, said), (identity().public(), own));
}

#[tokio::test]
async fn what_the_log_does_not_hold_is_the_callers_mistake() {
    let public = Public::start().await;
    public.roster().await;
    for path in [
        "/log/inclusion",
        "/log/inclusion?index=0",
        "/log/inclusion?index=2&size=2",
        "/log/inclusion?index=0&size=3",
        "/log/inclusion?index=0&size=18446744073709551615",
        "/log/inclusion?index=-1&size=2",
        "/log/inclusion?index=0&size=18446744073709551616",
        "/log/consistency?from=2&to=1",
        "/log/consistency?from=0&to=3",
        "/log/consistency?from=1&from=1&to=2",
        "/log/entries",
        "/log/entries?start=3",
        "/log/entries?start=0&count=0",
        "/log/entries?start=0&count=257",
        "/log/entries?start=18446744073709551615&count=256",
    ] {
        let reply = public.net.get(path).await;
        assert_eq!((reply.status, reply.error_code()), (400, json!(null)), "{path}");
    }
}

#[tokio::test]
async fn roster_and_log_are_for_those_who_may_look() {
    let public = Public::start().await;
    let node = key(&public.net.coordinator, public.net.account, KeyScope::Node).await;
    for path in [
        "/roster",
        "/log/checkpoint",
        "/log/inclusion?index=0&size=1",
        "/log/consistency?from=1&to=1",
        "/log/entries?start=0",
    ] {
        let ask = |bearer: &str| request("GET", path, &[("authorization", bearer)], "");
        let status = async |bearer: &str| send(public.net.address, ask(bearer)).await.status;
        assert_eq!(status("Bearer nothing").await, 401, "{path}");
        assert_eq!(status(&format!("Bearer {node}")).await, 403, "{path}");
        assert_eq!(status(&format!("Bearer {}", public.net.operator)).await, 200, "{path}");
    }
}
