//! Matrices of quantised weights.

use std::arch::x86_64::{__m256, __m256i};

use candle_core::Result;
use candle_core::quantized::QTensor;
use pulp::x86::V3;

use super::formats::{Block, Format, lowest};
use super::rounded::{ROUNDED, Rounded, Rounding, Tile};
use super::simd::Simd;
use super::{ROWS, for_each_panel, turned};
use crate::backend::engine::matrix::Product;

/// A matrix of quantised weights.
pub(super) struct Blocks<S> {
    simd: S,
    numbers: Numbers,
    /// For each block of each eight rows.
    scales: Vec<[f32; ROWS]>,
    lows: Lows,
    rounding: Rounding,
    rows: usize,
    columns: usize,
}

/// For each block of each eight rows: four columns of eight rows after each other, and so on.
enum Numbers {
    Nibbles(Vec<Nibbles>),
    Bytes(Vec<Bytes>),
    Signed(Vec<Signed<8>>),
    SignedHalves(Vec<Signed<4>>),
}

/// What is added to a number times its scale.
enum Lows {
    /// The scale, so many times.
    Times(f32),
    Each(Vec<[f32; ROWS]>),
}

#[derive(Clone, Copy)]
struct Nibbles([[u8; 32]; 4]);

#[derive(Clone, Copy)]
struct Bytes([[i8; 32]; 8]);

#[derive(Clone, Copy)]
struct Signed<const FOURS: usize>([[i8; 32]; FOURS]);

/// How the numbers of a block of eight rows are kept.
trait Packed: Copy + Send + Sync {
    /// Columns of a block, by fours.
    const FOURS: usize;

    /// Returns the sums of the products of a block with some tokens, eight rows side by side.
    fn multiply<S: Simd, const TOKENS: usize>(
        &self,
        simd: S,
        x: &[[i32; TOKENS]],
        starts: &[i32; TOKENS],
    ) -> [__m256i; TOKENS];
}

impl<S: Simd> Blocks<S> {
    pub(super) fn new(simd: S, stored: &QTensor) -> Result<Option<Self>> {
        let (rows, columns) = stored.shape().dims2()?;
        let kind = stored.dtype();
        let Some(format) = Format::of(kind) else { return Ok(None) };
        if !columns.is_multiple_of(ROUNDED) {
            return Ok(None);
        }
        let data = stored.data()?;
        let row_size = columns / kind.block_size() * kind.type_size();
        let (mut scales, mut lows) = (Vec::new(), Vec::new());
        let mut add = |scale: [f32; ROWS], low: [f32; ROWS]| {
            scales.push(scale);
            if lowest(kind).is_none() {
                lows.push(low);
            }
        };
        let numbers = match format {
            Format::Nibbles(read) => {
                Numbers::Nibbles(panels(&data, row_size, read, |fours, scale, low| {
                    add(scale, low);
                    Nibbles(std::array::from_fn(|at| paired(&fours, at)))
                }))
            }
            Format::Bytes(read) => {
                Numbers::Bytes(panels(&data, row_size, read, |fours, scale, low| {
                    add(scale, low);
                    Bytes(std::array::from_fn(|at| four(&fours, at)))
                }))
            }
            Format::Signed(read) => {
                Numbers::Signed(panels(&data, row_size, read, |fours, scale, low| {
                    add(scale, low);
                    Signed(std::array::from_fn(|at| four(&fours, at)))
                }))
            }
            Format::SignedHalves(read) => {
                Numbers::SignedHalves(panels(&data, row_size, read, |fours, scale, low| {
                    add(scale, low);
                    Signed(std::array::from_fn(|at| four(&fours, at)))
                }))
            }
        };
        let lows = lowest(kind).map_or(Lows::Each(lows), Lows::Times);
        let rounding = if kind.block_size() == ROUNDED { Rounding::Each } else { Rounding::Eight };
        Ok(Some(Self { simd, numbers, scales, lows, rounding, rows, columns }))
    }
}

