//! Plans that are carried out here: the coordinator sees separate requests, as private as any.

use std::fmt;

use iris_core::backend::Usage;
use iris_core::plan::{
    Ask, Output, Plan, PlanEnd, PlanError, PlanRun, Source, StepError, UnitReport, Work,
};

use crate::client::Client;
use crate::error::ClientError;
use crate::policy::{Policy, Privacy};

mod divide;
mod stream;
mod worker;

pub use stream::PlanStream;

use worker::ClientWorker;

/// A plan, not yet begun; from [`Client::plan`].
///
/// It is carried out in this program: each step is a request of its own under the client's
/// [`Policy`], sealed on its own where that is the policy, so the coordinator sees separate
/// requests that it cannot read. It ends with this program; what has to survive that is submitted
/// as a [task](crate::Tasks).
///
/// Anybody may give a data set any name, so a step about one goes to a node that has it and is one's
/// own or a [guard](crate::trust); to another only where the step names its nodes or the plan is
/// [spread](Self::with_spread), and fails with [`ClientError::BeyondGuards`] otherwise.
///
/// In the open the coordinator chooses the nodes, so a plan whose steps name nodes or data sets,
/// or want answers of different owners, is refused under [`Policy::Open`]: submit it as a task.
#[derive(Clone, Debug)]
#[must_use = "a plan begins when it is run"]
pub struct PlanCall {
    client: Client,
    plan: Plan,
    spread: bool,
}

impl PlanCall {
    pub(crate) const fn new(client: Client, plan: Plan) -> Self {
        Self { client, plan, spread: false }
    }

    /// Lets steps go to all able nodes, and not to the [guards](crate::trust) and one's own alone.
    /// Default: no.
    ///
    /// Guards are few so that, over a month, few strangers read anything of what is asked. Spread
    /// over many nodes, a plan is done sooner, and answers of more than three owners can be
    /// compared; but each node that works on it reads its part, and the more nodes there are, the
    /// likelier one of them belongs to somebody curious. It is for plans whose parts may be read
    /// by strangers.
    pub const fn with_spread(mut self, spread: bool) -> Self {
        self.spread = spread;
        self
    }

    /// Carries the plan out and waits for its answer.
    ///
    /// A plan that waits for a person's decision has to be followed by [`stream`](Self::stream).
    pub async fn run(self) -> Result<PlanAnswer, ClientError> {
        let reviews = |work: &Work| match work {
            Work::Review { .. } => Some((
                "review",
                "it waits for a person: follow the plan and decide, or submit it as a task",
            )),
            _ => None,
        };
        check(&self.plan, reviews)?;
        self.stream()?.finish().await
    }

    /// Begins to carry the plan out, and tells of its progress. Fails here where it cannot be
    /// carried out. Nothing happens before the stream is polled.
    pub fn stream(self) -> Result<PlanStream, ClientError> {
        if self.client.policy() == Policy::Open {
            check(&self.plan, unfit_for_open)?;
        }
        let run = PlanRun::new(self.plan)?;
        Ok(PlanStream::new(run, self.client, self.spread))
    }
}

/// Refuses a plan with a step that `unfit` names a member of.
fn check(
    plan: &Plan,
    unfit: impl Fn(&Work) -> Option<(&'static str, &'static str)>,
) -> Result<(), PlanError> {
    let mut steps = plan.steps.iter().enumerate();
    let found = steps.find_map(|(place, step)| Some((place, unfit(&step.work)?)));
    found.map_or(Ok(()), |(place, (member, what))| {
        Err(PlanError { at: format!("steps[{place}].{member}"), what: what.to_owned() })
    })
}

fn unfit_for_open(work: &Work) -> Option<(&'static str, &'static str)> {
    const WHY: &str = "in the open the coordinator chooses the nodes: submit the plan as a task";
    let ask = asked(work)?;
    if ask.replicas.as_ref().is_some_and(|replicas| replicas.count > 1) {
        return Some(("replicas", WHY));
    }
    if ask.dataset.is_some() {
        return Some(("dataset", WHY));
    }
    (!ask.nodes.is_empty()).then_some(("nodes", WHY))
}

