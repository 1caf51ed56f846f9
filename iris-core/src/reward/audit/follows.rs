//! Whether one month goes on where another ended.

use super::Report;
use crate::epoch::Epoch;
use crate::ledger::Money;

/// Why a month does not go on where another one ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The other is not the month before; nobody can say whether it goes on.
    #[error("{before} does not come before {month}: give the books of {}", month.previous())]
    Order {
        /// The month.
        month: Epoch,
        /// The other.
        before: Epoch,
    },
    /// Other rules were in force.
    #[error("{month} was closed by the rules '{now}', but {} by '{before}'", month.previous())]
    Rules {
        /// The month.
        month: Epoch,
        /// Its rules.
        now: String,
        /// Those of the month before.
        before: String,
    },
    /// It does not begin with the points and rules that the other left.
    #[error("{month} does not begin with the state that {} ended with", month.previous())]
    State {
        /// The month.
        month: Epoch,
    },
    /// Money was lost, or made, between the months.
    #[error(
        "{} carried {left} to {month}, whose books take in {taken} from it", month.previous()
    )]
    Carried {
        /// The month.
        month: Epoch,
        /// What the month before carried to it.
        left: Money,
        /// What it took in.
        taken: Money,
    },
}

impl Report {
    /// Says whether the month goes on where `previous` ended: with its state, under its rules, and
    /// with what it carried.
    pub fn follows(&self, previous: &Self) -> Result<(), FollowError> {
        let (month, before) = (self.opening.epoch, previous.opening.epoch);
        if before.next() != month || before == month {
            return Err(FollowError::Order { month, before });
        }
        if self.opening.policy != previous.opening.policy {
            let (now, before) = (self.opening.policy.clone(), previous.opening.policy.clone());
            return Err(FollowError::Rules { month, now, before });
        }
        if !previous.outcome.state.is(&self.opening.state) {
            return Err(FollowError::State { month });
        }
        let (left, taken) = (previous.outcome.closing.carried, self.brought);
        if left != taken {
            return Err(FollowError::Carried { month, left, taken });
        }
        Ok(())
    }
}
