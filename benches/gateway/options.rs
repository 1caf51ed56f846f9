//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::role::Role;

/// Measures what an Iris network adds to a model server that answers at once.
///
/// Starts a mock of an OpenAI server, a coordinator (HTTP on loopback, API keys, settlement in a
/// SQLite file, hop sealed) and a node that forwards to the mock: three processes besides this
/// one, which makes the load. Sends the same requests to the mock directly and through the
/// network, in turns, and takes them all down at the end. Takes under a minute unless asked for
/// more; uses free ports and a temporary folder. Build it with --release.
///
/// CPU is what the system accounts to the processes of coordinator and node while a load runs,
/// kernel work included, divided by the requests or chunks that arrived; it includes asking the
/// mock and reading its answer. The mock's own CPU when it is asked directly stands beside it: it
/// tells how fast the machine was at the time. Times are those of whole answers, or to the first token where the load is
/// streams; "added" is the difference of the two medians, tenths or hundredths, not of single
/// requests. A chunk is one token of one stream; the mock writes each by itself. All processes
/// share the machine's cores with each other and with whatever else runs, so rates and times say
/// less than CPU.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Measured seconds of each load, for each of its turns.
    #[arg(long, default_value = "1.5", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Turns that each load gets, directly and through the network.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Loads to run; all when none is named.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Kind>,
    /// Requests in flight of the load `many`.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) in_flight: u32,
    /// Requests a second of the load `steady`.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// Streams of the load `saturated`.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) streams: u32,
    /// Chunks of each stream of the load `saturated`.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) chunks: u32,
    /// Streams of the load `paced`.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) paced_streams: u32,
    /// Milliseconds between two chunks of a stream of the load `paced`.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) pace: u32,
    /// Lets the node answer by itself instead of asking the mock, which leaves out what the
    /// backend costs; there is no load `paced` then.
    #[arg(long)]
    pub(crate) scripted: bool,
    /// Writes the figures to a file too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

impl Options {
    /// Returns whether the load `kind` was asked for.
    pub(crate) fn includes(&self, kind: Kind) -> bool {
        (self.only.is_empty() || self.only.contains(&kind))
            && !(self.scripted && kind == Kind::Paced)
    }
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// One request in flight, not streamed.
    One,
    /// Many requests in flight, not streamed.
    Many,
    /// Requests at a fixed rate, whether or not earlier ones are done, not streamed.
    Steady,
    /// One stream at a time, of few chunks.
    First,
    /// Many streams, as fast as they go.
    Saturated,
    /// Many streams whose chunks come at the pace of a model.
    Paced,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("between 0.1 and 3600 seconds".to_owned())
    }
}
