//! How likely the model finds the tokens of a prompt that it is given, in vLLM's shape.
//!
//! A text is scored by a chat that ends with it: its last message is by the assistant and stays
//! open (`"continue_final_message": true, "add_generation_prompt": false`), and
//! `"prompt_logprobs": K` asks for the list. It holds one entry for each token of the prompt, with
//! null for the first, which follows on nothing. Nothing of it is kept.

use iris_core::backend::BackendError;
use serde::{Serialize, Serializer};

use super::likelihood::{Likelihoods, Likely};
use super::request::refused;
use super::tokenizer::Tokenizer;

/// Most entries of all tokens together: some 10 MB of JSON.
const MAX_ENTRIES: usize = 1 << 17;

/// The scores of one prompt, as it is read.
pub(super) struct Scoring<'a> {
    tokenizer: &'a Tokenizer,
    prompt: &'a [u32],
    alternatives: usize,
    /// For each token but the first: itself, then those that are likelier or listed beside it.
    places: Vec<Vec<Likely>>,
}

impl<'a> Scoring<'a> {
    /// Starts to score a prompt with as many alternatives beside each token.
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        prompt: &'a [u32],
        alternatives: usize,
    ) -> Result<Self, BackendError> {
        if prompt.len().saturating_mul(alternatives + 1) > MAX_ENTRIES {
            let text = "the prompt is too long for so many alternatives; ask for fewer";
            return Err(refused(Some("prompt_logprobs"), text));
        }
        Ok(Self { tokenizer, prompt, alternatives, places: Vec::with_capacity(prompt.len()) })
    }

    /// Takes in the model's scores after each of the next tokens, and returns the last ones.
    pub(super) fn read(&mut self, scores: Vec<Vec<f32>>) -> Vec<f32> {
        let mut last = Vec::new();
        for scores in scores {
            let Some(next) = self.prompt.get(self.places.len() + 1) else {
                last = scores;
                break;
            };
            let likelihoods = Likelihoods::of(scores);
            let actual = likelihoods.of_token(*next);
            let mut place = vec![actual];
            let best = likelihoods.best(self.alternatives).into_iter();
            place.extend(best.filter(|likely| likely.token != actual.token));
            self.places.push(place);
        }
        last
    }
}

impl Serialize for Scoring<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = |place| Place { tokenizer: self.tokenizer, place };
        let places = self.places.iter().map(|likely| Some(place(likely)));
        serializer.collect_seq([None].into_iter().chain(places))
    }
}

/// One token and those beside it, by their numbers; the token itself comes first.
struct Place<'a> {
    tokenizer: &'a Tokenizer,
    place: &'a [Likely],
}

impl Serialize for Place<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.place.iter().map(|likely| {
            let Likely { token, logprob, rank } = *likely;
            let name = self.tokenizer.name(token);
            let decoded_token = String::from_utf8_lossy(&name).into_owned();
            (token, Scored { logprob, rank, decoded_token })
        }))
    }
}

#[derive(Serialize)]
struct Scored {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}
