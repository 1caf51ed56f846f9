//! Whether nodes run what they say they run.

mod audit;
mod auditor;
mod budget;
mod canary;
mod confirmation;
mod logarithm;
mod phrases;
mod record;
mod schedule;
mod seed;
mod sequential;
mod verdict;

pub use audit::{Audit, AuditId, AuditResult, Check, Outcome, Reference, Traffic, UnknownAudit};
pub use auditor::Auditor;
pub use budget::ErrorBudget;
pub use canary::Canary;
pub use phrases::{Phrases, PhrasesError};
pub use record::NodeRecord;
pub use schedule::{Rules, Stage};
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
