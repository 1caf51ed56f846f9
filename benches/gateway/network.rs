//! The mock, the coordinator and the node, as processes.

use std::time::Duration;

use http::HeaderValue;
use tempfile::TempDir;

use crate::Failure;
use crate::child::Child;
use crate::figures::Cpu;
use crate::options::Options;
use crate::request::Target;
use crate::role::NODE_KEY;

/// Slots of the node: more than any load has in flight, so that nothing waits in line.
const SLOTS: &str = "1000";
/// How long the coordinator is left alone before its memory is read.
const SETTLE: Duration = Duration::from_millis(300);

/// Everything that requests pass through. Ends with it, one way or the other.
pub(crate) struct Network {
    mock: Child,
    coordinator: Child,
    node: Child,
    pub(crate) direct: Target,
    pub(crate) iris: Target,
    /// Memory of the coordinator before the first node and the first request.
    pub(crate) idle_kib: u64,
    /// Dropped last, after those who write into it.
    _folder: TempDir,
}

impl Network {
    pub(crate) async fn start(options: &Options) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_str().ok_or("the temporary folder has no readable name")?;
        let mock = Child::start("mock", &["--pace", &options.pace.to_string()], &[]).await?;
        let books = Child::start("books", &["--folder", path], &[]).await?;
        let keys = books.ready.clone();
        let (caller, key) = keys.split_once(' ').ok_or("the books gave no keys")?;
        books.stop().await?;
        let coordinator = Child::start("coordinator", &["--folder", path], &[]).await?;
        tokio::time::sleep(SETTLE).await;
        let idle_kib = coordinator.resident_kib()?;
        let mut arguments = vec!["--coordinator", &coordinator.ready, "--slots", SLOTS];
        if !options.scripted {
            arguments.extend(["--server", &mock.ready]);
        }
        let node = Child::start("node", &arguments, &[(NODE_KEY, key)]).await?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {caller}"))?;
        bearer.set_sensitive(true);
        Ok(Self {
            direct: Target { address: mock.ready.parse()?, key: None },
            iris: Target { address: coordinator.ready.parse()?, key: Some(bearer) },
            mock,
            coordinator,
            node,
            idle_kib,
            _folder: folder,
        })
    }

    /// Returns what each process has used so far.
    pub(crate) fn cpu(&self) -> Result<Cpu, Failure> {
        Ok(Cpu {
            mock: self.mock.cpu()?,
            coordinator: self.coordinator.cpu()?,
            node: self.node.cpu()?,
        })
    }

    /// Returns the memory of coordinator and node, in KiB.
    pub(crate) fn resident_kib(&self) -> Result<(u64, u64), Failure> {
        Ok((self.coordinator.resident_kib()?, self.node.resident_kib()?))
    }

    /// Ends the node first, so that it leaves in good order.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.node.stop().await?;
        self.coordinator.stop().await?;
        self.mock.stop().await
    }
}
