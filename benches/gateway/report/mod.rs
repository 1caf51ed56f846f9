//! What all parts came to: the table, the targets and the JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::Failure;
use crate::crowd::Crowd;
use crate::inside::Choices;
use crate::network::Way;
use crate::options::{Options, Part};
use crate::overload::{Level, Overload};

mod check;
mod plot;
pub(crate) mod row;
mod table;
mod target;

use row::Row;
use target::Target;

/// What all parts came to.
#[derive(Debug)]
pub(crate) struct Report {
    scripted: bool,
    machine: Machine,
    pub(crate) rows: Vec<Row>,
    pub(crate) coordinator: Option<Coordinator>,
    pub(crate) crowd: Option<Crowd>,
    pub(crate) overload: Option<Overload>,
    pub(crate) rows_per_second: Option<f64>,
    pub(crate) choices: Vec<Choices>,
}

/// What the coordinator came to after all loads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coordinator {
    pub(crate) memory: Memory,
    /// Rows that it made durable, and the commits that it took for them.
    pub(crate) durable: (u64, u64),
}

impl Coordinator {
    /// Returns how many rows share a commit. Where requests wait for the disk, few do.
    fn rows_per_commit(&self) -> f64 {
        let count = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        count(self.durable.0) / count(self.durable.1)
    }
}

/// Resident memory of the processes, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) idle: u64,
    pub(crate) coordinator: u64,
    pub(crate) node: u64,
}

/// Where and how the figures were taken.
#[derive(Debug)]
struct Machine {
    cores: usize,
    rounds: u32,
    seconds: f64,
    /// What the machine had to do in the minute before the run and in its last one.
    load: (String, String),
}

impl Report {
    /// Begins an empty report.
    pub(crate) fn new(options: &Options) -> Result<Self, Failure> {
        let machine = Machine {
            cores: std::thread::available_parallelism()?.get(),
            rounds: options.rounds,
            seconds: options.seconds.as_secs_f64(),
            load: (load_average(), String::new()),
        };
        Ok(Self {
            scripted: options.scripted,
            machine,
            rows: Vec::new(),
            coordinator: None,
            crowd: None,
            overload: None,
            rows_per_second: None,
            choices: Vec::new(),
        })
    }

    /// Ends the run that the report is about.
    pub(crate) fn end(&mut self) {
        self.machine.load.1 = load_average();
    }

    /// Returns an error when requests failed.
    pub(crate) fn failures(&self) -> Result<(), Failure> {
        let turns = self.rows.iter().flat_map(|row| &row.ways).flat_map(|(_, turns)| turns);
        let levels = self.overload.iter().flat_map(|o| [&o.half, &o.twice]);
        let loads = turns.map(|turn| (turn.failures, &turn.fault));
        let all = loads.chain(levels.map(|level| (level.failures, &level.fault)));
        let (mut failures, mut fault) = (0, None);
        for (count, cause) in all {
            failures += count;
            fault = fault.or(cause.as_ref());
        }
        match fault {
            None => Ok(()),
            Some(fault) => Err(format!(
                "{failures} requests failed, so the figures are in doubt; the first: {fault}"
            )
            .into()),
        }
    }

    /// Returns an error that names what is out of the bounds of a check.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        check::check(self)
    }

    pub(crate) fn to_svg(&self) -> String {
        plot::draw(self)
    }

    pub(crate) fn to_json(&self) -> Result<String, Failure> {
        let rows: Vec<Value> = self.rows.iter().map(Row::to_json).collect();
        let targets: Vec<Value> = self.targets().into_iter().map(Target::to_json).collect();
        let Machine { cores, rounds, seconds, load } = &self.machine;
        let report = json!({
            "machine": { "cores": cores, "load_before": load.0, "load_after": load.1 },
            "rounds": rounds,
            "seconds": seconds,
            "optimised": !cfg!(debug_assertions),
            "scripted": self.scripted,
            "loads": rows,
            "memory_kib": self.coordinator.map(|Coordinator { memory, .. }| json!({
                "coordinator_idle": memory.idle,
                "coordinator_after_loads": memory.coordinator,
                "node_after_loads": memory.node,
            })),
            "rows_per_commit": self.coordinator.map(|c| c.rows_per_commit()),
            "idle_nodes": self.crowd.map(|crowd| json!({
                "nodes": crowd.nodes,
                "coordinator_kib_before": crowd.before_kib,
                "coordinator_kib": crowd.after_kib,
                "kib_each": crowd.kib_each(),
                "cores_for_heartbeats": crowd.load,
            })),
            "overload": self.overload.as_ref().map(overload_json),
            "durable_rows_per_second": self.rows_per_second,
            "choose_us": self.choices.iter().map(|choice| json!({
                "nodes": choice.nodes,
                "micros": choice.micros,
            })).collect::<Vec<_>>(),
            "targets": targets,
        });
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    }

    fn row(&self, part: Part) -> Option<&Row> {
        self.rows.iter().find(|row| row.part == part)
    }

    fn rate(&self, rate: u32) -> Option<&Row> {
        self.rows.iter().find(|row| row.rate == Some(rate))
    }

    fn has_nginx(&self) -> bool {
        self.rows.iter().any(|row| !row.turns(Way::Nginx).is_empty())
    }
}

fn overload_json(overload: &Overload) -> Value {
    let level = |level: &Level| {
        json!({
            "served": level.served.0.len(),
            "served_p50_us": level.served.micros(50),
            "served_p99_us": level.served.micros(99),
            "refused": level.refused.0.len(),
            "refused_p50_us": level.refused.micros(50),
            "refused_p99_us": level.refused.micros(99),
        })
    };
    let patience = overload.patience;
    json!({
        "capacity_per_second": overload.capacity,
        "half": level(&overload.half),
        "twice": level(&overload.twice),
        "p99_ratio": overload.ratio(),
        "returned_as_told": patience.refused,
        "served_on_return": patience.served,
        "longest_retry_after_s": patience.longest.as_secs(),
    })
}

/// Returns the machine's load of the last minute, as Linux tells it.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Returns KiB as MiB.
fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if cfg!(debug_assertions) {
            writeln!(f, "Not built with --release: these figures mean nothing.")?;
        }
        if self.scripted {
            writeln!(f, "The node answers by itself; direct is the mock nevertheless.")?;
        }
        self.write_machine(f)?;
        self.write_loads(f)?;
        self.write_overload(f)?;
        self.write_targets(f)
    }
}
