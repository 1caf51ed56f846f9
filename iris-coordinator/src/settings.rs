//! What the `iris-coordinator` command needs to know: flag, else environment, else file, else
//! default.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use config::{Config, ConfigError, File, Value};
use http::{HeaderValue, Uri};
use iris_coordinator::classify::ClassifierChain;
#[cfg(feature = "openrouter")]
use iris_coordinator::classify::OpenRouter;
use iris_coordinator::http::{ApiSettings, Network, ServerSettings, TlsFiles, Unlimited};
use iris_coordinator::payouts::PayPolicy;
use iris_coordinator::store::SqliteStore;
use iris_coordinator::{AccountPolicy, MembershipPolicy};
use iris_core::classify::Rules;
use iris_core::task::{Hedge, RetryPolicy};
use iris_core::traffic::OwnerShare;
use iris_core::verify::Phrases;
use iris_core::{AccountId, ModelName};
use iris_protocol::rest::Secret;
use serde::de::{Deserialize, Deserializer, Error};
use tracing_subscriber::EnvFilter;

/// Environment variables, and whether their values are lists with commas.
const ENVIRONMENT: &[(&str, &str, bool)] = &[
    ("database_url", "DATABASE_URL", false),
    ("private_key_path", "COORDINATOR_PRIVATE_KEY_PATH", false),
    ("secret_path", "COORDINATOR_SECRET_PATH", false),
    ("listen", "LISTEN", false),
    ("tls_cert", "IRIS_TLS_CERT", false),
    ("tls_key", "IRIS_TLS_KEY", false),
    ("trusted_proxies", "IRIS_TRUSTED_PROXIES", true),
    ("cors_origins", "IRIS_CORS_ORIGINS", true),
    ("open_registration", "IRIS_OPEN_REGISTRATION", false),
    ("rate_per_minute", "IRIS_RATE_PER_MINUTE", false),
    ("public_chat", "IRIS_PUBLIC_CHAT", false),
    ("no_pages", "IRIS_NO_PAGES", false),
    ("model_files", "IRIS_MODEL_FILES", false),
    ("unlimited_accounts", "IRIS_UNLIMITED_ACCOUNTS", true),
    ("queue_capacity", "IRIS_QUEUE_CAPACITY", false),
    ("max_wait_secs", "IRIS_MAX_WAIT_SECS", false),
    ("patience", "IRIS_PATIENCE", false),
    ("trusted_owners", "IRIS_TRUSTED_OWNERS", true),
    ("compare_answers", "IRIS_COMPARE_ANSWERS", false),
    ("check_phrases", "IRIS_CHECK_PHRASES", false),
    ("owner_share_percent", "IRIS_OWNER_SHARE_PERCENT", false),
    ("hedge_after_ms", "IRIS_HEDGE_AFTER_MS", false),
    ("classifiers", "IRIS_CLASSIFIER", true),
    ("openrouter_url", "IRIS_OPENROUTER_URL", false),
    ("openrouter_model", "IRIS_OPENROUTER_MODEL", false),
    ("retention_secs", "IRIS_RETENTION_SECS", false),
    ("log_format", "IRIS_LOG_FORMAT", false),
    ("log_level", "RUST_LOG", false),
    ("member_invitations", "IRIS_MEMBER_INVITATIONS", false),
    ("membership_fee", "IRIS_MEMBERSHIP_FEE", false),
    ("trial_days", "IRIS_TRIAL_DAYS", false),
    ("grace_days", "IRIS_GRACE_DAYS", false),
    ("operator_percent", "IRIS_OPERATOR_PERCENT", false),
    ("pay_by", "IRIS_PAY_BY", false),
    ("jwt_secret", "JWT_SECRET", false),
    ("jwt_secret_previous", "JWT_SECRET_PREVIOUS", false),
    ("openrouter_api_key", "OPENROUTER_API_KEY", false),
];

