//! Making a file that nobody else may read: whole or not at all, and never over another.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::access::{check_folder, folder_of};
use super::{KeyFileError, io_error};
use crate::random::random_bytes;

pub(super) fn create_private(path: &Path, text: &[u8]) -> Result<(), KeyFileError> {
    let Some(name) = path.file_name() else {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    };
    let folder = folder_of(path);
    create_folder(folder).map_err(io_error(folder, "created"))?;
    check_folder(path)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", data_encoding::HEXLOWER.encode(&random_bytes::<8>())));
    let temporary = Temporary(folder.join(temporary));
    temporary.write(text).map_err(io_error(path, "written"))?;
    temporary.publish(path)?;
    drop(temporary);
    sync_folder(folder).map_err(io_error(folder, "synchronised"))
}

/// A file beside its destination, removed when dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn write(&self, text: &[u8]) -> io::Result<()> {
        let mut file = private_options().open(&self.0)?;
        file.write_all(text)?;
        file.sync_all()
    }

    /// Gives the file its name. A second name for the same file, unlike a renaming, never replaces
    /// a file that has the name already.
    fn publish(&self, path: &Path) -> Result<(), KeyFileError> {
        fs::hard_link(&self.0, path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
            _ => io_error(path, "created")(source),
        })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // A leftover is as private as the file itself, and nothing reads it.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(unix)]
fn private_options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
}

#[cfg(unix)]
fn create_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    options
}

#[cfg(not(unix))]
fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(folder)
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}
