//! How much memory the keys and values of a context take.

use super::size::ByteSize;

/// What the values of a cache are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheType {
    /// 32 bits.
    F32,
    /// 16 bits, of either form; what servers use unless told otherwise.
    #[default]
    F16,
    /// 8 bits, as vLLM's `fp8`.
    Fp8,
    /// llama.cpp's `q8_0`: 34 bytes for 32 values.
    Q8_0,
    /// llama.cpp's `q5_1`: 24 bytes for 32 values.
    Q5_1,
    /// llama.cpp's `q5_0`: 22 bytes for 32 values.
    Q5_0,
    /// llama.cpp's `q4_1`: 20 bytes for 32 values.
    Q4_1,
    /// llama.cpp's `q4_0`: 18 bytes for 32 values.
    Q4_0,
}

impl CacheType {
    /// Returns how many bytes 32 values take.
    const fn bytes_of_32(self) -> u64 {
        match self {
            Self::F32 => 128,
            Self::F16 => 64,
            Self::Fp8 => 32,
            Self::Q8_0 => 34,
            Self::Q5_1 => 24,
            Self::Q5_0 => 22,
            Self::Q4_1 => 20,
            Self::Q4_0 => 18,
        }
    }
}

/// What a model keeps of each token of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Layers that keep something. Of mixtures with state spaces only those with attention.
    pub layers: u32,
    /// Heads whose keys and values are kept, in each layer.
    pub kv_heads: u32,
    /// Values of a head's key.
    pub key_size: u32,
    /// Values of a head's value.
    pub value_size: u32,
    /// Those of the layers that keep only the last tokens.
    pub window: Option<Window>,
}

/// Layers that look back only so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many of the layers.
    pub layers: u32,
    /// How many tokens they keep.
    pub tokens: u32,
}

impl Attention {
    /// Names an attention whose keys and values are alike in size.
    pub const fn new(layers: u32, kv_heads: u32, head_size: u32) -> Self {
        Self { layers, kv_heads, key_size: head_size, value_size: head_size, window: None }
    }

    /// Names one that keeps a single vector for all heads: `DeepSeek`'s has 576 values.
    pub const fn latent(layers: u32, values: u32) -> Self {
        Self { layers, kv_heads: 1, key_size: values, value_size: 0, window: None }
    }

    /// Returns what one token takes in all layers.
    ///
    /// ```
    /// use iris_core::memory::{Attention, CacheType};
    ///
    /// let llama_3_8b = Attention::new(32, 8, 128);
    /// assert_eq!(llama_3_8b.token(CacheType::F16).get(), 128 << 10);
    /// ```
    pub fn token(&self, cache: CacheType) -> ByteSize {
        self.kept(u128::from(self.layers), cache)
    }

    /// Returns what a context of `tokens` takes.
    pub fn context(&self, tokens: u32, cache: CacheType) -> ByteSize {
        let (narrow, kept) = match self.window {
            Some(window) => (window.layers.min(self.layers), window.tokens.min(tokens)),
            None => (0, 0),
        };
        let wide = u128::from(self.layers - narrow) * u128::from(tokens);
        self.kept(wide + u128::from(narrow) * u128::from(kept), cache)
    }

    /// Returns what so many tokens take in one layer each.
    fn kept(&self, tokens: u128, cache: CacheType) -> ByteSize {
        let values = u128::from(self.kv_heads)
            .saturating_mul(u128::from(self.key_size) + u128::from(self.value_size));
        let bytes = values.saturating_mul(tokens).saturating_mul(cache.bytes_of_32().into());
        ByteSize::new(u64::try_from(bytes.div_ceil(32)).unwrap_or(u64::MAX))
    }
}
