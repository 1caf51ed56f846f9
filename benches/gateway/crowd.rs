//! Memory of idle nodes.

use std::time::Duration;

use tempfile::tempdir;

use crate::Failure;
use crate::child::Child;
use crate::network::start_coordinator;
use crate::role::NODE_KEY;

/// How long the nodes stay before memory is read: at least one heartbeat of each.
const STAY: Duration = Duration::from_secs(12);

/// What idle nodes cost a coordinator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) nodes: u32,
    /// Memory of the coordinator without and with them.
    pub(crate) before_kib: u64,
    pub(crate) after_kib: u64,
    /// How much of one core their heartbeats took.
    pub(crate) load: f64,
}

impl Crowd {
    pub(crate) fn kib_each(&self) -> f64 {
        let added = self.after_kib.saturating_sub(self.before_kib);
        f64::from(u32::try_from(added).unwrap_or(u32::MAX)) / f64::from(self.nodes)
    }
}

/// Connects so many nodes to a coordinator of their own and leaves them alone.
pub(crate) async fn measure(nodes: u32) -> Result<Crowd, Failure> {
    eprintln!("{nodes} idle nodes ...");
    let folder = tempdir()?;
    let (coordinator, keys) = start_coordinator(&folder, 0).await?;
    let before_kib = coordinator.resident_kib()?;
    let count = nodes.to_string();
    let arguments = ["--coordinator", &coordinator.ready, "--nodes", &count];
    let crowd = Child::start("crowd", &arguments, &[(NODE_KEY, &keys.node)]).await?;
    let used = coordinator.cpu()?;
    tokio::time::sleep(STAY).await;
    let used = coordinator.cpu()?.saturating_sub(used);
    let after_kib = coordinator.resident_kib()?;
    crowd.stop().await?;
    coordinator.stop().await?;
    Ok(Crowd { nodes, before_kib, after_kib, load: used.div_duration_f64(STAY) })
}
