use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use iris_core::store::{Key, Store};
use iris_core::task::TaskState;
use iris_core::{AccountId, TaskId};
use iris_protocol::rest::KeyScope;
use serde::Deserialize;
use tokio::runtime::Runtime;

use super::COORDINATOR;
use super::caller::Caller;
use super::dice::Dice;
use super::disk::Disk;
use super::host::{self, Host, Parts};
use super::node::{NodePlan, ScriptedNode};
use super::trace::Trace;
use crate::accounts::{Accounts, NewKey};
use crate::http::ApiSettings;
use crate::settlement::{SETTLEMENT, Settlement};
use crate::{Builder as CoordinatorBuilder, Coordinator};

/// How many steps the first start may take.
const FIRST_START: u32 = 1000;
/// How much virtual time passes at a time; messages travel for at least as long.
const TICK: Duration = Duration::from_millis(10);
/// How often the promises that hold at any time are checked.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// How long a node may seem dead: as long as its last words and its first ones travel.
const SLACK: Duration = Duration::from_secs(10);

/// A network that lives in one thread, in virtual time, from a seed.
///
/// See the [module's documentation](super) for what is real in it. Nothing happens outside of
/// [`run_for`](Self::run_for) and [`run_callers`](Self::run_callers).
pub struct Simulation {
    sim: turmoil::Sim<'static>,
    host: Rc<Host>,
    store: Arc<dyn Store>,
    nodes: BTreeMap<String, ScriptedNode>,
    /// Callers that are not done.
    busy: Arc<AtomicUsize>,
    dice: Dice,
    trace: Trace,
    /// Runs what is not part of the simulation, such as a look into the store.
    aside: Runtime,
    checked: Duration,
    /// Nodes that the coordinator knows and that seem dead, since when.
    suspects: BTreeMap<String, Duration>,
}

/// Puts a [`Simulation`] together.
pub struct Builder {
    seed: u64,
    latency: (Duration, Duration),
    parts: Parts,
}

impl Builder {
    /// Sets how long a message takes from host to host, at least and at most. Default: 1 to
    /// 20 ms. Time moves in steps of 10 ms.
    pub const fn with_latency(mut self, least: Duration, most: Duration) -> Self {
        self.latency = (least, most);
        self
    }

    /// Changes the coordinator before each of its starts: its scheduler, its ledger, its limits.
    pub fn with_coordinator(
        mut self,
        change: impl Fn(CoordinatorBuilder) -> CoordinatorBuilder + 'static,
    ) -> Self {
        self.parts.coordinator = Box::new(change);
        self
    }

    /// Makes the coordinator's store, at each of its starts. Default: the [`Disk`] itself.
    ///
    /// A store of one's own keeps its records on the disk, or wherever they survive a crash. One
    /// that works in threads of its own works in real time, so such a run does not repeat.
    pub fn with_store(mut self, make: impl Fn(Disk) -> Arc<dyn Store> + 'static) -> Self {
        self.parts.store = Box::new(make);
        self
    }

    /// Sets what the coordinator's API may do.
    pub fn with_api(mut self, api: ApiSettings) -> Self {
        self.parts.api = api;
        self
    }

