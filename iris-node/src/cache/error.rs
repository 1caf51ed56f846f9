use std::io;
use std::path::{Path, PathBuf};

use iris_core::memory::ByteSize;
use iris_protocol::rest::FileName;

use super::Digest;

/// Why something cannot be done with a cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// There is no such model.
    #[error("there is no model {0} in the cache")]
    Missing(FileName),
    /// A process runs or downloads it.
    #[error("{0} is in use")]
    InUse(FileName),
    /// The owner has put this file there.
    #[error("{path} is there already, and was not downloaded", path = .0.display())]
    Owned(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {cause}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

impl CacheError {
    /// Names the file of an error.
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| Self::File { path: path.clone(), cause }
    }
}

/// Why a model was not downloaded. What has come of it is kept, unless that was wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// It is no address that files come from.
    #[error("a model's address begins with https:// or http:// and holds no password")]
    Url,
    /// The address ends in nothing that a file could be called.
    #[error("the address does not end in a file's name")]
    Name,
    /// It is there already, and is something else than what is wanted.
    #[error("{name} is there already with the digest {found}")]
    Exists {
        /// Which one.
        name: FileName,
        /// What it is.
        found: Digest,
    },
    /// Another process downloads it.
    #[error("{0} is being downloaded already")]
    Busy(FileName),
    /// The source sends on to another host, which was not to be trusted with it.
    #[error(
        "the source sends on to {0}: that is followed only over https, and only when the file's \
         digest is known"
    )]
    Redirect(String),
    /// The source sends on and on.
    #[error("the source sends on from one address to the next")]
    Redirects,
    /// The source does not give it.
    #[error("the source answers with status {0}{hint}", hint = hint(*.0))]
    Status(u16),
    /// It does not fit beside what must stay.
    #[error("it has {size}, and the cache may have {limit}: {over} too much beside what must stay")]
    NoRoom {
        /// What it has.
        size: ByteSize,
        /// What all may have.
        limit: ByteSize,
        /// What is lacking.
        over: ByteSize,
    },
    /// The disk has no room for it.
    #[error("the disk is full{lack}; what has come is kept", lack = lack(*.over))]
    DiskFull {
        /// What is lacking, where that is known.
        over: Option<ByteSize>,
    },
    /// All was carried that may be.
    #[error("the owner's limit of what may be carried is reached; what has come is kept")]
    Allowance,
    /// What came is not what was to come; it was thrown away.
    #[error("what came has the digest {found} in place of {expected}, and was thrown away")]
    Digest {
        /// What it was to be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The source says itself that it has something else than what is wanted.
    #[error("the source has the digest {found} in place of {expected}")]
    OtherDigest {
        /// What it was to be.
        expected: Digest,
        /// What the source says.
        found: Digest,
    },
    /// What came is not as long as was said.
    #[error("what came is not as long as the source said: {said} bytes")]
    Length {
        /// How long it was to be.
        said: u64,
    },
    /// The source does not say how long it is, so that no room can be made for it.
    #[error("the source does not say how long the file is")]
    NoLength,
    /// What came is a page or something else, and was thrown away.
    #[error("what came is no GGUF file, and was thrown away")]
    NotGguf,
    /// The source broke off each time.
    #[error("{0}; what has come is kept")]
    Broken(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The cache cannot be read or written.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl PullError {
    /// Tells a full disk from other trouble with a file.
    pub(super) fn of_file(error: CacheError) -> Self {
        match error {
            CacheError::File { cause, .. } if cause.kind() == io::ErrorKind::StorageFull => {
                Self::DiskFull { over: None }
            }
            error => Self::Cache(error),
        }
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => ": it wants a key, or its terms to be accepted",
        404 | 410 => ": it has no such file",
        _ => "",
    }
}

fn lack(over: Option<ByteSize>) -> String {
    over.map_or(String::new(), |over| format!(": {over} more would be needed"))
}
