use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixStream;

/// What the server calls its socket.
const SOCKET: &str = "server.sock";
/// The file that is locked by whoever has the folders beside it.
const LOCK: &str = "lock";

/// The folder of one owner's sockets, which one sandbox has at a time.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    path: PathBuf,
    _lock: Arc<File>,
}

impl Parent {
    /// Makes the folder, where nobody but this user gets to it, and takes it until the last copy of
    /// this is dropped; nothing where another sandbox has it.
    pub(super) fn take(path: &Path) -> io::Result<Option<Self>> {
        let path = std::path::absolute(path)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let lock = File::options().create(true).append(true).open(path.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path: path.canonicalize()?, _lock: Arc::new(lock) })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Returns the folder, without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folders within whose names do not begin so.
    pub(super) fn remove_others(&self, name: &str) {
        let found = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        for other in found.filter(|found| !found.file_name().to_string_lossy().starts_with(name)) {
            // The lock is no folder; what else stays is in nobody's way.
            let _ = std::fs::remove_dir_all(other.path());
        }
    }
}

/// A folder that a server shares with this process, with its socket in it. It goes when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _parent: Parent,
}

impl Folder {
    /// Makes one within `parent`, of a name that begins so.
    pub(super) fn make(parent: &Parent, name: &str) -> io::Result<Self> {
        let path = parent.path.join(format!("{name}-{}", super::random()));
        let made = Self { path, _parent: parent.clone() };
        std::fs::DirBuilder::new().mode(0o700).create(&made.path)?;
        // Whoever the server is, it may make its socket here. Of others none gets as far as this.
        let shared = made.shared();
        std::fs::create_dir(&shared)?;
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777))?;
        Ok(made)
    }

    /// Returns its name, which nothing else has.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Returns what of it the server sees.
    pub(super) fn shared(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Returns the way to where the server listens.
    pub(super) fn socket(&self) -> io::Result<Socket> {
        Socket::of(&self.shared())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is in nobody's way.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The way to a server's socket. The server may put anything in its place, such as a link to a socket
/// that it does not see itself: only what is a socket is connected to.
#[derive(Debug)]
pub(super) struct Socket {
    #[cfg(target_os = "linux")]
    folder: OwnedFd,
    #[cfg(not(target_os = "linux"))]
    folder: PathBuf,
}

#[cfg(target_os = "linux")]
impl Socket {
    fn of(folder: &Path) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags, open};

        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { folder: open(folder, flags, Mode::empty())? })
    }

    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        use std::os::fd::AsRawFd;

        use rustix::fs::{FileType, Mode, OFlags, fstat, openat};

        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(&self.folder, SOCKET, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::Socket {
            return Err(no_socket());
        }
        // What was looked at, whatever has that name by now.
        UnixStream::connect(format!("/proc/self/fd/{}", found.as_raw_fd())).await
    }
}

#[cfg(not(target_os = "linux"))]
impl Socket {
    fn of(folder: &Path) -> io::Result<Self> {
        Ok(Self { folder: folder.to_owned() })
    }

    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        use std::os::unix::fs::FileTypeExt;

        let path = self.folder.join(SOCKET);
        if !path.symlink_metadata()?.file_type().is_socket() {
            return Err(no_socket());
        }
        UnixStream::connect(path).await
    }
}

fn no_socket() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "what the server has put there is no socket")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_link_to_another_socket_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("docker.sock");
        let _listener = UnixListener::bind(&other).unwrap();
        let parent = Parent::take(&folder.path().join("run")).unwrap().unwrap();
        let made = Folder::make(&parent, "it").unwrap();
        let socket = made.socket().unwrap();
        std::os::unix::fs::symlink(&other, made.shared().join(SOCKET)).unwrap();
        assert!(socket.connect().await.is_err());
        std::fs::remove_file(made.shared().join(SOCKET)).unwrap();
        let _own = UnixListener::bind(made.shared().join(SOCKET)).unwrap();
        socket.connect().await.unwrap();
    }
}
