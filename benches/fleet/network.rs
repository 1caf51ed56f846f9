//! The network as events in virtual time.
//!
//! A task takes the node that its scheduler chooses, or waits in one line for the next free one. A
//! node that refuses is passed over and the task goes on at once; one that stalls is given up after
//! fifteen seconds, and a task that stalled twice has failed: the rules of
//! [`RetryPolicy`](iris_core::task::RetryPolicy). What a node did is told to the registry as the
//! coordinator tells it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_core::demand::Demand;
use iris_core::model::{ModelOffer, TokenRate};
use iris_core::registry::{NodeProfile, Registry, Seat};
use iris_core::reputation::Points;
use iris_core::scheduler::Scheduler;
use iris_core::standing::Standings;
use iris_core::task::AttemptEnd;
use iris_core::{AccountId, NodeId, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::fleet::{self, FLEET, Kind, Work};
use crate::tally::Run;
use crate::ways::Way;

const MODEL: &str = "m";
/// Owner of the many nodes; every other node has an owner of its own.
const ONE_OWNER: u128 = 1;
/// When the new nodes join, in seconds.
const JOIN: f64 = 20.0 * 60.0;
/// What happens before is not counted: the network has to learn first.
const WARM_UP: f64 = 10.0 * 60.0;
const STALL: f64 = 15.0;
const MAX_OFFERS: usize = 8;
const MAX_ACCEPTED: usize = 2;

pub(crate) struct Network {
    scheduler: Arc<dyn Scheduler>,
    registry: Registry,
    standings: Standings,
    nodes: Vec<Node>,
    tasks: Vec<Task>,
    line: VecDeque<usize>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    events_made: u64,
    random: StdRng,
    begun: Instant,
    now: f64,
    rate: f64,
    run: Run,
}

struct Node {
    kind: &'static Kind,
    seat: Seat,
    id: NodeId,
    owner: u128,
    in_use: u32,
    measured: bool,
}

struct Task {
    work: Work,
    submitted: f64,
    demand: Demand,
    accepted: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Joins,
    Finishes { task: usize, node: usize },
    Stalls { task: usize, node: usize },
}

impl Network {
    pub(crate) fn new(way: Way, load: f64, seed: u64) -> Self {
        let mut network = Self {
            scheduler: way.scheduler(),
            registry: Registry::default(),
            standings: Standings::default(),
            nodes: Vec::new(),
            tasks: Vec::new(),
            line: VecDeque::new(),
            events: BinaryHeap::new(),
            events_made: 0,
            random: StdRng::seed_from_u64(seed),
            begun: Instant::now(),
            now: 0.0,
            rate: load * fleet::capacity() / fleet::mean_answer(),
            run: Run::default(),
        };
        for kind in FLEET.iter().filter(|kind| !kind.new) {
            network.join(kind);
        }
        network
    }

    /// Runs for so many virtual minutes.
    #[expect(clippy::cast_precision_loss, reason = "some hours have few minutes")]
    pub(crate) fn run(mut self, minutes: u64) -> Run {
        let end = minutes as f64 * 60.0;
        self.plan(JOIN, Event::Joins);
        self.plan(0.0, Event::Arrives);
        while let Some(Reverse((micros, _, event))) = self.events.pop() {
            self.pass_to(seconds(micros).min(end));
            if self.now >= end {
                break;
            }
            self.handle(event);
        }
        self.run.seconds = end - WARM_UP;
        self.run
    }

    /// Lets time pass, and counts the slots that are in use.
    fn pass_to(&mut self, now: f64) {
        let counted = (now - self.now.max(WARM_UP)).max(0.0);
        for node in &self.nodes {
            self.run.busy += f64::from(node.in_use) * counted;
            self.run.slots += f64::from(node.kind.slots) * counted;
        }
        self.now = now;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrives => {
                let gap = fleet::gap(&mut self.random, self.rate);
                self.plan(self.now + gap, Event::Arrives);
                let work = Work::draw(&mut self.random);
                let demand = Demand::new(MODEL.parse().expect("the text names a model"));
                let task = Task { work, submitted: self.now, demand, accepted: 0 };
                self.tasks.push(task);
                self.place(self.tasks.len() - 1);
            }
            Event::Joins => {
                for kind in FLEET.iter().filter(|kind| kind.new) {
                    self.join(kind);
                }
                self.serve();
            }
            Event::Finishes { task, node } => {
                self.finish(task, node);
                self.free(node);
            }
            Event::Stalls { task, node } => {
                self.observe(node, AttemptEnd::Stalled);
                if self.tasks[task].accepted >= MAX_ACCEPTED {
                    self.fail(task);
                } else {
                    self.place(task);
                }
                self.free(node);
            }
        }
    }

    fn join(&mut self, kind: &'static Kind) {
        for number in 0..kind.count {
            let index = self.nodes.len();
            let owner = if number < kind.of_one_owner { ONE_OWNER } else { 100 + index as u128 };
            let mut offer = ModelOffer::new(MODEL.parse().expect("the text names a model"), 32_768);
            if !kind.new {
                offer.speed = Some(rate(kind.speed));
            }
            let id = node_id(index);
            let profile = NodeProfile {
                id,
                owner: AccountId::from_bytes(owner.to_be_bytes()),
                name: String::new(),
                slots: kind.slots,
                models: vec![offer],
                datasets: Vec::new(),
                memory_gb: None,
                terms: iris_core::terms::Terms::default(),
            };
            let seat = self.registry.join(profile, Points::START);
            self.nodes.push(Node { kind, seat, id, owner, in_use: 0, measured: !kind.new });
        }
    }

    /// Finds a node for a task, or lets it wait.
    fn place(&mut self, task: usize) {
        while self.tasks[task].demand.exclude.len() < MAX_OFFERS {
            let now = self.begun + Duration::from_secs_f64(self.now);
            let seed = self.random.random();
            let demand = &self.tasks[task].demand;
            let Some(chosen) = self.scheduler.choose(&self.registry, demand, now, seed).chosen
            else {
                return self.line.push_back(task);
            };
            let found = self.nodes.iter().position(|node| node.seat == chosen.seat);
            let node = found.expect("a node that is chosen has joined");
            self.tasks[task].demand.exclude.push(self.nodes[node].id);
            assert!(self.registry.reserve(chosen.seat), "a node that is chosen has a free slot");
            let demand = &self.tasks[task].demand;
            self.registry.count_work(chosen.seat, &demand.model);
            if self.start(task, node) {
                return;
            }
        }
        self.fail(task);
    }

    /// Offers a task to a node; false when it is turned down.
    fn start(&mut self, task: usize, node: usize) -> bool {
        let kind = self.nodes[node].kind;
        let luck: f64 = self.random.random();
        if luck < kind.refuses {
            self.registry.release(self.nodes[node].seat);
            self.observe(node, AttemptEnd::Refused);
            return false;
        }
        self.tasks[task].accepted += 1;
        self.nodes[node].in_use += 1;
        if luck < kind.refuses + kind.stalls {
            self.plan(self.now + STALL, Event::Stalls { task, node });
        } else {
            let speed = fleet::speed(kind, self.nodes[node].in_use);
            let seconds = self.tasks[task].work.seconds(speed);
            self.plan(self.now + seconds, Event::Finishes { task, node });
        }
        if kind.new && self.run.first_work.is_none() {
            self.run.first_work = Some(self.now - JOIN);
        }
        true
    }

    fn finish(&mut self, task: usize, node: usize) {
        self.observe(node, AttemptEnd::Done);
        let Task { work, submitted, .. } = self.tasks[task];
        let Node { kind, owner, .. } = self.nodes[node];
        if !self.nodes[node].measured {
            self.nodes[node].measured = true;
            let model = MODEL.parse().expect("the text names a model");
            let mut offer = ModelOffer::new(model, 32_768);
            offer.speed = Some(rate(kind.speed));
            self.registry.update(self.nodes[node].seat, kind.slots, vec![offer]);
        }
        if submitted < WARM_UP {
            return;
        }
        self.run.latencies.push(self.now - submitted);
        self.run.tokens += work.answer_tokens;
        if owner == ONE_OWNER {
            self.run.one_owner += work.answer_tokens;
        }
        if submitted >= JOIN {
            self.run.since_join += work.answer_tokens;
            if kind.new {
                self.run.by_new += work.answer_tokens;
            }
        }
    }

    fn fail(&mut self, task: usize) {
        if self.tasks[task].submitted >= WARM_UP {
            self.run.failed += 1;
        }
    }

    fn free(&mut self, node: usize) {
        self.nodes[node].in_use -= 1;
        self.registry.release(self.nodes[node].seat);
        self.serve();
    }

    /// Places those who wait, the first in line first, until one finds no node.
    fn serve(&mut self) {
        for _ in 0..self.line.len() {
            let Some(task) = self.line.pop_front() else { return };
            let waiting = self.line.len();
            self.place(task);
            if self.line.len() > waiting {
                // It went to the end of the line, where it did not stand.
                let task = self.line.pop_back();
                self.line.extend(task);
                self.line.rotate_right(1);
                return;
            }
        }
    }

    /// Tells the registry what a node did.
    fn observe(&mut self, node: usize, end: AttemptEnd) {
        let at = Timestamp::from_millis(micros(self.now) / 1000);
        let Node { id, seat, .. } = self.nodes[node];
        if let Some(standing) = self.standings.note(id, end, at) {
            self.registry.set_standing(seat, standing);
        }
    }

    fn plan(&mut self, at: f64, event: Event) {
        self.events_made += 1;
        self.events.push(Reverse((micros(at), self.events_made, event)));
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times are positive")]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

#[expect(clippy::cast_precision_loss, reason = "some hours have few microseconds")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn rate(speed: f64) -> TokenRate {
    TokenRate::measured(1_000, Duration::from_secs_f64(1_000.0 / speed))
}

fn node_id(number: usize) -> NodeId {
    let digit = |shift: usize| char::from(b'a' + u8::try_from(number >> shift & 15).unwrap_or(0));
    let text: String = ['a'; 23].into_iter().chain([digit(8), digit(4), digit(0)]).collect();
    text.parse().expect("letters make a node's id")
}
