//! Tiers: what a node can do with one model.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{ModelOffer, TokenRate};
use crate::quantization::Quantization;

/// What a node can do with a model; each tier takes what the lower ones take and more.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Tier {
    /// Simple tasks.
    #[default]
    Basic,
    /// Complex tasks too.
    Mid,
    /// Every task.
    Pro,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Basic => "BASIC",
            Self::Mid => "MID",
            Self::Pro => "PRO",
        })
    }
}

/// The borders between tiers.
///
/// The seeds' rules contradict each other for small fast and large slow models. Here a model
/// below either floor is [`Tier::Basic`]; any other above either ceiling is [`Tier::Pro`].
///
/// A model counts with its effective size: its parameters, times how often it still says what it
/// would with its full weights, relative to [`Quantization::USUAL`]. So 8 billion parameters
/// count as 8.7 in 16 bits, as 8 in four and as 6.2 in two, where a model is worse than a smaller
/// one in four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierPolicy {
    /// Smallest effective size above BASIC, in parameters. Default: 7 billion.
    pub floor_parameters: u64,
    /// Lowest speed above BASIC. Default: 10 tokens per second.
    pub floor_speed: TokenRate,
    /// Largest effective size below PRO, in parameters. Default: 20 billion.
    pub ceiling_parameters: u64,
    /// Highest speed below PRO. Default: 30 tokens per second.
    pub ceiling_speed: TokenRate,
    /// What is known of the ways to store weights. Default: [`Quantization::KNOWN`].
    pub quantizations: &'static [Quantization],
    /// What any other way counts as, and the measure of all. Default: [`Quantization::USUAL`].
    pub usual: Quantization,
}

impl Default for TierPolicy {
    fn default() -> Self {
        Self {
            floor_parameters: 7_000_000_000,
            floor_speed: TokenRate::per_second(10),
            ceiling_parameters: 20_000_000_000,
            ceiling_speed: TokenRate::per_second(30),
            quantizations: Quantization::KNOWN,
            usual: Quantization::USUAL,
        }
    }
}

impl TierPolicy {
    /// Returns the tier of a node with a model. What is unknown of the model counts as below the
    /// floor, so a node gains nothing by keeping silent.
    ///
    /// `memory_gb` is what the node says of its memory, that of graphics cards included. It can
    /// only lower a tier: whoever says that the weights do not fit reads them from disk.
    pub fn tier(&self, offer: &ModelOffer, memory_gb: Option<u32>) -> Tier {
        let size = self.effective_parameters(offer);
        let speed = offer.speed.unwrap_or_default();
        let low = size < self.floor_parameters || speed < self.floor_speed;
        if low || self.exceeds(offer, memory_gb) {
            Tier::Basic
        } else if size > self.ceiling_parameters || speed > self.ceiling_speed {
            Tier::Pro
        } else {
            Tier::Mid
        }
    }

    /// Returns how many parameters of the usual kind a model is worth; 0 where it does not say.
    pub fn effective_parameters(&self, offer: &ModelOffer) -> u64 {
        let agreement = u128::from(self.quantization(offer).agreement);
        let usual = u128::from(self.usual.agreement.max(1));
        let size = u128::from(offer.parameters.unwrap_or(0)) * agreement / usual;
        u64::try_from(size).unwrap_or(u64::MAX)
    }

