use std::arch::x86_64::__m256;

use pulp::x86::V3;

use super::{ROWS, turned};
use crate::backend::engine::matrix::Product;

/// A matrix of floats, multiplied on the thread that asks.
pub(super) struct Floats {
    simd: V3,
    /// For eight rows after eight rows, column after column.
    panels: Vec<[f32; ROWS]>,
    rows: usize,
    columns: usize,
}

impl Floats {
    pub(super) fn new(simd: V3, values: &[f32], columns: usize) -> Self {
        let rows = values.len() / columns;
        let mut panels = Vec::with_capacity(rows.div_ceil(ROWS) * columns);
        for eight in values.chunks(ROWS * columns) {
            let value = |row: usize, column| eight.get(row * columns + column).copied();
            let side_by_side =
                |column| std::array::from_fn(|row| value(row, column).unwrap_or_default());
            panels.extend((0..columns).map(side_by_side));
        }
        Self { simd, panels, rows, columns }
    }
}

impl Product for Floats {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let tokens = x.len() / self.columns;
        let mut products = vec![[0.0; ROWS]; self.rows.div_ceil(ROWS) * tokens];
        self.simd.vectorize(
            #[inline(always)]
            || multiply(self.simd, &self.panels, self.columns, x, &mut products),
        );
        turned(&products, tokens, self.rows)
    }
}

/// Multiplies as many rows and tokens at a time as there are registers for.
#[inline(always)]
fn multiply(
    simd: V3,
    panels: &[[f32; ROWS]],
    columns: usize,
    x: &[f32],
    products: &mut [[f32; ROWS]],
) {
    let (tokens, count) = (x.len() / columns, panels.len() / columns);
    let mut token = 0;
    while token < tokens {
        let four = tokens - token >= 4;
        let x = &x[token * columns..];
        let mut panel = 0;
        while panel < count {
            let (panels, products) =
                (&panels[panel * columns..], &mut products[panel * tokens + token..]);
            panel += match (four, count - panel) {
                (true, 2..) => tile::<2, 4>(simd, panels, columns, x, tokens, products),
                (true, _) => tile::<1, 4>(simd, panels, columns, x, tokens, products),
                (false, 8..) => tile::<8, 1>(simd, panels, columns, x, tokens, products),
                (false, _) => tile::<1, 1>(simd, panels, columns, x, tokens, products),
            };
        }
        token += if four { 4 } else { 1 };
    }
}

/// Multiplies `PANELS` times eight rows with `TOKENS` tokens; returns `PANELS`.
#[inline(always)]
fn tile<const PANELS: usize, const TOKENS: usize>(
    simd: V3,
    panels: &[[f32; ROWS]],
    columns: usize,
    x: &[f32],
    tokens: usize,
    products: &mut [[f32; ROWS]],
) -> usize {
    let mut weights = [panels; PANELS];
    for (at, weights) in weights.iter_mut().enumerate() {
        *weights = &panels[at * columns..(at + 1) * columns];
    }
    let mut rows = [x; TOKENS];
    for (at, row) in rows.iter_mut().enumerate() {
        *row = &x[at * columns..(at + 1) * columns];
    }
    let mut sums = [[simd.avx._mm256_setzero_ps(); TOKENS]; PANELS];
    for column in 0..columns {
        let mut factors = [simd.avx._mm256_setzero_ps(); TOKENS];
        for token in 0..TOKENS {
            factors[token] = simd.avx._mm256_set1_ps(rows[token][column]);
        }
        for panel in 0..PANELS {
            let weights: __m256 = pulp::cast(weights[panel][column]);
            for token in 0..TOKENS {
                let sum = &mut sums[panel][token];
                *sum = simd.fma._mm256_fmadd_ps(weights, factors[token], *sum);
            }
        }
    }
    for (panel, sums) in sums.iter().enumerate() {
        for (token, sum) in sums.iter().enumerate() {
            products[panel * tokens + token] = pulp::cast(*sum);
        }
    }
    PANELS
}
