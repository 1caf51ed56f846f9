//! One way to lay a model out over GPUs, and how many tokens fit then.

use std::fmt;

use super::{Machine, Model, Need, Reason, Usage, concurrency};
use crate::memory::{Attention, ByteSize};

/// How many parts a model has: `tensor` GPUs divide each layer, `pipeline` groups of them share the
/// layers, on so many machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// GPUs that divide each layer.
    pub tensor: u32,
    /// Groups that take layers each.
    pub pipeline: u32,
    /// Machines that those stand on.
    pub machines: u32,
}

impl Shape {
    /// Returns how many GPUs take part.
    pub const fn gpus(self) -> u32 {
        self.tensor.saturating_mul(self.pipeline)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensor, pipeline, machines } = self;
        write!(f, "tensor {tensor} x pipeline {pipeline} on {machines}")
    }
}

/// GPUs of one machine that take some of the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Which of the machines.
    pub machine: usize,
    /// Which of its GPUs; they divide each layer.
    pub gpus: Vec<usize>,
    /// How many layers they take.
    pub layers: u32,
}

/// A way to run a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Who takes which layers, in the order of the layers.
    pub stages: Vec<Stage>,
    /// Blocks that each GPU has room for: of the one with least.
    pub blocks: u64,
    /// Tokens that those hold together.
    pub tokens: u64,
    /// Requests of the wanted length that this suffices for at a time, in hundredths.
    pub concurrency: u64,
}

impl Layout {
    /// Returns how many parts the model has.
    pub fn shape(&self) -> Shape {
        shape(self.stages.iter().map(|stage| (stage.machine, stage.gpus.len())))
    }

    /// Lays the model out over `groups`, which divide each layer and share the layers by their
    /// memory.
    pub(super) fn over(
        groups: &[(usize, Vec<usize>)],
        machines: &[Machine],
        model: &Model,
        need: Need,
        usage: &Usage,
    ) -> Result<Self, Reason> {
        // The least of a group decides for all of it.
        let usable = |(machine, gpus): &(usize, Vec<usize>)| {
            let memory = gpus.iter().map(|gpu| machines[*machine].gpus[*gpu].memory).min();
            usage.usable(memory.unwrap_or(ByteSize::ZERO))
        };
        let usable: Vec<ByteSize> = groups.iter().map(usable).collect();
        let layers = deal(model.layers, &usable).ok_or(Reason::TooFewLayers)?;
        let mut blocks = u64::MAX;
        for (((_, gpus), usable), layers) in groups.iter().zip(&usable).zip(&layers) {
            let width = u64::try_from(gpus.len()).unwrap_or(u64::MAX);
            let of = u64::from(model.layers).saturating_mul(width);
            let weights = model.weights.part(u64::from(*layers), of);
            let room = usable.minus(weights).ok_or(Reason::WeightsTooLarge)?;
            blocks = blocks.min(usage.blocks(room, model.token(*layers, width)));
        }
        let tokens = usage.tokens(blocks);
        if tokens < u64::from(need.context_tokens) {
            return Err(Reason::CacheTooSmall);
        }
        let stages = groups.iter().zip(layers).map(|((machine, gpus), layers)| Stage {
            machine: *machine,
            gpus: gpus.clone(),
            layers,
        });
        let concurrency = concurrency(tokens, need.context_tokens);
        Ok(Self { stages: stages.collect(), blocks, tokens, concurrency })
    }

    /// Returns whether it holds as many requests as are wanted.
    pub(super) fn is_enough(&self, need: Need) -> bool {
        self.tokens >= u64::from(need.context_tokens) * u64::from(need.requests)
    }

    /// Returns why it is as it is.
    pub(super) fn reason(&self) -> Reason {
        match self.shape() {
            Shape { tensor: 1, pipeline: 1, .. } => Reason::OneGpu,
            Shape { pipeline: 1, .. } => Reason::LayersDivided,
            Shape { machines: 1, .. } => Reason::LayersDealt,
            Shape { tensor: 1, .. } => Reason::MachinesDealt,
            Shape { .. } => Reason::Hybrid,
        }
    }
}

impl Model {
    /// Returns what a token takes on each of `width` GPUs that divide so many layers. Of fewer
    /// heads than GPUs each has one.
    fn token(&self, layers: u32, width: u64) -> ByteSize {
        let heads = u64::from(self.attention.kv_heads).div_ceil(width.max(1));
        let kv_heads = u32::try_from(heads).unwrap_or(u32::MAX);
        let layers = layers.min(self.attention.layers);
        Attention { layers, kv_heads, ..self.attention }.token(self.cache)
    }

    /// Returns whether the heads can be divided among `width` GPUs, as vLLM divides them.
    pub(super) fn divides(&self, width: u32) -> bool {
        let kv = self.attention.kv_heads.max(1);
        self.heads.is_multiple_of(width) && (kv.is_multiple_of(width) || width.is_multiple_of(kv))
    }
}

/// Counts the parts of groups: the machine of each, and how many GPUs it has.
pub(super) fn shape(groups: impl Iterator<Item = (usize, usize)>) -> Shape {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut of = Vec::new();
    let (mut tensor, mut pipeline) = (0, 0);
    for (machine, gpus) in groups {
        (tensor, pipeline) = (count(gpus), pipeline + 1);
        of.push(machine);
    }
    of.sort_unstable();
    of.dedup();
    Shape { tensor, pipeline, machines: count(of.len()) }
}

/// Deals layers out in proportion to the memory, one at least to each; `None` where there are too
/// few.
fn deal(layers: u32, usable: &[ByteSize]) -> Option<Vec<u32>> {
    let parts = u32::try_from(usable.len()).ok().filter(|parts| (1..=layers).contains(parts))?;
    let weigh = |size: &ByteSize| u128::from(size.get()) + 1;
    let all: u128 = usable.iter().map(weigh).sum();
    let spare = u128::from(layers - parts);
    let mut dealt = Vec::with_capacity(usable.len());
    let (mut before, mut given) = (0, 0);
    for size in usable {
        before += weigh(size);
        // What all up to here have a right to, rounded, less what they were given.
        let right = (spare * before + all / 2) / all;
        dealt.push(1 + u32::try_from(right - given).ok()?);
        given = right;
    }
    Some(dealt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_dealt_by_memory_and_all_of_them() {
        let gib = |all: &[u64]| all.iter().map(|gib| ByteSize::gib(*gib)).collect::<Vec<_>>();
        assert_eq!(deal(48, &gib(&[16, 32])), Some(vec![16, 32]));
        assert_eq!(deal(80, &gib(&[24, 24, 24])), Some(vec![27, 26, 27]));
        assert_eq!(deal(3, &gib(&[80, 1, 1])), Some(vec![1, 1, 1]));
        assert_eq!(deal(2, &gib(&[1, 1, 1])), None);
        assert_eq!(deal(4, &gib(&[0, 0])).map(|all| all.iter().sum()), Some(4));
        assert_eq!(deal(4, &[]), None);
    }
}
