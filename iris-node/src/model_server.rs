//! The model server that the node starts itself: `[server]` of the settings.

use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use iris_node::cache::{CacheError, HeldModel, ModelCache};
#[cfg(all(unix, feature = "containers"))]
use iris_node::sandbox::Container;
use iris_node::sandbox::{
    Limits, Preset, PresetError, Process, Sandbox, ServerSpec, Sizing, State, Supervisor,
    find_program, free_port,
};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::failure::Failure;
use crate::settings::{Settings, SettingsError};

/// Options by which servers are told where to listen, which is the node's to say.
const LISTENING: [&str; 4] = ["--host", "--port", "--addr", "--uds"];
/// Lowest priority that a program can have on Unix.
const NICEST: u8 = 19;
const BYTES_PER_GB: u64 = 1 << 30;

/// Which server the node starts, and how. Its arguments may hold a key.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerSetting {
    preset: Option<String>,
    program: Option<String>,
    /// What the server runs in, where that is a container.
    image: Option<String>,
    /// The graphics cards that it has there.
    gpus: Option<String>,
    pub(crate) model: Option<String>,
    #[serde(default)]
    arguments: Vec<String>,
    context: Option<NonZeroU32>,
    port: Option<u16>,
    memory_gb: Option<u32>,
    niceness: Option<u8>,
    cpus: Option<u16>,
}

