use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use iris_core::plan::{Decision, Driven, PlanRun, Progress, UnitReport, drive};

use super::worker::ClientWorker;
use super::{PlanAnswer, conclude};
use crate::client::Client;
use crate::error::ClientError;

/// The progress of a plan that is carried out here.
///
/// The plan goes on while this is polled, and no further ahead than by what one poll brings:
/// whoever reads slowly slows the plan, and nothing piles up. Dropping it gives the plan up, and
/// with it all that is under way.
///
/// The last item is [`Progress::Ended`]; [`finish`](Self::finish) then has the answer. A plan that
/// ends as cancelled although nobody gave it up has met a failure that no step can get past, such
/// as a coordinator that is not to be trusted: `finish` tells which.
pub struct PlanStream {
    worker: Arc<ClientWorker>,
    state: State,
}

enum State {
    Going(BoxFuture<'static, Result<PlanAnswer, ClientError>>),
    Over(Result<PlanAnswer, ClientError>),
    Taken,
}

impl PlanStream {
    pub(super) fn new(run: PlanRun, client: Client, spread: bool) -> Self {
        let worker = Arc::new(ClientWorker::new(client, spread));
        let doer = Arc::clone(&worker);
        let going = async move {
            match drive(run, &*doer).await {
                Driven::Over { end, run } => conclude(end, &run, &doer),
                Driven::Suspended => unreachable!("this worker writes nothing down"),
            }
        };
        Self { worker, state: State::Going(going.boxed()) }
    }

    /// Decides a review that [`Progress::Waiting`] told of. A decision that does not fit it is
    /// passed over, and the plan goes on waiting.
    pub fn decide(&self, decision: Decision) {
        self.worker.decide(decision);
    }

    /// Returns the parts of the plan as they stood when [`Progress::Waiting`] came last, with the
    /// outputs that are to be decided on.
    pub fn laid_out(&self) -> Vec<UnitReport> {
        self.worker.laid_out()
    }

    /// Returns what resolves when the nodes' receipts for all that was answered have come, or will
    /// not come any more.
    ///
    /// They come up to a quarter of an answer's duration after it. A program that ends before tells
    /// everybody on the way when the last answer really ended.
    pub fn receipts(&self) -> impl Future<Output = ()> + Send + use<> {
        let traffic = self.worker.traffic();
        async move { traffic.idle().await }
    }

    /// Carries the plan to its end and returns its answer.
    pub async fn finish(mut self) -> Result<PlanAnswer, ClientError> {
        while self.next().await.is_some() {}
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Over(done) => done,
            State::Going(_) | State::Taken => unreachable!("the stream has ended"),
        }
    }
}

impl Stream for PlanStream {
    type Item = Progress;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        loop {
            if let Some(progress) = self.worker.pop_told() {
                return Poll::Ready(Some(progress));
            }
            let State::Going(going) = &mut self.state else { return Poll::Ready(None) };
            match going.poll_unpin(cx) {
                Poll::Ready(done) => self.state = State::Over(done),
                // What this poll brought has to be passed on now.
                Poll::Pending => {
                    let told = self.worker.pop_told();
                    return if told.is_some() { Poll::Ready(told) } else { Poll::Pending };
                }
            }
        }
    }
}

impl fmt::Debug for PlanStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_over = !matches!(self.state, State::Going(_));
        f.debug_struct("PlanStream").field("is_over", &is_over).finish_non_exhaustive()
    }
}
