//! The figures as a table and a picture.

use std::fmt::Write as _;

use iris_benches::chart::{Chart, Group, Panel};

use crate::fleet::{self, FLEET, Kind};
use crate::tally::{Figures, Tally};
use crate::ways::Way;

pub(crate) struct Report {
    seeds: u64,
    minutes: u64,
    rows: Vec<(f64, Way, Figures)>,
}

impl Report {
    pub(crate) const fn new(seeds: u64, minutes: u64) -> Self {
        Self { seeds, minutes, rows: Vec::new() }
    }

    #[expect(clippy::needless_pass_by_value, reason = "a tally is used up by its report")]
    pub(crate) fn add(&mut self, load: f64, way: Way, tally: Tally) {
        self.rows.push((load, way, tally.figures()));
    }

    /// Writes the figures as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| nodes | slots | tokens/s of a stream | turn down, stall |\n|---|---|---|---|\n",
        );
        for Kind { name, count, slots, speed, refuses, stalls, .. } in &FLEET {
            let bad = (refuses * 100.0, stalls * 100.0);
            let _ = writeln!(
                text,
                "| {count} {name} | {slots} | {speed:.0} | {:.0} %, {:.0} % |",
                bad.0, bad.1
            );
        }
        text += "\n";
        text += concat!(
            "| load | chosen by | median | p95 | failed | slots busy | tokens/s | new nodes' share ",
            "| first work of a new node | largest owner's share |\n",
            "|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for (load, way, figures) in &self.rows {
            let _ = writeln!(
                text,
                "| {:.0} % | {} | {:.1} s | {:.1} s | {:.2} % | {:.0} % | {:.0} | {:.1} % | {:.1} s \
                 | {:.0} % |",
                load * 100.0,
                way.series().name,
                figures.median,
                figures.slow,
                figures.failed,
                figures.busy,
                figures.throughput,
                figures.newcomers,
                figures.first_work,
                figures.one_owner,
            );
        }
        let _ = writeln!(
            text,
            "\nOf all that the fleet can write, new nodes have {:.1} % and the largest owner {:.0} %.",
            share(|kind| if kind.new { kind.count } else { 0 }),
            share(|kind| kind.of_one_owner),
        );
        text
    }

    /// Draws the figures.
    pub(crate) fn picture(&self) -> String {
        let chart = Chart {
            title: "Work spread over a mixed fleet",
            legend: Way::ALL.map(Way::series).to_vec(),
            mark: None,
            panels: vec![
                self.panel("Time to the whole answer, median", "seconds", |f| f.median),
                self.panel("Time to the whole answer, slowest twentieth", "seconds", |f| f.slow),
                self.panel("Tasks without an answer", "of ten thousand", |f| 100.0 * f.failed),
                self.panel("Slots in use", "percent of all slot time", |f| f.busy),
                self.panel("New nodes' share of the work", "percent of tokens", |f| f.newcomers),
                self.panel("Largest owner's share", "percent of tokens", |f| f.one_owner),
            ],
            note: format!(
                "Simulated: averages of {} seeds, {} virtual minutes each.",
                self.seeds, self.minutes
            ),
        };
        chart.draw()
    }

    fn panel(
        &self,
        title: &'static str,
        axis: &'static str,
        figure: impl Fn(&Figures) -> f64,
    ) -> Panel {
        let mut groups: Vec<Group> = Vec::new();
        for (load, way, figures) in &self.rows {
            let name = format!("load {:.0} %", load * 100.0);
            if groups.last().is_none_or(|group| group.name != name) {
                groups.push(Group { name, bars: Vec::new(), mark: None });
            }
            let bar = (way.series(), figure(figures));
            groups.last_mut().expect("a group was just added").bars.push(bar);
        }
        Panel { title, axis, groups }
    }
}

/// Returns the percentage of the fleet's capacity that some of its nodes have.
fn share(count: impl Fn(&Kind) -> u32) -> f64 {
    let of = |kind: &Kind| {
        let honest = 1.0 - kind.refuses - kind.stalls;
        f64::from(count(kind) * kind.slots) * fleet::speed(kind, kind.slots) * honest
    };
    100.0 * FLEET.iter().map(of).sum::<f64>() / fleet::capacity()
}
