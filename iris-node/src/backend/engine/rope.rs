use candle_core::{D, Device, Result, Tensor};

use super::config::{Config, RopeLayout};
use super::error::EngineError;

/// Rotary position embedding, in either layout.
///
/// Rotating the pair `(a, b)` gives `(a cos - b sin, b cos + a sin)`: the vector times the
/// cosines, plus the same vector with partners swapped times the sines with their signs. Only
/// the order of partners and tables differs between layouts, so one formula serves both.
pub(super) struct Rope {
    /// For each place in a head: radians per position, and the sign of its sine.
    places: Vec<(f32, f32)>,
    partners: Tensor,
}

/// The tables for the positions of one pass.
pub(super) struct Rotation<'a> {
    partners: &'a Tensor,
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// Makes the rotation of a model, with the file's own factors per frequency, if it has some.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn new(
        config: &Config,
        factors: Option<&Tensor>,
    ) -> std::result::Result<Self, EngineError> {
        let pairs = config.rope_dim / 2;
        let factors = factors.map_or(Ok(vec![1.0; pairs]), Tensor::to_vec1::<f32>)?;
        if factors.iter().any(|factor| !factor.is_finite() || *factor <= 0.0) {
            return Err(EngineError::malformed("rope_freqs.weight holds impossible factors"));
        }
        // What lies behind the rotated part turns by nothing and is its own partner.
        let mut places = vec![(0.0, 0.0); config.head_dim];
        let mut partners: Vec<u32> = (0..).take(config.head_dim).collect();
        for (pair, factor) in factors.iter().enumerate() {
            let power = -2.0 * pair as f32 / config.rope_dim as f32;
            let frequency = config.rope_base.powf(power) * config.rope_scale / factor;
            let (a, b) = match config.rope_layout {
                RopeLayout::Adjacent => (2 * pair, 2 * pair + 1),
                RopeLayout::Halves => (pair, pair + pairs),
            };
            places[a] = (frequency, -1.0);
            places[b] = (frequency, 1.0);
            partners.swap(a, b);
        }
        Ok(Self { places, partners: Tensor::new(partners, &Device::Cpu)? })
    }

    /// Returns the tables for `tokens` positions from `position` on.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn at(&self, position: usize, tokens: usize) -> Result<Rotation<'_>> {
        let shape = (tokens, 1, self.places.len());
        let angles = (position..position + tokens)
            .flat_map(|at| self.places.iter().map(move |(turn, sign)| (at as f32 * turn, *sign)));
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|(angle, sign)| (angle.cos(), angle.sin() * sign)).unzip();
        Ok(Rotation {
            partners: &self.partners,
            cos: Tensor::from_vec(cos, shape, &Device::Cpu)?,
            sin: Tensor::from_vec(sin, shape, &Device::Cpu)?,
        })
    }
}

impl Rotation<'_> {
    /// Rotates `(tokens, heads, head size)`.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let swapped = x.index_select(self.partners, D::Minus1)?;
        x.broadcast_mul(&self.cos)? + swapped.broadcast_mul(&self.sin)?
    }
}
