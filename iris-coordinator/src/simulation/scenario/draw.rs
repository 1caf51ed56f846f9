use std::time::Duration;

use iris_core::task::{Hedge, RetryPolicy};
use iris_protocol::limits::Limits;
use iris_protocol::message::Window;

use super::TROUBLE;
use super::fault::{Fault, Kind};
use crate::simulation::COORDINATOR;
use crate::simulation::dice::Dice;
use crate::simulation::node::Mischief;

/// What a seed stands for.
#[derive(Clone, Debug)]
pub(super) struct Draw {
    pub(super) limits: Limits,
    pub(super) retry: RetryPolicy,
    pub(super) queue: usize,
    pub(super) max_wait: Duration,
    pub(super) nodes: Vec<(String, NodeDraw)>,
    /// The nodes' hosts, those of others included.
    pub(super) hosts: Vec<String>,
    pub(super) actors: Vec<(String, Vec<Act>)>,
    pub(super) faults: Vec<Fault>,
}

#[derive(Clone, Debug)]
pub(super) struct NodeDraw {
    pub(super) model: &'static str,
    pub(super) slots: u32,
    pub(super) first_ms: u64,
    pub(super) pace_ms: u64,
    pub(super) fail_once_in: u64,
    pub(super) mischief: Vec<Mischief>,
    pub(super) once_in: u64,
}

/// One thing that a caller does, after a pause.
#[derive(Clone, Debug)]
pub(super) struct Act {
    pub(super) pause: Duration,
    pub(super) model: &'static str,
    pub(super) words: u32,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Chat {
        stream: bool,
        sealed: bool,
        pace: Duration,
        leave_after: Option<u32>,
    },
    Durable {
        keyed: bool,
        deadline: Duration,
        cancel_after: Option<Duration>,
        follow: bool,
        divided: Option<Divided>,
    },
}

/// A way of dividing a durable task.
#[derive(Clone, Copy, Debug)]
pub(super) enum Divided {
    /// Two questions, one after the other, whose answers are joined.
    Chained,
    /// One question to nodes of two owners.
    Consensus,
}

impl Draw {
    /// Draws everything but the faults.
    pub(super) fn new(dice: &mut Dice) -> Self {
        let node = |dice: &mut Dice, number| (format!("node{number}"), node(dice, number));
        let nodes: Vec<_> = (0..=dice.below(4)).map(|number| node(dice, number)).collect();
        Self {
            limits: limits(dice),
            retry: retry(dice),
            queue: usize::try_from(1 + dice.below(32)).expect("it is small"),
            max_wait: seconds(dice, 1..=10),
            hosts: nodes.iter().map(|(name, _)| name.clone()).collect(),
            actors: (0..=dice.below(4)).map(|n| (format!("caller{n}"), acts(dice))).collect(),
            nodes,
            faults: Vec::new(),
        }
    }

    /// Draws what goes wrong.
    pub(super) fn draw_faults(&mut self, dice: &mut Dice) {
        let callers: Vec<_> = self.actors.iter().map(|(name, _)| name.clone()).collect();
        self.faults = (0..dice.below(9)).map(|_| fault(dice, &self.hosts, &callers)).collect();
    }
}

fn limits(dice: &mut Dice) -> Limits {
    let heartbeat = seconds(dice, 1..=3);
    let window =
        Window { frames: *dice.pick(&[1, 2, 8, 64, 256]), bytes: *dice.pick(&[64, 1024, 1 << 20]) };
    Limits {
        heartbeat,
        lost: heartbeat * 3 + Duration::from_millis(500),
        resume_grace: seconds(dice, 1..=6),
        window,
        terminal_acks: *dice.pick(&[1, 4, 64]),
        ..Limits::default()
    }
}

fn retry(dice: &mut Dice) -> RetryPolicy {
    RetryPolicy {
        accept_within: seconds(dice, 1..=4),
        progress_within: seconds(dice, 4..=8),
        first_chunk_base: seconds(dice, 5..=20),
        max_offers: *dice.pick(&[1, 3, 8]),
        max_accepted: *dice.pick(&[1, 2, 3]),
        hedge: dice.once_in(2).then(|| Hedge::after(seconds(dice, 0..=3))),
        ..RetryPolicy::default()
    }
}

