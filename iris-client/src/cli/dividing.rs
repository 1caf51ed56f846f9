//! Questions and plans that are divided over several requests.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::PossibleValuesParser;
use futures::StreamExt;
use iris_core::plan::{Agreement, Budget, Decision, Division, ModeChoice, Progress};
use serde_json::json;
use tokio::time::timeout;

use super::ask::stay;
use super::failure::Failure;
use super::figures::count;
use super::progress::{Follower, seconds};
use super::read_file;
use super::terminal::{Output, lines, remark};
use crate::error::ClientError;
use crate::plan::{PlanAnswer, PlanStream};
use crate::policy::Privacy;

const HEADING: &str = "Dividing work";

/// How alike two answers have to be to count as the same text.
const SIMILARITY: f64 = 0.8;

/// How a question is divided.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct Dividing {
    /// Divide the work: `subtasks` does independent parts of the question side by side,
    /// `consensus` asks nodes of different owners and takes what most of them say, `context` goes
    /// through a document that is longer than a model reads at once, `auto` finds out which
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(MODES))]
    pub(super) mode: Option<String>,
    /// Ask so many nodes the same [default: 3]
    #[arg(long, value_name = "N", requires = "mode",
        value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) replicas: Option<u32>,
    /// What counts as the same answer: `number`, `json`, `text`, or `choice=yes,no` for one of
    /// several words [default: numbers or JSON where all answers are, else they are merged]
    #[arg(long, value_name = "WAY", requires = "mode", value_parser = agreement)]
    pub(super) agree: Option<Agreement>,
    /// Ask about this document, however long; `--mode` is then `context` unless set
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Have the merged parts written anew as one text
    #[arg(long, requires = "mode")]
    pub(super) smooth: bool,
    #[command(flatten)]
    pub(super) limits: Limits,
}

/// What a divided task may use.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Limits {
    /// Use at most so many tokens, read and written; then stop with what is there
    #[arg(long = "budget-tokens", value_name = "N", help_heading = HEADING)]
    tokens: Option<u64>,
    /// Take at most so many seconds; then stop with what is there
    #[arg(long = "budget-seconds", value_name = "N", help_heading = HEADING)]
    seconds: Option<u64>,
    /// Ask nodes at most so often; then stop with what is there
    #[arg(long = "budget-assignments", value_name = "N", help_heading = HEADING)]
    assignments: Option<u32>,
}

/// Which nodes may work on a plan.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Spreading {
    /// Let other nodes than your guards work on parts of it, too: sooner done, and read by more
    /// people
    #[arg(long, help_heading = HEADING)]
    pub(super) spread: bool,
}

const MODES: [&str; 4] = ["subtasks", "consensus", "context", "auto"];

impl Dividing {
    /// Returns how to divide; nothing where nothing is divided.
    pub(super) fn division(&self) -> Result<Option<Division>, Failure> {
        let document = self.file.as_deref().map(read_file).transpose()?;
        let mode = match self.mode.as_deref() {
            Some("subtasks") => ModeChoice::Subtasks,
            Some("consensus") => ModeChoice::Consensus,
            Some("context") => ModeChoice::Context,
            Some(_) => ModeChoice::Auto,
            None if document.is_some() => ModeChoice::Context,
            None if self.limits.are_set() => {
                return Err(Failure::usage("a budget is for divided work; choose a --mode"));
            }
            None => return Ok(None),
        };
        let mut division = Division {
            mode,
            replicas: self.replicas,
            agree: self.agree.clone(),
            smooth: self.smooth,
            document,
            ..Division::default()
        };
        self.limits.apply(&mut division.budget);
        Ok(Some(division))
    }
}

fn agreement(text: &str) -> Result<Agreement, String> {
    match text.split_once('=') {
        Some(("choice", options)) => {
            let options: Vec<_> =
                options.split(',').map(|option| option.trim().to_owned()).collect();
            if options.len() >= 2 && options.iter().all(|option| !option.is_empty()) {
                Ok(Agreement::Choice { options })
            } else {
                Err("a choice is among two words or more, as in choice=yes,no".to_owned())
            }
        }
        None if text == "number" => Ok(Agreement::Number { tolerance: 0.0 }),
        None if text == "json" => Ok(Agreement::Json),
        None if text == "text" => Ok(Agreement::Text { similarity: SIMILARITY }),
        _ => Err("one of number, json, text and choice=A,B is meant".to_owned()),
    }
}

impl Limits {
    const fn are_set(&self) -> bool {
        self.tokens.is_some() || self.seconds.is_some() || self.assignments.is_some()
    }