impl ServerSetting {
    /// Sees that a server can be started so, as far as settings alone can tell.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        if cfg!(windows) {
            return Err(SettingsError::new(
                "server: this program starts no servers on Windows; start the server yourself and \
                 name it with --model-server",
            ));
        }
        if self.niceness.is_some_and(|niceness| !(1..=NICEST).contains(&niceness)) {
            return Err(SettingsError::new(format!("server.niceness must be 1 to {NICEST}")));
        }
        self.check_image()?;
        let says_where = |argument: &String| {
            let option = argument.split_once('=').map_or(argument.as_str(), |(option, _)| option);
            LISTENING.contains(&option)
        };
        if self.arguments.iter().any(says_where) {
            return Err(SettingsError::new(
                "server.arguments must not say where the server listens: it is on 127.0.0.1, at \
                 server.port or a port that is free",
            ));
        }
        self.spec(self.port.unwrap_or(1), None).map(drop)
    }

    /// Sees that what is said of containers is said of one, and the other way round.
    fn check_image(&self) -> Result<(), SettingsError> {
        let Some(image) = &self.image else {
            let alone = [("gpus", self.gpus.is_some()), ("cpus", self.cpus.is_some())];
            let said = alone.into_iter().find(|(_, is_said)| *is_said);
            return said.map_or(Ok(()), |(name, _)| {
                Err(SettingsError::new(format!(
                    "server.{name} is for containers: it goes with server.image"
                )))
            });
        };
        if self.niceness.is_some() {
            return Err(SettingsError::new(
                "server.niceness is not heeded in a container; server.cpus is",
            ));
        }
        if self
            .gpus
            .as_deref()
            .is_some_and(|gpus| gpus != "all" && !gpus.starts_with("nvidia.com/gpu="))
        {
            return Err(SettingsError::new(
                "server.gpus must be \"all\" or what CDI calls one of NVIDIA's, such as \
                 \"nvidia.com/gpu=0\"",
            ));
        }
        pinned(image)
    }

    fn spec(&self, port: u16, slots: Option<u32>) -> Result<ServerSpec, SettingsError> {
        let wrong = |error| SettingsError::new(format!("server: {error}"));
        let model = self.model.as_deref().ok_or_else(|| {
            SettingsError::new("server.model is missing: the file or the name of a model")
        })?;
        let sizing = Sizing { slots: slots.and_then(NonZeroU32::new), context: self.context };
        let preset = self.preset().map_err(wrong)?;
        let called = if self.image.is_some() {
            contained(preset, model, port, sizing)
        } else {
            preset.server(model, port, sizing)
        };
        let mut spec = called.map_err(wrong)?;
        if let Some(program) = &self.program {
            spec.program.clone_from(program);
        }
        spec.arguments.extend_from_slice(&self.arguments);
        let memory = self.memory_gb.map(|gigabytes| u64::from(gigabytes) * BYTES_PER_GB);
        spec.limits = Limits { memory, niceness: self.niceness, cpus: self.cpus };
        Ok(spec)
    }

    /// Returns what the server is called where its owner is told of it.
    fn name(&self, spec: &ServerSpec) -> String {
        self.image.clone().unwrap_or_else(|| spec.program.clone())
    }

    /// Returns where it runs.
    fn sandbox(&self, key: &Path) -> Result<Arc<dyn Sandbox>, Failure> {
        match &self.image {
            Some(image) => container(self, image, key),
            None => Ok(Arc::new(process())),
        }
    }

    fn preset(&self) -> Result<Preset, PresetError> {
        self.preset.as_deref().map_or(Ok(Preset::LlamaServer), str::parse)
    }

    /// Writes the settings as a table of TOML.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, with_secrets: bool) -> fmt::Result {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let text = |text: &Option<String>| text.as_deref().map(quoted);
        let arguments = || serde_json::Value::from(self.arguments.clone()).to_string();
        let lines = [
            ("preset", text(&self.preset)),
            ("program", text(&self.program)),
            ("image", text(&self.image)),
            ("gpus", text(&self.gpus)),
            ("model", text(&self.model)),
            ("arguments", (with_secrets || self.arguments.is_empty()).then(arguments)),
            ("context", self.context.map(|tokens| tokens.to_string())),
            ("port", self.port.map(|port| port.to_string())),
            ("memory_gb", self.memory_gb.map(|gigabytes| gigabytes.to_string())),
            ("niceness", self.niceness.map(|niceness| niceness.to_string())),
            ("cpus", self.cpus.map(|cpus| cpus.to_string())),
        ];
        writeln!(f, "\n[server]")?;
        for (name, value) in lines {
            match value {
                Some(value) => writeln!(f, "{name} = {value}")?,
                None if name == "arguments" => writeln!(f, "# arguments are set, and not shown")?,
                None => writeln!(f, "# {name} is not set")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ServerSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSetting")
            .field("preset", &self.preset)
            .field("program", &self.program)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl ServerSetting {
    /// Returns these settings with the path of their model where that is one of the cache's, which
    /// then stays there.
    fn found(&self, cache: &ModelCache) -> Result<(Self, Option<HeldModel>), CacheError> {
        let model =
            self.model.as_deref().filter(|model| self.takes_a_path() && !Path::new(model).exists());
        let Some(name) = model.and_then(|model| cache.find(model)) else {
            return Ok((self.clone(), None));
        };
        let held = cache.hold(&name)?;
        let model = Some(held.path().to_string_lossy().into_owned());
        Ok((Self { model, ..self.clone() }, Some(held)))
    }

    /// Returns whether the server finds its model by a path, and not by a name of its own.
    fn takes_a_path(&self) -> bool {
        matches!(self.preset(), Ok(Preset::LlamaServer | Preset::Onnx))
    }
}

/// Why a server cannot be started, found before it is tried.
#[derive(Debug)]
pub(crate) struct Missing {
    /// What is missing.
    pub(crate) what: String,
    /// What to do.
    pub(crate) advice: &'static str,
}

/// Why a server did not answer when it was started first.
#[derive(Debug)]
pub(crate) struct Untried {
    pub(crate) why: String,
    /// The last lines that it printed.
    pub(crate) printed: Vec<String>,
}

/// What is known of a server that the node looks after, now and later.
#[derive(Clone, Debug)]
pub(crate) struct View {
    program: String,
    url: String,
    state: watch::Receiver<State>,
}

impl View {
    /// Returns where it answers.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Says why it does not answer; nothing while it does.
    pub(crate) fn trouble(&self) -> Option<String> {
        let program = &self.program;
        match &*self.state.borrow() {
            State::Ready => None,
            State::Starting => Some(format!("{program} loads its model")),
            State::Waiting { why, .. } => {
                Some(format!("{program} failed and is started again: {why}"))
            }
            State::Stopped => Some(format!("{program} was stopped")),
        }
    }
}

/// A server that the node has started and looks after. Dropping it ends the server by force.
#[derive(Debug)]
pub(crate) struct ModelServer {
    view: View,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
    _model: Option<HeldModel>,
}

impl ModelServer {
    /// Returns what `settings` name that is not there, in the cache neither.
    pub(crate) fn missing(setting: &ServerSetting, cache: &ModelCache) -> Result<(), Missing> {
        let Ok(spec) = setting.spec(1, None) else { return Ok(()) };
        #[cfg(all(unix, feature = "containers"))]
        if setting.image.is_some() && engine().is_none() {
            return Err(Missing {
                what: NO_ENGINE.to_owned(),
                advice: "start its service (`systemctl --user enable --now podman.socket`), or \
                         say where its socket is with DOCKER_HOST=unix:///path",
            });
        }
        if setting.image.is_none() && find_program(&spec.program).is_none() {
            return Err(Missing {
                what: format!("the model server {} is not installed", spec.program),
                advice: "install it, or say where it is with --server-program",
            });
        }
        let model = setting.model.as_deref().unwrap_or_default();
        // What runs in a container cannot fetch one.
        let is_a_path = setting.image.is_some() || setting.takes_a_path();
        let is_there = Path::new(model).exists() || cache.find(model).is_some();
        if is_a_path && !is_there {
            return Err(Missing {
                what: format!("there is no model at {model}, and none of that name was downloaded"),
                advice: "name the file of a model with --server, or one that `iris-node models \
                         list` shows",
            });
        }
        Ok(())
    }

    /// Starts the server that `settings` name, if they do.
    pub(crate) fn start(settings: &Settings) -> Result<Option<Self>, Failure> {
        let Some(setting) = &settings.server else { return Ok(None) };
        let cache = settings.cache();
        Self::missing(setting, &cache)
            .map_err(|Missing { what, advice }| Failure::files(format!("{what}; {advice}")))?;
        let port = setting.port.map_or_else(free_port, Ok).map_err(Failure::files)?;
        let (setting, model) = setting.found(&cache).map_err(Failure::files)?;
        let spec = setting.spec(port, settings.slots).map_err(Failure::settings)?;
        let (program, url) = (setting.name(&spec), spec.url());
        tracing::info!(program, url, "starting the model server");
        let supervisor = Supervisor::new(setting.sandbox(&settings.key_path)?, spec);
        let (state, stop) = (supervisor.state(), CancellationToken::new());
        let task = tokio::spawn(supervisor.run(stop.clone().cancelled_owned()));
        let (view, task) = (View { program, url, state }, AbortOnDropHandle::new(task));
        Ok(Some(Self { view, stop, task, _model: model }))
    }

    /// Returns what is known of it, for those who do not look after it.
    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }

    /// Returns where it answers.
    pub(crate) fn url(&self) -> &str {
        self.view.url()
    }

    /// Returns the name of its program.
    pub(crate) fn program(&self) -> &str {
        &self.view.program
    }

    /// Resolves when the server answers, however often it had to be started for that.
    pub(crate) async fn ready(&mut self) {
        // Its supervisor lives as long as this.
        let _ = self.view.state.wait_for(|state| *state == State::Ready).await;
    }

    /// Resolves when the server answers, or has failed once, with the reason.
    pub(crate) async fn tried(&mut self) -> Result<(), Untried> {
        let known = |state: &State| matches!(state, State::Ready | State::Waiting { .. });
        match self.view.state.wait_for(known).await.as_deref() {
            Ok(State::Waiting { why, printed, .. }) => {
                Err(Untried { why: why.clone(), printed: printed.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Calls `changed` whenever the server has gone or is there again.
    pub(crate) fn watch(&self, changed: impl Fn() + Send + 'static) {
        let mut state = self.view.state.clone();
        tokio::spawn(async move {
            while state.changed().await.is_ok() {
                changed();
            }
        });
    }

    /// Returns what ends the server at once, by force.
    pub(crate) fn killer(&self) -> impl Future<Output = ()> + Send + use<> {
        let task = self.task.abort_handle();
        async move {
            task.abort();
            while !task.is_finished() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Ends the server and waits for that.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // It cannot fail but by a panic, which is told of already.
        let _ = self.task.await;
    }
}

/// Runs servers as processes that end with this one, where the system sees to that.
fn process() -> Process {
    let sandbox = Process::new();
    // By its path the program may be another one by then, or gone.
    #[cfg(target_os = "linux")]
    let sandbox = sandbox.with_launcher(["/proc/self/exe", crate::cli::LAUNCH]);
    sandbox
}

/// Why a container cannot be started where there is neither.
#[cfg(all(unix, feature = "containers"))]
const NO_ENGINE: &str = "neither Docker nor podman has a socket here";

/// Returns the socket of Docker or podman.
#[cfg(all(unix, feature = "containers"))]
fn engine() -> Option<std::path::PathBuf> {
    Container::find_engine(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .filter(|socket| socket.exists())
}

/// Sees that an image is named by its digest.
#[cfg(all(unix, feature = "containers"))]
fn pinned(image: &str) -> Result<(), SettingsError> {
    let parsed = image.parse::<iris_node::sandbox::PinnedImage>();
    parsed.map(drop).map_err(|error| SettingsError::new(format!("server.image: {error}")))
}

/// Returns how a server is called in a container that sees its model.
#[cfg(all(unix, feature = "containers"))]
fn contained(
    preset: Preset,
    model: &str,
    port: u16,
    sizing: Sizing,
) -> Result<ServerSpec, PresetError> {
    preset.contained(&Container::seen(Path::new(model)), port, Container::SOCKET, sizing)
}

/// Prepares to run a server in a container of `image`; `key` is the node's identity.
#[cfg(all(unix, feature = "containers"))]
fn container(
    setting: &ServerSetting,
    image: &str,
    key: &Path,
) -> Result<Arc<dyn Sandbox>, Failure> {
    let image = image.parse().map_err(Failure::settings)?;
    let engine = engine().ok_or_else(|| Failure::files(NO_ENGINE))?;
    let key = std::path::absolute(key).map_err(Failure::files)?;
    let model = Path::new(setting.model.as_deref().unwrap_or_default());
    let owner = key.to_string_lossy().into_owned();
    // It lies beside the key, which no server sees then.
    let folder = key.with_extension("run");
    let container = Container::new(engine, image, owner, folder).with_model(model);
    Ok(Arc::new(match &setting.gpus {
        Some(gpus) => container.with_gpus(gpus),
        None => container,
    }))
}

/// Refuses every image: this program was built without what runs them.
#[cfg(not(all(unix, feature = "containers")))]
fn pinned(image: &str) -> Result<(), SettingsError> {
    Err(SettingsError::new(format!("server.image: {}", without_containers(image))))
}

/// Stands for what no setting that was checked gets to.
#[cfg(not(all(unix, feature = "containers")))]
fn contained(
    preset: Preset,
    model: &str,
    port: u16,
    sizing: Sizing,
) -> Result<ServerSpec, PresetError> {
    preset.server(model, port, sizing)
}

/// The same.
#[cfg(not(all(unix, feature = "containers")))]
fn container(_: &ServerSetting, image: &str, _: &Path) -> Result<Arc<dyn Sandbox>, Failure> {
    Err(Failure::settings(without_containers(image)))
}

#[cfg(not(all(unix, feature = "containers")))]
fn without_containers(image: &str) -> String {
    format!("this program cannot run {image}: it was built without the feature `containers`")
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn setting(text: &str) -> ServerSetting {
        let config = config::Config::builder()
            .add_source(config::File::from_str(text, config::FileFormat::Toml));
        config.build().unwrap().try_deserialize().unwrap()
    }

    #[test]
    fn settings_say_how_a_server_is_called() {
        let text = "model = '/m.gguf'\nprogram = '/opt/llama-server'\narguments = ['-ngl', '99']\n\
                    context = 4096\nmemory_gb = 2\nniceness = 5";
        let spec = setting(text).spec(4000, Some(2)).unwrap();
        assert_eq!(spec.program, "/opt/llama-server");
        assert_eq!(
            spec.arguments.join(" "),
            "--model /m.gguf --host 127.0.0.1 --port 4000 --alias m --parallel 2 --ctx-size 8192 \
             -ngl 99"
        );
        let limits = Limits { memory: Some(2 << 30), niceness: Some(5), cpus: None };
        assert_eq!(spec.limits, limits);
    }

    #[test]
    fn what_no_server_can_be_started_with_is_named() {
        for (text, named) in [
            ("preset = 'llama-server'", "server.model is missing"),
            ("model = '--help'", "begin with -"),
            ("model = 'm'\npreset = 'ollama'", "llama-server, mlx, vllm and onnx"),
            ("model = 'm'\npreset = 'mlx'\ncontext = 7", "no option for the context"),
            ("model = 'm'\nniceness = 20", "server.niceness"),
            ("model = 'm'\narguments = ['--host', '0.0.0.0']", "server.arguments"),
            ("model = 'm'\narguments = ['--port=80']", "server.arguments"),
            ("model = 'm'\narguments = ['--uds=/s']", "server.arguments"),
            ("model = 'm'\ncpus = 2", "server.image"),
            ("model = 'm'\ngpus = 'all'", "server.image"),
            ("model = 'm'\nimage = 'llama.cpp:server'\nniceness = 5", "server.cpus"),
            ("model = 'm'\nimage = 'llama.cpp:server'\ngpus = 'both'", "server.gpus"),
            ("model = 'm'\nimage = 'llama.cpp:server'", "server.image"),
        ] {
            let error = setting(text).check().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        assert!(setting("model = 'm'\narguments = ['-ngl', '99']").check().is_ok());
    }

    #[test]
    fn what_is_not_there_is_found_before_it_is_tried() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(folder.path(), iris_core::memory::ByteSize::gib(1));
        let missing = |setting: &ServerSetting| ModelServer::missing(setting, &cache);
        let nothing = setting("model = '/no/such.gguf'\nprogram = 'no-such-server'");
        let nothing = missing(&nothing).unwrap_err();
        assert!(nothing.what.contains("no-such-server"), "{}", nothing.what);
        let no_model = missing(&setting("model = '/no/such.gguf'\nprogram = 'sh'")).unwrap_err();
        assert!(no_model.what.contains("/no/such.gguf"), "{}", no_model.what);
        assert!(missing(&setting("model = '/tmp'\nprogram = 'sh'")).is_ok());
        // A name is for the server to find.
        let named = setting("preset = 'vllm'\nmodel = 'org/model'\nprogram = 'sh'");
        assert!(missing(&named).is_ok());
        // What was downloaded is meant by its name, and stays while it is.
        let cached = setting("model = 'small'\nprogram = 'sh'");
        assert!(missing(&cached).is_err());
        let file = folder.path().join("small.gguf");
        std::fs::write(&file, "GGUF").unwrap();
        assert!(missing(&cached).is_ok());
        let (found, held) = cached.found(&cache).unwrap();
        assert_eq!(found.model.as_deref().map(Path::new), Some(&*file));
        assert!(held.is_some_and(|_| cache.models().unwrap()[0].in_use));
        assert!(!cache.models().unwrap()[0].in_use);
    }
}
