//! How few tokens tell an honest node from one that runs something else.
//!
//! Wald's sequential probability ratio test on the tokens of greedy answers. A reference is given
//! the answer and says of each token whether it would have chosen it too. An honest node differs
//! from the reference in at most 2 of 100 tokens (arithmetic, batching, a neighbouring
//! quantisation), one that runs a smaller or coarser model in 6 and more.
//!
//! The bounds hold however long a test runs and whenever it is looked at, by Ville's inequality:
//! under the rate of the honest the likelihood ratio is a supermartingale that starts at one, so
//! it ever reaches 1/alpha with a probability of at most alpha. That needs no independence between
//! tokens, only that each differs with at most 2 percent whatever came before; a model that is hard
//! to reproduce in some places and easy in others is what calibration has to rule out. All rounding
//! is in the node's favour.

use serde::{Deserialize, Serialize};

use super::logarithm::ln_ratio;
use crate::score::TokenScore;

/// One, in millionths.
pub(super) const MILLION: u32 = 1_000_000;
/// How much less likely than the reference's own choice a token may be that still counts as the
/// same: a tenth of a nat, in micro-nats.
const TOLERANCE: i64 = 100_000;

/// What a reference says of one token of an answer, in millionths of a nat.
///
/// The end of the answer counts as a token, unless the limit of tokens ended it: an answer that
/// stops too early differs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scored {
    /// The logarithm of the probability of the token that was emitted.
    pub logprob: i64,
    /// That of the token which the reference would have chosen.
    pub best_logprob: i64,
}

impl Scored {
    /// Returns whether the reference would have chosen this token too, or one that is as good.
    pub const fn is_match(self) -> bool {
        self.best_logprob.saturating_sub(self.logprob) <= TOLERANCE
    }
}

impl From<TokenScore> for Scored {
    fn from(token: TokenScore) -> Self {
        Self { logprob: token.logprob.micros(), best_logprob: token.best_logprob.micros() }
    }
}

/// What a sequential test has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Too few tokens yet.
    Continue,
    /// What was seen fits an honest node.
    Honest,
    /// What was seen hardly fits an honest node.
    Dishonest,
}

/// The figures of a sequential test: what each token weighs, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequential {
    matched: i64,
    missed: i64,
    accept: i64,
    reject: i64,
}

/// Says which figures make no test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a test needs, in millionths, a rate of the honest above 0 and below that of the dishonest, \
     which is below 1,000,000, and error bounds above 0 and below 500,000"
)]
pub struct SequentialError;

impl Sequential {
    /// Makes a test of the rates at which honest and dishonest nodes differ, of the bound on how
    /// often an honest node is suspected and of that on how often a dishonest one passes, all in
    /// millionths.
    pub fn new(
        honest: u32,
        dishonest: u32,
        alpha: u32,
        beta: u32,
    ) -> Result<Self, SequentialError> {
        let rates = 0 < honest && honest < dishonest && dishonest < MILLION;
        let bounds = [alpha, beta].iter().all(|bound| (1..MILLION / 2).contains(bound));
        if !(rates && bounds) {
            return Err(SequentialError);
        }
        let ln = |over: u32, under: u32| ln_ratio(over.into(), under.into());
        Ok(Self {
            matched: -(ln(MILLION - honest, MILLION - dishonest) + 1),
            missed: ln(dishonest, honest),
            accept: -(ln(MILLION, beta) + 1),
            reject: ln(MILLION, alpha) + 1,
        })
    }

    /// Returns what a token adds to the logarithm of the likelihood ratio, in micro-nats.
    pub const fn weight(&self, matched: bool) -> i64 {
        if matched { self.matched } else { self.missed }
    }

    /// Returns what all of `tokens` add, in micro-nats.
    pub fn weigh(&self, tokens: &[Scored]) -> i64 {
        tokens.iter().map(|token| self.weight(token.is_match())).sum()
    }

    /// Returns whether an answer that weighs so much is unlike an honest node's: of one hundred
    /// honest answers at most `100 * beta` are.
    pub(super) const fn doubts(&self, weight: i64) -> bool {
        weight >= -self.accept
    }

