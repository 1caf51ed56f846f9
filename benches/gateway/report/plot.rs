//! The report as a picture: panels of bars, each way in its colour.

use std::fmt::Write;

use super::Report;
use super::row::Row;
use crate::network::Way;
use crate::options::Part;

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 28.0;
const GAP: f64 = 36.0;
/// Width of the groups' names within a panel.
const NAMES: f64 = 128.0;
/// Room for the number behind the longest bar.
const NUMBERS: f64 = 58.0;
const BAR: f64 = 15.0;
const HEAD: f64 = 86.0;
const STYLE: &str = "text{font-family:'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif;\
    fill:#1f2933;font-size:12px}.t{font-size:20px;font-weight:bold}.h{font-size:14px;\
    font-weight:bold}.s{fill:#6b7785;font-size:11px}.g{stroke:#e4e8ec;stroke-width:1}\
    .a{stroke:#9aa5b1;stroke-width:1}.m{stroke:#c0262d;stroke-width:2}.mt{fill:#c0262d;\
    font-size:11px}";

/// Bars of one subject on one axis.
struct Panel {
    title: &'static str,
    axis: &'static str,
    groups: Vec<Group>,
}

/// The bars of one load.
struct Group {
    name: String,
    bars: Vec<(Way, f64)>,
    /// The target for Iris, if there is one.
    target: Option<f64>,
}

impl Group {
    fn new(row: &Row, ways: &[Way], target: Option<f64>, figure: impl Fn(Way) -> f64) -> Self {
        let bars = ways.iter().filter(|way| !row.turns(**way).is_empty());
        let bars = bars.map(|way| (*way, figure(*way))).filter(|(_, value)| !value.is_nan());
        Self { name: row.name.clone(), bars: bars.collect(), target }
    }

    fn height(&self) -> f64 {
        self.bars.iter().map(|_| BAR + 2.0).sum::<f64>() + 14.0
    }
}

impl Panel {
    fn height(&self) -> f64 {
        self.groups.iter().map(Group::height).sum::<f64>() + 74.0
    }

    fn longest(&self) -> f64 {
        let bars = self.groups.iter().flat_map(|group| &group.bars).map(|(_, value)| *value);
        bars.chain(self.groups.iter().filter_map(|group| group.target)).fold(1.0, f64::max)
    }

    fn draw(&self, svg: &mut String, left: f64, top: f64, width: f64) {
        let (axis, scale) = (left + NAMES, (width - NAMES - NUMBERS) / self.longest());
        let bottom = top + self.height() - 42.0;
        text(svg, "h", left, top + 12.0, "start", self.title);
        for tick in ticks(self.longest()) {
            let x = axis + tick * scale;
            line(svg, if tick == 0.0 { "a" } else { "g" }, (x, top + 26.0), (x, bottom));
            text(svg, "s", x, bottom + 14.0, "middle", &number(tick));
        }
        let middle = axis + (width - NAMES - NUMBERS) / 2.0;
        text(svg, "s", middle, bottom + 29.0, "middle", self.axis);
        let mut y = top + 32.0;
        for group in &self.groups {
            group.draw(svg, y, axis, scale);
            y += group.height();
        }
    }
}

impl Group {
    fn draw(&self, svg: &mut String, top: f64, axis: f64, scale: f64) {
        let bars = self.height() - 14.0;
        text(svg, "", axis - 8.0, top + bars / 2.0 + 4.0, "end", &self.name);
        let mut y = top;
        for (way, value) in &self.bars {
            let length = (value * scale).max(1.0);
            let _ = write!(
                svg,
                "<rect x=\"{axis:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" \
                 fill=\"{}\"/>",
                colour(*way)
            );
            let mut after = axis + length;
            if let Some(target) = self.target.filter(|_| *way == Way::Iris) {
                let x = axis + target * scale;
                line(svg, "m", (x, y - 2.0), (x, y + BAR + 2.0));
                // The number stands clear of the mark.
                if (x - after).abs() < NUMBERS {
                    after = after.max(x);
                }
            }
            text(svg, "", after + 5.0, y + BAR - 3.5, "start", &number(*value));
            y += BAR + 2.0;
        }
    }
}

