//! The models that the command offers: model servers', the engine's, or both.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use iris_core::backend::{Backend, BackendError};
use iris_node::backend::engine::{Engine, EngineSettings};
use iris_node::backend::openai::{OpenAiBackend, OpenAiSetupError};

use crate::failure::{Exit, Failure};
use crate::http::Http;
use crate::servers;
use crate::settings::Settings;

/// What `--engine` is called with for the model inside the program.
pub(crate) const BUNDLED: &str = "bundled";

/// How long it may take to see whether others reach the model server.
const LOOK: Duration = Duration::from_secs(2);

/// The backends, at least one.
#[derive(Debug)]
pub(crate) struct Models {
    servers: Vec<(String, OpenAiBackend)>,
    engine: Option<(Engine, u32)>,
}

impl Models {
    /// Loads the engine's model and prepares to ask the model server, which need not run yet.
    pub(crate) fn set_up(settings: &Settings) -> Result<Self, Failure> {
        let engine = settings.engine.as_deref().map(|model| load(settings, model)).transpose()?;
        let servers = settings.model_servers().map(|url| server(settings, url));
        Ok(Self { servers: servers.collect::<Result<_, _>>()?, engine })
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
        let mut found = self.engine.as_ref().map_or(0, |(_, slots)| *slots);
        for (url, server) in &self.servers {
            report(url, &server.models().await);
            warn_if_open(settings, url).await;
            found += server.slots().unwrap_or(1);
        }
        settings.slots.unwrap_or(found)
    }

    /// Returns the backends; the last one comes first where two have the same model.
    pub(crate) fn into_backends(self) -> Vec<Arc<dyn Backend>> {
        let engine = self.engine.map(|(engine, _)| Arc::new(engine) as Arc<dyn Backend>);
        let servers =
            self.servers.into_iter().map(|(_, server)| Arc::new(server) as Arc<dyn Backend>);
        engine.into_iter().chain(servers).collect()
    }
}

fn load(settings: &Settings, model: &str) -> Result<(Engine, u32), Failure> {
    let mut engine = match model {
        BUNDLED => EngineSettings::bundled(),
        path => EngineSettings::file(path),
    };
    engine = engine.with_device(settings.engine_device().map_err(Failure::settings)?);
    if let Some(slots) = settings.slots.and_then(|slots| NonZeroUsize::new(slots as usize)) {
        engine = engine.with_slots(slots);
    }
    let slots = u32::try_from(engine.slots().get()).unwrap_or(u32::MAX);
    let engine = Engine::load(engine)
        .map_err(|error| Failure::files(format!("the model {model} cannot be run: {error}")))?;
    Ok((engine, slots))
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
