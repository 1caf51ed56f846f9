//! How much memory a model takes on the machine that runs it.
//!
//! Weights, the keys and values of the contexts, and what a server takes besides. What is known
//! decides how near the estimate comes, and it tells its bounds: whoever admits models by it never
//! loads one on a guess that was taken for knowledge.

use std::fmt;

mod cache;
mod size;
mod weights;

pub use cache::{Attention, CacheType, Window};
pub use size::{ByteSize, Span};
pub use weights::Weights;

/// A model as it is to be loaded.
///
/// ```
/// use iris_core::memory::{Attention, ByteSize, Fit, Load, Weights};
///
/// let mut load = Load::new(Weights::Files(ByteSize::new(4_912_898_304)));
/// load.attention = Some(Attention::new(32, 8, 128));
/// load.context_tokens = 8192;
/// load.slots = 2;
/// let estimate = load.estimate();
/// assert_eq!(estimate.cache.unwrap().most, ByteSize::gib(2));
/// assert_eq!(estimate.fits(ByteSize::gib(8)), Fit::Yes);
/// assert_eq!(estimate.fits(ByteSize::gib(6)), Fit::No);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// What is known of its weights.
    pub weights: Weights,
    /// What it keeps of each token, where that is known.
    pub attention: Option<Attention>,
    /// What that is stored as. Default: 16 bits.
    pub cache: CacheType,
    /// Tokens of context that each slot has. Default: 4096.
    pub context_tokens: u32,
    /// Requests that are worked on at a time. Default: 1.
    pub slots: u32,
    /// Whether it sees images, for which there are more weights and buffers. Default: no.
    pub sees: bool,
}

/// Buffers and the server's own memory, at least. Those of the smallest models are smaller still.
const LEAST_OVERHEAD: ByteSize = ByteSize::mib(64);
/// The same at most, beside [`OVERHEAD_PART`] of the weights.
const MOST_OVERHEAD: ByteSize = ByteSize::gib(1);
const OVERHEAD_PART: u64 = 50;
/// What seeing takes at most: weights that are kept in 16 bits, and buffers.
const VISION_WEIGHTS: ByteSize = ByteSize::mib(1536);
const VISION_BUFFERS: ByteSize = ByteSize::gib(2);

impl Load {
    /// Describes a model of which only the weights are known.
    pub const fn new(weights: Weights) -> Self {
        Self {
            weights,
            attention: None,
            cache: CacheType::F16,
            context_tokens: 4096,
            slots: 1,
            sees: false,
        }
    }

    /// Estimates the memory that it takes.
    ///
    /// It is that of a server with flash attention, on one device. Without it, or with the layers
    /// on several devices, buffers are larger.
    pub fn estimate(&self) -> Estimate {
        let vision = |size| if self.sees { size } else { ByteSize::ZERO };
        let weights = self
            .weights
            .span()
            .map(|span| Span { least: span.least, most: span.most.plus(vision(VISION_WEIGHTS)) });
        let cache = self.attention.map(|attention| {
            let one = attention.context(self.context_tokens, self.cache);
            Span::exact(one.part(self.slots.into(), 1))
        });
        let of_weights = weights.map_or(ByteSize::ZERO, |span| span.most.part(1, OVERHEAD_PART));
        let most = MOST_OVERHEAD.plus(of_weights).plus(vision(VISION_BUFFERS));
        Estimate { weights, cache, overhead: Span { least: LEAST_OVERHEAD, most } }
    }
}

/// The memory that a model takes, part by part; a part of which nothing is known is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Its weights.
    pub weights: Option<Span>,
    /// The keys and values of all slots' contexts.
    pub cache: Option<Span>,
    /// Buffers, and the server's own.
    pub overhead: Span,
}

/// Whether a model fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Even the most that it may take is there.
    Yes,
    /// The least that it takes is there, and it may take more; or that is not known.
    Perhaps,
    /// Not even the least that it takes is there.
    No,
}

/// A fact without which there is no upper bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// How large the weights are.
    Weights,
    /// What is kept of each token.
    Attention,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weights => "How large the model's weights are is not known.",
            Self::Attention => "What the model keeps of each token is not known.",
        })
    }
}

impl Estimate {
    /// Returns the least that the parts which are known take.
    pub fn least(&self) -> ByteSize {
        let parts = [self.weights, self.cache, Some(self.overhead)];
        parts.into_iter().flatten().fold(ByteSize::ZERO, |sum, part| sum.plus(part.least))
    }

    /// Returns the most that all parts take; `None` while a part is not known.
    pub fn most(&self) -> Option<ByteSize> {
        Some(self.weights?.most.plus(self.cache?.most).plus(self.overhead.most))
    }

    /// Returns whether it fits into `room`.
    pub fn fits(&self, room: ByteSize) -> Fit {
        if self.least() > room {
            return Fit::No;
        }
        if self.most().is_some_and(|most| most <= room) { Fit::Yes } else { Fit::Perhaps }
    }

    /// Iterates over the facts that are missing.
    pub fn missing(&self) -> impl Iterator<Item = Missing> {
        let weights = self.weights.is_none().then_some(Missing::Weights);
        let attention = self.cache.is_none().then_some(Missing::Attention);
        weights.into_iter().chain(attention)
    }
}
