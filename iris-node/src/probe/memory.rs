//! The memory of a Linux machine, or what this process may have of it.

use std::path::Path;

use super::{number, text};

const LIMITS: [(&str, &str); 2] = [
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
    // Before version 2, as in containers of older systems.
    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
];

/// Returns all memory, in bytes.
pub(super) fn total(root: &Path) -> Option<u64> {
    let total = line(root, "MemTotal:")?;
    // Where there is no limit it says `max`, or more than there is.
    let limits = LIMITS.iter().filter_map(|(limit, _)| number(&root.join(limit)));
    Some(limits.fold(total, u64::min))
}

/// Returns what can be used without swapping, in bytes.
pub(super) fn free(root: &Path) -> Option<u64> {
    let free = line(root, "MemAvailable:")?;
    let left = LIMITS.iter().filter_map(|(limit, used)| {
        let limit = number(&root.join(limit))?;
        Some(limit.saturating_sub(number(&root.join(used))?))
    });
    Some(left.fold(free, u64::min))
}

/// Reads a line of `/proc/meminfo`, in bytes.
fn line(root: &Path, name: &str) -> Option<u64> {
    let meminfo = text(&root.join("proc/meminfo"))?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::card::tests::machine;

    const MEMINFO: &str = "MemTotal:       65714568 kB\nMemFree:         1024 kB\n\
                           MemAvailable:   40000000 kB\n";

    #[test]
    fn memory_is_the_machines_or_the_limit_of_this_process() {
        let read = |files: &[(&str, &str)]| {
            let root = machine(files);
            (total(root.path()), free(root.path()))
        };
        let all = (Some(65_714_568 << 10), Some(40_000_000 << 10));
        assert_eq!(read(&[("proc/meminfo", MEMINFO)]), all);
        let limited = |limit, used| {
            let [(max, current), _] = LIMITS;
            read(&[("proc/meminfo", MEMINFO), (max, limit), (current, used)])
        };
        let limit = (Some(8_589_934_592), Some(8_589_934_592 - 1_000_000));
        assert_eq!(limited("8589934592\n", "1000000\n"), limit);
        assert_eq!(limited("8589934592\n", "9000000000\n").1, Some(0));
        assert_eq!(limited("max\n", "1000000\n"), all);
        assert_eq!(limited("999999999999999\n", "1000000\n"), all);
    }

    #[test]
    fn whatever_else_stands_there_is_no_memory() {
        let most = format!("MemTotal: {} kB", u64::MAX);
        for text in ["", "MemTotal:", "MemTotal: 7", "MemTotal: x kB", "MemTotal: -1 kB", &most] {
            assert_eq!(total(machine(&[("proc/meminfo", text)]).path()), None, "{text}");
        }
        assert_eq!(total(machine(&[]).path()), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_of_this_machine_is_found() {
        let (total, free) = (total(Path::new("/")).unwrap(), free(Path::new("/")).unwrap());
        assert!(total > 1 << 27 && free <= total, "{free} of {total}");
    }
}
