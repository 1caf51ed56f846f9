//! Where trust is kept: in memory, or in a file that only its owner can read and change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use iris_core::NodeId;
use iris_crypto::PublicIdentity;
use sha2::{Digest, Sha256};

use super::{Fork, Trust, TrustError};
use crate::private_file::{FileProblem, PrivateFile, Stamp, write_new};

/// No trust file is longer.
const MAX_LEN: u64 = 4 << 20;

/// Keeps a [`Trust`], and lends it out for one change at a time.
///
/// Several processes can share a file: each change is made to what the file holds then, under a
/// lock beside it, and replaces it whole.
#[derive(Debug)]
pub(crate) struct TrustStore {
    file: Option<PrivateFile>,
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

impl TrustStore {
    /// Keeps trust in `file`, or in memory. The coordinator must be `expected`, where that is
    /// given, and `own` are one's own nodes, beside those in the file.
    pub(crate) fn new(
        file: Option<PathBuf>,
        expected: Option<PublicIdentity>,
        own: Vec<NodeId>,
    ) -> Self {
        let file = file.map(|path| PrivateFile::new(path, MAX_LEN));
        Self { file, expected, own, held: Mutex::default() }
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(PrivateFile::path)
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
        let lock = self.file.as_ref().map(|file| file.lock().map_err(problem(file))).transpose()?;
        if let Some(file) = &self.file {
            held.refresh(file)?;
        }
        let mut trust = held.trust.clone();
        if let Some(expected) = self.expected {
            trust.expect_coordinator(expected)?;
        }
        let done = change(&mut trust).map_err(|error| self.keep_evidence(error))?;
        if trust != held.trust {
            if let Some(file) = &self.file {
                held.stamp = Some(file.write(&to_json(&trust)).map_err(problem(file))?);
            }
            held.trust = trust;
        }
        drop(lock);
        Ok(done)
    }

    /// Starts anew, whatever the file holds.
    pub(crate) fn reset(&self) -> Result<(), TrustError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = self.file.as_ref().map(|file| file.lock().map_err(problem(file))).transpose()?;
        if let Some(file) = &self.file
            && held.refresh(file).is_err()
        {
            *held = Held::default();
        }
        held.trust = Trust { own: std::mem::take(&mut held.trust.own), ..Trust::new() };
        if let Some(file) = &self.file {
            held.stamp = Some(file.write(&to_json(&held.trust)).map_err(problem(file))?);
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
    fn refresh(&mut self, file: &PrivateFile) -> Result<(), TrustError> {
        let Some(stamp) = file.stamp().map_err(problem(file))? else {
            *self = Self::default();
            return Ok(());
        };
        if self.stamp == Some(stamp) {
            return Ok(());
        }
        let text = file.read().map_err(problem(file))?;
        let trust = serde_json::from_str(&text).map_err(|error| TrustError::File {
            path: file.path().to_owned(),
            problem: format!(
                "line {}, column {} is not what this program writes; restore the file, or start \
                 anew with `iris trust reset`",
                error.line(),
                error.column()
            ),
        })?;
        *self = Self { trust, stamp: Some(stamp) };
        Ok(())
    }
}

fn to_json(trust: &Trust) -> String {
    let json = serde_json::to_string_pretty(trust).expect("trust has a JSON form");
    json + "\n"
}

fn problem(file: &PrivateFile) -> impl Fn(FileProblem) -> TrustError {
    move |problem| {
        let advice = match problem {
            FileProblem::Exposed => ", and `iris trust reset` if you do not know what they did",
            _ => "",
        };
        TrustError::File { path: file.path().to_owned(), problem: format!("{problem}{advice}") }
    }
}

/// Saves the evidence of a fork beside the trust file, once.
fn save(file: &PrivateFile, fork: &Fork) -> io::Result<PathBuf> {
    let both = Sha256::new().chain_update(&fork.known).chain_update(&fork.shown).finalize();
    let name = both.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let path = file.beside(&format!(".fork-{name:016x}.json"));
    match write_new(&path, &fork.to_json()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path),
    }
}
