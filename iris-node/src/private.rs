//! Files that only this user can read.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a file where only this user can read it, whole or not at all.
pub(crate) fn write(file: &Path, text: &str) -> io::Result<()> {
    put(file, text, true)
}

/// Does as [`write`] without waiting for the disk: what a power cut may take back.
pub(crate) fn write_soon(file: &Path, text: &str) -> io::Result<()> {
    put(file, text, false)
}

fn put(file: &Path, text: &str, waits: bool) -> io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    let (path, mut new) = new_file(folder)?;
    new.write_all(text.as_bytes())?;
    if waits {
        new.sync_all()?;
    }
    std::fs::rename(path, file)
}

fn new_file(folder: &Path) -> io::Result<(PathBuf, std::fs::File)> {
    let path = folder.join(format!(".iris-node.{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // What a process of the same number left behind was never finished.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = options.open(&path)?;
    Ok((path, file))
}

/// Returns whether others may read a file.
#[cfg(unix)]
pub(crate) fn is_exposed(file: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::metadata(file)?.permissions().mode() & 0o077 != 0)
}

/// Returns whether others may read a file.
#[cfg(not(unix))]
pub(crate) fn is_exposed(_: &Path) -> io::Result<bool> {
    Ok(false)
}
