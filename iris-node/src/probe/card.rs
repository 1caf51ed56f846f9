use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{number, text};

/// Cards that one machine may have.
const MAX_CARDS: usize = 64;
/// Where the names of devices are listed.
const NAMES: [&str; 3] =
    ["usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids", "var/lib/pciutils/pci.ids"];

/// Who made a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Vendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// Apple.
    Apple,
    /// Somebody else.
    Other,
}

/// A graphics card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Card {
    /// Who made it.
    pub vendor: Vendor,
    /// What it is called.
    pub name: Option<String>,
    /// The driver, and its version where it has one of its own.
    pub driver: Option<String>,
    /// Its own memory in bytes; `None` when that is unknown, or when it has none.
    pub memory: Option<u64>,
    /// Whether it works in the machine's memory.
    pub is_unified: bool,
    /// How it was doing when it was looked at.
    pub reading: CardReading,
}

/// How a card is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CardReading {
    /// How busy it is, in percent.
    pub load: Option<u8>,
    /// How much of its own memory is free, in bytes.
    pub free: Option<u64>,
    /// Its temperature in degrees Celsius.
    pub celsius: Option<i32>,
    /// What it draws, in watts.
    pub watts: Option<u32>,
}

impl Card {
    /// Names a card of which nothing else is known.
    pub(super) fn new(vendor: Vendor) -> Self {
        Self {
            vendor,
            name: None,
            driver: None,
            memory: None,
            is_unified: false,
            reading: CardReading::default(),
        }
    }
}

/// A card as Linux shows it: `/sys/class/drm/card*/device`.
#[derive(Debug)]
pub(super) struct Device {
    folder: PathBuf,
}

impl Device {
    /// Returns the devices of a vendor, in the order of their numbers.
    pub(super) fn all(root: &Path, vendor: u16) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(root.join("sys/class/drm")) else { return Vec::new() };
        let number = |name: &str| name.strip_prefix("card")?.parse::<u32>().ok();
        let mut cards: Vec<_> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| Some((number(entry.file_name().to_str()?)?, entry.path())))
            .collect();
        cards.sort();
        let devices = cards.into_iter().map(|(_, card)| Self { folder: card.join("device") });
        let mut found: Vec<_> =
            devices.filter(|device| device.id("vendor") == Some(vendor)).collect();
        found.truncate(MAX_CARDS);
        found
    }

    /// Reads a file that holds one number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        number(&self.folder.join(name))
    }

    /// Reads a file that holds a text, if it is not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        text(&self.folder.join(name)).filter(|text| !text.is_empty())
    }

    /// Reads the first of `names` that one of its sensors has.
    pub(super) fn sensor(&self, names: &[&str]) -> Option<u64> {
        let sensors = fs::read_dir(self.folder.join("hwmon")).ok()?;
        let mut sensors: Vec<_> = sensors.filter_map(|entry| Some(entry.ok()?.path())).collect();
        sensors.sort();
        names.iter().find_map(|name| sensors.iter().find_map(|at| number(&at.join(name))))
    }

    /// Returns the temperature of the first of `names`, which are told in thousandths.
    pub(super) fn celsius(&self, names: &[&str]) -> Option<i32> {
        self.sensor(names).and_then(|thousandths| i32::try_from(thousandths / 1000).ok())
    }

    /// Returns the power of the first of `names`, which are told in millionths.
    pub(super) fn watts(&self, names: &[&str]) -> Option<u32> {
        self.sensor(names).and_then(|millionths| u32::try_from(millionths / 1_000_000).ok())
    }

    /// Returns the driver at work.
    pub(super) fn driver(&self) -> Option<String> {
        self.event("DRIVER=")
    }

    /// Returns where it is on the bus, such as `0000:03:00.0`.
    pub(super) fn slot(&self) -> Option<String> {
        self.event("PCI_SLOT_NAME=")
    }

    /// Returns what the system's list of devices calls it.
    pub(super) fn listed_name(&self, root: &Path) -> Option<String> {
        let (vendor, device) = (self.id("vendor")?, self.id("device")?);
        let list = NAMES.iter().find_map(|name| whole(&root.join(name)))?;
        let of_vendor = format!("{vendor:04x} ");
        let named = format!("\t{device:04x} ");
        list.lines()
            .skip_while(|line| !line.starts_with(&of_vendor))
            .skip(1)
            .take_while(|line| line.starts_with(['\t', '#']) || line.is_empty())
            .find_map(|line| line.strip_prefix(&named))
            .map(|name| name.trim().to_owned())
    }

    fn event(&self, name: &str) -> Option<String> {
        let events = self.text("uevent")?;
        events.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
    }

    /// Reads a number as PCI writes it, such as `0x1002`.
    fn id(&self, name: &str) -> Option<u16> {
        u16::from_str_radix(self.text(name)?.strip_prefix("0x")?, 16).ok()
    }
}

/// Reads the list of devices, which is longer than other files here.
fn whole(path: &Path) -> Option<String> {
    use std::io::Read;

    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(16 << 20).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::probe::Tools;

    /// Lays out the files of a machine.
    pub(in crate::probe) fn machine(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    /// Makes commands of scripts.
    pub(in crate::probe) fn tools(scripts: &[(&str, &str)]) -> (TempDir, Tools) {
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in scripts {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        let tools = Tools::of(folder.path());
        (folder, tools)
    }

    /// Makes commands that print `output`, whatever they are asked.
    pub(in crate::probe) fn printing(outputs: &[(&str, &str)]) -> (TempDir, Tools) {
        let scripts: Vec<_> = outputs
            .iter()
            .map(|(name, output)| {
                (*name, format!("while read -r l; do echo \"$l\"; done <<'END'\n{output}\nEND"))
            })
            .collect();
        let scripts: Vec<_> =
            scripts.iter().map(|(name, script)| (*name, script.as_str())).collect();
        tools(&scripts)
    }

    #[test]
    fn devices_are_found_in_their_order_and_named_by_the_list() {
        let card = |number, file| format!("sys/class/drm/card{number}/device/{file}");
        let files = [
            (card(10, "vendor"), "0x1002\n"),
            (card(10, "device"), "0x744c\n"),
            (card(2, "vendor"), "0x1002\n"),
            (card(2, "device"), "0xffff\n"),
            (card(1, "vendor"), "0x8086\n"),
            ("sys/class/drm/card2-DP-1/device/vendor".to_owned(), "0x1002\n"),
            (
                "usr/share/misc/pci.ids".to_owned(),
                "# comment\n1001  Kolter\n\t744c  wrong\n1002  AMD\n\t73bf  Navi 21\n\
                 \t\t1002 744c  a board\n\t744c  Navi 31 [Radeon RX 7900 XTX]\n1003  ULSI\n\
                 \tffff  of another\n",
            ),
        ];
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let root = machine(&files);
        let names: Vec<_> = Device::all(root.path(), 0x1002)
            .iter()
            .map(|device| device.listed_name(root.path()))
            .collect();
        assert_eq!(names, [None, Some("Navi 31 [Radeon RX 7900 XTX]".to_owned())]);
    }
}