/// Draws the loads of `report`.
pub(super) fn draw(report: &Report) -> String {
    let panels = panels(report);
    let width = (WIDTH - 2.0 * MARGIN - GAP) / 2.0;
    let pairs: Vec<&[Panel]> = panels.chunks(2).collect();
    let tallest = |pair: &&[Panel]| pair.iter().map(Panel::height).fold(0.0, f64::max);
    let height = HEAD + pairs.iter().map(tallest).sum::<f64>() + 34.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         width=\"{WIDTH}\" height=\"{height:.0}\"><style>{STYLE}</style>\
         <rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, "t", MARGIN, 36.0, "start", "What lies between a caller and a model server");
    legend(&mut svg, report.has_nginx());
    let mut top = HEAD;
    for pair in pairs {
        for (panel, left) in pair.iter().zip([MARGIN, MARGIN + width + GAP]) {
            panel.draw(&mut svg, left, top, width);
        }
        svg.push('\n');
        top += tallest(&pair);
    }
    let machine = &report.machine;
    let note = format!(
        "{} cores, load average {} before and {} at the end; medians of {} rounds of {} s{}.",
        machine.cores,
        machine.load.0,
        machine.load.1,
        machine.rounds,
        machine.seconds,
        if cfg!(debug_assertions) { "; not optimised, so these figures mean nothing" } else { "" }
    );
    text(&mut svg, "s", MARGIN, height - 14.0, "start", &note);
    svg + "</svg>\n"
}

fn legend(svg: &mut String, nginx: bool) {
    let mut x = MARGIN;
    let entries = [
        (Way::Direct, "direct (the mock server itself)"),
        (Way::Nginx, "nginx"),
        (Way::Iris, "Iris (coordinator and node)"),
        (Way::Sealed, "Iris, sealed by the caller"),
    ];
    for (way, name) in entries.into_iter().filter(|(way, _)| nginx || *way != Way::Nginx) {
        let _ = write!(
            svg,
            "<rect x=\"{x}\" y=\"51\" width=\"12\" height=\"12\" fill=\"{}\"/>",
            colour(way)
        );
        text(svg, "", x + 18.0, 61.0, "start", name);
        x += 44.0 + 6.6 * f64::from(u32::try_from(name.len()).unwrap_or(0));
    }
    line(svg, "m", (x + 2.0, 49.0), (x + 2.0, 65.0));
    text(svg, "mt", x + 10.0, 61.0, "start", "target for Iris");
}

fn panels(report: &Report) -> Vec<Panel> {
    let all = [Way::Direct, Way::Nginx, Way::Iris, Way::Sealed];
    let between = [Way::Nginx, Way::Iris, Way::Sealed];
    let group = |row: Option<&Row>, ways: &[Way], target, figure: &dyn Fn(&Row, Way) -> f64| {
        row.map(|row| Group::new(row, ways, target, |way| figure(row, way)))
    };
    let cpu = |part, target| group(report.row(part), &all, Some(target), &Row::cpu);
    let median = |row, target| group(row, &between, target, &|row, way| row.added(way, 50));
    let steady = report.rows.iter().filter(|row| row.rate.is_some());
    let target = |row: &Row| (row.rate == Some(1000)).then_some(250.0);
    let slowest = |row| group(row, &between, None, &|row, way| row.added(way, 99));
    let mut first =
        group(report.row(Part::First), &between, Some(120.0), &|row, way| row.added(way, 10));
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
            groups: group(report.row(Part::Many), &all, None, &Row::per_second)
                .into_iter()
                .collect(),
        },
        Panel {
            title: "Chunks a second",
            axis: "chunks a second",
            groups: group(report.row(Part::Saturated), &all, None, &Row::per_second)
                .into_iter()
                .collect(),
        },
    ];
    panels.retain(|panel| !panel.groups.is_empty());
    panels
}

const fn colour(way: Way) -> &'static str {
    match way {
        Way::Direct => "#a8b2bd",
        Way::Nginx => "#5b8c5a",
        Way::Iris => "#3f5fbf",
        Way::Sealed => "#8f6bb3",
    }
}

/// Returns four to eight round numbers from 0 up to `most`.
fn ticks(most: f64) -> impl Iterator<Item = f64> {
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough).unwrap_or(power);
    (0..9).map(move |number| f64::from(number) * step).take_while(move |tick| *tick <= most)
}

fn number(value: f64) -> String {
    let digits = usize::from(value.abs() < 10.0 && value.fract() != 0.0);
    let text = format!("{value:.digits$}");
    let whole = text.trim_start_matches('-').len();
    if digits == 1 || whole <= 3 {
        return text;
    }
    let (head, tail) = text.split_at(text.len() - 3);
    format!("{head},{tail}")
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = write!(
        svg,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, anchor: &str, content: &str) {
    let _ = write!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
    );
}
