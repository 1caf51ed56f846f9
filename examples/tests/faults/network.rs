//! A network of processes that can be hurt.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use iris_coordinator::Accounts;
use iris_coordinator::store::SqliteStore;
use iris_protocol::rest::KeyScope;
use serde_json::Value;

use crate::HEALED;
use crate::live::caller::{self, Request};
use crate::live::chat;
use crate::live::child::Child;
use crate::roles::{
    COORDINATOR, FAULTS, LISTEN, MODEL_SERVER, NODE_KEY, NODE_NUMBER, STORE, secret,
};

/// A coordinator, nodes, and the model server behind all of them.
pub(crate) struct Network {
    _folder: tempfile::TempDir,
    database: PathBuf,
    pub(crate) key: String,
    node_key: String,
    /// The same for every coordinator there is, one after the other.
    pub(crate) address: SocketAddr,
    pub(crate) coordinator: Option<Child>,
    pub(crate) nodes: Vec<Option<Child>>,
    model_address: SocketAddr,
    model_server: Option<Child>,
    /// From which seed the faults of its answers are drawn.
    pub(crate) faults: Option<u64>,
    pub(crate) outages: Arc<Outages>,
}

/// A part that can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Coordinator,
    Node(usize),
    ModelServer,
}

impl Network {
    /// Starts everything and waits until it serves.
    pub(crate) async fn begin(nodes: usize) -> Self {
        let mut network = Self::with_coordinator("").await;
        network.start(Part::ModelServer).await;
        for number in 0..nodes {
            network.nodes.push(None);
            network.start(Part::Node(number)).await;
        }
        network.serves().await;
        network
    }

    /// Starts a coordinator in surroundings that a shell prepares by `setup`.
    pub(crate) async fn with_coordinator(setup: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("iris.db");
        Self::new(folder, database, &[], setup).await
    }

    /// Starts a coordinator whose books lie on a file system of `size` that it alone sees.
    pub(crate) async fn with_small_disk(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let setup = format!(
            "mount -t tmpfs -o size={size} tmpfs '{0}' && cp '{1}' '{0}' &&",
            disk.display(),
            folder.path().join("iris.db").display()
        );
        Self::new(folder, disk.join("iris.db"), &["unshare", "-m"], &setup).await
    }

    async fn new(
        folder: tempfile::TempDir,
        database: PathBuf,
        wrapper: &[&str],
        setup: &str,
    ) -> Self {
        let (key, node_key) = open_account(folder.path().join("iris.db")).await;
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut network = Self {
            _folder: folder,
            database,
            key,
            node_key,
            address: free,
            coordinator: None,
            nodes: Vec::new(),
            model_address: free,
            model_server: None,
            faults: None,
            outages: Arc::default(),
        };
        let settings = network.coordinator_settings();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
        let mut child = Child::start_within(wrapper, setup, "roles::coordinator", &settings);
        network.address = child.says("address ").await.parse().unwrap();
        network.coordinator = Some(child);
        network
    }

    pub(crate) fn database(&self) -> &Path {
        &self.database
    }

