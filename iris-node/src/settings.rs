//! What the `iris-node` command needs to know: flag, else environment, else file, else default.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use config::{Config, ConfigError, File, Value};
use iris_core::Hours;
use iris_core::terms::Callers;
use iris_crypto::PublicIdentity;
use iris_node::agent::{CoordinatorUrl, ModelFilter};
use iris_node::backend::engine::{Device, Runner};
use iris_node::cache::ModelCache;
use iris_node::datasets::{Access, DatasetError, Datasets};
use iris_node::limits::{Allowance, Borders, Limits};
use iris_protocol::limits::MAX_SLOTS;
use iris_protocol::rest::Secret;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::cached::CacheSetting;
use crate::model_server::ServerSetting;

/// Environment variables, and whether their values are lists with commas.
const ENVIRONMENT: [(&str, &str, bool); 39] = [
    ("coordinator_url", "COORDINATOR_URL", true),
    ("coordinator_identity", "IRIS_COORDINATOR_IDENTITY", false),
    ("ca_file", "IRIS_CA_FILE", false),
    ("account_key", "IRIS_ACCOUNT_KEY", false),
    ("node_key", "IRIS_NODE_KEY", false),
    ("key_path", "NODE_KEY_PATH", false),
    ("name", "NODE_ID", false),
    ("model_server_url", "LMSTUDIO_URL", false),
    ("model_server_key", "IRIS_MODEL_SERVER_KEY", false),
    ("allow_remote_backend", "IRIS_ALLOW_REMOTE_BACKEND", false),
    ("engine", "IRIS_ENGINE", false),
    ("engine_device", "IRIS_ENGINE_DEVICE", false),
    ("engine_runner", "IRIS_ENGINE_RUNNER", false),
    ("server.model", "IRIS_SERVER", false),
    ("server.preset", "IRIS_SERVER_PRESET", false),
    ("server.program", "IRIS_SERVER_PROGRAM", false),
    ("server.image", "IRIS_SERVER_IMAGE", false),
    ("load", "IRIS_LOAD", true),
    ("load_gb", "IRIS_LOAD_GB", false),
    ("cache.path", "IRIS_CACHE_PATH", false),
    ("cache.gb", "IRIS_CACHE_GB", false),
    ("slots", "IRIS_SLOTS", false),
    ("vram_gb", "NODE_VRAM_GB", false),
    ("hours", "IRIS_HOURS", false),
    ("work_hours", "IRIS_WORK_HOURS", false),
    ("models", "IRIS_MODELS", true),
    ("callers", "IRIS_CALLERS", false),
    ("busy_percent", "IRIS_BUSY_PERCENT", false),
    ("max_celsius", "IRIS_MAX_CELSIUS", false),
    ("max_watts", "IRIS_MAX_WATTS", false),
    ("free_memory_gb", "IRIS_FREE_MEMORY_GB", false),
    ("gb_per_day", "IRIS_GB_PER_DAY", false),
    ("gb_per_month", "IRIS_GB_PER_MONTH", false),
    ("history_days", "IRIS_HISTORY_DAYS", false),
    ("history_mb", "IRIS_HISTORY_MB", false),
    ("measure", "IRIS_MEASURE", false),
    ("drain_secs", "IRIS_DRAIN_SECS", false),
    ("log_format", "IRIS_LOG_FORMAT", false),
    ("log_level", "RUST_LOG", false),
];

/// Where the model server is looked for when nothing else is said.
const MODEL_SERVER: &str = "http://localhost:1234/v1";

/// The settings in force.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    coordinator_url: Vec<String>,
    coordinator_identity: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) account_key: Option<Secret>,
    pub(crate) node_key: Option<Secret>,
    pub(crate) key_path: PathBuf,
    pub(crate) name: Option<String>,
    model_server_url: Option<String>,
    pub(crate) model_server_key: Option<Secret>,
    pub(crate) allow_remote_backend: bool,
    pub(crate) engine: Option<String>,
    engine_device: Option<String>,
    engine_runner: Option<String>,
    pub(crate) load: Vec<String>,
    pub(crate) load_gb: Option<u32>,
    pub(crate) slots: Option<u32>,
    pub(crate) vram_gb: Option<u32>,
    hours: Option<String>,
    work_hours: Option<String>,
    models: Vec<String>,
    callers: Option<String>,
    busy_percent: Option<u8>,
    max_celsius: Option<i32>,
    max_watts: Option<u32>,
    free_memory_gb: Option<u32>,
    gb_per_day: Option<u32>,
    gb_per_month: Option<u32>,
    history_days: u32,
    history_mb: u32,
    pub(crate) measure: bool,
    drain_secs: u64,
    pub(crate) log_format: LogFormat,
    log_level: String,
    /// The model server that the node starts itself.
    pub(crate) server: Option<ServerSetting>,
    /// Where that one answers, once it was started.
    #[serde(skip)]
    started: Option<String>,
    #[serde(default)]
    pub(crate) cache: CacheSetting,
    #[serde(default)]
    datasets: BTreeMap<String, DatasetSetting>,
}

