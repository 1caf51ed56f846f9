//! `iris task`.

use std::io;
use std::time::Duration;

use futures::TryStreamExt;
use iris_core::TaskId;
use iris_core::plan::{Decision, Division, PlanEnd, Progress, UnitReport, UnitState};
use iris_core::queue::Priority;
use iris_protocol::rest::{
    Choice, Explanation, InferenceRequest, InferenceStatus, NodeReason, Review, SkipCount,
    StepExplanation, TaskState,
};
use serde_json::{Value, json};

use super::args::{self, TaskCommand};
use super::failure::{Exit, Failure};
use super::plan_file::PlanFile;
use super::progress::{Follower, seconds};
use super::terminal::Output;
use super::{model_name, question, read_input, wanted_model};
use crate::client::Client;
use crate::settings::Settings;

pub(super) struct Job {
    step: Step,
    json: bool,
}

enum Step {
    Submit(Box<Submission>),
    Status(TaskId),
    Follow { id: TaskId, verbose: bool },
    Wait(TaskId),
    Review(TaskId, Decision),
    Cancel(TaskId),
    Explain { id: TaskId, mermaid: bool },
}

/// What is handed in.
struct Submission {
    work: Work,
    priority: Priority,
    key: Option<String>,
}

enum Work {
    Plan(PlanFile),
    Question {
        prompt: String,
        max_tokens: Option<u32>,
        deadline: Option<Duration>,
        division: Box<Option<Division>>,
    },
}

impl Job {
    pub(super) fn prepare(args: &TaskCommand) -> Result<Self, Failure> {
        let (step, json) = match args {
            TaskCommand::Submit(args) => {
                (Step::Submit(Box::new(Submission::prepare(args)?)), args.output.json)
            }
            TaskCommand::Status(args) => (Step::Status(args.id), args.output.json),
            TaskCommand::Follow(args) => {
                (Step::Follow { id: args.id, verbose: args.verbose }, args.json)
            }
            TaskCommand::Wait(args) => (Step::Wait(args.id), args.output.json),
            TaskCommand::Review(args) => {
                let text = match args.text.as_deref() {
                    Some("-") => Some(read_input()?),
                    text => text.map(str::to_owned),
                };
                let (step, choose) = (args.step.clone(), args.choose.clone());
                (Step::Review(args.id, Decision { step, choose, text }), args.output.json)
            }
            TaskCommand::Cancel(args) => (Step::Cancel(args.id), args.output.json),
            TaskCommand::Explain(args) => {
                (Step::Explain { id: args.id, mermaid: args.mermaid }, args.output.json)
            }
        };
        Ok(Self { step, json })
    }

    pub(super) async fn run(
        self,
        client: &Client,
        settings: &Settings,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let tasks = client.tasks();
        let (status, wants_answer) = match self.step {
            Step::Submit(submission) => {
                let status = submission.hand_in(client, settings).await?;
                if !self.json {
                    return Ok(output.line(&status.id.to_string())?);
                }
                (status, false)
            }
            Step::Status(id) => (tasks.status(id).await?, false),
            Step::Follow { id, verbose } => {
                return follow(client, id, self.json, verbose, output).await;
            }
            Step::Wait(id) => (tasks.wait(id, settings.timeout()).await?, true),
            Step::Review(id, decision) => (tasks.review(id, &decision).await?, false),
            Step::Cancel(id) => (tasks.cancel(id).await?, false),
            Step::Explain { id, mermaid } => {
                let explanation = tasks.explain(id).await?;
                if self.json {
                    return Ok(output.json(&explanation)?);
                }
                return print_explanation(&explanation, mermaid, output);
            }
        };
        if self.json {
            output.json(&status)?;
        } else if !wants_answer {
            print_status(&status, output)?;
        } else if let Some(result) = &status.result {
            output.line(&result.text)?;
        }
        if wants_answer && (status.status != TaskState::Finished || status.error.is_some()) {
            return Err(Failure::new(Exit::Failed, describe(&status)));
        }
        Ok(())
    }
}

