//! Where trust is kept: in memory, or in a file that only its owner can read and change.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use iris_core::NodeId;
use iris_crypto::PublicIdentity;
use sha2::{Digest, Sha256};

use super::{Fork, Trust, TrustError};

/// No trust file is longer.
const MAX_LEN: u64 = 4 << 20;

/// Keeps a [`Trust`], and lends it out for one change at a time.
///
/// Several processes can share a file: each change is made to what the file holds then, under a
/// lock beside it, and replaces it whole.
#[derive(Debug)]
pub(crate) struct TrustStore {
    file: Option<PathBuf>,
    expected: Option<PublicIdentity>,
    own: Vec<NodeId>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    trust: Trust,
    /// Which state of the file it is.
    stamp: Option<Stamp>,
}

type Stamp = (Option<SystemTime>, u64, u64);

impl TrustStore {
    /// Keeps trust in `file`, or in memory. The coordinator must be `expected`, where that is
    /// given, and `own` are one's own nodes, beside those in the file.
    pub(crate) fn new(
        file: Option<PathBuf>,
        expected: Option<PublicIdentity>,
        own: Vec<NodeId>,
    ) -> Self {
        Self { file, expected, own, held: Mutex::default() }
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns one's own nodes.
    pub(crate) fn own(&self) -> Result<Vec<NodeId>, TrustError> {
        self.with(|trust| Ok(trust.own().copied().chain(self.own.iter().copied()).collect()))
    }

    /// Lends the trust out. What `change` does to it is kept unless it fails; the evidence of a
    /// fork is saved.
    pub(crate) fn with<T>(
        &self,
        change: impl FnOnce(&mut Trust) -> Result<T, TrustError>,
    ) -> Result<T, TrustError> {
        // A panic in between has left the old state, which is as good as any.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = self.file.as_deref().map(lock).transpose()?;
        if let Some(path) = &self.file {
            held.refresh(path)?;
        }
        let mut trust = held.trust.clone();
        if let Some(expected) = self.expected {
            trust.expect_coordinator(expected)?;
        }
        let done = change(&mut trust).map_err(|error| self.keep_evidence(error))?;
        if trust != held.trust {
            if let Some(path) = &self.file {
                held.stamp = Some(write(path, &to_json(&trust))?);
            }
            held.trust = trust;
        }
        drop(lock);
        Ok(done)
    }

    /// Starts anew, whatever the file holds.
    pub(crate) fn reset(&self) -> Result<(), TrustError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = self.file.as_deref().map(lock).transpose()?;
        if let Some(path) = &self.file
            && held.refresh(path).is_err()
        {
            *held = Held::default();
        }
        held.trust = Trust { own: std::mem::take(&mut held.trust.own), ..Trust::new() };
        if let Some(path) = &self.file {
            held.stamp = Some(write(path, &to_json(&held.trust))?);
        }
        drop(lock);
        Ok(())
    }

    fn keep_evidence(&self, error: TrustError) -> TrustError {
        match (error, &self.file) {
            (TrustError::Fork(mut fork), Some(file)) => {
                fork.saved = save(file, &fork).ok();
                TrustError::Fork(fork)
            }
            (error, _) => error,
        }
    }
}

impl Held {
    /// Reads the file, unless it is as it was.
    fn refresh(&mut self, path: &Path) -> Result<(), TrustError> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *self = Self::default();
                return Ok(());
            }
            Err(error) => return Err(problem(path, format!("it cannot be read: {error}"))),
        };
        if !metadata.is_file() {
            return Err(problem(path, "it is not a plain file"));
        }
        if is_exposed(&metadata) {
            return Err(problem(
                path,
                "others may read or change it: run `chmod 600` on it, and `iris trust reset` if \
                 you do not know what they did",
            ));
        }
        let stamp = stamp(&metadata);
        if self.stamp == Some(stamp) {
            return Ok(());
        }
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_LEN + 1).read_to_string(&mut text))
            .map_err(|error| problem(path, format!("it cannot be read: {error}")))?;
        if text.len() as u64 > MAX_LEN {
            return Err(problem(path, "it is too long"));
        }
        let trust = serde_json::from_str(&text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            problem(
                path,
                format!(
                    "line {line}, column {column} is not what this program writes; restore the \
                     file, or start anew with `iris trust reset`"
                ),
            )
        })?;
        *self = Self { trust, stamp: Some(stamp) };
        Ok(())
    }
}

fn to_json(trust: &Trust) -> String {
    let json = serde_json::to_string_pretty(trust).expect("trust has a JSON form");
    json + "\n"
}

fn problem(path: &Path, problem: impl Into<String>) -> TrustError {
    TrustError::File { path: path.to_owned(), problem: problem.into() }
}

/// Waits until no other process has the file.
fn lock(path: &Path) -> Result<File, TrustError> {
    let fail = |error: io::Error| problem(path, format!("it cannot be locked: {error}"));
    let folder = folder_of(path);
    create_folder(folder).map_err(fail)?;
    let file = private(OpenOptions::new().write(true).create(true).truncate(false))
        .open(beside(path, ".lock"))
        .map_err(fail)?;
    file.lock().map_err(fail)?;
    Ok(file)
}

/// Replaces the file whole.
fn write(path: &Path, text: &str) -> Result<Stamp, TrustError> {
    let fail = |error: io::Error| problem(path, format!("it cannot be written: {error}"));
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| problem(path, error.to_string()))?;
    let temporary = beside(path, &format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
    let written = write_new(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // A leftover is as private as the file itself, and nothing reads it.
        let _ = fs::remove_file(&temporary);
        return Err(fail(error));
    }
    Ok(stamp(&fs::symlink_metadata(path).map_err(fail)?))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Saves the evidence of a fork beside the trust file, once.
fn save(file: &Path, fork: &Fork) -> io::Result<PathBuf> {
    let both = Sha256::new().chain_update(&fork.known).chain_update(&fork.shown).finalize();
    let name = both.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let path = beside(file, &format!(".fork-{name:016x}.json"));
    match write_new(&path, &fork.to_json()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
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
