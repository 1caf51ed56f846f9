//! What a node says of the task that it has.

use iris_core::NodeId;
use iris_core::backend::{BackendError, Chunk, Finish};
use iris_core::task::TaskError;
use iris_crypto::PublicIdentity;
use iris_crypto::seal::{Outcome as Told, ReceiptError};
use iris_protocol::message::RefuseReason;

use super::event::TaskEvent;
use super::{Stage, TaskHandle};
use crate::dispatch::Dispatch;
use crate::link::{News, NodeLink, Receipt};

impl TaskHandle {
    pub(super) fn handle_news(&mut self, news: News) -> Option<TaskEvent> {
        let Stage::Working(work) = &mut self.stage else {
            return None;
        };
        let now = self.dispatch.clock.now();
        match news {
            News::Accepted => {
                self.run.handle_accepted(now);
                return Some(TaskEvent::Accepted { node: work.node() });
            }
            News::Progress | News::Part => self.run.handle_progress(now),
            // A node sends what it was asked for, and a whole answer once.
            News::Chunk(chunk) if self.is_out_of_place(&chunk) => self.run.handle_invalid(),
            News::Chunk(chunk) => {
                self.whole = !self.request.stream;
                self.first_chunk.get_or_insert_with(|| now - self.submitted);
                self.came = self.came.saturating_add(chunk.len() as u64);
                let passed = self.passed.add(self.request.operation, &chunk);
                self.run.handle_chunk(now, passed);
                return Some(TaskEvent::Chunk(chunk));
            }
            News::Invalid | News::Sealed(_) => self.run.handle_invalid(),
            // In all that follows the node holds the task no longer.
            News::Refused(_) => {
                self.stage = Stage::Idle;
                self.run.handle_refused();
            }
            News::Finished(..) if !self.request.stream && !self.whole => self.run.handle_invalid(),
            News::Finished(finish, _) => {
                self.stage = Stage::Idle;
                self.run.handle_finished(finish);
            }
            News::Failed(error, _) => {
                self.stage = Stage::Idle;
                self.run.handle_failed(now, error);
            }
            News::Lost => {
                self.stage = Stage::Idle;
                self.run.handle_lost();
            }
        }
        None
    }

    /// Handles what the one node does that can read the task.
    pub(super) fn handle_sealed_news(&mut self, news: News) -> Option<TaskEvent> {
        let (Stage::Working(work), Some(sealing)) = (&mut self.stage, &mut self.sealing) else {
            return None;
        };
        let (now, node) = (self.dispatch.clock.now(), work.node());
        match news {
            News::Accepted => {
                self.run.handle_accepted(now);
                return Some(TaskEvent::Accepted { node });
            }
            News::Progress => self.run.handle_progress(now),
            News::Sealed(records) => {
                if sealing.take_in(&records).is_ok() {
                    self.came = self.came.saturating_add(records.len() as u64);
                    self.run.handle_sealed();
                    return Some(TaskEvent::Sealed(records));
                }
                tracing::warn!(%node, "node sent what are no sealed records");
                self.run.handle_invalid();
            }
            News::Invalid | News::Chunk(_) | News::Part => self.run.handle_invalid(),
            // In all that follows the node holds the task no longer.
            News::Refused(reason) => {
                self.stage = Stage::Idle;
                let why = self.turned_down(node, reason);
                self.run.handle_turned_down(why);
            }
            News::Finished(Finish { usage, .. }, receipt) => {
                let receipt = receipt.as_ref().ok_or(ReceiptError::Malformed);
                let audits = audits(&self.dispatch, work.link());
                let check =
                    |r: &Receipt| sealing.check(r.as_bytes(), Told::Complete, Some(usage), audits);
                match receipt.and_then(check) {
                    Ok(receipt) => {
                        sealing.receipt = Some(receipt);
                        self.stage = Stage::Idle;
                        let reason = "stop".to_owned();
                        self.run.handle_finished(Finish { reason, usage });
                    }
                    Err(error) => self.refuse_receipt(node, &error),
                }
            }
            News::Failed(error, receipt) => {
                let audits = audits(&self.dispatch, work.link());
                let check = |r: Receipt| sealing.check(r.as_bytes(), Told::Failed, None, audits);
                match receipt.map(check).transpose() {
                    Ok(receipt) => {
                        sealing.receipt = receipt;
                        self.stage = Stage::Idle;
                        self.run.handle_failed(now, without_texts(error));
                    }
                    Err(error) => self.refuse_receipt(node, &error),
                }
            }
            News::Lost => {
                self.stage = Stage::Idle;
                self.run.handle_lost();
            }
        }
        None
    }

    /// Says why the only node turned the task down.
    fn turned_down(&self, node: NodeId, reason: RefuseReason) -> TaskError {
        let model = &self.request.model;
        match reason {
            RefuseReason::Busy => self.dispatch.node_busy(&node, model, self.request.account),
            RefuseReason::ModelNotFound => TaskError::NotOffered { model: model.to_string() },
            RefuseReason::BadRequest | RefuseReason::SealRejected => TaskError::SealRejected,
            // Where the node's current key is meant, the keys of the hop were lost.
            RefuseReason::StaleKey
                if self
                    .sealing
                    .as_ref()
                    .is_some_and(|sealing| !self.dispatch.is_current(sealing.certificate())) =>
            {
                TaskError::StaleKey
            }
            _ => TaskError::NodeOffline,
        }
    }

    fn refuse_receipt(&mut self, node: NodeId, error: &ReceiptError) {
        tracing::warn!(%node, task = %self.request.id, %error, "node's receipt is refused");
        self.run.handle_invalid();
    }

    pub(super) fn is_out_of_place(&self, chunk: &Chunk) -> bool {
        match chunk {
            Chunk::Whole(_) => self.request.stream || self.whole,
            Chunk::Text(_) | Chunk::Json(_) => !self.request.stream,
            Chunk::Finished(_) => true,
        }
    }
}

/// Returns who must have signed a receipt, if that is to be checked: the first of a session, and
/// a sample that no node can foresee.
fn audits<'a>(dispatch: &Dispatch, link: &'a NodeLink) -> Option<&'a PublicIdentity> {
    (link.is_first_audit() || dispatch.draws_audit()).then(|| link.identity())
}

/// Returns a failure without what the node says of it in words, which its caller alone may read.
fn without_texts(error: BackendError) -> BackendError {
    match error {
        BackendError::Rejected { .. } => BackendError::Rejected {
            status: 400,
            code: None,
            param: None,
            message: "the node's model server rejected the request".to_owned(),
        },
        other => other,
    }
}
