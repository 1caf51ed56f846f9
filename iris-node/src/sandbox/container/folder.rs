use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A folder that a server shares with this process, with its socket in it. It goes when dropped.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes one within `parent`, of a name that begins so, where nobody but this user gets to it.
    pub(super) fn make(parent: &Path, name: &str) -> io::Result<Self> {
        let parent = std::path::absolute(parent)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&parent)?;
        let made = Self(parent.join(format!("{name}-{}", super::random())));
        std::fs::DirBuilder::new().mode(0o700).create(&made.0)?;
        // Whoever the server is, it may make its socket here. Of others none gets as far as this.
        let shared = made.shared();
        std::fs::create_dir(&shared)?;
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777))?;
        Ok(made)
    }

    /// Removes those within `parent` whose names do not begin so.
    pub(super) fn remove_others(parent: &Path, name: &str) {
        let found = std::fs::read_dir(parent).into_iter().flatten().flatten();
        for other in found.filter(|found| !found.file_name().to_string_lossy().starts_with(name)) {
            // What stays is in nobody's way.
            let _ = std::fs::remove_dir_all(other.path());
        }
    }

    /// Returns what of it the server sees.
    pub(super) fn shared(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Returns where the server listens.
    pub(super) fn socket(&self) -> PathBuf {
        self.shared().join("server.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is in nobody's way.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
