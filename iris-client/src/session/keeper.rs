//! Where a session is kept: in memory, or in a file that only its owner can read.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iris_core::AccountId;
use iris_protocol::rest::{Secret, Session};
use serde::{Deserialize, Serialize};

use crate::error::ClientError;
use crate::private_file::{FileProblem, PrivateFile, Stamp};

/// No session file is longer.
const MAX_LEN: u64 = 64 << 10;
/// How many seconds before its end an access token is renewed, since requests take time.
const EARLY: u64 = 30;

/// Keeps the session at one coordinator.
///
/// Several processes can share a file: a session is exchanged under a lock beside it, which is
/// held until the new one is written.
#[derive(Debug)]
pub(crate) struct Keeper {
    file: Option<PrivateFile>,
    /// Tokens go to no other address than where they are from.
    coordinator: String,
    /// Held by who exchanges the session.
    turn: Arc<tokio::sync::Mutex<()>>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    session: Option<Arc<Kept>>,
    /// Which state of the file it is.
    stamp: Option<Stamp>,
}

/// What is kept of a session.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    version: Version,
    coordinator: String,
    pub(crate) account: AccountId,
    access_token: Secret,
    /// When the access token ends, by this machine's clock.
    expires: u64,
    pub(crate) refresh_token: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Version {
    #[serde(rename = "iris-session/v1")]
    V1,
}

/// The right to change a session.
#[derive(Debug)]
pub(crate) struct Lock {
    _turn: tokio::sync::OwnedMutexGuard<()>,
    _file: Option<File>,
}

impl Kept {
    pub(crate) const fn access_token(&self) -> &Secret {
        &self.access_token
    }

    pub(crate) fn access_token_is(&self, other: &Self) -> bool {
        self.access_token.expose() == other.access_token.expose()
    }

    /// Returns whether the access token is good for another request.
    pub(crate) fn is_fresh(&self) -> bool {
        self.expires > now().saturating_add(EARLY)
    }
}

impl Keeper {
    /// Keeps the session at `coordinator` in `file`, or in memory.
    pub(crate) fn new(coordinator: String, file: Option<PathBuf>) -> Self {
        let file = file.map(|path| PrivateFile::new(path, MAX_LEN));
        Self { file, coordinator, turn: Arc::default(), held: Mutex::default() }
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(PrivateFile::path)
    }

    /// Waits until nobody else changes the session, in this process or another.
    pub(crate) async fn lock(&self) -> Result<Lock, ClientError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let Some(file) = self.file.clone() else {
            return Ok(Lock { _turn: turn, _file: None });
        };
        let locked =
            tokio::task::spawn_blocking(move || file.lock().map_err(|p| problem(&file, &p)));
        let locked = locked.await.map_err(|_| interrupted())??;
        Ok(Lock { _turn: turn, _file: Some(locked) })
    }

    /// Returns the session, as the file holds it now.
    pub(crate) fn current(&self) -> Result<Option<Arc<Kept>>, ClientError> {
        let mut held = self.held();
        let Some(file) = &self.file else { return Ok(held.session.clone()) };
        let Some(stamp) = file.stamp().map_err(|p| problem(file, &p))? else {
            *held = Held::default();
            return Ok(None);
        };
        if held.stamp != Some(stamp) {
            let text = file.read().map_err(|p| problem(file, &p))?;
            let kept: Kept = serde_json::from_str(&text).map_err(|_| ClientError::SessionFile {
                path: file.path().to_owned(),
                problem: "it is not what this program writes; log in again".to_owned(),
            })?;
            let session = (kept.coordinator == self.coordinator).then(|| Arc::new(kept));
            *held = Held { session, stamp: Some(stamp) };
        }
        Ok(held.session.clone())
    }

    /// Replaces the session. The caller has the lock.
    pub(crate) fn keep(&self, session: Session) -> Result<Arc<Kept>, ClientError> {
        let kept = Arc::new(Kept {
            version: Version::V1,
            coordinator: self.coordinator.clone(),
            account: session.account,
            access_token: session.access_token,
            expires: now().saturating_add(session.expires_in),
            refresh_token: session.refresh_token,
        });
        let mut held = self.held();
        let stamp = match &self.file {
            Some(file) => {
                let json = serde_json::to_string_pretty(&*kept).expect("sessions have a JSON form");
                Some(file.write(&(json + "\n")).map_err(|p| problem(file, &p))?)
            }
            None => None,
        };
        *held = Held { session: Some(Arc::clone(&kept)), stamp };
        Ok(kept)
    }

    /// Forgets the session. The caller has the lock.
    pub(crate) fn forget(&self) -> Result<(), ClientError> {
        *self.held() = Held::default();
        match &self.file {
            Some(file) => file.remove().map_err(|p| problem(file, &p)),
            None => Ok(()),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // A panic in between has left the old state, which is as good as any.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn problem(file: &PrivateFile, problem: &FileProblem) -> ClientError {
    let advice = match problem {
        FileProblem::Exposed => ", and change your password if you do not know who did",
        _ => "",
    };
    ClientError::SessionFile { path: file.path().to_owned(), problem: format!("{problem}{advice}") }
}

/// Says that this process ends while a session is exchanged.
pub(super) fn interrupted() -> ClientError {
    ClientError::Connection("this program is ending".to_owned())
}

fn now() -> u64 {
    crate::sealed::now().as_secs()
}