fn node(dice: &mut Dice, number: u64) -> NodeDraw {
    let bad = dice.once_in(2);
    let mischief = (0..=dice.below(4)).map(|_| *dice.pick(&Mischief::ALL)).collect();
    NodeDraw {
        model: if number == 0 { "m" } else { dice.pick::<&'static str>(&["m", "m", "n"]) },
        slots: *dice.pick(&[1, 1, 2, 4]),
        first_ms: *dice.pick(&[20, 200, 3000]),
        pace_ms: *dice.pick(&[2, 50, 400]),
        fail_once_in: *dice.pick(&[0, 0, 5]),
        mischief: if bad { mischief } else { Vec::new() },
        once_in: 1 + dice.below(5),
    }
}

fn acts(dice: &mut Dice) -> Vec<Act> {
    (0..=dice.below(9)).map(|_| act(dice)).collect()
}

fn act(dice: &mut Dice) -> Act {
    let longest = Duration::from_secs(*dice.pick(&[0, 2, 10]));
    Act {
        pause: dice.time(&(Duration::ZERO..=longest)),
        model: dice.pick::<&'static str>(&["m", "m", "m", "n", "unknown"]),
        words: *dice.pick(&[0, 1, 10, 60]),
        what: if dice.once_in(3) { durable(dice) } else { chat(dice) },
    }
}

fn chat(dice: &mut Dice) -> What {
    let slow = dice.once_in(4);
    let pace = dice.time(&(Duration::from_millis(20)..=Duration::from_millis(1500)));
    let leaves = dice.once_in(5);
    let reads = 1 + dice.below(20);
    What::Chat {
        stream: !dice.once_in(3),
        sealed: dice.once_in(3),
        pace: if slow { pace } else { Duration::ZERO },
        leave_after: leaves.then(|| u32::try_from(reads).expect("it is small")),
    }
}

fn durable(dice: &mut Dice) -> What {
    let cancels = dice.once_in(4);
    let after = dice.time(&(Duration::ZERO..=Duration::from_secs(5)));
    What::Durable {
        keyed: !dice.once_in(3),
        deadline: seconds(dice, 5..=120),
        cancel_after: cancels.then_some(after),
        follow: !dice.once_in(3),
        divided: *dice.pick(&[None, Some(Divided::Chained), Some(Divided::Consensus)]),
    }
}

fn fault(dice: &mut Dice, hosts: &[String], callers: &[String]) -> Fault {
    let node = dice.pick(hosts).clone();
    // Most faults strike between nodes and the coordinator.
    let peer = if dice.once_in(4) { dice.pick(callers).clone() } else { node.clone() };
    let share = *dice.pick(&[0.01, 0.1, 0.5]);
    let latency = dice.time(&(Duration::from_millis(50)..=Duration::from_secs(3)));
    let skewed = if dice.once_in(2) { COORDINATOR.to_owned() } else { node.clone() };
    let skew = i64::try_from(dice.below(120_000)).expect("it is small") - 60_000;
    let kind = match dice.below(14) {
        0..=2 => Kind::Crash,
        3 => Kind::Stop,
        4 | 5 => Kind::CrashNode(node),
        6 | 7 => Kind::Partition(peer),
        8 => Kind::Hold(peer),
        9 => Kind::Latency(peer, latency),
        10 => Kind::Loss(peer, share),
        11 => Kind::SlowDisk(latency),
        12 => {
            if dice.once_in(2) {
                Kind::FullDisk
            } else {
                Kind::MuteDisk
            }
        }
        _ => Kind::Skew(skewed, skew),
    };
    let at = dice.time(&(Duration::from_millis(100)..=TROUBLE));
    let longest = *dice.pick(&[100, 2_000, 10_000, 30_000]);
    let lasts = dice.time(&(Duration::from_millis(10)..=Duration::from_millis(longest)));
    Fault { at, lasts, kind }
}

fn seconds(dice: &mut Dice, range: std::ops::RangeInclusive<u64>) -> Duration {
    dice.time(&(Duration::from_secs(*range.start())..=Duration::from_secs(*range.end())))
}