/// Reads all rows, eight at a time, and packs each of their blocks.
fn panels<const SIZE: usize, P>(
    data: &[u8],
    row_size: usize,
    read: fn(&[u8]) -> Vec<Block<SIZE>>,
    mut pack: impl FnMut([[i8; SIZE]; ROWS], [f32; ROWS], [f32; ROWS]) -> P,
) -> Vec<P> {
    let mut packed = Vec::new();
    for eight in data.chunks(ROWS * row_size) {
        let rows: Vec<_> = eight.chunks(row_size).map(read).collect();
        for at in 0..rows[0].len() {
            let block = |row: usize| rows.get(row).map(|row| &row[at]);
            packed.push(pack(
                std::array::from_fn(|row| block(row).map_or([0; SIZE], |block| block.numbers)),
                std::array::from_fn(|row| block(row).map_or(0.0, |block| block.scale)),
                std::array::from_fn(|row| block(row).map_or(0.0, |block| block.low)),
            ));
        }
    }
    packed
}

/// Returns the four columns at `at` of eight rows.
fn four<const SIZE: usize>(rows: &[[i8; SIZE]; ROWS], at: usize) -> [i8; 32] {
    std::array::from_fn(|byte| rows[byte / 4][at * 4 + byte % 4])
}

/// Returns the eight columns at `at` of eight rows, two numbers a byte.
fn paired(rows: &[[i8; 32]; ROWS], at: usize) -> [u8; 32] {
    let (low, high) = (four(rows, 2 * at), four(rows, 2 * at + 1));
    std::array::from_fn(|byte| (low[byte] | (high[byte] << 4)).cast_unsigned())
}

impl<S: Simd> Product for Blocks<S> {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        match &self.numbers {
            Numbers::Nibbles(numbers) => self.multiply(numbers, x),
            Numbers::Bytes(numbers) => self.multiply(numbers, x),
            Numbers::Signed(numbers) => self.multiply(numbers, x),
            Numbers::SignedHalves(numbers) => self.multiply(numbers, x),
        }
    }
}

impl<S: Simd> Blocks<S> {
    fn multiply<P: Packed>(&self, numbers: &[P], x: &[f32]) -> Vec<f32> {
        let tokens = x.len() / self.columns;
        let low = if let Lows::Times(times) = self.lows { times } else { 1.0 };
        let x = Rounded::new(self.simd, x, self.columns, 4 * P::FOURS, self.rounding, low);
        let mut products = vec![[0.0; ROWS]; self.rows.div_ceil(ROWS) * tokens];
        let count = self.columns / (4 * P::FOURS);
        for_each_panel(&mut products, tokens, self.columns, |panel, products| {
            let range = panel * count..(panel + 1) * count;
            let panel = Panel {
                numbers: &numbers[range.clone()],
                scales: &self.scales[range.clone()],
                lows: match &self.lows {
                    Lows::Times(_) => PanelLows::Times,
                    Lows::Each(lows) => PanelLows::Each(&lows[range]),
                },
            };
            self.simd.vectorize(
                #[inline(always)]
                || panel.multiply_all(self.simd, &x, products),
            );
        });
        turned(&products, tokens, self.rows)
    }
}

/// Eight rows of weights.
struct Panel<'a, P> {
    numbers: &'a [P],
    scales: &'a [[f32; ROWS]],
    lows: PanelLows<'a>,
}

enum PanelLows<'a> {
    Times,
    Each(&'a [[f32; ROWS]]),
}

