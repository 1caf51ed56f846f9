//! The models that the command offers: model servers', the engine's, or both.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use iris_core::backend::{Backend, BackendError};
use iris_core::memory::{ByteSize, Fit, Load, Weights};
use iris_core::residency::{Capacity, Refusal};
use iris_node::agent::ModelFilter;
use iris_node::backend::engine::{Engine, EngineLoader, EngineSettings, Runner};
use iris_node::backend::on_demand::{Loader, OnDemand};
use iris_node::backend::openai::{OpenAiBackend, OpenAiLoader, OpenAiSetupError};
use iris_node::backend::together::Together;
use iris_node::cache::HeldModel;
use iris_node::probe::{Machine, Probe};

use crate::cached::{self, Named};
use crate::failure::{Exit, Failure};
use crate::http::Http;
use crate::servers;
use crate::settings::Settings;

/// What `--engine` is called with for the model inside the program.
pub(crate) const BUNDLED: &str = "bundled";
/// What it is called with for all models that were downloaded.
pub(crate) const CACHED: &str = "cached";

/// How long it may take to see whether others reach the model server.
const LOOK: Duration = Duration::from_secs(2);

/// Requests that wait for a model to be loaded.
const WAITING: usize = 16;
/// How long a model stays that was loaded on demand, while another one is wanted in its place.
const STAY: Duration = Duration::from_secs(30);
/// What a machine keeps for itself where its owner has not said how much.
const KEPT: ByteSize = ByteSize::gib(2);

/// The backends, at least one.
#[derive(Debug)]
pub(crate) struct Models {
    servers: Vec<(String, OpenAiBackend)>,
    engine: Option<(Engine, u32)>,
    /// What the engine runs when somebody asks for it.
    files: Option<Arc<EngineLoader>>,
    /// The engine's model, if it is the cache's: to be kept for as long as the engine runs.
    pub(crate) held: Option<HeldModel>,
}

impl Models {
    /// Loads the engine's model and prepares to ask the model server, which need not run yet.
    pub(crate) fn set_up(settings: &Settings) -> Result<Self, Failure> {
        let files = files(settings)?.map(Arc::new);
        let engine = settings.engine.as_deref().filter(|_| files.is_none());
        let engine = engine.map(|model| load(settings, model)).transpose()?;
        let (engine, held) = engine.map_or((None, None), |(engine, held)| (Some(engine), held));
        let servers = settings.model_servers().map(|url| server(settings, url));
        Ok(Self { servers: servers.collect::<Result<_, _>>()?, engine, files, held })
    }

    /// Does the same beside everything else, since loading may take minutes.
    pub(crate) async fn load(settings: &Settings) -> Result<Self, Failure> {
        let settings = settings.clone();
        let loading = tokio::task::spawn_blocking(move || Self::set_up(&settings)).await;
        loading.unwrap_or_else(|panic| Err(Failure::files(panic)))
    }

    /// Returns how many answers to work on at a time, having looked whether the model server is
    /// there.
    pub(crate) async fn slots(&self, settings: &Settings) -> u32 {
        let of_files = |files: &Arc<EngineLoader>| count(files.slots());
        let found = self.engine.as_ref().map(|(_, slots)| *slots);
        let mut found = found.or(self.files.as_ref().map(of_files)).unwrap_or(0);
        for (url, server) in &self.servers {
            report(url, &server.models().await);
            warn_if_open(settings, url).await;
            found += server.slots().unwrap_or(1);
        }
        settings.slots.unwrap_or(found)
    }

    /// Returns what runs files that are loaded when somebody asks for them, if the engine is to.
    pub(crate) fn files(&self) -> Option<&Arc<EngineLoader>> {
        self.files.as_ref()
    }

    /// Prepares to load models when somebody asks for them: those of the owner's server that the
    /// settings name, and the engine's files. `None` where there are neither.
    pub(crate) fn on_demand(&self, settings: &Settings) -> Result<Option<OnDemand>, Failure> {
        let mut loaders: Vec<Arc<dyn Loader>> = Vec::new();
        if !settings.load.is_empty() {
            loaders.push(Arc::new(self.server_loader(settings)?));
            tracing::info!(models = %settings.load.join(", "), "loading models on demand");
        }
        if let Some(files) = &self.files {
            tracing::info!(folder = %files.path().display(), "running model files on demand");
            loaders.push(files.clone());
        }
        let loader = match loaders.len() {
            0 => return Ok(None),
            1 => loaders.remove(0),
            _ => Arc::new(Together::new(loaders)),
        };
        let capacity = capacity(settings)?;
        tracing::info!(memory = %capacity.memory, "models that are loaded on demand may take that");
        Ok(Some(OnDemand::new(loader, capacity)))
    }

    fn server_loader(&self, settings: &Settings) -> Result<OpenAiLoader, Failure> {
        let named = settings.model_server();
        let server = self.servers.iter().find(|(url, _)| Some(&**url) == named);
        let (_, server) = server.ok_or_else(|| {
            Failure::settings("load (IRIS_LOAD) is for the models of a model server: name it, too")
        })?;
        let loader = OpenAiLoader::new(server.clone(), ModelFilter::new(&settings.load));
        Ok(loader.with_slots(settings.slots.unwrap_or(1)))
    }

