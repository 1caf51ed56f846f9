//! Model files that were downloaded: a folder with a size limit.
//!
//! A model is one file, `NAME`, with a record beside it, `NAME.json`: where it came from, how large
//! it is, when it was changed, and its BLAKE3. When it was used last is when that record was changed
//! last. A download that has not ended is `NAME.part` and goes on where it was; `NAME.part.json` says
//! what its bytes have to be. Files without a record, or with another length or time than it says,
//! were put there by the owner: they can be used like the others, and are never written to, nor
//! removed to make room.
//!
//! Several processes share a folder. Whoever decides what goes holds the lock of `.lock` for that
//! long; whoever runs a model, or downloads one, holds the lock of its file. The system takes locks
//! from processes that end, however they do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use iris_core::memory::ByteSize;
use iris_protocol::rest::FileName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod digest;
mod error;
mod fetch;
mod part;
mod pull;
mod room;

pub use digest::{Digest, DigestError};
pub use error::{CacheError, PullError};
pub use fetch::Source;
pub use pull::{Event, Pull, Pulled};

use digest::Hashing;
use part::PartRecord;
use room::{Lack, Taken, Wanted, make_room};

/// How a download is called that has not ended.
const PART: &str = ".part";
/// How the record of a file is called.
const RECORD: &str = ".json";

/// How many bytes are read before that is told.
const STEP: u64 = 16 << 20;

/// A folder of model files.
#[derive(Clone, Debug)]
pub struct ModelCache {
    folder: PathBuf,
    limit: ByteSize,
}

/// A model's file in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedModel {
    /// Its file's name.
    pub name: FileName,
    /// How many bytes it has.
    pub size: u64,
    /// What was downloaded; `None` of a file that the owner has put there.
    pub record: Option<Record>,
    /// When it was used last, or changed.
    pub used: SystemTime,
    /// Whether a process runs it now.
    pub in_use: bool,
}

/// What is kept of a download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it came from: a URL without query.
    pub source: String,
    /// How many bytes it has.
    pub size: u64,
    /// When the last of them was written.
    pub changed: SystemTime,
    /// BLAKE3 of them.
    pub digest: Digest,
}

/// What was found where a file was read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what was downloaded.
    Intact,
    /// It is something else, with this digest.
    Changed(Digest),
    /// It has this digest, with which there is nothing to compare: the owner has put it there.
    Unrecorded(Digest),
}

/// A model's file that is not removed until this is dropped.
#[derive(Debug)]
pub struct HeldModel {
    path: PathBuf,
    file: File,
}

