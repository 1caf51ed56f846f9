//! Runs random scenarios of a whole simulated network, and one of them again.
//!
//! ```sh
//! cargo run -p iris-examples --example simulate -- --seconds 180   # as many as fit
//! cargo run -p iris-examples --example simulate -- --seeds 10000   # as many as one likes
//! cargo run -p iris-examples --example simulate -- --seed 42       # one of them, line by line
//! ```

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use iris_coordinator::simulation::{Counts, Outcome, Scenario};

#[path = "tests/real_node/mod.rs"]
mod real_node;

/// Failures after which there is no need for more.
const ENOUGH: usize = 10;
const USAGE: &str = "\
Runs random scenarios of a simulated network.

  --seed N       run the scenario of one seed and print what happens
  --seeds N      run this many scenarios
  --seconds N    run as many scenarios as begin within this time
  --from N       begin at this seed; by default 0, or the time where --seconds is given
  --threads N    run this many at a time; by default as many as the machine has cores";

/// What to run.
#[derive(Default)]
struct Order {
    seed: Option<u64>,
    seeds: Option<u64>,
    seconds: Option<u64>,
    from: Option<u64>,
    threads: Option<u64>,
}

fn main() -> ExitCode {
    let Some(order) = Order::read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(seed) = order.seed {
        return replay(seed);
    }
    run(&order)
}

impl Order {
    fn read(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut order = Self::default();
        while let Some(word) = words.next() {
            let place = match word.as_str() {
                "--seed" => &mut order.seed,
                "--seeds" => &mut order.seeds,
                "--seconds" => &mut order.seconds,
                "--from" => &mut order.from,
                "--threads" => &mut order.threads,
                _ => return None,
            };
            *place = Some(words.next()?.parse().ok()?);
        }
        let some = order.seed.or(order.seeds).or(order.seconds).is_some();
        some.then_some(order)
    }

    /// Returns the first seed. A budget of time looks at other runs each time.
    fn first(&self) -> u64 {
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |time| time.as_secs() * 1_000_000)
        };
        self.from.unwrap_or_else(|| if self.seconds.is_some() { now() } else { 0 })
    }
}

/// The run of `seed`, with real nodes beside the scripted ones.
fn scenario(seed: u64) -> Scenario {
    Scenario::from_seed(seed).with_hosts(real_node::join)
}

fn replay(seed: u64) -> ExitCode {
    let outcome = scenario(seed).run();
    for line in &outcome.lines {
        println!("{line}");
    }
    println!("{:?} of virtual time, {:?}", outcome.elapsed, outcome.counts);
    report(&outcome)
}

fn run(order: &Order) -> ExitCode {
    let (first, begun) = (order.first(), Instant::now());
    let end = order.seconds.map(|seconds| begun + Duration::from_secs(seconds));
    let (next, sum) = (AtomicU64::new(0), Mutex::new((Counts::default(), Duration::ZERO)));
    let failed = Mutex::new(Vec::new());
    let work = || {
        while end.is_none_or(|end| Instant::now() < end)
            && failed.lock().map_or(0, |f| f.len()) < ENOUGH
        {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if order.seeds.is_some_and(|seeds| number >= seeds) {
                break;
            }
            let outcome = scenario(first + number).run();
            if let Ok(mut sum) = sum.lock() {
                sum.0.add(outcome.counts);
                sum.1 += outcome.elapsed;
            }
            if !outcome.failures.is_empty() {
                report(&outcome);
                if let Ok(mut failed) = failed.lock() {
                    failed.push(outcome.seed);
                }
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    thread::scope(|scope| {
        for _ in 0..order.threads.unwrap_or(cores).max(1) {
            scope.spawn(work);
        }
    });
    let runs = next.into_inner().min(order.seeds.unwrap_or(u64::MAX));
    let (counts, virtual_time) = sum.into_inner().unwrap_or_default();
    println!(
        "{runs} seeds from {first} on, in {:.0} s: {:.1} hours of virtual time, {counts:?}",
        begun.elapsed().as_secs_f64(),
        virtual_time.as_secs_f64() / 3600.0,
    );
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort_unstable();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("FAILED seeds: {failed:?}; run one again by --seed");
    ExitCode::FAILURE
}

fn report(outcome: &Outcome) -> ExitCode {
    if outcome.failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("seed {} failed:", outcome.seed);
    for line in &outcome.failures {
        println!("  {line}");
    }
    ExitCode::FAILURE
}
