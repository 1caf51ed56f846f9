//! Reading a sealed answer, from its first record to the node's receipt.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use iris_core::TaskId;
use iris_core::backend::{BackendError, Finish};
use iris_core::task::TaskError;
use iris_crypto::seal::{
    AnswerError, AnswerEvent, AnswerOpener, ReceiptError, RecordKind, RecordReader, SignedReceipt,
};
use iris_protocol::openai::{ErrorBody, ErrorDetail, Refused};
use reqwest::Response;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::traffic::Turn;
use crate::client::MAX_ANSWER;
use crate::error::{Cut, causes};
use crate::head::Head;
use crate::policy::Privacy;

/// How long a receipt may come after its answer: the classes of duration that answers are filled
/// up to are a quarter longer each, and none is longer than this.
const RECEIPT_PATIENCE: Duration = Duration::from_mins(5);

/// What an answer goes on with.
pub(crate) enum Content {
    Text(String),
    Json(Bytes),
    Whole(Bytes),
    Finished(Finish),
}

/// An answer that a node has begun.
pub(crate) struct SealedAnswer {
    pub(crate) head: Head,
    pub(crate) privacy: Privacy,
    /// The client's name for the request.
    pub(crate) task: TaskId,
    /// What it begins with.
    pub(super) first: Option<Content>,
    /// Until the end of the content.
    pub(super) records: Option<Records>,
    pub(super) receipt: PendingReceipt,
}

impl SealedAnswer {
    /// Returns what comes next; nothing after [`Content::Finished`].
    pub(crate) async fn next(&mut self) -> Result<Option<Content>, Cut> {
        let content = match self.first.take() {
            Some(first) => first,
            None => match &mut self.records {
                Some(records) => records.next().await.map_err(Stop::into_cut)?,
                None => return Ok(None),
            },
        };
        if matches!(content, Content::Finished(_))
            && let Some(records) = self.records.take()
        {
            records.finish_beside();
        }
        Ok(Some(content))
    }

    /// Reads on to the end of an answer that is not streamed, and returns it.
    pub(crate) async fn whole(&mut self) -> Result<Bytes, Cut> {
        let malformed = || Cut::Malformed("it is not a whole answer".to_owned());
        let mut whole = None;
        while let Some(content) = self.next().await? {
            match content {
                Content::Whole(json) if whole.is_none() => whole = Some(json),
                Content::Finished(_) => break,
                _ => return Err(malformed()),
            }
        }
        whole.ok_or_else(malformed)
    }

    /// Returns where the receipt will be.
    pub(crate) fn receipt(&self) -> PendingReceipt {
        self.receipt.clone()
    }
}

/// Why no more content comes.
pub(super) enum Stop {
    /// The node said so, in the sealed answer.
    Failed(BackendError),
    /// What came does not open.
    Broken(AnswerError),
    /// The connection or the coordinator.
    Cut(Cut),
}

impl Stop {
    pub(super) fn into_cut(self) -> Cut {
        match self {
            Self::Failed(BackendError::Rejected { status, code, param, message }) => {
                let error = TaskError::Rejected { status, code, param, message };
                Cut::Reported(Refused::from(error).body().error)
            }
            Self::Failed(_) => Cut::Reported(Refused::from(TaskError::Interrupted).body().error),
            Self::Broken(cause) => Cut::Broken(cause),
            Self::Cut(cut) => cut,
        }
    }
}

/// The records of one answer, as they arrive.
pub(super) struct Records {
    response: Response,
    reader: RecordReader,
    opener: AnswerOpener,
    events: VecDeque<AnswerEvent>,
    /// What is wrong behind the events that wait.
    fault: Option<Stop>,
    /// What the coordinator said went wrong. It may lie, so it is only told if nothing came.
    advice: Option<ErrorDetail>,
    idle: Duration,
    /// When something came last.
    heard: Instant,
    received: usize,
    receipt: watch::Sender<ReceiptState>,
    /// The place at the node, which is kept until the receipt: so long the node's slot is filled.
    turn: Turn,
}

impl Records {
    pub(super) fn new(
        response: Response,
        opener: AnswerOpener,
        idle: Duration,
        turn: Turn,
    ) -> (Self, PendingReceipt) {
        let (receipt, state) = watch::channel(ReceiptState::Pending);
        let records = Self {
            response,
            reader: RecordReader::new(),
            opener,
            events: VecDeque::new(),
            fault: None,
            advice: None,
            idle,
            heard: Instant::now(),
            received: 0,
            receipt,
            turn,
        };
        (records, PendingReceipt(Some(state)))
    }

    pub(super) async fn next(&mut self) -> Result<Content, Stop> {
        loop {
            while let Some(event) = self.events.pop_front() {
                return match event {
                    AnswerEvent::Text(text) => Ok(Content::Text(text)),
                    AnswerEvent::Json(json) => Ok(Content::Json(json.into())),
                    AnswerEvent::Whole(json) => Ok(Content::Whole(json.into())),
                    AnswerEvent::Finished(finish) => Ok(Content::Finished(finish)),
                    AnswerEvent::Failed(error) => Err(Stop::Failed(error)),
                    AnswerEvent::Opened | AnswerEvent::Receipt(_) => continue,
                };
            }
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            self.read().await?;
        }
    }

