//! Tiers: what a node can do with one model.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{ModelOffer, TokenRate};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierPolicy {
    /// Fewest parameters above BASIC. Default: 7 billion.
    pub floor_parameters: u64,
    /// Lowest speed above BASIC. Default: 10 tokens per second.
    pub floor_speed: TokenRate,
    /// Most parameters below PRO. Default: 20 billion.
    pub ceiling_parameters: u64,
    /// Highest speed below PRO. Default: 30 tokens per second.
    pub ceiling_speed: TokenRate,
}

impl Default for TierPolicy {
    fn default() -> Self {
        Self {
            floor_parameters: 7_000_000_000,
            floor_speed: TokenRate::per_second(10),
            ceiling_parameters: 20_000_000_000,
            ceiling_speed: TokenRate::per_second(30),
        }
    }
}

impl TierPolicy {
    /// Returns the tier of a node with a model. What is unknown counts as below the floor, so a
    /// node gains nothing by keeping silent.
    pub fn tier(&self, offer: &ModelOffer) -> Tier {
        let parameters = offer.parameters.unwrap_or(0);
        let speed = offer.speed.unwrap_or_default();
        if parameters < self.floor_parameters || speed < self.floor_speed {
            Tier::Basic
        } else if parameters > self.ceiling_parameters || speed > self.ceiling_speed {
            Tier::Pro
        } else {
            Tier::Mid
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(billions: u64, tokens_per_second: u64) -> Tier {
        let mut offer = ModelOffer::new("m".parse().unwrap(), 4096);
        offer.parameters = Some(billions * 1_000_000_000);
        offer.speed = Some(TokenRate::per_second(tokens_per_second));
        TierPolicy::default().tier(&offer)
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
        assert_eq!(TierPolicy::default().tier(&offer), Tier::Basic);
    }
}
