//! Natural logarithms in whole micro-nats, so that all machines decide alike.

/// 10^12 times the natural logarithm of two, rounded down.
const LN_2: u128 = 693_147_180_559;
const FRACTION_BITS: u32 = 40;
const ONE: u128 = 1 << 62;

/// Returns ln(`over` / `under`) in micro-nats, rounded down; zero unless `over` is the larger one.
pub(super) fn ln_ratio(over: u64, under: u64) -> i64 {
    if under == 0 || over <= under {
        return 0;
    }
    let mut ratio = (u128::from(over) << 62) / u128::from(under);
    let mut log2 = u128::from(ratio.ilog2() - 62);
    ratio >>= log2;
    for _ in 0..FRACTION_BITS {
        ratio = (ratio * ratio) >> 62;
        log2 <<= 1;
        if ratio >= 2 * ONE {
            ratio >>= 1;
            log2 |= 1;
        }
    }
    let micro = (log2 * LN_2 / 1_000_000) >> FRACTION_BITS;
    i64::try_from(micro).expect("the logarithm of 64 bits is below 45 nats")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_logarithms() {
        assert_eq!(ln_ratio(3, 1), 1_098_612);
        assert_eq!(ln_ratio(98, 94), 41_672);
        assert_eq!(ln_ratio(1_000_000, 100), 9_210_340);
        assert_eq!(ln_ratio(u64::MAX, 1), 44_361_419);
        assert_eq!((ln_ratio(1, 1), ln_ratio(1, 2), ln_ratio(1, 0)), (0, 0, 0));
    }

    proptest! {
        #[test]
        fn rounded_down_by_less_than_one(under in 1_u32.., over in 1_u32..) {
            let exact = (f64::from(over) / f64::from(under)).ln().max(0.0) * 1e6;
            #[expect(clippy::cast_precision_loss, reason = "it is below 45 million")]
            let off = exact - ln_ratio(over.into(), under.into()) as f64;
            prop_assert!((-1e-3..1.001).contains(&off), "{off}");
        }
    }
}
