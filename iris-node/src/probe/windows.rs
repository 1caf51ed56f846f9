//! Windows machines, by `PowerShell`. NVIDIA's own tool tells of its cards there, too.

use serde::Deserialize;

use super::card::{Card, Vendor};
use super::tool::Tools;
use super::{Machine, Readings};

/// `Win32_VideoController` counts a card's memory in 32 bits, so it is not asked for that.
const SCRIPT: &str = "$o=Get-CimInstance Win32_OperatingSystem;\
    $p=@(Get-CimInstance Win32_Processor);\
    $v=@(Get-CimInstance Win32_VideoController|ForEach-Object{@{name=$_.Name;driver=$_.DriverVersion}});\
    @{total=$o.TotalVisibleMemorySize;free=$o.FreePhysicalMemory;cpu=$p[0].Name;\
    load=$p[0].LoadPercentage;cards=$v}|ConvertTo-Json -Compress -Depth 4";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    /// In KiB.
    total: Option<u64>,
    /// In KiB.
    free: Option<u64>,
    cpu: Option<String>,
    load: Option<u8>,
    cards: Vec<Controller>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Controller {
    name: Option<String>,
    driver: Option<String>,
}

/// Returns what a machine is, but for NVIDIA's cards.
pub(super) fn machine(tools: &Tools) -> Machine {
    let told = ask(tools);
    let cards: Vec<_> = told.cards.into_iter().filter_map(Controller::card).collect();
    Machine {
        cpu: told.cpu.map(|name| name.trim().to_owned()),
        memory: told.total.and_then(|kib| kib.checked_mul(1024)),
        has_unknown_card: !cards.is_empty(),
        cards,
        ..Machine::default()
    }
}

/// Returns how a machine is doing.
pub(super) fn readings(tools: &Tools) -> Readings {
    let told = ask(tools);
    Readings {
        cpu_load: told.load.filter(|load| *load <= 100),
        memory_free: told.free.and_then(|kib| kib.checked_mul(1024)),
        ..Readings::default()
    }
}

fn ask(tools: &Tools) -> Told {
    let asked = ["-NoProfile", "-NonInteractive", "-Command", SCRIPT];
    let answer = tools.run("powershell", &asked).unwrap_or_default();
    serde_json::from_str(answer.trim()).unwrap_or_default()
}

impl Controller {
    fn card(self) -> Option<Card> {
        let name = self.name?;
        let words = name.to_ascii_lowercase();
        let vendor = match words.as_str() {
            // Told with more by its own tool.
            words if words.contains("nvidia") => return None,
            words if words.contains("amd") || words.contains("radeon") => Vendor::Amd,
            words if words.contains("intel") => Vendor::Intel,
            // What remote desktops and virtual machines draw on.
            words if words.contains("microsoft") => return None,
            _ => Vendor::Other,
        };
        Some(Card { name: Some(name), driver: self.driver, ..Card::new(vendor) })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::probe::Probe;
    use crate::probe::card::tests::printing;

    #[test]
    fn a_machine_is_read_and_its_cards_memory_is_left_to_their_tools() {
        let told = r#"{"cards":[{"name":"AMD Radeon(TM) Graphics","driver":"31.0.24027.1012"},{"name":"NVIDIA GeForce RTX 4060","driver":"32.0.15.6094"},{"name":"Microsoft Remote Display Adapter","driver":"10.0.1"}],"load":7,"cpu":"AMD Ryzen 7 7840U ","free":21000000,"total":32768000}"#;
        let smi = "NVIDIA GeForce RTX 4060, 560.94, 8188, 7600, 3, 41, [N/A]";
        let (_folder, tools) = printing(&[("powershell", told), ("nvidia-smi", smi)]);
        let machine = Probe::windows(tools.clone()).machine();
        assert_eq!(machine.cpu.as_deref(), Some("AMD Ryzen 7 7840U"));
        assert_eq!(machine.memory, Some(32_768_000 << 10));
        let [inside, card] = machine.cards.as_slice() else { panic!("{machine:?}") };
        assert_eq!((inside.vendor, inside.memory), (Vendor::Amd, None));
        assert_eq!((card.vendor, card.memory), (Vendor::Nvidia, Some(8188 << 20)));
        let readings = readings(&tools);
        assert_eq!((readings.cpu_load, readings.memory_free), (Some(7), Some(21_000_000 << 10)));
        let (_folder, tools) = printing(&[("powershell", "not found")]);
        assert_eq!(super::machine(&tools), Machine::default());
    }
}
