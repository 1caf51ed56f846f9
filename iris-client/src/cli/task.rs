//! `iris task`.

use std::time::Duration;

use iris_core::{ModelName, TaskId};
use iris_protocol::rest::{
    Choice, Explanation, InferenceRequest, InferenceStatus, NodeReason, SkipCount, TaskState,
};

use super::args::{Json, TaskCommand};
use super::failure::{Exit, Failure};
use super::terminal::Output;
use super::{choose_model, question};
use crate::client::Client;
use crate::settings::Settings;

pub(super) struct Job {
    step: Step,
    format: Json,
}

enum Step {
    Submit {
        prompt: String,
        max_tokens: Option<u32>,
        deadline: Option<Duration>,
        key: Option<String>,
    },
    Status(TaskId),
    Wait(TaskId),
    Cancel(TaskId),
    Explain(TaskId),
}

impl Job {
    pub(super) fn prepare(args: &TaskCommand) -> Result<Self, Failure> {
        let (step, format) = match args {
            TaskCommand::Submit(args) => {
                let submit = Step::Submit {
                    prompt: question(&args.question.words)?,
                    max_tokens: args.question.max_tokens,
                    deadline: args.deadline.map(Duration::from_secs),
                    key: args.idempotency_key.clone(),
                };
                (submit, &args.output)
            }
            TaskCommand::Status(args) => (Step::Status(args.id), &args.output),
            TaskCommand::Wait(args) => (Step::Wait(args.id), &args.output),
            TaskCommand::Cancel(args) => (Step::Cancel(args.id), &args.output),
            TaskCommand::Explain(args) => (Step::Explain(args.id), &args.output),
        };
        Ok(Self { step, format: format.clone() })
    }

    pub(super) async fn run(
        self,
        client: &Client,
        settings: &Settings,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let tasks = client.tasks();
        let (status, wants_answer) = match self.step {
            Step::Submit { prompt, max_tokens, deadline, key } => {
                let model = choose_model(client, settings).await?;
                let model = model
                    .parse::<ModelName>()
                    .map_err(|error| Failure::usage(error.to_string()))?;
                let request = InferenceRequest {
                    max_tokens,
                    deadline,
                    ..InferenceRequest::new(model, prompt)
                };
                let status = match key {
                    Some(key) => tasks.submit_once(&request, &key).await?,
                    None => tasks.submit(&request).await?,
                };
                if !self.format.json {
                    return Ok(output.line(&status.id.to_string())?);
                }
                (status, false)
            }
            Step::Status(id) => (tasks.status(id).await?, false),
            Step::Wait(id) => (tasks.wait(id, settings.timeout()).await?, true),
            Step::Cancel(id) => (tasks.cancel(id).await?, false),
            Step::Explain(id) => {
                return print_explanation(&tasks.explain(id).await?, &self.format, output);
            }
        };
        if self.format.json {
            output.json(&status)?;
        } else if !wants_answer {
            output.line(&describe(&status))?;
        } else if let Some(result) = &status.result {
            output.line(&result.text)?;
        }
        if wants_answer && status.status != TaskState::Finished {
            return Err(Failure::new(Exit::Failed, describe(&status)));
        }
        Ok(())
    }
}

fn print_explanation(
    explanation: &Explanation,
    format: &Json,
    output: &mut Output,
) -> Result<(), Failure> {
    if format.json {
        return Ok(output.json(explanation)?);
    }
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

fn describe(status: &InferenceStatus) -> String {
    let state = match status.status {
        TaskState::Submitted => "submitted",
        TaskState::Planned => "planned",
        TaskState::Running => "running",
        TaskState::Finished => "finished",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
        TaskState::Expired => "expired",
    };
    let reason = status.error.as_ref().map(|error| format!(": {}", error.message));
    format!("{state}{}", reason.unwrap_or_default())
}
