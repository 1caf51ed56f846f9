//! Prompts that look like anybody's and are asked once.

use serde_json::{Value, json};

use super::phrases::Phrases;
use super::seed::{Draws, Seed};
use crate::model::ModelName;

/// The fewest tokens that a canary lets an answer have.
const SHORTEST: u64 = 128;
/// The most tokens of an answer that count.
pub(super) const LONGEST: u64 = 256;

/// A chat whose answer a reference can check token by token.
///
/// It follows from its seed and the phrases alone, so whoever is shown the seed can make it again
/// and see that it is what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// What is asked.
    pub prompt: String,
    /// How many tokens the answer may have: 128 to 256.
    pub max_tokens: u32,
}

impl Canary {
    /// Makes the canary of `seed`.
    pub fn draw(phrases: &Phrases, seed: Seed) -> Self {
        let mut draws = Draws::new(seed);
        let max_tokens = SHORTEST + draws.below(LONGEST - SHORTEST + 1);
        let max_tokens = u32::try_from(max_tokens).expect("it is at most 256");
        Self { prompt: phrases.draw(&mut draws), max_tokens }
    }

    /// Returns the body of the request that asks `model`, at temperature zero.
    pub fn body(&self, model: &ModelName) -> Value {
        json!({
            "model": model,
            "messages": [{ "role": "user", "content": self.prompt }],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn canaries(count: u64) -> Vec<Canary> {
        let (phrases, seed) = (Phrases::default(), Seed::from_bytes([7; 32]));
        (0..count).map(|number| Canary::draw(&phrases, seed.branch(number))).collect()
    }

    #[test]
    fn no_prompt_comes_twice() {
        let canaries = canaries(20_000);
        let prompts: BTreeSet<_> = canaries.iter().map(|canary| &canary.prompt).collect();
        assert_eq!(prompts.len(), canaries.len());
    }

    #[test]
    fn seed_gives_the_same_canary_again() {
        assert_eq!(canaries(3), canaries(3));
    }

    #[test]
    fn prompts_are_of_many_kinds_and_have_no_gaps_left() {
        let canaries = canaries(500);
        let kinds: BTreeSet<_> =
            canaries.iter().filter_map(|canary| canary.prompt.split(' ').next()).collect();
        assert!(kinds.len() >= 12, "{kinds:?}");
        for canary in &canaries {
            assert!(!canary.prompt.contains(['{', '}']), "{}", canary.prompt);
            assert!((100..600).contains(&canary.prompt.len()), "{}", canary.prompt);
            assert!((128..=256).contains(&canary.max_tokens));
        }
        let spanish = canaries.iter().filter(|canary| canary.prompt.contains(" de ")).count();
        assert!((150..350).contains(&spanish), "{spanish} of 500");
    }

    #[test]
    fn body_asks_for_the_likeliest_tokens() {
        let canary = Canary { prompt: "a \"b\"".to_owned(), max_tokens: 200 };
        let body = canary.body(&"m".parse().unwrap());
        assert_eq!(body["temperature"], 0);
        assert_eq!((&body["model"], &body["max_tokens"]), (&json!("m"), &json!(200)));
        assert_eq!(body["messages"][0]["content"], "a \"b\"");
    }
}