/// Shortest secret that tokens may be signed with, in bytes.
const MIN_JWT_SECRET: usize = 32;
/// How the secret begins that earlier systems shipped as their default.
const SHIPPED_JWT_SECRET: &str = "dev-secret";
/// Most tasks that may wait for a node.
const MAX_QUEUE: usize = 1 << 20;
/// The longest wait for a node that makes sense, in seconds.
const MAX_WAIT: u64 = 86_400;
/// Most open invitations that a member may have.
const MAX_INVITATIONS: u32 = 1000;
/// The longest trial or grace, in days.
const MAX_DAYS: u64 = 3650;
/// The most times that a wait may be as long as a task.
const MAX_PATIENCE: u32 = 1000;

/// The settings in force.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    database_url: String,
    pub(crate) private_key_path: PathBuf,
    secret_path: Option<PathBuf>,
    pub(crate) listen: SocketAddr,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(deserialize_with = "parsed")]
    trusted_proxies: Vec<Network>,
    #[serde(deserialize_with = "parsed")]
    cors_origins: Vec<Origin>,
    open_registration: bool,
    pub(crate) rate_per_minute: u32,
    public_chat: bool,
    no_pages: bool,
    model_files: Option<PathBuf>,
    #[serde(deserialize_with = "parsed")]
    unlimited_accounts: Vec<Unlimited>,
    pub(crate) queue_capacity: usize,
    max_wait_secs: u64,
    pub(crate) patience: u32,
    #[serde(deserialize_with = "parsed")]
    pub(crate) trusted_owners: Vec<AccountId>,
    pub(crate) compare_answers: bool,
    check_phrases: Option<PathBuf>,
    owner_share_percent: u8,
    hedge_after_ms: Option<u64>,
    #[serde(deserialize_with = "parsed")]
    classifiers: Vec<Judge>,
    openrouter_url: String,
    openrouter_model: ModelName,
    retention_secs: u64,
    pub(crate) log_format: LogFormat,
    pub(crate) log_level: String,
    member_invitations: u32,
    membership_fee: u64,
    trial_days: u64,
    grace_days: u64,
    operator_percent: u8,
    pay_by: String,
    jwt_secret: Option<Secret>,
    jwt_secret_previous: Option<Secret>,
    openrouter_api_key: Option<Secret>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Who may say how hard a question is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judge {
    Rules,
    Node,
    OpenRouter,
}

impl Judge {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Node => "node",
            Self::OpenRouter => "openrouter",
        }
    }
}

impl FromStr for Judge {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = [Self::Rules, Self::Node, Self::OpenRouter];
        let named = all.into_iter().find(|judge| judge.as_str() == name);
        named.ok_or("classifiers are rules, node and openrouter")
    }
}

