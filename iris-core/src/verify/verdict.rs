//! What is said of a node that was found lying, and what it can do about it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::confirmation::Confirmation;
use super::schedule::Rules;
use super::seed::{Commitment, Seed};
use super::sequential::Trial;
use crate::id::{AccountId, NodeId, VerdictId};
use crate::model::ModelName;
use crate::time::Timestamp;

/// A finding against a node, by two tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Follows from the node, the model and the prompts that confirmed it, which are asked once.
    pub id: VerdictId,
    /// Who was found lying.
    pub node: NodeId,
    /// Whose node it is.
    pub owner: AccountId,
    /// About which model.
    pub model: ModelName,
    /// What it did.
    pub offence: Offence,
    /// What it was found by.
    pub evidence: Evidence,
    /// When.
    pub at: Timestamp,
    /// Until when the owner can appeal.
    pub appeal_until: Timestamp,
}

/// What a node was found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Offence {
    /// Its answers are not those of the model that it says it runs.
    AnotherModel,
}

/// What two tests saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The tokens that raised the suspicion.
    pub suspicion: Trial,
    /// Whose reference saw them.
    pub suspecting: AccountId,
    /// The tokens that confirmed it.
    pub confirmation: Trial,
    /// How many answers they are from.
    pub answers: u32,
    /// Whose references saw those.
    pub confirming: BTreeSet<AccountId>,
    /// How often, in a million times, the second test would find this of an honest node.
    pub error: u32,
    /// Binds to the seeds of the prompts that were asked to confirm it, in order.
    pub prompts: Vec<Commitment>,
}

/// A verdict, and the seeds by which its owner can make the prompts again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conviction {
    /// The verdict.
    pub verdict: Verdict,
    /// What [`Evidence::prompts`] binds to; shown to the owner, since no prompt is asked again.
    pub seeds: Vec<Seed>,
}

impl Conviction {
    pub(super) fn new(
        node: NodeId,
        owner: AccountId,
        model: ModelName,
        test: Confirmation,
        rules: &Rules,
        now: Timestamp,
    ) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"iris/verdict/v1");
        hash.update(node.as_str());
        hash.update(model.as_str());
        let prompts: Vec<_> = test.asked.iter().map(Seed::commitment).collect();
        for prompt in &prompts {
            hash.update(prompt.to_string());
        }
        let id: [u8; 32] = hash.finalize().into();
        let verdict = Verdict {
            id: VerdictId::from_bytes(id[..16].try_into().expect("a hash has 32 bytes")),
            node,
            owner,
            model,
            offence: Offence::AnotherModel,
            evidence: Evidence {
                suspicion: test.suspicion,
                suspecting: test.suspecting,
                confirmation: test.worst,
                answers: test.answers,
                confirming: test.confirming,
                error: test.error,
                prompts,
            },
            at: now,
            appeal_until: now.saturating_add(rules.appeal),
        };
        Self { verdict, seeds: test.asked }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Offence::AnotherModel = self.offence;
        let Evidence { confirmation, answers, suspicion, error, .. } = &self.evidence;
        let seen = if self.evidence.confirming.contains(&self.evidence.suspecting) {
            "the same reference, asked anew,"
        } else {
            "references of another owner"
        };
        write!(
            f,
            "{} of {} tokens in the latest answers ({answers}) were not what {} would write, after \
             {} of {} before; {seen} confirmed it, and an honest node is found so at most {error} \
             times in a million",
            confirmation.mismatches,
            confirmation.tokens,
            self.model,
            suspicion.mismatches,
            suspicion.tokens,
        )
    }
}

/// A verdict and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// The verdict.
    pub verdict: Verdict,
    /// What its owner did about it.
    pub appeal: Option<Appeal>,
}

/// How far an appeal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Appeal {
    /// The owner objects, and a person has yet to look at it.
    Open {
        /// Since when.
        at: Timestamp,
    },
    /// The verdict stands.
    Upheld {
        /// Since when.
        at: Timestamp,
    },
    /// The verdict is void.
    Overturned {
        /// Since when.
        at: Timestamp,
    },
}

/// How an appeal is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// The verdict stands.
    Uphold,
    /// The verdict is void.
    Overturn,
}

