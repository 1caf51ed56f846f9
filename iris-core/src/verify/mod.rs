//! Whether nodes run what they say they run.
//!
//! An [`Auditor`] decides which node is checked when. A **canary** is a request like any other,
//! asked once and at temperature zero; a **duplicate** is a task that another owner's node is given
//! too. Where something has to be decided, a **reference**, a node that the operator trusts, says of
//! each token of an answer whether it would have written it. A new node answers fifty canaries
//! within seven days before it is paid; then one task in twenty is accompanied by a canary, after
//! thirty days one in fifty, and at least one each day that it works and one each week that it does
//! not.
//!
//! # From a suspicion to a verdict
//!
//! The first test ([`Sequential`]) runs over all answers that one owner's references score. It
//! suspects an honest node in fewer than one of ten thousand tests, and a node has some hundreds of
//! tests in a year: a suspicion alone means little, and nothing follows from it but a second test.
//! That one has fresh prompts, a reference of another owner where there is one, and an error bound
//! of its own. Only if it too finds the node lying is there a [`Verdict`], which shows its evidence,
//! binds to the prompts that were asked, and can be appealed against for seven days.
//!
//! # How many honest nodes are ever accused
//!
//! Let `e` be the error bounds of a node's second tests, in the order in which they start. Given
//! all that happened before, a second test finds an honest node lying with a probability of at most
//! its `e`. So the expected number of false verdicts in a year is at most the sum of these `e`, and
//! [`ErrorBudget`] keeps that sum at or below 500 millionths within any 365 days:
//!
//! ```text
//! false verdicts per node and year <= sum of e <= 0.0005      goal: fewer than 1 in 1,000
//! ```
//!
//! This holds however often the node is suspected, and even if the suspicion was made up by a lying
//! reference. When nobody lies, a second test starts at all in fewer than one of ten thousand first
//! tests: for a node that differs in 2 % of its tokens, the worst that still counts as honest, at
//! 500 tests a year, `500 * 6.8e-5 * 1e-4 = 3e-6` verdicts; for one that differs in 1 %, far less.
//! The usual bound is 100 millionths; a test takes less where little is left, and none starts
//! where nothing is.
//!
//! # Who does not answer
//!
//! No answer is no lie, and is never counted as one: honest nodes have bad lines. Neither does it
//! vouch for anything. Ten canaries in a row that a node was asked and left unanswered
//! ([`Outcome::Unanswered`]) are told, and its work with that model is unpaid until it passes one. So
//! is that of a node which has passed none for two weeks, for whatever reason ([`Lapse`]).
//!
//! # What this does not do
//!
//! - The bounds are those of a node that differs in at most 2 % of tokens *wherever* it is looked
//!   at. Whether that holds for an engine and a quantisation has to be measured on honest nodes.
//! - A quantisation to six bits differs in some 4 % of tokens: it may or may not be suspected.
//! - A node that tells canaries from other requests wins. Prompts are never asked twice, but the
//!   built-in [`Phrases`] are public, and a node may be honest at temperature zero alone. Duplicates
//!   and callers' own checks are what is left then.
//! - A node that passes requests on to somebody who runs the right model passes every check.
//! - One owner's references that lie together with another owner's can convict.

mod audit;
mod auditor;
mod budget;
mod canary;
mod confirmation;
mod flags;
mod logarithm;
mod phrases;
mod record;
mod schedule;
mod seed;
mod sequential;
#[cfg(test)]
mod stories;
mod verdict;

pub use audit::{Audit, AuditId, AuditResult, Check, Outcome, Reference, Traffic, UnknownAudit};
pub use auditor::Auditor;
pub use budget::ErrorBudget;
pub use canary::{Canary, Hand};
pub use flags::{Answer, Flag, Flags};
pub use phrases::{Phrases, PhrasesError};
pub use record::NodeRecord;
pub use schedule::{Lapse, Rules, Stage};
pub use seed::{Commitment, Seed};
pub use sequential::{Finding, Scored, Sequential, SequentialError, Trial};
pub use verdict::{Appeal, AppealError, Case, Conviction, Evidence, Offence, Ruling, Verdict};

#[cfg(test)]
mod tests {
    /// Splitmix64: chance for tests.
    pub(super) struct Dice(pub(super) u64);

    impl Dice {
        pub(super) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        /// Returns true `chance` times in a million.
        pub(super) fn happens(&mut self, chance: u32) -> bool {
            (u128::from(self.next()) * 1_000_000) >> 64 < u128::from(chance)
        }
    }
}