/// A data set that lies on this machine, and who may use it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DatasetSetting {
    path: PathBuf,
    who: Option<String>,
    key: Option<Secret>,
}

impl DatasetSetting {
    /// Returns who may use it; nobody may by default.
    fn access(&self, name: &str) -> Result<Access, SettingsError> {
        let wrong = |what: &str| SettingsError(format!("datasets.{name}{what}"));
        match (self.who.as_deref(), &self.key) {
            (Some("anyone"), None) => Ok(Access::Anyone),
            (Some("anyone"), Some(_)) => Err(wrong(": 'key' goes with who = \"key\"")),
            (Some("key"), Some(key)) => Ok(Access::Key(key.clone())),
            (Some("key"), None) => {
                Err(wrong(".key is missing: at least 16 characters that only its users know"))
            }
            (Some("owner"), _) => Err(wrong(
                ".who: a node does not learn whose request it answers; use \"key\", and keep the \
                 key to yourself",
            )),
            (Some(_), _) => Err(wrong(".who must be \"anyone\" or \"key\"")),
            (None, _) => Err(wrong(
                ".who is missing: \"anyone\" lets everybody in the network use the data, \"key\" \
                 those who know its key",
            )),
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// What a node can offer models of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// A model server that its owner runs.
    ModelServer,
    /// One that the node starts.
    OwnServer,
    Engine,
}

impl Offered {
    pub(crate) const ALL: [Self; 3] = [Self::ModelServer, Self::OwnServer, Self::Engine];

    /// Returns the setting that names it.
    pub(crate) const fn setting(self) -> &'static str {
        match self {
            Self::ModelServer => "model_server_url",
            Self::OwnServer => "server.model",
            Self::Engine => "engine",
        }
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
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let mut builder = Config::builder()
            .set_default("coordinator_url", vec!["http://127.0.0.1:8080"])?
            .set_default("key_path", default_key_path(environment))?
            .set_default("allow_remote_backend", false)?
            .set_default("load", Vec::<String>::new())?
            .set_default("models", Vec::<String>::new())?
            .set_default("history_days", 90)?
            .set_default("history_mb", 64)?
            .set_default("measure", true)?
            .set_default("drain_secs", 60)?
            .set_default("log_format", "text")?
            .set_default("log_level", "info")?;
        if let Some(file) = file {
            builder = builder.add_source(File::from(file));
        }
        for (setting, name, is_list) in ENVIRONMENT {
            let value = environment(name);
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
        self.coordinators()?;
        self.coordinator_identity()?;
        self.log_filter()?;
        self.limits()?;
        for (name, dataset) in &self.datasets {
            dataset.access(name)?;
        }
        self.server.as_ref().map_or(Ok(()), ServerSetting::check)?;
        self.cache.check()?;
        if self.slots.is_some_and(|slots| !(1..=MAX_SLOTS).contains(&slots)) {
            return Err(SettingsError(format!("slots must be 1 to {MAX_SLOTS}")));
        }
        Ok(())
    }

    /// Returns the coordinators as they were named.
    pub(crate) fn coordinator_urls(&self) -> &[String] {
        &self.coordinator_url
    }

    /// Returns the coordinators to try, in order; at least one.
    pub(crate) fn coordinators(&self) -> Result<Vec<CoordinatorUrl>, SettingsError> {
        if self.coordinator_url.is_empty() {
            return Err(SettingsError("coordinator_url (COORDINATOR_URL) is empty".to_owned()));
        }
        let parse = |text: &String| {
            text.parse().map_err(|error| {
                SettingsError(format!("coordinator_url (COORDINATOR_URL): {error}"))
            })
        };
        self.coordinator_url.iter().map(parse).collect()
    }

    /// Returns the only coordinator to trust, if one was named.
    pub(crate) fn coordinator_identity(&self) -> Result<Option<PublicIdentity>, SettingsError> {
        let text = self.coordinator_identity.as_ref();
        let parsed = text.map(|text| text.trim().parse()).transpose();
        parsed.map_err(|error| SettingsError(format!("coordinator_identity: {error}")))
    }

    /// Returns what the owner lets the node do.
    pub(crate) fn limits(&self) -> Result<Limits, SettingsError> {
        let parse = |name: &str, text: &Option<String>| {
            let parsed = text.as_ref().map(|text| text.parse::<Hours>()).transpose();
            parsed.map_err(|error| SettingsError(format!("{name}: {error}")))
        };
        let promise = parse("hours (IRIS_HOURS)", &self.hours)?;
        let work = parse("work_hours (IRIS_WORK_HOURS)", &self.work_hours)?;
        if let (Some(promise), Some(work)) = (&promise, &work)
            && !work.cover(promise)
        {
            return Err(SettingsError(
                "hours (IRIS_HOURS) promise more than work_hours (IRIS_WORK_HOURS) let the node \
                 keep"
                    .to_owned(),
            ));
        }
        let callers = match self.callers.as_deref() {
            None | Some("public") => Callers::Public,
            Some("members") => Callers::Members,
            Some("invited") => Callers::Invited,
            Some("own") => Callers::Own,
            Some(_) => {
                let words = "callers (IRIS_CALLERS) must be \"own\", \"invited\", \"members\" or \"public\"";
                return Err(SettingsError(words.to_owned()));
            }
        };
        if !callers.are_many() && promise.is_some() {
            return Err(SettingsError(
                "hours (IRIS_HOURS) are a promise to others, whom callers = \"own\" and \"invited\" \
                 keep out"
                    .to_owned(),
            ));
        }
        if self.busy_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            return Err(SettingsError(
                "busy_percent (IRIS_BUSY_PERCENT) must be 1 to 100".to_owned(),
            ));
        }
        let borders = Borders {
            load: self.busy_percent,
            celsius: self.max_celsius,
            watts: self.max_watts,
            memory_free: self.free_memory_gb.map(|gigabytes| u64::from(gigabytes) << 30),
        };
        let bytes =
            |gigabytes: Option<u32>| gigabytes.map(|count| u64::from(count) * 1_000_000_000);
        let allowance = Allowance { day: bytes(self.gb_per_day), month: bytes(self.gb_per_month) };
        let models = ModelFilter::new(&self.models);
        Ok(Limits { promise, work, slots: self.slots, models, callers, borders, allowance })
    }

    /// Returns whether these and other settings differ in nothing but what a running node takes
    /// in, as far as they are shown.
    pub(crate) fn differ_in_limits_alone(&self, other: &Self) -> bool {
        let limited = Self {
            hours: other.hours.clone(),
            work_hours: other.work_hours.clone(),
            slots: other.slots,
            models: other.models.clone(),
            callers: other.callers.clone(),
            busy_percent: other.busy_percent,
            max_celsius: other.max_celsius,
            max_watts: other.max_watts,
            free_memory_gb: other.free_memory_gb,
            gb_per_day: other.gb_per_day,
            gb_per_month: other.gb_per_month,
            ..self.clone()
        };
        limited.to_string() == other.to_string()
    }

    /// Returns what the engine's model is computed on.
    pub(crate) fn engine_device(&self) -> Result<Device, SettingsError> {
        let device = self.engine_device.as_deref().map_or(Ok(Device::default()), str::parse);
        device.map_err(|what| {
            SettingsError(format!("engine_device (IRIS_ENGINE_DEVICE) must be {what}"))
        })
    }

    /// Returns what runs the engine's model.
    pub(crate) fn engine_runner(&self) -> Result<Runner, SettingsError> {
        let runner = self.engine_runner.as_deref().map_or(Ok(Runner::default()), str::parse);
        runner.map_err(|what| {
            SettingsError(format!("engine_runner (IRIS_ENGINE_RUNNER) must be {what}"))
        })
    }

    /// Returns the model server of the owner to ask; `None` when only the engine, or a server that
    /// the node starts, is to run.
    pub(crate) fn model_server(&self) -> Option<&str> {
        let is_default = self.engine.is_none() && self.server.is_none();
        self.model_server_url.as_deref().or(is_default.then_some(MODEL_SERVER))
    }

    /// Returns all model servers to ask: the owner's, and the one that the node has started.
    pub(crate) fn model_servers(&self) -> impl Iterator<Item = &str> {
        self.model_server().into_iter().chain(self.started.as_deref())
    }

    /// Adds where the server answers that the node has started, if it has.
    pub(crate) fn with_started(self, url: Option<&str>) -> Self {
        Self { started: url.map(str::to_owned), ..self }
    }

    /// Offers by these settings nothing but what is `kept` of a model server of the owner, a
    /// server of the node's own, and an engine; returns what they name no more.
    pub(crate) fn offer_only(&mut self, kept: &[Offered]) -> Vec<String> {
        let is_kept = |offered| kept.contains(&offered);
        let mut dropped = Vec::new();
        if !is_kept(Offered::ModelServer) {
            dropped.extend(self.model_server_url.take());
        }
        if !is_kept(Offered::OwnServer) {
            dropped.extend(self.server.take().and_then(|server| server.model));
        }
        if !is_kept(Offered::Engine) {
            dropped.extend(self.engine.take());
        }
        dropped
    }

    /// Returns the model server that was named; `None` where there is none but the default.
    pub(crate) fn named_model_server(&self) -> Option<&str> {
        self.model_server_url.as_deref()
    }

    /// Returns the settings as a file holds them, with secrets.
    pub(crate) fn to_file(&self) -> String {
        struct WithSecrets<'a>(&'a Settings);
        impl fmt::Display for WithSecrets<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, true)
            }
        }
        WithSecrets(self).to_string()
    }

    /// Returns where model files are kept.
    pub(crate) fn cache(&self) -> ModelCache {
        self.cache.cache(&self.key_path)
    }

    /// Reads the data sets, to see that they can be.
    pub(crate) fn datasets(&self) -> Result<Datasets, DatasetFault> {
        let mut datasets = Datasets::new();
        for (name, dataset) in &self.datasets {
            let access = dataset.access(name).map_err(DatasetFault::Setting)?;
            datasets.add(name, &dataset.path, access).map_err(|error| match error {
                DatasetError::File { .. } => DatasetFault::File(error),
                error => DatasetFault::Setting(SettingsError(format!("datasets.{name}: {error}"))),
            })?;
        }
        Ok(datasets)
    }

    /// Returns how much of the node's history is kept; `None` where none is.
    #[cfg(feature = "history")]
    pub(crate) fn history(&self) -> Option<iris_node::history::Bounds> {
        let age = Duration::from_hours(u64::from(self.history_days) * 24);
        let size = u64::from(self.history_mb) << 20;
        (self.history_days > 0).then_some(iris_node::history::Bounds { age, size })
    }

    pub(crate) const fn drain_limit(&self) -> Duration {
        Duration::from_secs(self.drain_secs)
    }

    pub(crate) fn log_filter(&self) -> Result<EnvFilter, SettingsError> {
        EnvFilter::builder()
            // llama.cpp tells much, and warns of a context that holds several conversations.
            .parse(format!("llama-cpp-2=error,{}", self.log_level))
            .map_err(|error| SettingsError(format!("log_level (RUST_LOG): {error}")))
    }
}

