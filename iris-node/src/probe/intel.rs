//! Intel's cards, by the files of `xe` and `i915`.
//!
//! The sensors are described in the kernel's `sysfs-driver-intel-xe-hwmon` and
//! `sysfs-driver-intel-i915-hwmon`. Neither driver has a file for memory or load.

use std::path::Path;

use super::card::{Card, CardReading, Device, Vendor};

const INTEL: u16 = 0x8086;
/// Where the card inside of a processor always is.
const INSIDE: &str = "0000:00:02.0";
/// The chip, by `xe` and by `i915`.
const TEMPERATURE: [&str; 2] = ["temp2_input", "temp1_input"];
const POWER: [&str; 2] = ["power1_input", "power1_average"];

/// Returns the cards and how they are doing.
pub(super) fn cards(root: &Path) -> Vec<Card> {
    let named = |device: &Device| Card { name: device.listed_name(root), ..card(device) };
    Device::all(root, INTEL).iter().map(named).collect()
}

/// Returns how the cards are doing.
pub(super) fn readings(root: &Path) -> Vec<CardReading> {
    Device::all(root, INTEL).iter().map(|device| card(device).reading).collect()
}

fn card(device: &Device) -> Card {
    Card {
        driver: device.driver(),
        is_unified: device.slot().as_deref() == Some(INSIDE),
        reading: CardReading {
            celsius: device.celsius(&TEMPERATURE),
            watts: device.watts(&POWER),
            ..CardReading::default()
        },
        ..Card::new(Vendor::Intel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::card::tests::machine;

    #[test]
    fn cards_are_named_and_their_sensors_read() {
        let root = machine(&[
            ("sys/class/drm/card0/device/vendor", "0x8086\n"),
            ("sys/class/drm/card0/device/device", "0xe20b\n"),
            ("sys/class/drm/card0/device/uevent", "DRIVER=xe\nPCI_CLASS=30000\n"),
            ("sys/class/drm/card0/device/hwmon/hwmon2/name", "xe\n"),
            ("sys/class/drm/card0/device/hwmon/hwmon2/temp2_input", "46000\n"),
            ("sys/class/drm/card0/device/hwmon/hwmon2/temp3_input", "52000\n"),
            ("sys/class/drm/card0/device/hwmon/hwmon2/energy1_input", "5000000\n"),
            ("usr/share/hwdata/pci.ids", "8086  Intel\n\te20b  Battlemage G21 [Arc B580]\n"),
        ]);
        let [card] = cards(root.path()).try_into().unwrap();
        assert_eq!(card.name.as_deref(), Some("Battlemage G21 [Arc B580]"));
        assert_eq!(card.driver.as_deref(), Some("xe"));
        let CardReading { load, free, celsius, watts } = card.reading;
        assert_eq!((card.memory, load, free, celsius, watts), (None, None, None, Some(46), None));
        assert_eq!(readings(root.path()), [card.reading]);
    }
}
