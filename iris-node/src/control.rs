//! Commands to a node that runs on this machine: a socket beside its identity, for its user alone.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::desk::Desk;
use crate::failure::{Exit, Failure};
use crate::owner::Owner;
use crate::status::snapshot::Snapshot;

/// How long either side waits for the other's line.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest line, in bytes.
const MAX_LINE: u64 = 256;
/// Longest line in which a node tells how it is.
const MAX_STATUS: u64 = 1 << 20;
/// What a node is asked that is to tell how it is.
const STATUS: &str = "status";

/// What a running node can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Order {
    /// Let the running node finish what it has and take nothing new, until `resume` or its end
    Pause,
    /// Let the running node take work again
    Resume,
    /// Let the running node finish what it has and end, and wait for that
    Drain,
}

impl Order {
    const ALL: [Self; 3] = [Self::Pause, Self::Resume, Self::Drain];

    const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Drain => "drain",
        }
    }

    fn carry_out(self, owner: &Owner) -> &'static str {
        match self {
            Self::Pause => {
                owner.pause(true);
                "paused: running answers go on, new ones go to other nodes"
            }
            Self::Resume => {
                owner.pause(false);
                "resumed: it takes work, as far as its limits let it"
            }
            Self::Drain => {
                owner.drain();
                "draining: it ends when its running answers have"
            }
        }
    }

    /// Gives the order to the node with this identity, and prints what it says.
    pub(crate) async fn give(self, key: &Path) -> Result<(), Failure> {
        let (answer, mut lines) = say(key, self.name(), MAX_LINE).await?;
        println!("{answer}");
        if self == Self::Drain {
            // The node holds its end for as long as it lives.
            while lines.next_line().await.is_ok_and(|line| line.is_some()) {}
        }
        Ok(())
    }
}

/// Asks the node with this identity how it is.
pub(crate) async fn snapshot(key: &Path) -> Result<Snapshot, Failure> {
    let (answer, _) = say(key, STATUS, MAX_STATUS).await?;
    serde_json::from_str(&answer).map_err(|_| {
        let problem = "the node that runs is of another version; start it again with this one";
        Failure::new(Exit::Work, problem)
    })
}

type Lines = tokio::io::Lines<BufReader<tokio::io::Take<UnixStream>>>;

/// Says a line to the node with this identity; returns its answer, and the socket that it holds.
async fn say(key: &Path, line: &str, longest: u64) -> Result<(String, Lines), Failure> {
    let nobody = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::Work,
            format!(
                "no node runs with the identity {}: `iris-node` starts one, --key names another",
                key.display()
            ),
        ),
        _ => Failure::new(Exit::Work, format!("the node cannot be told: {error}")),
    };
    let mut socket = UnixStream::connect(socket_of(key)).await.map_err(nobody)?;
    socket.write_all(format!("{line}\n").as_bytes()).await.map_err(nobody)?;
    let mut lines = BufReader::new(socket.take(longest)).lines();
    let answer = timeout(PATIENCE, lines.next_line()).await;
    let silent = || Failure::new(Exit::Work, "the node does not answer");
    let answer = answer.map_err(|_| silent())?.map_err(nobody)?.ok_or_else(silent)?;
    Ok((answer, lines))
}

