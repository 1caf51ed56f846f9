//! The nodes, and the work.
//!
//! Speeds are tokens per second of one stream on an idle node; with every slot taken each stream
//! runs at seven tenths of that. Answers have a log-normal length with a median of 200 tokens, and
//! prompts are read ten times as fast as answers are written.

use rand::rngs::StdRng;
use rand::{Rng, RngExt as _};

/// Nodes that are alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) count: u32,
    pub(crate) slots: u32,
    /// Tokens per second of one stream.
    pub(crate) speed: f64,
    /// Share of tasks that a node turns down though it has a free slot.
    pub(crate) refuses: f64,
    /// Share of tasks that a node accepts and never answers.
    pub(crate) stalls: f64,
    /// How many of the nodes belong to the one owner who has many.
    pub(crate) of_one_owner: u32,
    /// Whether the nodes join in the midst, unknown and unmeasured.
    pub(crate) new: bool,
}

const fn kind(name: &'static str, count: u32, slots: u32, speed: f64) -> Kind {
    Kind { name, count, slots, speed, refuses: 0.0, stalls: 0.0, of_one_owner: 0, new: false }
}

/// The fleet: what a club of some dozens of people might own.
pub(crate) const FLEET: [Kind; 5] = [
    Kind { of_one_owner: 3, ..kind("fast", 4, 4, 80.0) },
    Kind { of_one_owner: 6, ..kind("ordinary", 14, 2, 30.0) },
    kind("slow", 20, 1, 8.0),
    Kind { refuses: 0.15, stalls: 0.15, ..kind("flaky", 6, 2, 60.0) },
    Kind { new: true, ..kind("new", 6, 2, 40.0) },
];

/// Returns how fast each stream of a node runs that works on `in_use` answers.
pub(crate) fn speed(kind: &Kind, in_use: u32) -> f64 {
    let busy = f64::from(in_use.saturating_sub(1)) / f64::from(kind.slots.saturating_sub(1).max(1));
    kind.speed * (1.0 - 0.3 * busy.min(1.0))
}

/// Returns how many tokens per second all nodes write that do what they promise.
pub(crate) fn capacity() -> f64 {
    let of = |kind: &Kind| {
        let honest = 1.0 - kind.refuses - kind.stalls;
        f64::from(kind.count * kind.slots) * speed(kind, kind.slots) * honest
    };
    FLEET.iter().map(of).sum()
}

/// A task's size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) prompt_tokens: f64,
    pub(crate) answer_tokens: f64,
}

/// The mean length of an answer, in tokens: that of a log-normal distribution.
pub(crate) fn mean_answer() -> f64 {
    MEDIAN * (SPREAD * SPREAD / 2.0).exp()
}

const MEDIAN: f64 = 200.0;
const SPREAD: f64 = 0.8;

impl Work {
    pub(crate) fn draw(random: &mut StdRng) -> Self {
        let answer_tokens = (MEDIAN * (SPREAD * normal(random)).exp()).clamp(1.0, 4000.0);
        let prompt_tokens = (300.0 * normal(random).exp()).clamp(10.0, 8000.0);
        Self { prompt_tokens, answer_tokens }
    }

    /// Returns the seconds that it takes at `speed` tokens per second.
    pub(crate) fn seconds(self, speed: f64) -> f64 {
        (self.prompt_tokens / 10.0 + self.answer_tokens) / speed
    }
}

/// Draws from the normal distribution (Box and Muller, 1958).
fn normal(random: &mut StdRng) -> f64 {
    let (a, b) = (unit(random), unit(random));
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// Draws the seconds until the next of events that come at `rate` a second.
pub(crate) fn gap(random: &mut StdRng, rate: f64) -> f64 {
    -unit(random).ln() / rate
}

/// Draws a number above 0 and up to 1.
fn unit(random: &mut impl Rng) -> f64 {
    1.0 - random.random::<f64>()
}
