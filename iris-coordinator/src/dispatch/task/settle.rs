//! What came of a task, and who is told.

use std::time::Duration;

use iris_core::backend::{Operation, Usage};
use iris_core::task::{Attempt, Outcome};
use iris_crypto::seal::SignedReceipt;

use super::request::TaskRequest;
use super::{Books, Stage, TaskHandle};
use crate::dispatch::Exchange;
use crate::dispatch::sealing::ReceiptRecord;
use crate::settlement::Settlement;

/// Longest request and longest answer that may be compared with another node's, in bytes.
const MAX_COMPARED: usize = 16 << 10;

impl TaskHandle {
    /// Has attempts that are over count in the standing of their nodes, each of them at once.
    pub(super) fn note_attempts(&mut self) {
        if self.books == Books::Nobody {
            return;
        }
        let attempts = self.run.attempts();
        self.dispatch.note_attempts(self.request.account, &attempts[self.noted..]);
        self.noted = attempts.len();
    }

    /// Settles the task.
    pub(super) fn end(&mut self, outcome: &Outcome) {
        self.stage = Stage::Over;
        self.note_attempts();
        if let (Outcome::Finished(_), Some(node), Some(conversation)) =
            (outcome, self.asked, self.request.placement.conversation)
        {
            self.dispatch.affinity.remember(conversation, node, self.dispatch.clock.now());
        }
        match (self.apart.take(), outcome) {
            (Some(member), Outcome::Finished(_)) => member.keep(),
            (member, _) => drop(member),
        }
        let usage = match outcome {
            Outcome::Finished(finish) => {
                let asked = self.request.body.len() as u64;
                finish.usage.carried_by(asked, self.came, self.most_written())
            }
            _ => Usage::default(),
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let attempts: Vec<Attempt> = self.run.attempts().to_vec();
        let settlement = Settlement {
            task: self.request.id,
            account: self.request.account,
            key: self.request.key,
            model: self.request.model.clone(),
            state: outcome.state(),
            attempts,
            usage,
            submitted: self.submitted_at,
            first_chunk_ms: self.first_chunk.map(millis),
            took_ms: millis(self.dispatch.clock.now().saturating_duration_since(self.submitted)),
            limit_ms: millis(self.request.time_limit),
            sealed: self.sealing.is_some(),
            receipt: self.receipt().map(SignedReceipt::id),
            difficulty: self.request.routing.difficulty,
        };
        if self.books != Books::Nobody {
            self.dispatch.counters.chunks(self.run.chunks());
            self.dispatch.tell_of(&settlement, || self.exchange());
        }
        match self.books {
            Books::Nobody => {}
            Books::Journal => {
                self.dispatch.settled(&settlement);
                let receipt = self.receipt_record();
                self.dispatch.write_down(&settlement, receipt.as_ref());
            }
            Books::Caller => self.settlement = Some(settlement),
        }
    }

    /// Returns how many tokens its answer was to have at most; zero where nobody knows.
    const fn most_written(&self) -> u32 {
        match self.request.operation {
            Operation::Chat => self.request.max_tokens,
            // It may be several prompts in one, each with an answer of this length.
            Operation::Completion => 0,
            // Vectors are no text.
            Operation::Embedding => 1,
        }
    }

    /// Returns what was asked and answered, if any node might have been asked, and may yet be.
    fn exchange(&self) -> Option<Exchange> {
        let TaskRequest { operation, body, placement, .. } = &self.request;
        let is_anybodys = self.sealing.is_none() && !self.is_lapsed && placement.is_anybodys();
        if !is_anybodys || *operation != Operation::Chat || body.len() > MAX_COMPARED {
            return None;
        }
        let answer = self.passed.answer().filter(|answer| answer.len() <= MAX_COMPARED)?;
        Some(Exchange { body: body.clone(), answer })
    }

    fn receipt_record(&self) -> Option<ReceiptRecord> {
        self.sealing.as_ref()?.record(self.asked?, self.dispatch.clock.calendar())
    }
}
