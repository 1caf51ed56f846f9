//! What holds of whatever is read in a name; shared with the fuzz target `text`.

use iris_core::model::NameFacts;
use iris_core::quantization::Quantization;
use iris_core::routing::Family;

/// Reads a name: what it tells is within bounds, and understood elsewhere.
pub(crate) fn is_sound(name: &str) {
    let facts = NameFacts::of(name);
    let sizes = [facts.parameters, facts.active_parameters, facts.least_parameters()];
    assert!(sizes.iter().flatten().all(|size| (1..=u64::MAX / 1000).contains(size)), "{facts:?}");
    assert!(facts.context_length.is_none_or(|tokens| (1024..=10_000_000).contains(&tokens)));
    assert!(facts.quantization.is_none_or(|told| Quantization::of(&told).is_some()));
    assert!(facts.family.is_none_or(|family| Family::new(&family).is_ok()));
}