impl HeldModel {
    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl ModelCache {
    /// Names a folder, which need not be there yet, and how much may be in it.
    pub fn new(folder: impl Into<PathBuf>, limit: ByteSize) -> Self {
        Self { folder: folder.into(), limit }
    }

    /// Returns where the files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns how much may be kept.
    pub const fn limit(&self) -> ByteSize {
        self.limit
    }

    /// Lists the models, by name. Waits for others that decide what is in the folder, so not for
    /// async contexts.
    pub fn models(&self) -> Result<Vec<CachedModel>, CacheError> {
        Ok(self.contents()?.0)
    }

    /// Does as [`models`](Self::models), and returns how much all files take together, those that are
    /// still being downloaded, too.
    pub fn contents(&self) -> Result<(Vec<CachedModel>, ByteSize), CacheError> {
        if !self.folder.exists() {
            return Ok((Vec::new(), ByteSize::ZERO));
        }
        let _lock = self.lock()?;
        let models = self.list()?;
        let sizes = self.taken(&models)?.into_iter().map(|(_, taken)| taken.size);
        let size = ByteSize::new(sizes.fold(0, u64::saturating_add));
        Ok((models, size))
    }

    /// Returns the name of the file that `model` means, with or without its ending, if it is there.
    pub fn find(&self, model: &str) -> Option<FileName> {
        let names = [model.to_owned(), format!("{model}.gguf")];
        let names = names.iter().filter_map(|name| name.parse::<FileName>().ok());
        names.into_iter().find(|name| self.path(name).is_file())
    }

    /// Keeps a model's file from being removed, and notes that it is used.
    pub fn hold(&self, name: &FileName) -> Result<HeldModel, CacheError> {
        let held = self.share(name)?;
        let record = self.beside(name, RECORD);
        // A model that counts as used less lately than it was is no reason not to run it.
        if let Ok(record) = OpenOptions::new().write(true).open(&record) {
            let _ = record.set_modified(SystemTime::now());
        }
        Ok(held)
    }

    /// Removes a model that nobody uses, or what there is of it.
    pub fn remove(&self, name: &FileName) -> Result<(), CacheError> {
        let (path, part) = (self.path(name), self.beside(name, PART));
        if !path.exists() && !part.exists() {
            return Err(CacheError::Missing(name.clone()));
        }
        let _lock = self.lock()?;
        if is_locked(&path) || is_locked(&part) {
            return Err(CacheError::InUse(name.clone()));
        }
        self.delete(name)?;
        self.delete_part(name)
    }

    /// Reads a model's file and compares it with what was downloaded. Takes about a second for each
    /// gigabyte, so not for async contexts; `read` is told how many bytes were read.
    pub fn verify(
        &self,
        name: &FileName,
        mut read: impl FnMut(u64),
    ) -> Result<Verdict, CacheError> {
        let (found, size) = self.hash(name, &mut read)?;
        let found = found.blake3();
        // Here the file's time is no proof of its being another one: that is what was asked.
        Ok(match read_json::<Record>(&self.beside(name, RECORD)) {
            None => Verdict::Unrecorded(found),
            Some(record) if record.size == size && record.digest == found => Verdict::Intact,
            Some(_) => Verdict::Changed(found),
        })
    }

    /// Reads a model's file for the digest of it that can be compared with `other`.
    fn digest_like(&self, name: &FileName, other: &Digest) -> Result<Digest, CacheError> {
        Ok(self.hash(name, &mut |_| {})?.0.like(other))
    }

    /// Hashes a model's file, and counts its bytes.
    fn hash(
        &self,
        name: &FileName,
        read: &mut dyn FnMut(u64),
    ) -> Result<(Hashing, u64), CacheError> {
        let held = self.share(name)?;
        let at = CacheError::at(&held.path);
        let size = held.file.metadata().map_err(&at)?.len();
        let (mut hashing, mut done) = (Hashing::default(), 0);
        while done < size {
            let step = (size - done).min(STEP);
            hashing.read(&mut &held.file, step).map_err(&at)?;
            done += step;
            read(done);
        }
        Ok((hashing, size))
    }

    /// Keeps a model's file as it is.
    fn share(&self, name: &FileName) -> Result<HeldModel, CacheError> {
        let path = self.path(name);
        let at = CacheError::at(&path);
        // So that nobody removes the file between its opening and its locking. A folder that only
        // others can write to works without.
        let _lock = self.lock().ok();
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CacheError::Missing(name.clone()),
            _ => at(error),
        })?;
        file.lock_shared().map_err(&at)?;
        Ok(HeldModel { path, file })
    }

    fn path(&self, name: &FileName) -> PathBuf {
        self.folder.join(name.as_str())
    }

    fn beside(&self, name: &FileName, ending: &str) -> PathBuf {
        self.folder.join(format!("{name}{ending}"))
    }

    /// Returns the record of a file, if that is still the one that was downloaded.
    fn record(&self, name: &FileName, file: &fs::Metadata) -> Option<Record> {
        let record: Record = read_json(&self.beside(name, RECORD))?;
        let is_same = record.size == file.len() && file.modified().ok() == Some(record.changed);
        is_same.then_some(record)
    }

    /// Waits until nobody else decides what is in the folder, which is made where it is missing.
    fn lock(&self) -> Result<File, CacheError> {
        fs::create_dir_all(&self.folder).map_err(CacheError::at(&self.folder))?;
        let path = self.folder.join(".lock");
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(CacheError::at(&path))?;
        file.lock().map_err(CacheError::at(&path))?;
        Ok(file)
    }

    /// Lists the models while the folder is locked.
    fn list(&self) -> Result<Vec<CachedModel>, CacheError> {
        let mut models = Vec::new();
        for (path, metadata) in self.files()? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(name) = name.parse::<FileName>() else { continue };
            let record = self.record(&name, &metadata);
            let noted = || self.beside(&name, RECORD).metadata().and_then(|file| file.modified());
            let used = if record.is_some() { noted() } else { metadata.modified() };
            models.push(CachedModel {
                size: metadata.len(),
                record,
                used: used.unwrap_or(SystemTime::UNIX_EPOCH),
                in_use: is_locked(&path),
                name,
            });
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    fn files(&self) -> Result<Vec<(PathBuf, fs::Metadata)>, CacheError> {
        let at = CacheError::at(&self.folder);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(&at)? {
            let path = entry.map_err(&at)?.path();
            // What goes meanwhile is not there; owners may put links to files elsewhere.
            if let Ok(metadata) = path.metadata()
                && metadata.is_file()
            {
                files.push((path, metadata));
            }
        }
        Ok(files)
    }

    /// Lists what takes room while the folder is locked: these models, and downloads that have not
    /// ended.
    fn taken(&self, models: &[CachedModel]) -> Result<Vec<(Occupant, Taken)>, CacheError> {
        let mut all = Vec::new();
        for model in models {
            let stays = model.in_use || model.record.is_none();
            let taken = Taken { size: model.size, missing: 0, used: model.used, stays };
            all.push((Occupant::Model(model.name.clone()), taken));
        }
        for (path, metadata) in self.files()? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(Ok(name)) = name.strip_suffix(PART).map(str::parse::<FileName>) else {
                continue;
            };
            let is_locked = is_locked(&path);
            let record: Option<PartRecord> = read_json(&self.beside(&name, part::PART_RECORD));
            let stays = is_locked || record.is_none();
            // A download that goes on has its room for all of it.
            let total = record.filter(|_| is_locked).and_then(|record| record.total).unwrap_or(0);
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let missing = total.saturating_sub(metadata.len());
            let taken = Taken { size: metadata.len() + missing, missing, used, stays };
            all.push((Occupant::Part(name), taken));
        }
        Ok(all)
    }

    /// Makes room for a download of which `size` bytes come, `missing` of them still; `promised`
    /// writes down that it has that room. Returns what had to go.
    fn make_room(
        &self,
        name: &FileName,
        wanted: Wanted,
        promised: impl FnOnce() -> Result<(), CacheError>,
    ) -> Result<Vec<FileName>, PullError> {
        let _lock = self.lock()?;
        let all = self.taken(&self.list()?)?;
        // What there is of the download itself is within its size.
        let others: Vec<_> = all
            .into_iter()
            .filter(|(who, _)| !matches!(who, Occupant::Part(other) if other == name))
            .collect();
        let taken: Vec<_> = others.iter().map(|(_, taken)| *taken).collect();
        let goers = make_room(&taken, wanted, self.limit.get(), free_disk(&self.folder));
        let size = ByteSize::new(wanted.size);
        let goers = goers.map_err(|lack| match lack {
            Lack::Limit(over) => {
                PullError::NoRoom { size, limit: self.limit, over: ByteSize::new(over) }
            }
            Lack::Disk(over) => PullError::DiskFull { over: Some(ByteSize::new(over)) },
        })?;
        let mut gone = Vec::new();
        for at in goers {
            match &others[at].0 {
                Occupant::Model(name) => self.delete(name)?,
                Occupant::Part(name) => self.delete_part(name)?,
            }
            gone.push(others[at].0.name().clone());
        }
        promised()?;
        Ok(gone)
    }

    fn delete(&self, name: &FileName) -> Result<(), CacheError> {
        for path in [self.path(name), self.beside(name, RECORD)] {
            delete(&path)?;
        }
        Ok(())
    }

    fn delete_part(&self, name: &FileName) -> Result<(), CacheError> {
        for path in [self.beside(name, PART), self.beside(name, part::PART_RECORD)] {
            delete(&path)?;
        }
        Ok(())
    }
}

/// Who takes room.
#[derive(Debug)]
enum Occupant {
    Model(FileName),
    Part(FileName),
}

impl Occupant {
    const fn name(&self) -> &FileName {
        match self {
            Self::Model(name) | Self::Part(name) => name,
        }
    }
}

fn delete(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::at(path)(error)),
        _ => Ok(()),
    }
}

/// Returns whether a process holds the lock of a file, or may hold it for all that can be told.
fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        // The lock that is taken here is gone with the file's handle.
        Ok(file) => file.try_lock().is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Reads a record; one that cannot be read counts as none.
fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a record, whole or not at all.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), CacheError> {
    let at = CacheError::at(path);
    // No model can be called so.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    let text = serde_json::to_vec(value).map_err(|error| at(error.into()))?;
    let mut file = File::create(&new).map_err(&at)?;
    file.write_all(&text).map_err(&at)?;
    // A disk may otherwise take the new name before what it names.
    file.sync_data().map_err(&at)?;
    fs::rename(&new, path).map_err(&at)
}

/// Returns how many bytes the disk of a folder has for this user, where the system tells.
fn free_disk(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let told = rustix::fs::statvfs(folder).ok()?;
        Some(told.f_bavail.saturating_mul(told.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

#[cfg(test)]
mod tests;
