//! The forward pass, over weights that stay as the file stores them.

use std::io::{Read, Seek};
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{D, Device, Result, Tensor};

use super::cache::Cache;
use super::config::Config;
use super::error::EngineError;
use super::matrix::{Matrix, product};
use super::rope::{Rope, Rotation};
use super::weights::Weights;

/// A decoder with grouped-query attention, as `llama` and `qwen` files hold it.
pub(super) struct Network {
    pub(super) config: Config,
    pub(super) vocabulary: usize,
    embedding: Arc<QTensor>,
    layers: Vec<Layer>,
    norm: Norm,
    output: Matrix,
    rope: Rope,
}

impl Network {
    pub(super) fn read<R: Read + Seek>(
        config: Config,
        weights: &mut Weights<R>,
    ) -> std::result::Result<Self, EngineError> {
        let vocabulary = weights.rows("token_embd.weight", config.width)?;
        let embedding = weights.matrix("token_embd.weight", vocabulary, config.width)?;
        // Small models use one matrix to read tokens and to predict them.
        let output = if weights.has("output.weight") {
            weights.linear("output.weight", vocabulary, config.width)?
        } else {
            Matrix::new(Arc::clone(&embedding))?
        };
        let factors = weights.optional_vector("rope_freqs.weight", config.rope_dim / 2)?;
        let rope = Rope::new(&config, factors.as_ref())?;
        let norm = Norm::read(weights, "output_norm.weight", config.width, &config)?;
        let layers = (0..config.layers).map(|index| Layer::read(weights, &config, index));
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        Ok(Self { config, vocabulary, embedding, layers, norm, output, rope })
    }

    /// Reads `tokens` after those in `cache` and returns the scores of what could come next.
    pub(super) fn forward(&self, tokens: &[u32], cache: &mut Cache) -> Result<Vec<f32>> {
        let last = self.read_tokens(tokens, cache)?.narrow(0, tokens.len() - 1, 1)?;
        self.output.forward(&self.norm.forward(&last)?)?.squeeze(0)?.to_vec1()
    }

    /// Reads `tokens` like [`forward`](Self::forward) and returns the scores after each of them.
    pub(super) fn forward_each(&self, tokens: &[u32], cache: &mut Cache) -> Result<Vec<Vec<f32>>> {
        let all = self.read_tokens(tokens, cache)?;
        self.output.forward(&self.norm.forward(&all)?)?.to_vec2()
    }

    /// Reads `tokens` after those in `cache` and returns what the last layer makes of each.
    fn read_tokens(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor> {
        let position = cache.len();
        let rotation = self.rope.at(position, tokens.len())?;
        let mask = mask(position, tokens.len())?;
        let mut x = self.embedding.embedding(&Tensor::new(tokens, &Device::Cpu)?)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let attended = layer.attention(&x, &rotation, mask.as_ref(), index, cache)?;
            x = (x + attended)?;
            x = (&x + layer.feed_forward(&x)?)?;
        }
        cache.advance(tokens.len());
        Ok(x)
    }
}

/// What keeps a token from looking at later ones: nothing for one token, else `(tokens, all)`.
fn mask(position: usize, tokens: usize) -> Result<Option<Tensor>> {
    if tokens == 1 {
        return Ok(None);
    }
    let all = position + tokens;
    let row = |token| (0..all).map(move |at| if at > token { f32::NEG_INFINITY } else { 0.0 });
    let values: Vec<f32> = (position..all).flat_map(row).collect();
    Tensor::from_vec(values, (tokens, all), &Device::Cpu).map(Some)
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

    fn attention(
        &self,
        x: &Tensor,
        rotation: &Rotation<'_>,
        mask: Option<&Tensor>,
        index: usize,
        cache: &mut Cache,
    ) -> Result<Tensor> {
        let x = self.attention_norm.forward(x)?;
        let query = rotation.apply(&self.query.forward(&x)?)?;
        let key = rotation.apply(&self.key.forward(&x)?)?;
        let key = key.transpose(0, 1)?.contiguous()?;
        let value = self.value.forward(&x)?.permute((1, 2, 0))?.contiguous()?;
        let (keys, values) = cache.append(index, &key, &value)?;

        // The query heads that share a key head become rows of one matrix product.
        let (tokens, heads, head_dim) = query.dims3()?;
        let kv_heads = self.key.heads;
        let group = heads / kv_heads;
        let query = query.reshape((tokens, kv_heads, group, head_dim))?;
        let query = query.permute((1, 2, 0, 3))?.contiguous()?;
        let query = query.reshape((kv_heads, group * tokens, head_dim))?;
        #[allow(clippy::cast_precision_loss)]
        let scale = 1.0 / (head_dim as f64).sqrt();
        let scores = masked((product(&query, &keys)? * scale)?, group, mask)?;
        let found = product(&softmax(&scores)?, &values)?;
        let found = found.reshape((kv_heads, group, tokens, head_dim))?;
        let found = found.permute((2, 0, 1, 3))?.contiguous()?;
        self.joined.forward(&found.reshape((tokens, heads * head_dim))?)
    }

    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.feed_forward_norm.forward(x)?;
        let gated = (self.gate.forward(&x)?.silu()? * self.up.forward(&x)?)?;
        self.down.forward(&gated)
    }
}

fn masked(scores: Tensor, group: usize, mask: Option<&Tensor>) -> Result<Tensor> {
    let Some(mask) = mask else { return Ok(scores) };
    let (heads, rows, all) = scores.dims3()?;
    let split = scores.reshape((heads, group, rows / group, all))?;
    split.broadcast_add(mask)?.reshape((heads, rows, all))
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let powers = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
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

    /// Returns `(tokens, heads, head size)`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.linear.forward(x)?;
        let y = y.reshape((x.dim(0)?, self.heads, self.head_dim))?;
        match &self.norm {
            Some(norm) => norm.forward(&y),
            None => Ok(y),
        }
    }
}

/// A matrix with the bias that some architectures add.
struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
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

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// Divides by the root of the mean square.
struct Norm {
    weight: Tensor,
    epsilon: f64,
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

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let size = (x.sqr()?.mean_keepdim(D::Minus1)? + self.epsilon)?.sqrt()?;
        x.broadcast_div(&size)?.broadcast_mul(&self.weight)
    }
}
