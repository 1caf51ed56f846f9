//! How many files the process may have open, each connection being one.

/// Files that the process opens beside its connections: the books, the log, timers.
const OTHERS: usize = 64;

/// Returns how many connections there is room for below the limit of the process, which keeps the
/// rest for itself: at most 64 files, or half of what it may have.
#[cfg(unix)]
pub(super) fn room() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    below(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX))
}

/// Returns how many connections there is room for: this system sets no limit to a process.
#[cfg(not(unix))]
pub(super) const fn room() -> usize {
    usize::MAX
}

/// Raises what the process may have open from its usual limit to the most that it may ask for.
///
/// For programs of which the server is the main part; where it fails, the usual limit stays.
pub fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum {
            let raised = Rlimit { current: maximum, maximum };
            if let Err(error) = setrlimit(Resource::Nofile, raised) {
                tracing::debug!(%error, "the limit of open files stays as it is");
            }
        }
    }
}

#[cfg_attr(not(unix), allow(dead_code, reason = "the system sets no limit"))]
fn below(limit: usize) -> usize {
    limit - OTHERS.min(limit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_keeps_some_files_for_itself() {
        for (limit, room) in [(20_000, 19_936), (1024, 960), (64, 32), (1, 1), (0, 0)] {
            assert_eq!(below(limit), room, "{limit}");
        }
    }
}
