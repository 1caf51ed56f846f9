//! What the `iris` command needs to know: flag, else environment, else file, else default.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, ConfigError, File};
use iris_crypto::PublicIdentity;
use iris_protocol::rest::Secret;
use serde::Deserialize;

/// Environment variables, for each setting the first that is set and not empty.
const ENVIRONMENT: [(&str, &[&str]); 8] = [
    ("url", &["IRIS_URL", "COORDINATOR_URL"]),
    ("api_key", &["IRIS_API_KEY"]),
    ("model", &["IRIS_MODEL"]),
    ("ca_file", &["IRIS_CA_FILE"]),
    ("allow_plain_http", &["IRIS_ALLOW_PLAIN_HTTP"]),
    ("timeout_secs", &["IRIS_TIMEOUT_SECS"]),
    ("trust_file", &["IRIS_TRUST_FILE"]),
    ("coordinator", &["IRIS_COORDINATOR"]),
];

/// The settings in force.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Coordinators, separated by commas; the first that answers is used.
    url: String,
    pub(crate) api_key: Option<Secret>,
    pub(crate) model: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) allow_plain_http: bool,
    timeout_secs: u64,
    trust_file: Option<PathBuf>,
    pub(crate) coordinator: Option<PublicIdentity>,
}

/// What flags say; `None` where they are silent. Keys have no flag: other users of a machine can
/// see the arguments of its processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) url: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) ca_file: Option<String>,
    pub(crate) allow_plain_http: Option<bool>,
    pub(crate) timeout_secs: Option<u64>,
    pub(crate) trust_file: Option<String>,
    pub(crate) coordinator: Option<String>,
}

impl Settings {
    pub(crate) fn load(
        flags: Flags,
        environment: impl Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let mut builder = Config::builder()
            .set_default("url", "http://127.0.0.1:8080")?
            .set_default("allow_plain_http", false)?
            .set_default("timeout_secs", 600)?;
        if let Some(file) = file {
            builder = builder.add_source(File::from(file));
        }
        for (setting, names) in ENVIRONMENT {
            let set = |name: &&str| environment(name).filter(|value| !value.is_empty());
            builder = builder.set_override_option(setting, names.iter().find_map(set))?;
        }
        // Of two overrides the later one wins, so flags come last.
        let settings: Self = builder
            .set_override_option("url", flags.url)?
            .set_override_option("model", flags.model)?
            .set_override_option("ca_file", flags.ca_file)?
            .set_override_option("allow_plain_http", flags.allow_plain_http)?
            .set_override_option("timeout_secs", flags.timeout_secs)?
            .set_override_option("trust_file", flags.trust_file)?
            .set_override_option("coordinator", flags.coordinator)?
            .build()?
            .try_deserialize()?;
        if settings.timeout_secs == 0 {
            return Err(SettingsError("timeout_secs must be at least 1".to_owned()));
        }
        Ok(settings)
    }

    pub(crate) fn urls(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim).filter(|url| !url.is_empty())
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_secs)
    }

    /// Returns where to remember what is trusted of the coordinator at `url`: what is set, else a
    /// file of that coordinator's own among this user's state. `None` where there is no home.
    pub(crate) fn trust_file(
        &self,
        url: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Option<PathBuf> {
        if let Some(file) = &self.trust_file {
            return Some(file.clone());
        }
        state_file(url, ".json", environment)
    }
}

/// Returns where to keep the session at the coordinator at `url`. `None` where there is no home.
pub(crate) fn session_file(
    url: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    state_file(url, ".session", environment)
}

/// Returns a file of one coordinator's own among this user's state.
fn state_file(
    url: &str,
    ending: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    let folder = |name: &str| environment(name).map(PathBuf::from).filter(|f| f.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    let state = state.or_else(|| folder("LOCALAPPDATA"))?;
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
    let name: String = url.trim_end_matches('/').replace("://", "_").chars().map(plain).collect();
    Some(state.join("iris").join(format!("{name}{ending}")))
}

impl fmt::Display for Settings {
    /// Writes the settings as TOML, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // TOML's and JSON's strings share their escapes.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let optional = |f: &mut fmt::Formatter<'_>, name: &str, value: Option<&str>| match value {
            Some(value) => writeln!(f, "{name} = {}", quoted(value)),
            None => writeln!(f, "# {name} is not set"),
        };
        writeln!(f, "url = {}", quoted(&self.url))?;
        let set = if self.api_key.is_some() { "set, and not shown" } else { "not set" };
        writeln!(f, "# api_key is {set}")?;
        optional(f, "model", self.model.as_deref())?;
        let ca_file = self.ca_file.as_ref().map(|file| file.to_string_lossy());
        optional(f, "ca_file", ca_file.as_deref())?;
        writeln!(f, "allow_plain_http = {}", self.allow_plain_http)?;
        writeln!(f, "timeout_secs = {}", self.timeout_secs)?;
        let trust_file = self.trust_file.as_ref().map(|file| file.to_string_lossy());
        optional(f, "trust_file", trust_file.as_deref())?;
        let coordinator = self.coordinator.map(|identity| identity.to_string());
        optional(f, "coordinator", coordinator.as_deref())
    }
}

