//! Where a process keeps its long-lived secrets.
//!
//! A file holds one secret and says which kind, so that one is never taken for another:
//!
//! ```text
//! iris-secret v1 identity
//! 8b1f…e0
//! ```
//!
//! The second line is 64 lower-case hexadecimal digits. Files are made with mode 0600, complete or
//! not at all, and never replace another. A file that group or others may read, a symbolic link
//! and anything but a plain file are refused. A missing folder is made with mode 0700; a folder
//! that everybody may write to is refused, unless it is sticky.
//!
//! A file system without hard links, such as FAT, cannot hold such a file.
//!
//! On systems other than Unix the permissions of files are neither set nor checked.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::identity::Identity;
use crate::secret::Secret;

mod access;
#[cfg(test)]
#[cfg(unix)]
mod tests;
mod write;

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// The seed of an [`Identity`].
    Identity,
    /// What account keys are hashed with; see [`AccountKey::index`](crate::AccountKey::index).
    Pepper,
    /// What records are sealed under; see [`RecordKey`](crate::RecordKey).
    Records,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Identity => "identity",
            Self::Pepper => "pepper",
            Self::Records => "records",
        })
    }
}

/// Why a secret could not be read or made. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// There is no such file.
    #[error("{} does not exist: create it, or correct the path", .0.display())]
    Missing(PathBuf),
    /// There already is such a file, which is left alone.
    #[error("{} already exists: choose another path, or move it away", .0.display())]
    Exists(PathBuf),
    /// Others may read the file, and may have.
    #[error("others may read {}: run `chmod 600` on it, and replace the secret if they may have \
        read it", .0.display())]
    Exposed(PathBuf),
    /// Everybody may replace the file.
    #[error("everybody may write to the folder {}: run `chmod go-w` on it", .0.display())]
    OpenFolder(PathBuf),
    /// The path leads to a symbolic link, a folder or a device.
    #[error("{} is not a plain file: give the path of the file itself", .0.display())]
    NotAFile(PathBuf),
    /// The file is not a secret of the kind that is needed.
    #[error("{} does not hold a secret of the kind \"{expected}\": restore it from a copy, or \
        correct the path", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: Purpose,
    },
    /// The operating system said no.
    #[error("{} could not be {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A file that holds a [`Secret`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    path: PathBuf,
    purpose: Purpose,
}

impl SecretFile {
    /// Names a file, without touching it.
    pub fn new(path: impl Into<PathBuf>, purpose: Purpose) -> Self {
        Self { path: path.into(), purpose }
    }

    /// Returns where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the secret.
    pub fn load(&self) -> Result<Secret, KeyFileError> {
        let text = access::read_private(&self.path)?;
        self.parse(&text).ok_or_else(|| KeyFileError::Malformed {
            path: self.path.clone(),
            expected: self.purpose,
        })
    }

    /// Makes the file with a new secret; refuses where there is one.
    pub fn create(&self) -> Result<Secret, KeyFileError> {
        let secret = Secret::generate();
        self.store(&secret)?;
        Ok(secret)
    }

    /// Makes the file with a secret that exists already; refuses where there is one.
    pub fn store(&self, secret: &Secret) -> Result<(), KeyFileError> {
        write::create_private(&self.path, self.text(secret).as_bytes())
    }

    /// Reads the secret, or makes it where there is none yet.
    ///
    /// Processes that do this at the same time all get the same secret.
    pub fn load_or_create(&self) -> Result<Secret, KeyFileError> {
        match self.load() {
            Err(KeyFileError::Missing(_)) => {}
            result => return result,
        }
        match self.create() {
            Err(KeyFileError::Exists(_)) => self.load(),
            result => result,
        }
    }

    fn header(&self) -> String {
        format!("iris-secret v1 {}\n", self.purpose)
    }

    fn text(&self, secret: &Secret) -> Zeroizing<String> {
        let header = self.header();
        let mut text = Zeroizing::new(String::with_capacity(header.len() + 65));
        text.push_str(&header);
        data_encoding::HEXLOWER.encode_append(secret.reveal(), &mut text);
        text.push('\n');
        text
    }

    fn parse(&self, text: &str) -> Option<Secret> {
        // Editors on Windows end lines with a carriage return as well.
        let (header, secret) = text.split_once('\n')?;
        if header.trim_end() != self.header().trim_end() {
            return None;
        }
        crate::identity::decode_exact(&data_encoding::HEXLOWER, secret.trim_ascii_end())
            .map(Secret::from_bytes)
    }
}

impl Identity {
    /// Reads the identity kept in the file at `path`, or makes one where there is none yet.
    pub fn load_or_create(path: impl Into<PathBuf>) -> Result<Self, KeyFileError> {
        let seed = SecretFile::new(path, Purpose::Identity).load_or_create()?;
        Ok(Self::from_seed(&seed))
    }

    /// Reads the identity kept in the file at `path`.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, KeyFileError> {
        Ok(Self::from_seed(&SecretFile::new(path, Purpose::Identity).load()?))
    }
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> KeyFileError {
    move |source| KeyFileError::Io { path: path.to_owned(), action, source }
}
