use std::arch::x86_64::{__m256, __m256i};

use candle_core::Result;
use candle_core::quantized::QTensor;
use half::f16;
use pulp::x86::V3;

use super::formats::{Block, Format, lowest};
use super::{ROWS, for_each_panel, turned};
use crate::backend::engine::matrix::Product;

/// Numbers of a token that have a scale of their own.
const ROUNDED: usize = 32;

/// A matrix of quantised weights.
pub(super) struct Blocks {
    simd: V3,
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
    fn multiply<const TOKENS: usize>(&self, simd: V3, x: [&[i32]; TOKENS]) -> [__m256i; TOKENS];
}

impl Blocks {
    pub(super) fn new(simd: V3, stored: &QTensor) -> Result<Option<Self>> {
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

impl Product for Blocks {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let tokens = x.len() / self.columns;
        let low = if let Lows::Times(times) = self.lows { times } else { 1.0 };
        let x = Rounded::new(self.simd, x, self.rounding, low);
        let mut products = vec![[0.0; ROWS]; self.rows.div_ceil(ROWS) * tokens];
        match &self.numbers {
            Numbers::Nibbles(numbers) => self.multiply(numbers, &x, tokens, &mut products),
            Numbers::Bytes(numbers) => self.multiply(numbers, &x, tokens, &mut products),
            Numbers::Signed(numbers) => self.multiply(numbers, &x, tokens, &mut products),
            Numbers::SignedHalves(numbers) => self.multiply(numbers, &x, tokens, &mut products),
        }
        turned(&products, tokens, self.rows)
    }
}

impl Blocks {
    fn multiply<P: Packed>(
        &self,
        numbers: &[P],
        x: &Rounded,
        tokens: usize,
        products: &mut [[f32; ROWS]],
    ) {
        let count = self.columns / (4 * P::FOURS);
        for_each_panel(products, tokens, self.columns, |panel, products| {
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
                || panel.multiply_all(self.simd, x, products),
            );
        });
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
    fn multiply_all(&self, simd: V3, x: &Rounded, products: &mut [[f32; ROWS]]) {
        let mut token = 0;
        while token < products.len() {
            let products = &mut products[token..];
            token += match products.len() {
                4.. => self.multiply::<4>(simd, x, token, products),
                2.. => self.multiply::<2>(simd, x, token, products),
                _ => self.multiply::<1>(simd, x, token, products),
            };
        }
    }

    /// Multiplies eight rows with `TOKENS` tokens from the first on; returns `TOKENS`.
    #[inline(always)]
    fn multiply<const TOKENS: usize>(
        &self,
        simd: V3,
        x: &Rounded,
        first: usize,
        products: &mut [[f32; ROWS]],
    ) -> usize {
        let columns = self.numbers.len() * 4 * P::FOURS;
        let (fours, blocks) = (columns / 4, columns / ROUNDED);
        let mut numbers = [&x.numbers[..]; TOKENS];
        let mut scales = [&x.scales[..]; TOKENS];
        for at in 0..TOKENS {
            let token = first + at;
            numbers[at] = &x.numbers[token * fours..(token + 1) * fours];
            scales[at] = &x.scales[token * blocks..(token + 1) * blocks];
        }
        let mut sums = [simd.avx._mm256_setzero_ps(); TOKENS];
        for (block, (packed, scale)) in self.numbers.iter().zip(self.scales).enumerate() {
            let mut part = numbers;
            for at in 0..TOKENS {
                part[at] = &numbers[at][block * P::FOURS..(block + 1) * P::FOURS];
            }
            let found = packed.multiply(simd, part);
            let scale: __m256 = pulp::cast(*scale);
            let rounded = block * P::FOURS * 4 / ROUNDED;
            for at in 0..TOKENS {
                let Scale { scale: factor, low } = scales[at][rounded];
                let found = simd.avx._mm256_cvtepi32_ps(found[at]);
                let factor = simd.avx._mm256_set1_ps(factor);
                match self.lows {
                    PanelLows::Times => {
                        let low = simd.avx._mm256_set1_ps(low);
                        let found = simd.fma._mm256_fmadd_ps(found, factor, low);
                        sums[at] = simd.fma._mm256_fmadd_ps(found, scale, sums[at]);
                    }
                    PanelLows::Each(lows) => {
                        let found = simd.avx._mm256_mul_ps(found, factor);
                        sums[at] = simd.fma._mm256_fmadd_ps(found, scale, sums[at]);
                        let lows: __m256 = pulp::cast(lows[block]);
                        let low = simd.avx._mm256_set1_ps(low);
                        sums[at] = simd.fma._mm256_fmadd_ps(lows, low, sums[at]);
                    }
                }
            }
        }
        for at in 0..TOKENS {
            products[at] = pulp::cast(sums[at]);
        }
        TOKENS
    }
}

impl Packed for Nibbles {
    const FOURS: usize = 8;

