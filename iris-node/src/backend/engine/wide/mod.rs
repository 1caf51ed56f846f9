//! Products of matrices on processors with AVX2 and FMA.
//!
//! Weights are laid out anew when a model is loaded: eight rows side by side, so that one
//! instruction serves eight rows, and no sum is ever taken across a register. What is unpacked of
//! the weights serves up to four tokens. How many tokens go through a matrix together changes no
//! bit of what comes out for each.
#![allow(clippy::inline_always, reason = "what is not inlined is not compiled for AVX2")]
#![allow(clippy::needless_range_loop, reason = "plain loops over registers are unrolled")]

use std::arch::x86_64::__m256;

use candle_core::Result;
use candle_core::quantized::QTensor;
use pulp::x86::V3;
use rayon::prelude::*;

use self::blocks::Blocks;
use self::floats::Floats;
use super::matrix::Product;

mod blocks;
mod floats;
mod formats;

/// Rows that are multiplied side by side.
const ROWS: usize = 8;
/// Products that are worth waking other threads for.
const SHARED: usize = 1 << 17;

/// Lays out a quantised matrix; `None` where this processor or its format asks for another way.
pub(super) fn quantised(stored: &QTensor) -> Result<Option<Box<dyn Product>>> {
    let Some(simd) = V3::try_new() else { return Ok(None) };
    Ok(Blocks::new(simd, stored)?.map(|blocks| Box::new(blocks) as Box<dyn Product>))
}

/// Lays out a matrix of floats; `None` where this processor asks for another way.
pub(super) fn floats(values: &[f32], columns: usize) -> Option<Box<dyn Product>> {
    Some(Box::new(Floats::new(V3::try_new()?, values, columns)))
}

/// Returns the sum of the products of two rows of the same length, if this processor can.
pub(super) fn dot(a: &[f32], b: &[f32]) -> Option<f32> {
    let simd = V3::try_new()?;
    Some(simd.vectorize(
        #[inline(always)]
        || dot_of(simd, a, b),
    ))
}

#[inline(always)]
fn dot_of(simd: V3, a: &[f32], b: &[f32]) -> f32 {
    let (a, last_a) = a.as_chunks::<32>();
    let (b, last_b) = b.as_chunks::<32>();
    let mut sums = [simd.avx._mm256_setzero_ps(); 4];
    for (a, b) in a.iter().zip(b) {
        let (a, b): ([__m256; 4], [__m256; 4]) = (pulp::cast(*a), pulp::cast(*b));
        for at in 0..4 {
            sums[at] = simd.fma._mm256_fmadd_ps(a[at], b[at], sums[at]);
        }
    }
    let low = simd.avx._mm256_add_ps(sums[0], sums[1]);
    let high = simd.avx._mm256_add_ps(sums[2], sums[3]);
    let sums: [f32; ROWS] = pulp::cast(simd.avx._mm256_add_ps(low, high));
    let rest: f32 = last_a.iter().zip(last_b).map(|(a, b)| a * b).sum();
    ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7])) + rest
}

/// Turns what eight rows each gave for all tokens into a row for each token.
fn turned(products: &[[f32; ROWS]], tokens: usize, rows: usize) -> Vec<f32> {
    let mut turned = Vec::with_capacity(tokens * rows);
    for token in 0..tokens {
        let of_token = products.iter().skip(token).step_by(tokens);
        of_token.for_each(|eight| turned.extend_from_slice(eight));
        turned.truncate((token + 1) * rows);
    }
    turned
}

/// Runs `multiply` for every eight rows, on several threads where that is worth it.
fn for_each_panel(
    products: &mut [[f32; ROWS]],
    tokens: usize,
    columns: usize,
    multiply: impl Fn(usize, &mut [[f32; ROWS]]) + Sync,
) {
    let one = |(panel, products): (usize, &mut [[f32; ROWS]])| multiply(panel, products);
    if products.len() * ROWS * columns < SHARED {
        products.chunks_exact_mut(tokens).enumerate().for_each(one);
    } else {
        let least = (SHARED / 2).div_ceil(tokens * ROWS * columns);
        products.par_chunks_exact_mut(tokens).with_min_len(least).enumerate().for_each(one);
    }
}

#[cfg(test)]
mod tests;
