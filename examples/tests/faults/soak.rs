//! A while of load and harm, after which everything takes what it took before: processes are killed
//! and stopped, callers leave, and the model server's answers are cut, stand still and are garbled.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::live::caller::{self, Request};
use crate::live::chat;
use crate::live::dice::Dice;
use crate::load::{Load, question};
use crate::network::{Network, Part};
use crate::process::{self, Sample};
use crate::{QUIET, books, is_long, skip};

/// How many seconds it takes in the short form, where that is said.
const SECONDS: &str = "IRIS_TEST_SOAK_SECONDS";

const CALLERS: usize = 8;
/// The node that is left alone, and the one that is not.
const SPARED: usize = 0;
const HARMED: usize = 1;

/// By how much more memory may be in use in the last quarter than in the second: KiB, and percent.
const MORE_KIB: u64 = 4 << 10;
const MORE_PERCENT: u64 = 10;
/// By how many files and threads the end may differ from the beginning.
const MORE_FILES: u64 = 4;
/// How long the log beside the database may get: twice what is folded into the database at once.
const LONGEST_LOG: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_while_of_load_and_harm_nothing_has_grown() {
    let _quiet = QUIET.lock().await;
    if !process::is_known() {
        return skip("the soak", "There is no /proc here.");
    }
    let length = length();
    let mut dice = Dice::seeded();
    let mut network = Network::begin(2).await;
    network.has_nodes(2).await;
    let quiet = Moment::now(&network).await;
    // From now on answers fail in the middle, too.
    network.faults = Some(dice.below(usize::MAX) as u64);
    network.kill(Part::ModelServer);
    network.start(Part::ModelServer).await;
    let mut load = Load::begin(&network, CALLERS);
    let begun = Instant::now();
    let mut watch = Watch { begun, moments: Vec::new(), told: Duration::ZERO };
    let mut harm = Harm::default();
    while begun.elapsed() < length {
        harm.one(&mut network, &mut dice).await;
        watch.look(&network).await;
        load.check();
    }
    network.serves().await;
    let tally = load.stop().await;
    network.has_nodes(2).await;
    network.is_idle().await;
    let finished = books::ended(&network, &tally.accepted).await;
    // Connections that callers kept open, idle, are closed by now or soon.
    let after = settled(&network, &quiet).await;
    println!("quiet before  {quiet}\nquiet after   {after}");
    println!(
        "{:.0?}: {} whole, {} streamed, {} hung up, {} durable accepted, {finished} finished\n\
         typed errors: {:?}\n{harm:?}",
        begun.elapsed(),
        tally.whole,
        tally.streamed,
        tally.hung_up,
        tally.accepted.len(),
        tally.errors,
    );
    watch.is_flat();
    network.kill(Part::Coordinator);
    let rows = books::check(network.database(), &tally.accepted).await;
    println!(
        "{rows} settlements, {} bytes of database for each",
        process::size(network.database()) / rows as u64
    );
    assert_eq!(tally.broken, 0, "the coordinator was never away");
    assert!(tally.answered() > 0, "nobody got an answer");
}

/// Returns how long everything is hurt: ten minutes in the long form, as many seconds as `SECONDS`
/// says, or a few.
fn length() -> Duration {
    let said = std::env::var(SECONDS).ok().map(|seconds| seconds.parse().unwrap());
    Duration::from_secs(if is_long() { 600 } else { said.unwrap_or(12) })
}

/// What is done to the network.
#[derive(Debug, Default)]
struct Harm {
    nodes_killed: usize,
    model_servers_killed: usize,
    nodes_stopped: usize,
    callers_that_did_not_read: usize,
    junk: usize,
    idle_sockets: usize,
}