    /// Returns the backends; the last one comes first where two have the same model.
    pub(crate) fn into_backends(self) -> Vec<Arc<dyn Backend>> {
        let engine = self.engine.map(|(engine, _)| Arc::new(engine) as Arc<dyn Backend>);
        let servers =
            self.servers.into_iter().map(|(_, server)| Arc::new(server) as Arc<dyn Backend>);
        engine.into_iter().chain(servers).collect()
    }
}

/// Returns what offers the files of a folder, or of the cache, if that is what the engine is to run.
/// None of them is loaded.
fn files(settings: &Settings) -> Result<Option<EngineLoader>, Failure> {
    let loader = match settings.engine.as_deref() {
        Some(CACHED) => EngineLoader::cache(settings.cache()),
        Some(folder) if is_folder(folder) => EngineLoader::folder(folder),
        _ => return Ok(None),
    };
    if settings.engine_runner().map_err(Failure::settings)? == Runner::LlamaCpp {
        return Err(Failure::settings(
            "engine_runner (IRIS_ENGINE_RUNNER) llama-cpp is for one model: name its file with \
             --engine, or leave the runner out",
        ));
    }
    let loader = loader.with_device(settings.engine_device().map_err(Failure::settings)?);
    Ok(Some(slots(settings).into_iter().fold(loader, EngineLoader::with_slots)))
}

/// Returns whether `--engine` names a folder.
fn is_folder(name: &str) -> bool {
    name != BUNDLED && Path::new(name).is_dir()
}

fn slots(settings: &Settings) -> Option<NonZeroUsize> {
    settings.slots.and_then(|slots| NonZeroUsize::new(slots as usize))
}

fn count(slots: NonZeroUsize) -> u32 {
    u32::try_from(slots.get()).unwrap_or(u32::MAX)
}

fn load(settings: &Settings, model: &str) -> Result<((Engine, u32), Option<HeldModel>), Failure> {
    let (mut engine, held) = if model == BUNDLED {
        (EngineSettings::bundled(), None)
    } else {
        let Named { path, held } = cached::find(settings, model)?;
        let size = path.metadata().map_or(0, |file| file.len());
        let memory = Probe::new().machine().memory;
        admit(size, memory.map(ByteSize::new))
            .map_err(|refusal| Failure::files(format!("{model} is not loaded: {refusal}")))?;
        (EngineSettings::file(path), held)
    };
    engine = engine.with_device(settings.engine_device().map_err(Failure::settings)?);
    engine = engine.with_runner(settings.engine_runner().map_err(Failure::settings)?);
    engine = slots(settings).into_iter().fold(engine, EngineSettings::with_slots);
    let slots = count(engine.slots());
    let engine = Engine::load(engine)
        .map_err(|error| Failure::files(format!("the model {model} cannot be run: {error}")))?;
    Ok(((engine, slots), held))
}

/// Refuses a model for which there would not be enough memory if nothing else ran.
fn admit(size: u64, memory: Option<ByteSize>) -> Result<(), Refusal> {
    let (estimate, may) = (Load::new(Weights::Files(ByteSize::new(size))).estimate(), memory);
    let Some(may) = may.filter(|may| estimate.fits(*may) == Fit::No) else { return Ok(()) };
    let takes = estimate.least();
    let missing = takes.minus(may).unwrap_or(ByteSize::ZERO);
    Err(Refusal::TooLarge { takes, may, missing })
}

/// Returns what there is for models that are loaded on demand.
pub(crate) fn capacity(settings: &Settings) -> Result<Capacity, Failure> {
    let memory = room(settings, || memories(&Probe::new().machine())).ok_or_else(|| {
        Failure::settings("say with --load-gb how much memory models may take that are loaded")
    })?;
    Ok(Capacity { memory, waiting: WAITING, stay: STAY })
}

/// Returns what models may take together that are loaded on demand; `None` where that is not known.
///
/// What the settings say; else the memory of the largest graphics card for what is loaded there, and
/// the machine's, without what it keeps free, for the engine's files on the processor; the smaller one
/// where there is both.
fn room(settings: &Settings, machine: impl FnOnce() -> Memories) -> Option<ByteSize> {
    let said = |gigabytes: Option<u32>| {
        gigabytes.filter(|count| *count > 0).map(|count| ByteSize::gib(count.into()))
    };
    if let Some(said) = said(settings.load_gb) {
        return Some(said);
    }
    let of_server = !settings.load.is_empty();
    // Nothing is known of another machine.
    if of_server && settings.allow_remote_backend {
        return None;
    }
    let Memories { card, own } = machine();
    let keeps = settings.limits().ok()?.borders.memory_free.map_or(KEPT, ByteSize::new);
    let spare = own.map(|own| own.minus(keeps).unwrap_or(ByteSize::ZERO));
    let card = said(settings.vram_gb).or(card);
    let on_card = settings.engine_device().ok()?.is_card();
    let of_files = settings.engine.as_deref().is_some_and(|name| name == CACHED || is_folder(name));
    match (of_server, of_files) {
        // One limit for two memories: what fits into either.
        (true, true) if !on_card => card.into_iter().chain(spare).min(),
        (true, _) => card.or(spare),
        (false, _) => card.filter(|_| on_card).or(spare),
    }
}

