//! How likely the model finds each token, before any request's sampling parameters.

use std::cmp::Ordering;

/// What stands for minus infinity, which JSON cannot write; other servers say the same.
const IMPOSSIBLE: f32 = -9999.0;

/// The probabilities of all tokens at one place of a text, as natural logarithms.
pub(super) struct Likelihoods {
    scores: Vec<f32>,
    /// The logarithm of the sum of all scores' exponentials.
    log_sum: f64,
}

/// A token with its probability and its place among all of them; 1 for the likeliest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Likely {
    pub(super) token: u32,
    pub(super) logprob: f32,
    pub(super) rank: u32,
}

impl Likelihoods {
    /// Takes the scores that the model gives each token of its vocabulary.
    pub(super) fn of(scores: Vec<f32>) -> Self {
        let best = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let powers = scores.iter().filter(|score| !score.is_nan());
        let sum: f64 = powers.map(|score| (f64::from(*score) - best).exp()).sum();
        Self { scores, log_sum: best + sum.ln() }
    }

    /// Finds one token.
    pub(super) fn of_token(&self, token: u32) -> Likely {
        let score = self.scores.get(token as usize).copied().unwrap_or(f32::NAN);
        let before = (0..).zip(&self.scores);
        let before = before.filter(|other| order(*other, (token, &score)) == Ordering::Less);
        let rank = u32::try_from(before.count() + 1).unwrap_or(u32::MAX);
        Likely { token, logprob: self.logprob(score), rank }
    }

    /// Returns the likeliest tokens, at most `most` of them.
    pub(super) fn best(&self, most: usize) -> Vec<Likely> {
        let mut best: Vec<(u32, &f32)> = Vec::with_capacity(most + 1);
        for next in (0..).zip(&self.scores) {
            let at = best.partition_point(|known| order(*known, next) == Ordering::Less);
            if at < most {
                best.truncate(most - 1);
                best.insert(at, next);
            }
        }
        let ranked = (1..).zip(best);
        let likely = |(rank, (token, score)): (u32, (u32, &f32))| Likely {
            token,
            logprob: self.logprob(*score),
            rank,
        };
        ranked.map(likely).collect()
    }

    #[allow(clippy::cast_possible_truncation, reason = "callers get single precision")]
    fn logprob(&self, score: f32) -> f32 {
        let logprob = (f64::from(score) - self.log_sum) as f32;
        // Plus zero, since minus zero is written with its sign.
        if logprob.is_finite() { logprob.clamp(IMPOSSIBLE, 0.0) + 0.0 } else { IMPOSSIBLE }
    }
}

/// Orders tokens as the sampler does without temperature: of equal ones the first wins, and what
/// is no number comes last.
fn order(one: (u32, &f32), other: (u32, &f32)) -> Ordering {
    let falling = other.1.partial_cmp(one.1);
    falling.unwrap_or_else(|| one.1.is_nan().cmp(&other.1.is_nan())).then(one.0.cmp(&other.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sampler::{Sampler, Sampling};
    use super::*;

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn probabilities_are_over_the_whole_vocabulary() {
        let likelihoods = Likelihoods::of(vec![1.0_f32.ln(), 3.0_f32.ln(), 4.0_f32.ln()]);
        let shares = [0.125_f32, 0.375, 0.5];
        for (token, share) in (0..).zip(shares) {
            assert!(near(likelihoods.of_token(token).logprob, share.ln()), "{token}");
        }
        let best = likelihoods.best(2);
        assert_eq!(best.iter().map(|l| (l.token, l.rank)).collect::<Vec<_>>(), [(2, 1), (1, 2)]);
        assert_eq!((likelihoods.best(0), likelihoods.best(9).len()), (vec![], 3));
    }

    #[test]
    fn of_equal_tokens_the_first_ranks_first() {
        let likelihoods = Likelihoods::of(vec![0.0, 2.0, f32::NAN, 2.0, f32::NEG_INFINITY]);
        let rank = |token| likelihoods.of_token(token).rank;
        assert_eq!([1, 3, 0, 4, 2].map(rank), [1, 2, 3, 4, 5]);
        assert!(near(likelihoods.of_token(2).logprob, IMPOSSIBLE));
        assert!(near(likelihoods.of_token(4).logprob, IMPOSSIBLE));
        assert!(near(likelihoods.of_token(99).logprob, IMPOSSIBLE));
    }

    #[test]
    fn scores_that_mean_nothing_make_everything_impossible() {
        for scores in [vec![], vec![f32::NAN], vec![f32::INFINITY, 1.0], vec![f32::NEG_INFINITY]] {
            let likelihoods = Likelihoods::of(scores);
            assert!(near(likelihoods.of_token(0).logprob, IMPOSSIBLE));
        }
    }

    proptest! {
        #[test]
        fn both_ways_of_finding_agree(scores in prop::collection::vec(-4i8..4, 1..40), most in 0usize..9) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let likelihoods = Likelihoods::of(scores.clone());
            let best = likelihoods.best(most);
            prop_assert_eq!(best.len(), most.min(scores.len()));
            for likely in &best {
                prop_assert_eq!(*likely, likelihoods.of_token(likely.token));
            }
            let greedy = Sampler::new(Sampling::default(), &[]).choose(scores.clone(), |_| true);
            prop_assert_eq!(likelihoods.of_token(greedy.unwrap()).rank, 1);
            let sum: f64 = (0..scores.len()).map(|token| {
                f64::from(likelihoods.of_token(u32::try_from(token).unwrap()).logprob).exp()
            }).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5);
        }
    }
}