    #[inline(always)]
    fn multiply<const TOKENS: usize>(&self, simd: V3, x: [&[i32]; TOKENS]) -> [__m256i; TOKENS] {
        let mask = simd.avx._mm256_set1_epi8(0x0f);
        // 32 products of 15 and 127 fit in 16 bits.
        let mut pairs = [simd.avx._mm256_setzero_si256(); TOKENS];
        for (at, both) in self.0.iter().enumerate() {
            let both: __m256i = pulp::cast(*both);
            let low = simd.avx2._mm256_and_si256(both, mask);
            let high = simd.avx2._mm256_srli_epi16::<4>(both);
            let high = simd.avx2._mm256_and_si256(high, mask);
            for token in 0..TOKENS {
                let x = x[token];
                pairs[token] = add_pairs(simd, pairs[token], low, x[2 * at]);
                pairs[token] = add_pairs(simd, pairs[token], high, x[2 * at + 1]);
            }
        }
        fours(simd, pairs)
    }
}

impl Packed for Bytes {
    const FOURS: usize = 8;

    #[inline(always)]
    fn multiply<const TOKENS: usize>(&self, simd: V3, x: [&[i32]; TOKENS]) -> [__m256i; TOKENS] {
        // Half as many products of 31 and 127 do, too.
        let mut sums = [[simd.avx._mm256_setzero_si256(); TOKENS]; 2];
        for (half, sums) in sums.iter_mut().enumerate() {
            for at in half * 4..half * 4 + 4 {
                let weights: __m256i = pulp::cast(self.0[at]);
                for token in 0..TOKENS {
                    sums[token] = add_pairs(simd, sums[token], weights, x[token][at]);
                }
            }
        }
        let [mut sums, others] = [fours(simd, sums[0]), fours(simd, sums[1])];
        for token in 0..TOKENS {
            sums[token] = simd.avx2._mm256_add_epi32(sums[token], others[token]);
        }
        sums
    }
}

impl<const FOURS: usize> Packed for Signed<FOURS> {
    const FOURS: usize = FOURS;

