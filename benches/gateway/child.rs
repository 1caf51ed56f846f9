//! A part of the network in a process of its own, and what the system says about it.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child as Process, Command};
use tokio::time::timeout;

use crate::Failure;

/// How long a part may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a part may take to end once it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Linux accounts CPU time in hundredths of a second, on every architecture.
const TICK: Duration = Duration::from_millis(10);

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

    /// Returns the CPU time that the process has used, in user and kernel mode.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let stat = self.read("stat")?;
        // The second field is a file's name and may hold anything, but is closed by the last ')'.
        let (_, fields) = stat.rsplit_once(')').ok_or("an unknown form of /proc/PID/stat")?;
        let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u32>);
        match (ticks.next(), ticks.next()) {
            (Some(Ok(user)), Some(Ok(kernel))) => Ok(TICK * (user + kernel)),
            _ => Err("an unknown form of /proc/PID/stat".into()),
        }
    }

    /// Returns how much memory of the process is resident, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<u64, Failure> {
        let status = self.read("status")?;
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

    fn read(&self, file: &str) -> Result<String, Failure> {
        let id = self.process.id().ok_or_else(|| format!("the {} has ended", self.name))?;
        let path = format!("/proc/{id}/{file}");
        std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}").into())
    }
}