/// Where a running node listens.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Begins to listen for the user of this process, in a folder that nobody else may enter.
    pub(crate) fn open(key: &Path) -> io::Result<Self> {
        let path = socket_of(key);
        let folder = path.parent().expect("a socket lies in a folder");
        match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = std::fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.mode() & 0o077 != 0 {
            let problem = format!("others may enter {}; remove it", folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            let problem = "a node with this identity is running already";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, problem));
        }
        // What a node left that was killed.
        let _ = std::fs::remove_file(&path);
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// Takes orders for as long as the node lives.
    pub(crate) async fn serve(self, owner: Arc<Owner>, desk: Arc<Desk>) {
        while let Ok((socket, _)) = self.listener.accept().await {
            tokio::spawn(hear(socket, Arc::clone(&owner), Arc::clone(&desk)));
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Tells how the node is, or carries one order out and says so; then holds the socket while the other side does.
async fn hear(socket: UnixStream, owner: Arc<Owner>, desk: Arc<Desk>) {
    let (reader, mut writer) = socket.into_split();
    let mut lines = BufReader::new(reader.take(MAX_LINE)).lines();
    let Ok(Ok(Some(line))) = timeout(PATIENCE, lines.next_line()).await else { return };
    let answer = if line.trim() == STATUS {
        serde_json::to_string(&desk.snapshot(&owner).await).unwrap_or_default()
    } else {
        let order = Order::ALL.into_iter().find(|order| order.name() == line.trim());
        let answer = order.map_or("this node does not know that order", |order| {
            tracing::info!(order = order.name(), "told by its owner");
            order.carry_out(&owner)
        });
        answer.to_owned()
    };
    let answer = format!("{answer}\n");
    if timeout(PATIENCE, writer.write_all(answer.as_bytes())).await.is_ok_and(|said| said.is_ok()) {
        while lines.next_line().await.is_ok_and(|line| line.is_some()) {}
    }
}

/// Returns whether a node with this identity runs.
pub(crate) fn is_running(key: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket_of(key)).is_ok()
}

/// Returns where the node with this identity listens.
fn socket_of(key: &Path) -> PathBuf {
    key.with_extension("control").join("socket")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use iris_core::terms::Rest;
    use iris_node::limits::Limits;

    use super::*;

    fn key() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("node.key");
        (folder, key)
    }

    #[tokio::test]
    async fn a_node_does_what_its_user_tells_it() {
        let (_folder, key) = key();
        let owner = Owner::new(Limits::default());
        let serving =
            Control::open(&key).unwrap().serve(Arc::clone(&owner), Desk::new(None, None, None));
        let serving = tokio::spawn(serving);
        let rest = || owner.conduct().borrow().terms.rest;
        Order::Pause.give(&key).await.unwrap();
        assert_eq!(rest(), Some(Rest::Paused));
        assert_eq!(snapshot(&key).await.unwrap().rest, Some(Rest::Paused));
        Order::Resume.give(&key).await.unwrap();
        assert_eq!(rest(), None);
        serving.abort();
        let _ = serving.await;
        assert!(Order::Pause.give(&key).await.is_err(), "nobody is there any more");
        let failure = snapshot(&key).await.unwrap_err().to_string();
        assert!(failure.contains("`iris-node` starts one"), "{failure}");
        assert!(!socket_of(&key).exists());
    }

    #[tokio::test]
    async fn nonsense_is_answered_and_changes_nothing() {
        let (_folder, key) = key();
        let owner = Owner::new(Limits::default());
        let control = Control::open(&key).unwrap();
        tokio::spawn(control.serve(Arc::clone(&owner), Desk::new(None, None, None)));
        for nonsense in ["\n", "stop\n", "pause now\n", &"x".repeat(10_000)] {
            let mut socket = UnixStream::connect(socket_of(&key)).await.unwrap();
            let _ = socket.write_all(nonsense.as_bytes()).await;
            let _ = socket.shutdown().await;
            let mut answer = String::new();
            let _ = socket.read_to_string(&mut answer).await;
            assert!(answer.is_empty() || answer.contains("does not know"), "{answer}");
        }
        assert_eq!(owner.conduct().borrow().terms.rest, None);
    }

    #[tokio::test]
    async fn the_socket_is_its_users_alone_and_one_nodes() {
        let (_folder, key) = key();
        let control = Control::open(&key).unwrap();
        let folder = socket_of(&key).parent().unwrap().to_owned();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let second = Control::open(&key).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(control);
        // What a killed node leaves is in nobody's way.
        drop(std::os::unix::net::UnixListener::bind(socket_of(&key)).unwrap());
        drop(Control::open(&key).unwrap());
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let open = Control::open(&key).unwrap_err();
        assert_eq!(open.kind(), io::ErrorKind::PermissionDenied);
    }
}
