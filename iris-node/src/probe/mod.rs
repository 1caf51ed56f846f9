//! What the machine is and how it is doing: graphics cards, processor, memory.
//!
//! On Linux files tell, elsewhere and for NVIDIA's cards the tools that come with the system or the
//! driver do. A [`Probe`] says where to look, so that tests look at recorded files and outputs.
//! What is not there, does not answer in time or answers with something else is unknown, never an
//! error.
//!
//! | card | told by | what it does not tell |
//! |---|---|---|
//! | NVIDIA | `nvidia-smi --query-gpu`, which comes with every driver | |
//! | AMD | `sysfs` of `amdgpu`; `rocm-smi` for names and where there is no `sysfs` | |
//! | Intel | `sysfs` of `xe` and `i915` | memory, load; power only where a sensor has it |
//! | Apple | `system_profiler`, `ioreg` | temperature and power, which only root may read |
//!
//! NVIDIA's library could be asked without its tool. That would be one more library, and code that
//! no test here could run; the tool's answers can be recorded.

use std::path::{Path, PathBuf};

use iris_protocol::limits::MAX_GPU_LEN;
use iris_protocol::message::Hardware;
use iris_protocol::text::Label;
use serde::Serialize;

mod amd;
mod apple;
mod card;
mod cpu;
mod intel;
mod memory;
mod nvidia;
mod readings;
mod tool;
mod windows;

pub use card::{Card, CardReading, Vendor};
pub use readings::{Gauges, Readings};
pub use tool::Tools;

const GIB: u64 = 1 << 30;

/// Where a machine is looked at.
#[derive(Clone, Debug)]
pub struct Probe {
    system: System,
    root: PathBuf,
    tools: Tools,
}

/// Whose ways to tell of a machine are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Linux,
    MacOs,
    Windows,
    Other,
}

/// What a machine is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// How many threads run at a time.
    pub threads: Option<usize>,
    /// The machine's memory in bytes, or what this process may have of it.
    pub memory: Option<u64>,
    /// The graphics cards that were recognised, in the order of their systems.
    pub cards: Vec<Card>,
    /// Whether there may be a card that was not recognised.
    pub has_unknown_card: bool,
}

impl Probe {
    /// Looks at this machine.
    pub fn new() -> Self {
        let system = match std::env::consts::OS {
            "linux" => System::Linux,
            "macos" => System::MacOs,
            "windows" => System::Windows,
            _ => System::Other,
        };
        Self { system, root: PathBuf::from("/"), tools: Tools::installed() }
    }

    /// Looks at the Linux machine whose files lie below `root`, and asks `tools`.
    pub fn linux(root: impl Into<PathBuf>, tools: Tools) -> Self {
        Self { system: System::Linux, root: root.into(), tools }
    }

    /// Looks at the Mac that `tools` tell of.
    pub fn mac(tools: Tools) -> Self {
        Self { system: System::MacOs, root: PathBuf::from("/"), tools }
    }

    /// Looks at the Windows machine that `tools` tell of.
    pub fn windows(tools: Tools) -> Self {
        Self { system: System::Windows, root: PathBuf::from("/"), tools }
    }

    /// Returns what the machine is. Blocks while tools are asked, for up to a minute.
    pub fn machine(&self) -> Machine {
        let threads = std::thread::available_parallelism().ok().map(usize::from);
        let mut machine = match self.system {
            System::Linux => Machine {
                cpu: cpu::name(&self.root),
                memory: memory::total(&self.root),
                ..Machine::default()
            },
            System::MacOs => apple::machine(&self.tools),
            System::Windows => windows::machine(&self.tools),
            System::Other => Machine::default(),
        };
        machine.threads = threads;
        let mut cards = nvidia::cards(&self.tools);
        if self.system == System::Linux {
            cards.extend(amd::cards(&self.root, &self.tools));
            cards.extend(intel::cards(&self.root));
            machine.has_unknown_card = self.has_more_than(&cards);
        }
        machine.cards.extend(cards);
        machine
    }

    /// Returns whether there is a sign of a card that is not among `cards`.
    fn has_more_than(&self, cards: &[Card]) -> bool {
        let is_there = |path: &str| self.root.join(path).exists();
        let has = |vendor| cards.iter().any(|card| card.vendor == vendor);
        let nvidia = is_there("dev/nvidia0") || is_there("dev/dxg");
        let others = is_there("dev/dri") || is_there("dev/kfd");
        nvidia && !has(Vendor::Nvidia) || others && cards.is_empty()
    }
}

