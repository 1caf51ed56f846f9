//! Load on a network of one coordinator and one node, beside the same load without them.
//!
//! Starts a mock model server, a coordinator and a node as processes of their own, sends the same
//! requests to the mock directly and through the network, in turns, and prints what the network
//! added. `--help` says what each figure means; the README beside this says what they were.

use std::process::ExitCode;

use clap::Parser;

mod child;
mod figures;
mod load;
mod network;
mod options;
mod report;
mod request;
mod role;
mod workload;

use options::Options;

/// The same as the real programs'.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What goes wrong is only ever printed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.role {
        Some(role) => role.run(),
        None => measure(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("gateway: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Measures until it is done or interrupted; the processes end with the future that holds them.
fn measure(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = workload::run(options) => report,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    })?;
    print!("{report}");
    if let Some(path) = &options.json {
        std::fs::write(path, report.to_json()?)?;
    }
    match report.failures() {
        0 => Ok(()),
        failures => Err(format!("{failures} requests failed, so the figures are in doubt").into()),
    }
}
