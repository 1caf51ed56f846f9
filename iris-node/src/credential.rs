//! The key with which the node's account lets it in: given, kept from before, or exchanged for the
//! account's digits.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iris_node::agent::CoordinatorUrl;
use iris_protocol::rest::{KeyCreated, KeyRequest, KeyScope, KeyTerms, Secret};

use crate::failure::{Exit, Failure};
use crate::http::{Http, cause};
use crate::private;
use crate::settings::Settings;

/// How long one exchange may take.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(20);
/// How long to wait before trying again when no coordinator could be reached.
const RETRY: Duration = Duration::from_secs(5);

/// The node's key, and where it is kept if this program keeps it.
#[derive(Debug)]
pub(crate) struct Credential {
    pub(crate) key: Secret,
    file: Option<PathBuf>,
}

impl Credential {
    /// Returns the key to use, exchanging the account's digits for one if there is none yet.
    ///
    /// Waits until a coordinator can be reached.
    pub(crate) async fn obtain(settings: &Settings) -> Result<Self, Failure> {
        if let Some(key) = &settings.node_key {
            return Ok(Self { key: key.clone(), file: None });
        }
        if let Some(kept) = Self::kept(settings)? {
            return Ok(kept);
        }
        let Some(account_key) = &settings.account_key else {
            return Err(Failure::new(
                Exit::Credential,
                "no account: set IRIS_ACCOUNT_KEY to your account's 16 digits (`iris account new` \
                 opens one), or IRIS_NODE_KEY to a key of the scope `node`",
            ));
        };
        let exchange = Exchange::new(settings, account_key)?;
        let key = exchange.run(&settings.coordinators().map_err(Failure::settings)?).await?;
        let kept = Self::keep(settings, key)?;
        tracing::info!(file = %file(settings).display(), "this node has a key of its own now");
        Ok(kept)
    }

    /// Returns the key that was kept, if there is one.
    pub(crate) fn kept(settings: &Settings) -> Result<Option<Self>, Failure> {
        let file = file(settings);
        Ok(read(&file)?.map(|key| Self { key, file: Some(file) }))
    }

    /// Keeps a key where only this user can read it.
    pub(crate) fn keep(settings: &Settings, key: Secret) -> Result<Self, Failure> {
        let file = file(settings);
        private::write(&file, &format!("{}\n", key.expose())).map_err(|error| {
            Failure::files(format!("{} cannot be written: {error}", file.display()))
        })?;
        Ok(Self { key, file: Some(file) })
    }

    /// Exchanges an account's digits at a coordinator that has to answer now.
    pub(crate) async fn exchange(
        settings: &Settings,
        account_key: &Secret,
        coordinator: &CoordinatorUrl,
    ) -> Result<Secret, Failure> {
        match Exchange::new(settings, account_key)?.attempt(coordinator).await? {
            Attempt::Key(key) => Ok(key),
            Attempt::Later(cause) => Err(Failure::new(
                Exit::Coordinator,
                format!("{coordinator} gives no key now: {cause}; try again later"),
            )),
        }
    }

    /// Forgets a key that the coordinator does not accept, and says what to do.
    pub(crate) fn refused(&self, cause: impl std::fmt::Display) -> Failure {
        let advice = match &self.file {
            Some(file) if std::fs::remove_file(file).is_ok() => {
                "; the key that was kept is removed, so the next start makes a new one from \
                 IRIS_ACCOUNT_KEY"
            }
            _ => "; make a new one with `iris keys new --scope node`",
        };
        Failure::new(Exit::Credential, format!("{cause}{advice}"))
    }
}

/// One account's digits, to be exchanged.
struct Exchange {
    http: Http,
    request: KeyRequest,
}

/// What came of one attempt.
enum Attempt {
    Key(Secret),
    /// Worth another try.
    Later(String),
}

impl Exchange {
    fn new(settings: &Settings, account_key: &Secret) -> Result<Self, Failure> {
        let request = KeyRequest {
            account_key: Some(account_key.clone()),
            scope: KeyScope::Node,
            label: settings.name.clone(),
            terms: KeyTerms::default(),
        };
        Ok(Self { http: Http::new(settings, EXCHANGE_LIMIT)?, request })
    }