impl<P: Packed> Panel<'_, P> {
    /// Multiplies eight rows with all tokens, some of them at a time.
    #[inline(always)]
    fn multiply_all<S: Simd>(&self, simd: S, x: &Rounded, products: &mut [[f32; ROWS]]) {
        for tile in x.tiles() {
            let products = &mut products[tile.clone()];
            match products.len() {
                8 if S::TOKENS == 8 => self.multiply::<S, 8>(simd, x, tile.start, products),
                4 => self.multiply::<S, 4>(simd, x, tile.start, products),
                2 => self.multiply::<S, 2>(simd, x, tile.start, products),
                _ => self.multiply::<S, 1>(simd, x, tile.start, products),
            }
        }
    }

    /// Multiplies eight rows with the `TOKENS` tokens of a tile.
    #[inline(always)]
    fn multiply<S: Simd, const TOKENS: usize>(
        &self,
        simd: S,
        x: &Rounded,
        first: usize,
        products: &mut [[f32; ROWS]],
    ) {
        let V3 { avx, fma, .. } = simd.common();
        let mut sums = [avx._mm256_setzero_ps(); TOKENS];
        let Tile { numbers, scales, lows, starts } = x.tile::<TOKENS>(first);
        let x = numbers.chunks_exact(P::FOURS).zip(scales.iter().zip(lows).zip(starts));
        let weights = self.numbers.iter().zip(self.scales).zip(x);
        for (block, ((packed, scale), (x, ((factors, lows), starts)))) in weights.enumerate() {
            let found = packed.multiply(simd, x, starts);
            let scale: __m256 = pulp::cast(*scale);
            for at in 0..TOKENS {
                let found = avx._mm256_cvtepi32_ps(found[at]);
                let factor = avx._mm256_set1_ps(factors[at]);
                let low = avx._mm256_set1_ps(lows[at]);
                match self.lows {
                    PanelLows::Times => {
                        let found = fma._mm256_fmadd_ps(found, factor, low);
                        sums[at] = fma._mm256_fmadd_ps(found, scale, sums[at]);
                    }
                    PanelLows::Each(of_weights) => {
                        let found = avx._mm256_mul_ps(found, factor);
                        sums[at] = fma._mm256_fmadd_ps(found, scale, sums[at]);
                        let of_weights: __m256 = pulp::cast(of_weights[block]);
                        sums[at] = fma._mm256_fmadd_ps(of_weights, low, sums[at]);
                    }
                }
            }
        }
        for at in 0..TOKENS {
            products[at] = pulp::cast(sums[at]);
        }
    }
}

impl Packed for Nibbles {
    const FOURS: usize = 8;

    #[inline(always)]
    fn multiply<S: Simd, const TOKENS: usize>(
        &self,
        simd: S,
        x: &[[i32; TOKENS]],
        _: &[i32; TOKENS],
    ) -> [__m256i; TOKENS] {
        let V3 { avx, avx2, .. } = simd.common();
        let mask = avx._mm256_set1_epi8(0x0f);
        // Each sum of 16 bits takes 16 products, of 15 and 127 at most.
        simd.sums_of_unsigned::<8, TOKENS>(
            #[inline(always)]
            |at| {
                let both: __m256i = pulp::cast(self.0[at / 2]);
                let high = avx2._mm256_srli_epi16::<4>(both);
                avx2._mm256_and_si256(if at.is_multiple_of(2) { both } else { high }, mask)
            },
            x,
        )
    }
}

impl Packed for Bytes {
    const FOURS: usize = 8;

    #[inline(always)]
    fn multiply<S: Simd, const TOKENS: usize>(
        &self,
        simd: S,
        x: &[[i32; TOKENS]],
        _: &[i32; TOKENS],
    ) -> [__m256i; TOKENS] {
        // Each sum of 16 bits takes eight products, of 31 and 127 at most.
        simd.sums_of_unsigned::<4, TOKENS>(
            #[inline(always)]
            |at| pulp::cast(self.0[at]),
            x,
        )
    }
}

impl<const FOURS: usize> Packed for Signed<FOURS> {
    const FOURS: usize = FOURS;

    #[inline(always)]
    fn multiply<S: Simd, const TOKENS: usize>(
        &self,
        simd: S,
        x: &[[i32; TOKENS]],
        starts: &[i32; TOKENS],
    ) -> [__m256i; TOKENS] {
        simd.sums_of_signed(
            #[inline(always)]
            |at| pulp::cast(self.0[at]),
            x,
            starts,
        )
    }
}