impl Machine {
    /// Returns what the network is told of the machine; `vram_gb` is what its owner says of the
    /// cards' memory, and counts for more than what was found.
    ///
    /// Memory is told where all of it is known: that of every card, or what the owner says. Else a
    /// model would count as too large that lies on a card.
    pub fn told(&self, vram_gb: Option<u32>) -> Hardware {
        let own: u64 =
            self.cards.iter().filter_map(|card| card.memory).fold(0, u64::saturating_add);
        let is_known = |card: &Card| card.memory.is_some() || card.is_unified;
        let are_known = !self.has_unknown_card && self.cards.iter().all(is_known);
        let found = (are_known && own > 0).then(|| gigabytes(own));
        let ram = self.memory.filter(|_| are_known || vram_gb.is_some()).map(gigabytes);
        Hardware { gpu: self.cards_name(), vram_gb: vram_gb.or(found), ram_gb: ram }
    }

    /// Names the card, or the first of several and how many there are.
    fn cards_name(&self) -> Option<Label<MAX_GPU_LEN>> {
        let first = self.cards.iter().find_map(|card| card.name.as_deref())?;
        match self.cards.len() {
            1 => Label::lossy(first),
            count => Label::lossy(&format!("{count} cards, {first}")),
        }
    }
}

/// Returns how many whole gigabytes there are, of which none may be missing a part.
fn gigabytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(GIB)).unwrap_or(u32::MAX)
}

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads a small text file, without the line break at its end.
fn text(path: &Path) -> Option<String> {
    use std::io::Read;

    /// Far more than anything here has.
    const LONGEST: u64 = 1 << 20;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}

/// Reads a file that holds one number.
fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::card::tests::{machine, printing};
    use super::*;

    fn told(files: &[(&str, &str)], smi: &str, vram_gb: Option<u32>) -> Hardware {
        let (_folder, tools) = printing(&[("nvidia-smi", smi)]);
        Probe::linux(machine(files).path(), tools).machine().told(vram_gb)
    }

    fn memory(
        files: &[(&str, &str)],
        smi: &str,
        vram_gb: Option<u32>,
    ) -> (Option<u32>, Option<u32>) {
        let told = told(files, smi, vram_gb);
        (told.ram_gb, told.vram_gb)
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       65714568 kB\n");
    const CARD: &str = "NVIDIA GeForce RTX 4090, 550.54.14, 24564, 22118, 37, 54, 112.55";
    const INSIDE: [(&str, &str); 2] = [
        ("sys/class/drm/card0/device/vendor", "0x8086\n"),
        ("sys/class/drm/card0/device/uevent", "DRIVER=i915\nPCI_SLOT_NAME=0000:00:02.0\n"),
    ];

    #[test]
    fn memory_is_told_in_whole_gigabytes_where_all_of_it_is_known() {
        assert_eq!(memory(&[MEMINFO], "", None), (Some(63), None));
        let node = [MEMINFO, ("dev/nvidia0", ""), ("dev/dri", "")];
        assert_eq!(memory(&node, CARD, None), (Some(63), Some(24)));
        assert_eq!(memory(&node, CARD, Some(12)), (Some(63), Some(12)), "the owner knows better");
        let laptop: Vec<_> = node.into_iter().chain(INSIDE).collect();
        assert_eq!(memory(&laptop, CARD, None), (Some(63), Some(24)));
    }

    #[test]
    fn memory_is_not_told_where_a_card_may_have_more() {
        for sign in ["dev/nvidia0", "dev/dri", "dev/kfd", "dev/dxg"] {
            let node = [MEMINFO, (sign, "")];
            assert_eq!(memory(&node, "", None), (None, None), "{sign}");
            assert_eq!(memory(&node, "", Some(24)), (Some(63), Some(24)));
            assert_eq!(memory(&node, "", Some(0)), (Some(63), Some(0)));
        }
        let arc = [
            MEMINFO,
            INSIDE[0],
            ("sys/class/drm/card0/device/uevent", "PCI_SLOT_NAME=0000:03:00.0\n"),
        ];
        assert_eq!(memory(&arc, "", None), (None, None));
        assert_eq!(memory(&[], "", Some(8)), (None, Some(8)));
    }

    #[test]
    fn cards_are_named() {
        let name = |smi: &str| told(&[], smi, None).gpu.map(|name| name.to_string());
        assert_eq!(name(""), None);
        assert_eq!(name(CARD).as_deref(), Some("NVIDIA GeForce RTX 4090"));
        let two = format!("{CARD}\n{CARD}");
        assert_eq!(name(&two).as_deref(), Some("2 cards, NVIDIA GeForce RTX 4090"));
        assert_eq!(told(&[], &two, None).vram_gb, Some(48));
    }
}
