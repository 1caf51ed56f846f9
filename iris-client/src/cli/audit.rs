//! `iris audit`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use iris_core::ledger::Money;
use iris_core::reward::audit::{Audit, AuditError, FollowError, Report};
use serde_json::json;

use super::args::Json;
use super::failure::{Exit, Failure};
use super::figures::count;
use super::terminal::Output;

/// The longest line, in bytes: an opening and an outcome hold all nodes' points.
const MAX_LINE: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(super) struct AuditFile {
    /// The month's books, as the network's operator gives them away; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check, too, that the month began as this one ended: the books of the month before
    #[arg(long, value_name = "FILE")]
    after: Option<PathBuf>,
    #[command(flatten)]
    output: Json,
}

/// Computes a month anew, without asking anybody, and prints what it found.
pub(super) fn run(args: &AuditFile, output: &mut Output) -> Result<(), Failure> {
    if args.after.as_ref().is_some_and(|after| is_input(after) && is_input(&args.file)) {
        return Err(Failure::usage("standard input holds one file, not two"));
    }
    let previous = args.after.as_deref().map(audit).transpose()?;
    let report = audit(&args.file)?;
    if let Some(previous) = &previous {
        follows(&report, previous)?;
    }
    if args.output.json {
        return Ok(output.json(&for_programs(&report, previous.as_ref()))?);
    }
    print(&report, previous.as_ref(), output)
}

fn is_input(file: &Path) -> bool {
    file == Path::new("-")
}

fn audit(file: &Path) -> Result<Report, Failure> {
    if is_input(file) {
        return read(file, &mut io::stdin().lock());
    }
    let opened = File::open(file).map_err(|error| unreadable(file, &error))?;
    read(file, &mut BufReader::new(opened))
}

/// Reads a file line by line, so that a long one takes no more memory than its longest line.
fn read(file: &Path, lines: &mut dyn BufRead) -> Result<Report, Failure> {
    let (mut audit, mut line) = (Audit::default(), Vec::new());
    for number in 1_u64.. {
        line.clear();
        let taken = lines.take(MAX_LINE + 1).read_until(b'\n', &mut line);
        if taken.map_err(|error| unreadable(file, &error))? == 0 {
            break;
        }
        if line.len() as u64 > MAX_LINE {
            return Err(wrong(file, &format!("line {number} is longer than 64 MiB")));
        }
        let text = std::str::from_utf8(&line);
        let text = text.map_err(|_| wrong(file, &format!("line {number} is not text in UTF-8")))?;
        audit.line(text).map_err(|error| refused(file, &error))?;
    }
    audit.finish().map_err(|error| refused(file, &error))
}

fn unreadable(file: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{} cannot be read: {error}", file.display()))
}

fn wrong(file: &Path, what: &str) -> Failure {
    let file = if is_input(file) { Path::new("standard input") } else { file };
    Failure::new(Exit::Books, format!("{}: {what}", file.display()))
}

fn refused(file: &Path, error: &AuditError) -> Failure {
    match error {
        // Of these nobody can say yet whether they are right.
        AuditError::Format(_) | AuditError::Rules(_) => {
            Failure::usage(format!("{}: {error}", file.display()))
        }
        error => wrong(file, &error.to_string()),
    }
}

/// Checks that a month goes on where the one before it ended.
fn follows(report: &Report, previous: &Report) -> Result<(), Failure> {
    report.follows(previous).map_err(|error| match error {
        // Of these nobody can say yet whether they are right.
        FollowError::Order { .. } => Failure::usage(format!("--after: {error}")),
        error => Failure::new(Exit::Books, error.to_string()),
    })
}

fn for_programs(report: &Report, previous: Option<&Report>) -> serde_json::Value {
    let closing = &report.outcome.closing;
    json!({
        "month": report.opening.epoch,
        "rules": report.opening.policy,
        "tasks": report.tasks,
        "receipts": report.receipts,
        "events": report.events,
        "movements": report.movements,
        "pool": closing.pool,
        "brought": report.brought,
        "carried": closing.carried,
        "shares": closing.shares,
        "after": previous.map(|previous| previous.opening.epoch),
        "holds": true,
    })
}

fn print(report: &Report, previous: Option<&Report>, output: &mut Output) -> Result<(), Failure> {
    let closing = &report.outcome.closing;
    output.line(&format!("month      {}", report.opening.epoch))?;
    output.line(&format!("rules      {}", report.opening.policy))?;
    output.line(&format!("tasks      {}", report.tasks))?;
    output
        .line(&format!("receipts   {}, of which node and caller have the same", report.receipts))?;
    output.line(&format!("events     {}", report.events))?;
    output.line(&format!("movements  {}", report.movements))?;
    let owners = count(closing.shares.len() as u64, "owner", "owners");
    output.line(&format!("pool       {}, shared among {owners}", closing.pool))?;
    if report.brought != Money::ZERO {
        let before = report.opening.epoch.previous();
        output.line(&format!("brought    {} from {before}, within the pool", report.brought))?;
    }
    if closing.carried > Money::ZERO {
        output.line(&format!("carried    {} to the next month", closing.carried))?;
    }
    let begins = match previous {
        Some(previous) => format!("as {} ended, with what it carried", previous.opening.epoch),
        None => "as the file says; --after checks that, too".to_owned(),
    };
    output.line(&format!("begins     {begins}"))?;
    Ok(output.line("\nEvery share, point and state follows from the facts.")?)
}
