//! The processor of a Linux machine.

use std::path::Path;

use super::text;

/// Returns the processor's name.
pub(super) fn name(root: &Path) -> Option<String> {
    let info = text(&root.join("proc/cpuinfo"))?;
    // Many an ARM processor has no name; its board may have one.
    ["model name", "Model", "cpu model"].iter().find_map(|wanted| {
        info.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == *wanted && !value.trim().is_empty()).then(|| value.trim().to_owned())
        })
    })
}

/// What the processors have done since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    /// Reads the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
    pub(super) fn read(root: &Path) -> Option<Self> {
        let stat = text(&root.join("proc/stat"))?;
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // What comes after the eighth is counted in the first two already.
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let sum = |ticks: &[u64]| ticks.iter().try_fold(0_u64, |sum, t| sum.checked_add(*t));
        let all = sum(&ticks)?;
        let idle = sum(ticks.get(3..)?.get(..2)?)?;
        Some(Self { busy: all - idle, all })
    }

    /// Returns how busy they were since `earlier`, in percent.
    pub(super) fn load_since(self, earlier: Self) -> Option<u8> {
        let all = self.all.checked_sub(earlier.all).filter(|all| *all > 0)?;
        let busy = self.busy.saturating_sub(earlier.busy).min(all);
        u8::try_from(u128::from(busy) * 100 / u128::from(all)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::card::tests::machine;

    #[test]
    fn processors_are_named() {
        let named = |text| name(machine(&[("proc/cpuinfo", text)]).path());
        let pc = "processor\t: 0\nmodel\t\t: 97\nmodel name\t: AMD Ryzen 9 7950X\n";
        assert_eq!(named(pc).as_deref(), Some("AMD Ryzen 9 7950X"));
        let board = "processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t\t: Raspberry Pi 5 Model B\n";
        assert_eq!(named(board).as_deref(), Some("Raspberry Pi 5 Model B"));
        assert_eq!(named("model name\t:\n"), None);
        assert_eq!(name(machine(&[]).path()), None);
    }

    #[test]
    fn load_is_what_was_not_idle_between_two_looks() {
        let ticks = |text| Ticks::read(machine(&[("proc/stat", text)]).path());
        let first = ticks("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3 4\n").unwrap();
        let second = ticks("cpu  130 10 110 740 110 0 0 0 70 0\n").unwrap();
        assert_eq!(second.load_since(first), Some(50));
        assert_eq!(first.load_since(first), None, "no time has passed");
        assert_eq!(first.load_since(second), None, "the machine was started anew");
        let huge = format!("cpu  {0} {0} 0 0 0", u64::MAX);
        for text in ["", "cpu", "cpu  1 2 3", "cpu  a b c d e", &huge] {
            assert_eq!(ticks(text), None, "{text}");
        }
    }
}
