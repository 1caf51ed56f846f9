//! Macs, by the tools of their system.

use serde::Deserialize;

use super::card::{Card, Vendor};
use super::nvidia::whole;
use super::tool::Tools;
use super::{Machine, Readings};

/// What `system_profiler -json` tells, as far as it is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Profile {
    #[serde(rename = "SPHardwareDataType")]
    hardware: Vec<Hardware>,
    #[serde(rename = "SPDisplaysDataType")]
    displays: Vec<Display>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Hardware {
    chip_type: Option<String>,
    cpu_type: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Display {
    sppci_model: Option<String>,
    spdisplays_vendor: String,
    spdisplays_vram: Option<String>,
}

/// Returns what a Mac is.
pub(super) fn machine(tools: &Tools) -> Machine {
    let asked = ["-json", "SPHardwareDataType", "SPDisplaysDataType"];
    let answer = tools.run("system_profiler", &asked).unwrap_or_default();
    let Profile { hardware, displays } = serde_json::from_str(&answer).unwrap_or_default();
    let system = tools.run("sw_vers", &["-productVersion"]).map(|v| format!("macOS {}", v.trim()));
    let cards = displays.into_iter().filter_map(|display| display.card(system.as_ref()));
    let hardware = hardware.into_iter().next().unwrap_or_default();
    Machine {
        cpu: hardware.chip_type.or(hardware.cpu_type),
        memory: system_number(tools, "hw.memsize"),
        cards: cards.collect(),
        ..Machine::default()
    }
}

/// Returns how a Mac is doing.
pub(super) fn readings(tools: &Tools) -> Readings {
    let asked = ["-r", "-d", "1", "-w", "0", "-c", "IOAccelerator"];
    let registry = tools.run("ioreg", &asked).unwrap_or_default();
    Readings {
        card_load: registry_loads(&registry).max(),
        cpu_load: cpu_load(tools),
        memory_free: tools.run("vm_stat", &[]).and_then(|pages| free(&pages)),
        ..Readings::default()
    }
}

impl Display {
    fn card(self, system: Option<&String>) -> Option<Card> {
        let name = self.sppci_model?;
        let vendor = match self.spdisplays_vendor.to_ascii_lowercase() {
            vendor if vendor.contains("apple") => Vendor::Apple,
            vendor if vendor.contains("amd") || vendor.contains("1002") => Vendor::Amd,
            vendor if vendor.contains("nvidia") => Vendor::Nvidia,
            vendor if vendor.contains("intel") => Vendor::Intel,
            _ => Vendor::Other,
        };
        Some(Card {
            name: Some(name),
            driver: system.cloned(),
            memory: self.spdisplays_vram.as_deref().and_then(bytes),
            is_unified: vendor == Vendor::Apple,
            ..Card::new(vendor)
        })
    }
}

/// Reads a size such as `8 GB`.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let unit: u64 = match unit {
        "GB" => 1 << 30,
        "MB" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn system_number(tools: &Tools, name: &str) -> Option<u64> {
    tools.run("sysctl", &["-n", name])?.trim().parse().ok()
}

/// Reads how busy each card is from what `ioreg` says of it.
fn registry_loads(registry: &str) -> impl Iterator<Item = u8> {
    const LOAD: &str = "\"Device Utilization %\"=";
    let after = registry.split(LOAD).skip(1);
    let load = |text: &str| text.split([',', '}']).next()?.trim().parse().ok();
    after.filter_map(load).filter(|load: &u8| *load <= 100)
}

/// Adds up what each process takes of a processor.
fn cpu_load(tools: &Tools) -> Option<u8> {
    let processors = system_number(tools, "hw.logicalcpu").filter(|count| *count > 0)?;
    let shares = tools.run("ps", &["-A", "-o", "%cpu="])?;
    let sum: u64 = shares.lines().filter_map(whole).map(u64::from).sum();
    u8::try_from((sum / processors).min(100)).ok()
}

/// Reads what is free, or could be at once, from what `vm_stat` tells in pages.
fn free(pages: &str) -> Option<u64> {
    let size = pages.split("page size of ").nth(1)?.split(' ').next()?.parse::<u64>().ok()?;
    let count = |name: &str| {
        let line = pages.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches('.').parse::<u64>().ok()
    };
    let more = ["Pages inactive:", "Pages speculative:", "Pages purgeable:"];
    let more = more.into_iter().filter_map(count).fold(0, u64::saturating_add);
    count("Pages free:")?.saturating_add(more).checked_mul(size)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::probe::Probe;
    use crate::probe::card::tests::{printing, tools};

    #[test]
    fn a_mac_with_its_own_chip_works_in_the_machines_memory() {
        let (_folder, tools) = printing(&[
            ("system_profiler", include_str!("recorded/system_profiler.json")),
            ("sw_vers", "15.6.1"),
            ("sysctl", "34359738368"),
        ]);
        let machine = Probe::mac(tools).machine();
        assert_eq!(machine.cpu.as_deref(), Some("Apple M1 Pro"));
        assert_eq!(machine.memory, Some(32 << 30));
        let [card] = machine.cards.as_slice() else { panic!("{machine:?}") };
        assert_eq!(card.name.as_deref(), Some("Apple M1 Pro"));
        assert_eq!(card.driver.as_deref(), Some("macOS 15.6.1"));
        assert_eq!((card.vendor, card.memory, card.is_unified), (Vendor::Apple, None, true));
    }

    #[test]
    fn older_macs_have_cards_with_memory_of_their_own() {
        let (_folder, tools) =
            printing(&[("system_profiler", include_str!("recorded/system_profiler-intel.json"))]);
        let machine = machine(&tools);
        assert_eq!(machine.cpu.as_deref(), Some("6-Core Intel Core i7"));
        let [inside, own] = machine.cards.as_slice() else { panic!("{machine:?}") };
        assert_eq!((inside.vendor, inside.memory), (Vendor::Intel, None));
        assert_eq!((own.vendor, own.memory), (Vendor::Amd, Some(4 << 30)));
        assert_eq!(machine.memory, None, "the tool for it is missing");
    }

    #[test]
    fn load_and_free_memory_are_read() {
        let (_folder, tools) = tools(&[
            (
                "ioreg",
                r#"echo '"PerformanceStatistics" = {"In use system memory"=1,"Device Utilization %"=16,"recoveryCount"=0}'
                   echo '"PerformanceStatistics" = {"Device Utilization %"=101}'"#,
            ),
            ("sysctl", "echo 8"),
            ("ps", "echo '  200.5'; echo '   0.0'; echo ' 120.1'"),
            (
                "vm_stat",
                "echo 'Mach Virtual Memory Statistics: (page size of 16384 bytes)'
                 echo 'Pages free:                               1000.'
                 echo 'Pages inactive:                          20000.'
                 echo 'Pages wired down:                        90000.'",
            ),
        ]);
        let readings = readings(&tools);
        assert_eq!((readings.card_load, readings.cpu_load), (Some(16), Some(40)));
        assert_eq!(readings.memory_free, Some(21_000 * 16_384));
        assert_eq!((readings.celsius, readings.watts), (None, None));
    }

    #[test]
    fn garbled_tools_tell_nothing() {
        let outputs =
            ["system_profiler", "ioreg", "sysctl", "ps", "vm_stat"].map(|name| (name, "?"));
        let (_folder, tools) = printing(&outputs);
        assert_eq!(machine(&tools), Machine::default());
        assert_eq!(readings(&tools), Readings::default());
        assert_eq!((bytes("8 XB"), bytes("x GB"), bytes("99999999999999 GB")), (None, None, None));
    }
}
