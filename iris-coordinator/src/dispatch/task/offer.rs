//! Finding a node for a task, and offering it the task.

use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_core::backend::Begun;
use iris_core::explain::{Explanation, Reason};
use iris_core::queue::Priority;
use iris_core::task::TaskError;

use super::request::TaskRequest;
use super::{Books, Stage, TaskHandle};
use crate::dispatch::{Acquired, Asker, Lease, Ticketed};
use crate::link::{Work, fits};

impl TaskHandle {
    pub(super) fn choose(&mut self, begun: Option<Begun>) {
        let written = begun.as_ref().map_or(0, |begun| begun.text.len());
        if !fits(self.request.body.len() + written) {
            return self.run.handle_no_node(too_large());
        }
        if let Some(sealing) = &self.sealing {
            let owners = self.dispatch.admittance.owners(&self.name);
            (self.demand.barred, self.demand.invited) = owners;
            let (certificate, account) = (sealing.certificate(), self.request.account);
            return match self.dispatch.acquire_named(certificate, &self.demand, account) {
                Ok(lease) => self.start(lease),
                Err(error) => self.turn_away(error),
            };
        }
        if begun != self.begun {
            self.demand = self.request.demand(begun.as_ref(), self.is_lapsed);
            self.begun = begun;
        }
        self.request.placement.restrict(&mut self.demand, self.run.tried());
        loop {
            let mut owners = 0;
            if let Some(member) = &mut self.apart {
                let room = member.ask();
                (self.demand.not_of, owners) = (room.taken, room.ahead + 1);
            }
            let TaskRequest { id: task, account, priority, .. } = self.request;
            let begun = !self.run.attempts().is_empty();
            let (name, since) = (self.name, self.waiting);
            let asker = Asker { task, account, name, priority, begun, since, owners };
            match self.dispatch.acquire(&mut self.demand, asker) {
                Acquired::Now(lease) if self.claim(&lease) => self.start(lease),
                // Another task of the group was faster.
                Acquired::Now(_) => continue,
                Acquired::Later(ticketed) => self.wait(ticketed),
                Acquired::Never(error) => self.turn_away(error),
            }
            return;
        }
    }

    /// Ends a task for which there is no node.
    fn turn_away(&mut self, why: TaskError) {
        let lacks_node = matches!(why, TaskError::NoNodeAble { .. } | TaskError::NodeOffline);
        let why = if self.is_lapsed && lacks_node { TaskError::MembershipLapsed } else { why };
        self.run.handle_no_node(why);
    }

    /// Stands in line.
    fn wait(&mut self, ticketed: Ticketed) {
        let now = self.dispatch.clock.now();
        let since = *self.waiting.get_or_insert(now);
        // Nobody waits in front of any other task; its deadline is all that ends its wait.
        let is_interactive = self.request.priority == Priority::Interactive;
        let until = is_interactive.then(|| since + self.dispatch.settings.admission.longest);
        self.stage = Stage::Waiting { ticketed, until };
    }

    /// Claims the owner of a node for this task alone, where that matters.
    pub(super) fn claim(&mut self, lease: &Lease) -> bool {
        self.apart.as_mut().is_none_or(|member| member.claim(lease.link.owner))
    }

    /// Offers the task to the node of `lease`.
    pub(super) fn start(&mut self, mut lease: Lease) {
        let now = self.dispatch.clock.now();
        let why = self.sealing.is_none().then(|| self.explained(&mut lease));
        let TaskRequest { id, account, model, .. } = &self.request;
        self.dispatch.live.assigned(*account, *id, model, lease.node, why.as_ref());
        if let Some(explanation) = why {
            self.dispatch.explain(*id, *account, explanation);
        }
        self.waiting = None;
        self.run.handle_offered(now, lease.node);
        (self.asked, self.whole) = (Some(lease.node), false);
        let left = self.time_left(now);
        let sealed = self.sealing.is_some();
        if self.books != Books::Nobody {
            self.dispatch.admittance.see(self.name);
        }
        let caller = self.dispatch.admittance.tag(&lease.link.owner, self.name);
        let begun = self.begun.as_ref();
        if let Some(work) = Work::offer(lease, &self.request, caller, sealed, begun, left) {
            self.stage = Stage::Working(work);
        } else {
            self.stage = Stage::Idle;
            self.run.handle_lost();
        }
        if sealed {
            // Nobody is offered it a second time.
            self.request.body = Bytes::new();
        }
    }

    /// Takes from a lease why its node was chosen, and adds what routing knows of that.
    pub(super) fn explained(&self, lease: &mut Lease) -> Explanation {
        let mut explanation = std::mem::take(&mut lease.explanation);
        if self.request.routing.tier_lowered {
            let compared = &mut explanation.compared;
            if compared.len() == Explanation::MAX_COMPARED {
                let other = compared.iter().rposition(|(node, _)| *node != lease.node);
                compared.remove(other.unwrap_or_default());
            }
            compared.push((lease.node, Reason::TierLowered));
        }
        explanation
    }

    pub(super) fn time_left(&self, now: Instant) -> Duration {
        self.request.time_limit.saturating_sub(now - self.submitted)
    }
}

fn too_large() -> TaskError {
    TaskError::Rejected {
        status: 413,
        code: Some("request_too_large".to_owned()),
        param: None,
        message: "a request has 1 byte to 32 MiB, less what sealing adds".to_owned(),
    }
}
