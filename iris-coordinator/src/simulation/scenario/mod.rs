//! Random runs of a network, and what must hold in all of them.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::counting::Counting;
use super::dice::Dice;
use super::node::NodePlan;
use super::world::{Builder, Simulation};
use super::{COORDINATOR, panics};
use crate::http::ApiSettings;

mod acting;
mod draw;
mod fault;
mod log;
mod verdict;

use acting::Actor;
use draw::Draw;
use fault::Step;
use log::Log;

/// How long a chat may take.
const TIME_LIMIT: Duration = Duration::from_secs(45);
/// When the last fault is over.
const TROUBLE: Duration = Duration::from_secs(40);
/// How long callers may take once all is well.
const CALLERS_LIMIT: Duration = Duration::from_mins(15);
/// How long durable tasks may take once callers are done.
const DURABLE_LIMIT: Duration = Duration::from_mins(3);
/// How long the last settlements take to be durable.
const SETTLED: Duration = Duration::from_secs(3);
/// How long a network may take to come to rest: longer than any node is waited for.
const REST: Duration = Duration::from_mins(1);

type Change = Rc<dyn Fn(Builder) -> Builder>;
type Join = Rc<dyn Fn(&mut Simulation, &mut Dice) -> Vec<String>>;

/// A random run: nodes, callers and faults drawn from one seed.
///
/// Nodes are honest or not, callers ask for streams, whole answers, sealed ones and durable tasks,
/// read slowly or leave; hosts crash, connections and the disk fail. After a while all is mended.
/// Then these
/// must hold, some of them at any moment:
///
/// - every task has exactly one end, and one settlement, unless a crash came first;
/// - callers receive what was said, nothing lost, doubled or changed;
/// - nobody waits for ever;
/// - no node holds more than its slots, or anything once it is long dead;
/// - in the end no slot is taken and no node works;
/// - a durable task that was accepted ends, whatever happened, and its end does not change.
#[derive(Clone)]
pub struct Scenario {
    seed: u64,
    change: Change,
    join: Join,
}

/// What came of a [`Scenario`].
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed by which it can be run again.
    pub seed: u64,
    /// The promises that were broken; none when all is well.
    pub failures: Vec<String>,
    /// What two runs of one seed share.
    pub hash: u64,
    /// What happened, the latest twenty thousand lines.
    pub lines: Vec<String>,
    /// Virtual time that passed.
    pub elapsed: Duration,
    /// What was asked for.
    pub counts: Counts,
}

/// How much happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chats that callers asked for.
    pub chats: u64,
    /// Chats that got their whole answer.
    pub answered: u64,
    /// Durable tasks that were accepted.
    pub durable: u64,
    /// Faults.
    pub faults: u64,
    /// Times that the coordinator crashed.
    pub crashes: u64,
}

impl Counts {
    /// Adds what happened in another run.
    pub const fn add(&mut self, other: Self) {
        self.chats += other.chats;
        self.answered += other.answered;
        self.durable += other.durable;
        self.faults += other.faults;
        self.crashes += other.crashes;
    }
}

impl Scenario {
    /// Takes the run of `seed`.
    pub fn from_seed(seed: u64) -> Self {
        Self { seed, change: Rc::new(|builder| builder), join: Rc::new(|_, _| Vec::new()) }
    }

    /// Changes the network before it is built: to run with another store, or another scheduler.
    ///
    /// [`Builder::with_coordinator`] takes the place of the random limits and policies.
    pub fn with_network(mut self, change: impl Fn(Builder) -> Builder + 'static) -> Self {
        self.change = Rc::new(change);
        self
    }

    /// Adds hosts of one's own to the network, such as real nodes that serve the model `m` by
    /// [`Counting`], and returns their names: faults strike them as well.
    pub fn with_hosts(
        mut self,
        join: impl Fn(&mut Simulation, &mut Dice) -> Vec<String> + 'static,
    ) -> Self {
        self.join = Rc::new(join);
        self
    }

