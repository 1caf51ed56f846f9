//! Instructions that multiply whole numbers of 8 bits: those of AVX2, and those that AVX-512 has
//! for just this. Both find the same sums.

use std::arch::x86_64::{__m256i, _mm256_dpbusd_epi32};

use pulp::x86::V3;

/// What a processor has for sums of products.
pub(super) trait Simd: Copy + Send + Sync + 'static {
    /// Tokens that there are registers for.
    const TOKENS: usize;

    /// Returns what every processor here has.
    fn common(self) -> V3;

    /// Compiles what is inlined into `run` for this processor.
    fn vectorize<R>(self, run: impl FnOnce() -> R) -> R;

    /// Returns the sums of the products of eight rows with some tokens, side by side.
    ///
    /// `weights` gives four columns of eight rows, from 0 to 31; `x` has as many columns of each
    /// token in a number. A sum of 16 bits may take two products of each four, of `TOGETHER`
    /// fours: the greatest of them must fit.
    fn sums_of_unsigned<const TOGETHER: usize, const TOKENS: usize>(
        self,
        weights: impl Fn(usize) -> __m256i,
        x: &[[i32; TOKENS]],
    ) -> [__m256i; TOKENS];

    /// Does the same with weights from -128 to 127; `starts` are -128 times the sums of `x`.
    fn sums_of_signed<const TOKENS: usize>(
        self,
        weights: impl Fn(usize) -> __m256i,
        x: &[[i32; TOKENS]],
        starts: &[i32; TOKENS],
    ) -> [__m256i; TOKENS];
}

impl Simd for V3 {
    const TOKENS: usize = 4;

    #[inline(always)]
    fn common(self) -> V3 {
        self
    }

    #[inline(always)]
    fn vectorize<R>(self, run: impl FnOnce() -> R) -> R {
        self.vectorize(run)
    }

    #[inline(always)]
    fn sums_of_unsigned<const TOGETHER: usize, const TOKENS: usize>(
        self,
        weights: impl Fn(usize) -> __m256i,
        x: &[[i32; TOKENS]],
    ) -> [__m256i; TOKENS] {
        let ones = self.avx._mm256_set1_epi16(1);
        let mut sums = [self.avx._mm256_setzero_si256(); TOKENS];
        for (part, x) in x.chunks_exact(TOGETHER).enumerate() {
            let mut pairs = [self.avx._mm256_setzero_si256(); TOKENS];
            for at in 0..TOGETHER {
                let weights = weights(part * TOGETHER + at);
                for token in 0..TOKENS {
                    let x = self.avx._mm256_set1_epi32(x[at][token]);
                    let products = self.avx2._mm256_maddubs_epi16(weights, x);
                    pairs[token] = self.avx2._mm256_add_epi16(pairs[token], products);
                }
            }
            for token in 0..TOKENS {
                let fours = self.avx2._mm256_madd_epi16(pairs[token], ones);
                sums[token] = self.avx2._mm256_add_epi32(sums[token], fours);
            }
        }
        sums
    }

    #[inline(always)]
    fn sums_of_signed<const TOKENS: usize>(
        self,
        weights: impl Fn(usize) -> __m256i,
        x: &[[i32; TOKENS]],
        _: &[i32; TOKENS],
    ) -> [__m256i; TOKENS] {
        let ones = self.avx._mm256_set1_epi16(1);
        let mut sums = [self.avx._mm256_setzero_si256(); TOKENS];
        for (at, x) in x.iter().enumerate() {
            let weights = weights(at);
            // One factor must be positive; the other takes its sign.
            let positive = self.avx2._mm256_abs_epi8(weights);
            for token in 0..TOKENS {
                let x = self.avx._mm256_set1_epi32(x[token]);
                let x = self.avx2._mm256_sign_epi8(x, weights);
                let pairs = self.avx2._mm256_maddubs_epi16(positive, x);
                let fours = self.avx2._mm256_madd_epi16(pairs, ones);
                sums[token] = self.avx2._mm256_add_epi32(sums[token], fours);
            }
        }
        sums
    }
}

pulp::simd_type!({
    /// What code is compiled for, in which `V3` is inlined as well: hence all that it needs.
    struct Instructions {
        avx: f!("avx"),
        avx2: f!("avx2"),
        fma: f!("fma"),
        avx512f: f!("avx512f"),
        avx512vl: f!("avx512vl"),
        avx512vnni: f!("avx512vnni"),
    }
});

/// AVX-512 with VNNI, of which registers of 256 bits are used.
#[derive(Clone, Copy)]
pub(super) struct Vnni {
    common: V3,
    instructions: Instructions,
}

impl Vnni {
    /// Returns `None` where the processor lacks any of it.
    pub(super) fn try_new() -> Option<Self> {
        Some(Self { common: V3::try_new()?, instructions: Instructions::try_new()? })
    }

    /// Adds to each sum four products of bytes: those of `weights` are unsigned, those of `x` are
    /// signed.
    #[inline(always)]
    fn add_fours(self, sums: __m256i, weights: __m256i, x: i32) -> __m256i {
        let x = self.common.avx._mm256_set1_epi32(x);
        // SAFETY: the instruction needs AVX-512 VL and VNNI, and touches no memory. There is a
        // value of this type only where `try_new` found both.
        #[expect(unsafe_code, reason = "no safe crate offers this instruction")]
        unsafe {
            _mm256_dpbusd_epi32(sums, weights, x)
        }
    }
}

/// Hides how many columns there are: unrolled, a loop over many tokens wants more registers than
/// there are, and takes 1.3 times as long.
#[inline(always)]
fn kept_in_a_loop<const TOKENS: usize>(x: &[[i32; TOKENS]]) -> &[[i32; TOKENS]] {
    if TOKENS > 4 { std::hint::black_box(x) } else { x }
}

impl Simd for Vnni {
    const TOKENS: usize = 8;

    #[inline(always)]
    fn common(self) -> V3 {
        self.common
    }

    #[inline(always)]
    fn vectorize<R>(self, run: impl FnOnce() -> R) -> R {
        self.instructions.vectorize(run)
    }

    #[inline(always)]
    fn sums_of_unsigned<const TOGETHER: usize, const TOKENS: usize>(
        self,
        weights: impl Fn(usize) -> __m256i,
        x: &[[i32; TOKENS]],
    ) -> [__m256i; TOKENS] {
        let mut sums = [self.common.avx._mm256_setzero_si256(); TOKENS];
        for (at, x) in kept_in_a_loop(x).iter().enumerate() {
            let weights = weights(at);
            for token in 0..TOKENS {
                sums[token] = self.add_fours(sums[token], weights, x[token]);
            }
        }
        sums
    }

    #[inline(always)]
    fn sums_of_signed<const TOKENS: usize>(
        self,
        weights: impl Fn(usize) -> __m256i,
        x: &[[i32; TOKENS]],
        starts: &[i32; TOKENS],
    ) -> [__m256i; TOKENS] {
        if TOKENS == 1 {
            // Here each sum waits for the one before, which costs more than the instruction saves.
            return self.common.sums_of_signed(weights, x, starts);
        }
        // Weights that are 128 greater have no sign; that gives as much more as `starts` are less.
        let sign = self.common.avx._mm256_set1_epi8(-128);
        let mut sums = starts.map(|start| self.common.avx._mm256_set1_epi32(start));
        for (at, x) in kept_in_a_loop(x).iter().enumerate() {
            let weights = self.common.avx2._mm256_xor_si256(weights(at), sign);
            for token in 0..TOKENS {
                sums[token] = self.add_fours(sums[token], weights, x[token]);
            }
        }
        sums
    }
}