impl fmt::Display for Settings {
    /// Writes the settings as TOML, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, false)
    }
}

impl Settings {
    /// Writes the settings as TOML.
    fn write(&self, f: &mut fmt::Formatter<'_>, with_secrets: bool) -> fmt::Result {
        // TOML's and JSON's strings and lists of strings are written alike.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let text = |name: &str, text: Option<String>| match text {
            Some(text) => format!("{name} = {}", quoted(&text)),
            None => format!("# {name} is not set"),
        };
        let number = |name: &str, number: Option<i64>| match number {
            Some(number) => format!("{name} = {number}"),
            None => format!("# {name} is not set"),
        };
        let hidden = |name: &str, secret: &Option<Secret>| match secret {
            Some(secret) if with_secrets => format!("{name} = {}", quoted(secret.expose())),
            Some(_) => format!("# {name} is set, and not shown"),
            None => format!("# {name} is not set"),
        };
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let urls = serde_json::Value::from(self.coordinator_url.clone());
        let format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        writeln!(f, "coordinator_url = {urls}")?;
        writeln!(f, "{}", text("coordinator_identity", self.coordinator_identity.clone()))?;
        writeln!(f, "{}", text("ca_file", self.ca_file.as_deref().map(path)))?;
        writeln!(f, "{}", hidden("account_key", &self.account_key))?;
        writeln!(f, "{}", hidden("node_key", &self.node_key))?;
        writeln!(f, "key_path = {}", quoted(&path(&self.key_path)))?;
        writeln!(f, "{}", text("name", self.name.clone()))?;
        writeln!(f, "{}", text("model_server_url", self.model_server().map(str::to_owned)))?;
        writeln!(f, "{}", hidden("model_server_key", &self.model_server_key))?;
        writeln!(f, "allow_remote_backend = {}", self.allow_remote_backend)?;
        writeln!(f, "{}", text("engine", self.engine.clone()))?;
        writeln!(f, "{}", text("engine_device", self.engine_device.clone()))?;
        writeln!(f, "{}", text("engine_runner", self.engine_runner.clone()))?;
        writeln!(f, "load = {}", serde_json::Value::from(self.load.clone()))?;
        writeln!(f, "{}", number("load_gb", self.load_gb.map(i64::from)))?;
        writeln!(f, "{}", number("slots", self.slots.map(i64::from)))?;
        writeln!(f, "{}", number("vram_gb", self.vram_gb.map(i64::from)))?;
        writeln!(f, "{}", text("hours", self.hours.clone()))?;
        writeln!(f, "{}", text("work_hours", self.work_hours.clone()))?;
        writeln!(f, "models = {}", serde_json::Value::from(self.models.clone()))?;
        writeln!(f, "{}", text("callers", self.callers.clone()))?;
        writeln!(f, "{}", number("busy_percent", self.busy_percent.map(i64::from)))?;
        writeln!(f, "{}", number("max_celsius", self.max_celsius.map(i64::from)))?;
        writeln!(f, "{}", number("max_watts", self.max_watts.map(i64::from)))?;
        writeln!(f, "{}", number("free_memory_gb", self.free_memory_gb.map(i64::from)))?;
        writeln!(f, "{}", number("gb_per_day", self.gb_per_day.map(i64::from)))?;
        writeln!(f, "{}", number("gb_per_month", self.gb_per_month.map(i64::from)))?;
        writeln!(f, "history_days = {}", self.history_days)?;
        writeln!(f, "history_mb = {}", self.history_mb)?;
        writeln!(f, "measure = {}", self.measure)?;
        writeln!(f, "drain_secs = {}", self.drain_secs)?;
        writeln!(f, "log_format = \"{format}\"")?;
        writeln!(f, "log_level = {}", quoted(&self.log_level))?;
        if let Some(server) = &self.server {
            server.write(f, with_secrets)?;
        }
        self.cache.write(f, with_secrets)?;
        for (name, dataset) in &self.datasets {
            writeln!(f, "\n[datasets.{}]", quoted(name))?;
            writeln!(f, "path = {}", quoted(&path(&dataset.path)))?;
            writeln!(f, "{}", text("who", dataset.who.clone()))?;
            writeln!(f, "{}", hidden("key", &dataset.key))?;
        }
        Ok(())
    }
}

