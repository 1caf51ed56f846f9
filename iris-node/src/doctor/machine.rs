//! The machine under it all: graphics card, memory, disk.

use std::path::{Path, PathBuf};

use iris_node::probe::{Card, Gauges, Machine, Probe, Tools};

use super::Check;

const GB: u64 = 1 << 30;
/// From here on a model next to the node may be swapped out.
const LITTLE_MEMORY: u64 = GB;
/// From here on logs and downloads may fill the disk.
const LITTLE_DISK: u64 = GB;
/// From here on cards slow themselves down.
const HOT: i32 = 87;

pub(super) fn checks(probe: &Probe, folder: &Path) -> Vec<Check> {
    let machine = probe.machine();
    let readings = Gauges::new(probe.clone()).read();
    let mut checks = vec![cards(&machine, readings.celsius)];
    checks.push(match (machine.memory, readings.memory_free) {
        (Some(all), Some(free)) => {
            let found = format!("{} of {} free", gigabytes(free), gigabytes(all));
            if free < LITTLE_MEMORY {
                Check::warn("memory", found, "end what else runs, or offer a smaller model")
            } else {
                Check::ok("memory", found)
            }
        }
        (Some(all), None) => Check::ok("memory", format!("{} in all", gigabytes(all))),
        _ => Check::ok("memory", "this system does not tell"),
    });
    checks.push(disk(&Tools::installed(), folder));
    checks
}

fn cards(machine: &Machine, celsius: Option<i32>) -> Check {
    const LINK: &str = "graphics card";
    if machine.cards.is_empty() && machine.has_unknown_card {
        return Check::warn(
            LINK,
            "there seems to be one, which does not tell what it is",
            "install its driver's tools (nvidia-smi, rocm-smi), or say what memory it has with \
             --vram-gb",
        );
    }
    if machine.cards.is_empty() {
        return Check::ok(LINK, "none: models run on the processor");
    }
    let found: Vec<_> = machine.cards.iter().map(card).collect();
    match celsius {
        Some(celsius) if celsius >= HOT => {
            let advice = "a card this hot slows down: clean its fans, or give it less to do";
            Check::warn(LINK, format!("{celsius} °C: {}", found.join("; ")), advice)
        }
        _ => Check::ok(LINK, found.join("; ")),
    }
}

/// Describes a machine, for people.
pub(crate) fn lines(machine: &Machine) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(cpu) = &machine.cpu {
        let threads = machine.threads.map(|count| format!(", {count} threads"));
        lines.push(format!("{cpu}{}", threads.unwrap_or_default()));
    }
    if let Some(memory) = machine.memory {
        lines.push(format!("{} of memory", gigabytes(memory)));
    }
    lines.extend(machine.cards.iter().map(card));
    if machine.cards.is_empty() {
        let unknown = "a graphics card that does not tell what it is; --vram-gb can";
        let none = "no graphics card";
        lines.push(if machine.has_unknown_card { unknown } else { none }.to_owned());
    }
    lines
}

fn card(card: &Card) -> String {
    let name = card.name.clone().unwrap_or_else(|| format!("a card by {:?}", card.vendor));
    let memory = match (card.memory, card.reading.free) {
        (Some(memory), Some(free)) => {
            Some(format!("{} ({} free)", gigabytes(memory), gigabytes(free)))
        }
        (Some(memory), None) => Some(gigabytes(memory)),
        (None, _) => card.is_unified.then(|| "in the machine's memory".to_owned()),
    };
    let parts = [
        Some(name),
        memory,
        card.driver.as_ref().map(|driver| format!("driver {driver}")),
        card.reading.load.map(|load| format!("{load} % busy")),
        card.reading.celsius.map(|celsius| format!("{celsius} °C")),
        card.reading.watts.map(|watts| format!("{watts} W")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn disk(tools: &Tools, folder: &Path) -> Check {
    const LINK: &str = "disk";
    // The folder may not be there yet.
    let there = folder.ancestors().find(|folder| folder.exists());
    let there = there.map_or_else(|| PathBuf::from("."), Path::to_owned);
    let listed = there.to_str().and_then(|there| tools.run("df", &["-Pk", there]));
    match listed.as_deref().and_then(free) {
        Some(bytes) if bytes < LITTLE_DISK => Check::warn(
            LINK,
            format!("{} free at {}", gigabytes(bytes), there.display()),
            "make room: the node keeps its identity there",
        ),
        Some(bytes) => Check::ok(LINK, format!("{} free at {}", gigabytes(bytes), there.display())),
        None => Check::ok(LINK, "this system does not tell"),
    }
}

/// Reads what is free, in bytes, from what POSIX's `df -Pk` tells.
fn free(listed: &str) -> Option<u64> {
    // The name of a disk may have spaces, so the fields are counted from the percentage on.
    let fields: Vec<_> = listed.lines().nth(1)?.split_whitespace().collect();
    let percent = fields.iter().position(|field| field.ends_with('%'))?;
    fields.get(percent.checked_sub(1)?)?.parse::<u64>().ok()?.checked_mul(1024)
}

pub(crate) fn gigabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / GB;
    format!("{}.{} GB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn free_disk_is_read() {
        let listed = "Filesystem     1024-blocks      Used Available Capacity Mounted on\n\
                      /dev/a b c       263171284  99999999 163171284      38% /\n";
        assert_eq!(free(listed), Some(163_171_284 << 10));
        for listed in ["", "Filesystem\n", "a\nb c\n", "a\n100%\n"] {
            assert_eq!(free(listed), None, "{listed}");
        }
    }

    #[test]
    fn a_machine_that_tells_nothing_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let probe = Probe::linux(folder.path(), Tools::of(folder.path()));
        let checks = checks(&probe, &folder.path().join("not/there/yet"));
        assert_eq!(checks.len(), 3);
        assert!(checks.iter().all(|check| check.state != State::Fail));
        std::fs::create_dir_all(folder.path().join("dev/dri")).unwrap();
        assert_eq!(cards(&probe.machine(), None).state, State::Warn);
    }

    #[test]
    fn cards_are_described_with_what_they_tell() {
        assert_eq!(gigabytes(24_564 << 20), "23.9 GB");
        assert_eq!(lines(&Machine::default()), ["no graphics card"]);
    }
}
