//! What lies on disk: the coordinator's identity, its secret and its database.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use iris_coordinator::store::{SqliteStore, VIEWS};
use iris_crypto::keyfile::{KeyFileError, Purpose, SecretFile};
use iris_crypto::{Identity, Secret};

use crate::failure::Failure;
use crate::settings::Settings;

/// The database, and the secret that protects what it holds.
pub(crate) struct Books {
    pub(crate) store: SqliteStore,
    pub(crate) secret: Secret,
}

impl Books {
    /// Opens the books, and makes them where there are none.
    pub(crate) fn open(settings: &Settings) -> Result<Self, Failure> {
        let database = database(settings)?;
        let secret = SecretFile::new(settings.secret(), Purpose::Records);
        // A new secret beside old books would lock every account out for ever.
        let secret = if exist(&database) { secret.load() } else { secret.load_or_create() };
        let secret = secret.map_err(|error| explain(error, &database))?;
        let store = SqliteStore::open(database, VIEWS).map_err(Failure::books)?;
        Ok(Self { store, secret })
    }
}

/// Reads the coordinator's identity, or makes one where there is none.
pub(crate) fn identity(settings: &Settings) -> Result<Identity, Failure> {
    Identity::load_or_create(&settings.private_key_path).map_err(Failure::books)
}

pub(crate) fn database(settings: &Settings) -> Result<PathBuf, Failure> {
    settings.database().map_err(Failure::books)
}

/// Returns whether there are books already.
pub(crate) fn exist(database: &Path) -> bool {
    database.metadata().is_ok_and(|file| file.len() > 0)
}

/// Keeps a second coordinator from working on the same books for as long as the file is open;
/// returns `None` where there is one already.
///
/// Two would run the same durable tasks. Accounts and keys can be made meanwhile.
pub(crate) fn lock(database: &Path) -> Result<Option<File>, Failure> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let failed = |error: io::Error| {
        let path = Path::new(&path).display();
        Failure::books(format!("the file {path} cannot be locked: {error}"))
    };
    let file = options.open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Locks the books; fails where another coordinator is at work on them.
pub(crate) fn lock_alone(settings: &Settings) -> Result<File, Failure> {
    let database = database(settings)?;
    lock(&database)?.ok_or_else(|| {
        Failure::books(format!(
            "a coordinator is at work on {} already: stop it first, or set another DATABASE_URL",
            database.display()
        ))
    })
}

fn explain(error: KeyFileError, database: &Path) -> Failure {
    match error {
        KeyFileError::Missing(path) => Failure::books(format!(
            "{} is missing, without which no account in {} can be used: restore it, or set \
             COORDINATOR_SECRET_PATH",
            path.display(),
            database.display()
        )),
        error => Failure::books(error),
    }
}