    /// Counts one token in `trial`, and says what the test has come to.
    pub fn count(&self, trial: &mut Trial, matched: bool) -> Finding {
        trial.tokens = trial.tokens.saturating_add(1);
        trial.mismatches = trial.mismatches.saturating_add(u32::from(!matched));
        trial.likelihood = trial.likelihood.saturating_add(self.weight(matched));
        self.finding(trial)
    }

    /// Counts all of `tokens`, one test after another: where one finds them honest, the next begins
    /// with the token after it, so that nothing goes uncounted.
    ///
    /// Returns [`Finding::Dishonest`] with what was seen in `trial` as soon as a test comes to that,
    /// and counts no more; [`Finding::Honest`] if a test came to that; else [`Finding::Continue`].
    pub fn count_all(&self, trial: &mut Trial, tokens: &[Scored]) -> Finding {
        let mut come_to = self.finding(trial);
        for token in tokens {
            if come_to == Finding::Dishonest {
                break;
            }
            match self.count(trial, token.is_match()) {
                Finding::Continue => {}
                Finding::Honest => {
                    *trial = Trial::default();
                    come_to = Finding::Honest;
                }
                Finding::Dishonest => come_to = Finding::Dishonest,
            }
        }
        come_to
    }

    /// Returns what the test has come to.
    pub const fn finding(&self, trial: &Trial) -> Finding {
        if trial.likelihood >= self.reject {
            Finding::Dishonest
        } else if trial.likelihood <= self.accept {
            Finding::Honest
        } else {
            Finding::Continue
        }
    }
}

impl Default for Sequential {
    /// 2 and 6 percent, an honest node suspected in one of ten thousand tests, a dishonest one
    /// passed in one of a hundred.
    fn default() -> Self {
        Self { matched: -41_673, missed: 1_098_612, accept: -4_605_171, reject: 9_210_341 }
    }
}