impl Submission {
    fn prepare(args: &args::Submit) -> Result<Self, Failure> {
        let work = match &args.plan {
            Some(file) => {
                let mut file = PlanFile::read(file)?;
                if !args.words.is_empty() {
                    file.set("input", question(&args.words)?.into());
                }
                file.limit(&args.dividing.limits);
                Work::Plan(file)
            }
            None => Work::Question {
                prompt: question(&args.words)?,
                max_tokens: args.max_tokens,
                deadline: args.deadline.map(Duration::from_secs),
                division: Box::new(args.dividing.division()?),
            },
        };
        Ok(Self { work, priority: args.priority, key: args.idempotency_key.clone() })
    }

    async fn hand_in(
        self,
        client: &Client,
        settings: &Settings,
    ) -> Result<InferenceStatus, Failure> {
        let key = self.key.as_deref();
        let body = match self.work {
            Work::Plan(mut file) => {
                if file.lacks_model() {
                    let wanted = wanted_model(settings);
                    let about = file.plan(Some(&model_name(wanted)?))?.input;
                    file.set("model", client.model_for(wanted, &about).await?.as_str().into());
                }
                // What is wrong with it is told here with its line.
                let plan = file.plan(None)?;
                file.needs_input(&plan)?;
                json!({ "plan": file.members(), "priority": self.priority })
            }
            Work::Question { prompt, max_tokens, deadline, division } => {
                let wanted = wanted_model(settings);
                let model = match &*division {
                    Some(_) => client.model_for(wanted, &prompt).await?,
                    // The coordinator reads the question anyway.
                    None => model_name(wanted)?,
                };
                let mut request = InferenceRequest {
                    max_tokens,
                    deadline,
                    priority: Some(self.priority),
                    ..InferenceRequest::new(model, prompt)
                };
                if let Some(division) = &*division
                    && let Ok(Value::Object(members)) = serde_json::to_value(division)
                {
                    request.extra.extend(members);
                }
                serde_json::to_value(request).expect("a request has a JSON form")
            }
        };
        Ok(client.tasks().hand_in(&body, key).await?)
    }
}

/// Tells what happens to a task until it is over.
async fn follow(
    client: &Client,
    id: TaskId,
    json: bool,
    verbose: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut events = client.tasks().follow(id).await?;
    let mut end = None;
    if json {
        while let Some(progress) = events.try_next().await? {
            output.line(&serde_json::to_string(&progress).map_err(io::Error::from)?)?;
            if let Progress::Ended(how) = progress {
                end = Some(how);
            }
        }
    } else {
        let mut follower = Follower::new(output, true, verbose);
        while let Some(progress) = events.try_next().await? {
            follower.tell(&progress)?;
            if let Progress::Ended(how) = progress {
                end = Some(how);
            }
        }
        let text = match &end {
            Some(PlanEnd::Finished { output }) => Some(output.text.as_str()),
            Some(PlanEnd::Partial { text, .. }) => Some(text.as_str()),
            _ => None,
        };
        follower.end(text)?;
    }
    let message = match end {
        Some(PlanEnd::Finished { .. }) => return Ok(()),
        Some(PlanEnd::Partial { error, .. }) => format!("{error}; the answer is not complete"),
        Some(PlanEnd::Failed { step, error }) => format!("step `{step}` failed: {error}"),
        _ => "the task was withdrawn".to_owned(),
    };
    Err(Failure::new(Exit::Failed, message))
}

fn print_explanation(
    explanation: &Explanation,
    mermaid: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    match &explanation.plan {
        Some(plan) if mermaid => return Ok(output.line(&plan.mermaid)?),
        None if mermaid => return Err(Failure::usage("this task is not divided: it has no plan")),
        Some(plan) => output.line(&plan.text)?,
        None => {}
    }
    print_choices(explanation, output)?;
    for StepExplanation { unit, explanation } in &explanation.steps {
        output.line(&format!("\n{unit}:"))?;
        print_choices(explanation, output)?;
    }
    Ok(())
}

