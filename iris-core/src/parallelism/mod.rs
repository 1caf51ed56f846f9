//! On which GPUs a model runs, and why.
//!
//! The order is vLLM's ("Parallelism and scaling" in its documentation): one GPU if the model fits,
//! else several of a machine that divide each layer (tensor parallelism, by 2, 4 or 8), else
//! several machines that take layers each (pipeline parallelism), within which the GPUs divide
//! them. Where heads cannot be divided, or GPUs have no fast link, the GPUs of a machine take
//! layers each, too. How many tokens fit is counted in vLLM's blocks.

use crate::memory::{Attention, ByteSize, CacheType};

mod blocks;
mod candidates;
mod layout;
mod reason;

pub use blocks::{Usage, concurrency};
pub use layout::{Layout, Shape, Stage};
pub use reason::Reason;

/// A GPU of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// What it is. GPUs divide a layer only with others of the same name and memory.
    pub name: String,
    /// All of its memory, as its driver tells it.
    pub memory: ByteSize,
}

/// A machine with GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its GPUs; of more than 16 the first ones are looked at.
    pub gpus: Vec<Gpu>,
    /// Whether they are linked fast, as by `NVLink`.
    pub has_fast_links: bool,
}

/// A model that is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its weights.
    pub weights: ByteSize,
    /// Its layers.
    pub layers: u32,
    /// The attention heads of a layer, those for queries.
    pub heads: u32,
    /// What it keeps of each token. Windows are counted as if they kept all.
    pub attention: Attention,
    /// What that is stored as.
    pub cache: CacheType,
}

/// What it has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Tokens of prompt and answer together that a request may have.
    pub context_tokens: u32,
    /// Requests of that length that are worked on at a time.
    pub requests: u32,
}

/// How far a model has to be spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scale {
    /// One GPU.
    OneGpu,
    /// Several GPUs of one machine.
    OneMachine,
    /// Several machines.
    SeveralMachines,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where the model runs; `None` where it cannot.
    pub layout: Option<Layout>,
    /// Why so.
    pub reason: Reason,
    /// Whether it does all that it has to; if not, it works on fewer requests at a time.
    pub is_enough: bool,
    /// What was looked at before and passed over, at most [`Plan::MAX_PASSED_OVER`].
    pub passed_over: Vec<(Shape, Reason)>,
}

impl Plan {
    /// The most shapes that are told as passed over.
    pub const MAX_PASSED_OVER: usize = 32;

    /// Returns how far the model is spread; `None` where it cannot run.
    pub fn scale(&self) -> Option<Scale> {
        self.layout.as_ref().map(|layout| match layout.shape() {
            Shape { machines: 2.., .. } => Scale::SeveralMachines,
            shape if shape.gpus() > 1 => Scale::OneMachine,
            _ => Scale::OneGpu,
        })
    }

    fn pass_over(&mut self, shape: Shape, reason: Reason) {
        let said = (shape, reason);
        if self.passed_over.len() < Self::MAX_PASSED_OVER && !self.passed_over.contains(&said) {
            self.passed_over.push(said);
        }
    }
}

/// Decides where a model runs: the least that is enough, or else what works on most requests.
///
/// Of more than 64 machines the first ones are looked at.
///
/// ```
/// use iris_core::memory::{Attention, ByteSize, CacheType};
/// use iris_core::parallelism::{Gpu, Machine, Model, Need, Reason, Usage, plan};
///
/// let card = Gpu { name: "RTX 4090".to_owned(), memory: ByteSize::gib(24) };
/// let machine = Machine { gpus: vec![card; 2], has_fast_links: true };
/// // Qwen 2.5 14B in 16 bits.
/// let model = Model {
///     weights: ByteSize::gib(28),
///     layers: 48,
///     heads: 40,
///     attention: Attention::new(48, 8, 128),
///     cache: CacheType::F16,
/// };
/// let need = Need { context_tokens: 32_768, requests: 1 };
/// let plan = plan(&model, need, &[machine], &Usage::default());
/// assert_eq!(plan.reason, Reason::LayersDivided);
/// assert_eq!(plan.passed_over[0].1, Reason::WeightsTooLarge, "of one card");
/// assert_eq!(plan.layout.unwrap().shape().tensor, 2);
/// ```
pub fn plan(model: &Model, need: Need, machines: &[Machine], usage: &Usage) -> Plan {
    let mut plan =
        Plan { layout: None, reason: Reason::NoGpu, is_enough: false, passed_over: Vec::new() };
    for candidate in candidates::all(model, machines) {
        if plan.reason == Reason::NoGpu {
            plan.reason = Reason::NothingHolds;
        }
        let found =
            candidate.groups.and_then(|groups| Layout::over(&groups, machines, model, need, usage));
        match found {
            Err(reason) => plan.pass_over(candidate.shape, reason),
            Ok(layout) if layout.is_enough(need) => {
                plan.reason = layout.reason();
                plan.is_enough = true;
                plan.layout = Some(layout);
                return plan;
            }
            Ok(layout) => {
                plan.pass_over(candidate.shape, Reason::TooFewRequests);
                // Of equals the one with fewer parts, which came first.
                if plan.layout.as_ref().is_none_or(|best| layout.tokens > best.tokens) {
                    plan.reason = layout.reason();
                    plan.layout = Some(layout);
                }
            }
        }
    }
    plan
}