    async fn run(&self, coordinators: &[CoordinatorUrl]) -> Result<Secret, Failure> {
        loop {
            for url in coordinators {
                match self.attempt(url).await? {
                    Attempt::Key(key) => return Ok(key),
                    Attempt::Later(cause) => {
                        tracing::warn!(coordinator = %url, cause, "no key for this node yet");
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn attempt(&self, url: &CoordinatorUrl) -> Result<Attempt, Failure> {
        let endpoint = format!("{}/accounts/keys", url.http_base());
        let answer = match self.http.post(&endpoint, &self.request).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Attempt::Later(cause(&error))),
        };
        let status = answer.status;
        match answer.json::<KeyCreated>() {
            Some(created) => Ok(Attempt::Key(created.key)),
            None if answer.is_success() => Ok(Attempt::Later("the answer is not a key".to_owned())),
            None if status == 429 || status >= 500 => {
                Ok(Attempt::Later(format!("HTTP status {status}")))
            }
            None => Err(Failure::new(
                Exit::Credential,
                format!("{url} does not accept IRIS_ACCOUNT_KEY (HTTP status {status})"),
            )),
        }
    }
}

/// Reads a key that was kept; `None` when there is none.
fn read(file: &Path) -> Result<Option<Secret>, Failure> {
    let unusable = |cause: String| Failure::files(format!("{}: {cause}", file.display()));
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
    };
    if private::is_exposed(file).map_err(|error| unusable(error.to_string()))? {
        return Err(unusable("others may read it: run `chmod 600` on it".to_owned()));
    }
    let key = text.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable("it does not hold a key: remove it".to_owned()));
    }
    Ok(Some(Secret::new(key)))
}

/// Returns where the key is kept: beside the identity.
pub(crate) fn file(settings: &Settings) -> PathBuf {
    settings.key_path.with_extension("credential")
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use axum::{Json, Router};

    use super::*;

    async fn coordinator(answer: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, answer).await });
        url
    }

    fn settings(folder: &Path, url: &str) -> Settings {
        let env = |name: &str| match name {
            "IRIS_ACCOUNT_KEY" => Some("1234567890123456".to_owned()),
            "COORDINATOR_URL" => Some(url.to_owned()),
            "NODE_KEY_PATH" => Some(folder.join("node.key").to_string_lossy().into_owned()),
            _ => None,
        };
        Settings::load(Vec::new(), env, None).unwrap()
    }

    #[tokio::test]
    async fn digits_are_exchanged_once_and_the_key_is_kept_from_others() {
        let answer = |Json(request): Json<KeyRequest>| async move {
            assert_eq!(request.account_key.unwrap().expose(), "1234567890123456");
            assert_eq!(request.scope, KeyScope::Node);
            let key = Secret::new("iris_key");
            Json(KeyCreated { key, scope: KeyScope::Node, id: "0".repeat(24).parse().unwrap() })
        };
        let url = coordinator(Router::new().route("/accounts/keys", post(answer))).await;
        let folder = tempfile::tempdir().unwrap();
        let first = Credential::obtain(&settings(folder.path(), &url)).await.unwrap();
        assert_eq!(first.key.expose(), "iris_key");
        let file = folder.path().join("node.credential");
        assert!(!private::is_exposed(&file).unwrap());

        // Nobody listens there any more, and nobody needs to.
        let nowhere = settings(folder.path(), "http://127.0.0.1:9");
        let again = Credential::obtain(&nowhere).await.unwrap();
        assert_eq!(again.key.expose(), "iris_key");
        assert_eq!(again.refused("no").exit, Exit::Credential);
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn digits_that_nobody_knows_end_the_command() {
        let refuse = || async { axum::http::StatusCode::UNAUTHORIZED };
        let url = coordinator(Router::new().route("/accounts/keys", post(refuse))).await;
        let folder = tempfile::tempdir().unwrap();
        let failure = Credential::obtain(&settings(folder.path(), &url)).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Credential);
        assert!(!failure.to_string().contains("1234"));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.credential");
        private::write(&file, "iris_key\n").unwrap();
        assert!(read(&file).unwrap().is_some());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read(&file).unwrap_err().exit, Exit::Files);
    }
}