/// The memories that models run in.
#[derive(Clone, Copy, Debug, Default)]
struct Memories {
    /// The largest graphics card's.
    card: Option<ByteSize>,
    /// The machine's.
    own: Option<ByteSize>,
}

fn memories(machine: &Machine) -> Memories {
    let card = machine.cards.iter().filter_map(|card| card.memory).max();
    Memories { card: card.map(ByteSize::new), own: machine.memory.map(ByteSize::new) }
}

/// Prepares to ask the model server at `url`, if the settings allow that.
pub(crate) fn server(settings: &Settings, url: &str) -> Result<(String, OpenAiBackend), Failure> {
    let mut server = OpenAiBackend::builder(url).with_remote_allowed(settings.allow_remote_backend);
    if let Some(key) = &settings.model_server_key {
        server = server.with_api_key(key.expose());
    }
    let server = server.build().map_err(|error| {
        let advice = match error {
            OpenAiSetupError::RemoteServer => {
                "; with --allow-remote-backend it may be, and then reads every prompt"
            }
            _ => "",
        };
        // The URL may hold a password.
        Failure::new(Exit::Settings, format!("the model server: {error}{advice}"))
    })?;
    Ok((url.to_owned(), server))
}

/// Warns of a model server that others can use past this node.
async fn warn_if_open(settings: &Settings, url: &str) {
    let Ok(http) = Http::new(settings, LOOK) else { return };
    if let Some(address) = servers::open_to_others(&http, url).await {
        tracing::warn!(
            url,
            %address,
            "the model server listens there, too, and wants no key: whoever reaches this machine \
             can use it; `iris-node doctor` says how to change that"
        );
    }
}

/// Tells somebody who may never have run a model server what was found.
fn report(url: &str, models: &Result<Vec<iris_core::model::ModelOffer>, BackendError>) {
    const START: &str = "start one (LM Studio: `lms server start`; Ollama: `ollama serve`, and \
                         --model-server http://localhost:11434), or stop this and use --engine \
                         bundled";
    match models {
        Ok(models) if models.is_empty() => {
            tracing::warn!(url, "the model server has no model loaded; load one there");
        }
        Ok(models) => {
            for model in models {
                tracing::info!(url, model = %model.name, "offering");
            }
        }
        Err(error) => {
            tracing::warn!(url, %error, "no model server answers; {START}. Trying again meanwhile");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_no_memory_is_enough_for_is_not_loaded() {
        assert_eq!(admit(4 << 30, Some(ByteSize::gib(8))), Ok(()));
        assert_eq!(admit(4 << 30, None), Ok(()));
        let refusal = admit(9 << 30, Some(ByteSize::gib(8))).unwrap_err().to_string();
        assert!(
            refusal.contains("9.06 GiB") && refusal.contains("1.06 GiB too little"),
            "{refusal}"
        );
    }

    #[test]
    fn models_take_what_the_owner_says_or_the_card_has_or_the_machine_can_spare() {
        let bare = Memories { card: None, own: Some(ByteSize::gib(16)) };
        let strong = Memories { card: Some(ByteSize::gib(24)), ..bare };
        let with_load = |load: &str, flags: &[(&'static str, &str)], machine: Memories| {
            let flags = flags.iter().map(|(name, value)| (*name, Some((*value).into())));
            let environment = |name: &str| (name == "IRIS_LOAD").then(|| load.to_owned());
            let settings = Settings::load(flags.collect(), environment, None).unwrap();
            super::room(&settings, || machine).map(|room| room.get() >> 30)
        };
        let of_server = |flags: &[_], machine| with_load("*", flags, machine);
        let room = |flags: &[_], machine| with_load("", flags, machine);
        assert_eq!(of_server(&[], bare), Some(14));
        assert_eq!(of_server(&[("free_memory_gb", "6")], bare), Some(10));
        assert_eq!(of_server(&[], strong), Some(24));
        assert_eq!(of_server(&[("vram_gb", "12")], strong), Some(12));
        assert_eq!(of_server(&[("load_gb", "5"), ("vram_gb", "12")], strong), Some(5));
        assert_eq!(of_server(&[("allow_remote_backend", "true")], strong), None);
        assert_eq!(of_server(&[], Memories::default()), None);
        let engine = ("engine_device", "cpu");
        assert_eq!(room(&[engine, ("vram_gb", "12")], strong), Some(14));
        assert_eq!(room(&[engine, ("allow_remote_backend", "true")], strong), Some(14));
        assert_eq!(room(&[("engine_device", "cuda:0")], strong), Some(24));
        let cached = ("engine", "cached");
        assert_eq!(of_server(&[cached, engine], strong), Some(14), "what fits into either");
        assert_eq!(of_server(&[cached, ("engine_device", "cuda:0")], strong), Some(24));
    }
}
