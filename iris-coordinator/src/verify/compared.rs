//! Tasks that a second node is given too.
//!
//! Only what any node might have been asked, by somebody whom the coordinator can read, and where the
//! operator allows it. Of such a task nothing is kept but what lies here until it was compared.

use std::time::Duration;

use bytes::Bytes;
use iris_core::verify::{Audit, AuditId, AuditResult};
use iris_protocol::openai::RepeatableChat;
use serde_json::Value;
use tokio::time::Instant;

use super::asking::Question;
use super::{PATIENCE, Verification};
use crate::accounts::NETWORK;
use crate::dispatch::Exchange;

/// A chat at temperature zero, and what its node answered.
pub(super) struct Compared {
    body: Bytes,
    messages: Vec<Value>,
    answer: String,
}

impl Compared {
    /// Reads what was asked and answered; `None` where another node may rightly answer another
    /// thing, or the answer is not all text.
    pub(super) fn read(exchange: Exchange) -> Option<Self> {
        let Exchange { body, answer } = exchange;
        let messages = RepeatableChat::read(&body).ok()?.into_messages();
        (!answer.is_empty()).then_some(Self { body, messages, answer })
    }
}

impl Verification {
    /// Gives what a node has answered to one of another owner too, and has the answer scored where
    /// that one answers another thing.
    pub(super) async fn compare(&self, audit: &Audit, compared: &Compared) -> AuditResult {
        let AuditId { node, model, .. } = &audit.id;
        let others = self.dispatch.offers_of_others(node, model);
        let place = usize::try_from(self.draw(0..others.len() as u64)).unwrap_or_default();
        if let Some(other) = others.get(place) {
            let until = Instant::now() + Duration::from_millis(self.draw(PATIENCE));
            let body = compared.body.clone();
            let question = Question { body, model, node: *other, name: NETWORK, until };
            let again = self.ask_open(&question).await;
            if again.is_ok_and(|again| again.trim() == compared.answer.trim()) {
                return AuditResult::Agreed;
            }
        }
        let messages = compared.messages.clone();
        self.scored(messages, model, &compared.answer, audit.reference.node).await
    }
}
