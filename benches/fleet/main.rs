//! How well work is spread over a mixed fleet, in virtual time over the real registry and schedulers.
//!
//! Nothing here measures this machine: the same seeds give the same figures everywhere. What is
//! simulated is told in [`fleet`]; what each way of choosing does, in [`ways`].

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

mod fleet;
mod network;
mod report;
mod tally;
mod ways;

use network::Network;
use report::Report;
use tally::Tally;
use ways::Way;

/// Spread simulated work over a mixed fleet, by Iris and by simpler rules, and print a table.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// How many seeds each figure is the average of
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Virtual minutes of each run
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(40..))]
    minutes: u64,
    /// Write the picture to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Shares of what the whole fleet can do that are asked of it.
const LOADS: [f64; 3] = [0.3, 0.5, 0.7];

fn main() -> ExitCode {
    let options = Options::parse();
    let mut report = Report::new(options.seeds, options.minutes);
    for load in LOADS {
        for way in Way::ALL {
            let mut tally = Tally::default();
            for seed in 0..options.seeds {
                tally.add(&Network::new(way, load, seed).run(options.minutes));
            }
            report.add(load, way, tally);
        }
    }
    let printed = std::io::stdout().write_all(report.table().as_bytes());
    let written = options.svg.map_or(Ok(()), |file| std::fs::write(file, report.picture()));
    match printed.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: the report cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}
