//! The sizes of a model, read from its file's metadata and checked before anything uses them.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;

use super::embedding::Pooling;
use super::error::EngineError;
use super::network::Sizes;

/// No known model is near these; larger numbers come from damaged files.
const MAX_SIZE: u64 = 1 << 20;
const MAX_LAYERS: u64 = 1 << 10;
const MAX_CONTEXT: u64 = 1 << 24;

/// How the two halves of a rotated pair lie in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RopeLayout {
    /// Neighbours, `(0, 1), (2, 3), ..`, as the `llama` architecture stores them.
    Adjacent,
    /// Halves, `(0, n/2), (1, n/2 + 1), ..`, as the `qwen` architectures do.
    Halves,
}

/// The sizes and constants of one model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Config {
    pub(super) context: usize,
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) feed_forward: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) norm_epsilon: f32,
    pub(super) rope_layout: RopeLayout,
    pub(super) rope_dim: usize,
    pub(super) rope_base: f32,
    pub(super) rope_scale: f32,
    /// How vectors are made of texts; `None` where the file asks for a way that is not known.
    pub(super) pooling: Option<Pooling>,
}

impl Config {
    pub(super) fn read(metadata: &HashMap<String, Value>) -> Result<Self, EngineError> {
        let architecture = match metadata.get("general.architecture") {
            Some(Value::String(name)) => name.as_str(),
            _ => return Err(EngineError::malformed("it does not name an architecture")),
        };
        let rope_layout = match architecture {
            "llama" => RopeLayout::Adjacent,
            "qwen2" | "qwen3" => RopeLayout::Halves,
            other => {
                return Err(EngineError::Unsupported(format!("the architecture {other:?}")));
            }
        };
        if metadata.get("split.count").is_some_and(|count| count.to_u64().is_ok_and(|n| n > 1)) {
            return Err(EngineError::Unsupported("the other files that it was split into".into()));
        }
        let keys = Keys { metadata, architecture };
        if keys.optional_int("expert_count", MAX_SIZE)?.is_some_and(|experts| experts > 0) {
            return Err(EngineError::Unsupported("a mixture of experts".into()));
        }
        let width = keys.int("embedding_length", MAX_SIZE)?;
        let heads = keys.int("attention.head_count", MAX_SIZE)?;
        let kv_heads = keys.optional_int("attention.head_count_kv", MAX_SIZE)?.unwrap_or(heads);
        let key = keys.optional_int("attention.key_length", MAX_SIZE)?;
        let head_dim = key.unwrap_or(width / heads);
        let value_dim = keys.optional_int("attention.value_length", MAX_SIZE)?;
        if value_dim.unwrap_or(head_dim) != head_dim {
            return Err(EngineError::Unsupported("values of another length than keys".into()));
        }
        let trained = keys.int("context_length", MAX_CONTEXT)?;
        let window = keys.optional_int("attention.sliding_window", MAX_CONTEXT)?;
        let config = Self {
            // Within the window, attention that slides is attention that does not.
            context: window.filter(|window| *window > 0).map_or(trained, |w| w.min(trained)),
            width,
            layers: keys.int("block_count", MAX_LAYERS)?,
            feed_forward: keys.int("feed_forward_length", MAX_SIZE)?,
            heads,
            kv_heads,
            head_dim,
            norm_epsilon: keys.float("attention.layer_norm_rms_epsilon", 1e-5)?,
            rope_layout,
            rope_dim: keys.optional_int("rope.dimension_count", MAX_SIZE)?.unwrap_or(head_dim),
            rope_base: keys.float("rope.freq_base", 10_000.0)?,
            rope_scale: keys.rope_scale()?,
            pooling: Pooling::of(keys.optional_int("pooling_type", MAX_SIZE)?),
        };
        config.check()?;
        Ok(config)
    }

    /// Returns what requests are checked against, of a model with so many tokens.
    pub(super) fn sizes(&self, vocabulary: usize) -> Sizes {
        let Self { context, width, pooling, .. } = *self;
        Sizes { context, width, vocabulary, pooling }
    }

    fn check(&self) -> Result<(), EngineError> {
        let heads_fit = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        let rope_fits = self.rope_dim.is_multiple_of(2) && self.rope_dim <= self.head_dim;
        let sizes_fit = self.head_dim > 0 && self.heads * self.head_dim <= 1 << 22;
        if heads_fit && rope_fits && sizes_fit {
            Ok(())
        } else {
            Err(EngineError::malformed("its attention sizes contradict each other"))
        }
    }
}

struct Keys<'a> {
    metadata: &'a HashMap<String, Value>,
    architecture: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    fn int(&self, key: &str, max: u64) -> Result<usize, EngineError> {
        match self.optional_int(key, max)? {
            Some(number) if number > 0 => Ok(number),
            Some(_) => Err(EngineError::Malformed(format!("{key} is zero"))),
            None => Err(EngineError::Malformed(format!("it lacks {key}"))),
        }
    }

    fn optional_int(&self, key: &str, max: u64) -> Result<Option<usize>, EngineError> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(_)) => {
                return Err(EngineError::Unsupported(format!("a {key} that differs by layer")));
            }
            Some(Value::I32(number)) => u64::try_from(*number).ok(),
            Some(Value::I64(number)) => u64::try_from(*number).ok(),
            Some(value) => value.to_u64().ok(),
        };
        match number {
            Some(number) if number <= max => Ok(usize::try_from(number).ok()),
            _ => Err(EngineError::Malformed(format!("{key} is not a number up to {max}"))),
        }
    }

    fn float(&self, key: &str, default: f32) -> Result<f32, EngineError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::F32(number)) if number.is_finite() && *number > 0.0 => Ok(*number),
            Some(_) => Err(EngineError::Malformed(format!("{key} is not a positive number"))),
        }
    }

    fn rope_scale(&self) -> Result<f32, EngineError> {
        match self.get("rope.scaling.type") {
            None => Ok(1.0),
            Some(Value::String(kind)) if kind == "none" => Ok(1.0),
            Some(Value::String(kind)) if kind == "linear" => {
                Ok(1.0 / self.float("rope.scaling.factor", 1.0)?)
            }
            Some(_) => Err(EngineError::Unsupported("a rope scaling other than linear".into())),
        }
    }
}
