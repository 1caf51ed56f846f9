//! Which token comes next.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How far back a repetition penalty looks, in tokens.
const REPEAT_WINDOW: usize = 64;

/// How a request wants its tokens chosen. The default always takes the likeliest token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampling {
    /// 0 takes the likeliest token.
    pub(super) temperature: f32,
    /// Keeps the likeliest tokens that together have this probability; 1 keeps all.
    pub(super) top_p: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub(super) top_k: usize,
    /// Keeps tokens at least this likely, relative to the likeliest; 0 keeps all.
    pub(super) min_p: f32,
    /// Fixes the draw; without it every answer draws anew.
    pub(super) seed: Option<u64>,
    /// Divides the scores of recent tokens.
    pub(super) repeat_penalty: Option<f32>,
    /// Lowers a token's score by this for each time the answer holds it.
    pub(super) frequency_penalty: f32,
    /// Lowers a token's score by this once the answer holds it.
    pub(super) presence_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: None,
            repeat_penalty: None,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
        }
    }
}

/// Chooses the tokens of one answer.
pub(super) struct Sampler {
    sampling: Sampling,
    random: StdRng,
    history: Vec<u32>,
    counts: HashMap<u32, u16>,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let seed = sampling.seed.unwrap_or_else(rand::random);
        let recent = &prompt[prompt.len().saturating_sub(REPEAT_WINDOW)..];
        Self {
            sampling,
            random: StdRng::seed_from_u64(seed),
            history: recent.to_vec(),
            counts: HashMap::new(),
        }
    }

    /// Chooses a token by the model's scores, among those that are `allowed`; `None` when no
    /// score of one is a number.
    ///
    /// What is not allowed is looked for only when the first choice is not, so that the choice
    /// among all tokens costs and draws nothing more.
    pub(super) fn choose(
        &mut self,
        mut scores: Vec<f32>,
        allowed: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        self.penalize(&mut scores);
        let mut token = self.pick(&scores)?;
        if !allowed(token) {
            for (token, score) in (0..).zip(&mut scores) {
                if !allowed(token) {
                    *score = f32::NAN;
                }
            }
            token = self.pick(&scores)?;
        }
        self.note(token);
        Some(token)
    }

    /// Takes in a token that was chosen elsewhere.
    pub(super) fn take(&mut self, token: u32) {
        if self.sampling.temperature > 0.0 {
            self.random.random::<f32>();
        }
        self.note(token);
    }

    fn pick(&mut self, scores: &[f32]) -> Option<u32> {
        if self.sampling.temperature == 0.0 { likeliest(scores) } else { self.draw(scores) }
    }

    fn note(&mut self, token: u32) {
        self.history.push(token);
        let count = self.counts.entry(token).or_default();
        *count = count.saturating_add(1);
    }

    fn penalize(&self, scores: &mut [f32]) {
        if let Some(penalty) = self.sampling.repeat_penalty {
            let mut recent =
                self.history[self.history.len().saturating_sub(REPEAT_WINDOW)..].to_vec();
            recent.sort_unstable();
            recent.dedup();
            for token in recent {
                let Some(score) = scores.get_mut(token as usize) else {
                    continue;
                };
                *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
            }
        }
        for (token, count) in &self.counts {
            let Some(score) = scores.get_mut(*token as usize) else {
                continue;
            };
            let often = self.sampling.frequency_penalty * f32::from(*count);
            *score -= often + self.sampling.presence_penalty;
        }
    }

    fn draw(&mut self, scores: &[f32]) -> Option<u32> {
        let mut candidates: Vec<(u32, f32)> =
            (0..).zip(scores.iter().copied()).filter(|(_, score)| score.is_finite()).collect();
        let higher = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let keep = self.sampling.top_k;
        if (1..candidates.len()).contains(&keep) {
            candidates.select_nth_unstable_by(keep - 1, higher);
            candidates.truncate(keep);
        }
        candidates.sort_unstable_by(higher);
        let best = candidates.first()?.1;
        for (_, score) in &mut candidates {
            *score = ((*score - best) / self.sampling.temperature).exp();
        }
        // The likeliest candidate has weight 1, so `min_p` compares with it directly.
        candidates.retain(|(_, weight)| *weight >= self.sampling.min_p);
        self.keep_top_p(&mut candidates);
        let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.random::<f32>() * total;
        let drawn = candidates.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        drawn.or(candidates.last()).map(|(token, _)| *token)
    }

    fn keep_top_p(&self, candidates: &mut Vec<(u32, f32)>) {
        let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
        let (wanted, mut sum) = (self.sampling.top_p * total, 0.0);
        let enough = candidates.iter().position(|(_, weight)| {
            sum += weight;
            sum >= wanted
        });
        candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
    }
}

