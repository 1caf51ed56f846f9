//! A year of a network with liars in it, in virtual time over the real auditor and rules of pay.
//!
//! Nothing here measures this machine: the same seeds give the same figures everywhere. Who takes
//! part is told in [`kinds`]; what happens, in [`network`].

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

mod dice;
mod kinds;
mod network;
mod report;

use network::Network;
use report::Report;

/// Simulate years of a network of honest nodes and liars, and print who earned what and who was
/// found.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// How many years, each with a seed of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Write the picture to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut report = Report::default();
    for seed in 0..options.seeds {
        report.add(&Network::new(options.first + seed, 1000).run(12));
    }
    let printed = std::io::stdout().write_all(report.table().as_bytes());
    let written = options.svg.map_or(Ok(()), |file| std::fs::write(file, report.picture()));
    match printed.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("year: the report cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;

    /// Four months of a twenty-fifth of the network.
    fn report() -> Report {
        let mut report = Report::default();
        report.add(&Network::new(1, 40).run(4));
        report
    }

    #[test]
    fn liars_are_found_and_earn_less_than_the_honest() {
        let report = report();
        for kind in Kind::ALL {
            let figures = report.figures(kind);
            if kind.is_liar() {
                assert!(figures.found > 0.0, "{kind:?} was not found");
                // Twice an ordinary node's work, honestly done until it turned.
                let most = if kind == Kind::Turncoat { 1.7 } else { 0.0 };
                assert!(figures.evidence <= most, "{kind:?} was paid {}", figures.evidence);
                assert!(figures.seed > 1.0, "lying pays under the seeds' rules");
            } else {
                assert!(figures.found <= 0.0, "{kind:?} was found lying");
            }
        }
    }

    #[test]
    fn neither_idling_nor_splitting_nor_asking_oneself_pays() {
        let report = report();
        assert!(report.figures(Kind::Idle).evidence <= 0.0);
        assert!(report.figures(Kind::Idle).seed > 0.0, "the seeds' rules pay for being there");
        assert!(report.figures(Kind::Splitter).evidence < 1.2);
        assert!(report.figures(Kind::Pair).evidence < 1.5, "a friend counts for a tenth");
        assert!(report.figures(Kind::Pair).seed > 1.5, "the seeds' rules pay for it");
    }
}
