//! Asking a node how hard a question is.

use std::sync::Arc;
use std::time::Duration;

use iris_core::AssignmentId;
use iris_core::classify::ClassifyError;
use iris_core::demand::Difficulty;
use iris_protocol::message::ClassifyAssign;
use tokio::sync::mpsc;

use super::work::seal_body;
use super::{Command, Inquire, NodeLink, Report};
use crate::dispatch::Lease;

/// A question that a node was asked; dropping it takes it back.
#[derive(Debug)]
pub(crate) struct Inquiry {
    link: Arc<NodeLink>,
    assignment: AssignmentId,
    reports: mpsc::Receiver<Report>,
}

impl Inquiry {
    /// Asks the node of `lease`; `None` when its session has ended.
    pub(crate) fn new(lease: Lease, question: &str, time_left: Duration) -> Option<Self> {
        let link = Arc::clone(&lease.link);
        // A single report ends it.
        let (report, reports) = mpsc::channel(1);
        let mut keys = link.keys();
        let assignment = AssignmentId(keys.next);
        keys.next += 1;
        let channel = keys.root.channel(assignment.0).ok()?;
        let body = seal_body(channel.sealer, assignment, question.as_bytes()).ok()?;
        let length = super::work::payload(&body);
        let question = ClassifyAssign {
            assignment,
            time_left_ms: u64::try_from(time_left.as_millis()).unwrap_or(u64::MAX),
            hop_epoch: keys.epoch,
            body_bytes: u32::try_from(length).ok()?,
        };
        let inquire = Inquire { question, body, report, lease };
        // Where the session has ended, the lease returns with the command and ends here.
        let sent = link.commands.send(Command::Inquire(Box::new(inquire)));
        drop(keys);
        sent.ok()?;
        Some(Self { link, assignment, reports })
    }

    /// Waits for what the node says.
    pub(crate) async fn answer(mut self) -> Result<Difficulty, ClassifyError> {
        match self.reports.recv().await {
            Some(Report::Classified(difficulty)) => Ok(difficulty),
            Some(Report::Failed(..)) => Err(ClassifyError::Malformed),
            _ => Err(ClassifyError::Unavailable),
        }
    }
}

impl Drop for Inquiry {
    fn drop(&mut self) {
        // What has ended already is taken back for nothing.
        let _ = self.link.commands.send(Command::Cancel { assignment: self.assignment });
    }
}
