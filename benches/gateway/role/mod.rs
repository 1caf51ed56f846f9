//! What this program is in the processes that it starts.

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Subcommand;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::Failure;

mod coordinator;
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
        pace: u32,
    },
    /// Opens an account in the books of a coordinator that is not running.
    #[command(hide = true)]
    Books {
        #[arg(long)]
        folder: PathBuf,
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
}

impl Role {
    /// Plays the role until this process's input ends.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Mock { pace } => one_thread()?.block_on(mock::serve(*pace, parent_gone())),
            Self::Books { folder } => Runtime::new()?.block_on(coordinator::open_account(folder)),
            Self::Coordinator { folder } => {
                Runtime::new()?.block_on(coordinator::serve(folder, parent_gone()))
            }
            // As many threads as the real programs have.
            Self::Node { coordinator, server, slots } => {
                one_thread()?.block_on(node::serve(*coordinator, *server, *slots, parent_gone()))
            }
        }
    }
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
