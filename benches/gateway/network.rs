//! The mock, nginx, the coordinator and the node, as processes.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde::Serialize;
use tempfile::TempDir;

use crate::Failure;
use crate::child::{Child, own_cpu};
use crate::figures::Cpu;
use crate::nginx;
use crate::request::{Connection, Target};
use crate::role::NODE_KEY;
use crate::seal;

/// How long the coordinator is left alone before its memory is read.
const SETTLE: Duration = Duration::from_millis(300);

/// By which way requests reach the mock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    Direct,
    Nginx,
    Iris,
    Sealed,
}

impl Way {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Iris => "Iris",
            Self::Sealed => "sealed",
        }
    }
}

/// How a network is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Milliseconds between two words of a paced stream.
    pub(crate) pace: u32,
    /// Milliseconds that the mock takes for an answer of its busy model.
    pub(crate) service: u32,
    /// Slots of the node.
    pub(crate) slots: u32,
    /// Whether the node answers by itself.
    pub(crate) scripted: bool,
    /// Whether nginx is started too, where it is installed.
    pub(crate) nginx: bool,
    /// Accounts of callers.
    pub(crate) callers: u32,
}

/// Everything that requests pass through. Ends with it, one way or the other.
pub(crate) struct Network {
    mock: Child,
    nginx: Option<Child>,
    coordinator: Child,
    node: Child,
    /// The ways to the mock, the direct one first.
    pub(crate) ways: Vec<(Way, Target)>,
    /// The coordinator, each time with the key of another caller.
    pub(crate) callers: Vec<Target>,
    /// Memory of the coordinator before the first node and the first request.
    pub(crate) idle_kib: u64,
    /// Dropped last, after those who write into it.
    _folder: TempDir,
}

impl Network {
    pub(crate) async fn start(plan: &Plan) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let [pace, service, slots] = [plan.pace, plan.service, plan.slots].map(|n| n.to_string());
        let mock = Child::start("mock", &["--pace", &pace, "--service", &service], &[]).await?;
        let mut ways = vec![(Way::Direct, Target::open(mock.ready.parse()?))];
        let mut nginx = None;
        if let Some(program) = nginx::find().filter(|_| plan.nginx) {
            let (child, address) =
                nginx::start(&program, folder.path(), mock.ready.parse()?).await?;
            nginx = Some(child);
            ways.push((Way::Nginx, Target::open(address)));
        }
        let (coordinator, keys) = start_coordinator(&folder, plan.callers).await?;
        tokio::time::sleep(SETTLE).await;
        let idle_kib = coordinator.resident_kib()?;
        let mut arguments = vec!["--coordinator", &coordinator.ready, "--slots", &slots];
        if !plan.scripted {
            arguments.extend(["--server", &mock.ready]);
        }
        let node = Child::start("node", &arguments, &[(NODE_KEY, &keys.node)]).await?;
        let mut callers = Vec::new();
        for key in &keys.callers {
            let mut bearer = HeaderValue::try_from(format!("Bearer {key}"))?;
            bearer.set_sensitive(true);
            let address = coordinator.ready.parse()?;
            callers.push(Target { key: Some(bearer), ..Target::open(address) });
        }
        let caller = callers.first().ok_or("a network has a caller")?;
        ways.push((Way::Iris, caller.clone()));
        let sealed_to = Some(Arc::new(seal::certificate(caller).await?));
        ways.push((Way::Sealed, Target { sealed_to, ..caller.clone() }));
        Ok(Self { ways, callers, mock, nginx, coordinator, node, idle_kib, _folder: folder })
    }

    /// Returns what each process has used so far.
    pub(crate) fn cpu(&self) -> Result<Cpu, Failure> {
        Ok(Cpu {
            caller: own_cpu()?,
            mock: self.mock.cpu()?,
            nginx: self.nginx.as_ref().map(Child::cpu).transpose()?.unwrap_or_default(),
            coordinator: self.coordinator.cpu()?,
            node: self.node.cpu()?,
        })
    }

    /// Returns how many rows the coordinator has made durable, and in how many commits.
    pub(crate) async fn durable(&self) -> Result<(u64, u64), Failure> {
        let target = self.callers.first().ok_or("a network has a caller")?;
        let metrics = Connection::open(target).await?.get("/metrics").await?;
        let count = |name: &str| {
            let mut lines = metrics.lines().filter_map(|line| line.split_once(' '));
            let value = lines.find(|(found, _)| *found == name).map(|(_, value)| value);
            Ok::<u64, Failure>(value.ok_or("a figure is missing in /metrics")?.parse()?)
        };
        Ok((count("iris_journal_rows_total")?, count("iris_journal_commits_total")?))
    }

    /// Returns the memory of coordinator and node, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<(u64, u64), Failure> {
        Ok((self.coordinator.resident_kib()?, self.node.resident_kib()?))
    }

    /// Ends the node first, so that it leaves in good order.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.node.stop().await?;
        self.coordinator.stop().await?;
        if let Some(nginx) = self.nginx {
            nginx.kill().await?;
        }
        self.mock.stop().await
    }
}

/// The keys that a new coordinator gave out.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) node: String,
    pub(crate) callers: Vec<String>,
}

/// Starts a coordinator that keeps its books in `folder` and knows so many callers.
pub(crate) async fn start_coordinator(
    folder: &TempDir,
    callers: u32,
) -> Result<(Child, Keys), Failure> {
    let path = folder.path().to_str().ok_or("the temporary folder has no readable name")?;
    let count = callers.to_string();
    let books = Child::start("books", &["--folder", path, "--callers", &count], &[]).await?;
    let mut keys = books.ready.split(' ').map(str::to_owned);
    let node = keys.next().ok_or("the books gave no keys")?;
    let keys = Keys { node, callers: keys.collect() };
    books.stop().await?;
    Ok((Child::start("coordinator", &["--folder", path], &[]).await?, keys))
}
