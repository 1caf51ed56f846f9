//! What the system knows of a process.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// How many ticks of processor time a second has, on every Linux there is.
const TICKS: u64 = 100;

/// What a process takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Memory in KiB.
    pub(crate) rss: u64,
    pub(crate) threads: u64,
    pub(crate) files: u64,
    pub(crate) sockets: u64,
}

/// Returns whether the system tells what processes take.
pub(crate) fn is_known() -> bool {
    Path::new("/proc/self/status").exists()
}

pub(crate) fn sample(pid: u32) -> Sample {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let files = files(pid);
    let sockets = files.iter().filter(|link| link.starts_with("socket:")).count() as u64;
    let (rss, threads) = (number("VmRSS:"), number("Threads:"));
    Sample { rss, threads, files: files.len() as u64, sockets }
}

/// Returns what the open files of a process are.
fn files(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // One that was closed meanwhile is none.
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

/// Returns how long a process has kept processors busy.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
    Duration::from_millis(ticks.sum::<u64>() * 1000 / TICKS)
}

/// Returns how large a file is; 0 where there is none.
pub(crate) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Sets a limit of a running process by `prlimit`; false where there is no such program.
pub(crate) fn limit(pid: u32, limit: &str) -> bool {
    let pid = pid.to_string();
    let status = std::process::Command::new("prlimit").args(["--pid", &pid, limit]).status();
    status.is_ok_and(|status| status.success())
}
