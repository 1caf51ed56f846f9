//! Reading a file that nobody else may read.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::{KeyFileError, io_error};

/// No secret's file is longer.
const MAX_LEN: usize = 1024;

pub(super) fn read_private(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    // Checked before opening, since opening a pipe would wait for its writer.
    let before = std::fs::symlink_metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
        _ => io_error(path, "read")(source),
    })?;
    if !before.is_file() {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(io_error(path, "read"))?;
    // What was opened is what counts: the path may lead elsewhere by now.
    let opened = file.metadata().map_err(io_error(path, "read"))?;
    if !same_file(&before, &opened) {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    }
    if is_exposed(&opened) {
        return Err(KeyFileError::Exposed(path.to_owned()));
    }
    check_folder(path)?;
    read_bounded(file).map_err(io_error(path, "read"))
}

/// Returns the text, or an empty one where it is too long or no text, which no secret is.
fn read_bounded(mut file: File) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; MAX_LEN + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..])? {
            0 => break,
            read => length += read,
        }
    }
    let text = bytes.get(..length).filter(|_| length <= MAX_LEN);
    let text = text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    Ok(Zeroizing::new(text.to_owned()))
}

/// Refuses a folder in which everybody may replace files.
pub(super) fn check_folder(path: &Path) -> Result<(), KeyFileError> {
    let folder = folder_of(path);
    let metadata = std::fs::metadata(folder).map_err(io_error(folder, "examined"))?;
    if is_open(&metadata) { Err(KeyFileError::OpenFolder(folder.to_owned())) } else { Ok(()) }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn same_file(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(unix)]
fn is_exposed(file: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.permissions().mode() & 0o077 != 0
}

#[cfg(unix)]
fn is_open(folder: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    const OTHERS_WRITE: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    folder.permissions().mode() & (OTHERS_WRITE | STICKY) == OTHERS_WRITE
}

#[cfg(not(unix))]
fn same_file(_one: &Metadata, other: &Metadata) -> bool {
    other.is_file()
}

#[cfg(not(unix))]
fn is_exposed(_file: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn is_open(_folder: &Metadata) -> bool {
    false
}
