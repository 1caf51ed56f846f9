use serde::Serialize;

use super::card::CardReading;
use super::cpu::Ticks;
use super::{Probe, System, amd, apple, intel, memory, nvidia, windows};

/// How a machine is doing. What is unknown is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Readings {
    /// How busy the busiest graphics card is, in percent.
    pub card_load: Option<u8>,
    /// How much memory of their own all cards have free, in bytes.
    pub card_free: Option<u64>,
    /// The temperature of the hottest card, in degrees Celsius.
    pub celsius: Option<i32>,
    /// What all cards draw, in watts.
    pub watts: Option<u32>,
    /// How busy the processors were since they were last looked at, in percent.
    pub cpu_load: Option<u8>,
    /// How much memory can be used without swapping, in bytes.
    pub memory_free: Option<u64>,
}

/// Reads how a machine is doing, time after time.
///
/// ```
/// use iris_node::probe::{Gauges, Probe};
///
/// let mut gauges = Gauges::new(Probe::new());
/// let readings = gauges.read();
/// assert!(readings.cpu_load.is_none_or(|percent| percent <= 100));
/// ```
#[derive(Debug)]
pub struct Gauges {
    probe: Probe,
    ticks: Option<Ticks>,
}

impl Gauges {
    /// Reads what `probe` looks at.
    pub const fn new(probe: Probe) -> Self {
        Self { probe, ticks: None }
    }

    /// Returns how the machine is doing.
    ///
    /// Blocks while files are read and tools are asked: about a millisecond without a card of
    /// NVIDIA's, tens of them with one, half a second on Windows, and at most half a minute when
    /// tools hang. On Linux the processors' load is known from the second time on.
    pub fn read(&mut self) -> Readings {
        let ticks = Ticks::read(&self.probe.root);
        let before = std::mem::replace(&mut self.ticks, ticks);
        let Probe { system, root, tools } = &self.probe;
        let mut readings = match system {
            System::Linux => Readings {
                cpu_load: ticks.zip(before).and_then(|(now, before)| now.load_since(before)),
                memory_free: memory::free(root),
                ..Readings::default()
            },
            System::MacOs => apple::readings(tools),
            System::Windows => windows::readings(tools),
            System::Other => Readings::default(),
        };
        for card in nvidia::cards(tools) {
            readings.add(card.reading);
        }
        if *system == System::Linux {
            for card in amd::readings(root, tools).into_iter().chain(intel::readings(root)) {
                readings.add(card);
            }
        }
        readings
    }
}

impl Readings {
    fn add(&mut self, card: CardReading) {
        let CardReading { load, free, celsius, watts } = card;
        self.card_load = self.card_load.max(load);
        self.celsius = self.celsius.max(celsius);
        self.card_free = sum(self.card_free, free);
        self.watts = match (self.watts, watts) {
            (Some(all), Some(watts)) => Some(all.saturating_add(watts)),
            (all, watts) => all.or(watts),
        };
    }
}

fn sum(all: Option<u64>, more: Option<u64>) -> Option<u64> {
    match (all, more) {
        (Some(all), Some(more)) => Some(all.saturating_add(more)),
        (all, more) => all.or(more),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;

    use super::*;
    use crate::probe::card::tests::{machine, printing};

    #[test]
    fn readings_are_of_all_cards_together() {
        let root = machine(&[
            ("proc/stat", "cpu  100 0 0 100 0 0 0 0 0 0\n"),
            ("proc/meminfo", "MemTotal: 4096 kB\nMemAvailable: 1024 kB\n"),
            ("sys/class/drm/card0/device/vendor", "0x1002\n"),
            ("sys/class/drm/card0/device/gpu_busy_percent", "12\n"),
            ("sys/class/drm/card0/device/mem_info_vram_total", "1000\n"),
            ("sys/class/drm/card0/device/mem_info_vram_used", "900\n"),
            ("sys/class/drm/card0/device/hwmon/hwmon0/temp1_input", "71000\n"),
            ("sys/class/drm/card0/device/hwmon/hwmon0/power1_input", "30500000\n"),
        ]);
        let smi = "NVIDIA GeForce RTX 4060, 560.94, 8188, 1, 80, 41, 100.9";
        let (_folder, tools) = printing(&[("nvidia-smi", smi)]);
        let mut gauges = Gauges::new(Probe::linux(root.path(), tools));
        let first = gauges.read();
        assert_eq!((first.card_load, first.celsius, first.watts), (Some(80), Some(71), Some(130)));
        assert_eq!(first.card_free, Some((1 << 20) + 100));
        assert_eq!((first.cpu_load, first.memory_free), (None, Some(1 << 20)));
        fs::write(root.path().join("proc/stat"), "cpu  175 0 0 125 0 0 0 0 0 0\n").unwrap();
        assert_eq!(gauges.read().cpu_load, Some(75));
    }

    #[test]
    fn a_machine_that_tells_nothing_has_no_readings() {
        let (folder, tools) = printing(&[]);
        let mut gauges = Gauges::new(Probe::linux(folder.path(), tools));
        assert_eq!(gauges.read(), Readings::default());
    }
}
