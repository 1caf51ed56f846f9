//! Products of matrices on processors with AVX2 and FMA, and faster ones where they have the VNNI
//! of AVX-512.
//!
//! Weights are laid out anew when a model is loaded: eight rows side by side, so that one
//! instruction serves eight rows, and no sum is ever taken across a register. What is unpacked of
//! the weights serves up to eight tokens. How many tokens go through a matrix together changes no
//! bit of what comes out for each, nor does it matter which of the instructions a processor has.
#![allow(
    clippy::inline_always,
    reason = "what is not inlined is not compiled for these processors"
)]
#![allow(clippy::needless_range_loop, reason = "plain loops over registers are unrolled")]

use candle_core::Result;
use candle_core::quantized::QTensor;
use pulp::x86::V3;
use rayon::prelude::*;

use self::blocks::Blocks;
use self::floats::Floats;
use self::simd::{Simd, Vnni};
use super::matrix::Product;

mod blocks;
mod floats;
mod formats;
mod rounded;
mod rows;
mod simd;

/// Rows that are multiplied side by side.
const ROWS: usize = 8;
/// Products that are worth waking other threads for.
const SHARED: usize = 1 << 17;

/// Lays out a quantised matrix; `None` where this processor or its format asks for another way.
pub(super) fn quantised(stored: &QTensor) -> Result<Option<Box<dyn Product>>> {
    match (Vnni::try_new(), V3::try_new()) {
        (Some(simd), _) => blocks(simd, stored),
        (None, Some(simd)) => blocks(simd, stored),
        (None, None) => Ok(None),
    }
}

fn blocks(simd: impl Simd, stored: &QTensor) -> Result<Option<Box<dyn Product>>> {
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
        || {
            let [sum] = rows::dots_of(simd, a, [b]);
            sum
        },
    ))
}

/// Does the same with rows that begin `stride` apart, one for each of `sums`; returns whether this
/// processor can.
pub(super) fn dots(x: &[f32], rows: &[f32], stride: usize, sums: &mut [f32]) -> bool {
    V3::try_new().map(|simd| rows::dots(simd, x, rows, stride, sums)).is_some()
}

/// Sets each number to the weight that it stands for; returns whether this processor can.
pub(super) fn softmax(scores: &mut [f32]) -> bool {
    V3::try_new().map(|simd| rows::softmax(simd, scores)).is_some()
}

/// Multiplies each number with its sigmoid and its partner; returns whether this processor can.
pub(super) fn gate(numbers: &mut [f32], partners: &[f32]) -> bool {
    V3::try_new().map(|simd| rows::gate(simd, numbers, partners)).is_some()
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
