//! `iris run`: a plan of one's own.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use iris_core::plan::{Plan, Work};

use super::args::Privacy;
use super::dividing::{Limits, Spreading, Telling, carry_out};
use super::failure::Failure;
use super::plan_file::PlanFile;
use super::terminal::Output;
use super::{model_name, read_file, read_input, wanted_model};
use crate::client::Client;
use crate::error::ClientError;
use crate::policy::Policy;
use crate::settings::Settings;

/// A plan and its input.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The plan: a file in TOML, YAML or JSON, by its extension
    #[arg(value_name = "PLAN")]
    file: PathBuf,
    /// What the plan is about, for `{{ input }}` in its prompts; `-` reads it from standard input
    #[arg(value_name = "INPUT")]
    words: Vec<String>,
    /// Read the input from this file
    #[arg(long, value_name = "FILE", conflicts_with = "words")]
    input_file: Option<PathBuf>,
    /// The model for steps that name none; by default one is chosen by how hard the input is
    #[arg(long, short, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Only check the plan and print it as text; asks nobody
    #[arg(long, conflicts_with_all = ["json", "verbose"])]
    check: bool,
    /// Only print the plan, as text or as a picture for Mermaid; asks nobody
    #[arg(long, value_name = "FORM", conflicts_with_all = ["json", "verbose", "check"])]
    picture: Option<Form>,
    #[command(flatten)]
    spreading: Spreading,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    privacy: Privacy,
    /// Print the whole outcome as JSON, for programs: answer, steps and who could read it
    #[arg(long)]
    json: bool,
    /// Print the answer when it is complete, not as it is written
    #[arg(long)]
    no_stream: bool,
    /// Tell more of what happens
    #[arg(long, short)]
    verbose: bool,
}

/// How a plan is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// Lines for a terminal
    Text,
    /// A flow chart that Mermaid draws
    Mermaid,
}

/// `iris run`, with the plan at hand.
pub(super) struct Job {
    file: PlanFile,
    prints: Option<Form>,
    spreading: Spreading,
    privacy: Privacy,
    telling: Telling,
}

impl Job {
    pub(super) fn prepare(args: &Run) -> Result<Self, Failure> {
        let mut file = PlanFile::read(&args.file)?;
        if let Some(input) = input(args)? {
            file.set("input", input.into());
        }
        file.limit(&args.limits);
        Ok(Self {
            file,
            prints: if args.check { Some(Form::Text) } else { args.picture },
            spreading: args.spreading,
            privacy: args.privacy.clone(),
            telling: Telling { json: args.json, stream: !args.no_stream, verbose: args.verbose },
        })
    }

    pub(super) const fn privacy(&self) -> &Privacy {
        &self.privacy
    }

    /// Prints the plan where nothing else is wanted.
    pub(super) fn print(&self, settings: &Settings, output: &mut Output) -> Result<bool, Failure> {
        let Some(form) = self.prints else { return Ok(false) };
        // Nobody is asked, so any name will do.
        let plan = self.plan(Some(settings.model.as_deref().unwrap_or("MODEL")))?;
        output.line(&match form {
            Form::Text => plan.as_text(),
            Form::Mermaid => plan.as_mermaid(),
        })?;
        Ok(true)
    }

    pub(super) async fn run(
        self,
        client: &Client,
        settings: &Settings,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let plan = if self.file.lacks_model() {
            let wanted = wanted_model(settings);
            let about = self.plan(Some(wanted))?.input;
            let model = client.model_for(wanted, &about).await?;
            self.plan(Some(model.as_str()))?
        } else {
            self.plan(None)?
        };
        self.file.needs_input(&plan)?;
        let waits = plan.steps.iter().find(|step| matches!(step.work, Work::Review { .. }));
        if let Some(step) = waits.filter(|_| !io::stdin().is_terminal()) {
            return Err(Failure::usage(format!(
                "step `{}` waits for a person to decide: run the plan in a terminal, or hand it in \
                 with `iris task submit --plan`",
                step.name
            )));
        }
        let policy = if self.privacy.open { Policy::Open } else { client.policy() };
        let call = client.with_policy(policy).plan(plan).with_spread(self.spreading.spread);
        let stream = call.stream().map_err(|error| match error {
            ClientError::InvalidPlan(error) => self.file.refuse(&error),
            error => error.into(),
        })?;
        carry_out(stream, self.telling, output).await
    }

    fn plan(&self, model: Option<&str>) -> Result<Plan, Failure> {
        self.file.plan(model.map(model_name).transpose()?.as_ref())
    }
}

/// Returns what the plan is about, where that is not in its file.
fn input(args: &Run) -> Result<Option<String>, Failure> {
    match (&args.input_file, args.words.as_slice()) {
        (Some(file), _) => Ok(Some(read_file(file)?)),
        (None, []) => Ok(None),
        (None, [dash]) if dash == "-" => Ok(Some(read_input()?)),
        (None, words) => Ok(Some(words.join(" "))),
    }
}
