//! A network of one coordinator and one node under load, beside the same load without them.
//!
//! Starts a mock model server, nginx in front of it, a coordinator and a node as processes of their
//! own, sends the same requests each way in turns, and prints what lies between. `--help` says what
//! each figure means; the README beside this says what they were.

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

mod child;
mod crowd;
mod figures;
mod inside;
mod load;
mod network;
mod nginx;
mod options;
mod overload;
mod report;
mod request;
mod role;
mod seal;
mod workload;

use options::{Options, Part};
use report::Report;

/// The same as the real programs'.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What goes wrong is only ever printed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.role {
        Some(role) => role.run(),
        None => allow_sockets().and_then(|()| measure(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("gateway: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Takes as many files as this user may have, for the processes to come too.
fn allow_sockets() -> Result<(), Failure> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Measures until it is done or interrupted; the processes end with the future that holds them.
fn measure(options: &Options) -> Result<(), Failure> {
    if !options.check && options.has_loads() && nginx::find().is_none() {
        eprintln!("!!! SKIPPED: nginx. It is not installed here, so there is no comparison to it.");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = run(options) => report,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    })?;
    print!("{report}");
    if let Some(path) = &options.json {
        std::fs::write(path, report.to_json()?)?;
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, report.to_svg())?;
    }
    report.failures()?;
    if options.check { report.check() } else { Ok(()) }
}

async fn run(options: &Options) -> Result<Report, Failure> {
    let mut report = Report::new(options)?;
    if options.has_loads() {
        let (rows, coordinator) = workload::run(options).await?;
        (report.rows, report.coordinator) = (rows, Some(coordinator));
    }
    if options.includes(Part::Nodes) {
        report.crowd = Some(crowd::measure(options.nodes).await?);
    }
    if options.includes(Part::Overload) {
        report.overload = Some(overload::measure().await?);
    }
    if options.includes(Part::Rows) {
        report.rows_per_second = Some(inside::rows_per_second().await?);
    }
    if options.includes(Part::Choose) {
        report.choices = inside::choices();
    }
    report.end();
    Ok(report)
}
