//! The second node of a task whose first one is slow to begin.

use std::task::{Context, Poll};

use iris_core::explain::Explanation;
use iris_core::task::AttemptEnd;

use super::{Stage, TaskEvent, TaskHandle};
use crate::link::{News, Work};

/// A second node that was asked, and why this one.
#[derive(Debug)]
pub(super) struct Rival {
    work: Work,
    explanation: Explanation,
}

impl TaskHandle {
    /// Offers the task to a second node, if one is free that nobody waits for.
    pub(super) fn hedge(&mut self) {
        // Tasks of one group have owners of their own, which a race would take two of.
        if self.apart.is_some() {
            return;
        }
        self.request.placement.restrict(&mut self.demand, self.run.tried());
        let owners = self.dispatch.admittance.owners(&self.name);
        (self.demand.barred, self.demand.invited) = owners;
        let Some(mut lease) = self.dispatch.acquire_spare(&self.demand) else { return };
        let now = self.dispatch.clock.now();
        let explanation = self.explained(&mut lease);
        let (node, left) = (lease.node, self.time_left(now));
        let caller = self.dispatch.admittance.tag(&lease.link.owner, self.name);
        if let Some(work) = Work::offer(lease, &self.request, caller, false, None, left) {
            self.rival = Some(Rival { work, explanation });
            self.run.handle_rival_offered(now, node);
        }
    }

    pub(super) fn abandon_rival(&mut self) {
        if let Some(rival) = self.rival.take() {
            rival.work.cancel();
        }
    }

    /// Goes on with the second node alone, the first one being over.
    pub(super) fn promote(&mut self) -> Option<TaskEvent> {
        let Rival { work, explanation } = self.rival.take()?;
        self.dispatch.explain(self.request.id, self.request.account, explanation);
        let node = work.node();
        (self.asked, self.whole) = (Some(node), false);
        self.stage = Stage::Working(work);
        self.run.is_accepted().then_some(TaskEvent::Accepted { node })
    }

    /// Polls for what the second node does; `Ready(None)` when there may be an action to take.
    pub(super) fn poll_rival(&mut self, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        let Some(rival) = &mut self.rival else { return Poll::Pending };
        rival.work.poll_news(cx).map(|news| self.handle_rival_news(news))
    }

    fn handle_rival_news(&mut self, news: News) -> Option<TaskEvent> {
        let now = self.dispatch.clock.now();
        match news {
            News::Accepted => self.run.handle_rival_accepted(now),
            News::Progress | News::Part => self.run.handle_rival_progress(now),
            News::Chunk(chunk) if self.is_out_of_place(&chunk) => self.disqualify(),
            News::Finished(..) if !self.request.stream => self.disqualify(),
            news @ (News::Chunk(_) | News::Finished(..)) => return self.win(news),
            News::Invalid | News::Sealed(_) => self.disqualify(),
            // In all that follows the node holds the task no longer.
            News::Refused(_) => self.lose(AttemptEnd::Refused),
            News::Failed(error, _) => self.lose(error.into()),
            News::Lost => self.lose(AttemptEnd::Lost),
        }
        None
    }

    /// Goes on with the second node, which was the first to say something.
    fn win(&mut self, news: News) -> Option<TaskEvent> {
        if !self.run.handle_rival_won() {
            self.disqualify();
            return None;
        }
        self.abandon();
        self.won = Some(news);
        self.promote()
    }

    /// Stops a second node that sent something it must not send.
    fn disqualify(&mut self) {
        self.abandon_rival();
        self.run.handle_rival_gone(AttemptEnd::Invalid);
    }

    fn lose(&mut self, end: AttemptEnd) {
        self.rival = None;
        self.run.handle_rival_gone(end);
    }
}