/// What flags say, by the names of their settings; `None` where they are silent. Secrets have no
/// flag: other users of a machine can see the arguments of its processes.
pub(crate) type Flags = Vec<(&'static str, Option<Value>)>;

impl Settings {
    pub(crate) fn load(
        flags: Flags,
        environment: impl Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let mut builder = Config::builder()
            .set_default("database_url", "sqlite:///data/iris.db")?
            .set_default("private_key_path", "data/coordinator.key")?
            .set_default("listen", "127.0.0.1:8080")?
            .set_default("trusted_proxies", Vec::<String>::new())?
            .set_default("cors_origins", Vec::<String>::new())?
            .set_default("open_registration", false)?
            .set_default("rate_per_minute", 600)?
            .set_default("public_chat", false)?
            .set_default("no_pages", false)?
            .set_default("unlimited_accounts", Vec::<String>::new())?
            .set_default("queue_capacity", 1024)?
            .set_default("max_wait_secs", 10)?
            .set_default("patience", 2)?
            .set_default("trusted_owners", Vec::<String>::new())?
            .set_default("compare_answers", false)?
            .set_default("owner_share_percent", 20)?
            .set_default("classifiers", vec![Judge::Rules.as_str()])?
            .set_default("openrouter_url", "https://openrouter.ai/api/v1")?
            .set_default("openrouter_model", "meta-llama/llama-3.1-8b-instruct")?
            .set_default("retention_secs", 24 * 60 * 60)?
            .set_default("member_invitations", 0)?
            .set_default("membership_fee", 0)?
            .set_default("trial_days", 0)?
            .set_default("grace_days", 7)?
            .set_default("operator_percent", 0)?
            .set_default("pay_by", "evidence")?
            .set_default("log_format", "text")?
            .set_default("log_level", "info")?;
        if let Some(file) = file {
            builder = builder.add_source(File::from(file));
        }
        for &(setting, name, is_list) in ENVIRONMENT {
            let value = environment(name).filter(|value| !value.is_empty());
            let value = value.map(|text| if is_list { list(&text) } else { text.into() });
            builder = builder.set_override_option(setting, value)?;
        }
        // Of two overrides the later one wins, so flags come last.
        for (setting, value) in flags {
            builder = builder.set_override_option(setting, value)?;
        }
        let settings: Self = builder.build()?.try_deserialize()?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        self.database().map(drop)?;
        if self.secret() == self.private_key_path {
            return Err(SettingsError::new("secret_path must differ from private_key_path"));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(SettingsError::new("tls_cert and tls_key must be given together"));
        }
        if !(1..=MAX_QUEUE).contains(&self.queue_capacity) {
            return Err(SettingsError(format!("queue_capacity must be 1 to {MAX_QUEUE}")));
        }
        if self.max_wait_secs > MAX_WAIT {
            return Err(SettingsError(format!("max_wait_secs must be at most {MAX_WAIT}")));
        }
        if self.patience > MAX_PATIENCE {
            return Err(SettingsError(format!("patience must be at most {MAX_PATIENCE}")));
        }
        if !(1..=100).contains(&self.owner_share_percent) {
            return Err(SettingsError::new("owner_share_percent must be 1 to 100"));
        }
        if self.retention_secs == 0 {
            return Err(SettingsError::new("retention_secs must be at least 1"));
        }
        if self.member_invitations > MAX_INVITATIONS {
            let most = MAX_INVITATIONS;
            return Err(SettingsError(format!("member_invitations must be at most {most}")));
        }
        for (name, days) in [("trial_days", self.trial_days), ("grace_days", self.grace_days)] {
            if days > MAX_DAYS {
                return Err(SettingsError(format!("{name} must be at most {MAX_DAYS}")));
            }
        }
        if self.operator_percent > 100 {
            return Err(SettingsError::new("operator_percent must be at most 100"));
        }
        self.pay().map(drop)?;
        self.log_filter().map(drop)?;
        self.classifiers().map(drop)?;
        self.check_jwt_secret("jwt_secret (JWT_SECRET)", self.jwt_secret.as_ref())?;
        let previous = self.jwt_secret_previous.as_ref();
        self.check_jwt_secret("jwt_secret_previous (JWT_SECRET_PREVIOUS)", previous)
    }

    fn check_jwt_secret(&self, name: &str, secret: Option<&Secret>) -> Result<(), SettingsError> {
        let Some(secret) = secret.map(Secret::expose) else { return Ok(()) };
        let weak = secret.len() < MIN_JWT_SECRET || secret.starts_with(SHIPPED_JWT_SECRET);
        // Behind a proxy, the loopback interface is as open as any other.
        let is_public =
            !self.listen.ip().to_canonical().is_loopback() || !self.trusted_proxies.is_empty();
        if weak && is_public {
            return Err(SettingsError(format!(
                "{name} must have at least {MIN_JWT_SECRET} bytes and must not be a default one \
                 where {} can be reached from other machines: make one with \
                 `openssl rand -hex 32`, or leave it out, and the coordinator's own secret serves",
                self.listen
            )));
        }
        Ok(())
    }

    pub(crate) fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Returns the database's file.
    pub(crate) fn database(&self) -> Result<PathBuf, SettingsError> {
        SqliteStore::path_of_url(&self.database_url)
            .map_err(|error| SettingsError(format!("database_url (DATABASE_URL): {error}")))
    }

    /// Returns the file of the secret that protects what the store holds.
    pub(crate) fn secret(&self) -> PathBuf {
        let beside = || self.private_key_path.with_extension("secret");
        self.secret_path.clone().unwrap_or_else(beside)
    }

    pub(crate) const fn owner_share(&self) -> OwnerShare {
        OwnerShare::percent(self.owner_share_percent)
    }

    pub(crate) const fn max_wait(&self) -> Duration {
        Duration::from_secs(self.max_wait_secs)
    }

    /// Returns how often and how long tasks try nodes.
    pub(crate) fn retry(&self) -> RetryPolicy {
        let hedge = self.hedge_after_ms.map(|ms| Hedge::after(Duration::from_millis(ms)));
        RetryPolicy { hedge, ..RetryPolicy::default() }
    }

    pub(crate) const fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_secs)
    }

    pub(crate) fn log_filter(&self) -> Result<EnvFilter, SettingsError> {
        EnvFilter::builder()
            .parse(&self.log_level)
            .map_err(|error| SettingsError(format!("log_level (RUST_LOG): {error}")))
    }

    /// Returns how pools are shared.
    pub(crate) fn pay(&self) -> Result<PayPolicy, SettingsError> {
        let unknown = || SettingsError::new("pay_by must be evidence or seed");
        PayPolicy::named(&self.pay_by).ok_or_else(unknown)
    }

    /// Returns what is decided about accounts.
    pub(crate) fn accounts(&self) -> AccountPolicy {
        let days = |days: u64| Duration::from_hours(days * 24);
        let membership = MembershipPolicy {
            fee: self.membership_fee,
            trial: days(self.trial_days),
            grace: days(self.grace_days),
            operator_percent: self.operator_percent,
        };
        AccountPolicy {
            membership,
            member_invitations: self.member_invitations,
            jwt_secret: self.jwt_secret.clone(),
            jwt_secret_previous: self.jwt_secret_previous.clone(),
        }
    }

    /// Returns who says how hard questions are, in turn.
    pub(crate) fn classifiers(&self) -> Result<ClassifierChain, SettingsError> {
        let mut chain = ClassifierChain::new();
        for (place, judge) in self.classifiers.iter().enumerate() {
            if self.classifiers[..place].contains(judge) {
                let name = judge.as_str();
                return Err(SettingsError(format!("classifiers names {name} more than once")));
            }
            chain = match judge {
                Judge::Rules => chain.then(Rules),
                Judge::Node => chain.then_node(),
                Judge::OpenRouter => self.ask_openrouter(chain)?,
            };
        }
        Ok(chain)
    }

    #[cfg(feature = "openrouter")]
    fn ask_openrouter(&self, chain: ClassifierChain) -> Result<ClassifierChain, SettingsError> {
        let key = self.openrouter_api_key.as_ref().ok_or_else(|| {
            SettingsError::new("openrouter in classifiers needs its key in OPENROUTER_API_KEY")
        })?;
        let model = self.openrouter_model.clone();
        let made = OpenRouter::new(&self.openrouter_url, key, model);
        made.map(|classifier| chain.then(classifier))
            .map_err(|error| SettingsError(format!("openrouter (openrouter_url): {error}")))
    }

    #[cfg(not(feature = "openrouter"))]
    #[allow(clippy::unused_self, reason = "the settings are read where it is built in")]
    fn ask_openrouter(&self, _: ClassifierChain) -> Result<ClassifierChain, SettingsError> {
        Err(SettingsError::new(
            "this iris-coordinator was built without openrouter, which classifiers names: build it \
             with `--features openrouter`, or leave that out",
        ))
    }

    /// Returns the names of settings that are accepted and have no effect beside the others.
    pub(crate) fn unused(&self) -> impl Iterator<Item = &'static str> {
        let is_asked = self.classifiers.contains(&Judge::OpenRouter);
        let key = self.openrouter_api_key.as_ref().filter(|_| !is_asked);
        key.map(|_| "OPENROUTER_API_KEY").into_iter()
    }

    /// Returns what the HTTP server is told.
    pub(crate) fn server(&self) -> ServerSettings {
        let origins = self.cors_origins.iter().map(|origin| origin.0.clone());
        let api = ApiSettings::default()
            .with_open_registration(self.open_registration)
            .with_public_chat(self.public_chat)
            .with_pages(!self.no_pages)
            .with_unlimited_chat(self.unlimited_accounts.clone())
            .with_cors_origins(origins.collect())
            .with_trusted_proxies(self.trusted_proxies.clone());
        let api = self.model_files.iter().fold(api, ApiSettings::with_model_files);
        let server = ServerSettings::new(self.listen).with_api(api);
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificates), Some(key)) => {
                let (certificates, key) = (certificates.clone(), key.clone());
                server.with_tls(TlsFiles { certificates, key })
            }
            _ => server,
        }
    }

    /// Reads what the prompts of checks are made of.
    pub(crate) fn phrases(&self) -> Result<Phrases, SettingsError> {
        let Some(path) = &self.check_phrases else { return Ok(Phrases::default()) };
        let refused = |why: String| {
            SettingsError(format!("check_phrases: {} cannot be used: {why}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| refused(error.to_string()))
    }

    /// Returns the scheme of the server's address.
    pub(crate) const fn scheme(&self) -> &'static str {
        if self.tls_cert.is_some() { "https" } else { "http" }
    }
}

impl fmt::Display for Settings {
    /// Writes the settings as TOML, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // TOML's and JSON's strings and lists of strings are written alike.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let path = |path: &Path| quoted(&path.to_string_lossy());
        let optional = |name: &str, file: &Option<PathBuf>| match file {
            Some(file) => format!("{name} = {}", path(file)),
            None => format!("# {name} is not set"),
        };
        let hidden = |name: &str, secret: &Option<Secret>| match secret {
            Some(_) => format!("# {name} is set, and not shown"),
            None => format!("# {name} is not set"),
        };
        let list = |texts: Vec<String>| serde_json::Value::from(texts).to_string();
        let proxies = self.trusted_proxies.iter().map(Network::to_string).collect();
        let origins = self.cors_origins.iter().map(Origin::to_string).collect();
        let unlimited = self.unlimited_accounts.iter().map(Unlimited::to_string).collect();
        let trusted = self.trusted_owners.iter().map(AccountId::to_string).collect();
        let classifiers = self.classifiers.iter().map(|judge| judge.as_str().to_owned()).collect();
        let format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        writeln!(f, "database_url = {}", quoted(&self.database_url))?;
        writeln!(f, "private_key_path = {}", path(&self.private_key_path))?;
        writeln!(f, "secret_path = {}", path(&self.secret()))?;
        writeln!(f, "listen = \"{}\"", self.listen)?;
        writeln!(f, "{}", optional("tls_cert", &self.tls_cert))?;
        writeln!(f, "{}", optional("tls_key", &self.tls_key))?;
        writeln!(f, "trusted_proxies = {}", list(proxies))?;
        writeln!(f, "cors_origins = {}", list(origins))?;
        writeln!(f, "open_registration = {}", self.open_registration)?;
        writeln!(f, "rate_per_minute = {}", self.rate_per_minute)?;
        writeln!(f, "public_chat = {}", self.public_chat)?;
        writeln!(f, "no_pages = {}", self.no_pages)?;
        writeln!(f, "{}", optional("model_files", &self.model_files))?;
        writeln!(f, "unlimited_accounts = {}", list(unlimited))?;
        writeln!(f, "queue_capacity = {}", self.queue_capacity)?;
        writeln!(f, "max_wait_secs = {}", self.max_wait_secs)?;
        writeln!(f, "patience = {}", self.patience)?;
        writeln!(f, "trusted_owners = {}", list(trusted))?;
        writeln!(f, "compare_answers = {}", self.compare_answers)?;
        writeln!(f, "{}", optional("check_phrases", &self.check_phrases))?;
        writeln!(f, "owner_share_percent = {}", self.owner_share_percent)?;
        match self.hedge_after_ms {
            Some(after) => writeln!(f, "hedge_after_ms = {after}")?,
            None => writeln!(f, "# hedge_after_ms is not set")?,
        }
        writeln!(f, "classifiers = {}", list(classifiers))?;
        writeln!(f, "openrouter_url = {}", quoted(&self.openrouter_url))?;
        writeln!(f, "openrouter_model = {}", quoted(self.openrouter_model.as_str()))?;
        writeln!(f, "retention_secs = {}", self.retention_secs)?;
        writeln!(f, "member_invitations = {}", self.member_invitations)?;
        writeln!(f, "membership_fee = {}", self.membership_fee)?;
        writeln!(f, "trial_days = {}", self.trial_days)?;
        writeln!(f, "grace_days = {}", self.grace_days)?;
        writeln!(f, "operator_percent = {}", self.operator_percent)?;
        writeln!(f, "pay_by = {}", quoted(&self.pay_by))?;
        writeln!(f, "log_format = \"{format}\"")?;
        writeln!(f, "log_level = {}", quoted(&self.log_level))?;
        writeln!(f, "{}", hidden("jwt_secret", &self.jwt_secret))?;
        writeln!(f, "{}", hidden("jwt_secret_previous", &self.jwt_secret_previous))?;
        writeln!(f, "{}", hidden("openrouter_api_key", &self.openrouter_api_key))
    }
}

