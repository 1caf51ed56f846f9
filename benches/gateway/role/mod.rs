//! What this program is in the processes that it starts.

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::Failure;

mod coordinator;
mod crowd;
pub(crate) mod mock;
mod node;

/// Where the node finds its key.
pub(crate) const NODE_KEY: &str = "GATEWAY_NODE_KEY";

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// A model server that answers at once, or at a set pace.
    #[command(hide = true)]
    Mock {
        #[arg(long)]
        pace: u64,
        #[arg(long)]
        service: u64,
    },
    /// Opens accounts in the books of a coordinator that is not running.
    #[command(hide = true)]
    Books {
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        callers: u32,
    },
    #[command(hide = true)]
    Coordinator {
        #[arg(long)]
        folder: PathBuf,
    },
    #[command(hide = true)]
    Node {
        #[arg(long)]
        coordinator: SocketAddr,
        /// The model server; without one the node answers by itself.
        #[arg(long)]
        server: Option<SocketAddr>,
        #[arg(long)]
        slots: u32,
    },
    /// Many nodes that do nothing but stay.
    #[command(hide = true)]
    Crowd {
        #[arg(long)]
        coordinator: SocketAddr,
        #[arg(long)]
        nodes: u32,
    },
}

impl Role {
    /// Plays the role until this process's input ends.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Mock { pace, service } => {
                let [pace, service] = [*pace, *service].map(Duration::from_millis);
                one_thread()?.block_on(mock::serve(mock::Times { pace, service }, parent_gone()))
            }
            Self::Books { folder, callers } => {
                Runtime::new()?.block_on(coordinator::open_accounts(folder, *callers))
            }
            // Coordinator and node have as many threads as the real programs.
            Self::Coordinator { folder } => {
                half_the_cores()?.block_on(coordinator::serve(folder, parent_gone()))
            }
            Self::Node { coordinator, server, slots } => {
                one_thread()?.block_on(node::serve(*coordinator, *server, *slots, parent_gone()))
            }
            Self::Crowd { coordinator, nodes } => {
                one_thread()?.block_on(crowd::stay(*coordinator, *nodes, parent_gone()))
            }
        }
    }
}

fn half_the_cores() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(cores.div_ceil(2)).enable_all().build()
}

fn one_thread() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Resolves when whoever started this closes its input, or is no more.
async fn parent_gone() {
    let (sender, gone) = oneshot::channel::<()>();
    // A thread that nobody waits for, so that a role that fails ends nevertheless.
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(sender);
    });
    let _ = gone.await;
}
