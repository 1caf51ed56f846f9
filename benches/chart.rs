//! Pictures of what was measured: panels of bars side by side, as SVG.

use std::fmt::Write;

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

/// What bars of one colour stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// Its name in the legend.
    pub name: &'static str,
    /// Its colour, as SVG writes it.
    pub colour: &'static str,
}

/// A picture of panels, two in a row.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What all of it is about.
    pub title: &'static str,
    /// The series of the legend.
    pub legend: Vec<Series>,
    /// What a mark across a bar stands for, if there are marks.
    pub mark: Option<&'static str>,
    /// The panels.
    pub panels: Vec<Panel>,
    /// A line below all panels.
    pub note: String,
}

/// Bars of one subject on one axis.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The subject.
    pub title: &'static str,
    /// The unit.
    pub axis: &'static str,
    /// The bars.
    pub groups: Vec<Group>,
}

/// The bars of one load.
#[derive(Clone, Debug)]
pub struct Group {
    /// The load.
    pub name: String,
    /// A bar for each series.
    pub bars: Vec<(Series, f64)>,
    /// A value that is marked across the bar of a series.
    pub mark: Option<(Series, f64)>,
}

impl Chart {
    /// Draws the picture.
    pub fn draw(&self) -> String {
        let width = (WIDTH - 2.0 * MARGIN - GAP) / 2.0;
        let pairs: Vec<&[Panel]> = self.panels.chunks(2).collect();
        let tallest = |pair: &&[Panel]| pair.iter().map(Panel::height).fold(1.0, f64::max);
        let height = HEAD + pairs.iter().map(tallest).sum::<f64>() + 34.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             width=\"{WIDTH}\" height=\"{height:.0}\"><style>{STYLE}</style>\
             <rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut svg, "t", MARGIN, 36.0, "start", self.title);
        self.draw_legend(&mut svg);
        let mut top = HEAD;
        for pair in pairs {
            for (panel, left) in pair.iter().zip([MARGIN, MARGIN + width + GAP]) {
                panel.draw(&mut svg, left, top, width);
            }
            svg.push('\n');
            top += tallest(&pair);
        }
        text(&mut svg, "s", MARGIN, height - 14.0, "start", &self.note);
        svg + "</svg>\n"
    }

    fn draw_legend(&self, svg: &mut String) {
        let mut x = MARGIN;
        for Series { name, colour } in &self.legend {
            let _ = write!(
                svg,
                "<rect x=\"{x}\" y=\"51\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"
            );
            text(svg, "", x + 18.0, 61.0, "start", name);
            x += 44.0 + 6.6 * f64::from(u32::try_from(name.len()).unwrap_or(0));
        }
        if let Some(mark) = self.mark {
            line(svg, "m", (x + 2.0, 49.0), (x + 2.0, 65.0));
            text(svg, "mt", x + 10.0, 61.0, "start", mark);
        }
    }
}

impl Panel {
    fn height(&self) -> f64 {
        self.groups.iter().map(Group::height).sum::<f64>() + 74.0
    }

    fn longest(&self) -> f64 {
        let bars = self.groups.iter().flat_map(|group| group.bars.iter().chain(&group.mark));
        bars.map(|(_, value)| *value).fold(1.0, f64::max)
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
    fn height(&self) -> f64 {
        self.bars.iter().map(|_| BAR + 2.0).sum::<f64>() + 14.0
    }

    fn draw(&self, svg: &mut String, top: f64, axis: f64, scale: f64) {
        let bars = self.height() - 14.0;
        text(svg, "", axis - 8.0, top + bars / 2.0 + 4.0, "end", &self.name);
        let mut y = top;
        for (series, value) in &self.bars {
            let length = (value * scale).max(1.0);
            let _ = write!(
                svg,
                "<rect x=\"{axis:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" \
                 fill=\"{}\"/>",
                series.colour
            );
            let mut after = axis + length;
            if let Some((_, mark)) = self.mark.filter(|(marked, _)| marked == series) {
                let x = axis + mark * scale;
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