fn likeliest(scores: &[f32]) -> Option<u32> {
    let numbers = (0..).zip(scores).filter(|(_, score)| !score.is_nan());
    let best = numbers.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(token, _)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(sampling: Sampling, scores: &[f32], times: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, &[]);
        (0..times).map(|_| sampler.choose(scores.to_vec(), |_| true).unwrap()).collect()
    }

    fn warm(seed: u64) -> Sampling {
        Sampling { temperature: 1.0, seed: Some(seed), ..Sampling::default() }
    }

    #[test]
    fn without_temperature_the_first_of_the_best_wins() {
        assert_eq!(drawn(Sampling::default(), &[0.0, 2.0, f32::NAN, 2.0], 2), [1, 1]);
        assert_eq!(Sampler::new(Sampling::default(), &[]).choose(vec![f32::NAN], |_| true), None);
        assert_eq!(Sampler::new(warm(1), &[]).choose(vec![f32::NAN], |_| true), None);
    }

    #[test]
    fn a_seed_fixes_the_draw_and_the_draw_follows_the_scores() {
        let scores = [1.0_f32.ln(), 3.0_f32.ln(), f32::NEG_INFINITY];
        let draws = drawn(warm(7), &scores, 4000);
        assert_eq!(draws, drawn(warm(7), &scores, 4000));
        assert_ne!(draws, drawn(warm(8), &scores, 4000));
        let ones = draws.iter().filter(|token| **token == 1).count();
        assert!((2850..3150).contains(&ones), "{ones} of 4000, expected about 3000");
        assert!(!draws.contains(&2));
    }

    #[test]
    fn filters_keep_what_their_names_say() {
        let scores = [4.0_f32.ln(), 3.0_f32.ln(), 2.0_f32.ln(), 1.0_f32.ln()];
        let most = |sampling| drawn(sampling, &scores, 400).into_iter().max().unwrap();
        assert_eq!(most(warm(1)), 3);
        assert_eq!(most(Sampling { top_k: 2, ..warm(1) }), 1);
        assert_eq!(most(Sampling { top_p: 0.65, ..warm(1) }), 1);
        assert_eq!(most(Sampling { top_p: 0.0, ..warm(1) }), 0);
        assert_eq!(most(Sampling { min_p: 0.4, ..warm(1) }), 2);
    }

    #[test]
    fn only_what_is_allowed_is_chosen() {
        let scores = vec![3.0, 2.0, 1.0];
        for sampling in [Sampling::default(), warm(1)] {
            let mut sampler = Sampler::new(sampling, &[]);
            assert_eq!(sampler.choose(scores.clone(), |token| token == 2), Some(2));
            assert_eq!(sampler.choose(scores.clone(), |_| false), None);
        }
    }

    #[test]
    fn what_was_chosen_elsewhere_leaves_the_sampler_as_if_it_had_chosen_it() {
        let sampling = Sampling { frequency_penalty: 0.5, ..warm(3) };
        let scores = [1.0, 1.5, 0.5];
        let whole = drawn(sampling, &scores, 40);
        let mut sampler = Sampler::new(sampling, &[]);
        whole[..20].iter().for_each(|token| sampler.take(*token));
        let rest: Vec<u32> =
            (0..20).map(|_| sampler.choose(scores.to_vec(), |_| true).unwrap()).collect();
        assert_eq!(rest, whole[20..]);
    }

    #[test]
    fn penalties_turn_to_other_tokens() {
        let scores = [2.0, 1.9];
        let repeat = Sampling { repeat_penalty: Some(1.5), ..Sampling::default() };
        assert_eq!(drawn(repeat, &scores, 2), [0, 1]);
        assert_eq!(Sampler::new(repeat, &[0]).choose(scores.to_vec(), |_| true), Some(1));
        let presence = Sampling { presence_penalty: 0.5, ..Sampling::default() };
        assert_eq!(drawn(presence, &scores, 4), [0, 1, 0, 0]);
        let frequency = Sampling { frequency_penalty: 0.5, ..Sampling::default() };
        assert_eq!(drawn(frequency, &scores, 4), [0, 1, 0, 1]);
    }
}
