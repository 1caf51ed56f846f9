//! Loading and unloading models where a server lets that be asked for: LM Studio from 0.4 on, and
//! Ollama.
//!
//! What the owner has loaded by hand is left alone: it is offered by the server's own list, and is
//! never unloaded. A server that unloads a model by itself, such as Ollama some minutes after it was
//! used last, is asked to load it again for whoever asks next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError};
use iris_core::memory::{ByteSize, Load};
use iris_core::residency::Claim;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::OpenAiBackend;
use super::probe::native;
use super::probe::read;
use super::probe::replies::{LmStudio, OllamaModel, OllamaRunning, Stored};
use super::server::{Server, read_refusal};
use crate::agent::ModelFilter;
use crate::backend::on_demand::{Loadable, Loader};

/// How long a model may take to load: a large one comes from a slow disk.
const LOAD_TIME: Duration = Duration::from_mins(10);
/// How long the lists of a server may take, all together.
const LIST_TIME: Duration = Duration::from_secs(10);
/// How long Ollama keeps a model that nobody asks, before it unloads it by itself.
const KEPT: &str = "30m";
/// Models of one server that are looked at.
const MAX_MODELS: usize = 1000;

/// A [`Loader`] for the models on the disk of a model server.
#[derive(Debug)]
pub struct OpenAiLoader {
    backend: OpenAiBackend,
    models: ModelFilter,
    context: u32,
    slots: u32,
    /// What was loaded here, by the names that are unloaded.
    loaded: Arc<Mutex<BTreeMap<ModelName, String>>>,
    /// What Ollama has told of its models, which costs a question each.
    told: Mutex<BTreeMap<String, Option<OllamaModel>>>,
}

impl OpenAiLoader {
    /// Loads those models of a server that `models` allows.
    pub fn new(backend: OpenAiBackend, models: ModelFilter) -> Self {
        let (loaded, told) = (Arc::default(), Mutex::default());
        Self { backend, models, context: 4096, slots: 1, loaded, told }
    }

    /// Sets the context that models are loaded with, in tokens, where the server lets that be chosen
    /// and the model has it. Default: 4096.
    pub const fn with_context(mut self, tokens: u32) -> Self {
        self.context = tokens;
        self
    }

    /// Sets how many requests each model works on at a time. Default: 1.
    pub const fn with_slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    async fn list(&self) -> Result<Vec<Loadable>, BackendError> {
        let server = &self.backend.server;
        let stored = match native::<LmStudio>(server, LM_STUDIO).await? {
            Some(list) => list.stored(self.context),
            None => self.ollama(server).await?,
        };
        let loaded = locked(&self.loaded);
        let loadable = |stored: Stored| {
            let own = loaded.get(&stored.offer.name);
            let is_loaded = own.is_some_and(|own| stored.instances.contains(own));
            // What somebody else has loaded is offered already.
            let is_free = is_loaded || stored.instances.is_empty();
            let claim = Claim {
                memory: memory(Load { slots: self.slots, ..stored.load }),
                slots: self.slots,
            };
            is_free.then_some(Loadable { offer: stored.offer, claim, is_loaded })
        };
        let allowed = stored.into_iter().filter(|stored| self.models.allows(&stored.offer.name));
        Ok(allowed.filter_map(loadable).collect())
    }

    async fn ollama(&self, server: &Server) -> Result<Vec<Stored>, BackendError> {
        let running = native::<OllamaRunning>(server, "api/ps").await?;
        let all = native::<OllamaRunning>(server, "api/tags").await?;
        let (Some(running), Some(all)) = (running, all) else { return Ok(Vec::new()) };
        let running: Vec<_> = running.models.into_iter().map(|model| model.model).collect();
        let mut stored = Vec::new();
        for model in all.models.into_iter().take(MAX_MODELS) {
            let name = model.model.clone();
            if !name.parse().is_ok_and(|name| self.models.allows(&name)) {
                continue;
            }
            let known = locked(&self.told).contains_key(&name);
            if !known {
                let asked = json!({ "model": name }).to_string();
                let told = read(server.post_json("api/show", asked).await?).await?;
                locked(&self.told).insert(name.clone(), told);
            }
            let told = locked(&self.told);
            let Some(Some(told)) = told.get(&name) else { continue };
            let instances = running.iter().filter(|running| **running == name).cloned().collect();
            let found = model.stored(told, self.context);
            stored.extend(found.map(|stored| Stored { instances, ..stored }));
        }
        Ok(stored)
    }
}