    /// Reads the next piece from the connection, and opens the records that it completes.
    async fn read(&mut self) -> Result<(), Stop> {
        // Whoever polls now and then, and gives up in between, must not begin the wait anew.
        let piece = timeout_at(self.heard + self.idle, self.response.chunk())
            .await
            .map_err(|_| Stop::Cut(Cut::Silent(self.idle)))?
            .map_err(|error| Stop::Cut(Cut::Connection(causes(&error))))?;
        let Some(piece) = piece else {
            return Err(match self.advice.take() {
                Some(advice) => Stop::Cut(Cut::Reported(advice)),
                None => Stop::Cut(Cut::Ended),
            });
        };
        self.heard = Instant::now();
        self.received = self.received.saturating_add(piece.len());
        if self.received > 2 * MAX_ANSWER {
            return Err(Stop::Cut(Cut::TooLarge));
        }
        self.reader.push(&piece);
        loop {
            let record = match self.reader.pop() {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(()),
                Err(_) => return self.break_off(Stop::Cut(Cut::TooLarge)),
            };
            if record.kind == RecordKind::Failure {
                let advice = serde_json::from_slice::<ErrorBody>(&record.payload);
                self.advice = advice.ok().map(|body| body.error);
            }
            match self.opener.handle_record(&record) {
                Ok(events) => self.take(events),
                // What came before stays a part of the answer.
                Err(cause) if cause.is_about_receipt() => {
                    self.disputed(cause);
                    return Ok(());
                }
                Err(cause) => return self.break_off(Stop::Broken(cause)),
            }
        }
    }

    /// Ends the answer behind what came before in the same piece.
    fn break_off(&mut self, fault: Stop) -> Result<(), Stop> {
        if self.events.is_empty() {
            return Err(fault);
        }
        self.fault = Some(fault);
        Ok(())
    }

    fn take(&mut self, events: Vec<AnswerEvent>) {
        for event in events {
            if let AnswerEvent::Receipt(receipt) = &event {
                self.receipt.send_replace(ReceiptState::Held(receipt.clone()));
            }
            self.events.push_back(event);
        }
    }

    fn disputed(&self, cause: AnswerError) {
        self.receipt.send_replace(match cause {
            AnswerError::ReceiptDisputed(cause) => ReceiptState::Disputed(cause),
            _ => ReceiptState::Missing,
        });
    }

    fn is_over(&self) -> bool {
        !matches!(*self.receipt.borrow(), ReceiptState::Pending)
    }

    /// Reads on until the receipt, while the caller goes on with the answer.
    ///
    /// Leaving now would take the receipt from the coordinator too, and tell everybody on the way
    /// when the answer really ended.
    fn finish_beside(mut self) {
        self.turn.answered();
        if self.fault.is_some() {
            self.disputed(AnswerError::ReceiptMissing);
        }
        if self.is_over() {
            return;
        }
        tokio::spawn(async move {
            let deadline = Instant::now() + RECEIPT_PATIENCE;
            while !self.is_over() {
                let read = timeout_at(deadline, self.read()).await;
                if !matches!(read, Ok(Ok(()))) {
                    break;
                }
            }
            self.receipt.send_if_modified(|state| {
                let missing = matches!(state, ReceiptState::Pending);
                if missing {
                    *state = ReceiptState::Missing;
                }
                missing
            });
        });
    }
}

#[derive(Clone, Debug)]
enum ReceiptState {
    Pending,
    Held(Box<SignedReceipt>),
    Missing,
    Disputed(ReceiptError),
}

/// The receipt that a node signs for a sealed answer; it comes a little after the answer's end.
#[derive(Clone, Debug)]
pub struct PendingReceipt(Option<watch::Receiver<ReceiptState>>);

/// Why there is no receipt for an answer. The answer itself is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoReceipt {
    /// Requests that the coordinator reads have none.
    #[error("open requests have no receipt")]
    Open,
    /// It did not come.
    #[error("the node's receipt did not come")]
    Missing,
    /// What came is not a receipt for this answer. Whoever is billed by it should object.
    #[error("the node's receipt is disputed: {0}")]
    Disputed(ReceiptError),
}

impl PendingReceipt {
    /// That of an answer that has none.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Waits for the receipt, which comes up to a quarter of the answer's duration after its end.
    ///
    /// While the answer itself is not read to its end, nothing comes.
    pub async fn wait(&self) -> Result<SignedReceipt, NoReceipt> {
        let mut state = self.0.clone().ok_or(NoReceipt::Open)?;
        let state = state.wait_for(|state| !matches!(state, ReceiptState::Pending)).await;
        match state.map_err(|_| NoReceipt::Missing)?.clone() {
            ReceiptState::Held(receipt) => Ok(*receipt),
            ReceiptState::Disputed(cause) => Err(NoReceipt::Disputed(cause)),
            ReceiptState::Missing | ReceiptState::Pending => Err(NoReceipt::Missing),
        }
    }
}