    fn coordinator_settings(&self) -> [(&'static str, String); 2] {
        let path = self.database.to_str().unwrap().to_owned();
        [(STORE, path), (LISTEN, self.address.to_string())]
    }

    /// Starts a part where it was before, and waits until it says that it is there.
    pub(crate) async fn start(&mut self, part: Part) {
        match part {
            Part::Coordinator => {
                let [store, listen] = self.coordinator_settings();
                let settings = [(store.0, &*store.1), (listen.0, &*listen.1)];
                let mut child = Child::start("roles::coordinator", &settings);
                child.says("address ").await;
                self.coordinator = Some(child);
                self.outages.over();
            }
            Part::ModelServer => {
                let listen = self.model_address.to_string();
                let faults = self.faults.map(|seed| seed.to_string());
                let faults = faults.as_deref().map(|seed| (FAULTS, seed));
                let settings: Vec<_> = [(LISTEN, &*listen)].into_iter().chain(faults).collect();
                let mut child = Child::start("roles::model_server", &settings);
                self.model_address = child.says("address ").await.parse().unwrap();
                self.model_server = Some(child);
            }
            Part::Node(number) => {
                let url = format!("http://{}", self.address);
                let server = format!("http://{}", self.model_address);
                let settings = [
                    (COORDINATOR, &*url),
                    (NODE_KEY, &*self.node_key),
                    (NODE_NUMBER, &*(number + 1).to_string()),
                    (MODEL_SERVER, &*server),
                ];
                self.nodes[number] = Some(Child::start("roles::node", &settings));
            }
        }
    }

    /// Kills a part, by SIGKILL.
    pub(crate) fn kill(&mut self, part: Part) {
        let child = match part {
            Part::Coordinator => {
                self.outages.begin();
                self.coordinator.take()
            }
            Part::ModelServer => self.model_server.take(),
            Part::Node(number) => self.nodes[number].take(),
        };
        child.unwrap().kill();
    }

    pub(crate) fn child(&self, part: Part) -> &Child {
        let child = match part {
            Part::Coordinator => &self.coordinator,
            Part::ModelServer => &self.model_server,
            Part::Node(number) => &self.nodes[number],
        };
        child.as_ref().unwrap()
    }

    /// Waits until a question is answered.
    pub(crate) async fn serves(&self) {
        let request =
            Request::post("/v1/chat/completions", chat("there?", false)).bearer(&self.key);
        let mut last = String::new();
        let begun = Instant::now();
        while begun.elapsed() < HEALED {
            match caller::send(self.address, &request).await {
                Ok(mut reply) if reply.status == 200 => {
                    if reply.text().await.is_ok() {
                        return;
                    }
                }
                Ok(mut reply) => {
                    let text = reply.text().await;
                    last = format!("{}: {text:?}", reply.status);
                }
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nothing serves within {HEALED:?}: {last}");
    }

    /// Waits until nothing is worked on anywhere.
    pub(crate) async fn is_idle(&self) {
        let begun = Instant::now();
        let mut seen = (u64::MAX, u64::MAX);
        while begun.elapsed() < HEALED {
            let slots = self.running().await;
            let mut reply =
                caller::send(self.model_address, &Request::get("/running")).await.unwrap();
            seen = (slots, reply.json().await.as_u64().unwrap());
            if seen == (0, 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("slots taken, and answers still made: {seen:?}");
    }

    /// Waits until as many slots are taken.
    pub(crate) async fn has_running(&self, count: u64) {
        let begun = Instant::now();
        while self.running().await != count {
            assert!(begun.elapsed() < HEALED, "not {count} slots taken within {HEALED:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn running(&self) -> u64 {
        let nodes = self.get("/nodes").await;
        let running = nodes["nodes"].as_array().unwrap().iter().map(|node| &node["running"]);
        running.map(|running| running.as_u64().unwrap()).sum()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = Request::get(path).bearer(&self.key);
        caller::send(self.address, &request).await.unwrap().json().await
    }

    /// Waits until as many nodes are connected.
    pub(crate) async fn has_nodes(&self, count: usize) {
        let begun = Instant::now();
        while self.get("/healthz").await["nodes"] != count {
            assert!(begun.elapsed() < HEALED, "not {count} nodes within {HEALED:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns one figure of the coordinator's.
    pub(crate) async fn figure(&self, name: &str) -> u64 {
        let request = Request::get("/metrics");
        let text = caller::send(self.address, &request).await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }
}

/// Makes a database with one account; returns its keys for callers and for nodes.
pub(crate) async fn open_account(path: PathBuf) -> (String, String) {
    let store = Arc::new(SqliteStore::open(path, &[]).unwrap());
    let accounts = Accounts::load(store, secret()).await.unwrap();
    let account = accounts.create_account().await.unwrap().account;
    let key = async |scope| {
        let created = accounts.create_key_for(account, scope).await.unwrap();
        created.key.expose().to_owned()
    };
    (key(KeyScope::Inference).await, key(KeyScope::Node).await)
}

/// When the coordinator was away: an odd count says that it is.
#[derive(Debug, Default)]
pub(crate) struct Outages(AtomicUsize);

impl Outages {
    fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn over(&self) {
        // The first start ends no outage.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
            (count % 2 == 1).then_some(count + 1)
        });
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Returns whether the coordinator was away at any moment since there were `count`.
    pub(crate) fn excuse(&self, count: usize) -> bool {
        count % 2 == 1 || self.count() != count
    }
}