    /// Builds the network, and lets the coordinator start for the first time.
    pub fn build(self) -> Simulation {
        let mut dice = Dice::new(self.seed);
        let trace = Trace::new();
        let mut network = turmoil::Builder::new();
        network
            .rng_seed(dice.draw())
            .simulation_duration(Duration::MAX)
            .epoch(std::time::UNIX_EPOCH)
            .tick_duration(TICK)
            .tcp_capacity(256)
            .min_message_latency(self.latency.0)
            .max_message_latency(self.latency.1);
        let disk = Disk::new(dice.fork(), trace.clone());
        let host = Rc::new(Host::new(self.parts, disk.clone(), trace.clone(), dice.draw()));
        let store = (host.parts.store)(disk);
        let aside = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let mut simulation = Simulation {
            sim: network.build(),
            host: Rc::clone(&host),
            store,
            nodes: BTreeMap::new(),
            busy: Arc::default(),
            dice,
            trace,
            aside: aside.expect("a runtime without sockets can be built"),
            checked: Duration::ZERO,
            suspects: BTreeMap::new(),
        };
        simulation.sim.host(COORDINATOR, move || Rc::clone(&host).run());
        // Nobody asks before there is a server, however many commits its first start takes.
        for _ in 0..FIRST_START {
            if simulation.coordinator().is_some() {
                break;
            }
            simulation.step();
        }
        simulation
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl Simulation {
    /// Begins a network whose chances follow from `seed`.
    pub fn builder(seed: u64) -> Builder {
        let parts = Parts {
            store: Box::new(|disk| Arc::new(disk)),
            coordinator: Box::new(|builder| builder),
            api: ApiSettings::default(),
        };
        let latency = (Duration::from_millis(1), Duration::from_millis(20));
        Builder { seed, latency, parts }
    }

    /// Adds a node on a host of its own. Names are unique among all hosts.
    pub fn node(&mut self, name: &str, plan: NodePlan) -> ScriptedNode {
        let key = self.key(name, KeyScope::Node);
        let (coordinator, dice) = (host::public_identity(), self.dice.fork());
        let node = ScriptedNode::new(name, plan, key, coordinator, dice, self.trace.clone());
        let program = node.clone();
        self.sim.host(name, move || program.clone().run());
        self.nodes.insert(name.to_owned(), node.clone());
        node
    }

    /// Adds a host that runs `program`, such as a real node; it gets an API key of the scope
    /// `node`. The program is started again after [`restart`](Self::restart).
    pub fn host<F>(&mut self, name: &str, program: impl Fn(String) -> F + 'static)
    where
        F: Future<Output = turmoil::Result> + 'static,
    {
        let key = self.key(name, KeyScope::Node);
        self.sim.host(name, move || program(key.clone()));
    }

    /// Adds a caller on a host of its own, who does what `program` says and is done.
    pub fn caller<F>(&mut self, name: &str, program: impl FnOnce(Caller) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let key = self.key(name, KeyScope::Inference);
        let program = program(Caller { name: name.to_owned(), key, trace: self.trace.clone() });
        self.busy.fetch_add(1, Ordering::Relaxed);
        let busy = Arc::clone(&self.busy);
        self.sim.client(name, async move {
            program.await;
            busy.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        });
    }

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    /// Lets time pass until every caller is done, at most `limit`; returns whether they are.
    pub fn run_callers(&mut self, limit: Duration) -> bool {
        let end = self.sim.elapsed() + limit;
        while self.busy.load(Ordering::Relaxed) > 0 {
            if self.sim.elapsed() >= end {
                return false;
            }
            self.step();
        }
        true
    }

    /// Returns how much time has passed.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Returns the coordinator while it runs, to look into it. Do not keep it over a crash.
    pub fn coordinator(&self) -> Option<Coordinator> {
        self.host.coordinator()
    }

    /// Returns the coordinator's disk.
    pub fn disk(&self) -> &Disk {
        &self.host.disk
    }

    /// Returns the nodes by their names.
    pub const fn nodes(&self) -> &BTreeMap<String, ScriptedNode> {
        &self.nodes
    }

    /// Returns what has happened, and which promises were broken.
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Ends what runs on a host, at once and without a word.
    pub fn crash(&mut self, host: &str) {
        self.trace.note(host, "crashes");
        if host == COORDINATOR {
            self.host.forget();
        }
        self.sim.crash(host);
    }

    /// Starts a host again, after a crash or a stop; what still runs there ends.
    pub fn restart(&mut self, host: &str) {
        self.trace.note(host, "restarts");
        if host == COORDINATOR {
            self.host.forget();
        }
        self.sim.bounce(host);
    }

    /// Returns when the coordinator began to serve, each time it was started.
    pub(super) fn serves(&self) -> Vec<Duration> {
        self.host.serves()
    }

    /// Returns whether anything runs on a host.
    pub fn is_running(&mut self, host: &str) -> bool {
        self.sim.is_host_running(host)
    }

    /// Asks the coordinator to stop in good order, within a few seconds.
    pub fn stop_coordinator(&mut self) {
        self.trace.note(COORDINATOR, "is stopped");
        self.host.stop();
    }

    /// Throws away whatever two hosts send each other. Connections that lose a message never
    /// deliver anything again, as with a firewall that forgot them.
    pub fn partition(&mut self, one: &str, other: &str) {
        self.trace.note(one, format_args!("is cut off from {other}"));
        self.sim.partition(one, other);
    }

    /// Keeps back whatever two hosts send each other; nothing is lost.
    pub fn hold(&mut self, one: &str, other: &str) {
        self.trace.note(one, format_args!("is held apart from {other}"));
        self.sim.hold(one, other);
    }

    /// Ends a partition, or delivers what was kept back.
    pub fn repair(&mut self, one: &str, other: &str) {
        self.trace.note(one, format_args!("reaches {other} again"));
        self.sim.release(one, other);
    }

    /// Sets how long messages take between two hosts, exactly.
    pub fn set_latency(&mut self, one: &str, other: &str, latency: Duration) {
        self.trace.note(one, format_args!("is {} ms from {other}", latency.as_millis()));
        self.sim.set_link_latency(one, other, latency);
    }

    /// Loses this share of messages between two hosts, 0 to 1, and what is on its way with them.
    pub fn set_loss(&mut self, one: &str, other: &str, share: f64) {
        self.trace.note(one, format_args!("loses {share} of messages with {other}"));
        self.sim.set_link_fail_rate(one, other, share);
    }

    /// Sets by how many milliseconds a host's calendar is ahead, or behind where negative.
    pub fn set_clock_skew(&mut self, host: &str, millis: i64) {
        self.trace.note(host, format_args!("calendar is off by {millis} ms"));
        if host == COORDINATOR {
            self.host.clock.set_skew(millis);
        } else if let Some(node) = self.nodes.get(host) {
            node.shared.clock.set_skew(millis);
        }
    }

    /// Returns all settlements that are durable now.
    pub fn settlements(&self) -> Vec<Settlement> {
        self.records(SETTLEMENT).into_iter().map(|(_, settlement)| settlement).collect()
    }

    /// Returns all durable tasks with their states, as far as they are kept.
    pub fn durable_tasks(&self) -> BTreeMap<TaskId, TaskState> {
        #[derive(Deserialize)]
        struct State {
            state: TaskState,
        }
        let records: Vec<(String, State)> = self.records("inference");
        let task = |(id, State { state }): (String, State)| Some((id.parse().ok()?, state));
        records.into_iter().filter_map(task).collect()
    }

    /// Returns the durable tasks that are divided: their steps are settled, and not they.
    pub fn divided_tasks(&self) -> BTreeSet<TaskId> {
        #[derive(Deserialize)]
        struct Divided {
            mode: Option<iris_core::plan::Mode>,
        }
        let records: Vec<(String, Divided)> = self.records("inference");
        let divided = records.into_iter().filter(|(_, task)| task.mode.is_some());
        divided.filter_map(|(id, _)| id.parse().ok()).collect()
    }

    /// Returns whether no slot is taken, nobody stands in line and no node works.
    pub fn is_at_rest(&self) -> bool {
        let stats = self.coordinator().map(|coordinator| coordinator.stats());
        stats.is_some_and(|stats| stats.slots_in_use == 0 && stats.queued == 0)
            && self.nodes.values().all(|node| node.running() == 0)
    }

    /// Checks what must hold once nobody asks for anything any more: no slot is taken, nobody
    /// stands in line, and no node works. What is broken is in the [trace](Self::trace).
    pub fn check_rest(&self) {
        let Some(coordinator) = self.coordinator() else {
            return self.trace.broken(COORDINATOR, "it does not run");
        };
        let stats = coordinator.stats();
        if stats.slots_in_use > 0 {
            self.trace.broken(COORDINATOR, format_args!("{} slots leaked", stats.slots_in_use));
        }
        if stats.queued > 0 {
            self.trace.broken(COORDINATOR, format_args!("{} tasks wait for ever", stats.queued));
        }
        for (name, node) in &self.nodes {
            if node.running() > 0 {
                self.trace.broken(name, format_args!("works on {} for nobody", node.running()));
            }
        }
    }

    fn step(&mut self) {
        let stepped = self.sim.step().map(drop).map_err(|error| error.to_string());
        self.trace.set_now(self.sim.elapsed());
        if let Err(error) = stepped {
            self.trace.broken("simulation", format_args!("a host failed: {error}"));
        }
        if self.sim.elapsed() >= self.checked + CHECK_EVERY {
            self.checked = self.sim.elapsed();
            self.check_leases();
        }
    }

    /// Checks that no node holds more than it has room for, nor anything once it is long dead.
    fn check_leases(&mut self) {
        let Some(coordinator) = self.coordinator() else { return self.suspects.clear() };
        let (now, limits) = (self.sim.elapsed(), self.host.limits());
        let dead_after = limits.heartbeat + limits.lost + limits.resume_grace;
        let known = coordinator.nodes();
        for (name, node) in &self.nodes {
            let Some(seen) = known.iter().find(|seen| seen.id == node.id()) else {
                self.suspects.remove(name);
                continue;
            };
            if seen.running > seen.slots {
                self.trace.broken(name, format_args!("{} of {} slots", seen.running, seen.slots));
            }
            if now <= node.last_alive() + dead_after {
                self.suspects.remove(name);
                continue;
            }
            let since = *self.suspects.entry(name.clone()).or_insert(now);
            if now > since + SLACK {
                self.trace.broken(name, format_args!("dead, and holds {}", seen.running));
            }
        }
    }

    /// Mints an API key for an account of its own.
    fn key(&mut self, name: &str, scope: KeyScope) -> String {
        let account = AccountId::from_bytes(self.dice.bytes());
        let (store, secret) = (Arc::clone(&self.store), host::secret());
        let clock = Arc::new(self.host.clock.clone());
        let minted = self.aside.block_on(async {
            let accounts = Accounts::load(store, secret).await?.with_clock(clock);
            accounts.open_account(account).await?;
            let key = NewKey { label: Some(name.to_owned()), ..scope.into() };
            accounts.create_key_for(account, key).await
        });
        minted.expect("a disk that is not full keeps a key").key.expose().to_owned()
    }

    fn records<T: serde::de::DeserializeOwned>(&self, kind: &str) -> Vec<(String, T)> {
        let records = self.store.scan(Key::all(kind)).map(|record| {
            let record = record?;
            Ok::<_, iris_core::store::StoreError>((
                record.key.id().to_owned(),
                record.value.decode()?,
            ))
        });
        match self.aside.block_on(records.try_collect()) {
            Ok(records) => records,
            Err(error) => {
                self.trace.broken("disk", error);
                Vec::new()
            }
        }
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}