/// Splits a text at its commas.
pub(crate) fn list(text: &str) -> Value {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect::<Vec<_>>().into()
}

/// Returns where settings are looked for when no file is named, and where `setup` writes them.
pub(crate) fn default_file(environment: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let within = |name: &str, rest: &str| {
        let folder = environment(name).filter(|folder| !folder.is_empty())?;
        Some(Path::new(&folder).join(rest))
    };
    within("XDG_CONFIG_HOME", "iris/node.toml")
        .or_else(|| within("HOME", ".config/iris/node.toml"))
        .or_else(|| within("APPDATA", "iris/node.toml"))
}

/// Returns where the identity is kept: with the user's other data.
fn default_key_path(environment: impl Fn(&str) -> Option<String>) -> String {
    let within = |name: &str, rest: &str| environment(name).map(|folder| folder + rest);
    within("XDG_DATA_HOME", "/iris/node.key")
        .or_else(|| within("HOME", "/.local/share/iris/node.key"))
        .or_else(|| within("APPDATA", "\\iris\\node.key"))
        .unwrap_or_else(|| "data/node.key".to_owned())
}

/// Why a data set cannot be offered.
#[derive(Debug)]
pub(crate) enum DatasetFault {
    Setting(SettingsError),
    File(DatasetError),
}

