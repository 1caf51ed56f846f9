//! What one load came to by every way.

use serde_json::{Value, json};

use crate::figures::{Cpu, Figures, median, micros_each};
use crate::network::Way;
use crate::options::Part;

/// The turns of one load.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) part: Part,
    pub(crate) name: String,
    /// Requests a second, where they are fixed.
    pub(crate) rate: Option<u32>,
    /// Whether chunks are counted, and times are to the first token.
    pub(crate) streams: bool,
    /// By way, one turn for each round.
    pub(crate) ways: Vec<(Way, Vec<Figures>)>,
}

impl Row {
    /// Returns the turns by `way`; none where the way does not exist.
    pub(crate) fn turns(&self, way: Way) -> &[Figures] {
        self.ways.iter().find(|(known, _)| *known == way).map_or(&[], |(_, turns)| turns)
    }

    /// Returns the median of what a figure was in the turns by `way`.
    pub(crate) fn median(&self, way: Way, figure: impl Fn(&Figures) -> f64) -> f64 {
        median(self.turns(way).iter().map(figure).collect())
    }

    pub(crate) fn count(&self, figures: &Figures) -> u32 {
        if self.streams { figures.chunks } else { figures.answers }
    }

    /// Returns requests or chunks a second.
    pub(crate) fn per_second(&self, way: Way) -> f64 {
        self.median(way, |figures| figures.per_second(self.count(figures)))
    }

    pub(crate) fn micros(&self, way: Way, percent: usize) -> f64 {
        self.median(way, |figures| figures.times.micros(percent))
    }

    /// Returns what `way` adds to the direct one, in microseconds.
    pub(crate) fn added(&self, way: Way, percent: usize) -> f64 {
        let pairs = self.turns(way).iter().zip(self.turns(Way::Direct));
        let micros = |figures: &Figures| figures.times.micros(percent);
        median(pairs.map(|(turn, direct)| micros(turn) - micros(direct)).collect())
    }

    /// Returns the CPU of what lies on `way` for each request or chunk, in microseconds; of the
    /// mock itself where nothing does.
    pub(crate) fn cpu(&self, way: Way) -> f64 {
        self.cpu_of(way, |cpu| match way {
            Way::Direct => cpu.mock,
            Way::Nginx => cpu.nginx,
            Way::Iris | Way::Sealed => cpu.coordinator + cpu.node,
        })
    }

    /// Returns the CPU of one process for each request or chunk by `way`, in microseconds.
    pub(crate) fn cpu_of(&self, way: Way, process: impl Fn(&Cpu) -> std::time::Duration) -> f64 {
        self.median(way, |figures| micros_each(process(&figures.cpu), self.count(figures)))
    }

    pub(crate) fn to_json(&self) -> Value {
        let side = |way: &(Way, Vec<Figures>)| {
            let (way, turns) = (way.0, &way.1);
            let mut side = json!({
                "way": way,
                "answers": turns.iter().map(|figures| figures.answers).sum::<u32>(),
                "failures": turns.iter().map(|figures| figures.failures).sum::<u32>(),
                "answers_per_second": self.median(way, |f| f.per_second(f.answers)),
                "chunks_per_second": self.median(way, |f| f.per_second(f.chunks)),
                "p10_us": self.micros(way, 10),
                "p50_us": self.micros(way, 50),
                "p99_us": self.micros(way, 99),
                "added_p10_us": self.added(way, 10),
                "added_p50_us": self.added(way, 50),
                "added_p99_us": self.added(way, 99),
                "cpu_us_each": self.cpu(way),
            });
            side["cpu_us_each_caller"] = self.cpu_of(way, |cpu| cpu.caller).into();
            if matches!(way, Way::Iris | Way::Sealed) {
                side["cpu_us_each_coordinator"] = self.cpu_of(way, |cpu| cpu.coordinator).into();
                side["cpu_us_each_node"] = self.cpu_of(way, |cpu| cpu.node).into();
            }
            side
        };
        json!({
            "load": self.name,
            "requests_per_second": self.rate,
            "counted": if self.streams { "chunks" } else { "requests" },
            "times": if self.streams { "first token" } else { "whole answer" },
            "ways": self.ways.iter().map(side).collect::<Vec<_>>(),
        })
    }
}
