//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::role::Role;

/// Measures what an Iris network adds to a model server that answers at once.
///
/// Starts a mock of an OpenAI server, a coordinator (HTTP on loopback, API keys, settlement in a
/// SQLite file, hop sealed), a node that forwards to the mock and, where it is installed, nginx in
/// front of the mock: processes besides this one, which makes the load. Sends the same requests to
/// the mock directly, through nginx, through the network and sealed through the network (without a
/// shape), in turns, and takes them all down at the end. Takes about two minutes unless asked for more; uses free ports and a temporary folder.
/// Build it with --release.
///
/// Every figure is the median of the rounds; "added" is the difference to the direct turn of the
/// same round. CPU is what the system accounts to a process while a load runs, kernel work
/// included, divided by the requests or chunks that arrived: the mock's own on the lines named
/// direct, nginx's, and that of coordinator and node together on the lines named Iris and sealed;
/// the caller's is that of the process that makes the load, sealing included. Times are
/// those of whole answers, or to the first token where the load is streams; at a fixed rate they
/// count from when a request was due. A chunk is one token of one stream; the mock writes each by
/// itself. All processes share the machine's cores with each other and with whatever else runs,
/// so rates and times say less than CPU.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Measured seconds of each turn.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Rounds; in each of them every load goes every way once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Parts to measure; all when none is named.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// Requests in flight of the load `many`.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) in_flight: u32,
    /// Requests a second of the loads `steady`.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "250,1000",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub(crate) rates: Vec<u32>,
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
    /// Idle nodes of the part `nodes`. Each needs two of the machine's sockets.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) nodes: u32,
    /// Lets the node answer by itself instead of asking the mock, which leaves out what the
    /// backend costs; there is no load `paced` then.
    #[arg(long)]
    pub(crate) scripted: bool,
    /// Writes the figures to a file too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draws the figures into a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Fails when a figure that is steady on any machine is out of its bounds, for automatic
    /// checks: CPU beside that of the mock, memory, counts.
    #[arg(long)]
    pub(crate) check: bool,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

impl Options {
    /// Returns whether `part` was asked for.
    pub(crate) fn includes(&self, part: Part) -> bool {
        (self.only.is_empty() || self.only.contains(&part))
            && !(self.scripted && part == Part::Paced)
    }

    /// Returns whether some load was asked for.
    pub(crate) fn has_loads(&self) -> bool {
        Part::LOADS.iter().any(|part| self.includes(*part))
    }
}

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// One request in flight, not streamed.
    One,
    /// Many requests in flight, not streamed.
    Many,
    /// Requests at fixed rates, whether or not earlier ones are done, not streamed.
    Steady,
    /// One stream at a time, of few chunks.
    First,
    /// Many streams, as fast as they go.
    Saturated,
    /// Many streams whose chunks come at the pace of a model.
    Paced,
    /// Memory of idle nodes.
    Nodes,
    /// Requests at half and at twice what the node can do.
    Overload,
    /// Rows that become durable.
    Rows,
    /// Choosing among many nodes.
    Choose,
}

impl Part {
    pub(crate) const LOADS: [Self; 6] =
        [Self::One, Self::Many, Self::Steady, Self::First, Self::Saturated, Self::Paced];
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("between 0.1 and 3600 seconds".to_owned())
    }
}