/// Says why an appeal cannot be made or decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppealError {
    /// The time for it is over.
    #[error("the time to appeal is over; a verdict can be appealed against for seven days")]
    TooLate,
    /// There has been one.
    #[error("this verdict has been appealed against already")]
    Twice,
    /// There is none to decide.
    #[error("there is no open appeal against this verdict")]
    NoneOpen,
}

impl Case {
    /// Opens the case of a verdict.
    pub const fn new(verdict: Verdict) -> Self {
        Self { verdict, appeal: None }
    }

    /// Records that the owner objects.
    pub fn appeal(&mut self, now: Timestamp) -> Result<(), AppealError> {
        match self.appeal {
            Some(_) => Err(AppealError::Twice),
            None if now > self.verdict.appeal_until => Err(AppealError::TooLate),
            None => {
                self.appeal = Some(Appeal::Open { at: now });
                Ok(())
            }
        }
    }

    /// Decides the open appeal.
    pub fn decide(&mut self, ruling: Ruling, now: Timestamp) -> Result<(), AppealError> {
        let Some(Appeal::Open { .. }) = self.appeal else { return Err(AppealError::NoneOpen) };
        self.appeal = Some(match ruling {
            Ruling::Uphold => Appeal::Upheld { at: now },
            Ruling::Overturn => Appeal::Overturned { at: now },
        });
        Ok(())
    }

    /// Returns whether the verdict can have its consequences: nobody objected in time, or in vain.
    pub fn is_final(&self, now: Timestamp) -> bool {
        match self.appeal {
            None => now > self.verdict.appeal_until,
            Some(Appeal::Upheld { .. }) => true,
            Some(Appeal::Open { .. } | Appeal::Overturned { .. }) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OWNER: AccountId = AccountId::from_bytes([1; 16]);

    fn conviction(seed: u8) -> Conviction {
        let trial = Trial { tokens: 90, mismatches: 30, likelihood: 13_000_000 };
        let mut test = Confirmation::new(trial, OWNER, 100);
        (test.worst, test.answers) = (trial, 1);
        test.asked.push(Seed::from_bytes([seed; 32]));
        test.confirming.insert(AccountId::from_bytes([2; 16]));
        let node = "abcdefghijklmnopqrstuvwxyz".parse().unwrap();
        let model = "m".parse().unwrap();
        Conviction::new(node, OWNER, model, test, &Rules::default(), day(10))
    }

    fn day(number: u32) -> Timestamp {
        Timestamp::from_millis(0).saturating_add(Duration::from_hours(24) * number)
    }

    #[test]
    fn verdict_follows_from_its_cause_and_survives_its_text() {
        let verdict = conviction(7).verdict;
        assert_eq!(verdict, conviction(7).verdict);
        assert_ne!(verdict.id, conviction(8).verdict.id);
        let json = serde_json::to_string(&verdict).unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
    }

    #[test]
    fn verdict_says_what_was_seen() {
        assert_eq!(
            conviction(1).verdict.to_string(),
            "30 of 90 tokens in the latest answers (1) were not what m would write, after 30 of 90 \
             before; references of another owner confirmed it, and an honest node is found so at \
             most 100 times in a million"
        );
    }

    #[test]
    fn prompts_can_be_opened_afterwards() {
        let Conviction { verdict, seeds } = conviction(1);
        let opened: Vec<_> = seeds.iter().map(Seed::commitment).collect();
        assert_eq!(opened, verdict.evidence.prompts);
    }

    #[test]
    fn owner_has_seven_days_to_object_once() {
        let mut case = Case::new(conviction(1).verdict);
        assert!(!case.is_final(day(17)));
        assert!(case.is_final(day(18)));
        assert_eq!(case.clone().appeal(day(18)), Err(AppealError::TooLate));
        assert_eq!(case.decide(Ruling::Uphold, day(11)), Err(AppealError::NoneOpen));
        assert_eq!(case.appeal(day(17)), Ok(()));
        assert_eq!(case.appeal(day(17)), Err(AppealError::Twice));
        assert!(!case.is_final(day(300)), "nothing happens while nobody has decided");
        assert_eq!(case.decide(Ruling::Overturn, day(20)), Ok(()));
        assert_eq!(case.decide(Ruling::Uphold, day(21)), Err(AppealError::NoneOpen));
        assert!(!case.is_final(day(300)));
    }
}
