//! The figures as a table and a picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use iris_benches::chart::{Chart, Group, Panel, Series};

use crate::kinds::{Kind, Traits};
use crate::network::Fate;

const SEED: Series = Series { name: "paid by the seeds' rules", colour: "#b7bfc8" };
const EVIDENCE: Series = Series { name: "paid by evidence", colour: "#1b6ca8" };
const MEDIAN: Series = Series { name: "found, median", colour: "#e0a458" };
const SLOWEST: Series = Series { name: "found, slowest twentieth", colour: "#a4502d" };

#[derive(Debug, Default)]
pub(crate) struct Report {
    years: u32,
    fates: BTreeMap<Kind, Vec<Fate>>,
}

/// What became of the machines of a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) machines: usize,
    /// Percent of the machines that were found lying.
    pub(crate) found: f64,
    /// Days until then.
    pub(crate) median: f64,
    pub(crate) slow: f64,
    pub(crate) slowest: f64,
    /// What a machine was paid, in what an ordinary honest one was.
    pub(crate) evidence: f64,
    pub(crate) seed: f64,
}

impl Report {
    pub(crate) fn add(&mut self, machines: &[Fate]) {
        self.years += 1;
        for fate in machines {
            self.fates.entry(fate.kind).or_default().push(fate.clone());
        }
    }

    pub(crate) fn figures(&self, kind: Kind) -> Figures {
        let fates = &self.fates[&kind];
        let mut days: Vec<f64> = fates.iter().flat_map(|fate| fate.found.clone()).collect();
        days.sort_by(f64::total_cmp);
        let found = fates.iter().filter(|fate| !fate.found.is_empty()).count();
        let paid = |pay: fn(&Fate) -> i64| {
            let ordinary = mean(self.fates[&Kind::Ordinary].iter().map(pay));
            mean(fates.iter().map(pay)) / ordinary.max(1.0)
        };
        Figures {
            machines: fates.len(),
            found: 100.0 * float(found) / float(fates.len()),
            median: percentile(&days, 50),
            slow: percentile(&days, 95),
            slowest: percentile(&days, 100),
            evidence: paid(|fate| fate.evidence),
            seed: paid(|fate| fate.seed),
        }
    }

    /// Writes the figures as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| kind | machines | tasks a day | found | days until: median, p95, last | seeds' rules \
             pay | evidence pays |\n|---|---|---|---|---|---|---|\n",
        );
        for kind in Kind::ALL {
            let Traits { name, tasks, identities, .. } = kind.traits();
            let figures = self.figures(kind);
            let days = if figures.found > 0.0 {
                format!("{:.1}, {:.1}, {:.1}", figures.median, figures.slow, figures.slowest)
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {:.1} % | {days} | {:.2} | {:.2} |",
                figures.machines,
                tasks * identities,
                figures.found,
                figures.seed,
                figures.evidence,
            );
        }
        let (accused, all) = self.accused();
        let _ = writeln!(
            text,
            "\n{} years, each with a seed of its own. Pay is that of a machine, in what an ordinary \
             honest one gets. Of {all} honest machines' years, {accused} saw a verdict.",
            self.years
        );
        text
    }

    /// Returns how many honest machines were found lying, and of how many.
    fn accused(&self) -> (usize, usize) {
        let honest = self.fates.values().flatten().filter(|fate| !fate.kind.is_liar());
        honest.fold((0, 0), |(accused, all), fate| {
            (accused + usize::from(!fate.found.is_empty()), all + 1)
        })
    }

    /// Draws the figures.
    pub(crate) fn picture(&self) -> String {
        let liars = || Kind::ALL.into_iter().filter(|kind| kind.is_liar());
        let honest = Kind::ALL.into_iter().filter(|kind| !kind.is_liar());
        let (accused, all) = self.accused();
        let chart = Chart {
            title: "A year with liars",
            legend: vec![SEED, EVIDENCE, MEDIAN, SLOWEST],
            mark: None,
            panels: vec![
                self.panel("Pay of honest machines", honest, Self::pay),
                self.panel("Pay of liars", liars(), Self::pay),
                self.panel("Days until liars are found", liars(), Self::days),
            ],
            note: format!(
                "Simulated: {} years of 1,000 nodes each. Pay in that of an ordinary honest machine. \
                 Of {all} honest machines' years, {accused} saw a verdict.",
                self.years
            ),
        };
        chart.draw()
    }

    fn pay(&self, kind: Kind) -> Vec<(Series, f64)> {
        let figures = self.figures(kind);
        vec![(SEED, figures.seed), (EVIDENCE, figures.evidence)]
    }

    fn days(&self, kind: Kind) -> Vec<(Series, f64)> {
        let figures = self.figures(kind);
        vec![(MEDIAN, figures.median), (SLOWEST, figures.slow)]
    }

    fn panel(
        &self,
        title: &'static str,
        kinds: impl Iterator<Item = Kind>,
        bars: fn(&Self, Kind) -> Vec<(Series, f64)>,
    ) -> Panel {
        let group = |kind: Kind| Group {
            name: kind.traits().name.to_owned(),
            bars: bars(self, kind),
            mark: None,
        };
        let axis = if title.starts_with("Days") { "days" } else { "ordinary honest machine = 1" };
        Panel { title, axis, groups: kinds.map(group).collect() }
    }
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last * percent).div_ceil(100)).copied().unwrap_or(0.0)
}

fn mean(numbers: impl Iterator<Item = i64>) -> f64 {
    let (sum, count) = numbers.fold((0_i64, 0), |(sum, count), n| (sum + n, count + 1));
    #[expect(clippy::cast_precision_loss, reason = "a figure in a table has three digits")]
    let sum = sum as f64;
    sum / float(count.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "counts of nodes are small")]
fn float(count: usize) -> f64 {
    count as f64
}
