//! What the node says about its machine.

use std::fs;
use std::path::Path;

use iris_protocol::message::Hardware;

const GIB: u64 = 1 << 30;
/// What is there where a graphics card may have memory of its own.
const CARDS: [&str; 4] = ["dev/dri", "dev/kfd", "dev/nvidia0", "dev/dxg"];

/// Returns what is known of the machine whose files lie below `root`.
///
/// The memory of the machine is told where all of its memory is known: where there is no graphics
/// card, or its memory was set. Else a model would count as too large that lies on the card. Systems
/// other than Linux tell nothing.
pub(crate) fn hardware(root: &Path, vram_gb: Option<u32>) -> Hardware {
    let is_known = vram_gb.is_some() || !CARDS.iter().any(|card| root.join(card).exists());
    let bytes = is_known.then(|| memory(root)).flatten();
    let ram_gb = bytes.and_then(|bytes| u32::try_from(bytes.div_ceil(GIB)).ok());
    Hardware { vram_gb, ram_gb, ..Hardware::default() }
}

/// Returns the machine's memory in bytes, or what this process may have of it.
fn memory(root: &Path) -> Option<u64> {
    let total = total(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
    let limit = fs::read_to_string(root.join("sys/fs/cgroup/memory.max")).ok();
    // Where there is no limit it says `max`.
    let limit = limit.and_then(|limit| limit.trim().parse().ok());
    Some(limit.map_or(total, |limit: u64| limit.min(total)))
}

/// Reads all memory, in bytes, from `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn told(files: &[(&str, &str)], vram_gb: Option<u32>) -> (Option<u32>, Option<u32>) {
        let Hardware { gpu, ram_gb, vram_gb } = hardware(machine(files).path(), vram_gb);
        assert_eq!(gpu, None);
        (ram_gb, vram_gb)
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:       65714568 kB\nMemFree:         1024 kB\n");

    #[test]
    fn memory_is_told_in_whole_gigabytes_that_none_is_missing_of() {
        assert_eq!(told(&[MEMINFO], None), (Some(63), None));
        let limit = |limit| told(&[MEMINFO, ("sys/fs/cgroup/memory.max", limit)], None).0;
        assert_eq!(limit("8589934592\n"), Some(8));
        assert_eq!(limit("max\n"), Some(63));
        assert_eq!(limit("999999999999999\n"), Some(63));
    }

    #[test]
    fn memory_is_not_told_where_a_card_may_have_more() {
        let with_card = [MEMINFO, ("dev/nvidia0", "")];
        assert_eq!(told(&with_card, None), (None, None));
        assert_eq!(told(&with_card, Some(24)), (Some(63), Some(24)));
        assert_eq!(told(&with_card, Some(0)), (Some(63), Some(0)));
    }

    #[test]
    fn whatever_else_stands_there_is_no_memory() {
        for text in ["", "MemTotal:", "MemTotal: 7", "MemTotal: x kB", "MemTotal: -1 kB"] {
            assert_eq!(told(&[("proc/meminfo", text)], None), (None, None), "{text}");
        }
        let huge = format!("MemTotal: {} kB", u64::MAX);
        assert_eq!(told(&[("proc/meminfo", &huge)], None), (None, None));
        let most = format!("MemTotal: {} kB", u64::MAX >> 10);
        assert_eq!(told(&[("proc/meminfo", &most)], None), (None, None), "more than fits");
        assert_eq!(told(&[], Some(8)), (None, Some(8)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_of_this_machine_is_found() {
        assert!(memory(Path::new("/")).is_some_and(|bytes| bytes > GIB / 8));
    }
}
