//! How much work an answer is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backend::Usage;
use crate::model::ModelName;

/// What a token is worth: work is counted in thousandths of a written token of a usual model.
///
/// A read token costs a node about a quarter of a written one, which is also what services ask for
/// it: prompts are read many tokens at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkRates {
    /// For a token that is read. Default: 250.
    pub prompt: u32,
    /// For a token that is written. Default: 1000.
    pub completion: u32,
    /// Models whose tokens are worth more or less than usual, in thousandths. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<ModelName, u32>,
}

impl Default for WorkRates {
    fn default() -> Self {
        Self { prompt: 250, completion: 1000, models: BTreeMap::new() }
    }
}

impl WorkRates {
    /// Returns how much work it is to read and write so many tokens with a model.
    pub fn units(&self, model: &ModelName, usage: Usage) -> u64 {
        let read = u128::from(usage.prompt_tokens) * u128::from(self.prompt);
        let written = u128::from(usage.completion_tokens) * u128::from(self.completion);
        let model = self.models.get(model).copied().unwrap_or(1000);
        let units = (read + written) * u128::from(model) / 1000;
        u64::try_from(units).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_may_be_worth_more() {
        let (usual, large): (ModelName, ModelName) =
            ("small".parse().unwrap(), "large".parse().unwrap());
        let rates = WorkRates { models: [(large.clone(), 2500)].into(), ..WorkRates::default() };
        let usage = Usage { prompt_tokens: 400, completion_tokens: 100 };
        assert_eq!(rates.units(&usual, usage), 200_000);
        assert_eq!(rates.units(&large, usage), 500_000);
        let most = Usage { prompt_tokens: u32::MAX, completion_tokens: u32::MAX };
        let rates = WorkRates { prompt: u32::MAX, completion: u32::MAX, ..rates };
        rates.units(&large, most);
    }
}
