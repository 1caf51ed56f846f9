//! AMD's cards, by the files of `amdgpu`, or by `rocm-smi` where those are not shown.
//!
//! The files are described in the kernel's documentation of `amdgpu`, "GPU Power/Thermal Controls
//! and Monitoring" and "Memory Usage".

use std::path::Path;

use serde_json::{Map, Value};

use super::card::{Card, CardReading, Device, Vendor};
use super::nvidia::whole;
use super::tool::Tools;

const AMD: u16 = 0x1002;
/// The sensor at the edge of the chip, as the tools show it first.
const TEMPERATURE: [&str; 2] = ["temp1_input", "temp2_input"];
/// The average where the card has one, else what it draws now.
const POWER: [&str; 2] = ["power1_average", "power1_input"];

/// Returns the cards with their names.
pub(super) fn cards(root: &Path, tools: &Tools) -> Vec<Card> {
    let devices = Device::all(root, AMD);
    if devices.is_empty() && !root.join("dev/kfd").exists() {
        return Vec::new();
    }
    let told = Told::by(tools, &["--showproductname", "--showdriverversion", "--showbus"]);
    if devices.is_empty() {
        return by_tool(tools, &told);
    }
    devices
        .iter()
        .map(|device| {
            let told_name = device.slot().and_then(|slot| told.name_at(&slot));
            let mut card = card(device);
            card.name = told_name
                .or_else(|| device.text("product_name"))
                .or_else(|| device.listed_name(root));
            if let (Some(driver), Some(version)) = (&mut card.driver, &told.driver) {
                *driver = format!("{driver} {version}");
            }
            card
        })
        .collect()
}

/// Returns how the cards are doing.
pub(super) fn readings(root: &Path, tools: &Tools) -> Vec<CardReading> {
    let devices = Device::all(root, AMD);
    let cards: Vec<_> = if devices.is_empty() && root.join("dev/kfd").exists() {
        by_tool(tools, &Told::default())
    } else {
        devices.iter().map(card).collect()
    };
    cards.into_iter().map(|card| card.reading).collect()
}

fn card(device: &Device) -> Card {
    let memory = device.number("mem_info_vram_total").filter(|bytes| *bytes > 0);
    let used = device.number("mem_info_vram_used");
    let load = device.number("gpu_busy_percent").filter(|percent| *percent <= 100);
    Card {
        driver: device.driver(),
        memory,
        reading: CardReading {
            load: load.and_then(|percent| u8::try_from(percent).ok()),
            free: memory.zip(used).map(|(memory, used)| memory.saturating_sub(used)),
            celsius: device.celsius(&TEMPERATURE),
            watts: device.watts(&POWER),
        },
        ..Card::new(Vendor::Amd)
    }
}

/// What `rocm-smi` told.
#[derive(Debug, Default)]
struct Told {
    cards: Vec<Map<String, Value>>,
    driver: Option<String>,
}

impl Told {
    fn by(tools: &Tools, what: &[&str]) -> Self {
        let arguments: Vec<_> = what.iter().copied().chain(["--json"]).collect();
        let answer = tools.run("rocm-smi", &arguments).unwrap_or_default();
        // Warnings may stand before it.
        let json = answer.find('{').map_or("", |at| &answer[at..]);
        let all: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
        let driver = all.get("system").and_then(|system| system.get("Driver version"));
        let driver = driver.and_then(Value::as_str).map(str::to_owned);
        let mut cards: Vec<_> = all
            .into_iter()
            .filter_map(|(name, card)| {
                let number: u32 = name.strip_prefix("card")?.parse().ok()?;
                let Value::Object(card) = card else { return None };
                Some((number, card))
            })
            .collect();
        cards.sort_by_key(|(number, _)| *number);
        Self { cards: cards.into_iter().map(|(_, card)| card).collect(), driver }
    }

    fn name_at(&self, slot: &str) -> Option<String> {
        let is_there = |card: &&Map<String, Value>| {
            field(card, "PCI Bus").is_some_and(|bus| bus.eq_ignore_ascii_case(slot))
        };
        name(self.cards.iter().find(is_there)?)
    }
}

