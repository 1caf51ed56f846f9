//! Tokens, rounded for products with quantised weights.

use std::arch::x86_64::__m256;
use std::ops::Range;

use half::f16;
use pulp::x86::V3;

use super::ROWS;
use super::simd::Simd;

/// Numbers of a token that have a scale of their own.
pub(super) const ROUNDED: usize = 32;

/// How llama.cpp rounds tokens, so that both engines find the same.
#[derive(Clone, Copy)]
pub(super) enum Rounding {
    /// Each 32 numbers by a scale of 16 bits.
    Each,
    /// Eight times as many by one scale.
    Eight,
}

/// Tokens rounded to 8 bits. Those of a tile, which are multiplied together, lie side by side.
pub(super) struct Rounded {
    tokens: usize,
    /// The most tokens that a tile has.
    most: usize,
    columns: usize,
    /// Columns of a block.
    block: usize,
    /// Four columns each.
    numbers: Vec<i32>,
    /// For each block.
    scales: Vec<f32>,
    lows: Vec<f32>,
    starts: Vec<i32>,
}

/// The tokens of a tile, each as one column.
pub(super) struct Tile<'a, const TOKENS: usize> {
    /// Four columns each.
    pub(super) numbers: &'a [[i32; TOKENS]],
    /// For each block, what a rounded number is worth.
    pub(super) scales: &'a [[f32; TOKENS]],
    /// For each block, the sum of its numbers, times what weights' lows are of their scale.
    pub(super) lows: &'a [[f32; TOKENS]],
    /// For each block, -128 times the sum of its rounded numbers.
    pub(super) starts: &'a [[i32; TOKENS]],
}

impl Rounded {
    /// Rounds tokens of `columns` numbers for weights in blocks of `block` columns, 16 or 32;
    /// `times` is what the lows of these weights are of their scale.
    pub(super) fn new<S: Simd>(
        simd: S,
        x: &[f32],
        columns: usize,
        block: usize,
        rounding: Rounding,
        times: f32,
    ) -> Self {
        let blocks = x.len() / block;
        let mut rounded = Self {
            tokens: x.len() / columns,
            most: S::TOKENS,
            columns,
            block,
            numbers: vec![0; x.len() / 4],
            scales: vec![0.0; blocks],
            lows: vec![0.0; blocks],
            starts: vec![0; blocks],
        };
        let common = simd.common();
        for tile in rounded.tiles() {
            for token in tile.clone() {
                let x = &x[token * columns..(token + 1) * columns];
                common.vectorize(
                    #[inline(always)]
                    || rounded.set(common, &tile, token, x, rounding, times),
                );
            }
        }
        rounded
    }

    /// Returns which tokens are multiplied together.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (tokens, most) = (self.tokens, self.most);
        let mut first = 0;
        std::iter::from_fn(move || {
            let left = tokens - first;
            let start = first;
            first += 1 << left.min(most).checked_ilog2()?;
            Some(start..first)
        })
    }

    /// Returns the tile whose first token is `first`.
    #[inline(always)]
    pub(super) fn tile<const TOKENS: usize>(&self, first: usize) -> Tile<'_, TOKENS> {
        let (fours, blocks) = (self.columns / 4, self.columns / self.block);
        let numbers = &self.numbers[first * fours..(first + TOKENS) * fours];
        let of_blocks = first * blocks..(first + TOKENS) * blocks;
        Tile {
            numbers: numbers.as_chunks().0,
            scales: self.scales[of_blocks.clone()].as_chunks().0,
            lows: self.lows[of_blocks.clone()].as_chunks().0,
            starts: self.starts[of_blocks].as_chunks().0,
        }
    }

    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "the sum of 32 bytes is exact")]
    fn set(
        &mut self,
        simd: V3,
        tile: &Range<usize>,
        token: usize,
        x: &[f32],
        rounding: Rounding,
        times: f32,
    ) {
        let (size, within) = (tile.len(), token - tile.start);
        let (fours, blocks) = (self.columns / 4, self.columns / self.block);
        let numbers = &mut self.numbers[tile.start * fours..tile.end * fours];
        let mut numbers = numbers.iter_mut().skip(within).step_by(size);
        let mut at = tile.start * blocks + within;
        let together = match rounding {
            Rounding::Each => 1,
            Rounding::Eight => 8,
        };
        for group in x.as_chunks::<ROUNDED>().0.chunks(together) {
            let largest = largest(simd, group);
            let factor = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            let scale = match rounding {
                Rounding::Each => f16::from_f32(largest / 127.0).to_f32(),
                Rounding::Eight => largest / 127.0,
            };
            for x in group {
                let (rounded, halves) = round(simd, x, factor);
                // The numbers come first, so that none of the places is taken for naught.
                for (number, to) in rounded.into_iter().zip(numbers.by_ref()) {
                    *to = number;
                }
                let whole = [halves[0] + halves[1]];
                let sums = if self.block == ROUNDED { &whole[..] } else { &halves[..] };
                for sum in sums {
                    self.scales[at] = scale;
                    self.lows[at] = times * scale * *sum as f32;
                    self.starts[at] = -128 * sum;
                    at += size;
                }
            }
        }
    }
}

/// Returns the greatest distance from zero.
#[inline(always)]
fn largest(simd: V3, blocks: &[[f32; ROUNDED]]) -> f32 {
    let sign = simd.avx._mm256_set1_ps(-0.0);
    let mut largest = simd.avx._mm256_setzero_ps();
    for block in blocks {
        let parts: [__m256; 4] = pulp::cast(*block);
        for part in parts {
            largest = simd.avx._mm256_max_ps(largest, simd.avx._mm256_andnot_ps(sign, part));
        }
    }
    let largest: [f32; ROWS] = pulp::cast(largest);
    largest.iter().copied().fold(0.0, f32::max)
}

/// Returns a block times `factor` in whole numbers, and the sums of its halves.
#[inline(always)]
fn round(simd: V3, x: &[f32; ROUNDED], factor: f32) -> ([i32; ROUNDED / 4], [i32; 2]) {
    let parts: [__m256; 4] = pulp::cast(*x);
    let factor = simd.avx._mm256_set1_ps(factor);
    let mut rounded = [simd.avx._mm256_setzero_si256(); 4];
    for at in 0..4 {
        rounded[at] = simd.avx._mm256_cvtps_epi32(simd.avx._mm256_mul_ps(parts[at], factor));
    }
    // Packing works within each half of a register; the permutation puts fours in order again.
    let low = simd.avx2._mm256_packs_epi32(rounded[0], rounded[1]);
    let high = simd.avx2._mm256_packs_epi32(rounded[2], rounded[3]);
    let packed = simd.avx2._mm256_packs_epi16(low, high);
    let order = simd.avx._mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let packed = simd.avx2._mm256_permutevar8x32_epi32(packed, order);
    // What is no number, or is beyond all bounds, became -128, which has no positive partner.
    let packed = simd.avx2._mm256_max_epi8(packed, simd.avx._mm256_set1_epi8(-127));
    let pairs = simd.avx2._mm256_maddubs_epi16(simd.avx._mm256_set1_epi8(1), packed);
    let fours = simd.avx2._mm256_madd_epi16(pairs, simd.avx._mm256_set1_epi16(1));
    let halves: [[i32; 4]; 2] = pulp::cast(fours);
    (pulp::cast(packed), halves.map(|fours| fours.iter().sum()))
}
