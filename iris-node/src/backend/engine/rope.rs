use super::config::{Config, RopeLayout};
use super::error::EngineError;

/// Rotary position embedding, in either layout.
pub(super) struct Rope {
    /// Radians per position for each rotated pair.
    turns: Vec<f32>,
    layout: RopeLayout,
    head_dim: usize,
}

/// The turns of the tokens of one pass.
pub(super) struct Rotation<'a> {
    rope: &'a Rope,
    /// Cosine and sine for each pair, token after token.
    angles: Vec<(f32, f32)>,
}

impl Rope {
    /// Makes the rotation of a model, with the file's own factors per frequency, if it has some.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn new(config: &Config, factors: Option<Vec<f32>>) -> Result<Self, EngineError> {
        let pairs = config.rope_dim / 2;
        let factors = factors.unwrap_or_else(|| vec![1.0; pairs]);
        if factors.iter().any(|factor| !factor.is_finite() || *factor <= 0.0) {
            return Err(EngineError::malformed("rope_freqs.weight holds impossible factors"));
        }
        let turn = |(pair, factor): (usize, &f32)| {
            let power = -2.0 * pair as f32 / config.rope_dim as f32;
            config.rope_base.powf(power) * config.rope_scale / factor
        };
        let turns = factors.iter().enumerate().map(turn).collect();
        Ok(Self { turns, layout: config.rope_layout, head_dim: config.head_dim })
    }

    /// Returns the turns of tokens at these positions.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn at(&self, positions: impl Iterator<Item = usize>) -> Rotation<'_> {
        let angle = |(at, turn): (usize, &f32)| {
            let (sin, cos) = (at as f32 * turn).sin_cos();
            (cos, sin)
        };
        let pairs = positions.flat_map(|at| self.turns.iter().map(move |turn| (at, turn)));
        Rotation { rope: self, angles: pairs.map(angle).collect() }
    }
}

impl Rotation<'_> {
    /// Returns cosine and sine for each pair, token after token.
    pub(super) fn angles(&self) -> &[(f32, f32)] {
        &self.angles
    }

    /// Turns heads, `(tokens, heads, head size)`. What lies behind the rotated part stays.
    pub(super) fn apply(&self, heads: &mut [f32], per_token: usize) {
        let Rope { turns, layout, head_dim } = self.rope;
        let pairs = turns.len();
        let tokens = heads.chunks_exact_mut(per_token * head_dim);
        for (token, angles) in tokens.zip(self.angles.chunks_exact(pairs.max(1))) {
            for head in token.chunks_exact_mut(*head_dim) {
                for (pair, (cos, sin)) in angles.iter().enumerate() {
                    let (a, b) = match layout {
                        RopeLayout::Adjacent => (2 * pair, 2 * pair + 1),
                        RopeLayout::Halves => (pair, pair + pairs),
                    };
                    let (x, y) = (head[a], head[b]);
                    (head[a], head[b]) = (x * cos - y * sin, y * cos + x * sin);
                }
            }
        }
    }
}