/// Says which setting cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SettingsError(String);

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

    fn load(flag: Option<&str>, env: &[(&str, &str)], file: Option<&Path>) -> Settings {
        let flags = Flags { url: flag.map(str::to_owned), ..Flags::default() };
        let env = |name: &str| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::load(flags, env, file).unwrap()
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let (_folder, path) = file("a.toml", "url = 'http://file'\nmodel = 'from-file'");
        let env = [("IRIS_URL", "http://env"), ("COORDINATOR_URL", "http://seed")];
        assert_eq!(load(None, &[], None).url, "http://127.0.0.1:8080");
        assert_eq!(load(None, &[], Some(&path)).url, "http://file");
        assert_eq!(load(None, &env[1..], Some(&path)).url, "http://seed");
        assert_eq!(load(None, &env, Some(&path)).url, "http://env");
        let settings = load(Some("http://flag"), &env, Some(&path));
        assert_eq!(settings.url, "http://flag");
        assert_eq!(settings.model.as_deref(), Some("from-file"));
    }

    #[test]
    fn empty_variables_are_not_set() {
        assert_eq!(load(None, &[("IRIS_URL", "")], None).url, "http://127.0.0.1:8080");
    }

    #[test]
    fn files_are_toml_yaml_or_json_by_extension() {
        for (name, text) in [
            ("a.toml", "timeout_secs = 7\napi_key = 'k'"),
            ("a.yaml", "timeout_secs: 7\napi_key: k"),
            ("a.json", r#"{"timeout_secs":7,"api_key":"k"}"#),
        ] {
            let (_folder, path) = file(name, text);
            let settings = load(None, &[], Some(&path));
            assert_eq!(settings.timeout(), Duration::from_secs(7), "{name}");
            assert_eq!(settings.api_key.unwrap().expose(), "k", "{name}");
        }
    }

    #[test]
    fn each_coordinator_has_files_of_its_own() {
        let settings = load(None, &[], None);
        let home = |name: &str| (name == "HOME").then(|| "/home/a".to_owned());
        let state = |name: &str| (name == "XDG_STATE_HOME").then(|| "/state".to_owned());
        let file = |url| settings.trust_file(url, home).unwrap();
        assert_eq!(
            file("https://iris.example/net/"),
            Path::new("/home/a/.local/state/iris/https_iris.example_net.json")
        );
        assert_ne!(file("http://127.0.0.1:8080/"), file("http://127.0.0.1:8081/"));
        let file = settings.trust_file("http://[::1]:1/../x", state).unwrap();
        assert_eq!(file.parent(), Some(Path::new("/state/iris")));
        assert_eq!(settings.trust_file("http://a/", |_| None), None);
        let set = load(None, &[("IRIS_TRUST_FILE", "/t.json")], None);
        assert_eq!(set.trust_file("http://a/", home), Some("/t.json".into()));
        assert_eq!(
            session_file("https://iris.example/net/", home).unwrap(),
            Path::new("/home/a/.local/state/iris/https_iris.example_net.session")
        );
    }

    #[test]
    fn mistakes_are_named_and_keys_are_not_quoted() {
        for (name, text, named) in [
            ("a.toml", "modell = 'x'", "modell"),
            ("a.toml", "api_key = iris_secret", "line 1"),
            ("a.json", "{\"api_key\": iris_secret}", "line 1"),
            ("a.yaml", "api_key: [iris_secret", "line"),
            ("a.toml", "timeout_secs = 0", "timeout_secs"),
            ("a.ini", "", "a.ini"),
        ] {
            let (_folder, path) = file(name, text);
            let error = Settings::load(Flags::default(), |_| None, Some(&path)).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(named) && !said.contains("iris_secret"), "{name}: {said}");
        }
    }

    #[test]
    fn printed_settings_are_a_file_without_secrets() {
        let env = [("IRIS_API_KEY", "iris_secret"), ("IRIS_MODEL", "a\"b")];
        let settings = load(Some("http://a, http://b"), &env, None);
        let printed = settings.to_string();
        assert!(!format!("{printed}{settings:?}").contains("iris_secret"));
        let (_folder, path) = file("a.toml", &printed);
        let again = load(None, &[], Some(&path));
        assert_eq!(again.model, settings.model);
        assert_eq!(again.urls().collect::<Vec<_>>(), ["http://a", "http://b"]);
    }
}
