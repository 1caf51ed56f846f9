//! The folder of model files that the operator gives to nodes.
//!
//! What is given is known by its name alone: names come from the folder, are looked up as they are,
//! and never lead anywhere else. Links are no files here.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use iris_protocol::rest::{FileName, ModelFile};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long whoever asks waits for files that are being hashed.
const WAIT: Duration = Duration::from_secs(5);
/// Files that are given at a time: a disk serves few readers well.
const GIVEN: usize = 16;

/// The files of a folder, and what is known of them.
#[derive(Debug)]
pub(crate) struct ModelFolder {
    path: PathBuf,
    known: Mutex<BTreeMap<FileName, Known>>,
    looking: Arc<tokio::sync::Mutex<()>>,
    given: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    size: u64,
    modified: Option<SystemTime>,
    digest: blake3::Hash,
}

impl Known {
    fn is_still(&self, file: &Metadata) -> bool {
        file.is_file() && file.len() == self.size && file.modified().ok() == self.modified
    }
}

/// A file that is being given.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) file: File,
    pub(crate) size: u64,
    pub(crate) digest: blake3::Hash,
    pub(crate) place: OwnedSemaphorePermit,
}

/// Why a file is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotGiven {
    /// There is none of this name, or it is not known yet what it is.
    Unknown,
    /// So many are given already.
    Busy,
    /// It cannot be read, or has just changed.
    Unreadable,
}

impl ModelFolder {
    pub(crate) fn new(path: PathBuf) -> Arc<Self> {
        let (known, looking) = (Mutex::default(), Arc::default());
        Arc::new(Self { path, known, looking, given: Arc::new(Semaphore::new(GIVEN)) })
    }

    /// Looks at the folder, and returns the files of which it is known what they are.
    pub(crate) async fn list(self: &Arc<Self>) -> Vec<ModelFile> {
        match Arc::clone(&self.looking).try_lock_owned() {
            Ok(turn) => {
                let folder = Arc::clone(self);
                let look = spawn_blocking(move || {
                    folder.look();
                    drop(turn);
                });
                // One that takes longer goes on.
                let _ = timeout(WAIT, look).await;
            }
            // Somebody looks already.
            Err(_) => drop(timeout(WAIT, self.looking.lock()).await),
        }
        let known = self.known();
        let file = |(name, known): (&FileName, &Known)| ModelFile {
            name: name.clone(),
            size: known.size,
            blake3: known.digest.to_hex().to_string(),
        };
        known.iter().map(file).collect()
    }

    /// Opens a file of which it is known what it is.
    pub(crate) async fn give(self: &Arc<Self>, name: &str) -> Result<Given, NotGiven> {
        let name: FileName = name.parse().map_err(|_| NotGiven::Unknown)?;
        if !self.known().contains_key(&name) {
            self.list().await;
        }
        let known = self.known().get(&name).copied().ok_or(NotGiven::Unknown)?;
        let place = Arc::clone(&self.given).try_acquire_owned().map_err(|_| NotGiven::Busy)?;
        let path = self.path.join(name.as_str());
        let opened = spawn_blocking(move || open(&path)).await;
        let (file, metadata) =
            opened.map_err(|_| NotGiven::Unreadable)?.map_err(|_| NotGiven::Unreadable)?;
        if !known.is_still(&metadata) {
            // It is looked at again when the files are listed.
            self.known().remove(&name);
            return Err(NotGiven::Unreadable);
        }
        Ok(Given { file, size: known.size, digest: known.digest, place })
    }

    /// Hashes what is new in the folder, file by file, and forgets what has gone.
    fn look(&self) {
        let files = match files(&self.path) {
            Ok(files) => files,
            Err(error) => {
                tracing::error!(folder = %self.path.display(), %error, "no model can be given");
                Vec::new()
            }
        };
        self.known().retain(|name, _| files.contains(name));
        for name in files {
            let path = self.path.join(name.as_str());
            let known = self.known().get(&name).copied();
            match hash(&path, known) {
                Ok(found) => drop(self.known().insert(name, found)),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "this model cannot be given");
                    self.known().remove(&name);
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<FileName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the names of files that can be given.
fn files(folder: &Path) -> io::Result<Vec<FileName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // Links are not followed, wherever they lead.
        if let Some(name) = name
            && entry.file_type()?.is_file()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Opens a file that is no link.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Returns what a file is, read anew unless it is still what is `known` of it.
fn hash(path: &Path, known: Option<Known>) -> io::Result<Known> {
    let (mut file, metadata) = open(path)?;
    if let Some(known) = known.filter(|known| known.is_still(&metadata)) {
        return Ok(known);
    }
    let mut hasher = blake3::Hasher::new();
    let size = io::copy(&mut file, &mut hasher)?;
    let known = Known { size, modified: metadata.modified().ok(), digest: hasher.finalize() };
    // What is still being copied there is another file in the end.
    if known.is_still(&file.metadata()?) { Ok(known) } else { Err(io::Error::other("it changes")) }
}
