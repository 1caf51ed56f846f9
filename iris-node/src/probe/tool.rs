use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a tool may take; some wake a sleeping card first.
const TIME: Duration = Duration::from_secs(10);
/// Bytes of a tool's output that are read.
const MAX_OUTPUT: u64 = 1 << 20;
/// How often to look whether a tool that has said everything has ended.
const LOOK: Duration = Duration::from_millis(5);
/// Where tools lie that a service's path may lack.
const FOLDERS: [&str; 6] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/opt/rocm/bin", "/usr/lib/wsl/lib"];

/// The commands that tell of a machine: each is bounded in time and output, and a missing one says
/// nothing.
#[derive(Clone, Debug)]
pub struct Tools {
    path: Option<OsString>,
    time: Duration,
}

impl Tools {
    /// The commands of the path, and of the folders where drivers put theirs.
    pub fn installed() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
        let more = FOLDERS.iter().filter(|_| cfg!(unix)).map(PathBuf::from);
        let path = std::env::join_paths(folders.chain(more)).ok();
        Self { path, time: TIME }
    }

    /// The commands of one folder, and no others.
    pub fn of(folder: impl Into<PathBuf>) -> Self {
        Self { path: Some(folder.into().into_os_string()), time: TIME }
    }

    /// Sets how long each may take. Default: 10 s.
    pub const fn with_time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Returns whether a command ends well.
    pub fn succeeds(&self, name: &str, arguments: &[&str]) -> bool {
        self.run(name, arguments).is_some()
    }

    /// Returns what a command writes to standard output; `None` unless it succeeds.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Option<String> {
        let deadline = Instant::now() + self.time;
        let mut command = Command::new(name);
        command.args(arguments).env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command.spawn().ok()?;
        let output = child.stdout.take().and_then(|stdout| read(stdout, deadline));
        let succeeded = ended(&mut child, deadline);
        output.filter(|_| succeeded)
    }
}

/// Reads to the end in a thread of its own: what a tool has started may keep the pipe open.
fn read(mut stdout: ChildStdout, deadline: Instant) -> Option<String> {
    let (done, output) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
        // Nobody waits any more for one that is late.
        let _ = done.send(read.ok().map(|_| bytes));
    });
    let left = deadline.saturating_duration_since(Instant::now());
    let bytes = output.recv_timeout(left).ok()??;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for the end, and returns whether it is a success; brings it about after the deadline.
fn ended(child: &mut Child, deadline: Instant) -> bool {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => thread::sleep(LOOK),
            _ => {
                // It may have ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::probe::card::tests::tools;

    #[test]
    fn what_a_command_writes_is_returned_and_failures_say_nothing() {
        let (_folder, tools) = tools(&[
            ("speaks", "echo \"$1 $LC_ALL\"; echo aside >&2"),
            ("fails", "echo NVIDIA-SMI has failed; exit 9"),
        ]);
        assert_eq!(tools.run("speaks", &["hello"]).as_deref(), Some("hello C\n"));
        assert_eq!(tools.run("fails", &[]), None);
        assert_eq!(tools.run("missing", &[]), None);
        assert_eq!(tools.run("sh", &["-c", "echo found outside"]), None);
    }

    #[test]
    fn commands_that_do_not_end_or_never_stop_talking_are_ended() {
        let (_folder, tools) = tools(&[
            ("hangs", "exec /bin/sleep 600"),
            ("leaves-a-child", "/bin/sleep 40 &"),
            ("talks", "while :; do echo yes; done"),
            ("closes", "exec >&-; exec /bin/sleep 600"),
        ]);
        let tools = tools.with_time(Duration::from_millis(300));
        for name in ["hangs", "leaves-a-child", "talks", "closes"] {
            let begun = Instant::now();
            assert_eq!(tools.run(name, &[]), None, "{name}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{name}");
        }
    }
}
