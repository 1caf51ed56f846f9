//! The second test: fresh prompts, a reference of another owner, an error bound of its own.
//!
//! It looks at up to k answers, and asks of every one whether from there on, over that answer and
//! those that follow, the likelihood ratio reaches k/alpha. Each of the k beginnings does that with
//! a probability of at most alpha/k for an honest node, so all of them together with at most
//! alpha. What is kept is one number, since the largest sum over all beginnings is the running sum
//! that restarts at zero with an answer when it is below (Page's CUSUM).
//!
//! Unlike the first test it cannot be lulled: a node that lies in one of ten answers is found by
//! that one answer, however well it did before.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::logarithm::ln_ratio;
use super::schedule::Rules;
use super::seed::Seed;
use super::sequential::{MILLION, Scored, Trial};
use crate::id::AccountId;

/// What a confirmation has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    NotYet,
    Honest,
    Dishonest,
}

/// A second test as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Confirmation {
    /// What raised the suspicion, and whose reference saw it.
    pub(super) suspicion: Trial,
    pub(super) suspecting: AccountId,
    /// The error bound that was taken for it, in millionths.
    pub(super) error: u32,
    pub(super) confirming: BTreeSet<AccountId>,
    /// What was asked and scored.
    pub(super) asked: Vec<Seed>,
    /// The tokens since the beginning that looks worst.
    pub(super) worst: Trial,
    /// How many answers that is.
    pub(super) answers: u32,
}

impl Confirmation {
    pub(super) fn new(suspicion: Trial, suspecting: AccountId, error: u32) -> Self {
        Self {
            suspicion,
            suspecting,
            error,
            confirming: BTreeSet::new(),
            asked: Vec::new(),
            worst: Trial::default(),
            answers: 0,
        }
    }

    /// Counts an answer that a reference of `owner` has scored.
    pub(super) fn count(
        &mut self,
        rules: &Rules,
        owner: AccountId,
        seed: Seed,
        tokens: &[Scored],
    ) -> Confirmed {
        self.confirming.insert(owner);
        self.asked.push(seed);
        if self.worst.likelihood <= 0 {
            (self.worst, self.answers) = (Trial::default(), 0);
        }
        self.answers += 1;
        for token in tokens {
            rules.suspicion.count(&mut self.worst, token.is_match());
            if self.worst.likelihood >= self.bound(rules) {
                return Confirmed::Dishonest;
            }
        }
        let asked = u32::try_from(self.asked.len()).unwrap_or(u32::MAX);
        if asked < rules.confirming { Confirmed::NotYet } else { Confirmed::Honest }
    }

    fn bound(&self, rules: &Rules) -> i64 {
        let beginnings = u64::from(rules.confirming.max(1)) * u64::from(MILLION);
        ln_ratio(beginnings, self.error.max(1).into()) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::tests::Dice;

    const OWNER: AccountId = AccountId::from_bytes([1; 16]);

    fn answer(dice: &mut Dice, mismatch: u32) -> Vec<Scored> {
        let best = Scored { logprob: -1, best_logprob: -1 };
        let other = Scored { logprob: -900_000, best_logprob: -1 };
        (0..190).map(|_| if dice.happens(mismatch) { other } else { best }).collect()
    }

    /// Returns how many of `runs` are found lying that differ so much in that share of answers.
    fn found(runs: u32, dice: &mut Dice, error: u32, mismatch: u32, lies: u32) -> u32 {
        let rules = Rules::default();
        let mut found = 0;
        for _ in 0..runs {
            let mut test = Confirmation::new(Trial::default(), OWNER, error);
            let confirmed = loop {
                let rate = if dice.happens(lies) { mismatch } else { 10_000 };
                let tokens = answer(dice, rate);
                match test.count(&rules, OWNER, Seed::from_bytes([0; 32]), &tokens) {
                    Confirmed::NotYet => {}
                    confirmed => break confirmed,
                }
            };
            assert!(test.asked.len() <= 20);
            found += u32::from(confirmed == Confirmed::Dishonest);
        }
        found
    }

    #[test]
    fn honest_nodes_stay_within_the_error_bound() {
        let mut dice = Dice(11);
        assert_eq!(found(500, &mut dice, 100, 20_000, MILLION), 0);
        // A bound of a half is loose enough to be seen at work.
        let loose = found(500, &mut dice, MILLION / 2, 20_000, MILLION);
        assert!((5..250).contains(&loose), "{loose} of 500");
    }

    #[test]
    fn liars_are_found_whatever_they_did_before() {
        let mut dice = Dice(12);
        assert_eq!(found(300, &mut dice, 100, 81_000, MILLION), 300, "a quantisation to four bits");
        let sometimes = found(300, &mut dice, 100, 289_000, 100_000);
        assert!(sometimes > 240, "two bits in one of ten answers: {sometimes} of 300");
    }

    #[test]
    fn smaller_bound_needs_more_evidence() {
        let bound =
            |error| Confirmation::new(Trial::default(), OWNER, error).bound(&Rules::default());
        assert_eq!(bound(100), 12_206_073);
        assert!(bound(1) > bound(100));
    }
}