/// The tokens that a running test has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// How many.
    pub tokens: u32,
    /// How many of them the reference would not have chosen.
    pub mismatches: u32,
    /// The logarithm of how much more likely a dishonest node is than an honest one to have
    /// written them, in micro-nats.
    pub likelihood: i64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::verify::tests::Dice;

    #[test]
    fn what_follows_an_honest_beginning_is_counted_too() {
        let token = |matched: bool| Scored {
            logprob: if matched { 0 } else { -TOLERANCE - 1 },
            best_logprob: 0,
        };
        let (test, mut trial) = (Sequential::default(), Trial::default());
        let honest = vec![token(true); 120];
        assert_eq!(test.count_all(&mut trial, &honest), Finding::Honest);
        // The first test ended with its 111th token.
        assert_eq!((trial.tokens, trial.mismatches), (9, 0));
        assert_eq!(test.count_all(&mut trial, &honest[..9]), Finding::Continue);
        let turned = [&honest[..], &vec![token(false); 30]].concat();
        let mut trial = Trial::default();
        assert_eq!(test.count_all(&mut trial, &turned), Finding::Dishonest);
        assert_eq!((trial.tokens, trial.mismatches), (18, 9));
        let seen = trial;
        assert_eq!(test.count_all(&mut trial, &honest), Finding::Dishonest);
        assert_eq!(trial, seen);
    }

    /// Runs one test to its end; the longest there can be ends with what it has come to.
    fn run(dice: &mut Dice, mismatch: u32) -> (Finding, u32) {
        let (test, mut trial) = (Sequential::default(), Trial::default());
        loop {
            let finding = test.count(&mut trial, !dice.happens(mismatch));
            if finding != Finding::Continue || trial.tokens == 20_000 {
                return (finding, trial.tokens);
            }
        }
    }

    /// Returns how many in 20,000 runs are rejected, and the mean number of tokens.
    fn power(seed: u64, mismatch: u32) -> (u32, u32) {
        let mut dice = Dice(seed);
        let runs: Vec<_> = (0..20_000).map(|_| run(&mut dice, mismatch)).collect();
        let rejected = runs.iter().filter(|(finding, _)| *finding == Finding::Dishonest).count();
        let tokens: u32 = runs.iter().map(|(_, tokens)| tokens).sum();
        (u32::try_from(rejected).unwrap(), tokens / 20_000)
    }

    /// Returns the probability of a rejection within so many tokens, by going through all ways.
    fn exact(mismatch: f64, tokens: usize) -> f64 {
        let test = Sequential::default();
        let mut ways = vec![1.0];
        let mut rejected = 0.0;
        for token in 1..=tokens {
            let mut next = vec![0.0; ways.len() + 1];
            for (missed, chance) in ways.iter().enumerate() {
                next[missed] += chance * (1.0 - mismatch);
                next[missed + 1] += chance * mismatch;
            }
            for (missed, chance) in next.iter_mut().enumerate() {
                let (missed, matched) =
                    (i64::try_from(missed).unwrap(), i64::try_from(token - missed).unwrap());
                let likelihood = missed * test.missed + matched * test.matched;
                match test.finding(&Trial { likelihood, ..Trial::default() }) {
                    Finding::Dishonest => rejected += std::mem::take(chance),
                    Finding::Honest => *chance = 0.0,
                    Finding::Continue => {}
                }
            }
            while next.last() == Some(&0.0) {
                next.pop();
            }
            ways = next;
        }
        rejected
    }

    #[test]
    fn default_is_what_its_figures_come_to() {
        assert_eq!(Sequential::new(20_000, 60_000, 100, 10_000), Ok(Sequential::default()));
    }

    #[test]
    fn figures_that_make_no_test_are_refused() {
        for (honest, dishonest, alpha, beta) in [
            (0, 60_000, 100, 100),
            (60_000, 60_000, 100, 100),
            (1, MILLION, 100, 100),
            (1, 2, 0, 100),
            (1, 2, 100, MILLION),
        ] {
            assert!(Sequential::new(honest, dishonest, alpha, beta).is_err());
        }
    }

    #[test]
    fn honest_nodes_are_not_suspected() {
        // At the bound itself 1.4 of 20,000 runs are to be expected; a second test follows those.
        for (mismatch, most) in [(2_600, 0), (10_000, 0), (15_000, 0), (20_000, 6)] {
            let (rejected, tokens) = power(u64::from(mismatch), mismatch);
            println!("mismatch {mismatch}: {rejected} of 20,000, mean {tokens} tokens");
            assert!(rejected <= most && tokens <= 250, "{mismatch}: {rejected}, {tokens}");
        }
    }

    #[test]
    fn chance_of_suspecting_an_honest_node_is_below_its_bound() {
        let (worst, usual) = (exact(0.02, 3000), exact(0.01, 3000));
        println!("at 2 %: {worst:.2e}, at 1 %: {usual:.2e}");
        assert!(worst < 1e-4 && worst > 1e-5, "{worst}");
        assert!(usual < 2e-7, "{usual}");
    }

    #[test]
    fn other_models_are_suspected_soon() {
        for (mismatch, least, most_tokens) in
            [(81_000, 19_980, 200), (289_000, 20_000, 36), (400_000, 20_000, 24)]
        {
            let (rejected, tokens) = power(5, mismatch);
            println!("mismatch {mismatch}: {rejected} of 20,000, mean {tokens} tokens");
            assert!(rejected >= least && tokens <= most_tokens, "{rejected}, {tokens}");
        }
        assert!(exact(0.081, 3000) > 0.9995);
    }

    #[test]
    fn token_that_is_nearly_as_likely_is_no_mismatch() {
        let scored = |logprob, best_logprob| Scored { logprob, best_logprob };
        assert!(scored(-500_000, -500_000).is_match());
        assert!(scored(-600_000, -500_000).is_match());
        assert!(!scored(-600_001, -500_000).is_match());
        assert!(!scored(i64::MIN, i64::MAX).is_match());
        assert!(scored(i64::MAX, i64::MIN).is_match());
    }

    proptest! {
        #[test]
        fn mismatches_never_help_a_node(tokens in proptest::collection::vec(any::<bool>(), 1..300)) {
            let test = Sequential::default();
            let likelihood = |tokens: &[bool]| {
                tokens.iter().map(|matched| test.weight(*matched)).sum::<i64>()
            };
            for at in 0..tokens.len() {
                let mut worse = tokens.clone();
                worse[at] = false;
                prop_assert!(likelihood(&worse) >= likelihood(&tokens));
            }
        }
    }
}
