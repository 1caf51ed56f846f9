//! A file that only its owner can read and change, and that several processes share.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file that is replaced whole, under a lock beside it.
#[derive(Clone, Debug)]
pub(crate) struct PrivateFile {
    path: PathBuf,
    max_len: u64,
}

/// Tells two states of a file apart.
pub(crate) type Stamp = (Option<SystemTime>, u64, u64);

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileProblem {
    #[error("it is not a plain file")]
    NotPlain,
    #[error("others may read or change it: run `chmod 600` on it")]
    Exposed,
    #[error("it is too long")]
    TooLong,
    #[error("it cannot be {what}: {cause}")]
    Io { what: &'static str, cause: io::Error },
}

impl PrivateFile {
    /// Names a file of at most `max_len` bytes, which need not be there.
    pub(crate) const fn new(path: PathBuf, max_len: u64) -> Self {
        Self { path, max_len }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until no other process has the file; it has it until the lock is dropped.
    pub(crate) fn lock(&self) -> Result<File, FileProblem> {
        create_folder(self.folder()).map_err(io("locked"))?;
        let file = private(OpenOptions::new().write(true).create(true).truncate(false))
            .open(self.beside(".lock"))
            .map_err(io("locked"))?;
        file.lock().map_err(io("locked"))?;
        Ok(file)
    }

    /// Returns which state the file is in, if it is there and nobody else can use it.
    pub(crate) fn stamp(&self) -> Result<Option<Stamp>, FileProblem> {
        let metadata = match fs::symlink_metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read")(error)),
        };
        if !metadata.is_file() {
            return Err(FileProblem::NotPlain);
        }
        if is_exposed(&metadata) {
            return Err(FileProblem::Exposed);
        }
        Ok(Some(stamp(&metadata)))
    }

    pub(crate) fn read(&self) -> Result<String, FileProblem> {
        let mut text = String::new();
        File::open(&self.path)
            .and_then(|file| file.take(self.max_len + 1).read_to_string(&mut text))
            .map_err(io("read"))?;
        if text.len() as u64 > self.max_len { Err(FileProblem::TooLong) } else { Ok(text) }
    }

    /// Replaces the file whole.
    pub(crate) fn write(&self, text: &str) -> Result<Stamp, FileProblem> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| io("written")(io::Error::other(error.to_string())))?;
        let temporary = self.beside(&format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
        let written = write_new(&temporary, text).and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            // A leftover is as private as the file itself, and nothing reads it.
            let _ = fs::remove_file(&temporary);
            return Err(io("written")(error));
        }
        Ok(stamp(&fs::symlink_metadata(&self.path).map_err(io("read"))?))
    }

    /// Removes the file, if it is there.
    pub(crate) fn remove(&self) -> Result<(), FileProblem> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("removed")(error)),
            _ => Ok(()),
        }
    }

    /// Returns the path with a longer name.
    pub(crate) fn beside(&self, ending: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(ending);
        name.into()
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }
}

/// Writes a file that must not be there yet.
pub(crate) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn io(what: &'static str) -> impl Fn(io::Error) -> FileProblem {
    move |cause| FileProblem::Io { what, cause }
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

#[cfg(unix)]
fn create_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(unix)]
fn is_exposed(file: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.permissions().mode() & 0o077 != 0
}

#[cfg(unix)]
fn stamp(file: &Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    (file.modified().ok(), file.len(), file.ino())
}

#[cfg(not(unix))]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(not(unix))]
fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(folder)
}

#[cfg(not(unix))]
fn is_exposed(_file: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn stamp(file: &Metadata) -> Stamp {
    (file.modified().ok(), file.len(), 0)
}
