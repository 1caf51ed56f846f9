//! The report as text.

use std::fmt;

use super::{Machine, Report, mib};
use crate::network::Way;
use crate::nginx;
use crate::overload::Level;

impl Report {
    pub(super) fn write_machine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cores, rounds, seconds, load } = &self.machine;
        writeln!(
            f,
            "{cores} cores, load average {} before and {} at the end; medians of {rounds} rounds \
             of {seconds} s.",
            load.0, load.1
        )
    }

    pub(super) fn write_loads(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{:<20} {:<7} {:>10} {:>8} {:>8} {:>9} {:>8} {:>8} {:>9} {:>8} {:>7} {:>6} {:>7}",
            "load",
            "by",
            "per second",
            "p10 µs",
            "p50",
            "p99",
            "+p10 µs",
            "+p50",
            "+p99",
            "CPU µs",
            "coord.",
            "node",
            "caller"
        )?;
        for row in &self.rows {
            for (way, _) in &row.ways {
                let way = *way;
                let name = if way == Way::Direct { row.name.as_str() } else { "" };
                write!(
                    f,
                    "{name:<20} {:<7} {:>10.0} {:>8.0} {:>8.0} {:>9.0}",
                    way.name(),
                    row.per_second(way),
                    row.micros(way, 10),
                    row.micros(way, 50),
                    row.micros(way, 99)
                )?;
                if way == Way::Direct {
                    write!(f, " {:>8} {:>8} {:>9}", "", "", "")?;
                } else {
                    let [p10, p50, p99] = [10, 50, 99].map(|percent| row.added(way, percent));
                    write!(f, " {p10:>8.0} {p50:>8.0} {p99:>9.0}")?;
                }
                write!(f, " {:>8.1}", row.cpu(way))?;
                if matches!(way, Way::Iris | Way::Sealed) {
                    let coordinator = row.cpu_of(way, |cpu| cpu.coordinator);
                    let node = row.cpu_of(way, |cpu| cpu.node);
                    write!(f, " {coordinator:>7.1} {node:>6.1}")?;
                } else {
                    write!(f, " {:>7} {:>6}", "", "")?;
                }
                write!(f, " {:>7.1}", row.cpu_of(way, |cpu| cpu.caller))?;
                writeln!(f)?;
            }
        }
        writeln!(f, "Of streams: chunks per second, times to the first token, CPU of a chunk.")?;
        if !self.has_nginx() && nginx::find().is_none() {
            writeln!(f, "nginx was skipped: it is not installed here.")?;
        }
        Ok(())
    }

    pub(super) fn write_overload(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(overload) = &self.overload else { return Ok(()) };
        writeln!(
            f,
            "\n{:<20} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
            "requests/s", "served", "p50 ms", "p99 ms", "429s", "p50 ms", "p99 ms"
        )?;
        let capacity = overload.capacity;
        let levels =
            [("half", capacity / 2, &overload.half), ("twice", capacity * 2, &overload.twice)];
        for (name, rate, Level { served, refused, .. }) in levels {
            let millis = |micros: f64| micros / 1000.0;
            writeln!(
                f,
                "{:<20} {:>8} {:>8.1} {:>8.1} {:>8} {:>9.1} {:>9.1}",
                format!("{rate}: {name} of {capacity}"),
                served.0.len(),
                millis(served.micros(50)),
                millis(served.micros(99)),
                refused.0.len(),
                millis(refused.micros(50)),
                millis(refused.micros(99))
            )?;
        }
        let patience = overload.patience;
        writeln!(
            f,
            "Of {} that came back when told, after {} s at the longest, {} were served.",
            patience.refused,
            patience.longest.as_secs(),
            patience.served
        )
    }

    pub(super) fn write_targets(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for target in self.targets() {
            let verdict = if target.is_met() { "met" } else { "missed" };
            writeln!(
                f,
                "{:<34} {:>9.1} of {} {:>6.0} {:<3} {verdict}",
                target.name,
                target.found,
                if target.least { "at least" } else { " at most" },
                target.bound,
                target.unit
            )?;
        }
        if let Some(coordinator) = self.coordinator {
            writeln!(
                f,
                "After the loads the coordinator takes {:.1} MiB, the node {:.1} MiB; {:.0} rows \
                 shared a commit.",
                mib(coordinator.memory.coordinator),
                mib(coordinator.memory.node),
                coordinator.rows_per_commit()
            )?;
        }
        if let Some(crowd) = self.crowd {
            writeln!(
                f,
                "With {} idle nodes it takes {:.1} MiB, and {:.1} % of a core for heartbeats.",
                crowd.nodes,
                mib(crowd.after_kib),
                crowd.load * 100.0
            )?;
        }
        for choice in &self.choices {
            writeln!(f, "Choosing among {} nodes takes {:.2} µs.", choice.nodes, choice.micros)?;
        }
        Ok(())
    }
}
