//! The lower quantile of a beta distribution.
//!
//! Computed from the continued fraction of the incomplete beta function (DLMF 8.17.22) with the
//! arithmetic of IEEE 754 and the pure Rust functions of `libm`, which round alike on every
//! machine; an export that was closed on one is checked on another.

use crate::standing::Standing;

/// The whole, in the units of quantiles.
const WHOLE: u32 = 1_000_000;
/// The part of the distribution that is below its lower quantile.
const BELOW: f64 = 0.05;
/// Steps of the continued fraction; for parameters up to a million, a few hundred are enough.
const STEPS: u32 = 2_000;

/// Returns how likely, at least, what stands behind `evidence` does well: in millionths, such that
/// with probability 0.95 it is more. The 5 % quantile of Beta(1 + good, 1 + bad).
pub fn lower_quantile(evidence: Standing) -> u32 {
    // Beyond a million tests nothing changes any more, and the sums below would take long.
    let bounded = |thousandths: u64| 1.0 + f64::from(thousands(thousandths)) / 1000.0;
    let (a, b) = (bounded(evidence.good), bounded(evidence.bad));
    let (mut low, mut high) = (0, WHOLE);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if below(f64::from(middle) / f64::from(WHOLE), a, b) < BELOW {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

fn thousands(evidence: u64) -> u32 {
    u32::try_from(evidence.min(1_000_000_000)).expect("it was bounded")
}

/// Returns how much of Beta(a, b) is below `x`, which is between 0 and 1.
fn below(x: f64, a: f64, b: f64) -> f64 {
    let front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b)
        + a * libm::log(x)
        + b * libm::log1p(-x);
    let front = libm::exp(front);
    // The fraction converges fast on the lower side of the mean; the other side is its mirror.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(x, a, b) / a
    } else {
        1.0 - front * fraction(1.0 - x, b, a) / b
    }
}

/// The continued fraction, by Lentz's method.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut above = 1.0;
    let mut below = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut value = below;
    for step in 1..STEPS {
        let step = f64::from(step);
        let two = a + 2.0 * step;
        let even = step * (b - step) * x / ((two - 1.0) * two);
        let odd = -(a + step) * (a + b + step) * x / (two * (two + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            below = 1.0 / away_from_zero(1.0 + term * below);
            above = away_from_zero(1.0 + term / above);
            change = above * below;
            value *= change;
        }
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantile(good: u64, bad: u64) -> u32 {
        lower_quantile(Standing { good: good * 1000, bad: bad * 1000 })
    }

    /// Without bad evidence the quantile is 0.05^(1/(1 + good)).
    #[test]
    fn good_evidence_alone_has_a_closed_form() {
        for good in [0_u32, 1, 5, 10, 50, 100, 500, 1000, 100_000] {
            let exact = libm::pow(0.05, 1.0 / (1.0 + f64::from(good))) * 1e6;
            let found = f64::from(quantile(good.into(), 0));
            assert!((found - exact).abs() <= 1.0, "{good}: {found} {exact}");
        }
    }

    /// Beta(1 + n, 1 + n) is symmetric, and Beta(2, 2) and Beta(2, 3) have cubics and quartics.
    #[test]
    fn mixed_evidence_agrees_with_polynomials() {
        let at = |good, bad| f64::from(quantile(good, bad)) / 1e6;
        let x = at(1, 1);
        assert!((3.0 * x * x - 2.0 * x * x * x - 0.05).abs() < 1e-5);
        let x = at(1, 2);
        let cdf = 6.0 * x * x - 8.0 * x * x * x + 3.0 * x * x * x * x;
        assert!((cdf - 0.05).abs() < 1e-5);
    }

    /// The figures by which splitting an identity does not pay.
    #[test]
    fn splitting_a_thousand_good_tests_lowers_the_quantile() {
        let whole = f64::from(quantile(1000, 0));
        for (parts, ratio) in [(2, 0.997), (10, 0.974), (100, 0.764)] {
            let part = f64::from(quantile(1000 / parts, 0));
            assert!((part / whole - ratio).abs() < 0.001, "{parts}: {}", part / whole);
        }
    }

    proptest! {
        #[test]
        fn more_good_evidence_never_lowers_it_and_more_bad_never_raises_it(
            good in 0_u64..5_000_000, bad in 0_u64..200_000, more in 0_u64..1_000_000,
        ) {
            let at = |good, bad| lower_quantile(Standing { good, bad });
            let here = at(good, bad);
            prop_assert!(at(good + more, bad) + 1 >= here);
            prop_assert!(at(good, bad + more) <= here + 1);
        }

        #[test]
        fn any_evidence_has_one(good: u64, bad: u64) {
            let evidence = Standing { good, bad };
            prop_assert!(lower_quantile(evidence) < WHOLE);
        }
    }
}
