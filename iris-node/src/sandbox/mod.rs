//! Starts model servers, looks after them and ends them.
//!
//! A [`Sandbox`] runs a [`ServerSpec`]: as a child of this process ([`Process`]), in a container of
//! Docker or podman (`Container`, with the feature `containers`), or in whatever another
//! implementation of the trait runs it in. A [`Supervisor`] keeps the server running: it
//! waits until it answers, starts it again when it ends, later and later while it keeps failing, and
//! takes it down with the node. [`Preset`]s know how common servers are called.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use iris_node::sandbox::{Preset, Process, Sizing, Supervisor, free_port};
//!
//! # async fn start(stop: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
//! let spec = Preset::LlamaServer.server("model.gguf", free_port()?, Sizing::default())?;
//! let url = spec.url();
//! let supervisor = Supervisor::new(Arc::new(Process::new()), spec);
//! # let _ = url;
//! supervisor.run(stop).await; // while an `OpenAiBackend` asks the server at `url`
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;

#[cfg(all(unix, feature = "containers"))]
mod container;
mod health;
mod output;
mod preset;
mod process;
mod spec;
mod supervisor;

#[cfg(all(unix, feature = "containers"))]
pub use container::{Container, PinError, PinnedImage};
pub use preset::{Preset, PresetError, Sizing};
#[cfg(target_os = "linux")]
pub use process::launch;
pub use process::{Process, find_program};
pub use spec::{Health, Limits, ServerSpec, free_port};
pub use supervisor::{State, Supervisor};

/// Where model servers run.
///
/// One sandbox may run several servers at once.
pub trait Sandbox: fmt::Debug + Send + Sync + 'static {
    /// Starts the server, and returns when it runs, which is before it answers. Dropping the future
    /// ends what has been started.
    fn start<'a>(
        &'a self,
        spec: &'a ServerSpec,
    ) -> BoxFuture<'a, Result<Box<dyn Running>, SandboxError>>;
}

/// A server that runs. Dropping it ends the server and all that it started, by force.
pub trait Running: fmt::Debug + Send {
    /// Resolves when the server has ended by itself. Dropping the future changes nothing.
    fn ended(&mut self) -> BoxFuture<'_, Ended>;

    /// Asks the server to end, and ends it by force when it has not within `grace`.
    fn stop(self: Box<Self>, grace: Duration) -> BoxFuture<'static, Ended>;
}

/// How a server came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended a process, or nobody tells. Containers have 128 and
    /// the signal's number then.
    pub code: Option<i32>,
    /// Whether the system ended it for taking more memory than it may, as far as that is told.
    pub out_of_memory: bool,
    /// The last lines that it printed, the latest last, each cut to 500 bytes.
    pub last_lines: Vec<String>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            _ if self.out_of_memory => f.write_str("it took more memory than it may"),
            Some(code) => write!(f, "it ended with exit code {code}"),
            None => f.write_str("it was ended by a signal"),
        }
    }
}

/// Why a server cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// There is no such program.
    #[error("{0} is not installed, or not in a folder that PATH names")]
    NotInstalled(String),
    /// The system refuses to run it.
    #[error("{program} cannot be started: {error}")]
    Start {
        /// The program.
        program: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// Somebody else listens at the server's port.
    #[error("nobody can listen at port {port} of 127.0.0.1: {error}")]
    Port {
        /// The port.
        port: u16,
        /// What the system says.
        error: std::io::Error,
    },
    /// The folder for a container's socket cannot be made.
    #[error("{} cannot be made: {error}", folder.display())]
    Folder {
        /// The folder.
        folder: std::path::PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Another sandbox of the same owner has the folder, so that what it runs is not removed.
    #[error("a node with this identity runs already, and has {}", .0.display())]
    Taken(std::path::PathBuf),
    /// The model is not there, or must not be shown to a container.
    #[error("the model {} cannot be shown to a container: {error}", model.display())]
    Model {
        /// The model.
        model: std::path::PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Docker or podman cannot be reached, or refuses.
    #[error("Docker or podman: {0}")]
    Engine(String),
    /// The image is not on this machine.
    #[error("the image {0} is not on this machine: run `docker pull {0}`, or podman's")]
    NoImage(String),
    /// The system lets nobody limit this, so that the server would run without its limit.
    #[error("Docker or podman cannot limit {0} on this machine: its cgroups lack that controller")]
    NoLimit(&'static str),
    /// The server was to have a graphics card and has none.
    #[error(
        "the container has no graphics card (`nvidia-smi -L` in it: {0}); NVIDIA's container toolkit \
         passes them on"
    )]
    NoGpu(String),
}
