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