    /// Returns how many bytes a model's weights take; 0 where it does not say how large it is.
    pub fn weight_bytes(&self, offer: &ModelOffer) -> u64 {
        let bits = u128::from(self.quantization(offer).hundredths_of_bits);
        let bytes = u128::from(offer.parameters.unwrap_or(0)) * bits / 800;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Returns whether the weights are larger than all the memory.
    fn exceeds(&self, offer: &ModelOffer, memory_gb: Option<u32>) -> bool {
        let bytes = self.weight_bytes(offer);
        memory_gb.is_some_and(|gigabytes| bytes > u64::from(gigabytes) << 30)
    }

    fn quantization(&self, offer: &ModelOffer) -> Quantization {
        let name = offer.quantization.as_deref();
        name.and_then(|name| Quantization::among(self.quantizations, name)).unwrap_or(self.usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(millions: u64, quantization: &str) -> ModelOffer {
        let mut offer = ModelOffer::new("m".parse().unwrap(), 4096);
        offer.parameters = Some(millions * 1_000_000);
        offer.speed = Some(TokenRate::per_second(20));
        offer.quantization = (!quantization.is_empty()).then(|| quantization.to_owned());
        offer
    }

    fn tier(billions: u64, tokens_per_second: u64) -> Tier {
        let mut offer = offer(billions * 1000, "");
        offer.speed = Some(TokenRate::per_second(tokens_per_second));
        TierPolicy::default().tier(&offer, None)
    }

    fn stored(millions: u64, quantization: &str) -> Tier {
        TierPolicy::default().tier(&offer(millions, quantization), None)
    }

    #[test]
    fn floors_come_before_ceilings() {
        assert_eq!(tier(3, 200), Tier::Basic, "small and fast");
        assert_eq!(tier(70, 5), Tier::Basic, "large and slow");
        assert_eq!(tier(7, 10), Tier::Mid);
        assert_eq!(tier(20, 30), Tier::Mid);
        assert_eq!(tier(21, 10), Tier::Pro);
        assert_eq!(tier(7, 31), Tier::Pro);
    }

    #[test]
    fn silence_is_basic() {
        let offer = ModelOffer::new("m".parse().unwrap(), 4096);
        assert_eq!(TierPolicy::default().tier(&offer, None), Tier::Basic);
    }

    #[test]
    fn fewer_bits_make_a_model_smaller() {
        for usual in ["", "Q4_K_M", "q4-k-m", "Q4_0", "4bit", "AWQ", "something new"] {
            assert_eq!(stored(7000, usual), Tier::Mid, "{usual}");
            assert_eq!(stored(6999, usual), Tier::Basic, "{usual}");
            assert_eq!(stored(20_000, usual), Tier::Mid, "{usual}");
        }
        assert_eq!(stored(7000, "Q3_K_L"), Tier::Basic);
        assert_eq!(stored(8000, "Q2_K"), Tier::Basic);
        assert_eq!(stored(9100, "IQ2_XXS"), Tier::Mid);
        assert_eq!(stored(6500, "BF16"), Tier::Mid);
        assert_eq!(stored(20_000, "Q8_0"), Tier::Pro);
        assert_eq!(stored(25_000, "q2_k"), Tier::Mid);
    }

    #[test]
    fn better_kept_weights_never_count_less() {
        let order = ["F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"];
        let size = |name: &&str| TierPolicy::default().effective_parameters(&offer(8000, name));
        let sizes: Vec<u64> = order.iter().map(size).collect();
        assert!(sizes.is_sorted_by(|more, less| more > less), "{sizes:?}");
        assert_eq!((sizes[1], sizes[5]), (8_678_998_911, 8_000_000_000));
    }

    #[test]
    fn attack_40_memory_that_is_too_small_lowers_a_tier_and_no_memory_raises_one() {
        let tier = |offer: &ModelOffer, memory| TierPolicy::default().tier(offer, memory);
        let large = offer(70_000, "Q4_K_M");
        assert_eq!(tier(&large, None), Tier::Pro);
        assert_eq!(tier(&large, Some(48)), Tier::Pro);
        assert_eq!(tier(&large, Some(32)), Tier::Basic, "42 GB are read from disk");
        assert_eq!(tier(&offer(70_000, "F16"), Some(48)), Tier::Basic);
        for memory in [None, Some(64), Some(1_000_000), Some(u32::MAX)] {
            assert_eq!(tier(&offer(3000, "F16"), memory), Tier::Basic);
            assert_eq!(tier(&offer(8000, ""), memory), Tier::Mid);
        }
    }

    #[test]
    fn claims_of_any_size_are_taken() {
        let mut huge = offer(1, "F32");
        huge.parameters = Some(u64::MAX);
        assert_eq!(TierPolicy::default().tier(&huge, Some(u32::MAX)), Tier::Basic);
        assert_eq!(TierPolicy::default().tier(&huge, None), Tier::Pro);
    }

    #[test]
    fn table_can_be_replaced() {
        const TABLE: &[Quantization] = &[Quantization::new("Q4", 100, 400)];
        let strict = TierPolicy { quantizations: TABLE, ..TierPolicy::default() };
        assert_eq!(strict.tier(&offer(60_000, "Q4_K_M"), None), Tier::Basic);
    }
}
