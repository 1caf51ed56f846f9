//! What the beginning of a model's file tells: whether the engine can run it, and what that takes.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::TensorInfo;
use iris_core::memory::{Attention, ByteSize, CacheType};

use super::config::Config;
use super::error::EngineError;
use super::model;
use super::network::Sizes;
use super::weights::Weights;

/// What a loaded model takes beside weights and conversations: threads, buffers of a pass, a grammar.
const OVERHEAD: ByteSize = ByteSize::mib(64);
/// How many times their bytes in the file the vocabulary and what else is told there take.
const TOLD: u64 = 8;
/// Conversations that are kept for each slot: the one it works on, and one that may go on.
const KEPT: u64 = 2;

/// The beginning of a file that the engine can run, as far as that tells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) sizes: Sizes,
    pub(super) parameters: u64,
    pub(super) quantization: Option<String>,
    attention: Attention,
    /// What the weights take as they are laid out for the processor; a card takes no more.
    weights: ByteSize,
    /// Bytes before the weights.
    told: ByteSize,
}

impl Header {
    /// Reads the beginning of a file, and sees that the rest is there.
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        model::read(|| Self::read(BufReader::new(file), len))
    }

    fn read(reader: impl Read + Seek, len: u64) -> Result<Self, EngineError> {
        let weights = Weights::new(reader)?;
        let config = Config::read(weights.metadata())?;
        let vocabulary = weights.rows(EMBEDDING, config.width)?;
        let begins = weights.beginning();
        let ends =
            |info: &TensorInfo| begins.saturating_add(info.offset).saturating_add(stored(info));
        if weights.tensors().any(|(_, info)| ends(info) > len) {
            return Err(EngineError::malformed("it is cut off"));
        }
        let is_tied = !weights.has("output.weight");
        let size = |(name, info): (&str, &TensorInfo)| match name {
            EMBEDDING if is_tied => stored(info).saturating_add(laid(info)),
            EMBEDDING => stored(info),
            _ => laid(info),
        };
        let size = weights.tensors().map(size).fold(0, u64::saturating_add);
        let Config { layers, kv_heads, head_dim, .. } = config;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (parameters, quantization) = weights.summary();
        Ok(Self {
            sizes: config.sizes(vocabulary),
            parameters,
            quantization,
            attention: Attention::new(count(layers), count(kv_heads), count(head_dim)),
            weights: ByteSize::new(size),
            told: ByteSize::new(begins),
        })
    }

    /// Returns the most that the model takes once it is loaded and `slots` conversations have read
    /// `context` tokens each.
    pub(super) fn memory(&self, context: usize, slots: usize) -> ByteSize {
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        let conversation = self.attention.context(context, CacheType::F32);
        let conversations = conversation.part((slots as u64).saturating_mul(KEPT), 1);
        self.weights.plus(conversations).plus(self.told.part(TOLD, 1)).plus(OVERHEAD)
    }
}

const EMBEDDING: &str = "token_embd.weight";

fn values(info: &TensorInfo) -> u64 {
    info.shape.dims().iter().fold(1, |all: u64, size| all.saturating_mul(*size as u64))
}

/// Returns how many bytes a tensor has in the file.
fn stored(info: &TensorInfo) -> u64 {
    let blocks = values(info).div_ceil(info.ggml_dtype.block_size() as u64);
    blocks.saturating_mul(info.ggml_dtype.type_size() as u64)
}

/// Returns how many bytes a matrix takes that rows are multiplied with: what is not quantised becomes
/// floats, and the processor's products have a layout of their own.
fn laid(info: &TensorInfo) -> u64 {
    // Numbers of 4 or 8 bits, and for each block a scale and mostly what is added, as floats.
    let bits: u64 = match info.ggml_dtype {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => 32,
        GgmlDType::Q4_0 => 5,
        GgmlDType::Q4_1 | GgmlDType::Q4K => 6,
        GgmlDType::Q5_0 | GgmlDType::Q8_0 => 9,
        GgmlDType::Q5_1 | GgmlDType::Q5K | GgmlDType::Q6K => 10,
        _ => 0,
    };
    stored(info).max(values(info).saturating_mul(bits).div_ceil(8))
}