fn asked(work: &Work) -> Option<&Ask> {
    match work {
        Work::Ask(ask) | Work::Each { ask, .. } | Work::Fold { ask, .. } => Some(ask),
        Work::Join { .. } | Work::Review { .. } => None,
    }
}

/// The answer of a plan, and how it came to be.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanAnswer {
    /// The answer.
    pub text: String,
    /// Why it ended: `stop`, `length` or what else the model's server says.
    pub finish_reason: String,
    /// Tokens of all steps together, as their nodes counted them.
    pub usage: Usage,
    /// Who could read what was asked: the weakest of all steps. `None` where nobody was asked.
    pub privacy: Option<Privacy>,
    /// All parts of the plan: where each went, how long it took, what it cost.
    pub units: Vec<UnitReport>,
}

impl PlanAnswer {
    /// Iterates over the parts of the plan that are about a place in a document, with that place:
    /// what an answer about a long text is made of.
    pub fn sources(&self) -> impl Iterator<Item = (&str, Source)> {
        self.units.iter().filter_map(|unit| Some((unit.unit.as_str(), unit.source?)))
    }
}

impl fmt::Debug for PlanAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Answers never reach logs.
        f.debug_struct("PlanAnswer")
            .field("text", &format_args!("{} bytes", self.text.len()))
            .field("usage", &self.usage)
            .field("privacy", &self.privacy)
            .field("units", &self.units)
            .finish_non_exhaustive()
    }
}

/// Why a plan has no answer, and what it has instead.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanFailure {
    /// The step that failed; `None` where a budget of the whole plan is used up.
    pub step: Option<String>,
    /// Why.
    pub error: StepError,
    /// What the request behind it failed for, where it was one.
    pub cause: Option<ClientError>,
    /// What is there: the outputs that nothing else was made of.
    pub text: String,
    /// Tokens of all steps together.
    pub usage: Usage,
    /// Who could read what was asked.
    pub privacy: Option<Privacy>,
    /// All parts of the plan, as they stood.
    pub units: Vec<UnitReport>,
}

impl PlanFailure {
    /// Returns whether a budget or the time was used up, and [`text`](Self::text) is what was done
    /// until then.
    pub const fn is_partial(&self) -> bool {
        self.step.is_none()
    }
}

impl fmt::Display for PlanFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Some(step) => write!(f, "step `{step}` failed: {}", self.error)?,
            None => write!(f, "{}; the answer is not complete", self.error)?,
        }
        match &self.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for PlanFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanFailure")
            .field("step", &self.step)
            .field("cause", &self.cause)
            .field("text", &format_args!("{} bytes", self.text.len()))
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

/// Makes of a plan's end what its caller gets.
fn conclude(end: PlanEnd, run: &PlanRun, worker: &ClientWorker) -> Result<PlanAnswer, ClientError> {
    if let Some(error) = worker.fatal() {
        return Err(error);
    }
    let (usage, privacy, units) = (run.usage(), worker.privacy(), run.report());
    let (step, error, text) = match end {
        PlanEnd::Finished { output } => {
            let Output { text, finish_reason, .. } = output;
            return Ok(PlanAnswer { text, finish_reason, usage, privacy, units });
        }
        PlanEnd::Partial { error, text } => (None, error, text),
        PlanEnd::Failed { step, error } => (Some(step), error, run.text().to_owned()),
        // It was given up.
        _ => {
            let what = "the plan was given up".to_owned();
            (None, StepError::Unusable { what }, run.text().to_owned())
        }
    };
    // A request that failed on the way and was made up for explains nothing of the rest.
    let is_of_request = matches!(
        error,
        StepError::Task { .. }
            | StepError::Partial { .. }
            | StepError::Expired
            | StepError::TooFewOwners
            | StepError::NoQuorum { .. }
    );
    let cause = worker.cause().filter(|_| is_of_request);
    let failure = PlanFailure { step, error, cause, text, usage, privacy, units };
    Err(ClientError::Plan(Box::new(failure)))
}
