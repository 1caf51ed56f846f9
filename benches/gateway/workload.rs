//! The loads, and the turns they take.

use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use crate::Failure;
use crate::figures::Figures;
use crate::load::{Arrival, Load};
use crate::network::Network;
use crate::options::{Kind, Options};
use crate::report::{Memory, Report, Row};
use crate::request::{INSTANT, PACED, Question, Target};

/// How long a load runs before it is measured.
const RAMP: Duration = Duration::from_millis(300);
/// How long the last answers of a turn may take; the longest streams at the slowest pace.
const DRAIN: Duration = Duration::from_mins(2);
/// Words of an answer that is not streamed.
const WORDS: u32 = 16;
/// Words of a stream that is measured for its first.
const FEW: u32 = 4;
/// Words of a paced stream.
const PACED_WORDS: u32 = 75;

/// Runs all loads that were asked for.
pub(crate) async fn run(options: &Options) -> Result<Report, Failure> {
    let network = Network::start(options).await?;
    let mut rows = Vec::new();
    for (kind, name, load) in loads(options) {
        if options.includes(kind) {
            eprintln!("{name} ...");
            rows.push(measure(options, &network, kind, name, &load).await?);
        }
    }
    let (coordinator, node) = network.resident_kib()?;
    let memory = Memory { idle: network.idle_kib, coordinator, node };
    network.stop().await?;
    Ok(Report { scripted: options.scripted, rows, memory })
}

fn loads(options: &Options) -> [(Kind, String, Load); 6] {
    let whole = Question::new(INSTANT, WORDS, false);
    let request = |arrival| Load { question: whole.clone(), arrival, first: false };
    let stream = |model, words, in_flight| Load {
        question: Question::new(model, words, true),
        arrival: Arrival::Closed { in_flight },
        first: true,
    };
    let Options { in_flight, rate, streams, chunks, paced_streams, pace, .. } = *options;
    [
        (Kind::One, "1 in flight".into(), request(Arrival::Closed { in_flight: 1 })),
        (Kind::Many, format!("{in_flight} in flight"), request(Arrival::Closed { in_flight })),
        (Kind::Steady, format!("{rate} requests/s"), request(Arrival::Open { rate })),
        (Kind::First, "1 stream".into(), stream(INSTANT, FEW, 1)),
        (Kind::Saturated, format!("{streams} streams"), stream(INSTANT, chunks, streams)),
        (
            Kind::Paced,
            format!("{paced_streams} streams, {pace} ms"),
            stream(PACED, PACED_WORDS, paced_streams),
        ),
    ]
}

/// Runs one load at both targets in turns, so that both meet the same weather.
async fn measure(
    options: &Options,
    network: &Network,
    kind: Kind,
    name: String,
    load: &Load,
) -> Result<Row, Failure> {
    let (mut direct, mut iris) = (Figures::default(), Figures::default());
    for _ in 0..options.rounds {
        direct.add(turn(options, network, &network.direct, load).await?);
        iris.add(turn(options, network, &network.iris, load).await?);
    }
    let streams = load.first;
    Ok(Row { kind, name, streams, direct, iris })
}

async fn turn(
    options: &Options,
    network: &Network,
    target: &Target,
    load: &Load,
) -> Result<Figures, Failure> {
    let (window, mut workers) = load.start(target, (RAMP, options.seconds)).await?;
    sleep_until(window.begin.into()).await;
    let (begun, before) = (Instant::now(), network.cpu()?);
    sleep_until(window.end.into()).await;
    let (measured, after) = (begun.elapsed(), network.cpu()?);
    let mut figures = Figures { measured, cpu: after.since(before), ..Figures::default() };
    let join = async {
        while let Some(worker) = workers.join_next().await {
            figures.add(worker??);
        }
        Ok::<_, Failure>(())
    };
    timeout(DRAIN, join).await.map_err(|_| "a load did not end")??;
    Ok(figures)
}
