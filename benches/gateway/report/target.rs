//! What the project has set itself.

use serde_json::{Value, json};

use super::{Report, mib};
use crate::network::Way;
use crate::options::Part;
use crate::overload::Overload;

/// A bound, and what was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) bound: f64,
    pub(super) found: f64,
    /// Whether more is better.
    pub(super) least: bool,
}

impl Target {
    pub(super) fn is_met(&self) -> bool {
        if self.least { self.found >= self.bound } else { self.found <= self.bound }
    }

    pub(super) fn to_json(self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            if self.least { "at_least" } else { "at_most" }: self.bound,
            "found": self.found,
            "met": self.is_met(),
        })
    }
}

impl Report {
    /// Returns the targets for what was measured.
    pub(super) fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let mut most = |name, unit, bound, found: Option<f64>| {
            let found = found.filter(|found| !found.is_nan());
            targets.extend(found.map(|found| Target { name, unit, bound, found, least: false }));
        };
        let cpu = |part| self.row(part).map(|row| row.cpu(Way::Iris));
        let added = |part, percent| self.row(part).map(|row| row.added(Way::Iris, percent));
        most("CPU of a request", "µs", 45.0, cpu(Part::Many));
        most("added to one request, p50", "µs", 85.0, added(Part::One, 50));
        let steady = self.rate(1000).map(|row| row.added(Way::Iris, 50));
        most("added at 1,000 requests/s, p50", "µs", 250.0, steady);
        most("CPU of a chunk, saturated", "µs", 7.0, cpu(Part::Saturated));
        most("CPU of a chunk, paced", "µs", 24.0, cpu(Part::Paced));
        most("added to the first token, p10", "µs", 120.0, added(Part::First, 10));
        most("idle coordinator", "MiB", 15.0, self.coordinator.map(|c| mib(c.memory.idle)));
        let crowd = self.crowd;
        most("idle node", "KiB", 10.0, crowd.map(|crowd| crowd.kib_each()));
        let full = crowd.filter(|crowd| crowd.nodes >= 10_000);
        most("coordinator of 10,000 nodes", "MiB", 120.0, full.map(|crowd| mib(crowd.after_kib)));
        let choices = self.choices.iter().map(|choice| choice.micros);
        most("choosing a node, slowest", "µs", 2.0, choices.reduce(f64::max));
        let overload = self.overload.as_ref();
        most("p99 at twice the capacity, times", "", 5.0, overload.map(Overload::ratio));
        let mut least = |name, unit, bound, found: Option<f64>| {
            targets.extend(found.map(|found| Target { name, unit, bound, found, least: true }));
        };
        let patience = overload.map(|overload| overload.patience);
        let kept = patience.map(|p| 100.0 * f64::from(p.served) / f64::from(p.refused.max(1)));
        least("served who returned as told", "%", 100.0, kept);
        least("durable rows a second", "", 15_000.0, self.rows_per_second);
        targets
    }
}
