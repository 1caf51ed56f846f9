//! The folder of model files that the operator gives to nodes.
//!
//! What is given is known by its name alone: names come from the folder, are looked up as they are,
//! and never lead anywhere else. Links are no files here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use iris_core::AccountId;
use iris_protocol::rest::{FileName, ModelFile};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long whoever asks waits for files that are being hashed.
const WAIT: Duration = Duration::from_secs(5);
/// Files that are given at a time: a disk serves few readers well.
const GIVEN: usize = 16;
/// Files that one account is given at a time, which leaves some to others.
const GIVEN_EACH: usize = 4;

/// The files of a folder, and what is known of them.
#[derive(Debug)]
pub(crate) struct ModelFolder {
    path: PathBuf,
    known: Mutex<BTreeMap<FileName, Known>>,
    /// Files that somebody waits for, which are hashed first.
    asked: Mutex<BTreeSet<FileName>>,
    looking: Arc<tokio::sync::Mutex<()>>,
    /// How many files each account is being given.
    given: Mutex<BTreeMap<AccountId, usize>>,
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
    pub(crate) place: Place,
}

/// One of the files that are given at a time, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    folder: Arc<ModelFolder>,
    account: AccountId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut given = locked(&self.folder.given);
        if let Some(count) = given.get_mut(&self.account) {
            *count -= 1;
        }
        given.retain(|_, count| *count > 0);
    }
}

/// Why a file is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotGiven {
    /// There is none of this name.
    Unknown,
    /// It is not known yet what it is.
    Hashing,
    /// So many are given already, to all or to this account.
    Busy,
    /// It cannot be read, or has just changed.
    Unreadable,
}

impl ModelFolder {
    pub(crate) fn new(path: PathBuf) -> Arc<Self> {
        let (known, asked, looking, given) = Default::default();
        Arc::new(Self { path, known, asked, looking, given })
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
        let known = locked(&self.known);
        let file = |(name, known): (&FileName, &Known)| ModelFile {
            name: name.clone(),
            size: known.size,
            blake3: known.digest.to_hex().to_string(),
        };
        known.iter().map(file).collect()
    }

    /// Opens a file of which it is known what it is, for `account`.
    pub(crate) async fn give(
        self: &Arc<Self>,
        account: AccountId,
        name: &str,
    ) -> Result<Given, NotGiven> {
        let name: FileName = name.parse().map_err(|_| NotGiven::Unknown)?;
        let path = self.path.join(name.as_str());
        if !locked(&self.known).contains_key(&name) {
            let path = path.clone();
            let is_there = spawn_blocking(move || is_file(&path)).await;
            if !is_there.unwrap_or(false) {
                return Err(NotGiven::Unknown);
            }
            locked(&self.asked).insert(name.clone());
            self.list().await;
        }
        let known = locked(&self.known).get(&name).copied().ok_or(NotGiven::Hashing)?;
        let place = self.place(account).ok_or(NotGiven::Busy)?;
        let opened = spawn_blocking(move || open(&path)).await;
        let (file, metadata) =
            opened.map_err(|_| NotGiven::Unreadable)?.map_err(|_| NotGiven::Unreadable)?;
        if !known.is_still(&metadata) {
            // It is looked at again when the files are listed.
            locked(&self.known).remove(&name);
            return Err(NotGiven::Unreadable);
        }
        Ok(Given { file, size: known.size, digest: known.digest, place })
    }

    /// Takes a place, if there is one for this account.
    fn place(self: &Arc<Self>, account: AccountId) -> Option<Place> {
        let mut given = locked(&self.given);
        if given.values().sum::<usize>() >= GIVEN {
            return None;
        }
        let count = given.entry(account).or_default();
        if *count >= GIVEN_EACH {
            return None;
        }
        *count += 1;
        Some(Place { folder: Arc::clone(self), account })
    }

    /// Hashes what is new in the folder, file by file, and forgets what has gone.
    fn look(&self) {
        let mut files = match files(&self.path) {
            Ok(files) => files,
            Err(error) => {
                tracing::error!(folder = %self.path.display(), %error, "no model can be given");
                BTreeSet::new()
            }
        };
        locked(&self.known).retain(|name, _| files.contains(name));
        locked(&self.asked).retain(|name| files.contains(name));
        while let Some(name) = self.next(&mut files) {
            let path = self.path.join(name.as_str());
            let known = locked(&self.known).get(&name).copied();
            match hash(&path, known) {
                Ok(found) => drop(locked(&self.known).insert(name, found)),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "this model cannot be given");
                    locked(&self.known).remove(&name);
                }
            }
        }
    }

    /// Takes the file that is to be hashed next.
    fn next(&self, files: &mut BTreeSet<FileName>) -> Option<FileName> {
        let mut asked = locked(&self.asked);
        let next = asked.intersection(files).next().or_else(|| files.first()).cloned()?;
        asked.remove(&next);
        files.take(&next)
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the names of files that can be given.
fn files(folder: &Path) -> io::Result<BTreeSet<FileName>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // Links are not followed, wherever they lead.
        if let Some(name) = name
            && entry.file_type()?.is_file()
        {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Returns whether there is a file that is no link.
fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

/// Opens a file that is no link.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    if !is_file(path) {
        return Err(io::Error::other("it is no file"));
    }
    let mut options = File::options();
    // Another may lie there by now: a link is not followed, and a pipe's writer not waited for.
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.cast_signed());
    }
    let file = options.read(true).open(path)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Arc<ModelFolder>) {
        let path = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(path.path().join(name), name).unwrap();
        }
        let folder = ModelFolder::new(path.path().to_owned());
        (path, folder)
    }

    fn account(byte: u8) -> AccountId {
        AccountId::from_bytes([byte; 16])
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_not_hashed_yet_is_no_unknown_one() {
        let (_path, folder) = folder();
        let looks = Arc::clone(&folder.looking).lock_owned().await;
        let give = async |name| folder.give(account(1), name).await.map(|given| given.size);
        assert_eq!(give("b").await, Err(NotGiven::Hashing));
        assert_eq!(give("x").await, Err(NotGiven::Unknown));
        drop(looks);
        assert_eq!(give("b").await, Ok(1));
    }

    #[test]
    fn what_somebody_waits_for_is_hashed_first() {
        let (path, folder) = folder();
        let mut files = files(path.path()).unwrap();
        folder.asked.lock().unwrap().insert("b".parse().unwrap());
        let next = || folder.next(&mut files).map(|name| name.to_string());
        let order: Vec<_> = std::iter::from_fn(next).collect();
        assert_eq!(order, ["b", "a", "c"]);
        assert_eq!(folder.asked.lock().unwrap().len(), 0);
    }

    #[test]
    fn one_account_leaves_places_to_others() {
        let (_path, folder) = folder();
        let take = |byte| folder.place(account(byte));
        let mut first: Vec<_> = (0..GIVEN_EACH).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        let others = (GIVEN_EACH..GIVEN).zip([2, 3, 4].into_iter().cycle());
        let all: Vec<_> = others.map(|(_, byte)| take(byte).unwrap()).collect();
        assert!(take(9).is_none());
        first.pop();
        assert!(take(9).is_some());
        drop((first, all));
        assert!(folder.given.lock().unwrap().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_opened() {
        let (path, _) = folder();
        let link = path.path().join("link");
        std::os::unix::fs::symlink(path.path().join("a"), &link).unwrap();
        assert!(open(&path.path().join("a")).is_ok() && open(&link).is_err());
    }
}
