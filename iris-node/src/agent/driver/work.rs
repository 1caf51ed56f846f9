//! What the driver does with assignments.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use iris_core::AssignmentId;
use iris_core::backend::{GenerateRequest, Operation};
use iris_core::model::Abilities;
use iris_protocol::connection::SendError;
use iris_protocol::frame::{DataFrame, Part};
use iris_protocol::message::{ClassifyAssign, RefuseReason, TaskAssign};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::{Driver, HOLD, LONGEST_TASK};
use crate::agent::AskedTask;
use crate::agent::assignment::{Assignment, Opened, Prompt, Running, Stage};
use crate::agent::classify::{Judge, LONGEST, MAX_QUESTION};
use crate::agent::sealed::{self, SealedAnswer};
use crate::agent::work_log::{Ongoing, Privacy, Work};
use crate::agent::worker::{CREDIT, Outlet, Output, Run, Worker};
use crate::slots::Slot;

impl Driver {
    /// Keeps a place for a task, or refuses it before its prompt has arrived.
    pub(super) fn assigned(&mut self, task: TaskAssign) -> Result<(), SendError> {
        let assignment = task.assignment;
        let slot = match self.admit(&task) {
            Ok(slot) => slot,
            Err(reason) => {
                debug!(%assignment, ?reason, "refused");
                return self.connection.refuse(assignment, reason);
            }
        };
        let channels = self.sealing.channels(task.hop_epoch, assignment);
        if channels.is_empty() {
            return self.connection.refuse(assignment, RefuseReason::StaleKey);
        }
        self.core.asked.note(AskedTask {
            task: task.task,
            caller: task.caller,
            model: task.model.clone(),
            at: (self.core.clock)(),
        });
        let time_left = Duration::from_millis(task.time_left_ms).min(LONGEST_TASK);
        let prompt = Prompt::new(task, Instant::now() + time_left, channels);
        let held = Assignment { stage: Stage::Receiving(Box::new(prompt)), slot: Some(slot) };
        self.assignments.insert(assignment, held);
        Ok(())
    }

    /// Keeps a place for a question of which the difficulty is wanted, or refuses it.
    pub(super) fn questioned(&mut self, question: ClassifyAssign) -> Result<(), SendError> {
        let assignment = question.assignment;
        let slot = self.slots.take().filter(|_| self.drain_until.is_none());
        let Some(slot) = slot else {
            return self.connection.refuse(assignment, RefuseReason::Busy);
        };
        if question.body_bytes as usize > MAX_QUESTION {
            return self.connection.refuse(assignment, RefuseReason::BadRequest);
        }
        let channels = self.sealing.channels(question.hop_epoch, assignment);
        if channels.is_empty() {
            return self.connection.refuse(assignment, RefuseReason::StaleKey);
        }
        let time_left = Duration::from_millis(question.time_left_ms).min(LONGEST);
        let prompt = Prompt::new(question, Instant::now() + time_left, channels);
        let held = Assignment { stage: Stage::Hearing(Box::new(prompt)), slot: Some(slot) };
        self.assignments.insert(assignment, held);
        Ok(())
    }

    /// Asks a model how hard a question is that is complete.
    fn judge(&mut self, assignment: AssignmentId) -> Result<(), SendError> {
        let Some(Assignment { stage: Stage::Hearing(prompt), slot }) =
            self.assignments.remove(&assignment)
        else {
            return Ok(());
        };
        let Some((model, backend)) = self.core.catalogue.judge() else {
            return self.connection.refuse(assignment, RefuseReason::ModelNotFound);
        };
        self.runs += 1;
        let (run, deadline) = (Run(self.runs), prompt.deadline);
        debug!(%assignment, %model, "classifying");
        let signals = self.sender.clone();
        let judge = Judge { assignment, run, signals, backend, model, deadline };
        let worker = tokio::spawn(judge.run(prompt.into_body()));
        let running = Running {
            run,
            waiting: VecDeque::new(),
            credit: Arc::new(Semaphore::new(CREDIT)),
            ongoing: None,
            _worker: AbortOnDropHandle::new(worker),
        };
        let held = Assignment { stage: Stage::Running(running), slot };
        self.assignments.insert(assignment, held);
        Ok(())
    }