impl Harm {
    /// Does one bad thing, which takes a second or two.
    async fn one(&mut self, network: &mut Network, dice: &mut Dice) {
        let pause = Duration::from_millis(100 + dice.below(700) as u64);
        match dice.below(6) {
            0 => {
                self.nodes_killed += 1;
                network.kill(Part::Node(HARMED));
                tokio::time::sleep(pause).await;
                network.start(Part::Node(HARMED)).await;
            }
            1 => {
                self.model_servers_killed += 1;
                network.kill(Part::ModelServer);
                tokio::time::sleep(pause).await;
                network.start(Part::ModelServer).await;
            }
            2 => {
                // Sometimes for longer than a node may be silent.
                self.nodes_stopped += 1;
                network.child(Part::Node(HARMED)).signal("STOP");
                tokio::time::sleep(4 * pause).await;
                network.child(Part::Node(HARMED)).signal("CONT");
            }
            3 => {
                self.callers_that_did_not_read += 1;
                let body = chat(&question(0), true);
                let request = Request::post("/v1/chat/completions", body).bearer(&network.key);
                let mut stream = TcpStream::connect(network.address).await.unwrap();
                stream.write_all(&request.bytes()).await.unwrap();
                tokio::time::sleep(pause).await;
            }
            4 => {
                self.junk += 1;
                let mut reply = caller::send(network.address, &Request::upgrade()).await.unwrap();
                let _ = reply.text().await;
                let mut stream = TcpStream::connect(network.address).await.unwrap();
                stream.write_all(b"\x16\x03\x01 no HTTP at all\r\n\r\n").await.unwrap();
                tokio::time::sleep(pause).await;
            }
            _ => {
                let mut idle = Vec::new();
                for _ in 0..20 {
                    self.idle_sockets += 1;
                    idle.push(TcpStream::connect(network.address).await.unwrap());
                }
                tokio::time::sleep(pause).await;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// What everything takes at one moment.
#[derive(Clone, Copy, Debug)]
struct Moment {
    coordinator: Sample,
    node: Sample,
    slots_in_use: u64,
    waiting: u64,
    database: u64,
    log: u64,
}

impl Moment {
    async fn now(network: &Network) -> Self {
        let log = network.database().with_extension("db-wal");
        Self {
            coordinator: process::sample(network.child(Part::Coordinator).pid()),
            node: process::sample(network.child(Part::Node(SPARED)).pid()),
            slots_in_use: network.figure("iris_slots_in_use").await,
            waiting: network.figure("iris_tasks_waiting").await,
            database: process::size(network.database()),
            log: process::size(&log),
        }
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Sample { rss, threads, files, sockets } = self.coordinator;
        write!(f, "coordinator {rss} KiB, {threads} threads, {files} files, {sockets} sockets; ")?;
        let Sample { rss, threads, files, sockets } = self.node;
        write!(f, "node {rss} KiB, {threads} threads, {files} files, {sockets} sockets; ")?;
        let Self { slots_in_use, waiting, database, log, .. } = self;
        write!(f, "{slots_in_use} slots, {waiting} waiting; ")?;
        write!(f, "database {} KiB, log {} KiB", database >> 10, log >> 10)
    }
}

struct Watch {
    begun: Instant,
    moments: Vec<Moment>,
    told: Duration,
}

impl Watch {
    async fn look(&mut self, network: &Network) {
        let moment = Moment::now(network).await;
        let elapsed = self.begun.elapsed();
        if elapsed >= self.told {
            println!("{:>5.0} s       {moment}", elapsed.as_secs_f64());
            self.told = elapsed + Duration::from_secs(if is_long() { 30 } else { 3 });
        }
        self.moments.push(moment);
    }

    /// Compares the last quarter with the second, in which everything is warm.
    fn is_flat(&self) {
        let quarter = self.moments.len() / 4;
        let usual = |part: &[Moment], figure: Figure| {
            let mut figures: Vec<_> = part.iter().map(figure).collect();
            figures.sort_unstable();
            figures[figures.len() / 2]
        };
        let (second, last) = (&self.moments[quarter..2 * quarter], &self.moments[3 * quarter..]);
        let memory: [(&str, Figure); 2] =
            [("coordinator", |m| m.coordinator.rss), ("node", |m| m.node.rss)];
        for (whose, figure) in memory {
            let (before, after) = (usual(second, figure), usual(last, figure));
            println!(
                "memory of the {whose}: {before} KiB in the second quarter, {after} in the last"
            );
            let bound = before + MORE_KIB + before * MORE_PERCENT / 100;
            assert!(after <= bound, "memory of the {whose} grows: {before} to {after} KiB");
        }
        let longest = self.moments.iter().map(|moment| moment.log).max().unwrap();
        println!("longest log: {} KiB", longest >> 10);
        assert!(longest <= LONGEST_LOG, "the log beside the database grows: {longest}");
    }
}

/// Reads one figure of a moment.
type Figure = fn(&Moment) -> u64;

/// Waits until files and threads are back where they were, and returns what there is then.
async fn settled(network: &Network, before: &Moment) -> Moment {
    let begun = Instant::now();
    loop {
        let now = Moment::now(network).await;
        let more = |now: Sample, before: Sample| {
            now.files > before.files + MORE_FILES || now.threads > before.threads + MORE_FILES
        };
        if !more(now.coordinator, before.coordinator) && !more(now.node, before.node) {
            return now;
        }
        assert!(begun.elapsed() < crate::HEALED, "before: {before}\nnow: {now}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
