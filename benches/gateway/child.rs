//! A part of the network in a process of its own, and what the system says about it.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child as Process, Command};
use tokio::time::timeout;

use crate::Failure;

/// How long a part may take until it is ready.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long a part may take to end once it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// This program in one of its roles. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    name: &'static str,
    process: Process,
    /// What the role said when it was ready.
    pub(crate) ready: String,
}

impl Child {
    /// Starts the role `name` and waits until it is ready.
    pub(crate) async fn start(
        name: &'static str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(name)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().ok_or("a child's output is piped")?;
        let mut lines = BufReader::new(output).lines();
        let ready = timeout(START_LIMIT, lines.next_line()).await;
        let ready = ready.map_err(|_| format!("the {name} was not ready in time"))??;
        let ready = ready.ok_or_else(|| format!("the {name} did not start"))?;
        Ok(Self { name, process, ready })
    }

    /// Takes over a process that is no role of this program and reads no input.
    pub(crate) const fn foreign(name: &'static str, process: Process) -> Self {
        Self { name, process, ready: String::new() }
    }

    /// Returns whether the process has ended by itself.
    pub(crate) fn has_ended(&mut self) -> Result<bool, Failure> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Returns the CPU time that the process has used, in user and kernel mode.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        cpu_of(&self.path("task")?)
    }

    /// Returns how much memory of the process is resident, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<u64, Failure> {
        let path = self.path("status")?;
        let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(number.ok_or("an unknown form of /proc/PID/status")?.parse()?)
    }

    /// Asks the process to end by closing its input, and sees to it that it does.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        drop(self.process.stdin.take());
        let ended = timeout(STOP_LIMIT, self.process.wait()).await;
        let status = ended.map_err(|_| format!("the {} did not end in time", self.name))??;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the {} did not end well: {status}", self.name).into())
        }
    }

    /// Ends the process, whatever it is doing.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        Ok(self.process.kill().await?)
    }

    fn path(&self, file: &str) -> Result<String, Failure> {
        let id = self.process.id().ok_or_else(|| format!("the {} has ended", self.name))?;
        Ok(format!("/proc/{id}/{file}"))
    }
}

/// Returns the CPU time that this process has used itself.
pub(crate) fn own_cpu() -> Result<Duration, Failure> {
    cpu_of("/proc/self/task")
}

fn cpu_of(folder: &str) -> Result<Duration, Failure> {
    let mut used = Duration::ZERO;
    for thread in std::fs::read_dir(folder).map_err(|error| format!("{folder}: {error}"))? {
        // A thread may end while this reads.
        let Ok(stat) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let nanos = stat.split_whitespace().next().and_then(|field| field.parse().ok());
        used += Duration::from_nanos(nanos.ok_or("an unknown form of schedstat")?);
    }
    Ok(used)
}
