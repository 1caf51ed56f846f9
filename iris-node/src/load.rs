//! How this machine is doing, as far as its system tells it for nothing: on Linux.

use std::fs;
use std::path::PathBuf;

use iris_node::limits::Readings;

/// Reads how the machine is doing, time after time.
#[derive(Debug)]
pub(crate) struct Load {
    root: PathBuf,
    before: Option<Ticks>,
}

/// What the processors have done since the machine was started.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    idle: u64,
    all: u64,
}

impl Load {
    /// Reads files below `root`.
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), before: None }
    }

    /// Returns how the machine is doing; of the processors, since the last call.
    pub(crate) fn read(&mut self) -> Readings {
        let text = |path: &str| fs::read_to_string(self.root.join(path)).ok();
        let ticks = text("proc/stat").and_then(|stat| Ticks::parse(&stat));
        let memory_free = text("proc/meminfo").and_then(|text| available(&text));
        let before = std::mem::replace(&mut self.before, ticks);
        let cpu_load = ticks.zip(before).and_then(|(now, before)| now.load_since(before));
        Readings { cpu_load, memory_free, ..Readings::default() }
    }
}

impl Ticks {
    /// Reads the first line of `/proc/stat`: user, nice, system, idle, iowait and more.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // What comes after the eighth number is part of the first two.
        let numbers = line.split_whitespace().take(8).map(|number| number.parse().ok());
        let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
        let idle = numbers.get(3)?.checked_add(*numbers.get(4)?)?;
        let all = numbers.iter().try_fold(0_u64, |sum, number| sum.checked_add(*number))?;
        Some(Self { idle, all })
    }

    /// Returns how busy the processors were since `before`, in percent.
    fn load_since(self, before: Self) -> Option<u8> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let idle = self.idle.saturating_sub(before.idle).min(all);
        u8::try_from(u128::from(all - idle) * 100 / u128::from(all)).ok()
    }
}

/// Reads how much memory can be used without swapping, in bytes, from `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_what_happened_since_the_last_look() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        let write = |name: &str, text: &str| fs::write(root.path().join("proc").join(name), text);
        let mut load = Load::new(root.path());
        assert_eq!(load.read(), Readings::default());
        write("meminfo", "MemTotal: 9 kB\nMemAvailable:  2048 kB\n").unwrap();
        write("stat", "cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 1 1 1\n").unwrap();
        let first = load.read();
        assert_eq!((first.cpu_load, first.memory_free), (None, Some(2 << 20)));
        write("stat", "cpu  60 0 35 90 15 0 0 0 9 9\n").unwrap();
        assert_eq!(load.read().cpu_load, Some(75));
        for nonsense in ["", "cpu", "cpu  1 2 3", "cpu  1 2 3 4 x", "cpu  0 0 0 0 0 0 0 0"] {
            write("stat", nonsense).unwrap();
            assert_eq!(load.read().cpu_load, None, "{nonsense}");
        }
    }
}
