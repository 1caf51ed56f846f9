//! The table, the targets and the JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::Failure;
use crate::figures::{Figures, micros_each};
use crate::options::Kind;

/// What all loads came to.
pub(crate) struct Report {
    pub(crate) scripted: bool,
    pub(crate) rows: Vec<Row>,
    pub(crate) memory: Memory,
}

/// What one load came to.
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// Whether chunks are counted, and times are to the first token.
    pub(crate) streams: bool,
    pub(crate) direct: Figures,
    pub(crate) iris: Figures,
}

/// Resident memory of the processes, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) idle: u64,
    pub(crate) coordinator: u64,
    pub(crate) node: u64,
}

/// A bound that the project has set itself.
struct Target {
    name: &'static str,
    unit: &'static str,
    bound: f64,
    found: f64,
}

impl Row {
    fn count(&self, figures: &Figures) -> u32 {
        if self.streams { figures.chunks } else { figures.answers }
    }

    fn added(&self, percent: usize) -> f64 {
        self.iris.micros(percent) - self.direct.micros(percent)
    }

    /// Returns the CPU of coordinator and node for each request or chunk, in microseconds.
    fn cpu(&self) -> (f64, f64) {
        let (count, cpu) = (self.count(&self.iris), self.iris.cpu);
        (micros_each(cpu.coordinator, count), micros_each(cpu.node, count))
    }

    /// Returns the CPU of the mock for each request or chunk that went to it directly, in
    /// microseconds.
    fn cpu_of_mock(&self) -> f64 {
        micros_each(self.direct.cpu.mock, self.count(&self.direct))
    }

    fn cpu_of_both(&self) -> f64 {
        let (coordinator, node) = self.cpu();
        coordinator + node
    }

    fn targets(&self) -> Vec<Target> {
        let target = |name, bound, found| Target { name, unit: "µs", bound, found };
        match self.kind {
            Kind::One => vec![target("added to one request, p50", 85.0, self.added(50))],
            Kind::Many => vec![target("CPU of a request", 45.0, self.cpu_of_both())],
            Kind::Steady => {
                vec![target("added at a steady rate, p50", 250.0, self.added(50))]
            }
            Kind::First => vec![target("added to the first token, p10", 120.0, self.added(10))],
            Kind::Saturated => {
                vec![target("CPU of a chunk, saturated", 7.0, self.cpu_of_both())]
            }
            Kind::Paced => vec![target("CPU of a chunk, paced", 24.0, self.cpu_of_both())],
        }
    }

    fn to_json(&self) -> Value {
        let side = |figures: &Figures| {
            let answers = figures.answers;
            json!({
                "seconds": figures.measured.as_secs_f64(),
                "answers": answers,
                "chunks": figures.chunks,
                "failures": figures.failures,
                "answers_per_second": figures.per_second(answers),
                "chunks_per_second": figures.per_second(figures.chunks),
                "p10_us": figures.micros(10),
                "p50_us": figures.micros(50),
                "p99_us": figures.micros(99),
            })
        };
        let (coordinator, node) = self.cpu();
        json!({
            "load": self.name,
            "counted": if self.streams { "chunks" } else { "requests" },
            "times": if self.streams { "first token" } else { "whole answer" },
            "direct": side(&self.direct),
            "iris": side(&self.iris),
            "cpu_us_each": {
                "mock_direct": self.cpu_of_mock(),
                "coordinator": coordinator,
                "node": node,
            },
        })
    }
}

impl Report {
    /// Returns how many requests failed.
    pub(crate) fn failures(&self) -> u32 {
        self.rows.iter().map(|row| row.direct.failures + row.iris.failures).sum()
    }

    pub(crate) fn to_json(&self) -> Result<String, Failure> {
        let loads: Vec<Value> = self.rows.iter().map(Row::to_json).collect();
        let Memory { idle, coordinator, node } = self.memory;
        let report = json!({
            "cores": std::thread::available_parallelism()?,
            "optimised": !cfg!(debug_assertions),
            "scripted": self.scripted,
            "loads": loads,
            "memory_kib": {
                "coordinator_idle": idle,
                "coordinator_after": coordinator,
                "node_after": node,
            },
        });
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    }

    fn write_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<22} {:>20} {:>17} {:>17} {:>17} {:>24}",
            "", "per second", "p50 µs", "p99 µs", "added µs", "CPU µs each"
        )?;
        writeln!(
            f,
            "{:<22} {:>10} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} \
             {:>5} {:>5}",
            "load",
            "direct",
            "Iris",
            "direct",
            "Iris",
            "direct",
            "Iris",
            "p50",
            "p99",
            "mock",
            "coord.",
            "node",
            "both"
        )?;
        for row in &self.rows {
            let rate = |figures: &Figures| figures.per_second(row.count(figures));
            let (coordinator, node) = row.cpu();
            writeln!(
                f,
                "{:<22} {:>10.0} {:>9.0} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>6.1} \
                 {:>6.1} {:>5.1} {:>5.1}",
                row.name,
                rate(&row.direct),
                rate(&row.iris),
                row.direct.micros(50),
                row.iris.micros(50),
                row.direct.micros(99),
                row.iris.micros(99),
                row.added(50),
                row.added(99),
                row.cpu_of_mock(),
                coordinator,
                node,
                coordinator + node
            )?;
        }
        writeln!(f, "Of streams: chunks per second, times to the first token, CPU of a chunk.")?;
        let mib = |kib: u64| f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0;
        let Memory { idle, coordinator, node } = self.memory;
        writeln!(
            f,
            "Memory: coordinator {:.1} MiB idle, {:.1} MiB after all; node {:.1} MiB after all.",
            mib(idle),
            mib(coordinator),
            mib(node)
        )
    }

    fn write_targets(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = f64::from(u32::try_from(self.memory.idle).unwrap_or(u32::MAX)) / 1024.0;
        let memory = Target { name: "idle coordinator", unit: "MiB", bound: 15.0, found: idle };
        for target in self.rows.iter().flat_map(Row::targets).chain([memory]) {
            let Target { name, unit, bound, found } = target;
            let verdict = if found <= bound { "met" } else { "missed" };
            writeln!(f, "{name:<32} {found:>7.1} of {bound:>5.0} {unit:<3} {verdict}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if cfg!(debug_assertions) {
            writeln!(f, "Not built with --release: these figures mean nothing.")?;
        }
        if self.scripted {
            writeln!(f, "The node answers by itself; direct is the mock nevertheless.")?;
        }
        self.write_table(f)?;
        writeln!(f)?;
        self.write_targets(f)?;
        for figures in self.rows.iter().flat_map(|row| [&row.direct, &row.iris]) {
            if let Some(fault) = &figures.fault {
                writeln!(f, "{} requests failed; the first: {fault}", figures.failures)?;
            }
        }
        Ok(())
    }
}
