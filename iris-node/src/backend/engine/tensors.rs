//! The forward pass in candle's operators, for graphics cards.
//!
//! It reads the same files as the [`Decoder`](super::decoder::Decoder) and does the same, with the
//! weights, what is computed and the conversations' keys and values on one device. Only a look-up of
//! tokens' embeddings and what comes out are on the processor. Nothing here names a device, so that
//! the tests run all of it on the processor, beside the decoder; the kernels of a card are candle's.

use std::io::{Read, Seek};
use std::sync::Arc;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};
use iris_core::backend::BackendError;

use super::config::{Config, RopeLayout};
use super::error::EngineError;
use super::network::{Memory, Network, Scores, Sizes, Wanted, deal, failed};
use super::rope::Rope;
use super::weights::{FromWeights, Weights};

/// Tokens of a prompt in one pass.
const STEP: usize = 128;
/// Tokens a new cache has room for beyond the prompt.
const SPARE: usize = 128;

type Part<'a> = super::network::Part<'a, TensorCache>;

/// A decoder with grouped-query attention, on a device.
pub(super) struct Tensors {
    config: Config,
    vocabulary: usize,
    device: Device,
    /// On the processor, since a pass takes few of its rows.
    embedding: Arc<QTensor>,
    layers: Vec<Layer>,
    norm: Norm,
    output: QMatMul,
    rope: Rope,
}

impl Tensors {
    fn read_parts(&self, parts: &mut [Part<'_>]) -> Result<Vec<Scores>> {
        let states = self.states(parts)?;
        let (mut picked, mut kept, mut first) = (Vec::new(), Vec::new(), 0);
        for part in &*parts {
            for at in 0..part.tokens.len() {
                let row = u32::try_from(first + at)?;
                if part.wanted == Wanted::States {
                    kept.push(row);
                } else if part.wanted.is_after(at, part.tokens.len()) {
                    picked.push(row);
                }
            }
            first += part.tokens.len();
        }
        let scores = self.rows(&states, picked, Some(&self.output))?;
        let kept = self.rows(&states, kept, None)?;
        Ok(deal(parts, scores.into_iter(), kept.into_iter()))
    }

    /// Returns what the last norm makes of some rows, multiplied with a matrix if there is one.
    fn rows(&self, states: &Tensor, rows: Vec<u32>, matrix: Option<&QMatMul>) -> Result<Scores> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let rows = states.index_select(&Tensor::new(rows, &self.device)?, 0)?;
        let rows = self.norm.forward(&rows)?;
        matrix.map_or_else(|| Ok(rows.clone()), |matrix| matrix.forward(&rows))?.to_vec2()
    }

    /// Reads all `parts` and returns what the last layer makes of each token.
    fn states(&self, parts: &mut [Part<'_>]) -> Result<Tensor> {
        let tokens: Vec<u32> = parts.iter().flat_map(|part| part.tokens).copied().collect();
        let positions = |part: &Part<'_>| part.cache.len..part.cache.len + part.tokens.len();
        let turns = self.rope.at(parts.iter().flat_map(positions));
        let turns = Turns::new(turns.angles(), &self.config, tokens.len(), &self.device)?;
        let masks = parts.iter().map(|part| mask(part, &self.device));
        let masks = masks.collect::<Result<Vec<_>>>()?;
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self.embedding.embedding(&tokens)?.to_device(&self.device)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = (&x + layer.attention(&x, &turns, &masks, index, parts)?)?;
            x = (&x + layer.feed_forward(&x)?)?;
        }
        for part in parts {
            part.cache.len += part.tokens.len();
        }
        Ok(x)
    }
}

impl FromWeights for Tensors {
    fn read<R: Read + Seek>(
        config: Config,
        weights: &mut Weights<R>,
        device: &Device,
    ) -> std::result::Result<Self, EngineError> {
        let name = "token_embd.weight";
        let vocabulary = weights.rows(name, config.width)?;
        let embedding = weights.matrix(name, vocabulary, config.width, &Device::Cpu)?;
        // Small models use one matrix to read tokens and to predict them.
        let output = if weights.has("output.weight") { "output.weight" } else { name };
        let output = linear(weights, output, vocabulary, config.width, device)?;
        let factors = weights.optional_vector("rope_freqs.weight", config.rope_dim / 2)?;
        let rope = Rope::new(&config, factors)?;
        let norm = Norm::read(weights, "output_norm.weight", config.width, &config, device)?;
        let layers = (0..config.layers).map(|index| Layer::read(weights, &config, index, device));
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        let device = device.clone();
        Ok(Self { config, vocabulary, device, embedding, layers, norm, output, rope })
    }
}

impl Network for Tensors {
    type Cache = TensorCache;

    fn sizes(&self) -> Sizes {
        self.config.sizes(self.vocabulary)
    }

