//! How many tokens fit beside the weights, counted as vLLM counts.

use crate::memory::ByteSize;

/// How a GPU's memory is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// How much of its memory the server may take, in percent. Default: 90, as vLLM's
    /// `gpu_memory_utilization`.
    pub percent: u8,
    /// Tokens of a block. Default: 16, as vLLM's `block_size`.
    pub block_tokens: u32,
    /// What each GPU needs besides weights and blocks: values between layers, and the libraries'
    /// own. Default: 2 GiB; vLLM's logs tell between 0.3 and 2.
    pub overhead: ByteSize,
}

impl Default for Usage {
    fn default() -> Self {
        Self { percent: 90, block_tokens: 16, overhead: ByteSize::gib(2) }
    }
}

impl Usage {
    /// Returns what a GPU has left for weights and blocks.
    pub fn usable(&self, memory: ByteSize) -> ByteSize {
        let allowed = memory.part(self.percent.min(100).into(), 100);
        allowed.minus(self.overhead).unwrap_or(ByteSize::ZERO)
    }

    /// Returns how many blocks fit into `room`, of which each token takes `token`.
    ///
    /// ```
    /// use iris_core::memory::{Attention, ByteSize, CacheType};
    /// use iris_core::parallelism::Usage;
    ///
    /// // A card with 24 GiB, Llama 3.1 8B in 16 bits: 15 GiB of weights.
    /// let usage = Usage::default();
    /// let room = usage.usable(ByteSize::gib(24)).minus(ByteSize::gib(15)).unwrap();
    /// let token = Attention::new(32, 8, 128).token(CacheType::F16);
    /// assert_eq!(usage.blocks(room, token) * 16, 37_680);
    /// ```
    pub fn blocks(&self, room: ByteSize, token: ByteSize) -> u64 {
        room.get() / token.part(self.block_tokens.into(), 1).get().max(1)
    }

    /// Returns how many tokens so many blocks hold.
    pub const fn tokens(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(self.block_tokens as u64)
    }
}

/// Returns how many requests of `context` tokens `tokens` suffice for at a time, in hundredths:
/// vLLM's "Maximum concurrency".
pub fn concurrency(tokens: u64, context: u32) -> u64 {
    let context = u128::from(context.max(1));
    let hundredths = (u128::from(tokens) * 100 + context / 2) / context;
    u64::try_from(hundredths).unwrap_or(u64::MAX)
}
