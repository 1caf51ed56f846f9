//! What is done to single rows, eight numbers at a time.
//!
//! The closures below use up what they write to: those that could be called twice are reached by a
//! detour that is not always compiled for the wide instructions.

use std::arch::x86_64::__m256;

use pulp::x86::V3;

use super::ROWS;

/// Rows that a sum of products is taken of at a time.
const TOGETHER: usize = 4;

/// Writes the sums of the products of `x` with rows that begin `stride` apart.
pub(super) fn dots(simd: V3, x: &[f32], rows: &[f32], stride: usize, sums: &mut [f32]) {
    debug_assert!(rows.len().div_ceil(stride) >= sums.len(), "a row is missing");
    simd.vectorize(
        #[inline(always)]
        move || {
            let mut rows = rows.chunks(stride);
            let sums = sums;
            let (fours, last) = sums.as_chunks_mut::<TOGETHER>();
            for four in fours {
                let mut together = [x; TOGETHER];
                for (row, own) in together.iter_mut().zip(rows.by_ref()) {
                    *row = &own[..x.len()];
                }
                *four = dots_of(simd, x, together);
            }
            for (sum, row) in last.iter_mut().zip(rows) {
                [*sum] = dots_of(simd, x, [&row[..x.len()]]);
            }
        },
    );
}

/// Adds in the same order however many rows there are.
#[inline(always)]
pub(super) fn dots_of<const COUNT: usize>(
    simd: V3,
    x: &[f32],
    rows: [&[f32]; COUNT],
) -> [f32; COUNT] {
    let (x, last_x) = x.as_chunks::<16>();
    let mut sums = [[simd.avx._mm256_setzero_ps(); 2]; COUNT];
    for (at, x) in x.iter().enumerate() {
        let x: [__m256; 2] = pulp::cast(*x);
        for row in 0..COUNT {
            let (parts, _) = rows[row].as_chunks::<16>();
            let part: [__m256; 2] = pulp::cast(parts[at]);
            for half in 0..2 {
                sums[row][half] = simd.fma._mm256_fmadd_ps(x[half], part[half], sums[row][half]);
            }
        }
    }
    // A closure handed on would be compiled without the wide instructions, so this is a loop.
    let mut found = [0.0; COUNT];
    for row in 0..COUNT {
        let (_, last) = rows[row].as_chunks::<16>();
        let mut rest = 0.0;
        for at in 0..last_x.len() {
            rest += last_x[at] * last[at];
        }
        found[row] = sum(simd, simd.avx._mm256_add_ps(sums[row][0], sums[row][1])) + rest;
    }
    found
}

/// Sets each number to the weight that it stands for among all of them.
pub(super) fn softmax(simd: V3, scores: &mut [f32]) {
    simd.vectorize(
        #[inline(always)]
        move || {
            let scores = scores;
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let all = simd.avx._mm256_set1_ps(highest);
            let mut sums = simd.avx._mm256_setzero_ps();
            let (eights, last) = scores.as_chunks_mut::<ROWS>();
            for eight in &mut *eights {
                let weights = exp(simd, simd.avx._mm256_sub_ps(pulp::cast(*eight), all));
                sums = simd.avx._mm256_add_ps(sums, weights);
                *eight = pulp::cast(weights);
            }
            let mut total = sum(simd, sums);
            for score in &mut *last {
                *score = (*score - highest).exp();
                total += *score;
            }
            let factor = 1.0 / total;
            for score in scores {
                *score *= factor;
            }
        },
    );
}

/// Multiplies each number with its sigmoid and with its partner.
pub(super) fn gate(simd: V3, numbers: &mut [f32], partners: &[f32]) {
    simd.vectorize(
        #[inline(always)]
        move || {
            let numbers = numbers;
            let one = simd.avx._mm256_set1_ps(1.0);
            let zero = simd.avx._mm256_setzero_ps();
            let (eights, last) = numbers.as_chunks_mut::<ROWS>();
            let (partner_eights, last_partners) = partners.as_chunks::<ROWS>();
            for (eight, partner) in eights.iter_mut().zip(partner_eights) {
                let (x, partner): (__m256, __m256) = (pulp::cast(*eight), pulp::cast(*partner));
                let falling = exp(simd, simd.avx._mm256_sub_ps(zero, x));
                let share = simd.avx._mm256_div_ps(x, simd.avx._mm256_add_ps(one, falling));
                *eight = pulp::cast(simd.avx._mm256_mul_ps(share, partner));
            }
            for (x, partner) in last.iter_mut().zip(last_partners) {
                *x *= partner / (1.0 + (-*x).exp());
            }
        },
    );
}

#[inline(always)]
fn sum(simd: V3, sums: __m256) -> f32 {
    // Halves onto each other, then neighbours.
    let turned = simd.avx._mm256_permute2f128_ps::<1>(sums, sums);
    let halves = simd.avx._mm256_add_ps(sums, turned);
    let pairs = simd.avx._mm256_hadd_ps(halves, halves);
    let all: [f32; ROWS] = pulp::cast(simd.avx._mm256_hadd_ps(pairs, pairs));
    all[0]
}

/// Returns e to the power of each number, within some units in the last place; what is beyond the
/// range of floats counts as its end, and what is no number stays none.
#[inline(always)]
fn exp(simd: V3, x: __m256) -> __m256 {
    let set = |number| simd.avx._mm256_set1_ps(number);
    // The second operand comes through where it is no number.
    let x = simd.avx._mm256_min_ps(set(88.0), x);
    let x = simd.avx._mm256_max_ps(set(-87.3), x);
    // e^x is 2^whole times e^rest, with a rest near 0 for which a polynomial serves (Cephes).
    let whole =
        simd.avx._mm256_cvtps_epi32(simd.avx._mm256_mul_ps(x, set(std::f32::consts::LOG2_E)));
    let count = simd.avx._mm256_cvtepi32_ps(whole);
    let rest = simd.fma._mm256_fnmadd_ps(count, set(0.693_359_4), x);
    let rest = simd.fma._mm256_fnmadd_ps(count, set(-2.121_944_4e-4), rest);
    let mut power = set(1.987_569_1e-4);
    for factor in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        power = simd.fma._mm256_fmadd_ps(power, rest, set(factor));
    }
    let square = simd.avx._mm256_mul_ps(rest, rest);
    let power = simd.fma._mm256_fmadd_ps(power, square, simd.avx._mm256_add_ps(rest, set(1.0)));
    let bias = simd.avx._mm256_set1_epi32(127);
    let exponent = simd.avx2._mm256_slli_epi32::<23>(simd.avx2._mm256_add_epi32(whole, bias));
    simd.avx._mm256_mul_ps(power, pulp::cast(exponent))
}
