//! A download that has not ended: the bytes so far, and what they have to be.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use iris_protocol::rest::FileName;
use serde::{Deserialize, Serialize};

use super::digest::Hashing;
use super::{
    CacheError, Digest, ModelCache, PART, PullError, RECORD, Record, read_json, write_json,
};

/// How the record of a download is called.
pub(super) const PART_RECORD: &str = ".part.json";
/// How many bytes are written before it is noted what they are: so many may be lost with the power.
const NOTED_EVERY: u64 = 32 << 20;
/// What a GGUF file begins with.
const GGUF: &[u8; 4] = b"GGUF";

/// What is known of a download.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartRecord {
    /// Where it comes from, without query.
    pub(super) source: String,
    /// By what the source knows whether it still has the same: an entity tag or a date.
    pub(super) validator: Option<String>,
    /// How many bytes it has in the end.
    pub(super) total: Option<u64>,
    /// How many bytes were noted, and their digest.
    noted: Option<(u64, Digest)>,
}

/// The file of a download, which is locked.
#[derive(Debug)]
pub(super) struct Part {
    cache: ModelCache,
    name: FileName,
    path: PathBuf,
    file: File,
    hashing: Hashing,
    len: u64,
    pub(super) record: PartRecord,
}

impl Part {
    /// Opens the download of `name`, unless another process is at it, or the owner has put something
    /// there that is called so.
    pub(super) fn open(cache: &ModelCache, name: &FileName) -> Result<Self, PullError> {
        let path = cache.beside(name, PART);
        let at = CacheError::at(&path);
        // So that nobody removes the file between its opening and its locking.
        let _lock = cache.lock()?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(&at)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PullError::Busy(name.clone())),
            Err(TryLockError::Error(error)) => return Err(at(error).into()),
        }
        let record = match read_json(&cache.beside(name, PART_RECORD)) {
            Some(record) => record,
            // What is written down has a record before its first byte comes.
            None if file.metadata().map_err(&at)?.len() > 0 => {
                return Err(CacheError::Owned(path).into());
            }
            None => PartRecord::default(),
        };
        let (hashing, name) = (Hashing::default(), name.clone());
        Ok(Self { cache: cache.clone(), name, path, file, hashing, len: 0, record })
    }

    /// Returns how many bytes there are.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Goes back to what was noted of a download from `source`; otherwise begins anew. Returns
    /// whether there was something that is not what was noted.
    pub(super) fn resume(&mut self, source: &str) -> Result<bool, CacheError> {
        self.hashing = Hashing::default();
        self.len = 0;
        let noted = self.record.noted.filter(|_| self.record.source == source);
        let is_same = match noted {
            Some((len, digest)) => self.check(len, digest)?,
            None => false,
        };
        if is_same {
            return Ok(false);
        }
        self.clear()?;
        source.clone_into(&mut self.record.source);
        Ok(noted.is_some_and(|(len, _)| len > 0))
    }

    fn check(&mut self, len: u64, digest: Digest) -> Result<bool, CacheError> {
        let at = CacheError::at(&self.path);
        if self.file.metadata().map_err(&at)?.len() < len {
            return Ok(false);
        }
        self.file.rewind().map_err(&at)?;
        self.hashing.read(&mut self.file, len).map_err(&at)?;
        if self.hashing.blake3() != digest {
            return Ok(false);
        }
        self.truncate(len).map_err(&at)?;
        self.len = len;
        Ok(true)
    }

    /// Throws away what there is.
    pub(super) fn clear(&mut self) -> Result<(), CacheError> {
        self.truncate(0).map_err(CacheError::at(&self.path))?;
        self.hashing = Hashing::default();
        self.len = 0;
        let source = std::mem::take(&mut self.record.source);
        self.record = PartRecord { source, ..PartRecord::default() };
        self.write_record()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        if self.file.metadata()?.len() != len {
            self.file.set_len(len)?;
        }
        self.file.seek(SeekFrom::Start(len)).map(drop)
    }

    /// Writes the next bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        self.file.write_all(bytes).map_err(CacheError::at(&self.path))?;
        self.hashing.update(bytes);
        self.len += bytes.len() as u64;
        let noted = self.record.noted.map_or(0, |(len, _)| len);
        if self.len - noted >= NOTED_EVERY {
            self.note()?;
        }
        Ok(())
    }

    /// Notes what there is, so that it can be gone on with after any end of this process.
    pub(super) fn note(&mut self) -> Result<(), CacheError> {
        self.file.sync_data().map_err(CacheError::at(&self.path))?;
        self.record.noted = Some((self.len, self.hashing.blake3()));
        self.write_record()
    }

    pub(super) fn write_record(&self) -> Result<(), CacheError> {
        write_json(&self.cache.beside(&self.name, PART_RECORD), &self.record)
    }

    /// Returns the digest of all bytes that can be compared with `other`.
    pub(super) fn digest_like(&self, other: &Digest) -> Digest {
        self.hashing.like(other)
    }

    /// Returns whether the bytes are those of such a file as its name says.
    pub(super) fn is_what_its_name_says(&mut self) -> Result<bool, CacheError> {
        if self.name.model() == self.name.as_str() {
            return Ok(true);
        }
        let at = CacheError::at(&self.path);
        self.file.rewind().map_err(&at)?;
        let mut magic = [0; 4];
        Ok(self.len >= 4 && self.file.read_exact(&mut magic).map(|()| magic).map_err(&at)? == *GGUF)
    }

    /// Makes the download a model of the cache, unless there is something of its name by now.
    pub(super) fn finish(self) -> Result<Record, CacheError> {
        let at = CacheError::at(&self.path);
        self.file.sync_all().map_err(&at)?;
        let changed = self.file.metadata().and_then(|file| file.modified()).map_err(&at)?;
        let Self { cache, name, path, len, record, hashing, .. } = self;
        let record = Record { source: record.source, size: len, changed, digest: hashing.blake3() };
        let model = cache.path(&name);
        let _lock = cache.lock()?;
        if model.symlink_metadata().is_ok() {
            return Err(CacheError::Owned(model));
        }
        // A record without a file is nothing, and a file without a record would be the owner's.
        write_json(&cache.beside(&name, RECORD), &record)?;
        fs::rename(&path, model).map_err(&at)?;
        cache.delete_part(&name)?;
        Ok(record)
    }
}
