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
use super::http::Answer;
use super::probe::native;
use super::probe::read;
use super::probe::replies::{LmStudio, OllamaModel, OllamaRunning, Stored};
use super::server::{Server, read_refusal};
use crate::agent::ModelFilter;
use crate::backend::on_demand::{Loadable, Loader};

/// How long a load is waited for. It takes its memory for as long as the server is at it, whether or
/// not somebody waits for it still.
const LOAD_TIME: Duration = Duration::from_hours(1);
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
    own: Arc<Own>,
    /// What Ollama has told of its models, which costs a question each.
    told: Mutex<BTreeMap<String, OllamaModel>>,
}

/// What was loaded here, by the names that are unloaded; without one, what was asked for and may be
/// loaded by now.
type Own = Mutex<BTreeMap<ModelName, Option<String>>>;

impl OpenAiLoader {
    /// Loads those models of a server that `models` allows.
    pub fn new(backend: OpenAiBackend, models: ModelFilter) -> Self {
        let (own, told) = Default::default();
        Self { backend, models, context: 4096, slots: 1, own, told }
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
        let own = locked(&self.own);
        let loadable = |stored: Stored| {
            let own = own.get(&stored.offer.name);
            let is_loaded =
                own.is_some_and(|own| instance(&stored.instances, own.as_deref()).is_some());
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
                if let Some(told) = read(server.post_json("api/show", asked).await?).await? {
                    locked(&self.told).insert(name.clone(), told);
                }
            }
            let told = locked(&self.told);
            let Some(told) = told.get(&name) else { continue };
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
        let (backend, own) = (self.backend.clone(), Arc::clone(&self.own));
        let (model, context) = (model.clone(), self.context);
        Box::pin(async move {
            let load = load(&backend.server, &own, &model, context);
            let loaded = timeout(LOAD_TIME, load).await.unwrap_or(Err(BackendError::Timeout));
            loaded.map_err(|error| backend.server.redacted(error))?;
            Ok(Arc::new(backend) as Arc<dyn Backend>)
        })
    }

    fn unload(&self, model: &ModelName) -> BoxFuture<'static, Result<(), BackendError>> {
        let (backend, own) = (self.backend.clone(), Arc::clone(&self.own));
        let model = model.clone();
        Box::pin(async move {
            let Some(known) = locked(&own).get(&model).cloned() else { return Ok(()) };
            let unload = unload(&backend.server, &model, known.as_deref());
            let unloaded = timeout(LIST_TIME, unload).await.unwrap_or(Err(BackendError::Timeout));
            unloaded.map_err(|error| backend.server.redacted(error))?;
            locked(&own).remove(&model);
            Ok(())
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

/// Returns which of a model's instances was loaded here, if one of them was.
fn instance<'a>(instances: &'a [String], own: Option<&str>) -> Option<&'a String> {
    instances.iter().find(|instance| own.is_none_or(|own| own == **instance))
}

/// Loads a model that is not loaded already, and writes down what it is unloaded by.
async fn load(
    server: &Server,
    own: &Own,
    model: &ModelName,
    context: u32,
) -> Result<(), BackendError> {
    if let Some(list) = native::<LmStudio>(server, LM_STUDIO).await? {
        let stored = list.stored(context).into_iter().find(|stored| stored.offer.name == *model);
        let stored = stored.ok_or(BackendError::ModelNotFound)?;
        if !stored.instances.is_empty() {
            // The owner was quicker.
            locked(own).remove(model);
            return Ok(());
        }
        let context = stored.offer.context_length;
        let body = json!({ "model": model, "context_length": context });
        let answer = post_load(server, own, model, "api/v1/models/load", &body).await?;
        let loaded: Loaded = read(answer).await?.ok_or(BackendError::Malformed)?;
        locked(own).insert(model.clone(), Some(loaded.instance_id));
        return Ok(());
    }
    let running = native::<OllamaRunning>(server, "api/ps").await?;
    let running = running.ok_or(BackendError::Unavailable)?;
    if running.models.iter().any(|running| running.model == model.as_str()) {
        locked(own).remove(model);
        return Ok(());
    }
    let body = json!({ "model": model, "keep_alive": KEPT, "stream": false });
    let answer = post_load(server, own, model, "api/generate", &body).await?;
    read::<serde_json::Value>(answer).await?;
    locked(own).insert(model.clone(), Some(model.to_string()));
    Ok(())
}

/// Asks for a model to be loaded. Without an answer nobody knows whether it is.
async fn post_load(
    server: &Server,
    own: &Own,
    model: &ModelName,
    path: &str,
    body: &serde_json::Value,
) -> Result<Answer, BackendError> {
    locked(own).insert(model.clone(), None);
    let answer = server.post_json(path, body.to_string()).await?;
    if answer.status().as_u16() == 200 {
        return Ok(answer);
    }
    locked(own).remove(model);
    Err(read_refusal(answer).await)
}

/// Unloads what was loaded here, if the server has it.
async fn unload(server: &Server, model: &ModelName, own: Option<&str>) -> Result<(), BackendError> {
    let (path, body) = if let Some(list) = native::<LmStudio>(server, LM_STUDIO).await? {
        let stored = list.stored(u32::MAX).into_iter().find(|stored| stored.offer.name == *model);
        let instances = stored.map(|stored| stored.instances).unwrap_or_default();
        let Some(instance) = instance(&instances, own) else { return Ok(()) };
        ("api/v1/models/unload", json!({ "instance_id": instance }))
    } else {
        let running = native::<OllamaRunning>(server, "api/ps").await?;
        let running = running.ok_or(BackendError::Unavailable)?;
        if !running.models.iter().any(|running| running.model == model.as_str()) {
            return Ok(());
        }
        ("api/generate", json!({ "model": model, "keep_alive": 0, "stream": false }))
    };
    let answer = server.post_json(path, body.to_string()).await?;
    if answer.status().as_u16() == 200 { Ok(()) } else { Err(read_refusal(answer).await) }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