fn by_tool(tools: &Tools, named: &Told) -> Vec<Card> {
    let what = ["--showmeminfo", "vram", "--showuse", "--showtemp", "--showpower"];
    let told = Told::by(tools, &what);
    let cards = told.cards.iter().enumerate().map(|(at, told)| {
        let bytes = |name| field(told, name)?.parse::<u64>().ok();
        let memory = bytes("VRAM Total Memory (B)");
        let used = bytes("VRAM Total Used Memory (B)");
        let celsius = field(told, "Temperature (Sensor edge) (C)")
            .or_else(|| field(told, "Temperature (Sensor junction) (C)"));
        let watts = field(told, "Average Graphics Package Power (W)")
            .or_else(|| field(told, "Current Socket Graphics Package Power (W)"));
        Card {
            name: named.cards.get(at).and_then(name),
            driver: named.driver.as_ref().map(|version| format!("amdgpu {version}")),
            memory,
            reading: CardReading {
                load: field(told, "GPU use (%)").and_then(|load| load.parse().ok()),
                free: memory.zip(used).map(|(memory, used)| memory.saturating_sub(used)),
                celsius: celsius.and_then(whole).and_then(|degrees| i32::try_from(degrees).ok()),
                watts: watts.and_then(whole),
            },
            ..Card::new(Vendor::Amd)
        }
    });
    cards.collect()
}

/// Returns the name of a card; versions of the tool differ in how they write it.
fn name(card: &Map<String, Value>) -> Option<String> {
    let series = field(card, "Card Series").or_else(|| field(card, "Device Name"));
    series.map(str::to_owned)
}

fn field<'a>(card: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let (_, value) = card.iter().find(|(found, _)| found.eq_ignore_ascii_case(name))?;
    value.as_str().filter(|text| !text.is_empty() && *text != "N/A")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::probe::card::tests::{machine, printing, tools};

    const CARD: &[(&str, &str)] = &[
        ("sys/class/drm/card1/device/vendor", "0x1002\n"),
        ("sys/class/drm/card1/device/device", "0x744c\n"),
        ("sys/class/drm/card1/device/uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0\n"),
        ("sys/class/drm/card1/device/mem_info_vram_total", "25753026560\n"),
        ("sys/class/drm/card1/device/mem_info_vram_used", "753026560\n"),
        ("sys/class/drm/card1/device/gpu_busy_percent", "42\n"),
        ("sys/class/drm/card1/device/hwmon/hwmon4/temp1_input", "57000\n"),
        ("sys/class/drm/card1/device/hwmon/hwmon4/power1_average", "213000000\n"),
        ("dev/kfd", ""),
    ];

    #[test]
    fn cards_are_read_from_files_and_named_by_the_tool() {
        let root = machine(CARD);
        let (_folder, tools) =
            printing(&[("rocm-smi", include_str!("recorded/rocm-smi-names.json"))]);
        let [card] = cards(root.path(), &tools).try_into().unwrap();
        assert_eq!(card.name.as_deref(), Some("Radeon RX 7900 XTX"));
        assert_eq!(card.driver.as_deref(), Some("amdgpu 6.10.5"));
        assert_eq!(card.memory, Some(25_753_026_560));
        let CardReading { load, free, celsius, watts } = card.reading;
        assert_eq!((load, free), (Some(42), Some(25_000_000_000)));
        assert_eq!((celsius, watts), (Some(57), Some(213)));
        assert_eq!(readings(root.path(), &tools), [card.reading]);
    }

    #[test]
    fn without_files_the_tool_tells() {
        let root = machine(&[("dev/kfd", "")]);
        let recorded = include_str!("recorded/rocm-smi.json");
        let (_folder, speaking) = printing(&[("rocm-smi", recorded)]);
        let cards = cards(root.path(), &speaking);
        let [first, second] = cards.as_slice() else { panic!("{cards:?}") };
        assert_eq!(first.memory, Some(21_458_059_264));
        let CardReading { load, celsius, watts, .. } = first.reading;
        assert_eq!((load, celsius, watts), (Some(0), Some(38), Some(19)));
        assert_eq!(second.reading.celsius, Some(31));
        assert_eq!(second.reading.watts, Some(7));
        assert_eq!(second.name.as_deref(), Some("Phoenix3"));

        let (_folder, missing) = tools(&[]);
        assert_eq!(super::cards(root.path(), &missing), []);
        let (_folder, garbled) = printing(&[("rocm-smi", "ERROR: {not json")]);
        assert_eq!(super::cards(root.path(), &garbled), []);
    }

    #[test]
    fn cards_without_a_tool_have_the_names_of_the_list() {
        let list = ("usr/share/hwdata/pci.ids", "1002  AMD\n\t744c  Navi 31\n");
        let files: Vec<_> = CARD.iter().copied().chain([list]).collect();
        let (_folder, missing) = tools(&[]);
        let [card] = cards(machine(&files).path(), &missing).try_into().unwrap();
        assert_eq!(card.name.as_deref(), Some("Navi 31"));
        assert_eq!(card.driver.as_deref(), Some("amdgpu"));
    }
}