/// Says which setting cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SettingsError(String);

impl SettingsError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<ConfigError> for SettingsError {
    fn from(error: ConfigError) -> Self {
        // A parser's further lines quote the file, which may hold a key.
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
        let (_folder, path) = file("a.toml", "name = 'file'\nslots = 7");
        let name = |settings: Settings| settings.name.unwrap_or_default();
        let env = [("NODE_ID", "env")];
        assert_eq!(name(load(&[], &[], None)), "");
        assert_eq!(name(load(&[], &[], Some(&path))), "file");
        assert_eq!(name(load(&[], &env, Some(&path))), "env");
        assert_eq!(name(load(&[], &[("NODE_ID", "")], Some(&path))), "file");
        let settings = load(&[("name", "flag")], &env, Some(&path));
        assert_eq!((settings.name.as_deref(), settings.slots), (Some("flag"), Some(7)));
    }

    #[test]
    fn names_of_earlier_systems_work() {
        let env = [
            ("IRIS_ACCOUNT_KEY", "1234 5678 9012 3456"),
            ("COORDINATOR_URL", "ws://localhost:8000/nodes/connect, https://iris.example"),
            ("LMSTUDIO_URL", "http://localhost:11434/v1"),
            ("NODE_KEY_PATH", "/var/iris/node.key"),
            ("NODE_VRAM_GB", "8"),
        ];
        let settings = load(&[], &env, None);
        let urls: Vec<_> =
            settings.coordinators().unwrap().iter().map(ToString::to_string).collect();
        let expected =
            ["ws://localhost:8000/nodes/connect", "wss://iris.example:443/nodes/connect"];
        assert_eq!(urls, expected);
        assert_eq!(settings.model_server(), Some("http://localhost:11434/v1"));
        assert_eq!(settings.key_path, Path::new("/var/iris/node.key"));
        assert_eq!(settings.vram_gb, Some(8));
        assert!(settings.account_key.is_some());
    }