    fn admit(&self, task: &TaskAssign) -> Result<Slot, RefuseReason> {
        if self.drain_until.is_some() {
            return Err(RefuseReason::Draining);
        }
        let conduct = self.core.conduct.borrow();
        if conduct.terms.rest.is_some() {
            return Err(RefuseReason::Paused);
        }
        if task.caller.is_some_and(|caller| conduct.blocked.contains(&caller)) {
            return Err(RefuseReason::CallerBlocked);
        }
        drop(conduct);
        let needs = match task.operation {
            Operation::Embedding => Abilities::EMBEDDINGS,
            _ if task.begun.is_some() => Abilities::CONTINUE,
            _ => Abilities::NONE,
        };
        if !self.core.catalogue.offers_model(&task.model, needs) {
            return Err(RefuseReason::ModelNotFound);
        }
        self.slots.take().ok_or(RefuseReason::Busy)
    }

    /// Takes in a part of a prompt, and begins the work when it was the last one.
    pub(super) fn receive(&mut self, part: &DataFrame) -> Result<(), SendError> {
        let assignment = part.header.assignment;
        let last = part.header.part == Part::Body { last: true };
        let Some(held) = self.assignments.get_mut(&assignment) else {
            return Ok(());
        };
        let (received, is_task) = match &mut held.stage {
            Stage::Receiving(prompt) => (prompt.receive(part, last), true),
            Stage::Hearing(question) => (question.receive(part, last), false),
            Stage::Running(_) => return Ok(()),
        };
        match received {
            Ok(false) => Ok(()),
            Ok(true) if is_task => self.start(assignment),
            Ok(true) => self.judge(assignment),
            Err(_sealed) => {
                self.assignments.remove(&assignment);
                self.connection.refuse(assignment, RefuseReason::StaleKey)
            }
        }
    }

    /// Accepts an assignment whose prompt is complete, and sets a worker to it.
    fn start(&mut self, assignment: AssignmentId) -> Result<(), SendError> {
        let Some(Assignment { stage: Stage::Receiving(prompt), slot }) =
            self.assignments.remove(&assignment)
        else {
            return Ok(());
        };
        let deadline = prompt.deadline;
        let Some(Opened { task, body, begun, sealer }) = prompt.open() else {
            return self.connection.refuse(assignment, RefuseReason::BadRequest);
        };
        let Some(backend) = self.core.catalogue.backend(&task.model) else {
            return self.connection.refuse(assignment, RefuseReason::ModelNotFound);
        };
        let (mut request, seal) = if task.sealed {
            let now = (self.core.clock)();
            match sealed::open(&task, body, &self.sealing, &mut self.replays, now) {
                Ok((request, seal)) => (request, Some(seal)),
                Err(reason) => {
                    debug!(%assignment, ?reason, "refused");
                    return self.connection.refuse(assignment, reason);
                }
            }
        } else {
            let request = GenerateRequest {
                operation: task.operation,
                model: task.model,
                body,
                stream: task.enable_streaming,
                time_left: Duration::ZERO,
                begun,
                isolated: false,
            };
            (request, None)
        };
        self.connection.accept(assignment)?;
        self.hold.get_or_insert_with(|| Instant::now() + HOLD);
        self.runs += 1;
        let run = Run(self.runs);
        let credit = Arc::new(Semaphore::new(CREDIT));
        let outlet = Outlet {
            assignment,
            run,
            sealer,
            signals: self.sender.clone(),
            credit: Arc::clone(&credit),
        };
        request.time_left = deadline.saturating_duration_since(Instant::now());
        debug!(%assignment, task = %task.task, ?request, "accepted");
        let ongoing = self.core.work_log.as_ref().map(|log| {
            let privacy = if seal.is_some() { Privacy::Sealed } else { Privacy::Open };
            let (model, begun) = (request.model.clone(), (self.core.clock)());
            let caller = task.caller.map(|tag| tag.to_string());
            let number = self.runs;
            Ongoing::begin(log, Work { number, task: task.task, model, privacy, caller, begun })
        });
        let worker = if let Some(seal) = seal {
            let answer = SealedAnswer { outlet, core: Arc::clone(&self.core), backend, deadline };
            tokio::spawn(answer.run(request, seal))
        } else {
            let worker = Worker {
                outlet,
                backend,
                catalogue: Arc::clone(&self.core.catalogue),
                written: Arc::clone(&self.core.written),
                progress: self.core.limits.progress,
                deadline,
            };
            tokio::spawn(worker.run(request))
        };
        let running = Running {
            run,
            waiting: VecDeque::new(),
            credit,
            ongoing,
            _worker: AbortOnDropHandle::new(worker),
        };
        let held = Assignment { stage: Stage::Running(running), slot };
        self.assignments.insert(assignment, held);
        Ok(())
    }

