//! The report as a picture: panels of bars, each way in its colour.

use iris_benches::chart::{Chart, Group, Panel, Series};

use super::Report;
use super::row::Row;
use crate::network::Way;
use crate::options::Part;

/// Draws the loads of `report`.
pub(super) fn draw(report: &Report) -> String {
    let ways = [Way::Direct, Way::Nginx, Way::Iris, Way::Sealed];
    let shown = ways.into_iter().filter(|way| report.has_nginx() || *way != Way::Nginx);
    let machine = &report.machine;
    let chart = Chart {
        title: "What lies between a caller and a model server",
        legend: shown.map(series).collect(),
        mark: Some("target for Iris"),
        panels: panels(report),
        note: format!(
            "{} cores, load average {} before and {} at the end; medians of {} rounds of {} s{}.",
            machine.cores,
            machine.load.0,
            machine.load.1,
            machine.rounds,
            machine.seconds,
            if cfg!(debug_assertions) {
                "; not optimised, so these figures mean nothing"
            } else {
                ""
            }
        ),
    };
    chart.draw()
}

/// Makes the bars of one load.
fn group(row: &Row, ways: &[Way], target: Option<f64>, figure: impl Fn(Way) -> f64) -> Group {
    let bars = ways.iter().filter(|way| !row.turns(**way).is_empty());
    let bars = bars.map(|way| (series(*way), figure(*way))).filter(|(_, value)| !value.is_nan());
    let mark = target.map(|target| (series(Way::Iris), target));
    Group { name: row.name.clone(), bars: bars.collect(), mark }
}

fn panels(report: &Report) -> Vec<Panel> {
    let all = [Way::Direct, Way::Nginx, Way::Iris, Way::Sealed];
    let between = [Way::Nginx, Way::Iris, Way::Sealed];
    let bars = |row: Option<&Row>, ways: &[Way], target, figure: &dyn Fn(&Row, Way) -> f64| {
        row.map(|row| group(row, ways, target, |way| figure(row, way)))
    };
    let cpu = |part, target| bars(report.row(part), &all, Some(target), &Row::cpu);
    let median = |row, target| bars(row, &between, target, &|row, way| row.added(way, 50));
    let steady = report.rows.iter().filter(|row| row.rate.is_some());
    let target = |row: &Row| (row.rate == Some(1000)).then_some(250.0);
    let slowest = |row| bars(row, &between, None, &|row, way| row.added(way, 99));
    let mut first =
        bars(report.row(Part::First), &between, Some(120.0), &|row, way| row.added(way, 10));
    if let Some(first) = &mut first {
        "first token, p10".clone_into(&mut first.name);
    }
    let mut panels = vec![
        Panel {
            title: "CPU for each request",
            axis: "microseconds",
            groups: cpu(Part::Many, 45.0).into_iter().collect(),
        },
        Panel {
            title: "CPU for each streamed chunk",
            axis: "microseconds",
            groups: [cpu(Part::Saturated, 7.0), cpu(Part::Paced, 24.0)]
                .into_iter()
                .flatten()
                .collect(),
        },
        Panel {
            title: "Time added, median",
            axis: "microseconds, from when a request was due",
            groups: std::iter::once(median(report.row(Part::One), Some(85.0)))
                .chain(steady.clone().map(|row| median(Some(row), target(row))))
                .chain([first])
                .flatten()
                .collect(),
        },
        Panel {
            title: "Time added, slowest hundredth",
            axis: "microseconds, from when a request was due",
            groups: std::iter::once(report.row(Part::One))
                .chain(steady.map(Some))
                .filter_map(slowest)
                .collect(),
        },
        Panel {
            title: "Requests a second",
            axis: "requests a second",
            groups: bars(report.row(Part::Many), &all, None, &Row::per_second)
                .into_iter()
                .collect(),
        },
        Panel {
            title: "Chunks a second",
            axis: "chunks a second",
            groups: bars(report.row(Part::Saturated), &all, None, &Row::per_second)
                .into_iter()
                .collect(),
        },
    ];
    panels.retain(|panel| !panel.groups.is_empty());
    panels
}

const fn series(way: Way) -> Series {
    let (name, colour) = match way {
        Way::Direct => ("direct (the mock server itself)", "#a8b2bd"),
        Way::Nginx => ("nginx", "#5b8c5a"),
        Way::Iris => ("Iris (coordinator and node)", "#3f5fbf"),
        Way::Sealed => ("Iris, sealed by the caller", "#8f6bb3"),
    };
    Series { name, colour }
}
