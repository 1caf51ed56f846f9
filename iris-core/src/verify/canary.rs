//! Prompts that look like anybody's and are asked once.

use super::phrases::Phrases;
use super::seed::{Draws, Seed};
use crate::model::ModelName;

/// How long an answer a canary asks for, in tokens: lengths that people choose, none too short to
/// tell models apart.
const LENGTHS: [u32; 6] = [128, 150, 192, 200, 250, 256];
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
    /// Whether the answer is wanted as it is written, as three of four are.
    pub stream: bool,
    /// How the program writes its requests that it seems to come from.
    pub hand: Hand,
}

/// How programs write the JSON of their requests. Nodes see it unchanged, so a form that only
/// canaries had would tell them from everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hand {
    /// The Rust client of this network.
    Iris,
    /// OpenAI's library for Python.
    Python,
    /// OpenAI's library for JavaScript, which keeps the order that its caller wrote.
    JavaScript,
    /// A script that writes JSON as Python does: with spaces, and in ASCII.
    Script,
}

impl Hand {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Iris, Self::Python, Self::JavaScript, Self::Script];
}

impl Canary {
    /// Makes the canary of `seed`.
    pub fn draw(phrases: &Phrases, seed: Seed) -> Self {
        let mut draws = Draws::new(seed);
        let max_tokens = *draws.one(&LENGTHS);
        let prompt = phrases.draw(&mut draws);
        Self { prompt, max_tokens, stream: draws.below(4) != 0, hand: *draws.one(&Hand::ALL) }
    }

    /// Returns the body of the request that asks `model`, at temperature zero.
    pub fn body(&self, model: &ModelName) -> String {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let (model, prompt, length) = (text(model.as_str()), text(&self.prompt), self.max_tokens);
        let stream = |written: &'static str| if self.stream { written } else { "" };
        match self.hand {
            Hand::Iris => format!(
                r#"{{"model":{model},"messages":[{{"role":"user","content":{prompt}}}]{},"max_tokens":{length},"temperature":0.0}}"#,
                stream(r#","stream":true"#)
            ),
            Hand::Python => format!(
                r#"{{"messages":[{{"role":"user","content":{prompt}}}],"model":{model},"max_tokens":{length}{},"temperature":0}}"#,
                stream(r#","stream":true"#)
            ),
            Hand::JavaScript => format!(
                r#"{{"model":{model},"messages":[{{"role":"user","content":{prompt}}}],"temperature":0,"max_tokens":{length}{}}}"#,
                stream(r#","stream":true"#)
            ),
            Hand::Script => format!(
                r#"{{"model": {model}, "messages": [{{"role": "user", "content": {}}}], "temperature": 0, "max_tokens": {length}{}}}"#,
                ascii(&prompt),
                stream(r#", "stream": true"#)
            ),
        }
    }
}

/// Escapes whatever is not ASCII, as Python does.
fn ascii(json: &str) -> String {
    let mut units = [0; 2];
    json.chars().fold(String::with_capacity(json.len()), |mut out, letter| {
        if letter.is_ascii() {
            out.push(letter);
        } else {
            let escapes = letter.encode_utf16(&mut units).iter();
            out.extend(escapes.map(|unit| format!("\\u{unit:04x}")));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

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
    fn bodies_ask_the_same_whoever_seems_to_write_them() {
        for (hand, stream) in Hand::ALL.into_iter().flat_map(|hand| [(hand, true), (hand, false)]) {
            let prompt = "¿Cuántos \"𝄞\"?".to_owned();
            let canary = Canary { prompt, max_tokens: 200, stream, hand };
            let body = canary.body(&"m".parse().unwrap());
            assert_eq!(body.is_ascii(), hand == Hand::Script, "{body}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["temperature"].as_f64(), Some(0.0));
            assert_eq!((&body["model"], &body["max_tokens"]), (&json!("m"), &json!(200)));
            assert_eq!(body["messages"][0]["content"], canary.prompt);
            assert_eq!(body.get("stream"), stream.then_some(&json!(true)));
        }
    }

    #[test]
    fn canaries_have_the_lengths_and_forms_of_other_requests() {
        let canaries = canaries(400);
        let hands: BTreeSet<_> = canaries.iter().map(|canary| canary.hand).collect();
        assert_eq!(hands.len(), Hand::ALL.len());
        let lengths: BTreeSet<_> = canaries.iter().map(|canary| canary.max_tokens).collect();
        assert!(lengths.into_iter().eq(LENGTHS));
        let streamed = canaries.iter().filter(|canary| canary.stream).count();
        assert!((250..350).contains(&streamed), "{streamed} of 400");
    }
}