    /// Refuses offers whose prompts have not come in time.
    pub(super) fn give_up_late_prompts(&mut self) -> Result<(), SendError> {
        let now = Instant::now();
        let late = self.assignments.extract_if(.., |_, held| match &held.stage {
            Stage::Receiving(prompt) => prompt.deadline <= now,
            Stage::Hearing(question) => question.deadline <= now,
            Stage::Running(_) => false,
        });
        for (assignment, _) in late.collect::<Vec<_>>() {
            self.connection.refuse(assignment, RefuseReason::Other)?;
        }
        Ok(())
    }

    /// Takes in what a worker has made.
    pub(super) fn output(&mut self, assignment: AssignmentId, run: Run, output: Output) {
        let Some((held, running)) = running(&mut self.assignments, assignment, run) else {
            return;
        };
        if !matches!(output, Output::Frame(_)) {
            *held = None;
            if let Some(ongoing) = &mut running.ongoing {
                ongoing.end(&output);
            }
        }
        running.waiting.push_back(output);
        self.pass_on(assignment);
    }

    /// Marks progress.
    pub(super) fn progress(&mut self, assignment: AssignmentId, run: Run) {
        if running(&mut self.assignments, assignment, run).is_some() {
            // Whoever is not connected has nobody to show progress to.
            let _ = self.connection.progress(assignment);
        }
    }

    /// Hands an assignment's output to the connection, as far as its window goes.
    pub(super) fn pass_on(&mut self, assignment: AssignmentId) {
        let Some(held) = self.assignments.get_mut(&assignment) else {
            return;
        };
        let Stage::Running(running) = &mut held.stage else {
            return;
        };
        while let Some(output) = running.waiting.front() {
            let sent = match output {
                Output::Frame(frame) => self.connection.stream(frame.clone()),
                Output::Result(result) => self.connection.finish(result.clone()),
                Output::Error(error) => self.connection.fail(error.clone()),
                Output::Difficulty(result) => self.connection.classified(*result),
            };
            if sent == Err(SendError::Full) {
                return;
            }
            let was_frame = matches!(running.waiting.pop_front(), Some(Output::Frame(_)));
            if was_frame && sent.is_ok() {
                running.credit.add_permits(1);
            } else {
                self.ended(assignment, sent);
                return;
            }
        }
    }

    /// Lets go of an assignment that has ended, or that nobody wants any more.
    fn ended(&mut self, assignment: AssignmentId, end: Result<(), SendError>) {
        debug!(%assignment, ?end, "ended");
        self.assignments.remove(&assignment);
        if self.drain_until.is_some() && self.assignments.is_empty() {
            self.ask_for_acks();
        }
    }

    /// Stops the work on assignments that do not go on.
    pub(super) fn drop_all(&mut self, assignments: &[AssignmentId]) {
        for assignment in assignments {
            if self.assignments.remove(assignment).is_some() {
                debug!(%assignment, "dropped");
            }
        }
        if self.drain_until.is_some() && !assignments.is_empty() && self.assignments.is_empty() {
            self.ask_for_acks();
        }
    }
}

type Held<'a> = (&'a mut Option<Slot>, &'a mut Running);

/// Returns what is held of one run of an assignment; `None` once it is over.
fn running(
    assignments: &mut BTreeMap<AssignmentId, Assignment>,
    assignment: AssignmentId,
    run: Run,
) -> Option<Held<'_>> {
    let held = assignments.get_mut(&assignment)?;
    match &mut held.stage {
        Stage::Running(running) if running.run == run => Some((&mut held.slot, running)),
        _ => None,
    }
}