    #[test]
    fn the_engine_takes_the_place_of_the_model_server_unless_both_are_named() {
        let server = |settings: Settings| settings.model_server().map(str::to_owned);
        assert_eq!(server(load(&[], &[], None)).as_deref(), Some(MODEL_SERVER));
        assert_eq!(server(load(&[("engine", "bundled")], &[], None)), None);
        let both = load(&[("engine", "bundled")], &[("LMSTUDIO_URL", "http://[::1]:1")], None);
        assert_eq!(server(both).as_deref(), Some("http://[::1]:1"));
    }

    #[test]
    fn the_engine_runs_on_what_the_settings_say() {
        let told = |name| load(&[("engine_device", name)], &[], None).engine_device();
        assert_eq!(load(&[], &[], None).engine_device().unwrap(), Device::Auto);
        for (name, device) in
            [("cpu", Device::Cpu), ("cuda:1", Device::Cuda(1)), ("metal", Device::Metal)]
        {
            assert_eq!(told(name).unwrap(), device);
        }
        assert!(told("cuda:").unwrap_err().to_string().contains("cuda:0"));
        let told = |name| load(&[("engine_runner", name)], &[], None).engine_runner();
        assert_eq!(load(&[], &[], None).engine_runner().unwrap(), Runner::Auto);
        assert_eq!(told("built-in").unwrap(), Runner::BuiltIn);
        assert_eq!(told("llama-cpp").unwrap(), Runner::LlamaCpp);
        assert!(told("llama.cpp").unwrap_err().to_string().contains("\"llama-cpp\""));
    }

