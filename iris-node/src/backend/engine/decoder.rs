//! The forward pass, over weights that stay as the file stores them.
//!
//! One pass reads tokens of several conversations: their rows go through each matrix together, so
//! that its weights are read from memory once for all of them. Only attention looks at each
//! conversation by itself.

use std::io::{Read, Seek};
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{Device, Result, Tensor};
use iris_core::backend::BackendError;
use rayon::prelude::*;

use super::cache::Cache;
use super::config::Config;
use super::error::EngineError;
use super::matrix::{Matrix, dot, gate};
use super::network::{Memory, Network, Scores, Sizes, Wanted, deal, failed};
use super::rope::{Rope, Rotation};
use super::weights::{FromWeights, Weights};

/// Multiplications of an attention that are worth waking other threads for.
const SHARED_ATTENTION: usize = 1 << 19;

/// A decoder with grouped-query attention, as `llama` and `qwen` files hold it.
pub(super) struct Decoder {
    config: Config,
    vocabulary: usize,
    embedding: Arc<QTensor>,
    layers: Vec<Layer>,
    norm: Norm,
    output: Matrix,
    rope: Rope,
}

type Part<'a> = super::network::Part<'a, Cache>;

impl Decoder {
    fn read_parts(&self, parts: &mut [Part<'_>]) -> Result<Vec<Scores>> {
        let states = self.states(parts)?;
        let width = self.config.width;
        let (mut picked, mut kept, mut first) = (Vec::new(), Vec::new(), 0);
        for part in &*parts {
            let end = first + part.tokens.len();
            let from = match part.wanted {
                Wanted::Nothing => end,
                Wanted::Last => end - 1,
                Wanted::Each | Wanted::States => first,
            };
            let wanted = &states[from * width..end * width];
            let to = if part.wanted == Wanted::States { &mut kept } else { &mut picked };
            to.extend_from_slice(wanted);
            first = end;
        }
        self.norm.apply(&mut picked);
        self.norm.apply(&mut kept);
        let scores = if picked.is_empty() { Vec::new() } else { self.output.forward(&picked)? };
        let scores = scores.chunks_exact(self.vocabulary).map(<[f32]>::to_vec);
        Ok(deal(parts, scores, kept.chunks_exact(width).map(<[f32]>::to_vec)))
    }

    /// Reads all `parts` and returns what the last layer makes of each token.
    fn states(&self, parts: &mut [Part<'_>]) -> Result<Vec<f32>> {
        let tokens: Vec<u32> = parts.iter().flat_map(|part| part.tokens).copied().collect();
        let positions = |part: &Part<'_>| part.cache.len()..part.cache.len() + part.tokens.len();
        let rotation = self.rope.at(parts.iter().flat_map(positions));
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self.embedding.embedding(&tokens)?.flatten_all()?.to_vec1()?;
        for (index, layer) in self.layers.iter().enumerate() {
            let found = layer.attention(&x, &rotation, index, parts)?;
            add(&mut x, &found);
            let found = layer.feed_forward(&x)?;
            add(&mut x, &found);
        }
        for part in parts {
            part.cache.advance(part.tokens.len());
        }
        Ok(x)
    }
}

impl FromWeights for Decoder {
    fn read<R: Read + Seek>(
        config: Config,
        weights: &mut Weights<R>,
        _: &Device,
    ) -> std::result::Result<Self, EngineError> {
        let vocabulary = weights.rows("token_embd.weight", config.width)?;
        let embedding =
            weights.matrix("token_embd.weight", vocabulary, config.width, &Device::Cpu)?;
        // Small models use one matrix to read tokens and to predict them.
        let output = if weights.has("output.weight") {
            weights.linear("output.weight", vocabulary, config.width)?
        } else {
            Matrix::new(Arc::clone(&embedding))?
        };
        let factors = weights.optional_vector("rope_freqs.weight", config.rope_dim / 2)?;
        let rope = Rope::new(&config, factors)?;
        let norm = Norm::read(weights, "output_norm.weight", config.width, &config)?;
        let layers = (0..config.layers).map(|index| Layer::read(weights, &config, index));
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        Ok(Self { config, vocabulary, embedding, layers, norm, output, rope })
    }
}

impl Network for Decoder {
    type Cache = Cache;

    fn sizes(&self) -> Sizes {
        self.config.sizes(self.vocabulary)
    }

    fn begin(&self, tokens: usize, context: usize) -> std::result::Result<Cache, BackendError> {
        Ok(Cache::new(&self.config, tokens, context))
    }

    fn forward(&self, parts: &mut [Part<'_>]) -> std::result::Result<Vec<Scores>, BackendError> {
        self.read_parts(parts).map_err(|error| failed(&error))
    }

    fn is_small(&self) -> bool {
        self.output.is_small() && self.layers.iter().all(Layer::is_small)
    }
}

/// Does two things, with a small model one after the other: on several threads they wait for each
/// other once less.
fn beside<A: Send, B: Send>(
    small: bool,
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    if small { (one(), other()) } else { rayon::join(one, other) }
}

fn add(to: &mut [f32], values: &[f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += value;
    }
}

struct Layer {
    attention_norm: Norm,
    query: Projection,
    key: Projection,
    value: Projection,
    joined: Linear,
    feed_forward_norm: Norm,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Layer {
    fn read<R: Read + Seek>(
        weights: &mut Weights<R>,
        config: &Config,
        index: usize,
    ) -> std::result::Result<Self, EngineError> {
        let Config { width, heads, kv_heads, head_dim, feed_forward, .. } = *config;
        let name = |part: &str| format!("blk.{index}.{part}");
        Ok(Self {
            attention_norm: Norm::read(weights, &name("attn_norm.weight"), width, config)?,
            query: Projection::read(weights, &name("attn_q"), heads, config)?,
            key: Projection::read(weights, &name("attn_k"), kv_heads, config)?,
            value: Projection::read(weights, &name("attn_v"), kv_heads, config)?,
            joined: Linear::read(weights, &name("attn_output"), width, heads * head_dim)?,
            feed_forward_norm: Norm::read(weights, &name("ffn_norm.weight"), width, config)?,
            gate: weights.linear(&name("ffn_gate.weight"), feed_forward, width)?,
            up: weights.linear(&name("ffn_up.weight"), feed_forward, width)?,
            down: weights.linear(&name("ffn_down.weight"), width, feed_forward)?,
        })
    }

    fn is_small(&self) -> bool {
        [&self.gate, &self.up, &self.down, &self.joined.weight].iter().all(|m| m.is_small())
    }

    fn attention(
        &self,
        x: &[f32],
        rotation: &Rotation<'_>,
        index: usize,
        parts: &mut [Part<'_>],
    ) -> Result<Vec<f32>> {
        let x = self.attention_norm.of(x);
        let small = self.is_small();
        let (query, (key, value)) = beside(
            small,
            || self.query.forward(&x),
            || beside(small, || self.key.forward(&x), || self.value.forward(&x)),
        );
        let (mut query, mut key, value) = (query?, key?, value?);
        rotation.apply(&mut query, self.query.heads);
        rotation.apply(&mut key, self.key.heads);

        let (row, kv_row) = (self.query.row(), self.key.row());
        let mut found = vec![0.0; query.len()];
        let (mut queries, mut keys, mut values) = (&*query, &*key, &*value);
        let mut rest = &mut *found;
        for part in parts {
            let tokens = part.tokens.len();
            let (own_keys, later) = keys.split_at(tokens * kv_row);
            let (own_values, after) = values.split_at(tokens * kv_row);
            part.cache.append(index, own_keys, own_values);
            let (query, next) = queries.split_at(tokens * row);
            let (found, following) = rest.split_at_mut(tokens * row);
            self.look(index, part.cache, query, found);
            (queries, keys, values, rest) = (next, later, after, following);
        }
        self.joined.forward(&found)
    }

    /// Lets the tokens of one conversation look at what its cache holds up to each of them.
    fn look(&self, index: usize, cache: &Cache, query: &[f32], found: &mut [f32]) {
        let (heads, size) = (self.query.heads, self.query.head_dim);
        let group = heads / self.key.heads;
        let one = |(number, (query, found)): (usize, (&[f32], &mut [f32]))| {
            let (token, head) = (number / heads, number % heads);
            cache.attend(index, head / group, query, cache.len() + token + 1, found);
        };
        if query.len() * (cache.len() + query.len() / (heads * size)) < SHARED_ATTENTION {
            query.chunks_exact(size).zip(found.chunks_exact_mut(size)).enumerate().for_each(one);
        } else {
            let heads = query.par_chunks_exact(size).zip(found.par_chunks_exact_mut(size));
            heads.enumerate().for_each(one);
        }
    }

    fn feed_forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let x = self.feed_forward_norm.of(x);
        let (gated, up) = beside(self.is_small(), || self.gate.forward(&x), || self.up.forward(&x));
        let mut gated = gated?;
        gate(&mut gated, &up?);
        self.down.forward(&gated)
    }
}

/// Queries, keys or values: a matrix whose rows are split into heads.
struct Projection {
    linear: Linear,
    /// What `qwen3` does to the heads of queries and keys.
    norm: Option<Norm>,
    heads: usize,
    head_dim: usize,
}

impl Projection {
    fn read<R: Read + Seek>(
        weights: &mut Weights<R>,
        name: &str,
        heads: usize,
        config: &Config,
    ) -> std::result::Result<Self, EngineError> {
        let head_dim = config.head_dim;
        let norm = format!("{name}_norm.weight");
        let normed = weights.has(&norm);
        Ok(Self {
            linear: Linear::read(weights, name, heads * head_dim, config.width)?,
            norm: normed.then(|| Norm::read(weights, &norm, head_dim, config)).transpose()?,
            heads,
            head_dim,
        })
    }

    /// Returns how many values a token has.
    fn row(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Returns `(tokens, heads, head size)`.
    fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let mut y = self.linear.forward(x)?;
        if let Some(norm) = &self.norm {
            norm.apply(&mut y);
        }
        Ok(y)
    }
}

/// A matrix with the bias that some architectures add.
struct Linear {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    fn read<R: Read + Seek>(
        weights: &mut Weights<R>,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> std::result::Result<Self, EngineError> {
        Ok(Self {
            weight: weights.linear(&format!("{name}.weight"), rows, columns)?,
            bias: weights.optional_vector(&format!("{name}.bias"), rows)?,
        })
    }

    fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let mut y = self.weight.forward(x)?;
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
        }
        Ok(y)
    }
}

/// Divides by the root of the mean square.
struct Norm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    fn read<R: Read + Seek>(
        weights: &mut Weights<R>,
        name: &str,
        len: usize,
        config: &Config,
    ) -> std::result::Result<Self, EngineError> {
        Ok(Self { weight: weights.vector(name, len)?, epsilon: config.norm_epsilon })
    }

    fn of(&self, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        self.apply(&mut x);
        x
    }

    fn apply(&self, x: &mut [f32]) {
        for row in x.chunks_exact_mut(self.weight.len()) {
            #[allow(clippy::cast_precision_loss)]
            let mean = dot(row, row) / row.len() as f32;
            let scale = 1.0 / (mean + self.epsilon).sqrt();
            for (value, weight) in row.iter_mut().zip(&self.weight) {
                *value *= scale * weight;
            }
        }
    }
}