    fn begin(
        &self,
        tokens: usize,
        context: usize,
    ) -> std::result::Result<TensorCache, BackendError> {
        Ok(TensorCache {
            layers: self.layers.iter().map(|_| None).collect(),
            room: (tokens + SPARE).min(context),
            context,
            len: 0,
        })
    }

    fn forward(&self, parts: &mut [Part<'_>]) -> std::result::Result<Vec<Scores>, BackendError> {
        self.read_parts(parts).map_err(|error| failed(&error))
    }

    fn step(&self) -> usize {
        STEP
    }
}

fn linear<R: Read + Seek>(
    weights: &mut Weights<R>,
    name: &str,
    rows: usize,
    columns: usize,
    device: &Device,
) -> std::result::Result<QMatMul, EngineError> {
    Ok(QMatMul::from_arc(weights.matrix(name, rows, columns, device)?)?)
}

fn vector<R: Read + Seek>(
    weights: &mut Weights<R>,
    name: &str,
    len: usize,
    device: &Device,
) -> std::result::Result<Tensor, EngineError> {
    Ok(Tensor::new(weights.vector(name, len)?, device)?)
}

/// Returns what is added to a part's scores of attention, so that no token sees later ones;
/// `(1, tokens, tokens so far)`. `None` where it sees all of them.
fn mask(part: &Part<'_>, device: &Device) -> Result<Option<Tensor>> {
    let (tokens, known) = (part.tokens.len(), part.cache.len);
    if tokens == 1 {
        return Ok(None);
    }
    let seen = |token, at| if at <= known + token { 0.0 } else { f32::NEG_INFINITY };
    let rows = (0..tokens).flat_map(|token| (0..known + tokens).map(move |at| seen(token, at)));
    Tensor::from_iter(rows, device)?.reshape((1, tokens, known + tokens)).map(Some)
}

/// The keys and values of one conversation, for each layer that has read something of it.
pub(super) struct TensorCache {
    layers: Vec<Option<Rows>>,
    room: usize,
    context: usize,
    len: usize,
}

/// `(key-value heads, room, head size)` each.
struct Rows {
    keys: Tensor,
    values: Tensor,
}

impl TensorCache {
    /// Writes the next tokens' rows of a layer, `(key-value heads, tokens, head size)`, and returns
    /// all rows so far.
    fn append(&mut self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let (heads, tokens, size) = keys.dims3()?;
        let end = self.len + tokens;
        if end > self.room {
            self.room = (self.room * 2).min(self.context).max(end);
        }
        let (room, len) = (self.room, self.len);
        let wide = |old: Option<&Tensor>| {
            let new = Tensor::zeros((heads, room, size), DType::F32, keys.device())?;
            if let Some(old) = old.filter(|_| len > 0) {
                new.slice_set(&old.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
            }
            Ok::<_, candle_core::Error>(new)
        };
        let place = &mut self.layers[layer];
        if !matches!(place, Some(rows) if rows.keys.dim(1)? == room) {
            let old = place.as_ref();
            let (keys, values) = (old.map(|rows| &rows.keys), old.map(|rows| &rows.values));
            *place = Some(Rows { keys: wide(keys)?, values: wide(values)? });
        }
        let Some(rows) = place else { candle_core::bail!("a layer has no rows") };
        rows.keys.slice_set(keys, 1, len)?;
        rows.values.slice_set(values, 1, len)?;
        Ok((rows.keys.narrow(1, 0, end)?, rows.values.narrow(1, 0, end)?))
    }
}

impl Memory for TensorCache {
    fn len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

struct Layer {
    attention_norm: Norm,
    query: Projection,
    key: Projection,
    value: Projection,
    joined: Linear,
    feed_forward_norm: Norm,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
}

impl Layer {
    fn read<R: Read + Seek>(
        weights: &mut Weights<R>,
        config: &Config,
        index: usize,
        device: &Device,
    ) -> std::result::Result<Self, EngineError> {
        let Config { width, heads, kv_heads, head_dim, feed_forward, .. } = *config;
        let name = |part: &str| format!("blk.{index}.{part}");
        let norm = |weights: &mut _, part| Norm::read(weights, &name(part), width, config, device);
        let head = |weights: &mut _, part, heads| {
            Projection::read(weights, &name(part), heads, config, device)
        };
        let matrix = |weights: &mut _, part, rows, columns| {
            linear(weights, &name(part), rows, columns, device)
        };
        let joined = name("attn_output");
        Ok(Self {
            attention_norm: norm(weights, "attn_norm.weight")?,
            query: head(weights, "attn_q", heads)?,
            key: head(weights, "attn_k", kv_heads)?,
            value: head(weights, "attn_v", kv_heads)?,
            joined: Linear::read(weights, &joined, width, heads * head_dim, device)?,
            feed_forward_norm: norm(weights, "ffn_norm.weight")?,
            gate: matrix(weights, "ffn_gate.weight", feed_forward, width)?,
            up: matrix(weights, "ffn_up.weight", feed_forward, width)?,
            down: matrix(weights, "ffn_down.weight", width, feed_forward)?,
        })
    }