    #[test]
    fn files_are_toml_yaml_or_json_by_extension() {
        for (name, text) in [
            ("a.toml", "slots = 3\ncoordinator_url = ['http://localhost:1']"),
            ("a.yaml", "slots: 3\ncoordinator_url: ['http://localhost:1']"),
            ("a.json", r#"{"slots":3,"coordinator_url":["http://localhost:1"]}"#),
        ] {
            let (_folder, path) = file(name, text);
            let settings = load(&[], &[], Some(&path));
            assert_eq!(settings.slots, Some(3), "{name}");
            assert_eq!(settings.coordinators().unwrap().len(), 1, "{name}");
        }
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not_quoted() {
        for (text, named) in [
            ("slts = 1", "slts"),
            ("node_key = hunter2", "line 1"),
            ("slots = 0", "slots"),
            ("slots = 2000", "slots"),
            ("coordinator_url = []", "COORDINATOR_URL"),
            ("coordinator_url = ['ws://iris.example']", "wss://"),
            ("coordinator_identity = 'hunter2'", "coordinator_identity"),
            ("hours = 'mon-fri 9-17'", "IRIS_HOURS"),
            ("work_hours = 'noon'", "IRIS_WORK_HOURS"),
            ("callers = 'friends'", "IRIS_CALLERS"),
            ("busy_percent = 101", "IRIS_BUSY_PERCENT"),
            ("max_celsius = 'hot'", "max_celsius"),
            ("callers = 'own'\nhours = 'sat'", "promise to others"),
            ("callers = 'invited'\nhours = 'sat'", "promise to others"),
            ("hours = 'mon'\nwork_hours = 'mon 08:00-20:00'", "promise more"),
            ("log_level = 'a=b=c'", "RUST_LOG"),
            ("log_format = 'xml'", "log_format"),
        ] {
            let (_folder, path) = file("a.toml", text);
            let error = try_load(&[], &[], Some(&path)).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn a_running_node_takes_its_limits_in_and_nothing_else() {
        let old = load(&[("slots", "4")], &[], None);
        let flags = [
            ("slots", "2"),
            ("hours", "sat"),
            ("work_hours", "sat-sun"),
            ("callers", "members"),
            ("busy_percent", "50"),
            ("max_celsius", "80"),
            ("max_watts", "200"),
            ("free_memory_gb", "4"),
            ("gb_per_day", "5"),
            ("gb_per_month", "50"),
        ];
        let new = load(&flags, &[("IRIS_MODELS", "qwen*")], None);
        assert!(old.differ_in_limits_alone(&new));
        let Limits { borders, allowance, .. } = new.limits().unwrap();
        assert_eq!((allowance.day, allowance.month), (Some(5_000_000_000), Some(50_000_000_000)));
        assert_eq!((borders.load, borders.memory_free), (Some(50), Some(4 << 30)));
        let renamed = load(&[("name", "attic")], &[], None);
        assert!(!old.differ_in_limits_alone(&renamed));
    }

    #[test]
    fn data_sets_are_closed_until_it_is_said_who_may_use_them() {
        let (folder, data) = file("a.csv", "a,b");
        let load = |who: &str| {
            let text = format!("[datasets.ward-a]\npath = '{}'\n{who}", data.display());
            let (_folder, path) = file("a.toml", &text);
            try_load(&[], &[], Some(&path))
        };
        for who in ["who = 'anyone'", "who = 'key'\nkey = '0123456789abcdef'"] {
            let settings = load(who).unwrap();
            assert!(settings.datasets().is_ok(), "{who}");
            let printed = format!("{settings}\n{settings:?}");
            assert!(printed.contains("ward-a") && !printed.contains("0123"), "{printed}");
        }
        for (who, named) in [
            ("", "datasets.ward-a.who is missing"),
            ("key = '0123456789abcdef'", "datasets.ward-a.who is missing"),
            ("who = 'owner'", "does not learn"),
            ("who = 'hunter2'", "must be \"anyone\" or \"key\""),
            ("who = 'key'", "datasets.ward-a.key is missing"),
            ("who = 'anyone'\nkey = 'hunter2'", "'key' goes with"),
            ("who = 'anyone'\nwhom = 1", "whom"),
        ] {
            let error = load(who).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("hunter2"), "{who}: {error}");
        }
        let short = load("who = 'key'\nkey = 'hunter2'").unwrap().datasets().unwrap_err();
        assert!(matches!(&short, DatasetFault::Setting(error) if error.0.contains("16")));
        drop(folder);
        let gone = load("who = 'anyone'").unwrap().datasets();
        assert!(matches!(gone, Err(DatasetFault::File(_))));
    }

    #[test]
    fn what_a_file_held_is_held_by_the_one_that_is_written() {
        let text = "node_key = 'hunter2'\nslots = 3\n[datasets.a]\npath = '/a.csv'\n\
                    who = 'key'\nkey = '0123456789abcdef'";
        let (_folder, path) = file("a.toml", text);
        let settings = load(&[], &[], Some(&path));
        let (_folder, path) = file("b.toml", &settings.to_file());
        let again = load(&[], &[], Some(&path));
        assert_eq!(again.to_file(), settings.to_file());
        assert_eq!(again.node_key.unwrap().expose(), "hunter2");
        assert!(settings.to_file().contains("0123456789abcdef"));
        assert!(!settings.to_string().contains("hunter2"));
    }

    #[test]
    fn a_server_of_the_nodes_own_takes_the_place_of_the_default_one() {
        let text =
            "node_key = 'a'\n[server]\nmodel = '/m.gguf'\narguments = ['--api-key', 'hunter2']";
        let (_folder, path) = file("a.toml", text);
        let settings = load(&[("server.program", "/opt/serve")], &[], Some(&path));
        assert_eq!(settings.model_servers().count(), 0, "it was not started yet");
        let shown = format!("{settings}\n{settings:?}");
        assert!(shown.contains("/opt/serve") && !shown.contains("hunter2"), "{shown}");
        let (_folder, path) = file("b.toml", &settings.to_file());
        let again = load(&[], &[], Some(&path));
        assert_eq!(again.to_file(), settings.to_file());
        assert!(again.to_file().contains("hunter2"));
        let named = load(&[("model_server_url", "http://localhost:1")], &[], Some(&path));
        assert_eq!(named.model_servers().collect::<Vec<_>>(), ["http://localhost:1"]);
        let (_folder, path) = file("a.toml", "[server]\nmodle = 'x'");
        assert!(try_load(&[], &[], Some(&path)).unwrap_err().to_string().contains("modle"));
        let error = try_load(&[], &[("IRIS_SERVER_PRESET", "vllm")], None).unwrap_err().to_string();
        assert!(error.contains("server.model"), "{error}");
    }

    #[test]
    fn the_cache_lies_beside_the_identity_unless_it_is_said_where() {
        let env = [("NODE_KEY_PATH", "/var/iris/node.key")];
        let cache = load(&[], &env, None).cache();
        assert_eq!(cache.folder(), Path::new("/var/iris/models"));
        assert_eq!(cache.limit().get(), 50 << 30);
        let text = "[cache]\npath = '/srv/models'\ngb = 7\n[cache.sources.small]\n\
                    url = 'https://a/x.gguf?sig=hunter2'\ndigest = 'sha256:00'";
        let (_folder, path) = file("a.toml", text);
        let error = try_load(&[], &[], Some(&path)).unwrap_err().to_string();
        assert!(error.contains("cache.sources.small.digest"), "{error}");
        let (_folder, path) = file("a.toml", &text.replace(":00", &format!(":{}", "0".repeat(64))));
        let settings = load(&[("cache.gb", "9")], &[], Some(&path));
        assert_eq!(settings.cache().folder(), Path::new("/srv/models"));
        assert_eq!(settings.cache().limit().get(), 9 << 30);
        for printed in [settings.to_string(), format!("{settings:?}")] {
            let is_bare = printed.contains("https://a/x.gguf") && !printed.contains("hunter2");
            assert!(is_bare, "{printed}");
        }
        let (_folder, path) = file("b.toml", &settings.to_file());
        assert_eq!(load(&[], &[], Some(&path)).to_file(), settings.to_file());
        let (_folder, path) = file("a.toml", "[cache]\nsize = 1");
        assert!(try_load(&[], &[], Some(&path)).unwrap_err().to_string().contains("size"));
    }

    #[test]
    fn settings_are_looked_for_with_the_users_others() {
        let at = |env: &[(&str, &str)]| {
            default_file(|name| {
                env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let home = ("HOME", "/home/a");
        assert_eq!(at(&[home]).unwrap(), Path::new("/home/a/.config/iris/node.toml"));
        assert_eq!(at(&[home, ("XDG_CONFIG_HOME", "/x")]).unwrap(), Path::new("/x/iris/node.toml"));
        assert_eq!(at(&[("HOME", "")]), None);
    }

    #[test]
    fn what_is_printed_can_be_read_again_and_holds_no_secret() {
        let env = [
            ("IRIS_ACCOUNT_KEY", "1234567890123456"),
            ("IRIS_NODE_KEY", "iris_hunter2"),
            ("IRIS_MODEL_SERVER_KEY", "hunter2"),
            ("NODE_ID", "a \"quoted\" name"),
            ("IRIS_MODELS", "qwen*, !*70b*"),
            ("HOME", "/home/somebody"),
        ];
        let flags = [("slots", "4"), ("hours", "Mon-Fri 9:00-17:00 UTC+1")];
        let settings = load(&flags, &env, None);
        let printed = settings.to_string();
        assert!(!printed.contains("hunter2") && !printed.contains("12345678"), "{printed}");
        assert!(!format!("{settings:?}").contains("hunter2"));
        let (_folder, path) = file("a.toml", &printed);
        let again = load(&[], &[], Some(&path));
        assert_eq!(again.name, settings.name);
        assert_eq!(again.key_path, Path::new("/home/somebody/.local/share/iris/node.key"));
        assert_eq!(again.slots, Some(4));
        let limits = again.limits().unwrap();
        assert_eq!(limits.promise.unwrap().to_string(), "mon-fri 09:00-17:00 UTC+01:00");
        assert_eq!(limits.models, ModelFilter::new(["qwen*", "!*70b*"]));
    }
}