fn print_choices(explanation: &Explanation, output: &mut Output) -> Result<(), Failure> {
    for Choice { reasons, skipped, .. } in &explanation.earlier {
        print_choice(reasons, skipped, output)?;
        output.line("That node did not stay with it. The next choice:")?;
    }
    print_choice(&explanation.reasons, &explanation.skipped, output)
}

fn print_choice(
    reasons: &[NodeReason],
    skipped: &[SkipCount],
    output: &mut Output,
) -> Result<(), Failure> {
    for NodeReason { node, sentence, .. } in reasons {
        output.line(&format!("{node}: {sentence}"))?;
    }
    for SkipCount { reason, count } in skipped {
        output.line(&format!("{count} more: {reason}"))?;
    }
    Ok(())
}

fn print_status(status: &InferenceStatus, output: &mut Output) -> io::Result<()> {
    output.line(&describe(status))?;
    for unit in &status.steps {
        output.line(&row(unit))?;
    }
    for Review { step, choices } in &status.reviews {
        let choices = choices.join(" or ");
        output.line(&format!(
            "step `{step}` waits for a decision: --step {step} --choose {choices}"
        ))?;
    }
    Ok(())
}

/// Writes how a unit stands, in 80 columns: its name, its state, where it is, time and tokens.
fn row(unit: &UnitReport) -> String {
    let state = match unit.state {
        UnitState::Waiting => "waiting",
        UnitState::Running => "running",
        UnitState::Review => "to decide",
        UnitState::Finished => "finished",
        UnitState::Skipped => "skipped",
        UnitState::Failed => "failed",
        UnitState::Dropped => "dropped",
        UnitState::Undone => "undone",
        _ => "unknown",
    };
    let mut name: String = unit.unit.chars().take(26).collect();
    if name.len() < unit.unit.len() {
        name = name.chars().take(24).chain("..".chars()).collect();
    }
    let node = unit.placed.last().and_then(|placed| placed.node);
    let node: String =
        node.map_or(String::new(), |node| node.to_string().chars().take(8).collect());
    let time = unit.took_ms.map(seconds).unwrap_or_default();
    let tokens = match unit.usage.total() {
        0 => String::new(),
        tokens => format!("{tokens} tokens"),
    };
    format!("  {name:<26} {state:<9} {node:<8} {time:>8} {tokens:>14}").trim_end().to_owned()
}

fn describe(status: &InferenceStatus) -> String {
    let state = status.status.name();
    let over = |unit: &&UnitReport| {
        matches!(unit.state, UnitState::Finished | UnitState::Skipped | UnitState::Undone)
    };
    let parts = match status.steps.len() {
        0 => String::new(),
        all => format!(", {} of {all} parts done", status.steps.iter().filter(over).count()),
    };
    let place = status.place_in_line.map(|place| match place {
        1 => ", next in line".to_owned(),
        place => format!(", {} before it in line", place - 1),
    });
    let place = place.unwrap_or_default();
    let reason = status.error.as_ref().map(|error| format!(": {}", error.message));
    format!("{state}{parts}{place}{}", reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use iris_core::backend::Usage;
    use iris_core::plan::Placed;

    use super::*;

    #[test]
    fn a_row_fits_into_80_columns() {
        let placed =
            Placed { node: "abcdefghijklmnopqrstuvwx27".parse().ok(), ..Placed::default() };
        let unit = UnitReport {
            unit: "a-step-with-a-name-of-the-longest-kind-that-there-is.4096".to_owned(),
            state: UnitState::Review,
            model: None,
            placed: vec![placed],
            assignments: 1,
            took_ms: Some(59_999_999),
            usage: Usage { prompt_tokens: 30_000_000, completion_tokens: 1 },
            source: None,
            text: None,
            dissent: Vec::new(),
            error: None,
        };
        let row = row(&unit);
        assert!(row.chars().count() <= 80, "{} {row}", row.len());
        assert!(row.contains("a-step-with-a-name-of-the.. ") || row.contains(".."), "{row}");
    }
}
