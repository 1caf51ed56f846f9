//! How much memory a model's weights take.

use super::size::{ByteSize, Span};
use crate::model::NameFacts;
use crate::quantization::Quantization;

/// What is known of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// How large its files are, without those of its vision.
    Files(ByteSize),
    /// How many parameters its server counted, and how they are stored, where that is known.
    Counted(u64, Option<Quantization>),
    /// The same as its name tells it: `7b` has been anything from 6.6 to 7.6 billion.
    Named(u64, Option<Quantization>),
    /// Nothing.
    Unknown,
}

/// What unknown ways to store weights lie between, in hundredths of bits.
const LEAST_BITS: u64 = 200;
const MOST_BITS: u64 = WHOLE_BITS as u64;
/// What weights take as they are.
const WHOLE_BITS: u16 = 1600;

/// Ways that leave embeddings as they are, which are much of a small model.
const WITHOUT_EMBEDDINGS: [&str; 8] =
    ["AWQ", "GPTQ", "BNB", "INT4", "W4A16", "FP4", "MXFP4", "NVFP4"];

impl Weights {
    /// Reads them in a name.
    pub fn of_name(facts: &NameFacts) -> Self {
        let quantization = facts.quantization.as_deref().and_then(Quantization::of);
        facts.parameters.map_or(Self::Unknown, |parameters| Self::Named(parameters, quantization))
    }

    /// Returns how much they take; `None` where nothing is known.
    ///
    /// The bounds hold for the published sizes that the tests name. Files and 16 bits are exact,
    /// or nearly.
    pub fn span(self) -> Option<Span> {
        let (least, most, quantization) = match self {
            Self::Unknown => return None,
            Self::Files(size) => return Some(Span::exact(size)),
            Self::Counted(count, quantization) => (count, count, quantization),
            Self::Named(count, quantization) => {
                let rounded = count.saturating_add(count / 10).saturating_add(250_000_000);
                (count - count / 10, rounded, quantization)
            }
        };
        let bits = |one: Quantization| u64::from(one.hundredths_of_bits);
        let fewest = |one: Quantization| {
            bits(one) * if one.hundredths_of_bits >= WHOLE_BITS { 99 } else { 95 } / 100
        };
        let fewest = quantization.map_or(LEAST_BITS, fewest);
        let most_bits = quantization.map_or(MOST_BITS, |one| bits(one) * spread(one, least) / 100);
        Some(Span {
            least: ByteSize::new(least).part(fewest, 800),
            most: ByteSize::new(most).part(most_bits, 800),
        })
    }
}

/// Returns how much larger than usual a model of so many parameters may be, in percent: what is
/// kept in more bits weighs more in small ones.
fn spread(quantization: Quantization, parameters: u64) -> u64 {
    if quantization.hundredths_of_bits >= WHOLE_BITS {
        return 101;
    }
    let is_mixed = WITHOUT_EMBEDDINGS.contains(&quantization.name);
    match parameters / 1_000_000_000 {
        0 => 160,
        1..3 => 140,
        3..25 if is_mixed => 135,
        _ => 110,
    }
}
