//! The loads, and the turns they take.

use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use crate::Failure;
use crate::figures::Figures;
use crate::load::{Arrival, Load};
use crate::network::{Network, Plan};
use crate::options::{Options, Part};
use crate::report::row::Row;
use crate::report::{Coordinator, Memory};
use crate::request::{INSTANT, PACED, Question, Target};

/// How long a load runs before it is measured.
const RAMP: Duration = Duration::from_millis(300);
/// How long the last answers of a turn may take; the longest streams at the slowest pace.
const DRAIN: Duration = Duration::from_mins(2);
/// Slots of the node: more than any load has in flight, so that nothing waits in line.
const SLOTS: u32 = 1000;
/// Words of an answer that is not streamed.
const WORDS: u32 = 16;
/// Words of a stream that is measured for its first.
const FEW: u32 = 4;
/// Words of a paced stream: few enough that each turn measures the first of some.
const PACED_WORDS: u32 = 25;

/// Runs all loads that were asked for, by all ways in turns and all of them in every round, so
/// that each meets the same weather.
pub(crate) async fn run(options: &Options) -> Result<(Vec<Row>, Coordinator), Failure> {
    let network = Network::start(&Plan {
        pace: options.pace,
        service: 0,
        slots: SLOTS,
        scripted: options.scripted,
        // A check looks at Iris only.
        nginx: !options.check,
        callers: 1,
    })
    .await?;
    let loads: Vec<_> = loads(options).into_iter().filter(|l| options.includes(l.0)).collect();
    let ways = || network.ways.iter().map(|(way, _)| (*way, Vec::new())).collect();
    let row = |(part, name, load): &(Part, String, Load)| Row {
        part: *part,
        name: name.clone(),
        rate: match load.arrival {
            Arrival::Open { rate } => Some(rate),
            Arrival::Closed { .. } => None,
        },
        streams: load.first,
        ways: ways(),
    };
    let mut rows: Vec<Row> = loads.iter().map(row).collect();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {} ...", options.rounds);
        for ((_, _, load), row) in loads.iter().zip(&mut rows) {
            for ((_, target), (_, turns)) in network.ways.iter().zip(&mut row.ways) {
                turns.push(turn(options, &network, target, load).await?);
            }
        }
    }
    let (coordinator, node) = network.resident_kib()?;
    let memory = Memory { idle: network.idle_kib, coordinator, node };
    let durable = network.durable().await?;
    network.stop().await?;
    Ok((rows, Coordinator { memory, durable }))
}

fn loads(options: &Options) -> Vec<(Part, String, Load)> {
    let whole = Question::new(INSTANT, WORDS, false);
    let request = |arrival| Load { question: whole.clone(), arrival, first: false };
    let stream = |model, words, in_flight| Load {
        question: Question::new(model, words, true),
        arrival: Arrival::Closed { in_flight },
        first: true,
    };
    let Options { in_flight, streams, chunks, paced_streams, pace, .. } = *options;
    let mut loads = vec![
        (Part::One, "1 in flight".into(), request(Arrival::Closed { in_flight: 1 })),
        (Part::Many, format!("{in_flight} in flight"), request(Arrival::Closed { in_flight })),
    ];
    let mut rates = options.rates.clone();
    rates.sort_unstable();
    for rate in rates {
        loads.push((Part::Steady, format!("{rate} requests/s"), request(Arrival::Open { rate })));
    }
    let name = format!("{paced_streams} streams, {pace} ms");
    loads.extend([
        (Part::First, "1 stream".into(), stream(INSTANT, FEW, 1)),
        (Part::Saturated, format!("{streams} streams"), stream(INSTANT, chunks, streams)),
        (Part::Paced, name, stream(PACED, PACED_WORDS, paced_streams)),
    ]);
    loads
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