    fn attention(
        &self,
        x: &Tensor,
        turns: &Turns,
        masks: &[Option<Tensor>],
        index: usize,
        parts: &mut [Part<'_>],
    ) -> Result<Tensor> {
        let x = self.attention_norm.forward(x)?;
        let query = turns.apply(&self.query.forward(&x)?)?;
        let key = turns.apply(&self.key.forward(&x)?)?;
        let value = self.value.forward(&x)?;
        let (mut found, mut first) = (Vec::with_capacity(parts.len()), 0);
        for (part, mask) in parts.iter_mut().zip(masks) {
            let tokens = part.tokens.len();
            let own = |rows: &Tensor| rows.narrow(0, first, tokens)?.transpose(0, 1)?.contiguous();
            let (keys, values) = part.cache.append(index, &own(&key)?, &own(&value)?)?;
            found.push(look(&own(&query)?, &keys, &values, mask.as_ref())?);
            first += tokens;
        }
        self.joined.forward(&Tensor::cat(&found, 0)?)
    }

    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.feed_forward_norm.forward(x)?;
        let gated = (self.gate.forward(&x)?.silu()? * self.up.forward(&x)?)?;
        self.down.forward(&gated)
    }
}

/// Lets the tokens of one conversation, `(heads, tokens, head size)`, look at all that it holds;
/// returns `(tokens, heads * head size)`.
fn look(query: &Tensor, keys: &Tensor, values: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let (heads, tokens, size) = query.dims3()?;
    let (kv_heads, seen, _) = keys.dims3()?;
    // The heads of a group look at the same keys.
    let query = query.reshape((kv_heads, heads / kv_heads * tokens, size))?;
    #[allow(clippy::cast_precision_loss)]
    let scale = 1.0 / (size as f64).sqrt();
    let scores = (query.matmul(&keys.transpose(1, 2)?)? * scale)?;
    let scores = scores.reshape((heads, tokens, seen))?;
    let scores = mask.map_or_else(|| Ok(scores.clone()), |mask| scores.broadcast_add(mask))?;
    let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
    let weights = weights.reshape((kv_heads, heads / kv_heads * tokens, seen))?;
    let found = weights.matmul(&values.contiguous()?)?.reshape((heads, tokens, size))?;
    found.transpose(0, 1)?.contiguous()?.reshape((tokens, heads * size))
}

/// The turns of the tokens of one pass: cosines and sines, `(tokens, 1, pairs)`.
struct Turns {
    cosines: Tensor,
    sines: Tensor,
    layout: RopeLayout,
}

impl Turns {
    fn new(angles: &[(f32, f32)], config: &Config, tokens: usize, device: &Device) -> Result<Self> {
        let shape = (tokens, 1, config.rope_dim / 2);
        let (cosines, sines): (Vec<f32>, Vec<f32>) = angles.iter().copied().unzip();
        Ok(Self {
            cosines: Tensor::from_vec(cosines, shape, device)?,
            sines: Tensor::from_vec(sines, shape, device)?,
            layout: config.rope_layout,
        })
    }

    /// Turns heads, `(tokens, heads, head size)`. What lies behind the rotated part stays.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, heads, size) = x.dims3()?;
        let pairs = self.cosines.dim(2)?;
        if pairs == 0 {
            return Ok(x.clone());
        }
        let turned = x.narrow(2, 0, 2 * pairs)?;
        let (a, b) = match self.layout {
            RopeLayout::Halves => (turned.narrow(2, 0, pairs)?, turned.narrow(2, pairs, pairs)?),
            RopeLayout::Adjacent => {
                let pairs = turned.contiguous()?.reshape((tokens, heads, pairs, 2))?;
                (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
            }
        };
        let times = |x: &Tensor, factor: &Tensor| x.broadcast_mul(factor);
        let first = (times(&a, &self.cosines)? - times(&b, &self.sines)?)?;
        let second = (times(&b, &self.cosines)? + times(&a, &self.sines)?)?;
        let turned = match self.layout {
            RopeLayout::Halves => Tensor::cat(&[first, second], 2)?,
            RopeLayout::Adjacent => {
                Tensor::stack(&[first, second], 3)?.reshape((tokens, heads, 2 * pairs))?
            }
        };
        if 2 * pairs == size {
            return Ok(turned);
        }
        Tensor::cat(&[turned, x.narrow(2, 2 * pairs, size - 2 * pairs)?], 2)
    }
}

/// Queries, keys or values: a matrix whose rows are split into heads.
struct Projection {
    linear: Linear,
    /// What `qwen3` does to the heads of queries and keys.
    norm: Option<Norm>,
    heads: usize,
}

impl Projection {
    fn read<R: Read + Seek>(
        weights: &mut Weights<R>,
        name: &str,
        heads: usize,
        config: &Config,
        device: &Device,
    ) -> std::result::Result<Self, EngineError> {
        let size = config.head_dim;
        let norm = format!("{name}_norm.weight");
        let normed = weights.has(&norm);
        let linear = Linear::read(weights, name, heads * size, config.width, device)?;
        let norm = normed.then(|| Norm::read(weights, &norm, size, config, device)).transpose()?;
        Ok(Self { linear, norm, heads })
    }