/// Splits a text at its commas.
pub(crate) fn list(text: &str) -> Value {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect::<Vec<_>>().into()
}

/// Where a web page comes from, as browsers write it.
#[derive(Clone, Debug)]
struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "an origin is like https://chat.example.org, without anything behind";
        let uri: Uri = text.parse().map_err(|_| WRONG)?;
        let (scheme, authority) = (uri.scheme_str(), uri.authority());
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (scheme, authority) else {
            return Err(WRONG);
        };
        if format!("{scheme}://{authority}") != text || authority.as_str().contains('@') {
            return Err(WRONG);
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| WRONG)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

fn parsed<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: &String| {
        text.parse().map_err(|error| D::Error::custom(format!("\"{text}\" is wrong: {error}")))
    };
    texts.iter().map(parse).collect()
}

/// Says which setting cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SettingsError(String);

impl SettingsError {
    fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<ConfigError> for SettingsError {
    fn from(error: ConfigError) -> Self {
        // A parser's further lines quote the file, which may hold a secret.
        Self(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn try_load(
        flags: &[(&'static str, &str)],
        env: &[(&str, &str)],
        file: Option<&Path>,
    ) -> Result<Settings, SettingsError> {
        let flags = flags.iter().map(|(name, value)| (*name, Some((*value).into()))).collect();
        let find = |name: &str| env.iter().find(|(known, _)| *known == name);
        let env = |name: &str| find(name).map(|(_, value)| (*value).to_owned());
        Settings::load(flags, env, file)
    }

    fn load(flags: &[(&'static str, &str)], env: &[(&str, &str)], file: Option<&Path>) -> Settings {
        try_load(flags, env, file).unwrap()
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let (_folder, path) = file("a.toml", "listen = '127.0.0.1:2'\nqueue_capacity = 7");
        let port = |settings: Settings| settings.listen.port();
        let env = [("LISTEN", "127.0.0.1:3")];
        assert_eq!(port(load(&[], &[], None)), 8080);
        assert_eq!(port(load(&[], &[], Some(&path))), 2);
        assert_eq!(port(load(&[], &env, Some(&path))), 3);
        assert_eq!(port(load(&[], &[("LISTEN", "")], Some(&path))), 2);
        let settings = load(&[("listen", "127.0.0.1:4")], &env, Some(&path));
        assert_eq!((settings.listen.port(), settings.queue_capacity), (4, 7));
    }

    #[test]
    fn names_of_earlier_systems_work() {
        let env = [
            ("DATABASE_URL", "sqlite:////var/iris/books.db"),
            ("COORDINATOR_PRIVATE_KEY_PATH", "/var/iris/coordinator.pem"),
            ("JWT_SECRET", "short, but nobody else can come here"),
            ("OPENROUTER_API_KEY", "sk-or-1"),
        ];
        let settings = load(&[], &env, None);
        assert_eq!(settings.database().unwrap(), Path::new("/var/iris/books.db"));
        assert_eq!(settings.secret(), Path::new("/var/iris/coordinator.secret"));
        let unused: Vec<_> = settings.unused().collect();
        assert_eq!(unused, ["OPENROUTER_API_KEY"]);
        assert!(settings.accounts().jwt_secret.is_some());
        let default = load(&[], &[], None);
        assert_eq!(default.database().unwrap(), Path::new("data/iris.db"));
        assert_eq!(default.private_key_path, Path::new("data/coordinator.key"));
    }

    #[test]
    fn attack_46_key_of_an_outside_classifier_sets_none() {
        let key = ("OPENROUTER_API_KEY", "hunter2");
        let names = |settings: &Settings| {
            format!("{:?}", settings.classifiers().unwrap()).contains("OpenRouter")
        };
        let settings = load(&[], &[key], None);
        assert_eq!(settings.classifiers, [Judge::Rules]);
        assert!(!names(&settings));
        let settings = load(&[], &[key, ("IRIS_CLASSIFIER", "rules, node")], None);
        assert_eq!(settings.classifiers, [Judge::Rules, Judge::Node]);
        assert!(!names(&settings));
        assert_eq!(settings.unused().count(), 1);
        let asked = ("IRIS_CLASSIFIER", "rules,openrouter");
        let without_key = try_load(&[], &[asked], None).unwrap_err().to_string();
        let asked = try_load(&[], &[key, asked], None);
        if cfg!(feature = "openrouter") {
            assert!(without_key.contains("OPENROUTER_API_KEY"), "{without_key}");
            let settings = asked.unwrap();
            assert!(names(&settings) && settings.unused().count() == 0);
            let url = Some("http://u:hunter2@x".into());
            let flags = vec![("classifiers", Some(list("openrouter"))), ("openrouter_url", url)];
            let refused = Settings::load(flags, |name| (name == key.0).then(|| key.1.into()), None);
            let refused = refused.unwrap_err().to_string();
            assert!(
                refused.contains("openrouter_url") && !refused.contains("hunter2"),
                "{refused}"
            );
        } else {
            let refused = asked.unwrap_err().to_string();
            assert!(refused.contains("built without openrouter"), "{refused}");
        }
    }

    #[test]
    fn phrases_of_a_file_are_used_or_it_is_said_why_not() {
        let letters: Vec<_> = (b'a'..=b'z').map(|letter| char::from(letter).to_string()).collect();
        let phrases = |template: &str| {
            serde_json::json!({"templates": [template], "words": {"letter": letters}}).to_string()
        };
        let read = |text: &str| {
            let (_folder, path) = file("phrases.json", text);
            let path = path.to_str().unwrap();
            load(&[], &[("IRIS_CHECK_PHRASES", path)], None).phrases()
        };
        assert!(read(&phrases(&"{letter}".repeat(11))).is_ok());
        for (text, said) in [("{", "EOF"), (&phrases("{letter}"), "ways"), (&phrases("{x}"), "gap")]
        {
            let refused = read(text).unwrap_err().to_string();
            assert!(refused.contains(said) && refused.contains("check_phrases"), "{refused}");
        }
        let missing = load(&[], &[("IRIS_CHECK_PHRASES", "/none")], None).phrases().unwrap_err();
        assert!(missing.to_string().contains("/none"), "{missing}");
        assert_eq!(load(&[], &[], None).phrases().unwrap(), Phrases::default());
    }

    #[test]
    fn files_are_toml_yaml_or_json_by_extension() {
        for (name, text) in [
            ("a.toml", "retention_secs = 7\ntrusted_proxies = ['10.0.0.0/8']"),
            ("a.yaml", "retention_secs: 7\ntrusted_proxies: ['10.0.0.0/8']"),
            ("a.json", r#"{"retention_secs":7,"trusted_proxies":["10.0.0.0/8"]}"#),
        ] {
            let (_folder, path) = file(name, text);
            let settings = load(&[], &[], Some(&path));
            assert_eq!(settings.retention(), Duration::from_secs(7), "{name}");
            assert_eq!(settings.trusted_proxies.len(), 1, "{name}");
        }
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not_quoted() {
        for (name, text, named) in [
            ("a.toml", "listn = 'x'", "listn"),
            ("a.toml", "jwt_secret = hunter2", "line 1"),
            ("a.json", "{\"jwt_secret\": hunter2}", "line 1"),
            ("a.yaml", "jwt_secret: [hunter2", "line"),
            ("a.toml", "listen = 'localhost'", "listen"),
            ("a.toml", "queue_capacity = 0", "queue_capacity"),
            ("a.toml", "queue_capacity = -1", "queue_capacity"),
            ("a.toml", "patience = 1001", "patience"),
            ("a.toml", "trusted_owners = ['me']", "me"),
            ("a.toml", "owner_share_percent = 0", "owner_share_percent"),
            ("a.toml", "retention_secs = 0", "retention_secs"),
            ("a.toml", "member_invitations = 1001", "member_invitations"),
            ("a.toml", "membership_fee = -1", "membership_fee"),
            ("a.toml", "trial_days = 3651", "trial_days"),
            ("a.toml", "log_level = 'a=b=c'", "log_level"),
            ("a.toml", "classifiers = ['oracle']", "rules, node and openrouter"),
            ("a.toml", "classifiers = ['rules', 'node', 'rules']", "rules more than once"),
            ("a.toml", "openrouter_model = ''", "openrouter_model"),
            ("a.toml", "log_format = 'xml'", "log_format"),
            ("a.toml", "tls_cert = 'a.pem'", "tls_key"),
            ("a.toml", "trusted_proxies = ['10.0.0.0/33']", "10.0.0.0/33"),
            ("a.toml", "cors_origins = ['*']", "*"),
            ("a.toml", "rate_per_minute = -1", "rate_per_minute"),
            ("a.toml", "unlimited_accounts = ['me']", "me"),
            ("a.toml", "cors_origins = ['https://a.example/']", "https://a.example/"),
            ("a.toml", "database_url = 'postgres://iris:hunter2@db/iris'", "database_url"),
            ("a.toml", "private_key_path = 'a.secret'", "secret_path"),
            ("a.ini", "", "a.ini"),
        ] {
            let (_folder, path) = file(name, text);
            let said = try_load(&[], &[], Some(&path)).unwrap_err().to_string();
            assert!(said.contains(named) && !said.contains("hunter2"), "{text}: {said}");
        }
    }

    #[test]
    fn attack_27_default_or_short_jwt_secret_is_refused_where_others_can_come() {
        let strong = "0123456789abcdef0123456789abcdef";
        let shipped = "dev-secret-change-me-in-production-please";
        for (listen, proxies, secret, good) in [
            ("127.0.0.1:80", "", "weak", true),
            ("[::1]:80", "", "weak", true),
            ("127.0.0.1:80", "127.0.0.1", "weak", false),
            ("0.0.0.0:80", "", "weak", false),
            ("0.0.0.0:80", "", shipped, false),
            ("0.0.0.0:80", "", strong, true),
            ("127.0.0.1:80", "127.0.0.1", strong, true),
        ] {
            for name in ["JWT_SECRET", "JWT_SECRET_PREVIOUS"] {
                let env = [(name, secret), ("IRIS_TRUSTED_PROXIES", proxies)];
                let loaded = try_load(&[("listen", listen)], &env, None);
                assert_eq!(loaded.is_ok(), good, "{listen} {proxies} {name} {secret}");
            }
        }
    }

    #[test]
    fn printed_settings_are_a_file_without_secrets() {
        let env = [
            ("JWT_SECRET", "hunter2hunter2hunter2hunter2hunter2"),
            ("OPENROUTER_API_KEY", "hunter2"),
            ("IRIS_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("IRIS_CORS_ORIGINS", "https://a.example,http://localhost:3000"),
            ("IRIS_RATE_PER_MINUTE", "0"),
            ("IRIS_PUBLIC_CHAT", "true"),
            ("IRIS_UNLIMITED_ACCOUNTS", "00112233445566778899aabbccddeeff"),
            ("COORDINATOR_PRIVATE_KEY_PATH", "a \"b\".key"),
            ("IRIS_TLS_CERT", "cert.pem"),
            ("IRIS_TLS_KEY", "key.pem"),
        ];
        let settings = load(&[("listen", "0.0.0.0:443")], &env[2..], None);
        let printed = settings.to_string();
        let (_folder, path) = file("a.toml", &printed);
        assert_eq!(load(&[], &[], Some(&path)).to_string(), printed);
        let with_secrets = load(&[], &env, None);
        assert!(!format!("{with_secrets}{with_secrets:?}").contains("hunter2"));
        assert!(with_secrets.to_string().contains("# jwt_secret is set, and not shown"));
    }
}