    /// Sets those that are given.
    pub(super) fn apply(&self, budget: &mut Budget) {
        budget.tokens = self.tokens.or(budget.tokens);
        budget.seconds = self.seconds.or(budget.seconds);
        budget.assignments = self.assignments.or(budget.assignments);
    }
}

/// How a plan is told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Telling {
    /// Prints everything as JSON at the end.
    pub(super) json: bool,
    /// Prints the answer as it comes.
    pub(super) stream: bool,
    pub(super) verbose: bool,
}

/// Carries a plan out, tells of its progress, and prints its answer.
pub(super) async fn carry_out(
    mut stream: PlanStream,
    telling: Telling,
    output: &mut Output,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let streams = telling.stream && !telling.json;
    let mut follower = Follower::new(output, streams, telling.verbose);
    while let Some(progress) = stream.next().await {
        follower.tell(&progress)?;
        if let Progress::Waiting { unit, choices } = &progress {
            decide(&stream, unit, choices).await?;
        }
    }
    let receipts = stream.receipts();
    let done = stream.finish().await;
    let text = match &done {
        _ if telling.json => None,
        Ok(answer) => Some(answer.text.as_str()),
        // What is there is not lost.
        Err(ClientError::Plan(failure)) => Some(failure.text.as_str()),
        Err(_) => None,
    };
    let output = follower.end(text)?;
    if telling.json {
        output.json(&document(&done))?;
    }
    let answer = done?;
    if telling.verbose {
        sum_up(&answer, begun.elapsed());
    }
    if answer.finish_reason == "length" {
        remark("the answer reached its limit; --max-tokens sets another");
    }
    let _ = timeout(stay(begun.elapsed()), receipts).await;
    Ok(())
}

fn sum_up(answer: &PlanAnswer, took: Duration) {
    let who = match answer.privacy {
        Some(Privacy::Own) => "; nobody but your own nodes could read it",
        Some(Privacy::Sealed) => "; each part was read by the node that worked on it alone",
        Some(Privacy::Open) => "; the coordinator could read it too",
        None => "",
    };
    let parts = u64::try_from(answer.units.len()).unwrap_or(u64::MAX);
    let parts = count(parts, "part", "parts");
    let tokens = count(answer.usage.total().into(), "token", "tokens");
    let time = seconds(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    remark(&format!("{parts}, {tokens} in {time}{who}"));
}

/// Returns what is printed for programs.
fn document(done: &Result<PlanAnswer, ClientError>) -> serde_json::Value {
    match done {
        Ok(answer) => json!({
            "end": "finished",
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "usage": answer.usage,
            "privacy": answer.privacy,
            "steps": answer.units,
        }),
        Err(ClientError::Plan(failure)) => json!({
            "end": if failure.is_partial() { "partial" } else { "failed" },
            "step": failure.step,
            "error": failure.error,
            "text": failure.text,
            "usage": failure.usage,
            "privacy": failure.privacy,
            "steps": failure.units,
        }),
        Err(error) => json!({ "end": "failed", "error": { "message": error.to_string() } }),
    }
}

/// Lets whoever sits at the terminal decide a review.
async fn decide(stream: &PlanStream, step: &str, choices: &[String]) -> Result<(), Failure> {
    let units = stream.laid_out();
    for (place, choice) in choices.iter().enumerate() {
        let unit = units.iter().find(|unit| unit.unit == *choice);
        let text = unit.and_then(|unit| unit.text.as_deref()).unwrap_or_default();
        lines(&format!("[{}] {choice}:\n{text}\n", place + 1));
    }
    loop {
        lines("Which one is taken? A number, or a text of your own:");
        let line = tokio::task::spawn_blocking(read_line).await;
        let line = line.map_err(|_| Failure::usage("standard input cannot be read"))??;
        let decision = Decision { step: step.to_owned(), choose: None, text: None };
        let chosen = line.parse::<usize>().ok().map(|number| choices.get(number.wrapping_sub(1)));
        match chosen {
            Some(Some(choice)) => {
                stream.decide(Decision { choose: Some(choice.clone()), ..decision });
                return Ok(());
            }
            None if !line.is_empty() => {
                stream.decide(Decision { text: Some(line), ..decision });
                return Ok(());
            }
            _ => {}
        }
    }
}

fn read_line() -> Result<String, Failure> {
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(0) => Err(Failure::usage("the plan waits for a decision, and nobody is there")),
        Ok(_) => Ok(line.trim().to_owned()),
        Err(error) => Err(Failure::usage(format!("standard input cannot be read: {error}"))),
    }
}