    /// Returns `(tokens, heads, head size)`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.linear.forward(x)?;
        let (tokens, all) = y.dims2()?;
        let y = y.reshape((tokens, self.heads, all / self.heads))?;
        self.norm.as_ref().map_or_else(|| Ok(y.clone()), |norm| norm.forward(&y))
    }
}

/// A matrix with the bias that some architectures add.
struct Linear {
    weight: QMatMul,
    bias: Option<Tensor>,
}

impl Linear {
    fn read<R: Read + Seek>(
        weights: &mut Weights<R>,
        name: &str,
        rows: usize,
        columns: usize,
        device: &Device,
    ) -> std::result::Result<Self, EngineError> {
        let bias = format!("{name}.bias");
        let biased = weights.has(&bias);
        Ok(Self {
            weight: linear(weights, &format!("{name}.weight"), rows, columns, device)?,
            bias: biased.then(|| vector(weights, &bias, rows, device)).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        self.bias.as_ref().map_or_else(|| Ok(y.clone()), |bias| y.broadcast_add(bias))
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
        device: &Device,
    ) -> std::result::Result<Self, EngineError> {
        let epsilon = f64::from(config.norm_epsilon);
        Ok(Self { weight: vector(weights, name, len, device)?, epsilon })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        x.broadcast_div(&(mean + self.epsilon)?.sqrt()?)?.broadcast_mul(&self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::super::decoder::Decoder;
    use super::super::model::Model;
    use super::super::network::Part;
    use super::*;

    const FAMILIES: [&[u8]; 4] = [
        include_bytes!("../../../tests/families/llama3.gguf"),
        include_bytes!("../../../tests/families/qwen2.gguf"),
        include_bytes!("../../../tests/families/qwen3.gguf"),
        include_bytes!("../../../tests/families/mistral.gguf"),
    ];

    /// Two conversations in steps of one pass each, the second of which forgets and goes on.
    fn told<N: Network>(network: &N) -> Vec<f32> {
        let mut told = Vec::new();
        let texts: [Vec<u32>; 2] = [(10..200).collect(), (50..180).rev().collect()];
        let [mut one, mut other] = [(); 2].map(|()| network.begin(3, 256).unwrap());
        let mut pass = |first: &[u32], second: &[u32], wanted| {
            let parts = &mut [
                Part { tokens: first, cache: &mut one, wanted },
                Part { tokens: second, cache: &mut other, wanted: Wanted::Each },
            ];
            told.extend(network.forward(parts).unwrap().into_iter().flatten().flatten());
            other.truncate(100);
        };
        // The caches begin with little room, so they grow in between.
        pass(&texts[0][..150], &texts[1][..110], Wanted::Last);
        pass(&texts[0][150..151], &texts[1][100..104], Wanted::Nothing);
        pass(&texts[0][151..160], &texts[1][100..], Wanted::States);
        told
    }

    #[test]
    fn the_layers_for_cards_tell_what_those_for_the_processor_do() {
        for file in FAMILIES {
            let tensors = Model::<Tensors>::from_bytes_to(file, &Device::Cpu).unwrap();
            let decoder = Model::<Decoder>::from_bytes(file).unwrap();
            assert_eq!(tensors.network.sizes(), decoder.network.sizes());
            let (ours, theirs) = (told(&tensors.network), told(&decoder.network));
            assert!(ours.len() == theirs.len() && ours.len() > 10_000);
            let far = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
            #[allow(clippy::cast_precision_loss)]
            let usual = far.clone().sum::<f32>() / ours.len() as f32;
            let farthest = far.fold(0.0, f32::max);
            let quantised = decoder.quantization.as_deref() != Some("F16");
            println!("{:?}: usually {usual}, at most {farthest}", decoder.quantization);
            // Both round what quantised weights are multiplied with, each in its own way.
            let (most_usual, most) = if quantised { (0.05, 1.0) } else { (0.001, 0.05) };
            assert!(usual < most_usual && farthest < most, "usually {usual}, at most {farthest}");
        }
    }
}