    /// Runs to the end and judges.
    pub fn run(&self) -> Outcome {
        let panicked = panics::count();
        let mut dice = Dice::new(self.seed);
        let mut draw = Draw::new(&mut dice);
        let mut net = self.build(&draw, dice.draw());
        draw.hosts.extend((self.join)(&mut net, &mut dice.fork()));
        draw.draw_faults(&mut dice);
        net.trace().note("scenario", format_args!("{draw:?}"));
        let log = Log::default();
        populate(&mut net, &draw, &log, &mut dice);
        let faults = live(&mut net, &draw);
        let counts = verdict::judge(&net, &draw, &log, &faults);
        let panicked = panics::count() - panicked;
        if panicked > 0 {
            net.trace().broken(COORDINATOR, format_args!("{panicked} tasks panicked"));
        }
        Outcome {
            seed: self.seed,
            failures: net.trace().failures(),
            hash: net.trace().hash(),
            lines: net.trace().lines(),
            elapsed: net.elapsed(),
            counts,
        }
    }

    fn build(&self, draw: &Draw, seed: u64) -> Simulation {
        let (limits, retry, queue, wait) = (draw.limits, draw.retry, draw.queue, draw.max_wait);
        let api = ApiSettings::default().with_time_limit(TIME_LIMIT);
        let builder = Simulation::builder(seed).with_api(api).with_coordinator(move |builder| {
            builder
                .with_link_limits(limits)
                .with_retry_policy(retry)
                .with_queue_capacity(queue)
                .with_max_wait(wait)
        });
        (self.change)(builder).build()
    }
}

/// Adds the nodes and callers that were drawn.
fn populate(net: &mut Simulation, draw: &Draw, log: &Log, dice: &mut Dice) {
    for (name, node) in &draw.nodes {
        let model = node.model.parse().expect("it is a model's name");
        let millis = Duration::from_millis;
        let counting = Counting::new(model, dice.draw())
            .with_pace(millis(10)..=millis(node.first_ms), millis(1)..=millis(node.pace_ms))
            .with_fail_once_in(node.fail_once_in);
        let plan = NodePlan::new(counting)
            .with_slots(node.slots)
            .with_mischief(node.mischief.iter().copied(), node.once_in);
        net.node(name, plan);
    }
    for (name, plan) in &draw.actors {
        let (plan, dice, log) = (plan.clone(), dice.fork(), log.clone());
        net.caller(name, |caller| Actor { caller, dice, log }.act(plan));
    }
}

/// Lives through the faults, mends everything and lets the network come to rest.
fn live(net: &mut Simulation, draw: &Draw) -> Faults {
    let mut faults = Faults::default();
    for Step { at, deed } in fault::steps(&draw.faults) {
        net.run_for(at.saturating_sub(net.elapsed()));
        deed.happen(net, &mut faults);
    }
    net.run_for(TROUBLE.saturating_sub(net.elapsed()));
    fault::mend(net, draw);
    if !net.run_callers(CALLERS_LIMIT) {
        net.trace().broken("scenario", "a caller is never done");
    }
    let end = net.elapsed() + DURABLE_LIMIT;
    let unfinished =
        |net: &Simulation| net.durable_tasks().values().any(|state| !state.is_terminal());
    while unfinished(net) && net.elapsed() < end {
        net.run_for(Duration::from_secs(1));
    }
    // What is settled in the end is written down soon after.
    net.run_for(SETTLED);
    let end = net.elapsed() + REST;
    while !net.is_at_rest() && net.elapsed() < end {
        net.run_for(Duration::from_secs(1));
    }
    net.check_rest();
    faults.serves = net.serves();
    faults
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// The faults that excuse what callers see.
#[derive(Debug, Default)]
struct Faults {
    /// When the coordinator crashed.
    crashes: Vec<Duration>,
    /// When it was stopped in good order.
    stops: Vec<Duration>,
    /// When it was started again.
    restarts: Vec<Duration>,
    /// When it began to serve after a start.
    serves: Vec<Duration>,
}

impl Faults {
    fn any_between(times: &[Duration], from: Duration, to: Duration) -> bool {
        times.iter().any(|time| (from..=to).contains(time))
    }

    /// Returns whether the coordinator had been started again and did not serve yet, for a moment
    /// of this time: on a bad disk a start takes a while.
    fn was_starting(&self, from: Duration, to: Duration) -> bool {
        self.restarts.iter().any(|&restart| {
            let served = self.serves.iter().find(|&&serves| serves >= restart);
            restart <= to && served.is_none_or(|&served| from <= served)
        })
    }
}

/// Returns whether a plan has faults in a caller's own network.
fn is_cut(draw: &Draw, name: &str) -> bool {
    draw.faults.iter().any(|fault| fault.kind.touches(name))
}
