use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

/// A model server: its program, how it is called, and how one sees that it answers.
///
/// Arguments are left out of `Debug`, since they may hold a key.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// A path, or a name that is looked for in the folders of `PATH`; in a container, of its image,
    /// which starts its own program where this is empty.
    pub program: String,
    /// What the program is called with. It must listen on `127.0.0.1` and [`port`](Self::port), or
    /// in a container at `Container::SOCKET`.
    pub arguments: Vec<String>,
    /// Where the server listens.
    pub port: u16,
    /// How one sees that it answers.
    pub health: Health,
    /// What it may use.
    pub limits: Limits,
}

impl ServerSpec {
    /// Returns where the server's OpenAI endpoint is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

impl fmt::Debug for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSpec")
            .field("program", &self.program)
            .field("port", &self.port)
            .field("health", &self.health)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// How one sees that a server answers: by a status of 200 to `GET` of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The path.
    pub path: String,
    /// How long the server may take until it answers, with its model loaded. Default: 15 minutes.
    pub start_limit: Duration,
    /// Whether it answers while it is at work, so that silence means that it hangs. Then it is
    /// asked every 15 s, and started again after 4 silences in a row. Default: no.
    pub while_busy: bool,
}

impl Health {
    /// Asks at `path`, by the defaults.
    pub fn at(path: impl Into<String>) -> Self {
        Self { path: path.into(), start_limit: Duration::from_mins(15), while_busy: false }
    }

    /// Says that the server answers there while it is at work.
    #[must_use]
    pub const fn while_busy(mut self) -> Self {
        self.while_busy = true;
        self
    }
}

/// What a server may use. Nothing is limited by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory of its own, without what it maps from files; what it asks for beyond is
    /// refused to it. Heeded on Linux, and in containers, where it is ended instead.
    pub memory: Option<u64>,
    /// How far it steps back behind other programs, from 1 to 19. Heeded on Unix by processes.
    pub niceness: Option<u8>,
    /// How many processors' time it may take. Heeded in containers.
    pub cpus: Option<u16>,
}

/// Returns a port of this machine that nobody listens on.
///
/// # Errors
///
/// The system's, when it has none left.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
