//! What is written down when a task is over, and what nodes earn by it.

use std::time::Duration;

use iris_core::backend::Usage;
use iris_core::demand::Difficulty;
use iris_core::id::ReceiptId;
use iris_core::reputation::{Deed, ReputationEvent};
use iris_core::store::{Batch, Document, Key};
use iris_core::task::{Attempt, TaskState};
use iris_core::{AccountId, ModelName, TaskId, Timestamp};
use iris_protocol::rest::KeyId;
use serde::{Deserialize, Serialize};

/// The record type of settlements.
pub(crate) const SETTLEMENT: &str = "settlement";

/// One row for each task: who asked, who worked, what it took. No content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The task. The record's id follows from it and from `submitted`, so that settling twice
    /// changes nothing.
    pub task: TaskId,
    /// Who asked.
    pub account: AccountId,
    /// The key it asked with, if any, by its [`meter`](crate::ApiKey::meter).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// The model that was asked for.
    pub model: ModelName,
    /// How it ended.
    pub state: TaskState,
    /// Which nodes tried, in order, and how that ended.
    pub attempts: Vec<Attempt>,
    /// Tokens read and written, as far as so many [can have been](Usage::carried_by); zero unless
    /// the answer is complete.
    pub usage: Usage,
    /// When it was submitted.
    pub submitted: Timestamp,
    /// Milliseconds from submission to the first chunk, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_chunk_ms: Option<u64>,
    /// Milliseconds from submission to the end.
    pub took_ms: u64,
    /// Milliseconds the task was given.
    pub limit_ms: u64,
    /// Whether only the caller and the node could read it. Its usage then is rounded up to
    /// multiples of 64, and its node's receipt is kept beside the row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// Names that receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<ReceiptId>,
    /// How hard it was found, where the caller named no model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<Difficulty>,
}

impl Settlement {
    /// Returns the key under which the settlement is kept: the task's, after the time it was
    /// submitted, so that rows are written where the last ones were.
    pub(crate) fn key(&self) -> Key {
        Self::key_of(self.submitted, &self.task)
    }

    /// Returns the key of the settlement of a task that was submitted then.
    pub(crate) fn key_of(submitted: Timestamp, task: &TaskId) -> Key {
        let id = format!("{:013}-{task}", submitted.as_millis());
        Key::new(SETTLEMENT, id).expect("a number and a task id are a key segment")
    }

    /// Returns when the task of a row's key was submitted.
    pub(crate) fn submitted_of(key: &Key) -> Option<Timestamp> {
        key.id().split('-').next()?.parse().ok().map(Timestamp::from_millis)
    }

    /// Adds the row to `batch`. A coordinator that is at work shows it in its account's history
    /// where it wrote it itself; any other is found when the next one starts.
    pub fn write(&self, batch: Batch) -> Batch {
        batch.put(self.key(), Document::encode(self))
    }

    /// Returns when the task ended.
    pub(crate) fn ended(&self) -> Timestamp {
        self.submitted.saturating_add(Duration::from_millis(self.took_ms))
    }

    /// Returns the time that the task had: by its difficulty, where it was found to have one.
    pub(crate) fn limit(&self) -> Duration {
        self.difficulty.map_or(Duration::from_millis(self.limit_ms), Difficulty::time_limit)
    }

    /// Returns what the nodes earned or lost, as it follows from the row alone.
    pub fn deeds(&self) -> impl Iterator<Item = ReputationEvent> + '_ {
        let at = self.ended();
        let took = Duration::from_millis(self.took_ms);
        let fast = Deed::is_fast(took, self.limit(), self.usage.completion_tokens);
        self.attempts.iter().flat_map(move |attempt| {
            let event = move |deed| ReputationEvent { node: attempt.node, deed, at };
            Deed::of(attempt.end, fast).map(event)
        })
    }
}

#[cfg(test)]
mod tests {
    use iris_core::task::AttemptEnd;

    use super::*;

    fn deeds(end: AttemptEnd, took_ms: u64) -> Vec<Deed> {
        let settlement = Settlement {
            task: TaskId::from_bytes([1; 16]),
            account: AccountId::from_bytes([2; 16]),
            key: None,
            model: "m".parse().unwrap(),
            state: TaskState::Finished,
            attempts: vec![Attempt { node: "a".repeat(26).parse().unwrap(), end }],
            usage: Usage { prompt_tokens: 9, completion_tokens: 290 },
            submitted: Timestamp::from_millis(0),
            first_chunk_ms: None,
            took_ms,
            limit_ms: 60_000,
            sealed: false,
            receipt: None,
            difficulty: None,
        };
        settlement.deeds().map(|event| event.deed).collect()
    }

    #[test]
    fn half_the_limit_divides_fast_from_done() {
        assert_eq!(deeds(AttemptEnd::Done, 29_999), [Deed::Completed, Deed::Fast]);
        assert_eq!(deeds(AttemptEnd::Done, 30_000), [Deed::Completed]);
    }

    #[test]
    fn ten_tokens_a_second_are_fast_and_fewer_are_not() {
        let fast = |written| Deed::is_fast(Duration::from_secs(2), Duration::from_mins(1), written);
        assert!(fast(10) && !fast(9));
    }

    #[test]
    fn callers_fault_and_refusals_cost_a_node_nothing() {
        for end in [AttemptEnd::CallersFault, AttemptEnd::Stopped, AttemptEnd::Refused] {
            assert_eq!(deeds(end, 1), []);
        }
        assert_eq!(deeds(AttemptEnd::Lost, 1), [Deed::Timeout]);
        assert_eq!(deeds(AttemptEnd::Unanswered, 1), [Deed::Timeout]);
        assert_eq!(deeds(AttemptEnd::Invalid, 1), [Deed::Invalid]);
    }
}