const LM_STUDIO: &str = "api/v1/models";

impl Loader for OpenAiLoader {
    fn models(&self) -> BoxFuture<'_, Result<Vec<Loadable>, BackendError>> {
        Box::pin(async {
            let list = timeout(LIST_TIME, self.list()).await.unwrap_or(Err(BackendError::Timeout));
            list.map_err(|error| self.backend.server.redacted(error))
        })
    }

    fn load(
        &self,
        model: &ModelName,
    ) -> BoxFuture<'static, Result<Arc<dyn Backend>, BackendError>> {
        let (backend, loaded) = (self.backend.clone(), Arc::clone(&self.loaded));
        let (model, context) = (model.clone(), self.context);
        Box::pin(async move {
            let load = load(&backend.server, &model, context);
            let instance = timeout(LOAD_TIME, load).await.unwrap_or(Err(BackendError::Timeout));
            let instance = instance.map_err(|error| backend.server.redacted(error))?;
            match instance {
                Some(instance) => locked(&loaded).insert(model, instance),
                // The owner was quicker.
                None => locked(&loaded).remove(&model),
            };
            Ok(Arc::new(backend) as Arc<dyn Backend>)
        })
    }

    fn unload(&self, model: &ModelName) -> BoxFuture<'static, Result<(), BackendError>> {
        let backend = self.backend.clone();
        let own = locked(&self.loaded).remove(model);
        Box::pin(async move {
            let Some(own) = own else { return Ok(()) };
            let unload = unload(&backend.server, &own);
            let unloaded = timeout(LIST_TIME, unload).await.unwrap_or(Err(BackendError::Timeout));
            unloaded.map_err(|error| backend.server.redacted(error))
        })
    }
}

/// Returns the most that a model may take. Where what it keeps of each token is not told, that counts
/// as a quarter of its weights, which is what short contexts of most models come to.
fn memory(load: Load) -> ByteSize {
    let estimate = load.estimate();
    let weights = estimate.weights.map_or(ByteSize::ZERO, |weights| weights.most);
    let guess = || weights.plus(weights.part(1, 4)).plus(estimate.overhead.most);
    estimate.most().unwrap_or_else(guess)
}

#[derive(Deserialize)]
struct Loaded {
    instance_id: String,
}

/// Loads a model; returns by what name it is unloaded, or `None` of one that was loaded already.
async fn load(
    server: &Server,
    model: &ModelName,
    context: u32,
) -> Result<Option<String>, BackendError> {
    if let Some(list) = native::<LmStudio>(server, LM_STUDIO).await? {
        let stored = list.stored(context).into_iter().find(|stored| stored.offer.name == *model);
        let stored = stored.ok_or(BackendError::ModelNotFound)?;
        if !stored.instances.is_empty() {
            return Ok(None);
        }
        let context = stored.offer.context_length;
        let body = json!({ "model": model, "context_length": context });
        let answer = post(server, "api/v1/models/load", &body).await?;
        let loaded: Loaded = answer.ok_or(BackendError::Malformed)?;
        return Ok(Some(loaded.instance_id));
    }
    let running = native::<OllamaRunning>(server, "api/ps").await?;
    let running = running.ok_or(BackendError::Unavailable)?;
    if running.models.iter().any(|running| running.model == model.as_str()) {
        return Ok(None);
    }
    let body = json!({ "model": model, "keep_alive": KEPT, "stream": false });
    post::<serde_json::Value>(server, "api/generate", &body).await?;
    Ok(Some(model.to_string()))
}

async fn unload(server: &Server, own: &str) -> Result<(), BackendError> {
    if native::<LmStudio>(server, LM_STUDIO).await?.is_some() {
        let body = json!({ "instance_id": own });
        post::<serde_json::Value>(server, "api/v1/models/unload", &body).await?;
    } else {
        let body = json!({ "model": own, "keep_alive": 0, "stream": false });
        post::<serde_json::Value>(server, "api/generate", &body).await?;
    }
    Ok(())
}

async fn post<T: serde::de::DeserializeOwned>(
    server: &Server,
    path: &str,
    body: &serde_json::Value,
) -> Result<Option<T>, BackendError> {
    let answer = server.post_json(path, body.to_string()).await?;
    if answer.status().as_u16() != 200 {
        return Err(read_refusal(answer).await);
    }
    read(answer).await
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