    #[inline(always)]
    fn multiply<const TOKENS: usize>(&self, simd: V3, x: [&[i32]; TOKENS]) -> [__m256i; TOKENS] {
        let ones = simd.avx._mm256_set1_epi16(1);
        let mut sums = [simd.avx._mm256_setzero_si256(); TOKENS];
        for (at, weights) in self.0.iter().enumerate() {
            let weights: __m256i = pulp::cast(*weights);
            // One factor must be positive; the other takes its sign.
            let positive = simd.avx2._mm256_abs_epi8(weights);
            for token in 0..TOKENS {
                let x = simd.avx._mm256_set1_epi32(x[token][at]);
                let x = simd.avx2._mm256_sign_epi8(x, weights);
                let pairs = simd.avx2._mm256_maddubs_epi16(positive, x);
                let fours = simd.avx2._mm256_madd_epi16(pairs, ones);
                sums[token] = simd.avx2._mm256_add_epi32(sums[token], fours);
            }
        }
        sums
    }
}

/// Adds the products of four columns of eight rows, two by two.
#[inline(always)]
fn add_pairs(simd: V3, pairs: __m256i, weights: __m256i, x: i32) -> __m256i {
    let x = simd.avx._mm256_set1_epi32(x);
    simd.avx2._mm256_add_epi16(pairs, simd.avx2._mm256_maddubs_epi16(weights, x))
}

/// Adds what lies side by side.
#[inline(always)]
fn fours<const TOKENS: usize>(simd: V3, mut pairs: [__m256i; TOKENS]) -> [__m256i; TOKENS] {
    let ones = simd.avx._mm256_set1_epi16(1);
    for pairs in &mut pairs {
        *pairs = simd.avx2._mm256_madd_epi16(*pairs, ones);
    }
    pairs
}

/// Rows of numbers rounded to 8 bits.
struct Rounded {
    /// Four numbers each.
    numbers: Vec<i32>,
    /// For each block of [`ROUNDED`].
    scales: Vec<Scale>,
}

#[derive(Clone, Copy, Default)]
struct Scale {
    scale: f32,
    /// The sum of the rounded numbers, times the scale and what weights' lows are of their scale.
    low: f32,
}

/// How llama.cpp rounds tokens, so that both engines find the same.
#[derive(Clone, Copy)]
enum Rounding {
    /// Each block by a scale of 16 bits.
    Each,
    /// Eight blocks by one scale.
    Eight,
}

impl Rounded {
    fn new(simd: V3, x: &[f32], rounding: Rounding, times: f32) -> Self {
        let (blocks, _) = x.as_chunks::<ROUNDED>();
        let mut numbers = vec![0; x.len() / 4];
        let mut scales = vec![Scale::default(); blocks.len()];
        let size = match rounding {
            Rounding::Each => 1,
            Rounding::Eight => 8,
        };
        simd.vectorize(
            #[inline(always)]
            || {
                let (packed, _) = numbers.as_chunks_mut();
                let groups = packed.chunks_mut(size).zip(scales.chunks_mut(size));
                for (blocks, (packed, scales)) in blocks.chunks(size).zip(groups) {
                    let largest = largest(simd, blocks);
                    let factor = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                    let scale = match rounding {
                        Rounding::Each => f16::from_f32(largest / 127.0).to_f32(),
                        Rounding::Eight => largest / 127.0,
                    };
                    for ((x, packed), to) in blocks.iter().zip(packed).zip(scales) {
                        let sum;
                        (*packed, sum) = round(simd, x, factor);
                        *to = Scale { scale, low: times * scale * sum };
                    }
                }
            },
        );
        Self { numbers, scales }
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

/// Returns a block times `factor` in whole numbers, and their sum.
#[inline(always)]
fn round(simd: V3, x: &[f32; ROUNDED], factor: f32) -> ([i32; ROUNDED / 4], f32) {
    let parts: [__m256; 4] = pulp::cast(*x);
    let factor = simd.avx._mm256_set1_ps(factor);
    let mut rounded = [simd.avx._mm256_setzero_si256(); 4];
    let mut sum = rounded[0];
    for at in 0..4 {
        rounded[at] = simd.avx._mm256_cvtps_epi32(simd.avx._mm256_mul_ps(parts[at], factor));
        sum = simd.avx2._mm256_add_epi32(sum, rounded[at]);
    }
    // Packing works within each half of a register; the permutation puts fours in order again.
    let low = simd.avx2._mm256_packs_epi32(rounded[0], rounded[1]);
    let high = simd.avx2._mm256_packs_epi32(rounded[2], rounded[3]);
    let packed = simd.avx2._mm256_packs_epi16(low, high);
    let order = simd.avx._mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let numbers = pulp::cast(simd.avx2._mm256_permutevar8x32_epi32(packed, order));
    let sums: [f32; ROWS] = pulp::cast(simd.avx._mm256_cvtepi32_ps(sum));
    (numbers, sums.iter().sum())
}
